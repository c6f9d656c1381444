"""The image processor: what it makes of bands, offsets, missing data and sizes, on arrays and real files."""

import json
import re
import warnings
from collections import defaultdict
from collections.abc import Mapping
from types import SimpleNamespace

import numpy as np
import pytest
import rasterio
import torch
from PIL import Image
from rasterio.transform import from_origin
from transformers.models.auto.image_processing_auto import AutoImageProcessor

from spectralgpt_hf import SpectralGPTConfig, SpectralGPTImageProcessor, SpectralGPTModel
from spectralgpt_hf.modeling.band_plan import plan_bands, require_same_bands
from spectralgpt_hf.modeling.bands import EUROSAT_FILE_BANDS, L1C_BANDS, L2A_BANDS, SEGMUNICH_BANDS
from spectralgpt_hf.modeling.chips import open_chips
from spectralgpt_hf.modeling.geometry import token_validity
from spectralgpt_hf.modeling.image_processing_spectralgpt import measure_statistics
from spectralgpt_hf.modeling.pixel_statistics import minimum_maximum
from spectralgpt_hf.modeling.radiometry import stack_chips
from spectralgpt_hf.modeling.rasters import Raster


@pytest.fixture(autouse=True)
def no_unexpected_warning():
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        # Most images here are arrays without names; one test is about this warning.
        warnings.filterwarnings("ignore", "(?s).*1[02] unnamed bands are assumed to be")
        yield


def image(bands: int = 12, height: int = 32, width: int = 32, seed: int = 0, dtype: type = np.uint16) -> np.ndarray:
    return np.random.default_rng(seed).integers(100, 8000, (bands, height, width)).astype(dtype)


def minmax(pixels: np.ndarray) -> np.ndarray:
    """MODEL.md's formula, band by band."""
    pixels = pixels.astype(np.float32)
    low, high = (extreme(pixels, axis=(1, 2), keepdims=True) for extreme in (np.min, np.max))
    return (pixels - low) / (high - low + np.float32(1e-10))


def write(path, pixels, bands=None, nodata=None, crs="EPSG:32633"):
    profile = {"count": len(pixels), "height": pixels.shape[1], "width": pixels.shape[2], "dtype": pixels.dtype}
    transform = from_origin(400_000, 5_000_000, 10, 10)
    with rasterio.open(path, "w", driver="GTiff", crs=crs, transform=transform, nodata=nodata, **profile) as file:
        file.write(pixels)
        if bands is not None:
            file.descriptions = bands
    return path


# Values


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int16, np.uint32, np.float32, np.float64, ">u2"])
def test_minmax_takes_every_band_to_zero_and_one_in_any_dtype(dtype):
    pixels = (image() % 200 + 20).astype(dtype)
    values = SpectralGPTImageProcessor()(pixels, return_tensors="pt").pixel_values
    assert values.dtype == torch.float32
    np.testing.assert_array_equal(values[0].numpy(), minmax(pixels))


def test_the_upper_half_of_16_bits_is_not_taken_for_negative():
    pixels = image()
    pixels[3, 5, 5] = 65534
    np.testing.assert_array_equal(SpectralGPTImageProcessor()(pixels).pixel_values[0].numpy(), minmax(pixels))


@pytest.mark.parametrize("normalization", ["minmax", "percentile", "zscore", "sigma_clip"])
def test_an_image_gives_the_same_alone_and_in_a_batch_of_other_types(normalization):
    statistics = {"mean": [2000.0] * 12, "std": [900.0] * 12} if normalization in ("zscore", "sigma_clip") else {}
    processor = SpectralGPTImageProcessor(normalization=normalization, **statistics)
    images = [image(seed=0), image(seed=1).astype(np.float32), torch.from_numpy(image(seed=2)), image(seed=3)]
    images[3][:, :8] = 0  # no data
    batch = processor(images)
    assert batch.pixel_values.shape == (4, 12, 32, 32)
    assert batch.attention_mask.sum(1).tolist() == [64, 64, 64, 48]
    for i, single in enumerate(images):
        torch.testing.assert_close(processor(single).pixel_values[0], batch.pixel_values[i], rtol=0, atol=0)


def test_many_images_are_processed_in_chunks_without_a_seam():
    images = [image(seed=i, height=64, width=64) for i in range(120)]
    values = SpectralGPTImageProcessor()(np.stack(images)).pixel_values
    for i in (0, 84, 85, 86, 119):
        np.testing.assert_array_equal(values[i].numpy(), minmax(images[i]))


def test_percentiles_are_those_of_numpy_over_the_valid_pixels_and_are_not_clipped():
    pixels, mask = image(), np.random.default_rng(1).random((32, 32)) > 0.3
    values = SpectralGPTImageProcessor(normalization="percentile")(pixels, mask=mask).pixel_values[0].numpy()
    low, high = np.percentile(pixels[:, mask].astype(np.float64), [1, 99], axis=1)[..., None]
    expected = (pixels[:, mask] - low) / (high - low)
    np.testing.assert_allclose(values[:, mask], expected, atol=1e-5)
    assert values.min() < 0
    assert values.max() > 1


def test_sigma_clip_clips_at_two_deviations_and_floors_to_8_bits():
    mean, std = [2000.0] * 12, [500.0] * 12
    processor = SpectralGPTImageProcessor(normalization="sigma_clip", mean=mean, std=std)
    pixels = np.full((12, 8, 8), 2000, np.uint16)
    pixels[0, 0, :4] = 900, 1500, 2004, 5000
    expected = np.array([0, 63, 127, 255]) / 255  # (x - 1000) / 2000 * 255 = 63.75 and 128.01
    expected[2] = 128 / 255
    np.testing.assert_allclose(processor(pixels).pixel_values[0, 0, 0, :4].numpy(), expected, atol=1e-6)


def test_a_constant_band_becomes_zero():
    pixels = image()
    pixels[4] = 1234
    for normalization in ("minmax", "percentile"):
        values = SpectralGPTImageProcessor(normalization=normalization)(pixels).pixel_values
        assert values[0, 4].abs().max() == 0
        assert values.isfinite().all()


def test_a_band_that_is_constant_but_for_a_few_pixels_has_no_percentile_range_and_becomes_zero():
    pixels = image()
    pixels[4] = 1234
    pixels[4, 0, 0] = 9999
    assert SpectralGPTImageProcessor(normalization="percentile")(pixels).pixel_values[0, 4].abs().max() == 0


# Bands


def test_bands_go_by_name_whatever_their_order_and_spelling():
    pixels, processor = image(), SpectralGPTImageProcessor()
    order = np.random.default_rng(0).permutation(12)
    names = ["coastal", "Blue", "b03", "RED", "B05", "B06", "B07", "nir", "nir_narrow", "B09", "swir16", "B12"]
    shuffled = processor(pixels[order], band_names=[names[i] for i in order])
    torch.testing.assert_close(shuffled.pixel_values, processor(pixels).pixel_values, rtol=0, atol=0)


