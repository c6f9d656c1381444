"""Model cards: metadata that the Hub takes, code that runs, and nothing claimed that is not so."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import rasterio
import torch
from huggingface_hub import ModelCard
from safetensors.torch import load_file

from spectralgpt_hf import SpectralGPTConfig, SpectralGPTImageProcessor
from spectralgpt_hf.assets import TASK_CHECKPOINTS, find_checkpoint
from spectralgpt_hf.conversion import convert_checkpoint
from spectralgpt_hf.hub.cards import FOLDER, USES, card_for, check_card, front_matter, name_repository
from spectralgpt_hf.hub.embedded import write_complete
from spectralgpt_hf.hub.finetuned_cards import BASELINE
from spectralgpt_hf.hub.info import describe_checkpoint
from spectralgpt_hf.modeling.bands import L2A_BANDS
from spectralgpt_hf.modeling.modeling_spectralgpt import (
    SpectralGPTForChangeDetection,
    SpectralGPTForImageClassification,
    SpectralGPTForSemanticSegmentation,
)
from tests import parity
from tests.conversion.originals import TOY, TOY_HEADS


CARDS = {path.stem: path.read_text(encoding="utf-8") for path in FOLDER.glob("*.md")}
FINE_TUNED = tuple(folder.name.removeprefix("spectralgpt-") for folder in TASK_CHECKPOINTS.values())
EMBEDDED = ("tiny", "tiny-zscore", *FINE_TUNED)
RELEASED = ("SpectralGPT.pth", "SpectralGPT+.pth")

# Run in a process of its own, since remote code goes into a cache.
SCRIPT = """
import json, sys
found = []
for card, blocks in json.load(open("code.json")).items():
    for block in blocks:
        print("Running a block of", card, file=sys.stderr)
        names = {}
        exec(block, names)
        if "num_parameters" in names:
            found.append([card, f"{names['num_parameters']:,}"])
