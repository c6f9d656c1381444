"""Checkpoints that users name: folders, names on the Hub, and those that come with the package."""

import shutil

import numpy as np
import pytest
import torch
from transformers import pipeline

from spectralgpt_hf import (
    SpectralGPTForChangeDetection,
    SpectralGPTForImageClassification,
    SpectralGPTForPreTraining,
    SpectralGPTImageProcessor,
)
from spectralgpt_hf.assets import CHECKPOINT, FOLDER, GALLERY, SAMPLE, find_checkpoint
from spectralgpt_hf.modeling.bands import L1C_BANDS, L2A_BANDS
from spectralgpt_hf.modeling.rasters import read_raster


@pytest.mark.parametrize("name", ["tiny", "embedded", "spectralgpt-tiny", CHECKPOINT, str(CHECKPOINT)])
def test_the_embedded_checkpoint_has_short_names(name):
    assert find_checkpoint(name) == str(CHECKPOINT)


@pytest.mark.parametrize("name", ["org/spectralgpt-base", "some-one/model_1.0"])
def test_a_name_on_the_hub_stays_as_it_is(name):
    assert find_checkpoint(name) == name


@pytest.mark.parametrize("name", ["tinny", "./checkpoint/model", "/checkpoint/model", "a/b/c", "", "spectralgpt-basis"])
def test_a_mistyped_name_is_a_missing_checkpoint(name):
    with pytest.raises((FileNotFoundError, ValueError), match=r"There is no checkpoint|a folder without"):
        find_checkpoint(name)


def test_a_mistyped_folder_beside_checkpoints_is_a_missing_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(CHECKPOINT, tmp_path / "runs" / "model")
    assert find_checkpoint("runs/model") == "runs/model"
    with pytest.raises(FileNotFoundError, match=r"There is no checkpoint runs/modle: .* runs holds model\."):
        find_checkpoint("runs/modle")


def test_a_folder_without_a_checkpoint_says_where_one_is(tmp_path):
    shutil.copytree(CHECKPOINT, tmp_path / "model")
    with pytest.raises(ValueError, match=r"expected a config\.json in it\. Do you mean .*model"):
        find_checkpoint(tmp_path)


@pytest.mark.parametrize("name", ["tiny", CHECKPOINT])
def test_a_revision_of_a_folder_is_refused(name):
    with pytest.raises(ValueError, match=r"`revision` 'nope': only checkpoints on the Hub .* is a folder"):
        find_checkpoint(name, "nope")
    assert find_checkpoint(name, "main") == str(CHECKPOINT)
    assert find_checkpoint("org/spectralgpt-base", "nope") == "org/spectralgpt-base"


def test_a_file_is_answered_with_the_command_that_converts_it():
    with pytest.raises(ValueError, match=r"is a file, expected the folder of a checkpoint\. `spectralgpt convert`"):
        find_checkpoint(CHECKPOINT / "model.safetensors")


def test_the_zscore_checkpoint_is_loaded_in_float32_and_keeps_reflectance():
    folder = find_checkpoint("tiny-zscore")
    model = SpectralGPTForPreTraining.from_pretrained(folder).eval()
    assert model.dtype == torch.float32
    processor = SpectralGPTImageProcessor.from_pretrained(folder)
    assert list(processor.bands) == list(model.config.bands)
    image = processor(str(SAMPLE))["pixel_values"][..., 128:192, 128:192]
    darker = processor(str(SAMPLE), offset=-100)["pixel_values"][..., 128:192, 128:192]
    assert (darker < image).all()
    noise = torch.rand(1, 128, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        loss = model(image, noise=noise).token_loss
    assert loss < 0.8 * (image - image.mean((2, 3), keepdim=True)).square().mean()  # of each band's mean


def test_the_embedded_classifier_shares_the_encoder_and_tells_sea_forest_and_town():
    folder = find_checkpoint("tiny-eurosat")
    model, report = SpectralGPTForImageClassification.from_pretrained(folder, output_loading_info=True)
    assert not any(report.values())
    encoder = SpectralGPTForPreTraining.from_pretrained(find_checkpoint("tiny-zscore")).spectralgpt
    assert all(torch.equal(a, b) for a, b in zip(model.spectralgpt.parameters(), encoder.parameters(), strict=True))
    processor = SpectralGPTImageProcessor.from_pretrained(folder)
    sea = read_raster(SAMPLE).pixels[:, 448:, 200:264]  # open water; further right are marsh and creeks
    with torch.no_grad():
        for image, expected in (
            (sea, "SeaLake"),
            (str(GALLERY / "forest-before.tif"), "Forest"),
            (str(GALLERY / "town.tif"), "Residential"),
        ):
            inputs = processor(image, band_names=L1C_BANDS if image is sea else None, return_tensors="pt")
            assert model.config.id2label[model.eval()(**inputs).logits.argmax().item()] == expected


def test_the_embedded_segmentation_model_tells_water_from_forest():
    folder = find_checkpoint("tiny-landcover")
    segment = pipeline("multispectral-image-segmentation", model=folder)
    for image, expected in ((str(GALLERY / "river.tif"), "water"), (str(GALLERY / "forest-before.tif"), "trees")):
        found = segment(image)["labels"]
        assert max(found, key=lambda entry: entry["share"])["label"] == expected, found
    assert len(segment.model.config.class_codes) == 8


def test_the_embedded_change_model_finds_a_lake_in_a_forest_and_nothing_in_an_unchanged_pair():
    folder = find_checkpoint("tiny-change")
    model, report = SpectralGPTForChangeDetection.from_pretrained(folder, output_loading_info=True)
    assert not any(report.values())
    processor = SpectralGPTImageProcessor.from_pretrained(folder)
    forest, river = (read_raster(GALLERY / name, bands=L2A_BANDS).pixels for name in ("forest-before.tif", "river.tif"))
    after, changed = forest.copy(), np.zeros((96, 96), bool)
    changed[24:64, 32:72] = True
    after[:, changed] = np.median(river, (1, 2))[:, None]
    inputs = processor([forest, after], band_names=L2A_BANDS, do_resize=False, return_tensors="pt")["pixel_values"]
    with torch.no_grad():
        same, other = (model.eval()(inputs[:1], second).logits[0].argmax(0) == 1 for second in inputs.split(1))
    assert same.float().mean() < 0.02
    assert (other.numpy() & changed).sum() / (other.numpy() | changed).sum() > 0.5


def test_embedded_weights_stay_below_40_mb():
    assert sum(file.stat().st_size for file in FOLDER.glob("*/*.safetensors")) < 40e6
