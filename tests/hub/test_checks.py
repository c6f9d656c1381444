"""What must not be published is refused, with the reason, before anything of it is loaded."""

import json
import os
import pickle
import re
import shutil
import zipfile
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from spectralgpt_hf import SpectralGPTConfig, SpectralGPTForImageClassification, SpectralGPTForPreTraining
from spectralgpt_hf.conversion import convert_checkpoint
from spectralgpt_hf.hub.cards import FOLDER
from spectralgpt_hf.hub.checks import check_checkpoint
from tests.conversion.originals import TOY, TOY_HEADS
from tests.hub.test_publish import quick  # noqa: F401


BIAS, POSITIONS = "spectralgpt.layernorm.bias", "spectralgpt.embeddings.position_embeddings.spatial_position_embeddings"


@pytest.fixture(scope="module")
def sound(tmp_path_factory):
    return convert_checkpoint(TOY, tmp_path_factory.mktemp("checks") / "sound", **TOY_HEADS)


@pytest.fixture
def folder(sound, tmp_path):
    return Path(shutil.copytree(sound, tmp_path / "checkpoint"))


def refusal(folder: Path, kind: type[Exception] = ValueError) -> str:
    with pytest.raises(kind) as raised:
        check_checkpoint(folder)
    return str(raised.value)


def edit(file: Path, **entries: object) -> None:
    file.write_text(json.dumps(json.loads(file.read_text()) | entries))


def rewrite(folder: Path, **tensors: torch.Tensor | None) -> None:
    """Replace tensors of the weights; None removes one."""
    weights = load_file(folder / "model.safetensors") | {name.replace("__", "."): t for name, t in tensors.items()}
    kept = {name: tensor for name, tensor in weights.items() if tensor is not None}
    save_file(kept, folder / "model.safetensors", metadata={"format": "pt"})


class Bomb:
    def __reduce__(self):
        return (Path.touch, (Path("exploded"),))


@pytest.mark.parametrize(
    "name", ["pytorch_model.bin", "optimizer.pt", "notes.md", "picture.png", "a/b/model.safetensors"]
)
def test_pickles_are_refused_under_any_name_and_never_run(folder, name, monkeypatch):
    monkeypatch.chdir(folder.parent)
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    (folder / name).write_bytes(pickle.dumps(Bomb()))
    assert name in refusal(folder)
    torch.save({"bomb": Bomb()}, folder / name)
    assert f"{name}: may be a pickle" in refusal(folder)
    assert not Path("exploded").exists()


def test_a_zip_is_refused(folder):
    with zipfile.ZipFile(folder / "model.safetensors", "w") as archive:
        archive.writestr("data.pkl", b"")
    assert "model.safetensors: may be a pickle" in refusal(folder)


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("notes.md", "token: hf_" + "a" * 34, "Hugging Face token: hf_aaaaa..."),
        ("config.json", '{"key": "AKIA' + "A" * 16 + '"}', "an AWS key"),
        ("metrics.json", '{"url": "https://me:secret@example.com/x"}', "a password in a URL"),
        ("notes.md", "-----BEGIN OPENSSH PRIVATE KEY-----", "a private key"),
        ("CITATION.cff", "api_key: 'abcdefgh12345'", "a password"),
        ("notes.md", "trained on /home/me/scenes", "a path of a machine: /home/me/scenes"),
        ("metrics.json", '{"output": "C:\\\\Users\\\\me\\\\runs"}', "a path of a machine: C:"),
        ("notes.md", "see file:///srv/data", "a path of a machine: file:///srv/data"),
        ("metrics.json", "{", "expected JSON"),
        ("metrics.json", '{"loss": NaN}', "NaN is not a JSON number"),
        ("config.json", '{"layer_norm_eps": Infinity}', "Infinity is not a JSON number"),
        ("weights.onnx", "x", "not a file of a checkpoint"),
        ("processor_config.json", "{}", "not a file of a checkpoint"),
        ("tokenizer_config.json", '{"auto_map": {"AutoTokenizer": "evil/repo--code.T"}}', "not a file of a checkpoint"),
        ("sub/config.json", '{"auto_map": {"AutoModel": "evil/repo--code.M"}}', "not a file of a checkpoint"),
        ("sub/README.md", "text", "not a file of a checkpoint"),
        ("picture.png", "x", "expected a picture"),
        ("stac_item.json", '{"type": "Point"}', "expected a STAC item"),
        (".eval_results/eurosat.yaml", "a: [", "expected YAML"),
        (".eval_results/eurosat.yaml", "a: 1", "expected a list of results"),
        (
            "requirements.txt",
            "transformers>=5.18,<6\nevil\n--extra-index-url https://example.com",
            "differs from the file of this",
        ),
        ("handler.py", "x = 1", "differs from the file of this"),
        (".env", "x", "not a file of a checkpoint"),
        ("a b.md", "x", "not a file of a checkpoint"),
        ("malicious.py", "x = 1", "not a file of a checkpoint"),
        ("modeling_spectralgpt.py", "x = 1", "differs from the file of this"),
    ],
)
def test_files_that_give_something_away_or_do_not_belong_are_refused(folder, name, content, reason):
    (folder / name).parent.mkdir(exist_ok=True)
    (folder / name).write_text(content)
    assert f"{name}: " in refusal(folder)
    assert reason in refusal(folder)


def test_a_file_that_is_not_regular_is_refused_and_not_opened(folder):
    os.mkfifo(folder / "notes.md")  # reading it would wait for ever
    assert "notes.md: is not a regular file" in refusal(folder)