json.dump(found, open("found.json", "w"))
"""


def blocks(card: str, checkpoint: Path) -> list[str]:
    """Return the code of a card, with a folder instead of every name on the Hub."""
    return [
        re.sub(r'"(?:org/[\w-]+|path/to/this/folder)"', repr(str(checkpoint)), block)
        for block in re.findall(r"```python\n(.*?)```", card, re.S)
    ]


def metadata(card: str) -> dict:
    return ModelCard(card).data.to_dict()


def released(config: SpectralGPTConfig, file: str) -> str:
    record = {"source": {"file": file, "sha256": "0" * 64}, "architecture": "SpectralGPTForPreTraining"}
    return card_for(config, record)


def test_there_is_a_card_for_each_checkpoint():
    assert set(CARDS) == {f"spectralgpt-{name}" for name in ("base", "base-plus", "large", "huge", *EMBEDDED)}


@pytest.mark.parametrize("name", [f"spectralgpt-{name}" for name in ("base", "base-plus", *EMBEDDED)])
def test_metadata_are_valid_and_survive_the_clients_own_reading_and_writing(name):
    check_card(CARDS[name])
    again = ModelCard(str(ModelCard(CARDS[name])))
    assert again.data.to_dict() == metadata(CARDS[name])
    assert metadata(CARDS[name])["library_name"] == "transformers"


@pytest.mark.parametrize("name", ["spectralgpt-large", "spectralgpt-huge"])
def test_cards_without_weights_say_so_claim_no_scores_and_cannot_be_published(name):
    assert "There are no weights of this size" in CARDS[name]
    assert "model-index" not in metadata(CARDS[name])
    with pytest.raises(ValueError, match="architecture-only") as raised:
        check_card(CARDS[name])
    assert str(raised.value).count("\n") == 1  # and nothing else is wrong


@pytest.mark.parametrize("name", ["spectralgpt-base", "spectralgpt-base-plus"])
def test_published_scores_are_marked_as_the_authors(name):
    (index,) = metadata(CARDS[name])["model-index"]
    assert index["name"] == name
    assert len(index["results"]) == 4
    for result in index["results"]:
        assert "published by the authors" in result["metrics"][0]["name"]
        assert result["source"]["url"] == "https://arxiv.org/abs/2311.07113"
        assert f"{result['metrics'][0]['value']:g}" in CARDS[name].partition("## Scores")[2]
    assert "own random split" in CARDS[name]


@pytest.mark.parametrize("name", FINE_TUNED)
def test_the_card_of_a_fine_tuned_checkpoint_describes_that_checkpoint(name):
    card, info = CARDS[f"spectralgpt-{name}"], describe_checkpoint(find_checkpoint(name))
    found = metadata(card)
    assert found["base_model"] == "org/spectralgpt-tiny-zscore"
    assert found["pipeline_tag"] == USES[info.architecture].pipeline_tag
    assert f"by name: {' '.join(info.processor.bands)}" in " ".join(card.split())
    names = info.config.id2label
    rows = re.findall(r"^\| (\d+) \| ([^|]+?) \|", card.partition("## Classes")[2].partition("\n## ")[0], re.M)
    assert rows == [(str(code), names[i]) for i, code in enumerate(info.config.class_codes or range(len(names)))]
    shapes = [tensor.shape for tensor in load_file(Path(find_checkpoint(name)) / "head.safetensors").values()]
    assert f"{info.num_parameters / 1e6:.1f} million" in card
    assert f"{sum(map(torch.Size.numel, shapes)):,} are the head's" in card


def test_the_scores_by_class_of_the_classifier_add_up_to_its_accuracy():
    card = CARDS["spectralgpt-tiny-eurosat"]
    right, images = np.array(re.findall(r"\| (\d+) of (\d+) \|", card), int).sum(0)
    assert f"Accuracy {right / images:.3f} " in card
    assert f"on {images} images" in card


def test_metadata_hold_only_scores_of_the_very_checkpoint_and_those_of_its_table():
    for name in ("tiny-eurosat", "tiny-landcover"):  # trained on all sites, among them those of their scores
        assert "model-index" not in metadata(CARDS[f"spectralgpt-{name}"])
    card = CARDS["spectralgpt-tiny-change"]
    (index,) = metadata(card)["model-index"]
    tables = re.findall(r"^\| this model \|(?: [\d.]+ \|){2} ([\d.]+) \| ([\d.]+) \|", card, re.M)
    assert [tuple(f"{m['value']:.3f}" for m in result["metrics"]) for result in index["results"]] == tables


def test_every_code_block_of_every_card_runs(tmp_path):
    torch.manual_seed(0)
    pretrained = convert_checkpoint(TOY, tmp_path / "pretrained", **TOY_HEADS)
    code = {name: blocks(card, pretrained) for name, card in CARDS.items()}
    for name in FINE_TUNED:
        write_complete(Path(find_checkpoint(name)), tmp_path / name)
        code[f"spectralgpt-{name}"] = blocks(CARDS[f"spectralgpt-{name}"], tmp_path / name)
    for task in (SpectralGPTForImageClassification, SpectralGPTForSemanticSegmentation, SpectralGPTForChangeDetection):
        folder = tmp_path / task.__name__
        model = task(parity.config("toy", decode_hidden_size=16))
        model.save_pretrained(folder)
        SpectralGPTImageProcessor().save_pretrained(folder)
        code[task.__name__] = blocks(card_for(model.config), folder)
    assert all(code.values())
    (tmp_path / "code.json").write_text(json.dumps(code))
    profile = {"driver": "GTiff", "count": 12, "height": 40, "width": 32, "dtype": "uint16"}
    for name in ("scene", "before", "after"):
        with rasterio.open(tmp_path / f"{name}.tif", "w", **profile) as file:
            file.write(np.random.default_rng(len(name)).integers(1, 5000, (12, 40, 32), dtype=np.uint16))
            file.descriptions = L2A_BANDS

    # In a process of its own: a copy of this one may wait forever for threads of GDAL that it does not have.
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path / "home")}
    arguments = [sys.executable, "-W", "ignore", "-c", SCRIPT]
    result = subprocess.run(arguments, env=environment, cwd=tmp_path, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    found = json.loads((tmp_path / "found.json").read_text())
    assert len(found) == 2
    for name, num_parameters in found:
        assert num_parameters in CARDS[name]


@pytest.mark.parametrize(("file", "name"), zip(RELEASED, ["spectralgpt-base", "spectralgpt-base-plus"]))
def test_a_released_file_gets_its_own_card(file, name):
    assert released(SpectralGPTConfig.from_preset("base"), file) == CARDS[name]


def test_any_other_checkpoint_gets_a_card_of_what_is_known_of_it():
    for card in (
        released(parity.config("toy"), "SpectralGPT.pth"),  # the name alone is no proof
        released(SpectralGPTConfig.from_preset("large"), "mine.pth"),
    ):
        check_card(card)
        assert card not in CARDS.values()
        assert "0" * 64 in card
        assert "model-index" not in metadata(card)
    segmentation = SpectralGPTConfig(
        architectures=["SpectralGPTForSemanticSegmentation"], id2label={0: "water", 1: "land"}
    )
    assert metadata(card_for(segmentation))["pipeline_tag"] == "image-segmentation"
    assert "water, land" in card_for(segmentation)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("license: unknown\n", "", "`license` must be"),
        ("license: unknown", "license: other", "license_name"),
        ("license: unknown", "license: My own licence", "`license` must be"),
        ("library_name: transformers", "library_name: timm", "'transformers'"),
        ("pipeline_tag: image-feature-extraction\n", "", "`pipeline_tag`"),
        ("- fmow-sentinel", "- fMoW Sentinel data", "`datasets`"),
        ("- remote-sensing", "- [remote, sensing]", "`tags`"),
        ("base_model: org/spectralgpt-base\n", "base_model: a/b/c\n", "`base_model`"),
        ("name: mIoU (%)", "nom: : mIoU", "cannot be read"),
        ("    dataset:\n      type: eurosat\n", "    dataset:\n", "cannot be read"),
        ("---\nlibrary_name", "library_name", "`library_name`"),
    ],
)
def test_wrong_metadata_are_refused_with_the_reason(old, new, message):
    card = CARDS["spectralgpt-base-plus"]
    assert old in card
    with pytest.raises(ValueError, match=re.escape(message)):
        check_card(card.replace(old, new, 1))


def test_publishing_puts_the_name_of_the_repository_into_the_card():
    card = name_repository(CARDS["spectralgpt-base-plus"], "lab/our-encoder")
    assert metadata(card)["base_model"] == "lab/spectralgpt-base"
    assert 'from_pretrained("lab/our-encoder")' in card
    assert "org/spectralgpt" not in card
    assert "https://arxiv.org/abs/" in card
    generated = name_repository(card_for(SpectralGPTConfig()), "lab/our-encoder")
    assert 'model="lab/our-encoder"' in generated
    assert "path/to" not in generated


@pytest.mark.parametrize("card", [card_for(SpectralGPTConfig()), front_matter() + BASELINE])
def test_generated_cards_of_models_and_of_baselines_share_their_metadata(card):
    data = ModelCard(card).data
    assert (data.library_name, data.license) == ("transformers", "unknown")
    assert data.tags == ["remote-sensing", "sentinel-2", "multispectral"]
