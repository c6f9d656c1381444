import json

import numpy as np
import pytest
import rasterio
from rasterio.crs import CRS
from rasterio.transform import from_origin
from rasterio.warp import transform

from spectralgpt_hf.inference import predict_scene
from spectralgpt_hf.inference.mosaics import write_mosaic

from .scenes import processor, read, segmenter, write_scene


def write_map(path, values, left, top=5_000_000.0, epsg=32632, cell=10.0, classes=("water", "forest"), nodata=np.nan):
    """Write (C, H, W) as probabilities."""
    count, height, width = values.shape
    profile = {"driver": "GTiff", "count": count, "height": height, "width": width, "dtype": "float32"}
    grid = from_origin(left, top, cell, cell)
    with rasterio.open(path, "w", **profile, nodata=nodata, crs=CRS.from_epsg(epsg), transform=grid) as dataset:
        dataset.write(values.astype(np.float32))
        dataset.update_tags(weights="w", classes=json.dumps(dict(enumerate(classes))))
    return path


def constant(value, width=60, height=40):
    return np.stack([np.full((height, width), value), np.full((height, width), 1 - value)])


def test_each_map_decides_in_its_own_middle_and_the_change_lies_between(tmp_path):
    first = write_map(tmp_path / "a.tif", constant(0.9), 500_000)
    second = write_map(tmp_path / "b.tif", constant(0.1), 500_300)
    path = write_mosaic([first, second], tmp_path / "mosaic.tif", "EPSG:32632", 10)
    with rasterio.open(path) as mosaic:
        assert (mosaic.shape, mosaic.dtypes[0], mosaic.nodata) == ((40, 90), "uint8", 255)
        assert mosaic.transform == from_origin(500_000, 5_000_000, 10, 10)
        assert mosaic.colormap(1)[0][:3] == (40, 110, 200)
        classes = mosaic.read(1)
    np.testing.assert_array_equal(classes[:, :44], 0)
    np.testing.assert_array_equal(classes[:, 46:], 1)


def test_blending_is_the_weighted_mean_with_raised_cosines(tmp_path):
    first = write_map(tmp_path / "a.tif", constant(3.0)[:1], 500_000, classes=())
    second = write_map(tmp_path / "b.tif", constant(5.0)[:1], 500_300, classes=())
    blended = read(write_mosaic([first, second], tmp_path / "mosaic.tif", "EPSG:32632", 10))[0]
    weight = np.sin(np.pi * (np.arange(60) + 0.5) / 60) ** 2
    one, other = np.pad(weight, (0, 30)), np.pad(weight, (30, 0))
    np.testing.assert_allclose(blended, np.tile((3 * one + 5 * other) / (one + other), (40, 1)), atol=5e-3)


def test_maps_of_two_utm_zones_lie_where_pyproj_says(tmp_path):
    """A bright square of each map is found at its position in the mosaic."""
    target, paths, positions = CRS.from_epsg(3857), [], []
    for epsg, left in ((32632, 760_000.0), (32633, 240_000.0)):
        values = np.full((1, 40, 60), 0.0)
        values[0, 18:22, 28:32] = 1
        paths.append(write_map(tmp_path / f"{epsg}.tif", values, left, epsg=epsg, cell=100, classes=()))
        x, y = transform(CRS.from_epsg(epsg), target, [left + 3000], [5_000_000 - 2000])
        positions.append((x[0], y[0]))
    path = write_mosaic(paths, tmp_path / "mosaic.tif", "EPSG:3857", 100)
    with rasterio.open(path) as mosaic:
        content = np.nan_to_num(mosaic.read(1))
        for x, y in positions:
            row, column = mosaic.index(x, y)
            assert content[row, column] > 0.9
        assert 32 < (content > 0.5).sum() < 90  # 16 cells of each map, larger by the scale of Mercator