@pytest.mark.parametrize("named_in_file", [True, False])
def test_eurosat_order_gives_the_same_input_as_standard_order(named_in_file, tmp_path):
    pixels = image(bands=13)
    eurosat = pixels[[L1C_BANDS.index(band) for band in EUROSAT_FILE_BANDS]]
    processor = SpectralGPTImageProcessor()
    path = write(tmp_path / "Forest_1.tif", eurosat, EUROSAT_FILE_BANDS if named_in_file else None)
    bands = {} if named_in_file else {"band_names": EUROSAT_FILE_BANDS}
    values = processor(path, offset=0, **bands).pixel_values
    expected = processor(pixels, band_names=L1C_BANDS, offset=0).pixel_values
    torch.testing.assert_close(values, expected, rtol=0, atol=0)
    np.testing.assert_array_equal(values[0].numpy(), minmax(np.delete(pixels, 10, axis=0)))


def test_13_unnamed_bands_are_taken_for_l1c_with_a_warning_and_other_counts_are_refused():
    processor = SpectralGPTImageProcessor()
    with pytest.warns(UserWarning, match=r"image 0: 13 unnamed bands are assumed to be those of an L1C.*`band_names=`"):
        values = processor(image(bands=13), offset=0).pixel_values
    assert values.shape[1] == 12
    with pytest.raises(ValueError, match=r"image 0: 5 unnamed bands.*expected 12 \(B1 B2.*Pass `band_names=`"):
        processor(image(bands=5))
    with pytest.raises(ValueError, match=r"a name for each of the 12 bands \(`band_names`\), found 3: B2 B3 B4"):
        processor(image(), band_names=["B2", "B3", "B4"])


def test_12_unnamed_bands_are_assumed_with_one_warning_per_call():
    with warnings.catch_warnings(record=True) as record:
        warnings.simplefilter("always")
        _, (report, _) = SpectralGPTImageProcessor()([image(), image(seed=1)], report=True)
        SpectralGPTImageProcessor()(image(), band_names=L2A_BANDS)
    (warning,) = record
    assert re.match(r"image 0, image 1: 12 unnamed bands are assumed to be B1 B2 .*`band_names=`", str(warning.message))
    assert report.assumed in str(warning.message)


def test_missing_bands_are_refused_by_default():
    with pytest.raises(ValueError, match=r"missing: B1 B9.*`missing_bands`.: nearest"):
        SpectralGPTImageProcessor()(image(bands=10), band_names=SEGMUNICH_BANDS)


@pytest.mark.parametrize(
    ("policy", "stand_in"), [("nearest", lambda pixels: pixels[0]), ("mean", lambda pixels: pixels.mean(0))]
)
def test_a_missing_band_is_replaced_with_a_warning_that_says_by_what(policy, stand_in):
    pixels = image(bands=10)
    with pytest.warns(UserWarning, match="missing bands were replaced: B1 by") as record:
        values = SpectralGPTImageProcessor(missing_bands=policy)([pixels, pixels], band_names=SEGMUNICH_BANDS)
    assert len(record) == 1
    expected = minmax(stand_in(pixels.astype(np.float32))[None])
    np.testing.assert_allclose(values.pixel_values[0, :1].numpy(), expected, atol=1e-6)
    assert "attention_mask" not in values


def test_groups_without_any_of_their_bands_are_masked():
    bands = [band for band in L2A_BANDS if band not in ("B1", "B2", "B3", "B5")]
    with pytest.warns(UserWarning, match="missing bands were replaced"):
        batch = SpectralGPTImageProcessor(missing_bands="mask")(image(bands=8), band_names=bands)
    assert batch.attention_mask.view(4, 16).amin(1).tolist() == [0, 1, 1, 1]
    assert batch.attention_mask.view(4, 16).amax(1).tolist() == [0, 1, 1, 1]
    assert batch.pixel_values.isfinite().all()


def test_the_pseudo_band_is_the_mean_of_the_others():
    pixels = image(bands=10)
    processor = SpectralGPTImageProcessor(bands=(*SEGMUNICH_BANDS, "mean", "mean"))
    values = processor(pixels).pixel_values[0].numpy()
    np.testing.assert_allclose(values[10:], minmax(pixels.astype(np.float32).mean(0)[None]).repeat(2, 0), atol=1e-6)
    np.testing.assert_array_equal(values[:10], minmax(pixels))


# Radiometry

EUROSAT_MEAN = dict(zip(L1C_BANDS, (752.40, 884.30, 1144.16, 1297.47, 1624.91, 2194.64, 2422.21, 2517.76, 2581.65)))
ZSCORE = {
    "normalization": "zscore",
    "mean": {**EUROSAT_MEAN, "B9": 2645.52, "B10": 582.73, "B11": 2368.51, "B12": 1805.07},
    "std": dict.fromkeys(L1C_BANDS, 1300.0),
}


@pytest.mark.parametrize("offset", [-1000, dict.fromkeys(L1C_BANDS, -1000), [-1000] * 13])
def test_a_chip_with_an_offset_gives_the_same_zscored_input_when_the_offset_is_given(offset):
    pixels, processor = image(bands=13), SpectralGPTImageProcessor(**ZSCORE)
    plain = processor(pixels, band_names=L1C_BANDS, offset=0).pixel_values
    shifted = processor(pixels + 1000, band_names=L1C_BANDS, offset=offset).pixel_values
    torch.testing.assert_close(shifted, plain, rtol=0, atol=0)
    expected = (pixels[11].astype(np.float32) - np.float32(2368.51)) / np.float32(1300)
    np.testing.assert_allclose(plain[0, 10].numpy(), expected, rtol=1e-6)


def test_b10_shows_an_offset_that_nothing_states_and_is_not_guessed_away():
    pixels, processor = image(bands=13), SpectralGPTImageProcessor(**ZSCORE)
    pixels[10] = 1010
    with pytest.warns(UserWarning, match=r"image 0: the median of B10 is 900 or more.*pass `offset=-1000`"):
        values = processor(pixels, band_names=L1C_BANDS).pixel_values
    torch.testing.assert_close(values, processor(pixels, band_names=L1C_BANDS, offset=0).pixel_values, rtol=0, atol=0)
    pixels[10] = 30
    processor(pixels, band_names=L1C_BANDS)


def test_real_chips_with_an_unstated_offset_are_recognised(shared_data):
    processor = SpectralGPTImageProcessor()
    for path in sorted((shared_data / "chips_worldwide" / "L1C").glob("*.tif")):
        with warnings.catch_warnings(record=True) as record:
            warnings.simplefilter("always")
            processor(path)
        noticed = any("the median of B10" in str(warning.message) for warning in record)
        assert noticed == path.name.startswith(("282D_485L", "433D_629L", "609U_541L")), path.name


