import json
import subprocess
import sys

import numpy as np
import pytest
import rasterio
import torch

from spectralgpt_hf import SpectralGPTForPreTraining
from spectralgpt_hf.assets import CHECKPOINT, SAMPLE
from spectralgpt_hf.commands.evaluate_chips import LabelledChip, probe_features
from tests import parity


@pytest.fixture
def chips(tmp_path):
    """Two chips of the embedded image, with water and land for a map."""
    with rasterio.open(SAMPLE) as source:
        pixels = source.read()
    for folder in ("L1C", "LULC"):
        (tmp_path / folder).mkdir()
    for number, (top, left) in enumerate(((256, 160), (320, 300))):
        chip = pixels[:, top : top + 128, left : left + 128].astype(np.int16)
        water = np.where(chip[7] < 500, 1, 2)[None].astype(np.uint8)
        for folder, values in (("L1C", chip), ("LULC", water)):
            profile = {"count": len(values), "height": 128, "width": 128, "dtype": values.dtype}
            with rasterio.open(tmp_path / folder / f"chip{number}.tif", "w", driver="GTiff", **profile) as file:
                file.write(values)
    return tmp_path


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")
def test_reconstruction_and_land_use_are_scored_for_each_chip(chips):
    output = chips / "scores.json"
    command = [sys.executable, "examples/evaluate_pretraining.py", CHECKPOINT, "--chips", chips]
    text = subprocess.run(
        [*command, "--seeds", "1", "--output", output], capture_output=True, text=True, check=True
    ).stdout
    scores = json.loads(output.read_text())
    by_chip = scores["reconstruction"][str(CHECKPOINT)]
    for chip in ("chip0", "chip1"):
        bands = by_chip[chip]["model"]["rmse_of_bands"]
        assert by_chip[chip]["model"]["rmse"] == pytest.approx(np.mean(bands))
        assert len(bands) == 12
        assert 0 < by_chip[chip]["model"]["rmse"] < 0.1
    wins = sum(by_chip[chip]["model"]["rmse"] < by_chip[chip]["band's mean"]["rmse"] for chip in by_chip)
    assert f"RMSE below that of the band's mean: {wins} of 2 chips" in text
    assert sum(scores["land_use"]["tiles_of_classes"].values()) == 128
    probes = scores["land_use"]["logistic"]
    assert probes["majority"]["sites"] == {"chip0": 0.5, "chip1": 0.5}
    assert probes["mean and std of reflectance"]["together"] > 0.6
    assert "untrained, mean of the seeds" in text
    assert f"{CHECKPOINT}, tiles alone" in probes
    assert 0 < scores["land_use"]["variance_between_chips"][str(CHECKPOINT)] < 1


def test_each_checkpoint_sees_the_chips_as_its_own_processor_gives_them():
    torch.manual_seed(0)
    model = SpectralGPTForPreTraining(parity.config("toy")).eval()
    labels = np.kron([[1, 2], [2, 1]], np.ones((16, 16), int))
    dark, bright = (
        {name: LabelledChip(torch.rand(12, 32, 32) * gain, np.zeros(1), np.ones(1), labels) for name in "ab"}
        for gain in (0.1, 1)
    )
    features, _, _ = probe_features({"first": (model, dark), "second": (model, bright)})
    alone, _, _ = probe_features({"first": (model, dark)})
    np.testing.assert_array_equal(features["first"], alone["first"])
    assert np.abs(features["first"] - features["second"]).max() > 0.01
