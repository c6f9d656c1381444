"""The handler of Hugging Face Inference Endpoints, which is published as `handler.py` beside the weights.

It does not import this package. It loads the code of pipelines, processor and readers from the folder of the
checkpoint.

A request is `{"inputs": image, "parameters": {...}}`. An image is the bytes of a GeoTIFF or JPEG 2000; their base64, as
a string or as `{"tiff": string}`; or numbers (bands, height, width), as nested lists or as
`{"pixels": lists, "band_names": [names]}`. Change detection takes `{"before": image, "after": image}`. Paths and URLs
are not followed. The parameters are `band_names`, `nodata` and `offset` of the processor, and by task:

| task | parameters | answer |
|---|---|---|
| classification | `top_k`, `threshold` | `[{"label", "score"}]` |
| segmentation | `format`, `threshold` | `{"map": base64, "format", "labels": [{"label", "id", "share"}]}` |
| change detection | `format`, `threshold` | `{"map": base64, "format", "share"}` |
| any other: features | `output`: "pooled" or "map" | `{"features": numbers, "shape"}` |

A `format` is "geotiff" or "png". The `threshold` of segmentation is for models of one class.

Answers that are objects also hold `"warnings"`, a list of texts, if there are any. Maps of an image that is larger than
the model's image size are equal to those of `spectralgpt predict` on the same pixels.
"""

import base64
import binascii
import io
import os
import reprlib
import tempfile
import time
import warnings
from collections.abc import Callable, Mapping
from itertools import chain
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
import torch
from PIL import Image
from transformers import AutoConfig, pipeline
from transformers.dynamic_module_utils import get_class_from_dynamic_module


MAX_BYTES = 32 * 2**20
"""Largest size of a file."""
MAX_PIXELS = 512 * 512
"""Largest number of pixels of a file, on its own grid and on the grid on which it is read."""
MAX_BANDS = 64
MAX_DECODED_BYTES = 2**28
MAX_NUMBER = 1e9
"""Largest absolute value of `nodata` and of an `offset`. Digital numbers are far smaller."""
SECONDS = 60
"""Time limit of a request. It is checked between blocks of pixels and between tiles, so an answer may be late by the
time of one of them."""

FEATURES, CHANGE = "multispectral-feature-extraction", "multispectral-change-detection"
CLASSIFICATION, SEGMENTATION = "multispectral-image-classification", "multispectral-image-segmentation"
TASKS = {
    "SpectralGPTForImageClassification": CLASSIFICATION,
    "SpectralGPTForSemanticSegmentation": SEGMENTATION,
    "SpectralGPTForChangeDetection": CHANGE,
}