@pytest.mark.parametrize(("factor", "words"), [(1e-4, "10,000 times too small"), (1e4, "10,000 times too large")])
def test_values_of_another_unit_raise_one_warning_for_a_batch_and_are_not_changed(factor, words):
    processor = SpectralGPTImageProcessor(**ZSCORE)
    images = [(image(seed=i) * factor).astype(np.float32) for i in range(5)]
    with pytest.warns(UserWarning, match=rf"image 0, image 1, image 2 and 2 more: .*{words}") as record:
        values = processor(images, band_names=L2A_BANDS).pixel_values
    assert len(record) == 1
    np.testing.assert_allclose(values[0, 0].numpy(), (images[0][0] - 752.4) / 1300, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("value", [-2e6, 9.9e37, -3.4e38])
def test_a_fill_value_that_nothing_declares_is_noticed_or_refused(value):
    pixels = image().astype(np.float32)
    pixels[:, 3] = value
    if value == -2e6:
        with pytest.warns(UserWarning, match="or pass `nodata=`"):
            assert SpectralGPTImageProcessor()(pixels).pixel_values.isfinite().all()
    else:
        with pytest.raises(ValueError, match=r"image 0: values reach .*pass `nodata=`"):
            SpectralGPTImageProcessor()(pixels)
    SpectralGPTImageProcessor()(pixels, nodata=float(pixels[0, 3, 0]))


def test_negative_reflectance_is_kept():
    pixels = image(dtype=np.int16) - 4000
    np.testing.assert_array_equal(SpectralGPTImageProcessor()(pixels).pixel_values[0].numpy(), minmax(pixels))


def test_given_statistics_are_one_radiometry_for_all_parts_of_a_scene(tmp_path):
    scene = image(height=64, width=64)
    scene[0, :8, :8] = 60000  # a cloud
    processor = SpectralGPTImageProcessor(statistics_scope="given")
    statistics = processor.measure_statistics(write(tmp_path / "scene.tif", scene, L2A_BANDS))
    statistics = json.loads(json.dumps(statistics))
    np.testing.assert_allclose(statistics["percentile_99"], np.percentile(scene, 99, axis=(1, 2)), rtol=1e-5)
    np.testing.assert_allclose(statistics["std"], scene.std((1, 2)), rtol=1e-4)
    assert statistics["maximum"][0] == 60000
    assert statistics["pixels"] == 64 * 64
    tiles = [scene[:, :32], scene[:, 32:]]
    values = processor(tiles, statistics=statistics).pixel_values
    low, high = np.percentile(scene, [1, 99], axis=(1, 2))[..., None, None]
    expected = (np.stack(tiles) - low) / (high - low)
    np.testing.assert_allclose(values.numpy(), expected, rtol=1e-4, atol=1e-4)
    with pytest.raises(ValueError, match="measure them once"):
        processor(tiles)
    SpectralGPTImageProcessor(statistics_scope="given", statistics=statistics).save_pretrained(tmp_path)
    saved = SpectralGPTImageProcessor.from_pretrained(tmp_path)
    assert not saved.measures_pixels
    assert torch.equal(saved(tiles).pixel_values, values)
    with pytest.raises(ValueError, match="lack B1, B9"):
        processor(tiles, statistics=measure_statistics(image(bands=10), SEGMUNICH_BANDS))


def test_the_scope_decides_whether_saved_statistics_count():
    pixels = image()
    statistics = measure_statistics(image(seed=1) + 500)
    image_scope = SpectralGPTImageProcessor(statistics=statistics)
    assert image_scope.measures_pixels
    np.testing.assert_array_equal(image_scope(pixels).pixel_values[0].numpy(), minmax(pixels))
    given_scope = SpectralGPTImageProcessor(statistics_scope="given", statistics=statistics)
    assert not given_scope.measures_pixels
    expected = given_scope(pixels).pixel_values
    torch.testing.assert_close(image_scope(pixels, statistics=statistics).pixel_values, expected, rtol=0, atol=0)


def test_each_image_can_have_statistics_of_its_own_or_none():
    images, statistics = [image(seed=0), image(seed=1), image(seed=2)], measure_statistics(image(seed=3) + 500)
    processor = SpectralGPTImageProcessor()
    values = processor(images, statistics=[None, statistics, None]).pixel_values
    for pixels, entry, value in zip(images, (None, statistics, None), values):
        torch.testing.assert_close(processor(pixels, statistics=entry).pixel_values[0], value, rtol=0, atol=0)
    assert not torch.equal(values[1], processor(images[1]).pixel_values[0])
    with pytest.raises(ValueError, match="measure them once"):
        SpectralGPTImageProcessor(statistics_scope="given")(images, statistics=[None, statistics, None])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"percentile_99": None}, "expected 'percentile_99' in them"),
        ({"bands": [*L2A_BANDS[:11], "B10"]}, "and lack B12"),
        ({"percentile_1": [float("nan")] * 12}, "a finite 'percentile_1' for each of"),
        ({"percentile_99": [5000.0] * 3}, "a finite 'percentile_99' for each of"),
        ({"percentile_1": [9000.0] * 12}, "'percentile_1' no larger than 'percentile_99'"),
        ({"std": [-1.0] * 12}, "no negative 'std'"),
    ],
)
def test_wrong_statistics_are_refused_at_construction_and_at_a_call(change, message):
    statistics = {key: value for key, value in (measure_statistics(image()) | change).items() if value is not None}
    with pytest.raises(ValueError, match=message):
        SpectralGPTImageProcessor(statistics=statistics)
    with pytest.raises(ValueError, match=message):
        SpectralGPTImageProcessor()(image(), statistics=statistics)


@pytest.mark.parametrize("positional", [True, False], ids=["saved by 0.1", "saved now"])
def test_mean_and_std_stay_with_their_bands_when_others_are_selected(positional, tmp_path):
    mean = {band: 100.0 * i for i, band in enumerate(L2A_BANDS)}
    std = {band: 10.0 + i for i, band in enumerate(L2A_BANDS)}
    SpectralGPTImageProcessor(normalization="zscore", mean=mean, std=std).save_pretrained(tmp_path)
    path = tmp_path / "preprocessor_config.json"
    saved = json.loads(path.read_text())
    assert (saved["mean"], saved["std"]) == (mean, std)
    if positional:
        path.write_text(json.dumps(saved | {"mean": list(mean.values()), "std": list(std.values())}))
    loaded = SpectralGPTImageProcessor.from_pretrained(tmp_path, bands=["B12", "B8A", "B2"])
    assert loaded.mean == {"B12": 1100.0, "B8A": 800.0, "B2": 100.0}
    assert loaded.std["B8A"] == 18.0
    with pytest.raises(ValueError, match="`mean` must have a value for each band, and has none for B10"):
        SpectralGPTImageProcessor.from_pretrained(tmp_path, bands=["B12", "B10", "B2"])


def test_bands_that_differ_from_those_of_the_model_are_refused():
    require_same_bands(L2A_BANDS, list(L2A_BANDS))
    for other in (L2A_BANDS[::-1], L2A_BANDS[:11], (*L2A_BANDS[:11], "B10")):
        with pytest.raises(ValueError, match=r"expected B1 B2 .*`bands=model.config.bands`"):
            require_same_bands(L2A_BANDS, other)


@pytest.mark.parametrize("normalization", ["minmax", "percentile"])
def test_saturated_values_are_left_out_of_the_limits_with_one_warning(normalization):
    pixels = image()
    processor = SpectralGPTImageProcessor(normalization=normalization)
    mask = np.ones((32, 32), bool)
    mask[5, 5:8] = False
    others = processor(pixels, mask=mask, report=True)[1][0]
    saturated = pixels.copy()
    saturated[3, 5, 5:8] = 65535
    with pytest.warns(UserWarning, match="image 0: some values are 65535") as record:
        batch, (report,) = processor(saturated, band_names=L2A_BANDS, report=True)
    assert len(record) == 1
    assert (report.low[3], report.scale[3]) == (others.low[3], others.scale[3])
    untouched = processor(pixels, report=True)[1][0]
    assert report.low[4] == untouched.low[4]
    assert report.valid is None
    assert batch.pixel_values[0, 3, 5, 5] > 5
    with pytest.warns(UserWarning, match="65535"):
        statistics = measure_statistics(saturated)
    assert statistics["maximum"][3] == np.delete(pixels[3].ravel(), [5 * 32 + 5, 5 * 32 + 6, 5 * 32 + 7]).max()
    assert statistics["pixels"] == 32 * 32


