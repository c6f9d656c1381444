"""A model for Landsat from files to a map: shards, pretraining, fine-tuning, checks, card, and the endpoint."""

import base64
import importlib
import json
import signal
from pathlib import Path

import numpy as np
import pytest
import rasterio
import torch
from accelerate.state import AcceleratorState, GradientState, PartialState

from spectralgpt_hf import SpectralGPTForPreTraining, SpectralGPTForSemanticSegmentation, SpectralGPTImageProcessor
from spectralgpt_hf.assets import CHECKPOINT
from spectralgpt_hf.data.shards.format import ShardFile, find_shards
from spectralgpt_hf.data.shards.prepare import prepare_shards
from spectralgpt_hf.hub import publish
from spectralgpt_hf.hub.cards import card_for
from spectralgpt_hf.hub.checks import check_checkpoint
from spectralgpt_hf.inference import predict_scene
from spectralgpt_hf.modeling.modeling_spectralgpt import group_wavelengths
from spectralgpt_hf.modeling.rasters import read_raster
from spectralgpt_hf.serving.endpoint_handler import EndpointHandler
from tests.commands.test_pretrain import SMALL
from tests.commands.test_train import run as fine_tune
from tests.data.files import write_image
from tests.hub.test_publish import hub, quick  # noqa: F401
from tests.modeling.products import write_geotiff


BANDS = ["B1", "B2", "B3", "B4", "B5", "B6", "B7"]
SIDE = 48


def write_scene(folder: Path, seed: int) -> Path:
    """Write a Landsat product of blotches, as stored: reflectance = stored x 2.75e-5 - 0.2."""
    generator = np.random.default_rng(seed)
    blotches = np.kron(generator.random((len(BANDS), 6, 6)), np.ones((8, 8)))
    stored = np.rint((0.05 + 0.3 * blotches + 0.2) / 2.75e-5).astype(np.uint16)
    name = f"LC08_L2SP_193026_202203{seed + 10}_20220321_02_T1"
    for band, pixels in zip(BANDS, stored):
        write_geotiff(folder / name / f"{name}_SR_{band}.TIF", pixels[None], 30, nodata=0)
    return folder / name


@pytest.fixture(scope="module")
def scenes(tmp_path_factory) -> list[Path]:
    folder = tmp_path_factory.mktemp("scenes")
    for seed in range(3):
        (folder / f"LC08_L2SP_193026_202203{seed + 10}_20220321_02_T1").mkdir()
    return [write_scene(folder, seed) for seed in range(3)]


@pytest.fixture(scope="module")
def shards(scenes, tmp_path_factory) -> Path:
    return prepare_shards(scenes, tmp_path_factory.mktemp("shards") / "s", sensor="landsat-8", size=24, num_workers=1)


def pretrain(output: Path, *arguments: object) -> Path:
    handler = signal.getsignal(signal.SIGTERM)
    for state in (AcceleratorState, GradientState, PartialState):
        state._reset_state()
    options = ["--log_every=1", "--num_workers=1", "--mixed_precision=no", "--batch_size=4", "--image_size=16"]
    main = importlib.import_module("spectralgpt_hf.commands.pretrain").main
    main([*options, "--steps=2", f"--output_dir={output}", *map(str, arguments)])
    signal.signal(signal.SIGTERM, handler)
    return output / "model"


@pytest.fixture(scope="module")
def pretrained(shards, tmp_path_factory) -> Path:
    own = ["--sensor=landsat-8", "--bands", *BANDS, "--config_overrides", json.dumps(SMALL)]
    return pretrain(tmp_path_factory.mktemp("run"), f"--data={shards}", "--normalization=zscore", *own)


