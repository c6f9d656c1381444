"""The handler over real HTTP, where only the checkpoints and their dependencies are."""

import base64
import io
import json
import os
import re
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import numpy as np
import pytest
import rasterio
from PIL import Image
from rasterio.io import MemoryFile
from rasterio.transform import from_origin
from transformers import pipeline

from spectralgpt_hf import (
    SpectralGPTForChangeDetection,
    SpectralGPTForSemanticSegmentation,
    SpectralGPTImageProcessor,
)
from spectralgpt_hf.hub.endpoint import ENDPOINT_FILES
from spectralgpt_hf.inference import predict_scene
from spectralgpt_hf.modeling.bands import L2A_BANDS
from spectralgpt_hf.modeling.post_processing import class_colours
from tests.inference.scenes import write_scene
from tests.modeling.test_pipelines import image, write
from tests.modeling.test_untrusted import attacks, canary  # noqa: F401 (a fixture)
from tests.serving.checkpoints import LABELS, MODELS, save_checkpoint


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory):
    folder = tmp_path_factory.mktemp("endpoints")
    for task in MODELS:
        save_checkpoint(task, folder / task)
        for name, content in ENDPOINT_FILES.items():
            (folder / task / name).write_bytes(content)
    return folder


@pytest.fixture(scope="module")
def endpoint(checkpoints, tmp_path_factory):
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "HF_MODULES_CACHE": str(elsewhere / "modules")}
    command = [sys.executable, "-P", Path(__file__).with_name("endpoint_server.py"), checkpoints]
    with subprocess.Popen(command, env=environment, cwd=elsewhere, stdout=subprocess.PIPE, text=True) as server:
        try:
            yield f"http://127.0.0.1:{int(server.stdout.readline())}"
        finally:
            server.terminate()


@pytest.fixture(scope="module")
def tiff(tmp_path_factory):
    pixels = image(44, 36)
    pixels[:, :, :8] = 0
    return write(tmp_path_factory.mktemp("images") / "chip.tif", pixels).read_bytes()


def ask(url: str, body: object, expect: int = 200):
    data, kind = (body, "audio/x-audio") if isinstance(body, bytes) else (json.dumps(body).encode(), "application/json")
    request = urllib.request.Request(url, data, {"Content-Type": kind})
    try:
        with urllib.request.urlopen(request) as response:
            status, content = response.status, response.read()
    except urllib.error.HTTPError as error:
        status, content = error.code, error.read()
    assert status == expect, content
    return json.loads(content)


def text(content: bytes) -> str:
    return base64.b64encode(content).decode()


def test_labels_are_the_same_for_bytes_base64_and_arrays_and_those_of_the_pipeline(endpoint, checkpoints, tiff):
    answer = ask(f"{endpoint}/classification", {"inputs": text(tiff), "parameters": {"top_k": 2}})
    with MemoryFile(tiff) as file, file.open() as dataset:
        pixels = dataset.read()
    classify = pipeline("multispectral-image-classification", model=str(checkpoints / "classification"), device="cpu")
    expected = [{"label": entry["label"], "score": pytest.approx(entry["score"], abs=1e-6)} for entry in classify(tiff)]
    assert answer == expected[:2]
    array = {"pixels": pixels[::-1].tolist(), "band_names": L2A_BANDS[::-1]}
    for inputs in (tiff, {"inputs": {"tiff": text(tiff)}}, {"inputs": array}, {"inputs": pixels.tolist()}):
        assert ask(f"{endpoint}/classification", inputs) == expected


def test_features_are_a_vector_or_a_map(endpoint, tiff):
    vector = ask(f"{endpoint}/features", {"inputs": text(tiff)})
    assert vector["shape"] == [48] == [len(vector["features"])]
    dense = ask(f"{endpoint}/features", {"inputs": text(tiff), "parameters": {"output": "map"}})
    assert dense["shape"] == [48, 6, 5]
    assert np.shape(dense["features"]) == (48, 6, 5)


