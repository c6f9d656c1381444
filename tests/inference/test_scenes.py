"""Scenes: how often files are opened, and that the statistics are those of the files."""

import threading
import time
from collections import Counter

import numpy as np
import pytest
import rasterio

from spectralgpt_hf.inference import embed_scene, predict_scene
from spectralgpt_hf.inference.scenes import Scene
from spectralgpt_hf.modeling.raster_files import Files
from tests.inference.scenes import change_detector, encoder, processor, segmenter, write_scene


@pytest.fixture
def opens(monkeypatch):
    """Count how often each path is opened for reading by `open_raster`, and by which thread."""
    counts, original = Counter(), Files._open_path

    def count(self, path):
        counts[path] += 1
        return original(self, path)

    monkeypatch.setattr(Files, "_open_path", count)
    return counts


@pytest.mark.parametrize("memory_limit", [2**30, 19 * 2**20], ids=["one panel", "several panels"])
def test_a_scene_is_opened_once_by_a_process_with_one_reading_thread(tmp_path, opens, memory_limit):
    scene = write_scene(tmp_path / "scene.tif", width=150)
    model, options = segmenter(), {"workers": 1, "memory_limit": memory_limit, "progress": False}
    predict_scene(model, processor(), scene, tmp_path / "map.tif", **options)
    assert opens[str(scene)] == 1


def test_vectors_open_a_scene_once(tmp_path, opens):
    scene = write_scene(tmp_path / "scene.tif")
    embed_scene(encoder(), processor(), scene, tmp_path / "vectors.parquet", workers=1, progress=False)
    assert opens[str(scene)] == 1


def test_each_of_two_dates_is_opened_once(tmp_path, opens):
    before, after = write_scene(tmp_path / "before.tif"), write_scene(tmp_path / "after.tif", left=120)
    predict_scene(change_detector(), processor(), before, tmp_path / "map.tif", after=after, workers=1, progress=False)
    assert opens == {str(before): 1, str(after): 1}


def test_only_threads_that_read_at_the_same_time_open_a_scene_again(tmp_path, opens):
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
        assert opens[str(path)] == 2
        reading.wait(10)
        first.join()
        scene.reader.read = read
        scene._read((0, 0, 8, 8))
        assert opens[str(path)] == 2


@pytest.mark.parametrize("bands", [None, ["B2", "B3", "B4"]])
def test_statistics_of_an_open_scene_are_those_of_its_file(tmp_path, bands):
    path = write_scene(tmp_path / "scene.tif")
    chosen = processor() if bands is None else processor(bands=bands)
    with Scene([path], chosen) as scene:
        assert scene.statistics == chosen.measure_statistics(path)
        assert scene.reader.bands == tuple(chosen.bands)


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