def test_65535_is_no_saturation_in_other_types_or_as_nodata_and_a_saturated_band_becomes_zero():
    pixels = image()
    pixels[3, 5, 5] = 65535
    floats = pixels.astype(np.float32)
    np.testing.assert_array_equal(SpectralGPTImageProcessor()(floats).pixel_values[0].numpy(), minmax(floats))
    SpectralGPTImageProcessor()(pixels, nodata=65535)
    pixels[3] = 65535
    with pytest.warns(UserWarning, match="65535"):
        values = SpectralGPTImageProcessor()(pixels).pixel_values
    assert values[0, 3].abs().max() == 0
    bands = [band for band in L2A_BANDS if band != "B1"]
    with warnings.catch_warnings(record=True) as record:
        warnings.simplefilter("always")
        SpectralGPTImageProcessor(missing_bands="mean")(pixels[1:], band_names=bands)
    assert sorted("65535" in str(warning.message) for warning in record) == [False, True]


def test_an_offset_that_makes_many_values_negative_is_doubted_once_with_their_share():
    dark, bright = image() % 1600 + 1, image() % 4000 + 1500
    with pytest.warns(UserWarning, match=r"image 0 \(62%\), image 2 \(62%\): the offset makes") as record:
        SpectralGPTImageProcessor()([dark, bright, dark], band_names=L2A_BANDS, offset=-1000)
    assert len(record) == 1


@pytest.mark.parametrize("dtype", [np.uint16, np.int32, np.float32])
@pytest.mark.parametrize("has_hole", [False, True])
def test_the_first_look_at_pixels_tells_the_limits_and_that_none_is_negative(dtype, has_hole, monkeypatch):
    pixels = (image() % 5000 + 1000).astype(dtype)
    pixels[:, :2] = 0 if has_hole else pixels[:, :2]
    bands = [*L2A_BANDS[:5:-1], *L2A_BANDS[:5]]  # another order, and one is missing
    (chip,) = open_chips(np.delete(pixels, 5, 0), L2A_BANDS, [b for b in L2A_BANDS if b != "B6"], offset=-1000)
    calls = []
    monkeypatch.setattr(torch, "count_nonzero", lambda *_: calls.append(1))
    stack = stack_chips([chip], plan_bands("a", chip.band_names, [*bands, "B6"], "nearest"), defaultdict(list))
    assert not calls
    assert stack.extremes is not None
    for found, expected in zip(stack.extremes, minimum_maximum(stack.pixels, stack.valid)):
        assert torch.equal(found, expected)


def test_statistics_of_a_pair_are_those_of_all_their_valid_pixels():
    before, after = image(seed=0), image(seed=1, height=16, width=16) + 5000
    before[:, :8] = 0
    statistics = measure_statistics([before, after])
    joint = np.concatenate([before[:, 8:].reshape(12, -1), after.reshape(12, -1)], axis=1)
    assert statistics["pixels"] == joint.shape[1]
    np.testing.assert_allclose(statistics["percentile_1"], np.percentile(joint, 1, axis=1), rtol=1e-5)
    np.testing.assert_allclose(statistics["mean"], joint.mean(1), rtol=1e-5)


def test_statistics_of_a_large_scene_come_from_a_decimated_read(tmp_path):
    scene = np.broadcast_to(np.arange(2500, dtype=np.uint16) + 100, (1, 16, 2500))
    statistics = measure_statistics(write(tmp_path / "scene.tif", scene, ["B2"]), ["B2"])
    assert statistics["pixels"] == 1024 * 7
    assert statistics["mean"][0] == pytest.approx(scene.mean(), rel=0.01)


# Missing data


def test_pixels_that_are_zero_in_all_bands_have_no_data_and_a_zero_in_one_band_is_data():
    pixels = image()
    pixels[:, :, :12] = 0  # a token and a half: exactly half of the second column's pixels
    pixels[7] = np.where(pixels[7] > 4000, 0, pixels[7])
    pixels[3, :, :12] = 0
    batch = SpectralGPTImageProcessor()(pixels)
    grid = batch.attention_mask.view(4, 4, 4)
    assert (grid[:, :, 0] == 0).all()
    assert (grid[:, :, 1:] == 1).all()
    values = batch.pixel_values[0].numpy()
    valid = pixels[:, :, 12:]
    np.testing.assert_array_equal(values[:, :, 12:], minmax(valid))
    filled = np.broadcast_to(minmax(valid).mean((1, 2))[:, None, None], values[:, :, :12].shape)
    np.testing.assert_allclose(values[:, :, :12], filled, atol=1e-5)


def test_a_token_is_dropped_when_more_than_half_of_its_pixels_have_no_data():
    pixels = image(height=8, width=24)
    pixels[:, :4, :8] = 0  # 32 of 64
    pixels[:, :4, 8:16] = 0
    pixels[:, 4, 8] = 0  # 33 of 64
    assert SpectralGPTImageProcessor()(pixels).attention_mask.view(4, 3).tolist() == [[1, 0, 1]] * 4


def test_no_mask_is_returned_where_every_token_has_data():
    assert set(SpectralGPTImageProcessor()(image())) == {"pixel_values"}


def test_nan_and_infinity_are_no_data_with_a_warning():
    pixels = image().astype(np.float32)
    clean = SpectralGPTImageProcessor()(pixels, mask=np.arange(32)[:, None] * np.ones((1, 32)) >= 8)
    pixels[2, :4], pixels[5, 4:8] = np.nan, -np.inf
    with pytest.warns(UserWarning, match="image 0: NaN and infinite values count as pixels without data"):
        batch = SpectralGPTImageProcessor()(pixels)
    torch.testing.assert_close(batch.pixel_values, clean.pixel_values, rtol=0, atol=0)
    torch.testing.assert_close(batch.attention_mask, clean.attention_mask, rtol=0, atol=0)


def test_a_nodata_value_can_be_given_for_arrays_and_files_and_is_read_from_tags(tmp_path):
    pixels = image(dtype=np.int16)
    pixels[6, :16] = -9999
    processor = SpectralGPTImageProcessor()
    by_value = processor(pixels, nodata=-9999)
    given = processor(write(tmp_path / "a.tif", pixels, L2A_BANDS), nodata=-9999)
    tagged = processor(write(tmp_path / "b.tif", pixels, L2A_BANDS, nodata=-9999))
    for batch in (given, tagged):
        torch.testing.assert_close(batch.pixel_values, by_value.pixel_values, rtol=0, atol=0)
    assert by_value.attention_mask.view(4, 4, 4).sum((0, 2)).tolist() == [0, 0, 16, 16]