class EndpointHandler:
    """Answers requests with the pipeline of the checkpoint.

    Args:
        path: Folder of the checkpoint.
    """

    def __init__(self, path: str = "") -> None:
        config = AutoConfig.from_pretrained(path, trust_remote_code=True)
        self.task = TASKS.get((config.architectures or [""])[0], FEATURES)
        _restrict_gdal(path)
        device = "cuda" if torch.cuda.is_available() else "cpu"
        load: Any = pipeline  # its signature lists the tasks of transformers only
        self.pipeline = load(self.task, model=path, trust_remote_code=True, dtype=torch.float32, device=device)
        self._map_class_names: Any = get_class_from_dynamic_module("post_processing.map_class_names", path)
        self._class_colours: Any = get_class_from_dynamic_module("post_processing.class_colours", path)
        self._open_raster: Any = get_class_from_dynamic_module("rasters.open_raster", path)
        self._write_raster: Any = get_class_from_dynamic_module("rasters.write_raster", path)
        self._open_chips: Any = get_class_from_dynamic_module("chips.open_chips", path)
        self._keeps_pixels: Any = get_class_from_dynamic_module("tiled.keeps_pixels", path)
        self._budget: Any = get_class_from_dynamic_module("untrusted.Budget", path)
        processor = self.pipeline.image_processor
        self._matching: Any = None  # the code of older checkpoints supports Sentinel-2 only
        if getattr(processor, "sensor", "sentinel-2") != "sentinel-2":
            self._matching = get_class_from_dynamic_module("matching.Matching", path)(processor.expected)
        # One request at a time limits the memory. Besides, warnings are recorded for a whole process.
        self._lock = Lock()

    def __call__(self, data: Mapping[str, object]) -> object:
        """Answer one request.

        Args:
            data: `{"inputs": ..., "parameters": {...}}`; see the docstring of this module.

        Returns:
            The answer, in values of JSON.

        Raises:
            ValueError: If the request is wrong or takes longer than `SECONDS`. Inference Endpoints convert every
                exception to an answer of status 400 with `{"error": message}`.
        """
        deadline = time.monotonic() + SECONDS
        if not isinstance(data, Mapping) or "inputs" not in data:
            raise ValueError('Expected {"inputs": image, "parameters": {...}}.')
        options = self._check_parameters(data.get("parameters") or {})
        if not self._lock.acquire(timeout=SECONDS):
            raise ValueError(f"Earlier requests took longer than {SECONDS} s: try again later.")
        try:
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always")
                answer = self._answer(data["inputs"], options, deadline)
        except (OverflowError, RecursionError, TypeError, ZeroDivisionError) as error:
            raise ValueError(f"The request cannot be computed: {type(error).__name__}: {error}.") from error
        finally:
            self._lock.release()
        texts = [str(warning.message) for warning in caught if warning.category is UserWarning]
        return {**answer, "warnings": [*dict.fromkeys(texts)]} if texts and isinstance(answer, dict) else answer

    def _answer(self, inputs: object, options: dict[str, Any], deadline: float) -> object:
        reading = {name: options.pop(name, None) for name in ("band_names", "nodata", "offset")}
        output_format = options.pop("format", "geotiff")
        if self.task != CHANGE:
            image = self._read(inputs, reading, deadline)
            self._check_chip(image)
        elif isinstance(inputs, Mapping) and {"before", "after"} == inputs.keys():
            image = tuple(self._read(inputs[date], reading, deadline) for date in ("before", "after"))
        else:
            raise ValueError('Expected {"before": image, "after": image} as `inputs`.')
        result = self.pipeline(image, deadline=deadline, **options)
        if self.task == FEATURES:
            return {"features": result.tolist(), "shape": list(result.shape)}
        if self.task == CLASSIFICATION:
            return result
        encoded, media_type = self._encode(result.pop("map"), output_format)
        return {"map": encoded, "format": media_type, **result}

    def _check_parameters(self, parameters: object) -> dict[str, object]:
        allowed = PARAMETERS[self.task]
        if not isinstance(parameters, Mapping) or not parameters.keys() <= allowed.keys():
            raise ValueError(f"Expected `parameters` among {', '.join(allowed)}, found {_show(parameters)}.")
        for name, value in parameters.items():
            expected, fits = allowed[name]
            if not fits(value):
                raise ValueError(f"`{name}` has an impossible value: expected {expected}, found {_show(value)}.")
        return dict(parameters)

    def _check_chip(self, image: Any) -> None:
        """Refuse a large image that is not cut into tiles, because its cost grows with the square of its pixels."""
        processor, native = self.pipeline.image_processor, self.pipeline.model.config.image_size
        height, width = image.pixels.shape[1:]
        if self.task == CLASSIFICATION and self._keeps_pixels(processor) and height * width > 4 * native**2:
            raise ValueError(
                f"Expected a chip of about {native} x {native} px, at most four times its pixels, found {height} x "
                f"{width}: cut the image into chips."
            )

    def _read(self, image: Any, reading: Mapping[str, object], deadline: float) -> object:
        """Return an image for the pipeline, with the names of its bands, after its size was checked."""
        reading = dict(reading)
        for key in ("tiff", "pixels"):
            if isinstance(image, Mapping) and {key} <= image.keys() <= {key, "band_names"}:
                expected, fits = PROCESSING["band_names"]
                if "band_names" in image and not fits(image["band_names"]):
                    raise ValueError(f"`band_names`: expected {expected}, found {_show(image['band_names'])}.")
                image, reading["band_names"] = image[key], image.get("band_names", reading["band_names"])
        bands = [band for band in self.pipeline.image_processor.bands if band != "mean"]
        if isinstance(image, str):
            if len(image) * 3 // 4 > MAX_BYTES:
                raise ValueError(f"Expected at most {MAX_BYTES} bytes, found {len(image) * 3 // 4}.")
            try:
                image = base64.b64decode(image, validate=True)
            except (binascii.Error, ValueError) as error:
                raise ValueError(f"Expected the base64 of a GeoTIFF: {error}. Paths and URLs are not read.") from error
        if isinstance(image, bytes | bytearray):
            if not 0 < len(image) <= MAX_BYTES:
                raise ValueError(f"Expected 1 to {MAX_BYTES} bytes of a GeoTIFF, found {len(image)}.")
            budget = self._budget(
                pixels=MAX_PIXELS, bands=MAX_BANDS, decoded_bytes=MAX_DECODED_BYTES, deadline=deadline
            )
            if self._matching is None:
                reading |= {"bands": bands, "beside": ["B10"]}  # B10 shows an offset that nothing states
            else:
                expected = self._matching.expected
                reading |= {"bands": bands, "expected": expected, "resolution": expected.resolution}
            with self._open_raster(bytes(image), skip_missing=True, budget=budget, **reading) as reader:
                _check_size(reader.height, reader.width)
                image, reading = reader.read(), {}
        elif isinstance(image, list):
            image = _as_pixels(image)
        else:
            raise ValueError(
                f"Expected an image as base64 of a GeoTIFF or as nested lists (bands, height, width), found "
                f"{type(image).__name__}. (A body sent as image/tiff is decoded before it arrives, which keeps no "
                "bands.)"
            )
        if self._matching is not None:
            reading["matching"] = self._matching
        (chip,) = self._open_chips([image], bands, **reading)
        return chip

    def _encode(self, result: Any, output_format: str) -> tuple[str, str]:
        """Return a map as base64, and its media type. Pixels without data are nodata or transparent."""
        config = self.pipeline.model.config
        names = self._map_class_names(config.id2label, config.num_labels)
        codes = list(config.class_codes or range(len(names)))
        empty = int(np.iinfo(result.pixels.dtype).max)
        classes = np.where(result.valid, np.array(codes)[np.where(result.valid, result.pixels[0], 0)], empty).astype(
            result.pixels.dtype
        )
        has_colours = classes.dtype == np.uint8 and len(names) <= empty
        if output_format == "png":
            if not has_colours:
                raise ValueError(f"A PNG holds 255 classes, not {len(names)}: ask for a GeoTIFF.")
            picture, buffer = Image.fromarray(classes), io.BytesIO()
            palette = np.zeros((256, 3), np.uint8)
            palette[codes] = self._class_colours(names)
            picture.putpalette(palette.tobytes())
            picture.save(buffer, "PNG", transparency=empty)
            return base64.b64encode(buffer.getvalue()).decode(), "image/png"
        with tempfile.TemporaryDirectory() as folder:
            self._write_raster(
                Path(folder) / "map.tif",
                classes,
                crs=result.crs,
                transform=result.transform,
                nodata=empty,
                colormap=dict(zip(codes, map(tuple, self._class_colours(names).tolist()))) if has_colours else None,
                tags=result.tags | {f"class_{code}": name for code, name in zip(codes, names)},
            )
            return base64.b64encode((Path(folder) / "map.tif").read_bytes()).decode(), "image/tiff"


