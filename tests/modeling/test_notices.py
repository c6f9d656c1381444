"""A warning reaches the caller of every interface once, at the line of the caller, from any depth of the code."""

import warnings
from collections import Counter
from threading import Thread

import numpy as np
import pytest
import rasterio
from transformers import pipeline

from spectralgpt_hf import SpectralGPTImageProcessor
from spectralgpt_hf.inference import embed_scene, predict_scene
from spectralgpt_hf.modeling.notices import collected_warnings, warn, warn_of_new
from spectralgpt_hf.modeling.rasters import read_raster
from tests.inference.scenes import encoder, processor, segmenter, write_scene
from tests.modeling.test_pipelines import FEATURES, TASKS, image, make_pipeline


ZSCORE = {"normalization": "zscore", "mean": [1500.0] * 12, "std": [700.0] * 12}


@pytest.fixture
def heard():
    """Collect all warnings, including repeated ones."""
    with warnings.catch_warnings(record=True) as record:
        warnings.simplefilter("always")
        yield record


def own(record) -> list[warnings.WarningMessage]:
    return [entry for entry in record if entry.category is UserWarning]


@pytest.fixture
def doubtful(tmp_path):
    """A scene without names of bands, with a B10 that shows an offset."""

    def change(pixels):
        pixels[10] = 1100

    path = write_scene(tmp_path / "scene.tif", width=90, height=75, change=change)
    with rasterio.open(path, "r+") as file:
        file.descriptions = [None] * 13
    return path


@pytest.mark.parametrize("settings", [{}, ZSCORE, {"normalization": "percentile"}])
@pytest.mark.parametrize(
    ("run", "model", "name", "options"),
    [
        (predict_scene, segmenter, "map.tif", {"workers": 3}),
        (predict_scene, segmenter, "map.tif", {"statistics_scope": "tile"}),
        (embed_scene, encoder, "vectors.parquet", {"workers": 3}),
    ],
    ids=["map", "map by tiles", "vectors"],
)
def test_a_scene_warns_of_each_thing_once_at_the_callers_line(run, model, name, options, settings, doubtful, heard):
    run(model(), processor(**settings), doubtful, doubtful.with_name(name), progress=False, **options)
    texts = Counter(str(entry.message) for entry in own(heard))
    assert {count for count in texts.values()} == {1}, texts
    expected = ["13 bands without names", "median of B10 is 900 or more"]
    expected += ["causes seams"] * ("statistics_scope" in options)
    assert len(texts) == len(expected), texts
    assert all(any(part in text for text in texts) for part in expected), texts
    assert {entry.filename for entry in own(heard)} == {__file__}


def test_reading_and_processing_warn_at_the_callers_line(doubtful, heard):
    read_raster(doubtful)
    SpectralGPTImageProcessor()([image(), image()])
    make_pipeline(FEATURES)(image())
    assert [entry.filename for entry in own(heard)] == [__file__] * 3


def test_what_the_workers_of_a_pipeline_warn_of_reaches_the_caller_once(tmp_path, heard):
    extract = make_pipeline(FEATURES)
    extract.image_processor.save_pretrained(tmp_path)
    results = extract([image(seed=seed) for seed in range(6)], num_workers=2, batch_size=2)
    assert len(results) == 6
    assert len(own(heard)) == 1
    assert "12 unnamed bands are assumed to be" in str(own(heard)[0].message)


def test_warnings_of_a_thread_are_its_own():
    def work(number):
        with collected_warnings() as texts:
            for _ in range(100):
                warn(str(number))
            found[number] = texts

    found: dict[int, list[str]] = {}
    threads = [Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == {number: [str(number)] * 100 for number in range(4)}
    with pytest.warns(UserWarning, match="heard"):  # outside, they are warnings as before
        warn("heard")


def test_what_was_said_is_not_repeated(heard):
    seen: set[str] = set()
    warn_of_new(["a", "b", "a"], seen)
    warn_of_new(["b", "c"], seen)
    assert [str(entry.message) for entry in own(heard)] == ["a", "b", "c"]


def test_a_mistyped_task_is_answered_with_the_names_of_the_tasks(tmp_path):
    make_pipeline(FEATURES).save_pretrained(tmp_path)
    with pytest.raises(KeyError, match="Unknown task multispectral-features") as error:
        pipeline("multispectral-features", model=str(tmp_path))
    assert all(task in str(error.value) for task in TASKS)
    assert np.isfinite(pipeline(FEATURES, model=str(tmp_path))(image())).all()