def test_nodata_offset_bands_and_mask_can_differ_between_images():
    first, second = image(seed=0, dtype=np.int16), image(seed=1, dtype=np.int16)
    first[:, :8], second[:, :4] = -9999, -1
    mask = np.arange(32)[None] * np.ones((32, 1)) >= 16
    processor = SpectralGPTImageProcessor(**ZSCORE)
    per_image = {
        "nodata": [-9999, -1],
        "offset": [100, dict.fromkeys(L2A_BANDS, -50)],
        "band_names": [list(L2A_BANDS), list(L2A_BANDS[::-1])],
        "mask": [None, mask],
    }
    batch = processor([first, second], **per_image)
    for i, pixels in enumerate((first, second)):
        alone = processor(pixels, **{name: values[i] for name, values in per_image.items()})
        torch.testing.assert_close(alone.pixel_values[0], batch.pixel_values[i], rtol=0, atol=0)
        torch.testing.assert_close(alone.attention_mask[0], batch.attention_mask[i], rtol=0, atol=0)
    assert not torch.equal(batch.pixel_values, processor([first, second], nodata=[-9999, -1]).pixel_values)
    with pytest.raises(ValueError, match="`nodata`: expected one for each of the 2 images, found 3"):
        processor([first, second], nodata=[0, 1, 2])


def test_a_list_of_offsets_is_by_image_or_by_band_and_never_guessed():
    processor, pixels = SpectralGPTImageProcessor(**ZSCORE), image(bands=12, height=8, width=8)
    by_band = processor([pixels, pixels], offset=[float(i) for i in range(12)]).pixel_values
    assert torch.equal(by_band[0], by_band[1])
    by_image = processor([pixels, pixels], offset=[0, 100]).pixel_values
    torch.testing.assert_close(by_image[1] - by_image[0], torch.full((12, 8, 8), 100 / 1300), atol=1e-5, rtol=0)
    with pytest.raises(ValueError, match="12 offsets for 12 images of 12 bands may be one for each image or"):
        processor([pixels] * 12, offset=[float(i) for i in range(12)])
    processor([pixels] * 12, offset=[[float(i) for i in range(12)]] * 12)


def test_an_image_without_data_is_refused_by_name(tmp_path):
    path = write(tmp_path / "empty.tif", np.zeros((12, 16, 16), np.uint16), L2A_BANDS)
    with pytest.raises(ValueError, match=r"empty\.tif: no pixel of this image has data"):
        SpectralGPTImageProcessor()(path)
    sparse = np.zeros((12, 16, 16), np.uint16)
    sparse[:, ::4] = 500
    with pytest.raises(ValueError, match="image 1: no token of 8 x 8 px has data in half of its pixels"):
        SpectralGPTImageProcessor()([image(height=16, width=16), sparse])


@pytest.fixture(scope="module")
def model() -> SpectralGPTModel:
    torch.manual_seed(0)
    config = SpectralGPTConfig.from_preset("tiny", num_hidden_layers=3, image_size=64)
    return SpectralGPTModel(config).eval()


@torch.no_grad()
def test_the_embedding_does_not_depend_on_what_stands_under_a_nodata_border(model, shared_data):
    path = next((shared_data / "chips_worldwide" / "L2A").glob("*.tif"))
    with rasterio.open(path) as file:
        pixels = file.read(window=((0, 64), (0, 64)))
    mask = np.ones((64, 64), bool)
    mask[:20], mask[:, :13] = False, False
    processor = SpectralGPTImageProcessor()
    garbage = pixels.copy()
    garbage[:, ~mask] = np.random.default_rng(0).integers(-3000, 30000, (12, (~mask).sum()))
    clean, dirty = processor(pixels, mask=mask), processor(garbage, mask=mask)
    expected, found = model(**clean).pooler_output, model(**dirty).pooler_output
    assert (expected - found).norm() / expected.norm() < 1e-6

    kept = clean.attention_mask[0].nonzero()[:, 0][None]
    alone = model(clean.pixel_values, ids_keep=kept).pooler_output
    assert (alone - expected).norm() / expected.norm() < 1e-5


# Geometry


def test_odd_sizes_are_padded_at_the_bottom_and_right_with_the_mean_and_masked():
    pixels = image(height=18, width=30)
    batch, (report,) = SpectralGPTImageProcessor()(pixels, report=True)
    values = batch.pixel_values[0].numpy()
    assert values.shape == (12, 24, 32)
    np.testing.assert_array_equal(values[:, :18, :30], minmax(pixels))
    mean = minmax(pixels).mean((1, 2))[:, None, None]
    np.testing.assert_allclose(values[:, 18:], np.broadcast_to(mean, (12, 6, 32)), atol=1e-5)
    np.testing.assert_allclose(values[:, :, 30:], np.broadcast_to(mean, (12, 24, 2)), atol=1e-5)
    # The last row of tokens has 2 of 8 rows of data, the last column 6 of 8 columns.
    assert batch.attention_mask.view(4, 3, 4)[0].tolist() == [[1] * 4, [1] * 4, [0] * 4]
    assert report.sizes == ((18, 30), (18, 30), (18, 30), (24, 32))
    with pytest.raises(ValueError, match=r"multiples of 8 px.*got 18 x 30.*do_pad=True"):
        SpectralGPTImageProcessor(do_pad=False)(pixels)


def test_resizing_normalises_the_whole_image_first_and_keeps_nodata_out():
    ramp = np.linspace(500, 3000, 64, dtype=np.float32)
    pixels = np.broadcast_to(ramp, (12, 64, 64)).copy()
    processor = SpectralGPTImageProcessor(size=32)
    values = processor(pixels).pixel_values[0, 0]
    assert values.shape == (32, 32)
    np.testing.assert_allclose(values[16].numpy(), (np.arange(32) * 2 + 0.5) / 63, atol=0.01)
    pixels[:, :32] = 0
    batch = processor(pixels)
    assert batch.attention_mask.view(4, 4, 4)[0].tolist() == [[0] * 4, [0] * 4, [1] * 4, [1] * 4]
    np.testing.assert_allclose(batch.pixel_values[0, 0, 24].numpy(), values[16].numpy(), atol=0.01)
    assert SpectralGPTImageProcessor(size=32, do_resize=False)(pixels).pixel_values.shape[-1] == 64


def test_resizing_averages_what_becomes_smaller_than_a_pixel():
    pixels = np.tile(np.array([3000, 1000, 1000, 3000], np.uint16), (12, 128, 32))
    values = SpectralGPTImageProcessor(size=32)(pixels).pixel_values[0, :, 8:24, 8:24]
    np.testing.assert_allclose(values.numpy(), 0.5, atol=0.02)


def test_a_centre_crop_is_the_middle_of_what_resizing_gives_and_labels_follow():
    pixels = image(height=64, width=48)
    pixels[:, :, :16] = 0
    labels = np.random.default_rng(0).integers(0, 9, (64, 48))
    resized = SpectralGPTImageProcessor(size=40)(pixels, segmentation_maps=labels)
    cropped = SpectralGPTImageProcessor(size=40, do_center_crop=True, crop_size={"height": 24, "width": 16})
    batch, (report,) = cropped(pixels, segmentation_maps=labels, report=True)
    rows, columns = slice(8, 32), slice(12, 28)
    torch.testing.assert_close(batch.pixel_values, resized.pixel_values[:, :, rows, columns], rtol=0, atol=0)
    torch.testing.assert_close(batch.labels, resized.labels[:, rows, columns], rtol=0, atol=0)
    assert report.sizes == ((64, 48), (40, 40), (24, 16), (24, 16))
    with pytest.raises(ValueError, match=r"image 0: expected an image of at least 24 x 16 px.*found 16 x 16"):
        cropped(pixels, size=16)


