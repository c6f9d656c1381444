import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner

from spectralgpt_cli import app
from spectralgpt_hf import (
    SpectralGPTConfig,
    SpectralGPTForImageClassification,
    SpectralGPTForPreTraining,
    SpectralGPTImageProcessor,
    SpectralGPTModel,
)
from spectralgpt_hf.conversion import convert, convert_checkpoint, restore_checkpoint, verify_conversion
from spectralgpt_hf.conversion.architecture import infer_architecture
from spectralgpt_hf.conversion.original_checkpoint import OriginalCheckpoint, digest, read_original
from spectralgpt_hf.conversion.state_dict import to_original
from tests import parity
from tests.conversion.originals import TOY, TOY_HEADS, narrow_tensors, save, several_gpus, toy_tensors
from tests.forked import run_forked


TEN_BANDS_AND_TWO_MEANS = ["B2", "B3", "B4", "B5", "B6", "B7", "B8", "B8A", "B11", "B12", "mean", "mean"]
TWELVE_BANDS = ["B1", "B2", "B3", "B4", "B5", "B6", "B7", "B8", "B8A", "B9", "B11", "B12"]


@pytest.fixture(scope="module")
def toy(tmp_path_factory) -> Path:
    return convert_checkpoint(TOY, tmp_path_factory.mktemp("converted") / "toy", **TOY_HEADS)


# The network


def test_a_converted_checkpoint_gives_the_outputs_of_the_released_implementation(toy):
    model = SpectralGPTForPreTraining.from_pretrained(toy).eval()
    expected = parity.expected("toy_pretrain")

    with torch.no_grad():
        output = model(parity.random_input(100, 2, 12, 32, 32), noise=parity.random_input(101, 2, 64))

    assert parity.relative_error(output.loss, expected["loss"].squeeze()) < 1e-4
    assert parity.relative_error(output.logits, expected["pred"]) < 1e-4


@pytest.mark.parametrize("task", ["segmentation", "change_detection"])
def test_a_converted_dense_network_computes_the_originals_mathematics(task, tmp_path):
    tensors = narrow_tensors(task)
    content = {"model": tensors} if task == "segmentation" else several_gpus(tensors)
    source = save(tmp_path / f"{task}.pth", content)

    folder = convert_checkpoint(source, tmp_path / "out", num_attention_heads=4)

    name = "SpectralGPTForSemanticSegmentation" if task == "segmentation" else "SpectralGPTForChangeDetection"
    assert json.loads((folder / "config.json").read_text())["architectures"] == [name]
    assert verify_conversion(source, folder) < 1e-5


def test_verification_notices_a_wrong_tensor(toy, tmp_path):
    model = SpectralGPTForPreTraining.from_pretrained(toy)
    layer = model.spectralgpt.layers[1].attention
    layer.q_proj.weight, layer.v_proj.weight = layer.v_proj.weight, layer.q_proj.weight
    model.save_pretrained(tmp_path)
    assert verify_conversion(TOY, toy) < 1e-5
    assert verify_conversion(TOY, tmp_path) > 1e-4


def paper_shapes(preset: str) -> dict[str, list[int]]:
    """Return the tensors of an original 96 px checkpoint: those of Base, widened and deepened."""
    sizes = SpectralGPTConfig.from_preset(preset)
    widths = {768: sizes.hidden_size, 3072: sizes.intermediate_size}
    shapes = {}
    for name, shape in json.loads((parity.FOLDER / "original_parameter_shapes.json").read_text())["base_96"].items():
        wide = [widths.get(size, size) for size in shape]
        if not name.startswith("blocks."):
            shapes[name] = wide
        elif name.startswith("blocks.0."):
            for layer in range(sizes.num_hidden_layers):
                shapes[name.replace("blocks.0.", f"blocks.{layer}.")] = wide
    return shapes


