"""A checkpoint on Hugging Face Inference Endpoints: published as `handler.py` beside the weights.

It imports nothing of this package. What it needs of it, the checkpoint carries: pipelines, processor and files.

A request is `{"inputs": image, "parameters": {...}}`. An image is the bytes of a GeoTIFF or JPEG 2000; their base64, as
a string or as `{"tiff": string}`; or numbers (bands, height, width), as nested lists or as
`{"pixels": lists, "band_names": [names]}`. Change detection takes `{"before": image, "after": image}`. Paths and URLs
are not followed. Parameters are `band_names`, `nodata` and `offset` of the processor, and by task:

| task | parameters | answer |
|---|---|---|
| classification | `top_k`, `threshold` | `[{"label", "score"}]` |
| segmentation | `format`: "geotiff" or "png" | `{"map": base64, "format", "labels": [{"label", "id", "share"}]}` |
| change detection | `format`, `threshold` | `{"map": base64, "format", "share"}` |
| any other: features | `output`: "pooled" or "map" | `{"features": numbers, "shape"}` |
"""

import base64
import binascii
import colorsys
import io
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from transformers import AutoConfig, pipeline
from transformers.dynamic_module_utils import get_class_from_dynamic_module


MAX_BYTES = 32 * 2**20
MAX_PIXELS = 512 * 512

FEATURES, CHANGE = "multispectral-feature-extraction", "multispectral-change-detection"
CLASSIFICATION, SEGMENTATION = "multispectral-image-classification", "multispectral-image-segmentation"
TASKS = {
    "SpectralGPTForImageClassification": CLASSIFICATION,
    "SpectralGPTForSemanticSegmentation": SEGMENTATION,
    "SpectralGPTForChangeDetection": CHANGE,
}
NUMBER = (int, float)
PROCESSING = {"band_names": list, "nodata": NUMBER, "offset": (*NUMBER, list, dict)}
PARAMETERS: dict[str, dict[str, Any]] = {
    CLASSIFICATION: PROCESSING | {"top_k": int, "threshold": NUMBER},
    SEGMENTATION: PROCESSING | {"format": ("geotiff", "png")},
    CHANGE: PROCESSING | {"format": ("geotiff", "png"), "threshold": NUMBER},
    FEATURES: PROCESSING | {"output": ("pooled", "map")},
}


