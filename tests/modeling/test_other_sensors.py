"""Models whose own sensor is another than Sentinel-2, and models that are turned into such."""

import copy

import numpy as np
import pytest
import rasterio
import torch

from spectralgpt_hf import (
    Band,
    Sensor,
    SpectralGPTConfig,
    SpectralGPTForImageClassification,
    SpectralGPTForPreTraining,
    SpectralGPTForSemanticSegmentation,
    SpectralGPTImageProcessor,
    SpectralGPTModel,
)
from spectralgpt_hf.inference import embed_scene, predict_scene
from spectralgpt_hf.modeling.band_plan import require_same_bands
from spectralgpt_hf.modeling.bands import L2A_BANDS
from spectralgpt_hf.modeling.modeling_spectralgpt import group_wavelengths, spectral_interpolation
from spectralgpt_hf.modeling.pipeline_spectralgpt import MultispectralImageSegmentationPipeline
from tests.modeling.other_products import landsat_9_folder, reflectance
from tests.modeling.products import write_geotiff
from tests.sizes import SMALL


SIZES = SMALL | {"image_size": 32, "decode_hidden_size": 16}
LANDSAT = ["B1", "B2", "B3", "B4", "B5", "B6", "B7"]
DRONE = {"sensor": "drone", "bands": ["blue", "green", "red", "edge", "nir"], "wavelengths": [475, 560, 668, 717, 842]}


def build(model_class, **options):
    torch.manual_seed(0)
    return model_class(SpectralGPTConfig(**SIZES, **options)).eval()


def test_the_bands_of_a_known_sensor_come_from_its_table_in_ascending_order():
    config = SpectralGPTConfig(sensor="landsat-8")
    assert config.bands == ["B1", "B2", "B3", "B4", "B5", "B9", "B6", "B7"]
    assert config.wavelengths == sorted(config.wavelengths)
    assert (config.num_channels, config.num_groups) == (8, 3)
    assert SpectralGPTConfig().wavelengths[:3] == [442.7, 492.7, 559.8]


def test_a_sensor_of_ones_own_survives_saving(tmp_path):
    config = SpectralGPTConfig(**DRONE)
    config.save_pretrained(tmp_path)
    reloaded = SpectralGPTConfig.from_pretrained(tmp_path)
    assert reloaded.band_settings() == config.band_settings() == DRONE
    assert reloaded.expected_sensor.band("edge").wavelength == 717
    assert SpectralGPTImageProcessor(**config.band_settings()).expected == config.expected_sensor


def test_a_processor_of_other_tokens_pads_and_masks_by_their_size():
    config = SpectralGPTConfig(**DRONE, patch_size=3, spectral_patch_size=2, image_size=12)
    processor = SpectralGPTImageProcessor(**config.band_settings())
    assert (processor.patch_size, processor.spectral_patch_size) == (3, 2)
    pixels = np.ones((5, 12, 12), np.float32) * np.linspace(100, 5000, 12)
    pixels[:, :, :3] = 0
    batch = processor(pixels, band_names=DRONE["bands"])
    assert batch["pixel_values"].shape == (1, 5, 12, 12)
    assert batch["attention_mask"].shape == (1, 3 * 16)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({**DRONE, "wavelengths": DRONE["wavelengths"][::-1]}, "`wavelengths` must be in ascending order"),
        ({**DRONE, "wavelengths": None}, "`wavelengths` must be a wavelength in nm for each of the 5 bands"),
        ({**DRONE, "wavelengths": [475, 560]}, "Expected a wavelength for each of the 5 bands, found 2"),
        ({"sensor": "landsat-8", "bands": ["B5", "B4"]}, "`wavelengths` must be in ascending order"),
        ({"sensor": "landsat-8", "bands": ["B8A"]}, "Unknown band 'B8A'"),
        ({"sensor": "aviris"}, "`bands` must be a list of 12 names"),
    ],
)
def test_bands_that_do_not_ascend_or_have_no_wavelength_are_refused(wrong, message):
    with pytest.raises(ValueError, match=message):
        SpectralGPTConfig(**wrong)


