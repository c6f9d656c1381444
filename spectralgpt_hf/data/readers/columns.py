"""Column types of a `datasets.Dataset` that store the path of an image or a map, and read it when a row is accessed.

They follow `datasets.Image`: selecting, shuffling or pickling a dataset opens no file, `decode=False` returns the
reference itself, and `with_format("torch")` returns tensors. Preprocess in `with_transform`, because `map` writes the
pixels to disk.
"""

import os
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypedDict

import numpy as np
import pyarrow as pa
import rasterio
from datasets.features.features import register_feature

from ...modeling.bands import SENTINEL_2
from ...modeling.geometry import IGNORE_INDEX
from ...modeling.rasters import Raster, open_raster
from ...modeling.sensors import model_sensor


_NUMBERS = pa.list_(pa.int32())
_REFERENCE = pa.struct(
    {"path": pa.string(), "window": _NUMBERS, "extent": _NUMBERS, "offset": pa.float64(), "nodata": pa.float64()}
)


class Reference(TypedDict, total=False):
    """The location of an image or a map, and what the caller states about that file.

    Attributes:
        path: File, folder of band files or product.
        window: (left, top, width, height) to read, in pixels, or None for all. It may reach beyond the file.
        extent: (height, width) of the part of the file that is used, or None for all. Pixels beyond it have no data.
        offset: Number that is added to the digital numbers instead of the offset in the metadata, or None.
        nodata: Stored value that means no data, or None for the value that the file declares.
    """

    path: str
    window: Sequence[int] | None
    extent: Sequence[int] | None
    offset: float | None
    nodata: float | None


class _Reference:
    """The storage of both column types: one `Reference` per row."""

    def __call__(self) -> pa.DataType:
        """Return the Arrow type."""
        return _REFERENCE

    def encode_example(self, value: str | os.PathLike[str] | Reference) -> Reference:
        """Return the reference to store for a path or a reference."""
        if isinstance(value, str | os.PathLike):
            value = {"path": os.fspath(value)}
        if not isinstance(value, Mapping):
            raise ValueError(f"Expected a path or a reference, a dict with `path`, got {type(value).__name__}.")
        return Reference(**{field.name: value.get(field.name) for field in _REFERENCE})  # type: ignore[typeddict-item]

    def cast_storage(self, storage: pa.Array) -> pa.StructArray:
        """Accept an Arrow array of paths or of references, some of which may be missing."""
        if pa.types.is_string(storage.type) or pa.types.is_large_string(storage.type):
            storage = pa.StructArray.from_arrays([storage.cast(pa.string())], names=["path"])
        held = {field.name: values for field, values in zip(storage.type, storage.flatten())}
        columns = [held.get(field.name, pa.nulls(len(storage))).cast(field.type) for field in _REFERENCE]
        return pa.StructArray.from_arrays(columns, fields=list(_REFERENCE), mask=storage.is_null())


class MarkedPixels(np.ndarray):
    """Pixels (C, H, W) with the reader's mark of saturated values, which an applied offset makes unrecognisable.

    Attributes:
        saturated: (C, H, W), bool, as in `Raster`; None in arrays that are computed from these.
    """

    saturated: np.ndarray | None = None


@dataclass
class MultispectralImage(_Reference):
    """Column type: pixels (C, H, W) of named bands, in digital numbers, 0 in all bands where the source has no data.

    Attributes:
        bands: Bands to read, by their canonical names. Rows hold them in this order.
        band_names: Names of the files' bands, in their order, if the files do not state them (as for `open_raster`).
        offset: Number that is added to the digital numbers instead of the offset in the metadata. A reference with an
            offset of its own takes precedence.
        nodata: Stored value that means no data. A reference with a nodata value of its own takes precedence.
        decode: Whether rows hold pixels, or a `Reference`.
        sensor: Name of the sensor whose bands these are.
        wavelengths: Wavelengths of the bands in nm, if the sensor's table does not hold them.
    """

    bands: list[str]
    band_names: list[str] | None = None
    offset: float | None = None
    nodata: float | None = None
    decode: bool = True
    sensor: str = SENTINEL_2.name
    wavelengths: list[float | None] | None = None
    _type: str = field(default="MultispectralImage", init=False, repr=False)

    def decode_example(self, value: Reference, token_per_repo_id: object = None) -> np.ndarray:
        """Read the pixels. Where a window reaches beyond the image, they are 0.

        Returns:
            (C, H, W); `MarkedPixels` where the reader found saturated values.

        Raises:
            FileNotFoundError: If there is no such file.
            ValueError: If the file is damaged or lacks a band. The message names the file.
        """
        offset = self.offset if value["offset"] is None else value["offset"]
        nodata = self.nodata if value["nodata"] is None else value["nodata"]
        raster, padding = _read(value, self, offset, nodata)
        pixels = np.pad(np.where(raster.valid, raster.pixels, 0), ((0, 0), *padding))
        if raster.saturated is None:
            return pixels
        marked = pixels.view(MarkedPixels)
        marked.saturated = np.pad(raster.saturated, ((0, 0), *padding))
        return marked