def _restrict_gdal(path: str) -> None:
    """Leave GDAL only the drivers that are needed. This is done once per process, because GDAL registers them once."""
    if "VRT" not in os.environ.get("GDAL_SKIP", "").split(","):
        restrict: Any = get_class_from_dynamic_module("untrusted.restrict_gdal", path)
        restrict()


def _is_number(value: object, low: float = -MAX_NUMBER, high: float = MAX_NUMBER) -> bool:
    """Return whether a value is a number within limits. NaN is not."""
    return isinstance(value, int | float) and not isinstance(value, bool) and low <= value <= high


def _is_offset(value: object) -> bool:
    if isinstance(value, Mapping):
        return len(value) <= MAX_BANDS and _are_names([*value]) and all(map(_is_number, value.values()))
    return _is_number(value) or (isinstance(value, list) and len(value) <= MAX_BANDS and all(map(_is_number, value)))


def _are_names(value: Any) -> bool:
    is_list = isinstance(value, list) and 0 < len(value) <= MAX_BANDS
    return is_list and all(isinstance(name, str) and len(name) <= 64 for name in value)


Check = tuple[str, Callable[[Any], bool]]
PROCESSING: dict[str, Check] = {
    "band_names": (f"a list of at most {MAX_BANDS} names", _are_names),
    "nodata": (f"a number within ±{MAX_NUMBER:g}", _is_number),
    "offset": (f"a number within ±{MAX_NUMBER:g}, a list of one for each band, or one for each name", _is_offset),
}
FORMAT: Check = ('"geotiff" or "png"', lambda value: value in ("geotiff", "png"))
THRESHOLD: Check = ("a number from 0 to 1", lambda value: _is_number(value, 0, 1))
TOP_K: Check = ("a whole number from 1 to 1000", lambda value: isinstance(value, int) and _is_number(value, 1, 1000))
PARAMETERS: dict[str, dict[str, Check]] = {
    CLASSIFICATION: PROCESSING | {"top_k": TOP_K, "threshold": THRESHOLD},
    SEGMENTATION: PROCESSING | {"format": FORMAT, "threshold": THRESHOLD},
    CHANGE: PROCESSING | {"format": FORMAT, "threshold": THRESHOLD},
    FEATURES: PROCESSING | {"output": ('"pooled" or "map"', lambda value: value in ("pooled", "map"))},
}