def test_every_kind_of_file_in_the_table_is_accepted(folder, quick):  # noqa: F811
    (folder / ".eval_results").mkdir()
    contents = {
        ".eval_results/eurosat.yaml": "- dataset: {id: org/eurosat, task_id: default}\n  value: 0.9\n",
        "stac_item.json": '{"type": "Feature", "stac_version": "1.1.0"}',
        "metrics.json": "{}",
        "spectralgpt-hf.json": '{"files": {}}',
        "NOTICE": "Notice.",
        "notes.md": "Notes.",
    }
    for name, content in contents.items():
        (folder / name).write_text(content)
    Image.new("RGB", (8, 8)).save(folder / "predictions.png")
    check_checkpoint(folder)


def test_the_token_of_the_publisher_is_refused_whatever_it_looks_like(folder, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "unusual-token-1")
    (folder / "notes.md").write_text("log in with unusual-token-1")
    assert "your own Hugging Face token" in refusal(folder)


def test_links_are_refused(folder):
    (folder / "LICENSE").symlink_to(folder.parent)
    assert "LICENSE: is a link" in refusal(folder)


@pytest.mark.parametrize("name", ["README.md", "config.json", "preprocessor_config.json", "bands.py"])
def test_an_incomplete_folder_is_refused(folder, name):
    (folder / name).unlink()
    assert f"{name} not found" in refusal(folder, FileNotFoundError)


@pytest.mark.parametrize(
    ("file", "entries", "reason"),
    [
        ("config.json", {"extra": 1}, "unknown entries extra"),
        (
            "config.json",
            {"auto_map": {"AutoModel": "evil/repo--modeling.Model"}},
            "`auto_map` must point to the code in this folder",
        ),
        ("config.json", {"custom_pipelines": {}}, "`custom_pipelines` must point to the code in this folder"),
        ("config.json", {"architectures": ["Other"]}, "`architectures` must be one of"),
        ("config.json", {"model_type": "bert"}, "`model_type` must be 'spectralgpt', found 'bert'"),
        ("config.json", {"layer_norm_eps": 1e300}, "`layer_norm_eps` must be above 0 and at most 1"),
        ("config.json", {"num_hidden_layers": 10**7}, "`num_hidden_layers` must be at most 512"),
        ("config.json", {"hidden_size": "wide"}, "config.json: "),
        ("config.json", {"hidden_size": 49}, "multiple of `num_attention_heads`"),
        ("preprocessor_config.json", {"extra": 1}, "Unknown argument extra"),
        ("preprocessor_config.json", {"auto_map": {}}, "preprocessor_config.json: `auto_map`"),
        ("preprocessor_config.json", {"bands": ["B12", "B11", "B9"]}, "`bands` is"),
    ],
)
def test_settings_that_are_unknown_impossible_or_contradictory_are_refused(folder, file, entries, reason):
    edit(folder / file, **entries)
    assert reason in refusal(folder)


def test_settings_that_are_no_object_are_refused(folder):
    (folder / "config.json").write_text("[]")
    assert "expected a JSON object" in refusal(folder)


@pytest.mark.parametrize(
    ("tensors", "reason"),
    [
        ({BIAS: None}, f"{BIAS}: missing, expected (48,)"),
        ({BIAS: torch.ones(3)}, f"{BIAS}: expected shape (48,), found (3,)"),
        ({BIAS: torch.full((48,), torch.nan)}, "NaN"),
        ({BIAS: torch.ones(48, dtype=torch.int64)}, "finite floats, found torch.int64"),
        ({POSITIONS: None, "pos_embed": torch.ones(1, 64, 48)}, "pos_embed: unexpected"),
        ({BIAS: None, "spectralgpt.norm.bias": torch.ones(48)}, "spectralgpt.norm.bias: unexpected"),
    ],
)
def test_weights_that_are_not_those_of_the_architecture_are_refused(folder, tensors, reason):
    rewrite(folder, **tensors)
    assert reason in refusal(folder)


def test_truncated_weights_are_refused(folder):
    content = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(content[: len(content) // 2])
    assert "model.safetensors: expected safetensors" in refusal(folder)


@pytest.mark.parametrize("shard", ["../model.safetensors", "/model.safetensors", "a\\model.safetensors", 3])
def test_an_index_that_leads_out_of_the_folder_is_refused(folder, shard):
    shutil.copy(folder / "model.safetensors", folder.parent)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {BIAS: shard}}))
    assert "expected a `weight_map` from tensors to files in this folder" in refusal(folder)


def test_shards_must_be_those_of_the_index(folder):
    shutil.copy(folder / "model.safetensors", folder / "model-00001-of-00002.safetensors")
    assert "weights: expected model.safetensors, found" in refusal(folder)
    (folder / "model.safetensors").unlink()
    index = {"weight_map": {BIAS: "model-00001-of-00002.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    assert "names other files for the tensors" in refusal(folder)


def test_weights_that_no_training_has_changed_are_refused(folder):
    config = SpectralGPTConfig.from_pretrained(folder)
    SpectralGPTForPreTraining(config).save_pretrained(folder)
    assert "`spectralgpt` was never trained" in refusal(folder)
    assert "`decoder` was never trained" in refusal(folder)


def test_an_untrained_head_on_a_trained_encoder_is_refused(folder):
    model = SpectralGPTForImageClassification.from_pretrained(folder)
    model.save_pretrained(folder)
    message = refusal(folder)
    assert "`classifier` was never trained" in message
    assert "`spectralgpt`" not in message


def test_the_card_of_an_architecture_without_weights_is_refused(folder):
    shutil.copy(FOLDER / "spectralgpt-large.md", folder / "README.md")
    assert "architecture-only" in refusal(folder)


def test_the_message_names_every_problem(folder):
    (folder / "model.pkl").write_bytes(b"")
    (folder / "notes.md").write_text("/home/me/x")
    assert re.search(r"model\.pkl.*\n.*notes\.md", refusal(folder))