def test_the_last_group_is_padded_with_a_band_that_counts_in_no_loss():
    model = build(SpectralGPTForPreTraining, **DRONE)
    pixels, noise = torch.rand(2, 5, 32, 32), torch.rand(2, 2 * 16)
    outputs = model(pixels, noise=noise)
    assert outputs.logits.shape == (2, 32, 3 * 64)
    assert model.reconstruct(pixels, noise=noise).shape == pixels.shape
    grid, other = (2, 4, 4), outputs.logits.clone()
    other[:, 16:, 2 * 64 :] = 1e3  # what is predicted of the band that is not there
    losses = [model.reconstruction_losses(pixels, logits, outputs.mask, grid) for logits in (outputs.logits, other)]
    assert losses[0] == losses[1]
    # Of a token with two bands, the error is the mean over these two.
    error = torch.zeros_like(outputs.logits)
    error[:, 16:] = 1.0
    token_loss, _ = model.reconstruction_losses(torch.zeros_like(pixels), error, torch.ones(2, 32), grid)
    torch.testing.assert_close(token_loss, torch.tensor(0.5))


def test_norm_pix_loss_standardises_the_bands_that_there_are():
    model = build(SpectralGPTForPreTraining, norm_pix_loss=True, **DRONE)
    target, filled = torch.rand(1, 1, 192), torch.arange(192)[None] < 128
    mean, scale = model.target_statistics(target * filled, filled)
    torch.testing.assert_close(mean[0, 0, 0], target[0, 0, :128].mean())
    torch.testing.assert_close(scale[0, 0, 0] ** 2, target[0, 0, :128].var() + 1e-6)


@pytest.mark.parametrize("bands", [["450nm"], [f"{wavelength}nm" for wavelength in range(400, 1000, 30)]])
def test_any_number_of_bands_makes_a_model(bands):
    model = build(SpectralGPTForImageClassification, sensor="aviris", bands=bands, num_labels=3)
    logits = model(torch.rand(1, len(bands), 32, 32)).logits
    assert logits.shape == (1, 3)
    assert torch.isfinite(logits).all()


def test_another_number_of_bands_than_the_configuration_has_must_fill_its_groups():
    model = build(SpectralGPTModel, **DRONE)
    assert model(torch.rand(1, 6, 32, 32)).last_hidden_state.shape == (1, 32, 48)
    with pytest.raises(ValueError, match="number of bands must be a multiple of 3"):
        model(torch.rand(1, 4, 32, 32))


@pytest.mark.parametrize("model_class", [SpectralGPTForPreTraining, SpectralGPTForSemanticSegmentation])
def test_the_same_bands_give_the_same_model_bit_for_bit(model_class):
    model = build(model_class)
    before, config = copy.deepcopy(model.state_dict()), model.config.to_dict()
    model.resize_bands(L2A_BANDS)
    assert model.config.to_dict() == config
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_spectral_positions_are_interpolated_between_wavelengths_not_indices():
    model = build(SpectralGPTForPreTraining)
    old = model.spectralgpt.embeddings.position_embeddings.spectral_position_embeddings[0].detach().clone()
    projection = model.spectralgpt.embeddings.patch_embeddings.weight.detach().clone()
    known = group_wavelengths(model.config)
    model.resize_bands(LANDSAT, sensor="landsat-8")
    new = model.spectralgpt.embeddings.position_embeddings.spectral_position_embeddings[0]
    assert new.shape == (3, 48)
    # B1 to B3 are the three bands of the first group, a little more blue: beyond the outermost group that one counts.
    assert np.mean([443.0, 482.0, 561.4]) < known[0]
    torch.testing.assert_close(new[0], old[0])
    share = (np.mean([654.6, 864.7, 1608.9]) - known[2]) / (known[3] - known[2])
    torch.testing.assert_close(new[1], old[2].lerp(old[3], float(share)))
    assert torch.equal(model.spectralgpt.embeddings.patch_embeddings.weight, projection)
    assert model.decoder.config.bands == model.config.bands == LANDSAT
    assert model.config.sensor == model.decoder.config.sensor == "landsat-8"
    assert model(torch.rand(1, 7, 32, 32)).loss.isfinite()


def test_group_fusion_keeps_the_sum_of_its_weights():
    model = build(SpectralGPTForSemanticSegmentation)
    model.resize_bands(LANDSAT, sensor="landsat-8")
    torch.testing.assert_close(model.decode_head.group_fusion.weight.sum(), torch.tensor(1.0))
    assert model(torch.rand(1, 7, 32, 32)).logits.shape == (1, 2, 32, 32)


def test_a_pseudo_band_has_no_wavelength_and_keeps_its_position():
    assert torch.equal(spectral_interpolation([500, None], [500, None]), torch.eye(2))
    assert spectral_interpolation([500, 600, None], [550, None]).tolist() == [[0.5, 0.5, 0], [0, 1, 0]]
    assert spectral_interpolation([500, 600], [400, 700]).tolist() == [[1, 0], [0, 1]]
    assert spectral_interpolation([700, 500], [600]).tolist() == [[0.5, 0.5]]  # groups in any order


