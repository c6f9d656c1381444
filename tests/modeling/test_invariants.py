"""What holds for every image and every setting, on small generated images (hypothesis)."""

import copy
import json
import random
import tempfile
import warnings
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import rasterio
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from rasterio.transform import from_origin

from spectralgpt_hf import SpectralGPTImageProcessor
from spectralgpt_hf.modeling.bands import L2A_BANDS
from spectralgpt_hf.modeling.image_processing_spectralgpt import measure_statistics
from spectralgpt_hf.modeling.rasters import read_raster


TRANSFORM = from_origin(400_000, 5_000_000, 10, 10)
EXAMPLES = settings(max_examples=25, deadline=None, derandomize=True)
DTYPES = (np.uint8, np.uint16, np.int16, np.uint32, np.int32, np.float32, np.float64)
STATISTICS = {"mean": [1500.0] * 12, "std": [700.0] * 12}
NORMALIZATIONS = ("minmax", "percentile", "zscore", "sigma_clip")


@pytest.fixture(autouse=True)
def no_warnings():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def build_processor(normalization: str = "minmax", **options) -> SpectralGPTImageProcessor:
    measured = STATISTICS if normalization in ("zscore", "sigma_clip") else {}
    return SpectralGPTImageProcessor(normalization=normalization, **measured, **options)


def images(height: int = 16, width: int = 16, dtype=np.uint16):
    """Images of 12 bands, some of whose pixels have no data."""
    values = arrays(dtype, (12, height, width), elements=st.integers(1, 8000), fill=st.integers(1, 8000))
    empty = arrays(bool, (height, width), elements=st.booleans(), fill=st.just(False))
    return st.tuples(values, empty).map(lambda pair: np.where(pair[1], 0, pair[0]).astype(dtype))


def write(path: Path, pixels: np.ndarray, bands=L2A_BANDS, offset: float = 0.0) -> Path:
    profile = {"count": len(pixels), "height": pixels.shape[1], "width": pixels.shape[2], "dtype": pixels.dtype}
    with rasterio.open(path, "w", driver="GTiff", crs="EPSG:32633", transform=TRANSFORM, **profile) as file:
        file.write(pixels)
        file.descriptions = bands
        if offset:
            file.scales, file.offsets = [1.0] * len(pixels), [offset] * len(pixels)
    return path


def stac_item(folder: Path, pixels: np.ndarray, bands) -> dict:
    assets = {}
    for band, layer in zip(bands, pixels):
        path = write(folder / f"{band}.tif", layer[None], [band])
        assets[band] = {"href": str(path), "eo:bands": [{"name": band}], "roles": ["data"], "type": "image/tiff"}
    properties = {"datetime": "2020-01-01T00:00:00Z", "platform": "sentinel-2a"}
    return {
        "type": "Feature",
        "stac_version": "1.0.0",
        "id": "x",
        "assets": assets,
        "properties": properties,
        "links": [],
    }


class DataArray:
    """As much of `xarray.DataArray` as is read."""

    def __init__(self, values: np.ndarray, bands, attrs: dict):
        self.values, self.dims, self.attrs = values, ("band", "y", "x"), attrs
        self.coords = {"band": SimpleNamespace(values=np.array(bands))}

    def transpose(self, first, _):
        assert first == "band"
        return self


def outcome(call):
    """Return the result of a call, or the error that it raised."""
    try:
        return call()
    except ValueError as error:
        return error


def assert_same(found, expected):
    if isinstance(expected, ValueError):
        assert isinstance(found, ValueError), expected
        return
    assert not isinstance(found, ValueError), found
    assert set(found) == set(expected)
    for name in expected:
        torch.testing.assert_close(found[name], expected[name], rtol=0, atol=0)