def test_a_map_comes_as_a_georeferenced_tiff_with_colours_and_names(endpoint, tiff):
    answer = ask(f"{endpoint}/segmentation", {"inputs": text(tiff)})
    assert answer["format"] == "image/tiff"
    with MemoryFile(base64.b64decode(answer["map"])) as file, file.open() as dataset:
        classes = dataset.read(1)
        assert (dataset.crs.to_epsg(), dataset.transform.c, classes.shape) == (32633, 400_000, (44, 36))
        assert dataset.nodata == 255
        assert dataset.tags()["class_1"] == "forest"
        assert [dataset.colormap(1)[i][:3] for i in range(4)] == [*map(tuple, class_colours(LABELS).tolist())]
    assert (classes[:, :8] == 255).all()
    shares = {LABELS[i]: (classes[:, 8:] == i).mean() for i in range(4) if (classes == i).any()}
    assert {entry["label"]: pytest.approx(entry["share"]) for entry in answer["labels"]} == shares


def test_a_map_comes_as_a_png_that_is_transparent_without_data(endpoint, tiff):
    tiff_map = ask(f"{endpoint}/segmentation", {"inputs": text(tiff)})["map"]
    answer = ask(f"{endpoint}/segmentation", {"inputs": text(tiff), "parameters": {"format": "png"}})
    assert answer["format"] == "image/png"
    picture = Image.open(io.BytesIO(base64.b64decode(answer["map"])))
    with MemoryFile(base64.b64decode(tiff_map)) as file, file.open() as dataset:
        np.testing.assert_array_equal(np.asarray(picture), dataset.read(1))
    alpha = np.asarray(picture.convert("RGBA"))[..., 3]
    assert (alpha[:, :8] == 0).all()
    assert (alpha[:, 8:] == 255).all()


def test_change_takes_a_pair(endpoint, tiff):
    answer = ask(f"{endpoint}/change", {"inputs": {"before": text(tiff), "after": text(tiff)}})
    with MemoryFile(base64.b64decode(answer["map"])) as file, file.open() as dataset:
        changed = dataset.read(1)[:, 8:]
    assert answer["share"] == pytest.approx((changed == 1).mean())
    everything = {"inputs": {"before": text(tiff), "after": text(tiff)}, "parameters": {"threshold": 0.0}}
    assert ask(f"{endpoint}/change", everything)["share"] == 1


@pytest.mark.parametrize(
    ("inputs", "reason"),
    [
        (b"", "Expected 1 to 33554432 bytes of a GeoTIFF, found 0"),
        (b"hello", "expected the bytes of a TIFF or JPEG 2000"),
        (b"II*\0" + bytes(100), "cannot be read as a raster"),
        ({"inputs": ""}, "found 0"),
        ({"inputs": "not base64!"}, "Expected the base64 of a GeoTIFF"),
        ({"inputs": "/etc/passwd"}, "base64|TIFF or JPEG 2000"),
        ({"inputs": "http://127.0.0.1/scene.tif"}, "Paths and URLs are not read"),
        ({"inputs": {"type": "Feature", "assets": {}}}, "Expected an image"),
        ({"inputs": {"tiff": "x", "url": "y"}}, "Expected an image"),
        ({"inputs": "A" * 45_000_000}, "Expected at most 33554432 bytes"),
        ({"inputs": [[[1] * 600] * 600]}, r"Expected at most 262144 pixels \(512 x 512\), found 600 x 600"),
        ({"inputs": [[1, 2], [3]]}, "Expected numbers as nested lists"),
        ({"inputs": [[[1]]] * 65}, "1 to 64 bands, found 65"),
        ({"inputs": [[[[1]]]] * 12}, "Expected numbers as nested lists"),
        ({"inputs": [[[10**400]]] * 12}, "Expected numbers as nested lists"),
        ({"inputs": [[["1"]]] * 12}, "Expected numbers as nested lists"),
        ({"inputs": [[[1, 2]], [[1]]]}, "differ in width"),
        ({"inputs": [[[1]], [[1], [2]]]}, "differ in height"),
        ({"inputs": [[[]]] * 12}, "Expected numbers as nested lists"),
        ({"inputs": {"pixels": [[[1]]] * 12, "band_names": 5}}, "`band_names`: expected a list of at most 64 names"),
        ({"inputs": [[["a"]]]}, "Expected numbers as nested lists"),
        ({"inputs": [1, 2]}, "Expected numbers as nested lists"),
        ({"inputs": [[[1.0]], [[2.0]], [[3.0]]]}, "3 unnamed bands may be any"),
        ({"inputs": None}, "found NoneType"),
        ({"image": "x"}, 'Expected {"inputs": image'),
        ([], 'Expected {"inputs": image'),
        ({"inputs": "", "parameters": {"device": "x"}}, "Expected `parameters` among"),
        ({"inputs": "", "parameters": {"top_k": "many"}}, "`top_k` has an impossible value: .* found 'many'"),
        ({"inputs": "", "parameters": {"top_k": 0}}, "a whole number from 1 to 1000, found 0"),
        ({"inputs": "", "parameters": {"top_k": True}}, "a whole number from 1 to 1000, found True"),
        ({"inputs": "", "parameters": {"top_k": 1e400}}, "a whole number from 1 to 1000, found inf"),
        ({"inputs": "", "parameters": {"threshold": float("nan")}}, "a number from 0 to 1, found nan"),
        ({"inputs": "", "parameters": {"threshold": 1.5}}, "a number from 0 to 1, found 1.5"),
        ({"inputs": "", "parameters": {"band_names": 5}}, "a list of at most 64 names, found 5"),
        ({"inputs": "", "parameters": {"band_names": [5]}}, "a list of at most 64 names"),
        ({"inputs": "", "parameters": {"band_names": ["B2"] * 65}}, "a list of at most 64 names"),
        ({"inputs": "", "parameters": {"band_names": ["B" * 10_000]}}, "a list of at most 64 names"),
        ({"inputs": "", "parameters": {"nodata": 10**400}}, "`nodata` has an impossible value"),
        ({"inputs": "", "parameters": {"nodata": float("inf")}}, "`nodata` has an impossible value"),
        ({"inputs": "", "parameters": {"nodata": False}}, "`nodata` has an impossible value"),
        ({"inputs": "", "parameters": {"offset": 10**400}}, "`offset` has an impossible value"),
        ({"inputs": "", "parameters": {"offset": [float("nan")]}}, "`offset` has an impossible value"),
        ({"inputs": "", "parameters": {"offset": {"B2": "1"}}}, "`offset` has an impossible value"),
        ({"inputs": "", "parameters": {"offset": [[1]]}}, "`offset` has an impossible value"),
        ({"inputs": "", "parameters": []}, "found 0"),
    ],
)
def test_wrong_requests_are_refused_with_the_reason(endpoint, inputs, reason):
    answer = ask(f"{endpoint}/classification", inputs, expect=400)
    assert answer["kind"] == "ValueError"
    assert re.search(reason, answer["error"]), answer["error"]


