import json
import math
import warnings

import numpy as np
import pytest
import rasterio
import torch
from rasterio.warp import transform_bounds
from rio_cogeo import cog_validate

from spectralgpt_hf.inference import predict_scene
from spectralgpt_hf.inference.mosaics import write_mosaic
from spectralgpt_hf.modeling.rasters import open_raster, read_raster, write_raster
from tests.modeling.products import write_safe, zip_folder

from .scenes import change_detector, classifier, cut_corner, processor, read, segmenter, write_scene


@pytest.fixture
def scene(tmp_path):
    return write_scene(tmp_path / "scene.tif")


@pytest.fixture
def predict(tmp_path):
    def run(source, name="map.tif", model=None, **options):
        model = model or segmenter()
        return predict_scene(
            model, options.pop("processor", processor()), source, tmp_path / name, progress=False, **options
        )

    return run


def test_a_map_lies_on_the_scene_and_says_what_it_is(scene, predict):
    layers = ("confidence", "entropy", "probabilities")
    path = predict(scene, layers=layers)
    with rasterio.open(scene) as source, rasterio.open(path) as result:
        assert (result.shape, result.crs, result.transform) == (source.shape, source.crs, source.transform)
        assert (result.count, result.dtypes[0], result.nodata) == (1, "uint8", 255)
        assert result.colorinterp[0].name == "palette"
        assert len({result.colormap(1)[number] for number in range(3)}) == 3
        tags, classes = result.tags(), result.read(1)
    assert json.loads(tags["classes"]) == {"0": "class 0", "1": "class 1", "2": "class 2"}
    measured = processor().measure_statistics(scene)
    assert json.loads(tags["statistics"]) == measured
    assert tags["source"] == "scene.tif"
    assert tags["normalization"] == "minmax, limits per scene"
    assert (tags["tile_size"], tags["tile_stride"]) == ("32", "16")
    assert len(np.unique(classes)) == 3
    confidence, entropy, probabilities = (read(path.with_name(f"map_{layer}.tif")) for layer in layers)
    np.testing.assert_array_equal(probabilities.argmax(0)[confidence[0] > 0.51], classes[confidence[0] > 0.51])
    np.testing.assert_allclose(confidence[0], probabilities.max(0), atol=1e-3)
    expected = -(probabilities * np.log(probabilities + 1e-12)).sum(0) / np.log(3)
    np.testing.assert_allclose(entropy[0], expected, atol=3e-3)
    for file in (path, path.with_name("map_probabilities.tif")):
        valid, errors, _ = cog_validate(str(file))
        assert valid, errors
    assert [file.name for file in path.parent.iterdir() if "part" in file.name] == []


def test_logits_of_overlapping_tiles_are_blended_under_one_radiometry(scene, predict):
    model, own = segmenter(), processor()
    result = read(predict(scene, model=model, layers=["probabilities"]).with_name("map_probabilities.tif"))
    statistics = own.measure_statistics(scene)
    window = np.sin(np.pi * (np.arange(32) + 0.5) / 32) ** 2
    window = np.outer(window, window)
    total, weights = np.zeros((3, 75, 90)), np.zeros((75, 90))
    for top in (0, 16, 32, 43):
        for left in (0, 16, 32, 48, 58):
            inputs = own(read_raster(scene, window=(left, top, 32, 32)), statistics=statistics)
            with torch.no_grad():
                logits = model(**inputs).logits[0].numpy()
            total[:, top : top + 32, left : left + 32] += window * logits
            weights[top : top + 32, left : left + 32] += window
    expected = torch.from_numpy(total / weights).softmax(0).numpy()
    np.testing.assert_allclose(result, expected, atol=2e-3)


def test_a_map_holds_the_codes_of_the_maps_that_were_learnt_from(scene, predict):
    numbers = read(predict(scene))[0]
    path = predict(scene, "codes.tif", segmenter(class_codes=[7, 2, 30]), layers=("probabilities",))
    with rasterio.open(path) as result:
        np.testing.assert_array_equal(result.read(1), np.array([7, 2, 30], np.uint8)[numbers])
        assert json.loads(result.tags()["classes"]) == {"7": "class 0", "2": "class 1", "30": "class 2"}
        assert len({result.colormap(1)[code] for code in (7, 2, 30)}) == 3
    mosaic = write_mosaic([path.with_name("codes_probabilities.tif")], path.with_name("mosaic.tif"), "EPSG:3857", 10)
    assert set(np.unique(read(mosaic))) == {2, 7, 30, 255}