def test_images_of_several_sizes_share_a_batch_when_their_centres_are_cropped_to_one():
    images = [image(), image(height=40, width=36, seed=1)]
    values = SpectralGPTImageProcessor(do_center_crop=True, crop_size=24)(images).pixel_values
    np.testing.assert_array_equal(values[0].numpy(), minmax(images[0])[:, 4:28, 4:28])
    np.testing.assert_array_equal(values[1].numpy(), minmax(images[1])[:, 8:32, 6:30])


def test_a_map_of_a_centre_crop_is_valid_where_the_crop_was():
    processor = SpectralGPTImageProcessor(size=64, do_center_crop=True, crop_size={"height": 48, "width": 44})
    _, (report,) = processor(image(), report=True)
    assert report.sizes.padded == (48, 48)
    truth = torch.zeros(64, 64, dtype=torch.int64)
    truth[20:, 30:] = 1
    logits = torch.full((1, 2, 48, 48), -5.0)
    kept = torch.nn.functional.one_hot(truth[8:56, 10:54], 2).permute(2, 0, 1).float()
    logits[0, :, :, :44] = kept
    (result,) = processor.post_process_semantic_segmentation(SimpleNamespace(logits=logits), reports=[report])
    inside = np.zeros((32, 32), bool)
    inside[4:28, 5:27] = True
    np.testing.assert_array_equal(result.valid, inside)
    np.testing.assert_array_equal(result.pixels[0][inside], truth[::2, ::2].numpy()[inside])


def test_a_call_can_override_settings_and_leaves_the_processor_as_it_was():
    processor, pixels = SpectralGPTImageProcessor(size=16), image(bands=10)
    before = processor.to_dict()
    overrides = {"do_resize": False, "missing_bands": "nearest", "do_center_crop": True, "crop_size": 24}
    with pytest.warns(UserWarning, match="missing bands were replaced"):
        values = processor(pixels, band_names=SEGMUNICH_BANDS, device="cpu", **overrides).pixel_values
    with pytest.warns(UserWarning, match="missing bands were replaced"):
        expected = SpectralGPTImageProcessor(**overrides)(pixels, band_names=SEGMUNICH_BANDS).pixel_values
    torch.testing.assert_close(values, expected, rtol=0, atol=0)
    assert processor(image(), size=24).pixel_values.shape[-2:] == (24, 24)
    for wrong in ({"size": 0}, {"missing_bands": "zero"}, {"do_resize": "no"}, {"do_center_crop": True}):
        with pytest.raises(ValueError, match=f"`{'crop_size' if 'do_center_crop' in wrong else next(iter(wrong))}`"):
            processor(image(), **wrong)
    assert processor.to_dict() == before


def test_images_of_different_sizes_are_refused_with_advice_unless_resized():
    images = [image(), image(height=40)]
    with pytest.raises(ValueError, match=r"image 0 is 32 x 32 px and image 1 40 x 32 px.*`size`"):
        SpectralGPTImageProcessor()(images)
    assert SpectralGPTImageProcessor(size={"height": 48, "width": 32})(images).pixel_values.shape == (2, 12, 48, 32)


def test_segmentation_maps_follow_their_images(tmp_path):
    pixels = image(height=20, width=32)
    pixels[:, :, :3] = 0
    labels = np.random.default_rng(0).integers(0, 10, (20, 32)).astype(np.uint8)
    path = write(tmp_path / "labels.tif", labels[None])
    for given in (labels, torch.from_numpy(labels), path):
        fitted = SpectralGPTImageProcessor()(pixels, segmentation_maps=given).labels
        assert fitted.shape == (1, 24, 32)
        assert fitted.dtype == torch.int64
        np.testing.assert_array_equal(fitted[0, :20, 3:].numpy(), labels[:, 3:])
        assert (fitted[0, 20:] == 255).all()
        assert (fitted[0, :, :3] == 255).all()
    resized = SpectralGPTImageProcessor(size=16)(image(), segmentation_maps=np.eye(32, dtype=np.int32) * 7).labels
    assert set(resized.unique().tolist()) == {0, 7}
    with pytest.raises(ValueError, match=r"segmentation map of the image's size, \(20, 32\), found \(8, 8\)"):
        SpectralGPTImageProcessor()(pixels, segmentation_maps=labels[:8, :8])


# Sources


@pytest.mark.parametrize(("nodata", "ignored"), [(None, set()), (9, {9}), (0, {0})])
def test_what_a_label_file_declares_as_nodata_is_ignored(nodata, ignored, tmp_path):
    labels = np.random.default_rng(0).integers(0, 10, (32, 32)).astype(np.uint8)
    path = write(tmp_path / "labels.tif", labels[None], nodata=nodata)
    for given in (path, path.read_bytes()):
        fitted = SpectralGPTImageProcessor()(image(), segmentation_maps=given, ignore_index=-100).labels[0].numpy()
        np.testing.assert_array_equal(fitted, np.where(np.isin(labels, list(ignored)), -100, labels.astype(int)))


def test_a_token_has_data_when_half_of_its_pixels_have():
    mask = torch.zeros(2, 16, 8, dtype=torch.bool)
    mask[0, :4], mask[1, 8:12] = True, True
    mask[1, 8, 0] = False
    assert token_validity(mask, 8).tolist() == [[[True], [False]], [[False], [False]]]
    assert token_validity(mask[0], 8).tolist() == [[True], [False]]


def test_a_file_an_array_its_bytes_and_a_raster_give_the_same(tmp_path):
    pixels = image()
    path = write(tmp_path / "chip.tif", pixels, L2A_BANDS)
    raster = Raster(pixels, L2A_BANDS, np.ones((32, 32), bool), None, from_origin(0, 0, 10, 10), {}, None)
    values = SpectralGPTImageProcessor()([path, str(path), path.read_bytes(), raster, pixels]).pixel_values
    assert (values == values[:1]).all()


def test_the_report_says_what_was_assumed_and_done(tmp_path):
    pixels = image(bands=13)
    pixels[:, :8] = 0
    path = write(tmp_path / "chip.tif", pixels, L1C_BANDS)
    _, (report,) = SpectralGPTImageProcessor()(path, offset=-100, report=True)
    assert report.source == str(path)
    assert report.band_names == L1C_BANDS
    assert report.bands == L2A_BANDS
    assert report.offsets == (-100.0,) * 13
    assert report.valid_share == 0.75
    assert report.crs.to_epsg() == 32633
    assert report.transform == from_origin(400_000, 5_000_000, 10, 10)
    assert report.low[0] == pixels[0, 8:].min() - 100
    assert report.scale[0] == pixels[0, 8:].max() - pixels[0, 8:].min()
    assert report.units.startswith("digital numbers")


class DataArray:
    """As much of `xarray.DataArray` as is read."""

    def __init__(self, values, dims, bands, attrs):
        self.values, self.dims, self.attrs = values, dims, attrs
        self.coords = {"band": SimpleNamespace(values=np.array(bands))}
        self.rio = SimpleNamespace(crs="EPSG:32633", transform=lambda: from_origin(0, 0, 10, 10))

    def transpose(self, first, _):
        axis = self.dims.index(first)
        dims = (first, *(dim for dim in self.dims if dim != first))
        return DataArray(np.moveaxis(self.values, axis, 0), dims, self.coords["band"].values, self.attrs)