def test_a_small_file_that_declares_a_large_image_is_refused(endpoint, tmp_path):
    sizes = {"count": 12, "height": 10_000, "width": 10_000, "dtype": "uint8", "crs": "EPSG:32633"}
    with rasterio.open(tmp_path / "bomb.tif", "w", driver="GTiff", sparse_ok=True, **sizes) as dataset:
        dataset.descriptions = L2A_BANDS
    content = (tmp_path / "bomb.tif").read_bytes()
    assert len(content) < 10**6
    assert "more than the limit of 262144 pixels" in ask(f"{endpoint}/segmentation", content, expect=400)["error"]


def test_costly_files_are_refused_before_their_pixels_are_read(endpoint, tmp_path):
    profile = {"driver": "GTiff", "dtype": "uint16", "crs": "EPSG:32633", "sparse_ok": True, "tiled": True}
    many = {"count": 3000, "height": 64, "width": 64, "transform": from_origin(4e5, 5e6, 10, 10)}
    coarse = {"count": 12, "height": 100, "width": 100, "transform": from_origin(4e5, 5e6, 60, 60)}
    large = {"count": 1, "height": 16_384, "width": 16_384, "transform": from_origin(4e5, 5e6, 0.1, 0.1)}
    for sizes, reason in (
        (many, "holds 3000 bands, more than the limit of 64"),
        (coarse, "Expected at most 262144 pixels .* found 600 x 600"),
        (large, "holds 16384 x 16384 px, more than the limit of 262144 pixels"),
    ):
        with rasterio.open(tmp_path / "costly.tif", "w", **profile, **sizes):
            pass
        started = time.monotonic()
        answer = ask(f"{endpoint}/segmentation", (tmp_path / "costly.tif").read_bytes(), expect=400)
        assert time.monotonic() - started < 10
        assert re.search(reason, answer["error"]), answer


def test_deeply_nested_lists_are_refused(endpoint):
    body = '{"inputs": ' + "[" * 500 + "1" + "]" * 500 + "}"
    answer = ask(f"{endpoint}/features", json.loads(body), expect=400)
    assert (answer["kind"], answer["error"][:34]) == ("ValueError", "Expected numbers as nested lists (")