def test_how_the_work_is_divided_changes_no_byte(scene, predict):
    layers = ["confidence", "probabilities"]
    first = predict(scene, "first.tif", layers=layers)
    threads = torch.get_num_threads()
    ways = [{"batch_size": 1, "workers": 1}, {"batch_size": 7, "workers": 3}, {"memory_limit": 30 * 2**20}]
    for number, options in enumerate(ways):
        torch.set_num_threads(1 + number % 2)
        try:
            other = predict(scene, "other.tif", layers=layers, overwrite=True, **options)
        finally:
            torch.set_num_threads(threads)
        for suffix in (".tif", "_confidence.tif", "_probabilities.tif"):
            files = [path.with_name(f"{path.stem}{suffix}") for path in (first, other)]
            assert files[0].read_bytes() == files[1].read_bytes(), options


def test_the_threads_of_torch_are_set_back(scene, predict):
    threads = torch.get_num_threads()
    predict(scene)
    assert torch.get_num_threads() == threads


class Killed(Exception):
    """What stops a run."""


def test_a_run_that_stopped_goes_on_where_it_was_and_gives_the_same_file(scene, predict, monkeypatch):
    expected = predict(scene, "expected.tif").read_bytes()
    model, counts = segmenter(), {"runs": 0}
    forward = model.forward

    def counted(*arguments, **options):
        counts["runs"] += 1
        if counts["runs"] == 14:
            raise Killed
        return forward(*arguments, **options)

    model.forward = counted
    with pytest.raises(Killed):
        predict(scene, model=model)
    assert not (scene.parent / "map.tif").exists()
    assert list((scene.parent / "map.tif.parts").rglob("*.npz"))
    counts["runs"] = 100
    resumed = predict(scene, model=model)
    assert counts["runs"] - 100 < 20  # of 20 tiles
    assert resumed.read_bytes() == expected
    assert not (scene.parent / "map.tif.parts").exists()


def test_strips_of_another_run_are_not_used(scene, predict):
    def stopped(model):
        calls = iter(range(14))
        forward = model.forward

        def limited(*arguments, **options):
            if next(calls, None) is None:
                raise Killed
            return forward(*arguments, **options)

        model.forward = limited
        return model

    with pytest.raises(Killed):
        predict(scene, model=stopped(segmenter(seed=1)))
    assert list((scene.parent / "map.tif.parts").rglob("*.npz"))
    assert predict(scene).read_bytes() == predict(scene, "expected.tif").read_bytes()


def bounds_of(scene, left, top, right, bottom):
    with rasterio.open(scene) as dataset:
        (x, y), (other_x, other_y) = dataset.transform * (left, bottom), dataset.transform * (right, top)
        return (x, y, other_x, other_y), dataset.crs


@pytest.mark.parametrize("box", [(16, 32, 64, 64), (5, 9, 71, 50), (0, 0, 90, 75)])
def test_an_area_of_interest_gives_the_pixels_of_the_whole_scene(scene, predict, box):
    left, top, right, bottom = box
    whole = predict(scene, "whole.tif", layers=["probabilities"])
    part = predict(scene, "part.tif", layers=["probabilities"], area=bounds_of(scene, *box)[0])
    for suffix in (".tif", "_probabilities.tif"):
        files = [path.with_name(f"{path.stem}{suffix}") for path in (whole, part)]
        np.testing.assert_array_equal(read(files[1]), read(files[0])[:, top:bottom, left:right])
    with rasterio.open(whole) as dataset, rasterio.open(part) as result:
        assert result.transform * (0, 0) == dataset.transform * (left, top)
    if box == (0, 0, 90, 75):
        assert part.read_bytes() == whole.read_bytes()