@pytest.mark.parametrize(("target", "cell"), [(4326, 0.001), (3857, 100), (32660, 100), (3832, 100)])
def test_maps_on_both_sides_of_the_antimeridian_lie_side_by_side(tmp_path, target, cell):
    """Three maps of 6 km: west of it, across it, and east of it, the last one in degrees."""
    crs = CRS.from_epsg(target)
    (west,), (north,) = transform(CRS.from_epsg(4326), CRS.from_epsg(32660), [180], [66])
    paths = [
        write_map(tmp_path / "west.tif", constant(0.9), west - 9000, north, 32660, 100),
        write_map(tmp_path / "across.tif", constant(0.1), west - 3000, north, 32660, 100),
        write_map(tmp_path / "east.tif", constant(0.9), -179.93, 66.0, 4326, 0.002),
    ]
    with rasterio.open(write_mosaic(paths, tmp_path / "mosaic.tif", f"EPSG:{target}", cell)) as mosaic:
        classes = mosaic.read(1)
        assert mosaic.width * mosaic.res[0] < (0.5 if target == 4326 else 50_000)
        width = {4326: 360, 3857: 40075016.6856}.get(target, 0)
        for path, expected in zip(paths, (0, 1, 0)):
            with rasterio.open(path) as one:
                middle = one.xy(one.height / 2, one.width / 2)
                (x,), (y,) = transform(one.crs, crs, *([value] for value in middle))
            row, column = mosaic.index(x + width * (x < mosaic.bounds.left), y)
            assert (classes[row - 2 : row + 3, column - 2 : column + 3] == expected).all()


def test_cells_without_data_stay_empty_and_do_not_pull_at_others(tmp_path):
    hole = constant(0.9)
    hole[:, :, 20:40] = np.nan
    first = write_map(tmp_path / "a.tif", hole, 500_000)
    second = write_map(tmp_path / "b.tif", constant(0.1, width=5), 500_250)
    classes = read(write_mosaic([first, second], tmp_path / "mosaic.tif", "EPSG:32632", 10))[0]
    np.testing.assert_array_equal(classes[:, :19], 0)
    np.testing.assert_array_equal(classes[:, 25:30], 1)
    np.testing.assert_array_equal(classes[:, 31:39], 255)


def test_probabilities_of_scenes_become_one_map(tmp_path):
    paths = []
    for number in range(2):
        scene = write_scene(tmp_path / f"scene{number}.tif", left=60 * number, width=96, height=64)
        map_path = tmp_path / f"map{number}.tif"
        predict_scene(segmenter(), processor(), scene, map_path, layers=["probabilities"], progress=False)
        paths.append(tmp_path / f"map{number}_probabilities.tif")
    mosaic = read(write_mosaic(paths, tmp_path / "mosaic.tif", "EPSG:32618", 10))[0]
    assert mosaic.shape == (64, 156)
    np.testing.assert_array_equal(mosaic[:, :58], read(tmp_path / "map0.tif")[0, :, :58])
    np.testing.assert_array_equal(mosaic[:, 98:], read(tmp_path / "map1.tif")[0, :, 38:])


def test_the_size_of_the_blocks_does_not_change_a_mosaic(tmp_path, monkeypatch):
    values = np.random.default_rng(0).random((6, 40, 60))
    paths = [write_map(tmp_path / f"{left}.tif", values, 500_000 + left, classes=()) for left in (0, 300)]
    whole = read(write_mosaic(paths, tmp_path / "whole.tif", "EPSG:32632", 10))
    monkeypatch.setattr("spectralgpt_hf.inference.mosaics.BLOCK_VALUES", 6 * 17**2)
    parts = read(write_mosaic(paths, tmp_path / "parts.tif", "EPSG:32632", 10))
    np.testing.assert_array_equal(parts, whole)


def test_what_cannot_be_blended_is_said(tmp_path):
    first = write_map(tmp_path / "a.tif", constant(0.9), 500_000)
    other = write_map(tmp_path / "b.tif", constant(0.9)[:1], 500_000)
    with pytest.raises(ValueError, match="found one of another model"):
        write_mosaic([first, other], tmp_path / "mosaic.tif", "EPSG:32632", 10)
    with pytest.raises(ValueError, match="EPSG:3857, got 'nonsense'"):
        write_mosaic([first], tmp_path / "mosaic.tif", "nonsense", 10)
    with pytest.raises(ValueError, match="positive size of cells"):
        write_mosaic([first], tmp_path / "mosaic.tif", "EPSG:32632", 0)
    with pytest.raises(ValueError, match="at least one map"):
        write_mosaic([], tmp_path / "mosaic.tif", "EPSG:32632", 10)
    with pytest.raises(ValueError, match="is an input"):
        write_mosaic([first], first, "EPSG:32632", 10, overwrite=True)
