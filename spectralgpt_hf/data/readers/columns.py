"""Column types of a `datasets.Dataset` that hold where an image or a map is, and read it once a row is asked for.

They follow `datasets.Image`: selecting, shuffling or pickling a dataset opens no file, `decode=False` returns the
reference itself, and `with_format("torch")` gives tensors. Preprocess in `with_transform`: `map` writes pixels to disk.
"""

import os
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
from datasets.features.features import register_feature

from ...modeling.geometry import IGNORE_INDEX
from ...modeling.rasters import Raster, open_raster


_NUMBERS = pa.list_(pa.int32())
_REFERENCE = pa.struct({"path": pa.string(), "window": _NUMBERS, "extent": _NUMBERS})


class _Reference:
    """What both column types store: where something is."""

    def __call__(self) -> pa.DataType:
        """Return the Arrow type."""
        return _REFERENCE

    def encode_example(self, value: Any) -> dict[str, Any]:
        """Return what is stored of a path or a reference."""
        if isinstance(value, str | os.PathLike):
            return {"path": os.fspath(value), "window": None, "extent": None}
        if not isinstance(value, Mapping):
            raise ValueError(f"Expected a path or a reference (path, window, extent), got {type(value).__name__}.")
        return {name: value.get(name) for name in ("path", "window", "extent")}

    def cast_storage(self, storage: pa.Array) -> pa.StructArray:
        """Accept an Arrow array of paths or of references."""
        if pa.types.is_string(storage.type) or pa.types.is_large_string(storage.type):
            nothing = pa.nulls(len(storage), _NUMBERS)
            return pa.StructArray.from_arrays([storage.cast(pa.string()), nothing, nothing], fields=list(_REFERENCE))
        return storage.cast(_REFERENCE)


@dataclass
class MultispectralImage(_Reference):
    """Pixels (C, H, W) of named bands, in the stored type, 0 in all bands where the source has no data.

    Attributes:
        bands: Canonical name of each channel.
        band_names: What the files hold, in their order, where they do not say it themselves (as for `open_raster`).
        decode: Whether rows hold pixels, or `{"path", "window", "extent"}`: what to open; (left, top, width, height)
            to read, in pixels, or None for all; (height, width) beyond which nothing counts, or None.
    """

    bands: list[str]
    band_names: list[str] | None = None
    decode: bool = True
    _type: str = field(default="MultispectralImage", init=False, repr=False)

    def decode_example(self, value: Mapping[str, Any], token_per_repo_id: Any = None) -> np.ndarray:
        """Read the pixels; a window may reach beyond the image.

        Raises:
            FileNotFoundError: If there is no such file.
            ValueError: If it is damaged or lacks a band. The message names it.
        """
        raster, padding = _read(value, self.bands, self.band_names)
        return np.pad(np.where(raster.valid, raster.pixels, 0), ((0, 0), *padding))


@dataclass
class SegmentationMap(_Reference):
    """Class numbers (H, W), uint8, 255 where a pixel has no class.

    Attributes:
        names: Of the classes, in the order of their numbers.
        codes: Values that the files store. Defaults to the numbers of the classes, and 255.
        labels: Class number of each of `codes`, 255 for none.
        ignore_unknown: Whether a value that is not among `codes` means no class; otherwise it is an error.
        decode: As in `MultispectralImage`.
    """

    names: list[str]
    codes: list[int] | None = None
    labels: list[int] | None = None
    ignore_unknown: bool = False
    decode: bool = True
    _type: str = field(default="SegmentationMap", init=False, repr=False)

    def __post_init__(self) -> None:
        if self.codes is None:
            self.codes = self.labels = [*range(len(self.names)), IGNORE_INDEX]
        if self.labels is None or len(self.labels) != len(self.codes):
            raise ValueError(f"Expected one of `labels` for each of `codes` {self.codes}, got {self.labels}.")
        if len(self.names) > IGNORE_INDEX or not set(self.labels) <= {*range(len(self.names)), IGNORE_INDEX}:
            raise ValueError(
                f"Expected at most {IGNORE_INDEX} `names`, and `labels` that are numbers of them or {IGNORE_INDEX}, "
                f"got {len(self.names)} names and labels {self.labels}."
            )

    def decode_example(self, value: Mapping[str, Any], token_per_repo_id: Any = None) -> np.ndarray:
        """Read the map; what a window holds beyond it has no class.

        Raises:
            FileNotFoundError: If there is no such file.
            ValueError: If it is damaged, or holds a value that is not among `codes`. The message names it.
        """
        raster, padding = _read(value)
        if (raster.pixels != raster.pixels[0]).any():
            raise ValueError(f"{value['path']}: expected one band of class codes, found {len(raster.pixels)} bands.")
        stored = raster.pixels[0]
        codes, places = np.unique(stored, return_inverse=True)
        known = dict(zip(self.codes or (), self.labels or ()))
        unknown = [code for code in codes.tolist() if code not in known]
        if unknown and not self.ignore_unknown:
            raise ValueError(f"{value['path']}: unknown class codes {unknown}; expected {', '.join(map(str, known))}.")
        labels = np.array([known.get(code, IGNORE_INDEX) for code in codes.tolist()], np.uint8)
        return np.pad(labels[places].reshape(stored.shape), padding, constant_values=IGNORE_INDEX)


def _read(
    value: Mapping[str, Any], bands: list[str] | None = None, band_names: list[str] | None = None
) -> tuple[Raster, tuple[tuple[int, int], tuple[int, int]]]:
    """Read the part of a reference that counts, and say how many rows and columns its window has beyond that."""
    with open_raster(value["path"], bands, resolution=None, band_names=band_names) as reader:
        window, extent = value["window"], value["extent"]
        left, top, width, height = (0, 0, reader.width, reader.height) if window is None else map(int, window)
        rows, columns = (reader.height, reader.width) if extent is None else map(int, extent)
        inside = (left, top, min(width, columns - left), min(height, rows - top))
        return reader.read(inside), ((0, height - inside[3]), (0, width - inside[2]))


with warnings.catch_warnings():
    # That the function is experimental concerns us, not our users.
    warnings.simplefilter("ignore", UserWarning)
    register_feature(MultispectralImage, "MultispectralImage")
    register_feature(SegmentationMap, "SegmentationMap")