def test_bytes_that_name_other_files_reach_neither_a_file_nor_the_network(endpoint, tmp_path, canary):  # noqa: F811
    for target in (str(canary.path), f"/vsicurl/{canary.url}"):
        for content, _ in attacks(tmp_path, target):
            answer = ask(f"{endpoint}/features", content, expect=400)
            assert answer["kind"] == "ValueError"
            assert re.search("other files|cannot be read|expected the bytes|missing|unnamed", answer["error"]), answer
    assert not canary.touched()


@pytest.fixture(scope="module")
def scene(tmp_path_factory):
    """A scene of 300 x 260 px with nodata, and the map of `predict_scene`."""

    def change(pixels):
        pixels[:, :40, :50] = 0
        pixels[:, 200:, 290:] = 0

    return write_scene(tmp_path_factory.mktemp("scene") / "scene.tif", 20, 30, 300, 260, change)


@pytest.mark.slow
def test_maps_of_large_images_are_those_of_predict_scene(endpoint, checkpoints, scene, tmp_path):
    content = text(scene.read_bytes())
    for task, model_class in (
        ("segmentation", SpectralGPTForSemanticSegmentation),
        ("change", SpectralGPTForChangeDetection),
    ):
        pair = task == "change"
        model = model_class.from_pretrained(checkpoints / task).eval()
        processor = SpectralGPTImageProcessor.from_pretrained(checkpoints / task)
        second = {"after": scene} if pair else {}
        expected = predict_scene(model, processor, scene, tmp_path / f"{task}.tif", progress=False, **second)
        answer = ask(f"{endpoint}/{task}", {"inputs": {"before": content, "after": content} if pair else content})
        with MemoryFile(base64.b64decode(answer["map"])) as file, file.open() as dataset:
            np.testing.assert_array_equal(dataset.read(1), rasterio.open(expected).read(1))
            assert (dataset.read(1)[:40, :50] == 255).all()


def test_a_large_chip_is_not_classified_as_a_whole(endpoint, scene):
    answer = ask(f"{endpoint}/classification", scene.read_bytes(), expect=400)
    assert "Expected a chip of about 32 x 32 px, at most four times its pixels, found 260 x 300" in answer["error"]


def test_warnings_are_part_of_the_answer(endpoint, tiff):
    array = {"pixels": image(32, 32).astype(float).__truediv__(10_000).tolist(), "band_names": L2A_BANDS}
    (warning,) = ask(f"{endpoint}/segmentation", {"inputs": array})["warnings"]
    assert "10,000 times too small for digital numbers" in warning
    assert "warnings" not in ask(f"{endpoint}/segmentation", {"inputs": text(tiff)})


# Run in a process of its own, as the handler restricts GDAL in its process.
DEADLINE = """
import importlib.util, sys, time
sys.modules["spectralgpt_hf"] = None
folder, scene = sys.argv[1:]
spec = importlib.util.spec_from_file_location("handler", folder + "/segmentation/handler.py")
module = importlib.util.module_from_spec(spec)
spec.loader.exec_module(module)
first, second = (module.EndpointHandler(f"{folder}/{task}") for task in ("segmentation", "features"))
content = open(scene, "rb").read()
assert second({"inputs": content})["shape"] == [48]
module.SECONDS = 1
forward = first.pipeline.model.forward
first.pipeline.model.forward = lambda **inputs: (time.sleep(0.3), forward(**inputs))[1]
started = time.monotonic()
try:
    first({"inputs": content})
except ValueError as error:
    print(time.monotonic() - started, error)
"""


@pytest.mark.slow
def test_a_request_ends_at_its_deadline_and_a_second_handler_starts(checkpoints, scene, tmp_path):
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "HF_MODULES_CACHE": str(tmp_path / "modules")}
    command = [sys.executable, "-P", "-c", DEADLINE, str(checkpoints), str(scene)]
    result = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    seconds, message = result.stdout.split(" ", 1)
    assert float(seconds) < 1 + 5
    assert "took longer than its time limit" in message


def test_a_body_beyond_the_servers_limit_is_refused(endpoint):
    assert ask(f"{endpoint}/features", {"inputs": "A" * 55_000_000}, expect=413)


def test_what_is_no_pair_is_refused(endpoint, tiff):
    for inputs in (text(tiff), {"before": text(tiff)}, [text(tiff), text(tiff)]):
        assert "before" in ask(f"{endpoint}/change", {"inputs": inputs}, expect=400)["error"]
