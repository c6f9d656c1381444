"""Series: found in lists, folders, xarray and STAC item collections, and brought to the model's input."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from spectralgpt_hf import SpectralGPTForImageClassification, SpectralGPTForSemanticSegmentation, SpectralGPTModel
from spectralgpt_hf.modeling.bands import L2A_BANDS
from spectralgpt_hf.modeling.pipeline_spectralgpt import (
    MultispectralChangeDetectionPipeline,
    MultispectralFeatureExtractionPipeline,
    MultispectralImageClassificationPipeline,
    MultispectralImageSegmentationPipeline,
)
from spectralgpt_hf.modeling.series import Series, find_series, open_series
from tests.inference.scenes import build, change_detector, processor
from tests.modeling.products import write_geotiff


DAYS = (16627, 16647, 16667)
TEXTS = ("2015-07-11", "2015-07-31", "2015-08-20")
NAMED = {"band_names": L2A_BANDS}
ZSCORE = {"normalization": "zscore", "mean": [3000.0] * 12, "std": [1000.0] * 12}


def pixels(seed: int = 0, size: int = 32) -> np.ndarray:
    return np.random.default_rng(seed).integers(100, 8000, (12, size, size)).astype(np.uint16)


def dates_of(number: int = 3, size: int = 32) -> list[np.ndarray]:
    return [pixels(seed, size) for seed in range(number)]


@pytest.fixture
def folder(tmp_path):
    """A folder of three dated files, written in another order, and what else lies there."""
    for number in (2, 0, 1):
        write_geotiff(tmp_path / f"S2_{TEXTS[number].replace('-', '')}.tif", pixels(number), names=L2A_BANDS)
    write_geotiff(tmp_path / "land_use.tif", pixels(9)[:1])
    (tmp_path / "notes_20150711.txt").write_text("clear")
    return tmp_path


class DataArray:
    """As much of `xarray.DataArray` as is read, with dimensions time, band, y, x."""

    dims = ("time", "band", "y", "x")

    def __init__(self, values, times):
        self.values, self.sizes = values, {"time": len(values)}
        self.coords = {"time": SimpleNamespace(values=times)}

    def isel(self, indexers):
        return self.values[indexers["time"]]


def item(path, date):
    assets = {"all": {"href": str(path), "eo:bands": [{"name": band} for band in L2A_BANDS]}}
    properties = {"datetime": f"{date}T10:00:00Z", "platform": "sentinel-2a"}
    return {"type": "Feature", "stac_version": "1.0.0", "id": str(path), "properties": properties, "assets": assets}


# Where series come from


def test_a_folder_of_dated_files_is_a_series_in_order_of_time(folder):
    series = open_series(folder)
    assert [path.name for path in series.images] == ["S2_20150711.tif", "S2_20150731.tif", "S2_20150820.tif"]
    assert series.dates == DAYS


def test_a_list_of_files_takes_its_dates_from_the_caller_or_from_the_files(folder):
    files = [folder / f"S2_{text.replace('-', '')}.tif" for text in TEXTS]
    assert open_series(files, TEXTS).dates == DAYS
    batch = processor()(Series(files), report=False)
    assert batch["dates"].tolist() == [list(DAYS)]


def test_xarray_with_a_dimension_of_time_is_a_series():
    times = np.array(TEXTS, "datetime64[ns]")
    array = DataArray(np.stack(dates_of()), times)
    (series,) = find_series(array)
    assert series.dates == DAYS
    assert np.array_equal(series.images[2], pixels(2))


@pytest.mark.parametrize("kind", ["parsed", "file", "pystac"])
def test_a_stac_item_collection_is_a_series(folder, kind):
    names = [f"S2_{text.replace('-', '')}.tif" for text in TEXTS]
    items = [item(name if kind == "file" else folder / name, date) for name, date in zip(names, TEXTS)]
    collection = {"type": "FeatureCollection", "features": items}
    if kind == "file":
        (folder / "items.json").write_text(json.dumps(collection))
        collection = folder / "items.json"
    elif kind == "pystac":
        pystac = pytest.importorskip("pystac", reason="reads item collections")
        for entry in items:
            entry |= {"geometry": None, "links": [], "bbox": None}
        collection = pystac.ItemCollection.from_dict(collection)
    batch = processor()(open_series(collection))
    assert batch["dates"].tolist() == [list(DAYS)]
    assert torch.equal(batch["pixel_values"], processor()(open_series(folder))["pixel_values"])


def test_what_is_one_series_and_what_are_several_is_unambiguous():
    images = dates_of()
    assert find_series(images) is None
    assert find_series(images[0]) is None
    assert find_series(images[0].tolist()) is None  # nested numbers
    (one,) = find_series(images, TEXTS)
    assert one.dates == DAYS
    first, second = find_series([images, images[:2]])
    assert (len(first.images), len(second.images)) == (3, 2)
    first, second = find_series([images, images[:2]], [TEXTS, TEXTS[:2]])
    assert second.dates == DAYS[:2]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([1, 2], ["2015-07-11"]), "expected one for each of the 2 images, found 1"),
        (([], None), "one image or more"),
        ((["a.tif"], ["July"]), "Expected a date"),
        ((3, None), "Expected a series"),
    ],
)
def test_what_is_no_series_is_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        open_series(*arguments)


def test_paths_that_hold_no_series_are_refused(tmp_path):
    with pytest.raises(ValueError, match="a date in their names"):
        open_series(tmp_path)
    with pytest.raises(FileNotFoundError, match="no such file"):
        open_series(tmp_path / "nowhere")
    (tmp_path / "item.json").write_text(json.dumps(item("a.tif", TEXTS[0])))
    with pytest.raises(ValueError, match="a STAC item collection"):
        open_series(tmp_path / "item.json")
    with pytest.raises(ValueError, match="2 series among 3 inputs"):
        find_series([dates_of(), dates_of(), pixels()])


# The processor


def test_the_processor_makes_of_a_series_one_more_dimension_and_dates():
    batch = processor(**ZSCORE)(dates_of(), dates=TEXTS, **NAMED)
    assert batch["pixel_values"].shape == (1, 3, 12, 32, 32)
    assert batch["dates"].tolist() == [list(DAYS)]
    assert batch["dates"].dtype == torch.int64
    assert "attention_mask" not in batch
    each = processor(**ZSCORE)(dates_of(), **NAMED)["pixel_values"]
    assert torch.equal(batch["pixel_values"][0], each)


def test_a_series_without_known_dates_has_none():
    assert set(processor(**ZSCORE)([dates_of()], **NAMED)) == {"pixel_values"}


def test_all_dates_of_a_series_share_limits():
    images = [pixels(0) // 4, pixels(1)]
    batch, (report,) = processor()(images, dates=TEXTS[:2], report=True, **NAMED)
    statistics = processor().measure_statistics(images, **NAMED)
    expected = processor()(images, statistics=statistics, **NAMED)["pixel_values"]
    assert torch.equal(batch["pixel_values"][0], expected)
    assert batch["pixel_values"][0, 0].mean() < 0.5 * batch["pixel_values"][0, 1].mean()
    torch.testing.assert_close(report.low, torch.tensor(statistics["percentile_1"]))


def test_a_date_without_data_is_masked_and_series_of_other_lengths_are_filled_up():
    images = dates_of()
    images[1][:] = 0
    images[2][:, :16] = 0
    batch, reports = processor(**ZSCORE)([images, images[:1]], dates=[TEXTS, TEXTS[:1]], report=True, **NAMED)
    assert batch["pixel_values"].shape == (2, 3, 12, 32, 32)
    assert batch["dates"].tolist() == [list(DAYS), [DAYS[0], 0, 0]]
    masks = batch["attention_mask"].view(2, 3, 4, 4, 4)
    assert masks[0].float().mean((1, 2, 3)).tolist() == [1, 0, 0.5]
    assert masks[0, 2, :, :2].sum() == 0
    assert masks[1].float().mean((1, 2, 3)).tolist() == [1, 0, 0]
    assert [report.valid_share for report in reports] == [1, 1]
    assert batch["pixel_values"].isfinite().all()


def test_labels_of_a_series_count_where_any_date_has_data():
    images = dates_of(2)
    images[0][:, :16] = 0
    images[1][:, 8:] = 0
    batch = processor(**ZSCORE)(images, dates=TEXTS[:2], segmentation_maps=np.ones((32, 32), np.uint8), **NAMED)
    assert batch["labels"].shape == (1, 32, 32)
    rows = batch["labels"][0, :, 0]
    assert rows.tolist() == [1] * 8 + [255] * 8 + [1] * 16


def test_masks_go_to_their_dates():
    cloud = np.ones((32, 32), bool)
    cloud[:16] = False
    options = {"dates": TEXTS[:2], "mask": [cloud, ~cloud], **NAMED}
    masks = processor(**ZSCORE)(dates_of(2), **options)["attention_mask"].view(2, 4, 4, 4)
    assert masks[0, :, :2].sum() == masks[1, :, 2:].sum() == 0
    assert masks.sum() == 64


def test_a_series_of_nothing_and_dates_on_other_grids_are_refused(tmp_path):
    with pytest.raises(ValueError, match="no date has data"):
        processor(**ZSCORE)([0 * pixels(), 0 * pixels()], dates=TEXTS[:2], **NAMED)
    with pytest.raises(ValueError, match="no pixel of this image has data"):
        processor()([0 * pixels(), 0 * pixels()], dates=TEXTS[:2], **NAMED)
    with pytest.raises(ValueError, match="not on one grid"):
        processor()([pixels(), pixels(size=24)], dates=TEXTS[:2], **NAMED)
    paths = [
        write_geotiff(tmp_path / f"{number}.tif", pixels(), origin=(400_000 + 10 * number, 5e6), names=L2A_BANDS)
        for number in (0, 1)
    ]
    with pytest.raises(ValueError, match="not on one grid"):
        processor()(paths, dates=TEXTS[:2])


# The pipelines


def make(pipeline_class, model_class=None, **options):
    model = change_detector() if model_class is None else build(model_class, **options)
    return pipeline_class(model=model, image_processor=processor())


def test_a_pipeline_takes_a_list_of_lists_as_series_and_a_list_as_images():
    run = make(MultispectralFeatureExtractionPipeline, SpectralGPTModel, temporal_fusion="attention")
    images = dates_of()
    (one,) = run([images], dates=[TEXTS], **NAMED)
    assert one.shape == (32,)
    assert torch.equal(run(images, dates=TEXTS, **NAMED), one)
    assert torch.equal(run(Series(images, TEXTS), **NAMED), one)
    assert torch.equal(run(DataArray(np.stack(images), np.array(TEXTS, "datetime64[ns]")), **NAMED), one)
    assert len(run(images, **NAMED)) == 3
    inputs = run.image_processor(images, dates=TEXTS, **NAMED)
    with torch.no_grad():
        torch.testing.assert_close(run.model(**inputs).pooler_output[0], one)
    reverse = run([Series(images[::-1], TEXTS[::-1]), Series(images[:1], TEXTS[:1])], batch_size=2, **NAMED)
    torch.testing.assert_close(reverse[0], one, rtol=0, atol=1e-5)
    assert torch.equal(reverse[1], run(images[:1], **NAMED)[0])


def test_classification_and_segmentation_take_a_folder_as_a_series(folder):
    classify = make(MultispectralImageClassificationPipeline, SpectralGPTForImageClassification)
    series = open_series(folder)
    assert sum(entry["score"] for entry in classify(series)) == pytest.approx(1)
    assert classify([list(series.images)]) == [classify(series)]
    result = make(MultispectralImageSegmentationPipeline, SpectralGPTForSemanticSegmentation)(series)
    assert result["map"].pixels.shape == (1, 32, 32)
    assert str(result["map"].crs) == "EPSG:32633"


def test_a_large_series_is_mapped_in_tiles_and_an_empty_date_changes_nothing():
    run = make(MultispectralImageSegmentationPipeline, SpectralGPTForSemanticSegmentation, temporal_fusion="attention")
    images = dates_of(2, size=72)
    images[0][:, :, :30] = 0
    found = run(images, dates=TEXTS[:2], **NAMED)["map"]
    assert found.valid.all()
    assert len(np.unique(found.pixels)) > 1
    longer = run([images[0], 0 * images[0], images[1]], dates=[TEXTS[0], TEXTS[2], TEXTS[1]], **NAMED)["map"]
    assert (longer.pixels == found.pixels).mean() > 0.999
    single = run(images[1], **NAMED)["map"]
    assert not np.array_equal(single.pixels, found.pixels)


def test_a_pair_is_no_series():
    run = make(MultispectralChangeDetectionPipeline)
    with pytest.raises(ValueError, match="`dates` are for series"):
        run(dates_of(2), dates=TEXTS[:2])
    assert 0 <= run(tuple(dates_of(2)), **NAMED)["share"] <= 1