def test_an_area_may_be_geojson_in_any_reference_system(scene, predict):
    whole = read(predict(scene, "whole.tif"))[0]
    bounds, crs = bounds_of(scene, 20, 10, 60, 50)
    left, bottom, right, top = transform_bounds(crs, "EPSG:4326", *bounds)
    triangle = {"type": "Polygon", "coordinates": [[(left, bottom), (right, bottom), (left, top), (left, bottom)]]}
    file = scene.parent / "area.geojson"
    file.write_text(json.dumps({"type": "FeatureCollection", "features": [{"type": "Feature", "geometry": triangle}]}))
    part = predict(scene, "part.tif", area=file)
    with rasterio.open(part) as dataset:
        column, row = (round(number) for number in ~dataset.transform * (bounds[0], bounds[3]))
        result = dataset.read(1)
    inside = result != 255
    assert 0.4 < inside.sum() / 1600 < 0.6
    assert inside[row + 38, column + 2]
    assert not inside[row + 2, column + 38]
    crop = whole[10 - row : 10 - row + result.shape[0], 20 - column : 20 - column + result.shape[1]]
    np.testing.assert_array_equal(result[inside], crop[inside])
    boxed = predict(scene, "boxed.tif", area=(left, bottom, right, top), area_crs="EPSG:4326")
    assert read(boxed).shape[1] >= 40


def polygon(points):
    return {"type": "Polygon", "coordinates": [[*points, points[0]]]}


@pytest.mark.parametrize(
    ("area", "expected"),
    [
        ((0, 0, 10, 10), "does not touch the scene"),
        ((10, 0, 0, 10), "left, bottom, right, top"),
        ({"type": "Point", "coordinates": [0, 0]}, "at least one Polygon"),
        ({"type": "Polygon"}, "that has coordinates"),
        ({"type": "FeatureCollection", "features": None}, "at least one Polygon"),
        (polygon([[1, math.nan], [2, 3], [3, 4]]), "found NaN or infinity"),
        (polygon([[1, 2], [math.inf, 3], [3, 4]]), "found NaN or infinity"),
        (polygon([[1, 100], [2, 201], [3, 100]]), "found the latitude 201: pass longitudes first"),
        (polygon([[1, 2], [2, 2], [2, 3]]) | {"crs": "EPSG:99999"}, "`crs`: expected a coordinate reference system"),
        (polygon([[1, 2], [2, 2], [2, 3]]) | {"crs": {"properties": None}}, "`crs`: expected a coordinate reference"),
    ],
)
def test_areas_that_are_none_are_refused(scene, predict, area, expected):
    with pytest.raises(ValueError, match=expected):
        predict(scene, area=area)


def test_geojson_that_is_nested_too_deep_or_in_an_unknown_reference_system_is_refused(tmp_path, scene, predict):
    (tmp_path / "deep.json").write_text("[" * 9000 + "]" * 9000)
    with pytest.raises(ValueError, match=r"deep\.json: expected GeoJSON"):
        predict(scene, area=tmp_path / "deep.json")
    with pytest.raises(ValueError, match=r"`area_crs`: expected a coordinate reference system .* found 'EPSG:foo'"):
        predict(scene, area=(1, 2, 3, 4), area_crs="EPSG:foo")


def test_nodata_is_that_of_the_source_to_the_pixel(tmp_path, predict):
    ragged = write_scene(tmp_path / "ragged.tif", change=cut_corner, nodata=0)
    result = read(predict(ragged, layers=["confidence"]))[0]
    valid = read_raster(ragged).valid
    assert valid[70, 80]
    assert not valid[70, 81]
    np.testing.assert_array_equal(result != 255, valid)
    np.testing.assert_array_equal(np.isfinite(read(tmp_path / "map_confidence.tif")[0]), valid)


def test_a_cloud_mask_is_left_out(scene, predict):
    with rasterio.open(scene) as dataset:
        profile = {**dataset.profile, "count": 1, "dtype": "uint8"}
    clear = np.ones((75, 90), np.uint8)
    clear[20:60, 30:45] = 0
    clear[40, 37] = 1
    with rasterio.open(scene.parent / "clear.tif", "w", **profile) as dataset:
        dataset.write(clear, 1)
    result = read(predict(scene, mask=scene.parent / "clear.tif"))[0]
    np.testing.assert_array_equal(result != 255, clear == 1)