@pytest.mark.parametrize("preset", ["base", "large", "huge"])
def test_shapes_alone_tell_each_size_of_the_paper_with_nothing_left_over(preset):
    shapes = paper_shapes(preset)
    tensors = {name: torch.empty(shape, device="meta") for name, shape in shapes.items()}

    architecture, config = infer_architecture(OriginalCheckpoint("checkpoint.pth", tensors, "", True, ()), {})
    with torch.device("meta"):
        model = architecture(config)

    assert isinstance(model, SpectralGPTForPreTraining)
    assert config.image_size == 96
    assert config.to_dict() == SpectralGPTConfig.from_preset(preset, image_size=96).to_dict()
    assert {name: list(tensor.shape) for name, tensor in to_original(model.state_dict(), config).items()} == shapes


def test_the_number_of_heads_is_asked_for_where_no_preset_has_the_width(tmp_path):
    with pytest.raises(ValueError, match="pass `num_attention_heads`"):
        convert_checkpoint(TOY, tmp_path / "out")
    with pytest.raises(ValueError, match="pass `decoder_num_attention_heads`"):
        convert_checkpoint(TOY, tmp_path / "out", num_attention_heads=4)


def test_an_override_that_is_no_attribute_of_the_configuration_is_refused(tmp_path):
    with pytest.raises(ValueError, match="Unknown configuration attributes: head_count"):
        convert_checkpoint(TOY, tmp_path / "out", head_count=4)


def test_a_bare_binary_segmentation_is_told_from_change_detection_by_the_caller(tmp_path):
    source = save(tmp_path / "water.pth", narrow_tensors("segmentation", num_labels=2))
    folder = convert_checkpoint(
        source, tmp_path / "out", num_attention_heads=4, architectures=["SpectralGPTForSemanticSegmentation"]
    )
    assert verify_conversion(source, folder) < 1e-5


# The folder


def test_the_folder_is_complete(toy):
    code = {path.name for path in Path(convert.__file__).parents[1].joinpath("modeling").glob("*.py")} - {"__init__.py"}
    others = {"README.md", "config.json", "preprocessor_config.json", "model.safetensors", "conversion.json"}
    assert {path.name for path in toy.iterdir()} == code | others | {"handler.py", "requirements.txt", "stac_item.json"}


def test_the_record_names_each_tensor_and_the_source_but_no_path(toy):
    text = (toy / "conversion.json").read_text()
    record = json.loads(text)
    assert record["source"] == {"file": TOY.name, "url": None, "bytes": TOY.stat().st_size, "sha256": digest(TOY)}
    assert {tensor["original"]: tensor["shape"] for tensor in record["tensors"]} == {
        name: list(tensor.shape) for name, tensor in toy_tensors().items()
    }
    assert {tensor["ours"] for tensor in record["tensors"]} == set(load_file(toy / "model.safetensors"))
    assert record["left_over"] == []
    assert record["left_behind"] == ["optimizer", "epoch", "scaler", "args"]
    assert str(TOY.parent) not in text


@pytest.mark.parametrize(
    ("name", "content", "bands", "labels"),
    [
        ("SpectralGPT.pth", lambda: {"model": toy_tensors()}, TWELVE_BANDS, None),
        ("SpectralGPT+.pth", lambda: {"model": toy_tensors()}, TWELVE_BANDS, None),
        (
            "model_3con_loss_51_0.pth",
            lambda: {"model": narrow_tensors("segmentation")},
            TEN_BANDS_AND_TWO_MEANS,
            (0, "Background"),
        ),
        ("spectralGPT+_54_28.pth", lambda: narrow_tensors("change_detection"), TWELVE_BANDS, (1, "Change")),
    ],
)
def test_each_released_file_gets_its_own_bands_and_normalisation(name, content, bands, labels, tmp_path):
    folder = convert_checkpoint(save(tmp_path / name, content()), tmp_path / "out", **TOY_HEADS)

    model = SpectralGPTModel.from_pretrained(folder)
    processor = SpectralGPTImageProcessor.from_pretrained(folder)

    assert model.config.bands == processor.bands == bands
    assert (processor.normalization, processor.statistics_scope) == ("minmax", "image")
    assert labels is None or labels in model.config.id2label.items()


def test_a_renamed_segmunich_model_is_known_by_its_classes_and_the_assumption_is_said(tmp_path, caplog):
    source = save(tmp_path / "best.pth", {"model": narrow_tensors("segmentation")})
    folder = convert_checkpoint(source, tmp_path / "out", num_attention_heads=4)
    assert SpectralGPTImageProcessor.from_pretrained(folder).bands == TEN_BANDS_AND_TWO_MEANS
    assert "treated as a SegMunich model" in caplog.text