@EXAMPLES
@given(images(), st.sampled_from(NORMALIZATIONS), st.sampled_from([0, -100, 50]), st.randoms(use_true_random=False))
def test_one_image_gives_the_same_from_every_source(pixels, normalization, offset, shuffle):
    processor = build_processor(normalization)
    expected = outcome(lambda: processor(pixels, offset=offset))
    order = shuffle.sample(range(12), 12)
    names, shuffled = [L2A_BANDS[i] for i in order], np.ascontiguousarray(pixels[order])
    with tempfile.TemporaryDirectory() as folder:
        path = write(Path(folder) / "image.tif", pixels)
        permuted = write(Path(folder) / "permuted.tif", shuffled, names)
        tagged = write(Path(folder) / "tagged.tif", pixels, offset=offset)
        item = stac_item(Path(folder), shuffled, names)
        sources = {
            "path": lambda: processor(path, offset=offset),
            "bytes": lambda: processor(path.read_bytes(), offset=offset),
            "tensor": lambda: processor(torch.from_numpy(pixels), offset=dict.fromkeys(L2A_BANDS, offset)),
            "permuted array": lambda: processor(shuffled, band_names=names, offset=[offset] * 12),
            "permuted file": lambda: processor(permuted, offset=offset),
            "offset by tag": lambda: processor(tagged),
            "raster": lambda: processor(read_raster(path), offset=offset),
            "xarray": lambda: processor(DataArray(shuffled, names, {"add_offset": offset / 1e4, "scale_factor": 1e-4})),
            "bands last": lambda: processor(np.moveaxis(pixels, 0, 2), offset=offset),
            "TorchGeo": lambda: processor({"image": pixels}, offset=offset),
            "STAC item": lambda: processor(item, offset=offset),
        }
        for name, source in sources.items():
            try:
                assert_same(outcome(source), expected)
            except AssertionError as error:
                raise AssertionError(f"{name}: {error}") from error


@EXAMPLES
@given(st.lists(images(), min_size=2, max_size=4), st.sampled_from(NORMALIZATIONS), st.booleans())
def test_an_image_gives_the_same_alone_in_a_batch_and_in_any_order(batch, normalization, as_float):
    processor = build_processor(normalization)
    batch = [pixels.astype(np.float32) if as_float and i % 2 else pixels for i, pixels in enumerate(batch)]
    alone = [outcome(lambda pixels=pixels: processor(pixels)) for pixels in batch]
    together = outcome(lambda: processor(batch))
    if any(isinstance(single, ValueError) for single in alone):
        assert isinstance(together, ValueError)
        return
    masks = together.get("attention_mask", torch.ones(len(batch), 16, dtype=torch.int64))
    backwards = processor(batch[::-1])
    for i, single in enumerate(alone):
        torch.testing.assert_close(together.pixel_values[i], single.pixel_values[0], rtol=0, atol=0)
        torch.testing.assert_close(masks[i], single.get("attention_mask", torch.ones_like(masks[:1]))[0])
        torch.testing.assert_close(backwards.pixel_values[-1 - i], single.pixel_values[0], rtol=0, atol=0)