@pytest.fixture(scope="module")
def tuned(scenes, pretrained, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("labelled")
    for number, scene in enumerate(scenes):
        raster = read_raster(scene, expected="landsat-8", resolution=None)
        (folder / "images").mkdir(exist_ok=True)
        (folder / "masks").mkdir(exist_ok=True)
        path = write_geotiff(
            folder / "images" / f"{number}.tif", np.rint(raster.pixels).astype(np.uint16), 30, names=BANDS
        )
        with rasterio.open(path, "r+") as dataset:
            dataset.update_tags(SATELLITE="LANDSAT_8")
        write_image(folder / "masks" / f"{number}.png", (raster.pixels[4] > 2000).astype(np.uint8))
    output = tmp_path_factory.mktemp("tuned")
    options = {"config_name": None, "model_name_or_path": pretrained, "config_overrides": None, "image_size": 16}
    fine_tune("segmentation", output, folder, num_train_epochs=1, **options)
    return output / "model"


def test_shards_hold_digital_numbers_of_the_sensors_own_grid(shards):
    with ShardFile(find_shards(shards)[0]) as shard:
        table = shard.read_row_group(0)
    row = table.slice(0, 1).to_pylist()[0]
    assert row["bands"] == BANDS
    assert row["shape"] == [7, 24, 24]
    assert row["transform"][0] == 30
    card = (shards / "README.md").read_text()
    assert "chips cut from scenes of Landsat 8/9 OLI" in card
    assert "- landsat-8" in card
    assert "entinel" not in card


def test_other_sensors_are_left_out_and_named(scenes, tmp_path):
    with pytest.raises(ValueError, match="an image of Landsat 8/9 OLI"):
        prepare_shards(scenes, tmp_path / "s", size=24, num_workers=1)


@pytest.mark.slow
def test_pretraining_saves_a_checkpoint_of_the_sensor_with_its_card(pretrained):
    model = SpectralGPTForPreTraining.from_pretrained(pretrained)
    assert (model.config.sensor, model.config.bands, model.config.num_groups) == ("landsat-8", BANDS, 3)
    card = (pretrained / "README.md").read_text()
    assert "for Landsat 8/9 OLI" in card
    assert "- landsat-8" in card
    assert "sentinel-2" not in card_for(model.config)
    processor = SpectralGPTImageProcessor.from_pretrained(pretrained)
    assert (processor.sensor, processor.bands, processor.normalization) == ("landsat-8", BANDS, "zscore")
    check_checkpoint(pretrained)


def test_a_sentinel_2_checkpoint_is_where_a_landsat_run_may_start(shards, tmp_path):
    own = ["--sensor=landsat-8", "--bands", *BANDS, "--image_size=64", "--steps=1", "--base_learning_rate=1e-9"]
    before = SpectralGPTForPreTraining.from_pretrained(CHECKPOINT)
    before.resize_bands(BANDS, sensor="landsat-8")
    after = SpectralGPTForPreTraining.from_pretrained(
        pretrain(tmp_path, f"--data={shards}", f"--model_name_or_path={CHECKPOINT}", *own)
    )
    assert group_wavelengths(after.config) == group_wavelengths(before.config)
    for name in ("spectralgpt.embeddings.position_embeddings.spectral_position_embeddings", "decoder.embed.weight"):
        torch.testing.assert_close(after.state_dict()[name], before.state_dict()[name], rtol=1e-3, atol=1e-3)


@pytest.mark.slow
def test_a_fine_tuned_model_maps_a_scene_of_its_sensor(tuned, scenes, tmp_path):
    model = SpectralGPTForSemanticSegmentation.from_pretrained(tuned).eval()
    processor = SpectralGPTImageProcessor.from_pretrained(tuned)
    assert (model.config.sensor, processor.sensor) == ("landsat-8", "landsat-8")
    with rasterio.open(predict_scene(model, processor, scenes[0], tmp_path / "map.tif", progress=False)) as file:
        assert file.shape == (SIDE, SIDE)
        assert file.tags()["sensor"] == "Landsat 8/9 OLI"


@pytest.mark.slow
def test_a_published_checkpoint_loads_with_the_bands_of_its_sensor(hub, quick, pretrained, tmp_path):  # noqa: F811
    publish(pretrained, "org/spectralgpt-landsat")
    source = {"pretrained_model_name_or_path": "org/spectralgpt-landsat", "cache_dir": tmp_path / "cache"}
    model, processor = (
        SpectralGPTForPreTraining.from_pretrained(**source),
        SpectralGPTImageProcessor.from_pretrained(**source),
    )
    assert model.config.band_settings() == SpectralGPTForPreTraining.from_pretrained(pretrained).config.band_settings()
    assert (processor.sensor, processor.bands) == ("landsat-8", BANDS)
    assert b"Landsat 8/9 OLI" in hub.repositories["org/spectralgpt-landsat"].files["README.md"]


@pytest.mark.slow
def test_the_endpoint_takes_files_of_the_sensor(tuned, scenes, tmp_path, monkeypatch):
    raster = read_raster(scenes[0], expected="landsat-8", resolution=None)
    path = write_geotiff(tmp_path / "a.tif", np.rint(raster.pixels).astype(np.uint16), 30, names=BANDS)
    with rasterio.open(path, "r+") as dataset:
        dataset.update_tags(SATELLITE="LANDSAT_8")
    monkeypatch.setenv("GDAL_SKIP", "VRT")  # GDAL has its drivers already in this process
    handler = EndpointHandler(str(tuned))
    answer = handler({"inputs": base64.b64encode(path.read_bytes()).decode()})
    assert {entry["label"] for entry in answer["labels"]} <= {"0", "1"}