def test_bands_given_by_the_caller_go_before_those_assumed(tmp_path, caplog):
    source = save(tmp_path / "best.pth", {"model": narrow_tensors("segmentation")})
    folder = convert_checkpoint(source, tmp_path / "out", num_attention_heads=4, bands=TWELVE_BANDS)
    assert SpectralGPTImageProcessor.from_pretrained(folder).bands == TWELVE_BANDS
    assert "SegMunich" not in caplog.text


def test_bands_are_asked_for_where_their_number_is_unusual(tmp_path):
    tensors = toy_tensors()
    for name in ("pos_embed_temporal", "decoder_pos_embed_temporal"):
        tensors[name] = tensors[name][:, :3]
    source = save(tmp_path / "nine.pth", {"model": tensors})
    with pytest.raises(ValueError, match="takes 9 bands"):
        convert_checkpoint(source, tmp_path / "out", **TOY_HEADS)
    folder = convert_checkpoint(source, tmp_path / "out", **TOY_HEADS, bands=TWELVE_BANDS[:9])
    assert SpectralGPTModel.from_pretrained(folder).config.num_channels == 9


@pytest.mark.parametrize("dtype", ["bfloat16", torch.float16])
def test_weights_are_written_in_the_dtype_asked_for(dtype, tmp_path):
    folder = convert_checkpoint(TOY, tmp_path / "out", dtype=dtype, **TOY_HEADS)
    expected = getattr(torch, dtype) if isinstance(dtype, str) else dtype
    assert {tensor.dtype for tensor in load_file(folder / "model.safetensors").values()} == {expected}
    assert verify_conversion(TOY, folder) < 1e-5  # rounding aside


def test_values_beyond_the_range_of_the_dtype_are_refused(tmp_path):
    tensors = toy_tensors()
    tensors["norm.weight"][0] = 1e6
    source = save(tmp_path / "large.pth", {"model": tensors})
    with pytest.raises(ValueError, match=r"spectralgpt\.layernorm\.weight holds values beyond the range"):
        convert_checkpoint(source, tmp_path / "out", dtype="float16", **TOY_HEADS)


def test_mixed_dtypes_are_refused_unless_one_is_chosen(tmp_path):
    tensors = toy_tensors()
    tensors["norm.weight"] = tensors["norm.weight"].half()
    source = save(tmp_path / "mixed.pth", {"model": tensors})
    with pytest.raises(ValueError, match="mixes float16, float32"):
        convert_checkpoint(source, tmp_path / "out", **TOY_HEADS)
    assert verify_conversion(source, convert_checkpoint(source, tmp_path / "out", dtype="float32", **TOY_HEADS)) < 1e-5


def test_an_unknown_dtype_is_refused(tmp_path):
    with pytest.raises(ValueError, match="`dtype` must be one of float32, float16, bfloat16, got 'int8'"):
        convert_checkpoint(TOY, tmp_path / "out", dtype="int8")


def test_large_checkpoints_are_sharded(tmp_path, monkeypatch):
    monkeypatch.setattr(convert, "MAX_SHARD_SIZE", "200KB")
    folder = convert_checkpoint(TOY, tmp_path / "out", **TOY_HEADS)
    assert len(list(folder.glob("model-*.safetensors"))) > 1
    assert verify_conversion(TOY, folder) < 1e-5


def test_nothing_is_written_over(toy):
    before = sorted(path.stat().st_mtime_ns for path in toy.iterdir())
    with pytest.raises(ValueError, match="new or an empty folder"):
        convert_checkpoint(TOY, toy, **TOY_HEADS)
    assert sorted(path.stat().st_mtime_ns for path in toy.iterdir()) == before


def test_a_conversion_that_fails_half_way_leaves_nothing(tmp_path, monkeypatch):
    def fail(*_, **__):
        raise OSError("No space left on device")

    monkeypatch.setattr(SpectralGPTImageProcessor, "save_pretrained", fail)
    with pytest.raises(OSError, match="No space left"):
        convert_checkpoint(TOY, tmp_path / "out", **TOY_HEADS)
    assert list(tmp_path.iterdir()) == []