def test_normalisation_of_each_tile_is_possible_and_warns_of_seams(scene, predict):
    with pytest.warns(UserWarning, match="seams"):
        path = predict(scene, statistics_scope="tile")
    with rasterio.open(path) as dataset:
        assert "statistics" not in dataset.tags()
        assert dataset.tags()["normalization"] == "minmax, limits per tile"
    assert (read(path) != read(predict(scene, "other.tif"))).any()


@pytest.mark.parametrize(("width", "height"), [(20, 11), (32, 32), (33, 70), (8, 90)])
def test_scenes_of_any_size_are_mapped(tmp_path, predict, width, height):
    scene = write_scene(tmp_path / "small.tif", width=width, height=height)
    result = read(predict(scene))
    assert result.shape == (1, height, width)
    assert (result != 255).all()


def test_change_is_found_with_one_radiometry_for_both_dates(tmp_path, predict):
    before, after = write_scene(tmp_path / "before.tif"), write_scene(tmp_path / "after.tif", left=140)
    model = change_detector()
    path = predict(before, model=model, after=after)
    with rasterio.open(path) as dataset:
        assert json.loads(dataset.tags()["statistics"]) == processor().measure_statistics([before, after])
        assert dataset.tags()["after_source"] == "after.tif"


def test_a_second_date_on_another_grid_is_warped_onto_the_first(tmp_path, predict):
    zscore = processor(normalization="zscore", mean=[1000.0] * 12, std=[500.0] * 12)
    model, before = change_detector(), write_scene(tmp_path / "before.tif")

    def later(pixels):
        pixels //= 2

    on_grid = write_scene(tmp_path / "on_grid.tif", change=later)
    larger = write_scene(tmp_path / "larger.tif", left=90, top=143, width=120, height=60, change=later)
    expected = read(predict(before, "expected.tif", model=model, after=on_grid, processor=zscore))[0]
    result = read(predict(before, model=model, after=larger, processor=zscore))[0]
    covered = np.zeros_like(result, bool)
    covered[: 60 - 7] = True
    np.testing.assert_array_equal(result != 255, covered)
    assert (result[:30] == expected[:30]).mean() > 0.999


def test_classification_gives_a_pixel_for_each_chip(scene, predict):
    model, own = classifier(), processor()
    path = predict(scene, model=model, layers=["confidence"])
    with rasterio.open(scene) as source, rasterio.open(path) as result:
        assert result.shape == (3, 3)
        assert result.transform == source.transform * source.transform.scale(32)
        labels = result.read(1)
    inputs = own(read_raster(scene, window=(32, 32, 32, 32)), statistics=own.measure_statistics(scene))
    with torch.no_grad():
        probabilities = model(**inputs).logits[0].softmax(0)
    assert labels[1, 1] == probabilities.argmax()
    assert read(path.with_name("map_confidence.tif"))[0, 1, 1] == pytest.approx(probabilities.max().item(), abs=1e-3)


def test_chips_that_overlap_have_their_pixels_in_their_middle(scene, predict):
    path = predict(scene, model=classifier(), overlap=0.5)
    with rasterio.open(scene) as source, rasterio.open(path) as result:
        assert result.shape == (4, 5)
        assert result.transform * (0.5, 0.5) == source.transform * (16, 16)
        assert result.transform.a == 16 * source.transform.a


@pytest.fixture
def bands(tmp_path):
    """A folder with a file for each band of a scene, and the map of that scene."""
    folder = tmp_path / "bands"
    folder.mkdir()
    with open_raster(write_scene(tmp_path / "scene.tif")) as reader, rasterio.open(tmp_path / "scene.tif") as scene:
        for index, band in enumerate(reader.band_names, 1):
            with rasterio.open(folder / f"{band}.tif", "w", **{**scene.profile, "count": 1}) as dataset:
                dataset.write(scene.read(index), 1)
    return folder


def stac_item(links):
    assets = {name: {"href": str(link)} for name, link in links.items()}
    return {"type": "Feature", "id": "scene", "properties": {"datetime": "2016-01-01T00:00:00Z"}, "assets": assets}


