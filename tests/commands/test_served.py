"""What is scored is what is saved is what is served: each surface gives the scores of `metrics.json`."""

from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from transformers import pipeline

from spectralgpt_hf.assets import CHECKPOINT
from spectralgpt_hf.inference import predict_scene
from spectralgpt_hf.inference.checkpoints import load_model
from spectralgpt_hf.modeling.rasters import read_raster
from spectralgpt_hf.serving import endpoint_handler
from spectralgpt_hf.serving.tasks import Models
from spectralgpt_hf.serving.uploads import read_upload
from tests.commands.labelled import CLASSES, write_classes, write_maps, write_pair
from tests.commands.test_train import CORNERS, run


Surface = Callable[..., np.ndarray]


@pytest.fixture(autouse=True)
def gdal_in_this_process(monkeypatch):
    monkeypatch.setattr(endpoint_handler, "_restrict_gdal", lambda path: None)  # it is for a process of its own


def confusion(found: np.ndarray, truth: np.ndarray, classes: int) -> np.ndarray:
    counted = (found < classes) & (truth < classes)
    pairs = np.bincount(truth[counted].astype(int) * classes + found[counted], minlength=classes**2)
    return pairs.reshape(classes, classes)


def decoded(answer: dict[str, Any]) -> np.ndarray:
    from base64 import b64decode

    return read_raster(b64decode(answer["map"])).pixels[0]


def test_a_classifier_is_served_as_it_was_scored(tmp_path):
    data, folder = tmp_path / "data", tmp_path / "run" / "model"
    write_classes(data, CORNERS, 32)
    options = {"crop_scale": 0.5, "eval_resize": 40, "num_train_epochs": 6, "symmetries": True}
    scored = run("classification", tmp_path / "run", data, **options)["test"]["confusion_matrix"]
    names = ["vegetation", "water"]
    classify = pipeline("multispectral-image-classification", model=str(folder))
    handler = endpoint_handler.EndpointHandler(str(folder))
    page = Models(CHECKPOINT, classification=folder)
    model, processor = load_model(str(folder))

    def on_page(path: Path) -> int:
        labels, window = page.classify(read_upload(path), 16, 16)
        assert window == (0, 0, 32, 32)
        return names.index(max(labels, key=labels.get))

    def in_scene(path: Path) -> int:
        written = predict_scene(model, processor, path, tmp_path / "map.tif", overwrite=True, progress=False)
        return int(read_raster(written, resolution=None).pixels.item())

    surfaces = {
        "pipeline": lambda path: names.index(classify(str(path))[0]["label"]),
        "handler": lambda path: names.index(handler({"inputs": path.read_bytes()})[0]["label"]),
        "page": on_page,
        "predict_scene": in_scene,
    }
    for name, surface in surfaces.items():
        found = np.zeros((2, 2), int)
        for path in sorted(data.glob("*/*.tif")):
            found[names.index(path.parent.name), surface(path)] += 1
        assert found.tolist() == scored, name
    certainty = {classify(str(path))[0]["score"] for path in data.glob("*/*.tif")}
    assert len(certainty) > 8  # the model sees the images


ZSCORE = {"normalization": "zscore", "mean": [1500] * 12, "std": [700] * 12}


@pytest.mark.parametrize("options", [{}, pytest.param(ZSCORE, marks=pytest.mark.slow)])
def test_maps_are_served_as_they_were_scored(options, tmp_path):
    data, folder = tmp_path / "data", tmp_path / "run" / "model"
    write_maps(data, [(128, 0), (256, 256), (300, 40)], 48)
    common = {"class_names": CLASSES, "class_weights": "balanced", "max_steps": 12, "per_device_eval_batch_size": 5}
    test = run("segmentation", tmp_path / "run", data, symmetries=True, **common, **options)["test"]
    assert (test["samples"], test["units"]) == (12, 3)  # four tiles in each of three scenes
    scored = test["confusion_matrix"]
    segment = pipeline("multispectral-image-segmentation", model=str(folder))
    handler = endpoint_handler.EndpointHandler(str(folder))
    page = Models(CHECKPOINT, segmentation=folder)
    model, processor = load_model(str(folder))
    assert len(model.config.class_weights) == 3

    def in_scene(path: Path) -> np.ndarray:
        return read_raster(
            predict_scene(model, processor, path, tmp_path / "map.tif", overwrite=True, progress=False)
        ).pixels[0]

    surfaces: dict[str, Surface] = {
        "predict_scene": in_scene,
        "pipeline": lambda path: segment(str(path))["map"].pixels[0],
        "handler": lambda path: decoded(handler({"inputs": path.read_bytes()})),
        "page": lambda path: page.segment(read_upload(path))[0],
    }
    for name, surface in surfaces.items():
        found = np.zeros((3, 3), int)
        for path in sorted((data / "images").iterdir()):
            truth = np.array(Image.open(BytesIO((data / "masks" / f"{path.stem}.png").read_bytes())))
            found += confusion(surface(path), truth, 3)
        assert found.tolist() == scored, name
    assert np.count_nonzero(np.sum(scored, 0)) > 1


@pytest.mark.slow
def test_change_is_served_as_it_was_scored(tmp_path):
    data, folder = tmp_path / "data", tmp_path / "run" / "model"
    write_pair(data, (128, 64), 64)
    options = {"crop_stride": 16, "class_weights": "balanced", "max_steps": 30, "learning_rate": 3e-3}
    scored = run("change_detection", tmp_path / "run", data, **options)["test"]["confusion_matrix"]
    before, after = data / "before" / "a.tif", data / "after" / "a.tif"
    detect = pipeline("multispectral-change-detection", model=str(folder))
    handler = endpoint_handler.EndpointHandler(str(folder))
    page = Models(CHECKPOINT, change=folder)
    model, processor = load_model(str(folder))
    written = predict_scene(model, processor, before, tmp_path / "map.tif", after=after, progress=False)
    images = {"before": before.read_bytes(), "after": after.read_bytes()}
    maps = {
        "predict_scene": read_raster(written).pixels[0],
        "pipeline": detect((str(before), str(after)))["map"].pixels[0],
        "handler": decoded(handler({"inputs": images})),
        "page": page.compare(read_upload(before), read_upload(after), 0.5)[0],
    }
    truth = np.array(Image.open(data / "masks" / "a.png"))
    for name, found in maps.items():
        assert confusion(found, truth, 2).tolist() == scored, name
    assert np.count_nonzero(np.sum(scored, 0)) == 2