# And back


@pytest.mark.parametrize(
    ("task", "wrap"),
    [
        ("toy", lambda tensors: {"model": tensors}),
        ("segmentation", lambda tensors: {"model": several_gpus(tensors)}),
        ("change_detection", lambda tensors: tensors),
        ("change_detection", several_gpus),
    ],
)
def test_a_converted_checkpoint_goes_back_to_the_original_layout_bit_for_bit(task, wrap, tmp_path):
    tensors = toy_tensors() if task == "toy" else narrow_tensors(task)
    source = save(tmp_path / "source.pth", wrap(tensors))
    convert_checkpoint(source, tmp_path / "ours", **TOY_HEADS)

    restored = torch.load(restore_checkpoint(tmp_path / "ours", tmp_path / "back.pth"), weights_only=True)

    expected = torch.load(source, weights_only=True)
    assert restored.keys() == expected.keys()
    if "model" in expected:
        restored, expected = restored["model"], expected["model"]
    assert {name: tensor.shape for name, tensor in restored.items()} == {
        name: tensor.shape for name, tensor in expected.items()
    }
    assert all(torch.equal(restored[name].view(torch.int32), expected[name].view(torch.int32)) for name in expected)


def test_safetensors_with_original_names_are_written_and_read(toy, tmp_path):
    original = restore_checkpoint(toy, tmp_path / "original.safetensors")
    assert read_original(original).state_dict.keys() == toy_tensors().keys()
    assert verify_conversion(original, convert_checkpoint(original, tmp_path / "out", **TOY_HEADS)) < 1e-5


def test_a_network_trained_here_is_written_in_the_original_layout(toy, tmp_path):
    SpectralGPTForPreTraining.from_pretrained(toy).save_pretrained(tmp_path / "trained")
    restored = torch.load(restore_checkpoint(tmp_path / "trained", tmp_path / "back.pth"), weights_only=True)
    assert all(torch.equal(restored["model"][name], tensor) for name, tensor in toy_tensors().items())


def test_a_network_for_another_sensor_goes_there_and_back(toy, tmp_path):
    model = SpectralGPTForPreTraining.from_pretrained(toy)
    landsat = ["B2", "B3", "B4", "B5", "B6", "B7"]
    model.resize_bands(landsat, sensor="landsat-8")
    model.save_pretrained(tmp_path / "landsat")
    original = restore_checkpoint(tmp_path / "landsat", tmp_path / "original.pth")
    heads = [f"--{name.replace('_', '-')}={value}" for name, value in TOY_HEADS.items()]
    command = [
        "convert",
        original,
        tmp_path / "back",
        "--bands",
        ",".join(landsat),
        "--sensor",
        "landsat-8",
        "--verify",
    ]
    result = CliRunner().invoke(app, [*map(str, command), *heads])
    assert result.exit_code == 0, result.output
    back = SpectralGPTForPreTraining.from_pretrained(tmp_path / "back")
    assert (back.config.sensor, back.config.bands) == ("landsat-8", landsat)
    assert back.config.wavelengths == model.config.wavelengths
    assert all(torch.equal(a, b) for a, b in zip(back.parameters(), model.parameters(), strict=True))
    assert SpectralGPTImageProcessor.from_pretrained(tmp_path / "back").sensor == "landsat-8"


def test_what_the_original_cannot_hold_is_refused(toy, tmp_path):
    SpectralGPTForImageClassification.from_pretrained(toy).save_pretrained(tmp_path / "classifier")
    with pytest.raises(ValueError, match="no layout for SpectralGPTForImageClassification"):
        restore_checkpoint(tmp_path / "classifier", tmp_path / "back.pth")
    with pytest.raises(ValueError, match="new file ending with"):
        restore_checkpoint(toy, tmp_path / "back.bin")


# Full size


@pytest.mark.slow
@pytest.mark.parametrize("case", ["base_96", "base_128", "segmentation_base_128", "change_detection_base_128"])
def test_base_converts_to_the_originals_mathematics_and_goes_back(case, tmp_path):
    tensors = parity.original_checkpoint(case)
    source = save(tmp_path / "base.pth", several_gpus(tensors) if case.startswith("change") else {"model": tensors})

    folder = convert_checkpoint(source, tmp_path / "out")
    assert verify_conversion(source, folder) < 1e-4
    restored = read_original(restore_checkpoint(folder, tmp_path / "back.pth")).state_dict

    assert restored.keys() == tensors.keys()
    assert all(torch.equal(restored[name], tensors[name]) for name in tensors)


