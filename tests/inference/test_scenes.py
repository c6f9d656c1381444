"""Scenes: how often files are opened, and that the statistics are those of the files."""

import threading
import time
from collections import Counter

import numpy as np
import pytest
import rasterio

from spectralgpt_hf.inference import embed_scene, predict_scene
from spectralgpt_hf.inference.scenes import Scene
from spectralgpt_hf.modeling.bands import L2A_BANDS
from tests.inference.scenes import change_detector, encoder, processor, segmenter, write_scene
from tests.modeling.products import file_name, write_geotiff, write_safe


@pytest.fixture
def opened(monkeypatch):
    """Count how often `rasterio.open` opens each path for reading."""
    counts, original = Counter(), rasterio.open

    def count(path, mode="r", *args, **options):
        counts[str(path)] += mode == "r"
        return original(path, mode, *args, **options)

    monkeypatch.setattr(rasterio, "open", count)
    return counts


def geotiff(folder):
    path = write_scene(folder / "scene.tif", width=150)
    return path, [path]


def safe(folder):
    product = write_safe(folder, "L1C")
    return product, [path for path in product.rglob("*.jp2") if "_TCI" not in path.name]


def stac_item(folder):
    paths = [folder / f"{file_name(band)}.tif" for band in L2A_BANDS]
    for number, path in enumerate(paths):
        write_geotiff(path, np.full((1, 32, 32), 1000 + number, np.uint16) + np.eye(32, dtype=np.uint16))
    assets = {path.stem: {"href": str(path)} for path in paths}
    return {"type": "Feature", "id": "S2A", "properties": {}, "assets": assets}, paths


@pytest.mark.parametrize("suffix", [".tif", ".parquet"])
@pytest.mark.parametrize("write", [geotiff, safe, stac_item])
def test_embedding_opens_each_layer_of_a_scene_once(tmp_path, opened, write, suffix):
    source, layers = write(tmp_path)
    opened.clear()
    embed_scene(encoder(), processor(), source, tmp_path / f"features{suffix}", workers=1, progress=False)
    assert {str(layer): opened[str(layer)] for layer in layers} == dict.fromkeys(map(str, layers), 1)


@pytest.mark.parametrize("write", [geotiff, safe, stac_item])
def test_prediction_opens_each_layer_of_a_scene_once(tmp_path, opened, write):
    source, layers = write(tmp_path)
    opened.clear()
    predict_scene(segmenter(), processor(), source, tmp_path / "map.tif", workers=1, progress=False)
    assert {str(layer): opened[str(layer)] for layer in layers} == dict.fromkeys(map(str, layers), 1)


def test_several_panels_open_a_scene_once(tmp_path, opened):
    source, (layer,) = geotiff(tmp_path)
    options = {"workers": 1, "memory_limit": 19 * 2**20, "progress": False}
    predict_scene(segmenter(), processor(), source, tmp_path / "map.tif", **options)
    assert opened[str(layer)] == 1


def test_known_limits_open_a_scene_once_too(tmp_path, opened):
    source, (layer,) = geotiff(tmp_path)
    own = processor(normalization="zscore", mean=[1000.0] * 12, std=[500.0] * 12)
    predict_scene(segmenter(), own, source, tmp_path / "map.tif", workers=1, progress=False)
    assert opened[str(layer)] == 1


def test_each_of_two_dates_is_opened_once(tmp_path, opened):
    before, after = write_scene(tmp_path / "before.tif"), write_scene(tmp_path / "after.tif", left=120)
    predict_scene(change_detector(), processor(), before, tmp_path / "map.tif", after=after, workers=1, progress=False)
    assert (opened[str(before)], opened[str(after)]) == (1, 1)


def test_only_threads_that_read_at_the_same_time_open_a_scene_again(tmp_path, opened):
    path = write_scene(tmp_path / "scene.tif")
    with Scene([path], processor()) as scene:
        reading = threading.Barrier(2)
        read = scene.reader.read

        def wait(window):
            reading.wait(10)
            return read(window)

        scene.reader.read = wait
        first = threading.Thread(target=scene._read, args=((0, 0, 8, 8),))
        first.start()
        while scene._idle:  # until the first thread has taken the readers
            time.sleep(0.01)
        scene._read((0, 0, 8, 8))
        assert opened[str(path)] == 2
        reading.wait(10)
        first.join()
        scene.reader.read = read
        scene._read((0, 0, 8, 8))
        assert opened[str(path)] == 2


def test_dates_on_different_grids_are_measured_on_their_own_grids(tmp_path):
    before, after = write_scene(tmp_path / "before.tif"), write_scene(tmp_path / "after.tif", left=130)
    with Scene([before, after], processor()) as scene:
        assert scene.statistics == processor().measure_statistics([before, after])
        assert scene.readers[1].transform == scene.readers[0].transform


@pytest.mark.parametrize("bands", [None, ["B2", "B3", "B4"]])
def test_statistics_of_an_open_scene_are_those_of_its_file(tmp_path, bands):
    path = write_scene(tmp_path / "scene.tif")
    chosen = processor() if bands is None else processor(bands=bands)
    with Scene([path], chosen) as scene:
        assert scene.statistics == chosen.measure_statistics(path)
        assert scene.reader.band_names == tuple(chosen.bands)


def test_an_unstated_offset_is_noticed_in_b10_which_is_not_passed_to_the_model(tmp_path):
    def add(pixels):
        pixels += 1000

    path = write_scene(tmp_path / "scene.tif", change=add)
    with pytest.warns(UserWarning, match=r"scene\.tif: the median of B10 is 900 or more"), Scene([path], processor()):
        pass


def test_a_scene_without_a_band_of_the_processor_is_refused(tmp_path):
    profile = {"driver": "GTiff", "count": 1, "height": 16, "width": 16, "dtype": "uint16"}
    with rasterio.open(tmp_path / "scene.tif", "w", **profile) as dataset:
        dataset.write(np.ones((1, 16, 16), np.uint16))
        dataset.descriptions = ("B10",)
    with pytest.raises(ValueError, match=r"scene\.tif: expected some of the bands B1 .*, found B10"):
        Scene([tmp_path / "scene.tif"], processor())