def test_an_xarray_is_read_by_its_band_coordinate_with_its_scale_and_fill_value():
    pixels = image(dtype=np.int16)
    pixels[:, :16] = -9999
    attrs = {"_FillValue": -9999, "scale_factor": 0.0002, "add_offset": -0.1}
    order = np.arange(12)[::-1]
    names = np.array([f"B{band[1:].zfill(2)}" for band in L2A_BANDS])[order]
    array = DataArray(np.moveaxis(pixels[order], 0, 2), ("y", "x", "band"), names, attrs)
    batch, (report,) = SpectralGPTImageProcessor()(array, report=True)
    assert report.crs == "EPSG:32633"
    np.testing.assert_allclose(report.low.numpy(), pixels[:, 16:].min((1, 2)) * 2.0 - 1000, rtol=1e-5)
    assert batch.attention_mask.view(4, 4, 4)[0].sum(1).tolist() == [0, 0, 4, 4]


class Dataset(Mapping):
    """As much of `xarray.Dataset` as is read: a mapping of variables."""

    def __init__(self, variables):
        self.data_vars = variables

    def __getitem__(self, names):
        if isinstance(names, list):
            return Dataset({name: self.data_vars[name] for name in names})
        return SimpleNamespace(attrs={}, values=self.data_vars[names])

    def __iter__(self):
        return iter(self.data_vars)

    def __len__(self):
        return len(self.data_vars)

    def to_array(self, dim):
        array = DataArray(np.stack([*self.data_vars.values()]), (dim, "y", "x"), [*self.data_vars], {})
        array.assign_coords = lambda band: DataArray(array.values, array.dims, band, array.attrs)
        return array


def test_a_dataset_of_xarray_is_read_by_the_names_of_its_variables():
    pixels, processor = image(), SpectralGPTImageProcessor()
    variables = {f"B{band[1:].zfill(2)}": values for band, values in zip(L2A_BANDS, pixels)}
    found = processor(Dataset({"SCL": pixels[0], **variables})).pixel_values
    torch.testing.assert_close(found, processor(pixels).pixel_values, rtol=0, atol=0)
    with pytest.raises(ValueError, match=r"names of bands \(B2, red, ...\), found reflectance\. Pass the variable"):
        processor(Dataset({"reflectance": pixels[0]}))


def test_a_sample_of_torchgeo_is_its_image():
    pixels = image()
    processor = SpectralGPTImageProcessor()
    sample = {"image": torch.from_numpy(pixels.astype(np.float32)), "mask": torch.zeros(32, 32), "crs": "EPSG:32633"}
    expected = processor(pixels).pixel_values
    for given in (sample, [sample], {**sample, "image": sample["image"][None]}):
        torch.testing.assert_close(processor(given).pixel_values, expected, rtol=0, atol=0)


def test_bands_that_come_last_are_recognised_by_their_number():
    pixels, processor = image(), SpectralGPTImageProcessor()
    expected = processor(pixels).pixel_values
    torch.testing.assert_close(processor(np.moveaxis(pixels, 0, 2)).pixel_values, expected, rtol=0, atol=0)
    square = image(bands=12, height=12, width=12)  # the bands may be the first or the last axis: the first one is taken
    np.testing.assert_array_equal(processor(square).pixel_values[0, :, :12, :12].numpy(), minmax(square))


def test_a_picture_is_answered_with_what_to_do():
    picture = Image.fromarray(np.zeros((32, 32, 3), np.uint8))
    with pytest.raises(ValueError, match=r"image 0: a picture of mode RGB holds colours.*`band_names`"):
        SpectralGPTImageProcessor()(picture)


@pytest.mark.parametrize(
    "bad", ["a string", None, 3, np.array(["x"]), np.ones((8, 8)), np.ones((12, 0, 8)), 1j * image()]
)
def test_what_is_no_image_is_refused(bad):
    with pytest.raises((ValueError, FileNotFoundError)):
        SpectralGPTImageProcessor()(bad)


def test_real_images_of_every_kind_become_input(shared_data):
    folder = next((shared_data / "bigearthnet").iterdir())
    scene = shared_data / "scene_germany" / "germany_2017-02-16_L1C.tif"
    for path, shape in ((folder, (1, 12, 120, 120)), (scene, (1, 12, 768, 1536))):
        values = SpectralGPTImageProcessor()(path).pixel_values
        assert values.shape == shape
        assert values.amin((0, 2, 3)).abs().max() == 0
        assert values.amax((0, 2, 3)).min() == 1
    with rasterio.open(scene) as file:
        expected = minmax(np.delete(file.read(), 10, axis=0))
    np.testing.assert_array_equal(values[0].numpy(), expected)


def test_a_real_pair_with_borders_and_missing_bands_becomes_input(shared_data):
    paths = sorted((shared_data / "change_australia").glob("p*.tif"))
    processor = SpectralGPTImageProcessor(missing_bands="nearest", statistics_scope="given")
    with pytest.warns(UserWarning, match="B8A by B8, B12 by B11"):
        statistics = processor.measure_statistics(paths)
    with pytest.warns(UserWarning, match="B8A by B8, B12 by B11"):
        batch, reports = processor(paths, statistics=statistics, report=True)
    assert batch.pixel_values.shape == (2, 12, 520, 360)
    assert batch.pixel_values.isfinite().all()
    assert (reports[0].low == reports[1].low).all()
    assert reports[0].valid_share == pytest.approx(0.98872, abs=1e-4)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_tensor_stays_on_its_device():
    pixels = torch.from_numpy(image())
    for dtype in (torch.uint16, torch.int32, torch.float32):
        values = SpectralGPTImageProcessor()(pixels.to(dtype).cuda()).pixel_values
        assert values.is_cuda
        torch.testing.assert_close(values.cpu(), SpectralGPTImageProcessor()(pixels).pixel_values)


# Settings

ALL_SETTINGS = {
    "bands": [*SEGMUNICH_BANDS, "mean", "mean"],
    "normalization": "sigma_clip",
    "statistics_scope": "given",
    "mean": {band: float(i) for i, band in enumerate([*SEGMUNICH_BANDS, "mean"])},
    "std": {band: float(i + 1) for i, band in enumerate([*SEGMUNICH_BANDS, "mean"])},
    "size": {"height": 96, "width": 128},
    "do_resize": False,
    "do_center_crop": True,
    "crop_size": {"height": 64, "width": 32},
    "do_pad": False,
    "missing_bands": "mask",
    "patch_size": 16,
    "spectral_patch_size": 4,
}