MEASURE = """
import sys, time
from spectralgpt_hf.conversion import convert_checkpoint

def resident(field):
    line = next(line for line in open("/proc/self/status") if line.startswith(field))
    return int(line.split()[1]) * 1024

before, start = resident("VmRSS"), time.monotonic()
convert_checkpoint(sys.argv[1], sys.argv[2], dtype=sys.argv[3])
print(time.monotonic() - start, resident("VmHWM") - before)
"""


@pytest.mark.slow
@pytest.mark.skipif(not os.path.exists("/proc/self/status"), reason="measures memory through /proc")
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_base_with_its_optimizer_converts_in_little_memory_and_time(dtype, tmp_path):
    tensors = parity.original_checkpoint("base_128")
    moments = {i: {"exp_avg": t + 1, "exp_avg_sq": t * t} for i, t in enumerate(tensors.values())}
    source = save(tmp_path / "base.pth", {"model": tensors, "optimizer": {"state": moments}, "epoch": 199})
    assert source.stat().st_size > 1.1e9

    result = subprocess.run(
        [sys.executable, "-c", MEASURE, source, tmp_path / "out", dtype], check=True, capture_output=True, text=True
    )
    seconds, extra_bytes = map(float, result.stdout.split())

    weights = sum(tensor.nbytes for tensor in tensors.values())
    assert extra_bytes < 1.5 * weights  # the memory-mapped pages of the source included
    assert seconds < 20


def test_plain_safetensors_without_the_originals_names_are_refused(toy, tmp_path):
    ours = tmp_path / "ours.safetensors"
    save_file(load_file(toy / "model.safetensors"), ours)
    with pytest.raises(ValueError, match=r"expected a `patch_embed\.proj\.weight`"):
        convert_checkpoint(ours, tmp_path / "out", **TOY_HEADS)


# Encoders alone


def encoder_tensors() -> dict[str, torch.Tensor]:
    others = ("decoder", "mask_token")
    return {name: tensor for name, tensor in toy_tensors().items() if not name.startswith(others)}


HEAD = {"head.weight": torch.ones(10, 48), "head.bias": torch.ones(10)}
ENCODERS = {
    "bare": (encoder_tensors(), []),
    "under state_dict": ({"state_dict": encoder_tensors(), "epoch": 3}, []),
    "compiled": ({"model": {f"module._orig_mod.{name}": t for name, t in encoder_tensors().items()}}, []),
    "fine-tuned": ({"model": {**encoder_tensors(), **HEAD}}, list(HEAD)),
    "of another framework": (
        {
            "model": {
                **{f"encoder.{name}": t for name, t in encoder_tensors().items()},
                "decoder.conv.bias": HEAD["head.bias"],
            }
        },
        ["decoder.conv.bias"],
    ),
}


@pytest.mark.parametrize("kind", ENCODERS)
def test_an_encoder_alone_becomes_the_model_without_a_head(toy, tmp_path, kind):
    content, left_over = ENCODERS[kind]
    source = save(tmp_path / "encoder.pth", content)
    folder = convert_checkpoint(source, tmp_path / "out", num_attention_heads=4, decoder_num_attention_heads=4)
    assert SpectralGPTConfig.from_pretrained(folder).architectures == ["SpectralGPTModel"]
    record = json.loads((folder / "conversion.json").read_text())
    assert record["left_over"] == left_over
    image = parity.random_input(100, 2, 12, 32, 32)
    with torch.no_grad():
        found, expected = (SpectralGPTModel.from_pretrained(path).eval()(image) for path in (folder, toy))
    assert torch.equal(found.last_hidden_state, expected.last_hidden_state)
    assert verify_conversion(source, folder) < 1e-5
    restored = read_original(restore_checkpoint(folder, tmp_path / "back.pth"))
    assert all(torch.equal(restored.state_dict[name], tensor) for name, tensor in encoder_tensors().items())