@dataclass
class SegmentationMap(_Reference):
    """Column type: class numbers (H, W), uint8, 255 where a pixel has no class.

    Attributes:
        names: Names of the classes, in the order of their numbers.
        codes: Values that the files store. By default, the numbers of the classes and 255. The nodata value that a
            file declares means no class, unless it is one of `codes`.
        labels: Class number of each of `codes`; 255 means no class.
        band: Number of the band that holds the codes, from 1, in files of several bands; None for files of one.
        ignore_unknown: Whether a value that is not among `codes` means no class. Otherwise it is an error.
        decode: As in `MultispectralImage`.
    """

    names: list[str]
    codes: list[int] | None = None
    labels: list[int] | None = None
    ignore_unknown: bool = False
    band: int | None = None
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

    def decode_example(self, value: Reference, token_per_repo_id: object = None) -> np.ndarray:
        """Read the map. Where a window reaches beyond it, pixels have no class.

        Raises:
            FileNotFoundError: If there is no such file.
            ValueError: If the file is damaged, or holds a value that is not among `codes`. The message names the file.
        """
        raster, padding = _read(value)
        stored = map_band(raster.pixels, self.band, value["path"])
        codes, indices = np.unique(stored, return_inverse=True)
        known = dict(zip(self.codes or (), self.labels or ()))
        declared = declared_nodata(value["path"])
        if declared is not None and declared not in known:
            known[int(declared)] = IGNORE_INDEX
        unknown = [code for code in codes.tolist() if code not in known]
        if unknown and not self.ignore_unknown:
            raise ValueError(f"{value['path']}: unknown class codes {unknown}; expected {', '.join(map(str, known))}.")
        labels = np.array([known.get(code, IGNORE_INDEX) for code in codes.tolist()], np.uint8)
        return np.pad(labels[indices].reshape(stored.shape), padding, constant_values=IGNORE_INDEX)


def map_band(pixels: np.ndarray, band: int | None, path: str) -> np.ndarray:
    """Return the codes (H, W) of a map (C, H, W): its band of this number, or the one that all of its bands repeat.

    Raises:
        ValueError: If there is no such band, or bands differ and none is chosen.
    """
    if band is None and (pixels != pixels[0]).any():
        raise ValueError(f"{path}: expected one band of class codes, found {len(pixels)} bands.")
    if band is not None and not 1 <= band <= len(pixels):
        raise ValueError(f"{path}: expected class codes in band {band}, found {len(pixels)} bands.")
    return pixels[(band or 1) - 1]


def declared_nodata(path: str) -> float | None:
    """Return the value that a file declares as nodata, or None if it declares none or is an array or a folder."""
    if path.endswith(".npy") or os.path.isdir(path):
        return None
    with rasterio.open(path) as dataset:
        value = dataset.nodata
    return None if value is None or not np.isfinite(value) else value


def _read(
    value: Reference, image: MultispectralImage | None = None, offset: float | None = None, nodata: float | None = None
) -> tuple[Raster, tuple[tuple[int, int], tuple[int, int]]]:
    """Read the part of a window that is inside the file and the extent.

    Returns:
        The pixels, and the rows and columns (before, after) that the window has beyond them.
    """
    options: dict[str, Any] = {"offset": offset, "nodata": nodata}
    if image is not None:
        options |= {"bands": image.bands, "band_names": image.band_names}
        options["expected"] = model_sensor(image.sensor, image.bands, image.wavelengths)
    with open_raster(value["path"], resolution=None, **options) as reader:
        window, extent = value["window"], value["extent"]
        left, top, width, height = (0, 0, reader.width, reader.height) if window is None else map(int, window)
        rows, columns = (reader.height, reader.width) if extent is None else map(int, extent)
        inside = (left, top, min(width, columns - left), min(height, rows - top))
        return reader.read(inside), ((0, height - inside[3]), (0, width - inside[2]))


with warnings.catch_warnings():
    # `register_feature` warns that it is experimental, which users of this package need not know.
    warnings.simplefilter("ignore", UserWarning)
    register_feature(MultispectralImage, "MultispectralImage")
    register_feature(SegmentationMap, "SegmentationMap")