def test_the_source_may_be_files_of_bands_a_stac_item_bytes_or_an_address(tmp_path, predict, bands, file_server):
    expected = read(predict(tmp_path / "scene.tif", "expected.tif"))
    item = tmp_path / "item.json"
    item.write_text(json.dumps(stac_item({path.stem: f"bands/{path.name}" for path in bands.iterdir()})))
    sources = {
        "folder": bands,
        "zip": zip_folder(bands),
        "item": item,
        "bytes": (tmp_path / "scene.tif").read_bytes(),
        "address": f"{file_server}/scene.tif",
        "item of addresses": stac_item({path.stem: f"{file_server}/bands/{path.name}" for path in bands.iterdir()}),
    }
    for name, source in sources.items():
        np.testing.assert_array_equal(read(predict(source, f"{name}.tif")), expected, err_msg=name)


@pytest.mark.parametrize("level", ["L1C", "L2A"])
def test_the_source_may_be_a_product(tmp_path, predict, level):
    product = write_safe(tmp_path, level, offsets=[-1000] * 13)
    scene = read_raster(product)
    write_raster(
        tmp_path / "s.tif",
        scene.pixels,
        crs=scene.crs,
        transform=scene.transform,
        band_names=scene.band_names,
        nodata=0,
    )
    expected = predict(tmp_path / "s.tif", "expected.tif")
    found = predict(product)
    np.testing.assert_array_equal(read(found), read(expected))
    with rasterio.open(found) as dataset:
        assert dataset.tags()["product"] == product.name
        assert (dataset.crs, dataset.transform) == (scene.crs, scene.transform)


def test_several_labels_have_probabilities_of_their_own(scene, predict):
    model = classifier(problem_type="multi_label_classification")
    path = predict(scene, model=model, layers=["probabilities", "entropy"])
    total = read(path.with_name("map_probabilities.tif")).sum(0)
    assert (abs(total - 1) > 0.05).any()


def test_statistics_of_the_checkpoint_are_used_and_stated(scene, tmp_path, predict):
    with open_raster(scene) as reader:
        statistics = processor().measure_statistics(reader.read().pixels, band_names=reader.band_names)
    measured = predict(scene, "measured.tif", processor=processor(normalization="percentile"))
    given = processor(normalization="percentile", statistics_scope="given", statistics=statistics)
    known = predict(scene, "known.tif", processor=given)
    np.testing.assert_array_equal(read(known), read(measured))
    with rasterio.open(known) as dataset:
        assert dataset.tags()["normalization"] == "percentile, limits per given"
        assert json.loads(dataset.tags()["statistics"]) == statistics
    brighter = {**statistics, "percentile_99": [2 * value for value in statistics["percentile_99"]]}
    given = processor(normalization="percentile", statistics_scope="given", statistics=brighter)
    assert (read(predict(scene, "brighter.tif", processor=given)) != read(known)).any()


def test_a_map_is_no_picture(scene, predict):
    with pytest.raises(ValueError, match=r"map\.png: expected a name that ends with"):
        predict(scene, "map.png")


def refused_models():
    yield segmenter(), {"after": "other.tif"}, "without `after`"
    yield change_detector(), {}, "pass `after`"
    yield segmenter().spectralgpt, {}, "Expected a model for segmentation"
    yield segmenter().train(), {}, "evaluation mode"
    yield segmenter(), {"layers": ["variance"]}, "expected some of confidence, entropy, probabilities"
    yield segmenter(), {"overlap": 1}, "overlap"
    yield segmenter(), {"tile_size": 30}, "multiple of 8 px"
    yield segmenter(), {"memory_limit": 2**20}, "`memory_limit` is 1 MiB: expected at least"
    yield segmenter(), {"statistics_scope": "pair"}, "'scene' or 'tile'"
    yield segmenter(), {"workers": 0}, "`workers` must be positive"


@pytest.mark.parametrize(("model", "options", "expected"), refused_models())
def test_what_cannot_be_done_is_said(scene, predict, model, options, expected):
    with pytest.raises(ValueError, match=expected):
        predict(scene, model=model, **options)


def test_a_missing_folder_is_found_before_the_work_is_done(scene, predict):
    with pytest.raises(FileNotFoundError, match="no such folder to write to"):
        predict(scene, "missing/map.tif")


def test_no_warning_is_raised_for_a_good_scene(scene, predict):
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        predict(scene)