@pytest.mark.parametrize("bands", [["B4", "B44"], ["B5", "B4"]])
def test_a_refused_resize_changes_nothing(bands):
    model = build(SpectralGPTForPreTraining)
    before, config = copy.deepcopy(model.state_dict()), model.config.to_dict()
    with pytest.raises(ValueError, match=r"B44|ascending"):
        model.resize_bands(bands, sensor="landsat-8")
    assert model.config.to_dict() == config
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_a_processor_of_another_sensor_is_refused_although_the_names_are_the_same():
    message = "bands of the sensor 'landsat-8', but the processor gives those of 'sentinel-2'"
    with pytest.raises(ValueError, match=message):
        require_same_bands(["B2"], ["B2"], ("landsat-8", "sentinel-2"))


def test_a_landsat_model_maps_a_landsat_scene_in_its_own_pixels(tmp_path):
    model = build(SpectralGPTForSemanticSegmentation, sensor="landsat-8", bands=LANDSAT, num_labels=3)
    model.save_pretrained(tmp_path / "model")
    SpectralGPTImageProcessor(**model.config.band_settings()).save_pretrained(tmp_path / "model")
    model = SpectralGPTForSemanticSegmentation.from_pretrained(tmp_path / "model").eval()
    processor = SpectralGPTImageProcessor.from_pretrained(tmp_path / "model")
    (tmp_path / "scene").mkdir()
    scene = landsat_9_folder(tmp_path / "scene").source
    destination = predict_scene(model, processor, scene, tmp_path / "map.tif", progress=False)
    with rasterio.open(destination) as file:
        assert (file.width, file.res) == (32, (30.0, 30.0))
        assert file.tags()["sensor"] == "Landsat 8/9 OLI"
        assert "radiometry" in file.tags()
        expected = file.read(1)
    run = MultispectralImageSegmentationPipeline(model=model, image_processor=processor)
    statistics = processor.measure_statistics(scene)
    np.testing.assert_array_equal(run(str(scene), statistics=statistics)["map"].pixels[0], expected)
    path = write_geotiff(tmp_path / "S2.tif", np.ones((1, 8, 8), np.uint16), names=["B8A"])
    with pytest.raises(ValueError, match="an image of Sentinel-2, but expected Landsat 8/9 OLI"):
        run(str(path), sensor="sentinel-2")


def test_a_sentinel_2_model_maps_a_landsat_scene_by_wavelength_and_says_so(tmp_path):
    model = build(SpectralGPTForSemanticSegmentation, num_labels=3)
    processor = SpectralGPTImageProcessor()
    (tmp_path / "scene").mkdir()
    scene = landsat_9_folder(tmp_path / "scene").source
    with pytest.raises(ValueError, match="an image of Landsat"):
        predict_scene(model, processor, scene, tmp_path / "map.tif", progress=False)
    options = {"match": "wavelength", "progress": False}
    destination = predict_scene(model, processor, scene, tmp_path / "map.tif", **options)
    with rasterio.open(destination) as file:
        assert file.tags()["source_sensor"] == "Landsat 8/9 OLI"
        assert '"B8A": "B5 (864.7 nm)"' in file.tags()["matched_bands"]
        expected = file.read(1)
    run = MultispectralImageSegmentationPipeline(model=model, image_processor=processor)
    result = run(str(scene), match="wavelength")["map"]
    np.testing.assert_array_equal(result.pixels[0], expected)
    assert result.tags["source_sensor"] == "Landsat 8/9 OLI"
    features = embed_scene(model.spectralgpt, processor, scene, tmp_path / "features.tif", **options)
    with rasterio.open(features) as file:
        assert file.tags()["source_sensor"] == "Landsat 8/9 OLI"


def test_a_processor_for_a_drone_takes_its_arrays_without_names_in_its_order():
    processor = SpectralGPTImageProcessor(**DRONE)
    pixels = np.stack([1e4 * reflectance(number) for number in range(5)])
    with pytest.warns(UserWarning, match="5 unnamed bands are assumed to be blue green red edge nir"):
        batch = processor(pixels)
    assert batch["pixel_values"].shape == (1, 5, 32, 32)
    masked = SpectralGPTImageProcessor(**DRONE, missing_bands="mask")
    tokens = masked(pixels[:3], band_names=["blue", "green", "red"])["attention_mask"].view(2, 16)
    assert tokens[0].all()
    assert not tokens[1].any()
    own = Sensor("drone", tuple(Band(*pair) for pair in zip(DRONE["bands"], DRONE["wavelengths"])))
    assert processor(pixels, sensor=own)["pixel_values"].shape == (1, 5, 32, 32)