@EXAMPLES
@given(images(), st.integers(0, 8), st.integers(0, 8), st.sampled_from(NORMALIZATIONS))
def test_a_border_without_data_changes_nothing_within(pixels, bottom, right, normalization):
    processor = build_processor(normalization)
    alone = outcome(lambda: processor(pixels))
    padded = outcome(lambda: processor(np.pad(pixels, ((0, 0), (0, bottom), (0, right)))))
    if isinstance(alone, ValueError):
        assert isinstance(padded, ValueError)
        return
    valid = torch.from_numpy((pixels != 0).any(0))
    inside = padded.pixel_values[:, :, :16, :16]
    torch.testing.assert_close(inside[..., valid], alone.pixel_values[..., valid], rtol=0, atol=0)
    rows, columns = (side // 8 for side in padded.pixel_values.shape[2:])
    mask = padded.get("attention_mask", torch.ones(1, 4 * rows * columns)).view(4, rows, columns)
    own = alone.get("attention_mask", torch.ones(1, 16)).view(4, 2, 2)
    assert torch.equal(mask[:, :2, :2].long(), own.long())
    assert mask[:, 2:].sum() == mask[:, :, 2:].sum() == 0


@EXAMPLES
@given(st.sampled_from(DTYPES), st.integers(0, 2**32 - 1), st.sampled_from(NORMALIZATIONS))
def test_every_type_is_near_the_answer_in_float64(dtype, seed, normalization):
    high = 250 if dtype == np.uint8 else 9000
    pixels = np.random.default_rng(seed).integers(1, high, (12, 8, 8)).astype(dtype)
    found = build_processor(normalization)(pixels).pixel_values[0].double().numpy()
    exact = pixels.astype(np.float64).reshape(12, -1)
    if normalization in ("zscore", "sigma_clip"):
        low, width = (1500.0, 700.0) if normalization == "zscore" else (100.0, 2800.0)
    else:
        ends = [0, 100] if normalization == "minmax" else [1, 99]
        low, high = np.percentile(exact, ends, axis=1)[..., None]
        width = high - low
    expected = ((exact - low) / width).reshape(pixels.shape)
    if normalization == "sigma_clip":
        expected = np.clip(expected, 0, 1)
        assert (expected - found).max() < 1 / 255 + 1e-6
        assert (found - expected).max() < 1e-6
    else:
        np.testing.assert_allclose(found, expected, atol=2e-6 * max(1.0, np.abs(expected).max()))


@EXAMPLES
@given(
    st.sampled_from(DTYPES),
    st.sampled_from(["empty", "constant", "one pixel", "masked"]),
    st.sampled_from(NORMALIZATIONS),
)
def test_a_degenerate_image_is_finite_or_refused_with_advice(dtype, kind, normalization):
    pixels = np.full((12, 8, 8), 0 if kind == "empty" else 100, dtype)
    if kind == "one pixel":
        pixels = pixels[:, :1, :1]
    mask = np.zeros((8, 8), bool) if kind == "masked" else None
    processor = build_processor(normalization, **({"patch_size": 1} if kind == "one pixel" else {}))
    found = outcome(lambda: processor(pixels, mask=mask))
    if kind in ("empty", "masked"):
        assert "no pixel of this image has data. Leave it out." in str(found)
    else:
        assert found.pixel_values.isfinite().all()
        if normalization in ("minmax", "percentile"):
            assert (found.pixel_values == 0).all()


@EXAMPLES
@given(
    st.sampled_from(NORMALIZATIONS),
    st.sampled_from(["image", "given"]),
    st.sampled_from(["error", "nearest", "mean", "mask"]),
    st.sampled_from([None, 8, 24]),
    st.sampled_from([None, 8]),
    st.booleans(),
    st.permutations(L2A_BANDS),
)
def test_every_processor_gives_the_same_after_saving_and_loading(
    normalization, scope, missing_bands, size, crop_size, do_resize, bands
):
    pixels = np.random.default_rng(0).integers(1, 9000, (12, 16, 16)).astype(np.uint16)
    statistics = measure_statistics(pixels + 100) if scope == "given" else None
    processor = build_processor(
        normalization,
        bands=bands,
        statistics_scope=scope,
        statistics=statistics,
        missing_bands=missing_bands,
        size=size,
        do_resize=do_resize,
        do_center_crop=crop_size is not None,
        crop_size=crop_size,
    )
    with tempfile.TemporaryDirectory() as folder:
        processor.save_pretrained(folder)
        loaded = SpectralGPTImageProcessor.from_pretrained(folder)
    assert loaded.to_dict() == processor.to_dict()
    assert_same(loaded(pixels, band_names=L2A_BANDS), processor(pixels, band_names=L2A_BANDS))


REFUSED = [
    {"offset": [1.0] * 5},
    {"nodata": [0, 1, 2]},
    {"mask": np.ones((3, 3))},
    {"statistics": {"bands": ["B2"]}},
    {"band_names": ["B2"]},
    {"size": -1},
    {"do_center_crop": True},
    {"missing_bands": "zero"},
    {"segmentation_maps": np.zeros((3, 3), int)},
]


@pytest.mark.parametrize("options", REFUSED, ids=lambda options: next(iter(options)))
def test_a_refused_call_leaves_everything_as_it_was(options):
    pixels = np.random.default_rng(0).integers(1, 9000, (12, 16, 16)).astype(np.uint16)
    processor, before, given_options = build_processor("zscore"), pixels.copy(), copy.deepcopy(options)
    attributes, states = json.dumps(processor.to_dict()), (random.getstate(), torch.get_rng_state())
    with pytest.raises(ValueError, match=r"image 0|`\w+`"):
        processor(pixels, **options)
    assert json.dumps(processor.to_dict()) == attributes
    np.testing.assert_array_equal(pixels, before)
    np.testing.assert_equal(options, given_options)
    assert random.getstate() == states[0]
    assert torch.equal(torch.get_rng_state(), states[1])


@pytest.mark.parametrize("scope", ["image", "given"])
def test_a_warning_reaches_the_caller_once(scope):
    pixels = np.random.default_rng(0).integers(1, 9000, (12, 16, 16)).astype(np.uint16)
    pixels[0, 0, 0] = 65535
    statistics = measure_statistics(pixels) if scope == "given" else None
    processor = build_processor(statistics_scope=scope, statistics=statistics)
    with warnings.catch_warnings(record=True) as record:
        warnings.simplefilter("always")
        processor([pixels, pixels, pixels.astype(np.float32), pixels])
    texts = [str(warning.message).split(": ")[1] for warning in record]
    assert len(texts) == len(set(texts)) == 2
