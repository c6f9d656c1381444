import csv

import numpy as np
import pytest
import rasterio
import torch
from rasterio.transform import from_origin

from spectralgpt_hf import SpectralGPTImageProcessor
from spectralgpt_hf.data.readers.eurosat import EUROSAT_CLASSES
from spectralgpt_hf.training.few_labels import baseline_features, compare, read_labelled, score_features
from spectralgpt_hf.training.few_labels_report import contest_table, draw_contest


PER_CLASS = 6


def write_eurosat(folder):
    """Write images whose brightness depends on their class, the first three of each class as one part, and an index."""
    rng, rows = np.random.default_rng(0), []
    for number, name in enumerate(EUROSAT_CLASSES):
        (folder / name).mkdir(parents=True)
        for image in range(1, PER_CLASS + 1):
            pixels = (rng.normal(1, 0.05, (13, 64, 64)) * (1000 + 300 * number)).astype(np.uint16)
            pixels[9] = 10  # B10 sees next to nothing
            profile = {"count": 13, "height": 64, "width": 64, "dtype": "uint16", "crs": "EPSG:32633"}
            profile["transform"] = from_origin(400_000 + 40_000 * image, 5_000_000, 10, 10)
            with rasterio.open(folder / name / f"{name}_{image}.tif", "w", driver="GTiff", **profile) as file:
                file.write(pixels)
            rows.append([f"{name}/{name}_{image}.tif", "choice" if image <= PER_CLASS // 2 else "report"])
    with open(folder / "index.csv", "w", newline="") as file:
        csv.writer(file).writerows([["file", "part"], *rows])
    return folder


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    return read_labelled(write_eurosat(tmp_path_factory.mktemp("eurosat")))


def test_images_come_with_their_part_and_their_block_of_half_a_degree(images):
    assert images.pixels.shape == (10 * PER_CLASS, 13, 64, 64)
    assert images.of("choice").sum() == images.of("report").sum() == 10 * PER_CLASS // 2
    # 40 km are half a degree there: neighbours lie in different blocks, images of different classes in the same.
    assert len(set(images.blocks)) == PER_CLASS
    assert images.blocks[0] == images.blocks[PER_CLASS] == "28_90"
    with pytest.raises(ValueError, match="Expected a part among choice, report, got 'test'"):
        images.of("test")


def test_brightness_is_read_off_statistics_and_not_off_min_max(images, tmp_path):
    train, test = images.of("choice"), images.of("report")
    features = baseline_features(SpectralGPTImageProcessor(), images, train)
    scores = {
        name: score_features(values, images, train, test, repeats=1, shots=(1, 2), draws=2)
        for name, values in features.items()
    }
    numbers, scaled = scores["mean and std of digital numbers"], scores["mean and std of the input"]
    assert numbers["test"]["linear"]["accuracy"] > 0.9
    assert numbers["folds"]["spatial"]["prototypes"] > 0.9
    assert numbers["few_shot"]["prototypes"]["1"]["mean"] > 0.8
    assert scaled["test"]["linear"]["accuracy"] < 0.6
    difference = compare(numbers, [scaled, scaled])
    assert difference["linear"]["interval_95"][0] > 0.2
    assert compare(numbers, [numbers])["linear"] == {"difference": 0.0, "interval_95": (0.0, 0.0)}

    contest = {"train_part": "choice", "test_part": "report", "contestants": scores}
    contest |= {"differences": {"numbers": {"input": difference}}}
    table = contest_table(contest)
    assert f"{numbers['test']['linear']['accuracy']:.3f} (" in table
    assert "numbers minus the other" in table
    draw_contest(contest, tmp_path / "contest.png")
    assert (tmp_path / "contest.png").stat().st_size > 10_000


def test_without_a_test_part_nothing_of_it_is_scored(images):
    train = images.of("choice")
    features = torch.randn(len(images.ids), 4)
    scores = score_features(features, images, train, repeats=1)
    assert set(scores) == {"weight_decay", "folds"}
    changed = features.clone()
    changed[~train] = 99.0
    assert score_features(changed, images, train, repeats=1) == scores