def _show(value: object) -> str:
    """Return the beginning of the text of a value of any size and depth."""
    try:
        return reprlib.repr(value)[:200]
    except ValueError:  # an integer of thousands of digits
        return f"a value of type {type(value).__name__}"


def _as_pixels(image: list[Any]) -> np.ndarray:
    """Return numbers (bands, height, width) from nested lists, whose sizes are checked before they are converted."""
    expected = "Expected numbers as nested lists (bands, height, width)"
    if not 0 < len(image) <= MAX_BANDS:
        raise ValueError(f"{expected}, 1 to {MAX_BANDS} bands, found {len(image)}.")
    rows = image[0] if isinstance(image[0], list) else []
    shape = len(rows), len(rows[0]) if rows and isinstance(rows[0], list) else 0
    _check_size(*shape)
    if not all(isinstance(band, list) and len(band) == shape[0] for band in image) or 0 in shape:
        raise ValueError(f"{expected}, found bands that are no lists or differ in height.")
    if not all(isinstance(row, list) and len(row) == shape[1] for row in chain.from_iterable(image)):
        raise ValueError(f"{expected}, found rows that are no lists or differ in width.")
    pixels = np.empty((len(image), *shape), np.float32)
    for target, row in zip(pixels.reshape(-1, shape[1]), chain.from_iterable(image)):
        numbers = _as_numbers(row)
        if numbers is None:
            raise ValueError(f"{expected}, found {_show(row)}.")
        target[:] = numbers
    return pixels


def _as_numbers(row: list[object]) -> np.ndarray | None:
    try:
        numbers = np.asarray(row)
    except ValueError:  # lists of different lengths
        return None
    # Integers of too many digits become objects.
    return numbers if numbers.ndim == 1 and numbers.dtype.kind in "iuf" else None


def _check_size(height: int, width: int) -> None:
    if height * width > MAX_PIXELS:
        raise ValueError(
            f"Expected at most {MAX_PIXELS} pixels (512 x 512), found {height} x {width}: cut the image into tiles, or "
            "map the whole scene with `spectralgpt predict`."
        )