class EndpointHandler:
    """Answers requests with the checkpoint's own pipeline.

    Args:
        path: Folder of the checkpoint.
    """

    def __init__(self, path: str = "") -> None:
        config = AutoConfig.from_pretrained(path, trust_remote_code=True)
        self.task = TASKS.get((config.architectures or [""])[0], FEATURES)
        device = "cuda" if torch.cuda.is_available() else "cpu"
        load: Any = pipeline  # its signature lists the tasks of transformers only
        self.pipeline = load(self.task, model=path, trust_remote_code=True, dtype=torch.float32, device=device)
        self._open_raster = get_class_from_dynamic_module("rasters.open_raster", path)
        self._write_raster: Any = get_class_from_dynamic_module("rasters.write_raster", path)

    def __call__(self, data: Mapping[str, Any]) -> Any:
        """Answer one request.

        Args:
            data: `{"inputs": ..., "parameters": {...}}`; see the head of this file.

        Returns:
            What JSON can hold.

        Raises:
            ValueError: If the request is wrong; the message says how. Inference Endpoints turn it, as any exception,
                into an answer of status 400 with `{"error": message}`.
        """
        if not isinstance(data, Mapping) or "inputs" not in data:
            raise ValueError('Expected {"inputs": image, "parameters": {...}}.')
        options = self._check_parameters(data.get("parameters") or {})
        output_format = options.pop("format", "geotiff")
        inputs = data["inputs"]
        if self.task != CHANGE:
            image, band_names = self._read(inputs, options.pop("band_names", None))
        elif isinstance(inputs, Mapping) and {"before", "after"} == inputs.keys():
            named = options.pop("band_names", None)
            (before, band_names), (after, others) = (self._read(inputs[date], named) for date in ("before", "after"))
            image = (before, after)
            if band_names != others:
                raise ValueError("Expected the same `band_names` before and after.")
        else:
            raise ValueError('Expected {"before": image, "after": image} as `inputs`.')
        result = self.pipeline(image, **options, **({"band_names": band_names} if band_names else {}))
        if self.task == FEATURES:
            return {"features": result.tolist(), "shape": list(result.shape)}
        if self.task == CLASSIFICATION:
            return result
        encoded, media_type = self._encode(result.pop("map"), output_format)
        return {"map": encoded, "format": media_type, **result}

    def _check_parameters(self, parameters: Any) -> dict[str, Any]:
        allowed = PARAMETERS[self.task]
        if not isinstance(parameters, Mapping) or not parameters.keys() <= allowed.keys():
            raise ValueError(f"Expected `parameters` among {', '.join(allowed)}, found {parameters!r:.200}.")
        for name, value in parameters.items():
            choices = allowed[name]
            is_named = isinstance(choices, tuple) and isinstance(choices[0], str)
            fits = value in choices if is_named else isinstance(value, choices) and not isinstance(value, bool)
            if not fits:
                raise ValueError(f"`{name}` has an impossible value: {value!r:.200}.")
        return dict(parameters)

    def _read(self, image: Any, band_names: list[str] | None) -> tuple[Any, list[str] | None]:
        """Return an image that the processor takes, small enough, and the names of its bands if they were given."""
        if isinstance(image, Mapping) and {"tiff"} <= image.keys() <= {"tiff", "band_names"}:
            image, band_names = image["tiff"], image.get("band_names", band_names)
        elif isinstance(image, Mapping) and {"pixels"} <= image.keys() <= {"pixels", "band_names"}:
            image, band_names = image["pixels"], image.get("band_names", band_names)
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
            with self._open_raster(bytes(image), band_names=band_names) as reader:
                _check_size(reader.height, reader.width)
            return bytes(image), band_names
        if isinstance(image, list):
            try:
                pixels = np.asarray(image, np.float32)
            except (TypeError, ValueError) as error:
                raise ValueError(f"Expected numbers as nested lists (bands, height, width): {error}.") from error
            if pixels.ndim != 3:
                raise ValueError(f"Expected numbers (bands, height, width), found the shape {pixels.shape}.")
            _check_size(*pixels.shape[1:])
            return pixels, band_names
        raise ValueError(
            f"Expected an image as base64 of a GeoTIFF or as nested lists (bands, height, width), found "
            f"{type(image).__name__}. (A body sent as image/tiff is decoded before it arrives, which keeps no bands.)"
        )

    def _encode(self, result: Any, output_format: str) -> tuple[str, str]:
        """Return a map as base64, and its media type; pixels without data are nodata or transparent."""
        names = self.pipeline.model.config.id2label
        empty = int(np.iinfo(result.pixels.dtype).max)
        classes = np.where(result.valid, result.pixels[0], empty).astype(result.pixels.dtype)
        has_colours = classes.dtype == np.uint8 and len(names) <= empty
        if output_format == "png":
            if not has_colours:
                raise ValueError(f"A PNG holds 255 classes, not {len(names)}: ask for a GeoTIFF.")
            picture, buffer = Image.fromarray(classes), io.BytesIO()
            picture.putpalette([part for i in range(256) for part in _colour(i)])
            picture.save(buffer, "PNG", transparency=empty)
            return base64.b64encode(buffer.getvalue()).decode(), "image/png"
        with tempfile.TemporaryDirectory() as folder:
            self._write_raster(
                Path(folder) / "map.tif",
                classes,
                crs=result.crs,
                transform=result.transform,
                nodata=empty,
                colormap={i: _colour(i) for i in range(len(names))} if has_colours else None,
                tags=result.tags | {f"class_{i}": name for i, name in names.items()},
            )
            return base64.b64encode((Path(folder) / "map.tif").read_bytes()).decode(), "image/tiff"


def _check_size(height: int, width: int) -> None:
    if height * width > MAX_PIXELS:
        raise ValueError(
            f"Expected at most {MAX_PIXELS} pixels (512 x 512), found {height} x {width}: cut the image into tiles, or "
            "map the whole scene with `spectralgpt predict`."
        )


def _colour(index: int) -> tuple[int, ...]:
    """Return a colour of its own for each class: hues a golden angle apart, brightness that takes turns."""
    saturation, value = (0.75, 0.45)[index % 2], (0.8, 0.95, 0.55)[index % 3]
    return tuple(round(255 * part) for part in colorsys.hsv_to_rgb((0.58 + index * 0.381966) % 1, saturation, value))