def test_every_setting_survives_saving_and_loading(tmp_path):
    SpectralGPTImageProcessor(**ALL_SETTINGS).save_pretrained(tmp_path)
    for loaded in (SpectralGPTImageProcessor.from_pretrained(tmp_path), AutoImageProcessor.from_pretrained(tmp_path)):
        assert type(loaded) is SpectralGPTImageProcessor
        assert {name: getattr(loaded, name) for name in ALL_SETTINGS} == ALL_SETTINGS
    defaults = SpectralGPTImageProcessor()
    defaults.save_pretrained(tmp_path)
    loaded = SpectralGPTImageProcessor.from_pretrained(tmp_path)
    assert all(getattr(loaded, name) == getattr(defaults, name) for name in ALL_SETTINGS)
    overridden = SpectralGPTImageProcessor.from_pretrained(tmp_path, normalization="percentile", size=64)
    assert (overridden.normalization, overridden.size) == ("percentile", {"height": 64, "width": 64})


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"normalization": "z-score"}, "`normalization` must be one of 'minmax', 'percentile', 'zscore', 'sigma_clip'"),
        ({"statistics_scope": "tile"}, "`statistics_scope` must be one of 'image', 'given'"),
        ({"missing_bands": "zero"}, "`missing_bands` must be one of 'error', 'nearest', 'mean', 'mask'"),
        ({"normalization": "zscore"}, "`mean` must be given for normalization='zscore'"),
        ({"mean": [1.0, 2.0]}, "`mean` must have a value for each of the 12 bands, got 2"),
        ({"mean": [1.0] * 12}, "`mean` must be given together with `std`"),
        ({"mean": [float("inf")] * 12}, "`mean` must be finite"),
        ({"std": {"B2": 1.0}}, "`std` must have a value for each band, and has none for B1"),
        ({"std": [0.0] * 12}, "`std` must be positive"),
        ({"bands": ["B2", "B3"]}, "`bands` must be a list whose length is a multiple of 3"),
        ({"bands": ["B2", "B3", "B44"]}, "Unknown band 'B44'"),
        ({"size": {"shortest_edge": 128}}, "`size` must be {'height': ..., 'width': ...} in whole pixels"),
        ({"crop_size": 0, "do_center_crop": True}, "`crop_size` must be {'height': ..., 'width': ...} in whole pixels"),
        ({"do_center_crop": True}, "`crop_size` must be given for do_center_crop=True"),
        ({"do_pad": "yes"}, "`do_pad` must be True or False"),
        ({"patch_size": 0}, "`patch_size` must be a positive integer"),
        ({"normalisation": "minmax"}, "Unknown argument normalisation: expected bands, normalization"),
    ],
)
def test_an_impossible_setting_is_refused_at_construction(settings, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        SpectralGPTImageProcessor(**settings)


def test_a_setting_changed_later_is_checked_at_the_next_call():
    processor = SpectralGPTImageProcessor()
    processor.normalization = "none"
    with pytest.raises(ValueError, match="`normalization` must be one of"):
        processor(image())


def test_results_can_be_numpy_arrays():
    batch = SpectralGPTImageProcessor()(image(), return_tensors="np")
    assert isinstance(batch.pixel_values, np.ndarray)


# Outputs


def test_labels_come_with_scores_best_first():
    outputs = SimpleNamespace(logits=torch.tensor([[0.0, 2.0, 1.0], [3.0, -9.0, 1.0]]))
    processor, names = SpectralGPTImageProcessor(), {0: "water", 1: "forest", 2: "urban"}
    first, _ = processor.post_process_image_classification(outputs, top_k=2, id2label=names)
    assert [entry["label"] for entry in first] == ["forest", "urban"]
    assert first[0]["score"] == pytest.approx(torch.tensor([0.0, 2.0, 1.0]).softmax(0)[1].item())
    _, second = processor.post_process_image_classification(outputs, threshold=0.5, id2label=names)
    assert [entry["label"] for entry in second] == ["water", "urban"]
    assert second[1]["score"] == pytest.approx(torch.tensor(1.0).sigmoid().item())


def test_scores_follow_the_problem_type():
    outputs = SimpleNamespace(logits=torch.tensor([[-2.0, 1.0]]))
    post_process = SpectralGPTImageProcessor().post_process_image_classification

    def scores(**options):
        return {entry["label"]: pytest.approx(entry["score"]) for entry in post_process(outputs, **options)[0]}

    assert scores(problem_type="regression") == {"1": 1.0, "0": -2.0}
    sigmoid, softmax = outputs.logits[0].sigmoid().tolist(), outputs.logits[0].softmax(0).tolist()
    assert scores(problem_type="multi_label_classification") == {"1": sigmoid[1], "0": sigmoid[0]}
    assert scores() == scores(problem_type="single_label_classification") == {"1": softmax[1], "0": softmax[0]}
    assert scores(problem_type="single_label_classification", threshold=0.5) == {"1": softmax[1]}
    with pytest.raises(ValueError, match="`problem_type` must be one of"):
        scores(problem_type="ranking")


def test_scores_of_the_classes_come_with_the_map_as_in_transformers():
    outputs, processor = SimpleNamespace(logits=torch.randn(1, 4, 32, 32)), SpectralGPTImageProcessor()
    (plain,) = processor.post_process_semantic_segmentation(outputs, return_segmentation_scores=True)
    assert torch.equal(plain.segmentation, outputs.logits[0].argmax(0))
    assert torch.equal(plain["segmentation_scores"], outputs.logits[0])
    _, reports = processor(image(), report=True)
    (result,) = processor.post_process_semantic_segmentation(outputs, reports=reports, return_segmentation_scores=True)
    np.testing.assert_array_equal(result.segmentation.pixels[0], plain.segmentation.numpy())


def test_a_map_returns_to_the_grid_and_the_georeference_of_its_source(tmp_path):
    pixels = image(height=36, width=30)
    pixels[:, :, :8] = 0
    path = write(tmp_path / "chip.tif", pixels, L2A_BANDS)
    truth = torch.zeros(36, 30, dtype=torch.int64)
    truth[10:], truth[:, 20:] = 1, 2
    for size in (None, {"height": 72, "width": 60}):
        processor = SpectralGPTImageProcessor(size=size)
        _, (report,) = processor(path, report=True)
        logits = torch.full((1, 3, *report.sizes.padded), -5.0)
        factor = 1 if size is None else 2
        scaled = truth.repeat_interleave(factor, 0).repeat_interleave(factor, 1)
        logits[0, :, : scaled.shape[0], : scaled.shape[1]] = (
            torch.nn.functional.one_hot(scaled, 3).permute(2, 0, 1).float()
        )
        (result,) = processor.post_process_semantic_segmentation(SimpleNamespace(logits=logits), reports=[report])
        np.testing.assert_array_equal(result.pixels[0], truth.numpy())
        assert result.pixels.dtype == np.uint8
        assert result.tags["normalization"] == "minmax"
        assert result.crs.to_epsg() == 32633
        assert result.transform == from_origin(400_000, 5_000_000, 10, 10)
        np.testing.assert_array_equal(result.valid, np.broadcast_to(np.arange(30) >= 8, (36, 30)))


def test_maps_without_reports_are_tensors_of_the_size_asked_for():
    outputs = SimpleNamespace(logits=torch.randn(2, 4, 8, 8))
    processor = SpectralGPTImageProcessor()
    first, second = processor.post_process_semantic_segmentation(outputs, target_sizes=[(16, 16), (8, 8)])
    assert first.shape == (16, 16)
    assert torch.equal(second, outputs.logits[1].argmax(0))
    with pytest.raises(ValueError, match="one size or report for each of the 2 images, found 1"):
        processor.post_process_semantic_segmentation(outputs, target_sizes=[(16, 16)])


def test_change_is_where_its_probability_reaches_the_threshold():
    probability = torch.tensor([[0.2, 0.5], [0.7, 0.9]])
    outputs = SimpleNamespace(logits=torch.stack([1 - probability, probability]).log()[None])
    processor = SpectralGPTImageProcessor()
    assert processor.post_process_change_detection(outputs)[0].tolist() == [[0, 1], [1, 1]]
    assert processor.post_process_change_detection(outputs, threshold=0.8)[0].tolist() == [[0, 0], [0, 1]]