def test_the_encoder_of_a_pretraining_file_can_be_taken_alone(tmp_path):
    folder = convert_checkpoint(
        TOY, tmp_path / "out", **TOY_HEADS, architectures=["SpectralGPTModel"], dtype="bfloat16"
    )
    tensors = load_file(folder / "model.safetensors")
    assert len(tensors) == len(encoder_tensors())
    record = json.loads((folder / "conversion.json").read_text())
    assert {entry["ours"] for entry in record["tensors"]} == tensors.keys()
    assert len(record["left_over"]) == len(toy_tensors()) - len(tensors)


def test_an_encoder_that_lacks_a_tensor_is_refused_by_name(tmp_path):
    tensors = {name: tensor for name, tensor in encoder_tensors().items() if name != "norm.bias"}
    with pytest.raises(ValueError, match=r"norm\.bias: missing"):
        convert_checkpoint(save(tmp_path / "e.pth", tensors), tmp_path / "out", **TOY_HEADS)


@pytest.mark.parametrize("dtype", [None, "float32"])
def test_tensors_that_share_memory_are_written_apart(tmp_path, dtype):
    tensors = toy_tensors()
    tensors["blocks.1.norm1.bias"] = tensors["blocks.0.norm1.bias"]
    tensors["blocks.0.attn.q.weight"] = tensors["blocks.0.attn.q.weight"].T.contiguous().T
    folder = convert_checkpoint(save(tmp_path / "shared.pth", tensors), tmp_path / "out", **TOY_HEADS, dtype=dtype)
    written = SpectralGPTForPreTraining.from_pretrained(folder).state_dict()
    restored = to_original(written, SpectralGPTConfig.from_pretrained(folder))
    assert all(torch.equal(restored[name], tensor) for name, tensor in tensors.items())


# What can happen to a process that converts

CONVERT = """
import sys
from spectralgpt_hf.conversion import convert_checkpoint
from spectralgpt_hf.modeling.image_processing_spectralgpt import SpectralGPTImageProcessor
{setup}
convert_checkpoint(*sys.argv[1:], num_attention_heads=4, decoder_num_attention_heads=4)
"""
WAIT = "SpectralGPTImageProcessor.save_pretrained = lambda *_, **__: (print(flush=True), time.sleep(600))"
# The limit on the size of files acts as a full disk does.
FULL = "resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000)); signal.signal(signal.SIGXFSZ, signal.SIG_IGN)"


def convert_process(setup: str, output: Path) -> subprocess.Popen:
    code = CONVERT.format(setup=f"import os, resource, signal, time\n{setup}")
    command = [sys.executable, "-c", code, str(TOY), str(output)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_a_killed_conversion_leaves_no_folder_and_the_next_one_cleans_up(tmp_path):
    def kill(*_: object, **__: object) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    def convert_and_be_killed() -> None:
        # Weights are written before the processor: at this point the folder is half there.
        SpectralGPTImageProcessor.save_pretrained = kill
        convert_checkpoint(TOY, tmp_path / "out", **TOY_HEADS)

    assert run_forked(convert_and_be_killed) == -signal.SIGKILL
    assert not (tmp_path / "out").exists()
    assert list(tmp_path.glob(".out.*.part"))
    convert_checkpoint(TOY, tmp_path / "out", **TOY_HEADS)
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


@pytest.mark.slow
def test_a_full_disk_ends_in_a_message_that_names_the_folder_and_leaves_nothing(tmp_path):
    with convert_process(FULL, tmp_path / "out") as process:
        _, error = process.communicate()
    last = error.strip().splitlines()[-1]
    assert last.startswith("OSError: ")
    assert f"{tmp_path / 'out'}: cannot be written (File too large). Free space there" in last
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_two_conversions_into_one_folder_do_not_meet(tmp_path):
    with convert_process(WAIT, tmp_path / "out") as process:
        try:
            process.stdout.readline()
            with pytest.raises(OSError, match=rf"out: process {process.pid} on .* writes it already"):
                convert_checkpoint(TOY, tmp_path / "out", **TOY_HEADS)
        finally:
            process.kill()
    convert_checkpoint(TOY, tmp_path / "out", **TOY_HEADS)
