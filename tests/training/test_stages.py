import json

import pytest

from spectralgpt_hf import SpectralGPTConfig, SpectralGPTImageProcessor
from spectralgpt_hf.training.stages import PretrainingOptions, check_model, stage_processor, view_recipe


BANDS = ["B2", "B3", "B4"]


@pytest.fixture
def shards(tmp_path):
    measured = {"bands": ["B4", "B3", "B2"], "mean": [40.0, 30.0, 20.0]}
    measured |= {"percentile_5": [4.0, 3.0, 2.0], "percentile_95": [332.0, 3.0 + 3.29, 2.0 + 32.9]}
    (tmp_path / "statistics.json").write_text(json.dumps({"train": measured}))
    return tmp_path


def test_zscore_takes_the_statistics_of_the_shards_by_band_name(shards):
    stage = PretrainingOptions(data=str(shards), normalization="zscore", atmosphere=0.5)
    processor = stage_processor(stage, BANDS, None)
    assert processor.normalization == "zscore"
    assert processor.mean == {"B2": 20.0, "B3": 30.0, "B4": 40.0}
    assert list(processor.std.values()) == pytest.approx([10.0, 1.0, 328 / 3.29])
    recipe = view_recipe(stage, processor)
    assert recipe.atmosphere == 0.5
    assert recipe.limits[0].tolist() == [20.0, 30.0, 40.0]


def test_a_later_stage_keeps_the_statistics_of_the_checkpoint_before(shards, tmp_path):
    before = SpectralGPTImageProcessor(bands=BANDS, normalization="zscore", mean=[1.0] * 3, std=[2.0] * 3)
    before.save_pretrained(tmp_path / "before")
    stage = PretrainingOptions(data=str(shards), normalization="zscore")
    assert stage_processor(stage, BANDS, str(tmp_path / "before")).mean == dict.fromkeys(BANDS, 1.0)
    assert view_recipe(PretrainingOptions(), SpectralGPTImageProcessor(bands=BANDS)).limits is None


def test_zscore_without_statistics_and_atmosphere_without_zscore_are_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"statistics\.json: expected statistics of the shards"):
        stage_processor(PretrainingOptions(data=str(tmp_path), normalization="zscore"), BANDS, None)
    with pytest.raises(ValueError, match="`atmosphere` needs `normalization: zscore`"):
        stage_processor(PretrainingOptions(atmosphere=1.0), BANDS, None)


def test_a_checkpoint_continues_with_a_sensor_of_ones_own():
    before = SpectralGPTConfig.from_preset("tiny", image_size=32)
    own = {"sensor": "drone", "bands": ["blue", "green", "red"], "wavelengths": [475.0, 560.0, 668.0]}
    config = check_model(PretrainingOptions(data="shards", image_size=32, **own), before)
    assert (config.sensor, list(config.bands), list(config.wavelengths)) == tuple(own.values())
