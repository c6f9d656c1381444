# Copyright 2026 The SpectralGPT-HF authors.
#
# Licensed under the Apache License, Version 2.0 (the "License");
# you may not use this file except in compliance with the License.
# You may obtain a copy of the License at
#
#     http://www.apache.org/licenses/LICENSE-2.0
#
# Unless required by applicable law or agreed to in writing, software
# distributed under the License is distributed on an "AS IS" BASIS,
# WITHOUT WARRANTIES OR CONDITIONS OF ANY KIND, either express or implied.
# See the License for the specific language governing permissions and
# limitations under the License.
"""Read any Sentinel-2 file by band name, on one grid, with valid pixels and known radiometry; write georeferenced ones.

Units are digital numbers, reflectance x 10000. An offset or scale is applied when it is given or when the source's own
metadata state it, and never inferred from dates, names or values.
"""

import math
import os
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from types import TracebackType
from typing import Any

import numpy as np

from .bands import BANDS, resolve_bands
from .grids import Grid, Part, choose_grid, read_part
from .products import Layer
from .raster_files import Files, Source, is_remote, named_errors


try:
    import rasterio
    from affine import Affine
    from rasterio.windows import Window
except ImportError:
    rasterio = None

SCL_EXCLUDED = (0, 1, 3, 8, 9, 10)
"""Classes of the scene classification that are left out: no data, saturated, shadow, two of cloud, cirrus."""

MAX_READ_BYTES = 4 * 2**30
"""What one read may take, unless told otherwise: a file of a few bytes can declare terabytes."""


@dataclass(frozen=True, eq=False)
class Raster:
    """Pixels of some bands on one grid.

    Attributes:
        pixels: (C, H, W), in digital numbers; in the stored type, or float32 where a value had to be computed.
        bands: Canonical name of each channel, or None where the source does not name them.
        valid: (H, W), bool. What `pixels` holds where it is False has no meaning.
        crs: Coordinate reference system, or None.
        transform: From pixel to map coordinates.
        tags: The file's own tags; "source"; "date" where known; "scale" and "offset" where stated: what turned stored
            values into digital numbers.
        offsets: What was added to each channel, in digital numbers, or None where nothing states an offset.
    """

    pixels: np.ndarray
    bands: tuple[str, ...] | None
    valid: np.ndarray
    crs: "rasterio.CRS | None"
    transform: "Affine"
    tags: dict[str, str]
    offsets: tuple[float, ...] | None


def read_raster(
    source: Source,
    bands: Sequence[str] | None = None,
    window: "Window | tuple[int, int, int, int] | None" = None,
    resolution: float | None = 10,
    mask: Source | None = None,
    offset: float | Sequence[float] | Mapping[str, float] | None = None,
    **options: Any,
) -> Raster:
    """Read a source, or a window of it: `open_raster`, then `RasterReader.read`.

    Args:
        source, bands, resolution, mask, offset, **options: As in `open_raster`.
        window: Part of the output grid: a rasterio window or (column offset, row offset, width, height), in pixels.

    Raises:
        FileNotFoundError, ValueError: As `open_raster` and `RasterReader.read`.
    """
    with open_raster(source, bands, resolution, mask, offset, **options) as reader:
        return reader.read(window)


def open_raster(
    source: Source,
    bands: Sequence[str] | None = None,
    resolution: float | None = 10,
    mask: Source | None = None,
    offset: float | Sequence[float] | Mapping[str, float] | None = None,
    *,
    band_names: Sequence[str] | None = None,
    mask_classes: Collection[int] | None = None,
    max_bytes: int = MAX_READ_BYTES,
    like: "RasterReader | None" = None,
) -> "RasterReader":
    """Open a source for reading by windows.

    Args:
        source: GeoTIFF or anything else that rasterio opens, also `/vsicurl/` and `/vsis3/`; the bytes of such a file;
            a folder with one file per band; a SAFE product; either of them zipped; an `.npy` array (C, H, W), which is
            held in memory; a STAC item, as a dict or a JSON file. The format is read from the content.
        bands: Which bands, in which order. Defaults to all.
        resolution: Size of the output pixels in metres, or None for the finest of the source. Grids in degrees and
            grids without a reference system are kept as they are, and so are those within 1 % of it.
        mask: Further pixels to leave out: "SCL" for the product's own scene classification, or a file that overlaps.
        offset: What to add to the stored digital numbers, in place of what the metadata say: a number, one for each of
            `bands`, or one for each band name.
        band_names: What a file or array holds, in its order, in place of what it says itself. Products name
            their files.
        mask_classes: Values of the mask that leave a pixel out. Defaults to `SCL_EXCLUDED` for a scene classification,
            and to 0 for any other mask.
        max_bytes: Largest read.
        like: A source whose grid to read this one on, in place of its own.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the source is damaged, holds no raster, or lacks a band. The message names the source.
    """
    _require_rasterio()
    return RasterReader(source, bands, resolution, mask, offset, band_names, mask_classes, max_bytes, like)


class RasterReader:
    """A source on its output grid, read by windows. Use it in a `with` statement.

    Attributes:
        name: The source, as messages call it.
        bands: Canonical name of each channel, or None where the source does not name them.
        width, height, crs, transform: The output grid.
        tags, offsets: As in `Raster`.
    """

    def __init__(
        self,
        source: Source,
        bands: Sequence[str] | None,
        resolution: float | None,
        mask: Source | None,
        offset: float | Sequence[float] | Mapping[str, float] | None,
        band_names: Sequence[str] | None,
        mask_classes: Collection[int] | None,
        max_bytes: int,
        like: "RasterReader | None" = None,
    ) -> None:
        self._files = Files(source, band_names)
        self.name = self._files.name
        self._max_bytes = max_bytes
        try:
            with named_errors(self.name):
                self._layers = _apply_offset(self.name, [*map(self._files.describe, self._select(bands))], offset)
                self._grid: Grid = like._grid if like is not None else self._choose_grid(resolution)
                self._mask = None if mask is None else self._open_mask(mask, mask_classes)
                self._dtype = self._output_type()
        except BaseException:
            self.close()
            raise
        self.crs, self.transform = self._grid.crs, self._grid.transform
        self.height, self.width = self._grid.height, self._grid.width
        self.bands = None if self._layers[0].band is None else tuple(str(layer.band) for layer in self._layers)
        stated = any(layer.offset is not None for layer in self._layers)
        self.offsets = tuple(layer.offset or 0.0 for layer in self._layers) if stated else None
        self.tags = self._describe()

    def __enter__(self) -> "RasterReader":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the files."""
        self._files.close()

    def read(
        self,
        window: "Window | tuple[int, int, int, int] | None" = None,
        out_shape: tuple[int, int] | None = None,
    ) -> Raster:
        """Read pixels, never more than the window needs.

        Args:
            window: Part of the grid: a rasterio window or (column offset, row offset, width, height). Defaults to all.
            out_shape: (height, width) of a decimated read, for statistics and previews: it takes the nearest pixels,
                from overviews where the file has them.

        Raises:
            ValueError: If the window leaves the grid, the read takes more than `max_bytes`, or the file is damaged.
        """
        part = self._grid.part(window, out_shape, self.name)
        self._check_size(part)
        shape = (part.grid.height, part.grid.width)
        with named_errors(self.name):
            pixels = np.empty((len(self._layers), *shape), self._dtype)
            valid, empty = np.ones(shape, bool), np.ones(shape, bool)
            for path, layers in _by_path(self._layers).items():
                values, stored, covered = self._read(path, layers, part)
                valid &= covered
                for layer, channel, raw in zip(layers, values, stored):
                    empty &= raw == 0
                    if layer.nodata is not None:
                        valid &= raw != layer.nodata
                    target = pixels[self._layers.index(layer)]
                    target[:] = channel
                    if layer.gain not in (None, 1):
                        target *= layer.gain
                    if layer.offset:
                        target += layer.offset
            valid &= ~self._narrow(empty, part)
            if pixels.dtype.kind == "f":
                valid &= np.isfinite(pixels).all(0)
            if self._mask is not None:
                layer, left_out = self._mask
                _, (classes,), covered = self._read(layer.path, [layer], part, nearest=True)
                valid &= covered & ~np.isin(classes, left_out)
        return Raster(pixels, self.bands, valid, self.crs, part.grid.transform, dict(self.tags), self.offsets)

    def _select(self, bands: Sequence[str] | None) -> list[Layer]:
        layers = self._files.product.layers
        if bands is None:
            return layers
        wanted = resolve_bands(bands)
        if not wanted:
            raise ValueError(f"{self.name}: expected `bands` to name at least one band, or None for all.")
        by_name = {layer.band: layer for layer in layers}
        missing = [band for band in wanted if band not in by_name]
        if missing and layers[0].band is None:
            raise ValueError(
                f"{self.name}: expected band names, or 13, 12 or 10, found {len(layers)} without names: pass "
                "`band_names`."
            )
        if missing:
            held = ", ".join(str(layer.band) for layer in layers)
            raise ValueError(f"{self.name}: no band {', '.join(missing)}; the source holds {held}.")
        return [by_name[band] for band in wanted]

    def _choose_grid(self, resolution: float | None) -> Grid:
        """Take the finest grid of the source, so that it does not depend on which bands are asked for."""
        finest = min(self._files.product.layers, key=lambda layer: BANDS[layer.band].resolution if layer.band else 0)
        paths = dict.fromkeys([finest.path, *(layer.path for layer in self._layers)])
        reference = min(map(self._files.open, paths), key=lambda dataset: abs(dataset.transform.determinant))
        return choose_grid(reference, resolution, self.name)

    def _open_mask(self, mask: Source, classes: Collection[int] | None) -> tuple[Layer, tuple[int, ...]]:
        """Return the mask and the values that leave a pixel out."""
        if isinstance(mask, bytes | bytearray | memoryview):
            path = self._files.hold(bytes(mask))
        elif isinstance(mask, Mapping):
            raise ValueError(f"{self.name}: expected `mask` to be a file or 'SCL', found a dict.")
        elif str(mask).upper() == "SCL":
            path = self._files.product.scene_classification or ""
            if not path:
                raise ValueError(f"{self.name}: has no scene classification (SCL): pass a mask file, or none.")
        else:
            path = os.fspath(mask)
            if not is_remote(path) and not os.path.exists(path):
                raise FileNotFoundError(f"{path}: no such mask.")
        is_scl = "SCL" in re.split(r"[_\W]+", f"{path} {self._files.open(path).descriptions[0]}".upper())
        return Layer(path), tuple(classes if classes is not None else SCL_EXCLUDED if is_scl else (0,))

    def _describe(self) -> dict[str, str]:
        tags = dict(self._files.product.tags)
        dates = [value for key, value in tags.items() if key.lower() in ("date", "datetime", "acquisition_date")]
        name = os.path.basename(self.name.rstrip("/"))
        in_name = re.search(r"(?<!\d)(20\d\d)-?([01]\d)-?([0-3]\d)(?!\d)", name)
        if dates or in_name:
            tags["date"] = dates[0] if dates else "-".join(in_name.groups())  # type: ignore[union-attr]
        tags["source"] = name
        if self.offsets is not None:
            tags["offset"] = _join_numbers(self.offsets)
        gains = [layer.gain for layer in self._layers if layer.gain is not None]
        if gains:
            tags["scale"] = _join_numbers([1.0 if layer.gain is None else layer.gain for layer in self._layers])
        return tags

    def _output_type(self) -> np.dtype[Any]:
        """Return the stored type where values are copied, float32 where they are computed."""
        datasets = [self._files.open(layer.path) for layer in self._layers]
        computed = any(layer.gain not in (None, 1) or layer.offset for layer in self._layers)
        if computed or not all(map(self._grid.holds, datasets)):
            return np.dtype(np.float32)
        return np.result_type(*(dataset.dtypes[layer.index - 1] for dataset, layer in zip(datasets, self._layers)))

    def _read(
        self, path: str, layers: list[Layer], part: Part, nearest: bool = False
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        indexes = [layer.index for layer in layers]
        return read_part(self._files.open(path), indexes, self._grid, part, self.name, nearest)

    def _narrow(self, empty: np.ndarray, part: Part) -> np.ndarray:
        """Narrow pixels that are 0 in all bands asked for down to those that are 0 in all bands of the source."""
        read = {(layer.path, layer.index) for layer in self._layers}
        others = [layer for layer in self._files.product.layers if (layer.path, layer.index) not in read]
        for path, layers in _by_path(others).items():
            if not empty.any():
                break
            _, stored, _ = self._read(path, layers, part, nearest=True)
            empty = empty & (stored == 0).all(0)
        return empty

    def _check_size(self, part: Part) -> None:
        count, height, width = len(self._layers), part.grid.height, part.grid.width
        needed = count * height * width * self._dtype.itemsize
        if needed > self._max_bytes:
            raise ValueError(
                f"{self.name}: {count} bands of {width} x {height} px take {needed / 2**30:.1f} GiB, more than "
                f"`max_bytes` ({self._max_bytes / 2**30:.1f} GiB): read windows, or decimate (`out_shape`)."
            )
        if not part.is_decimated:
            for path, layers in _by_path(self._layers).items():
                self._files.check_size(path, needed * len(layers) / count, "pixels")


def write_raster(
    path: str | os.PathLike[str],
    pixels: np.ndarray,
    *,
    crs: Any,
    transform: "Affine",
    bands: Sequence[str] | None = None,
    nodata: float | None = None,
    colormap: Mapping[int, tuple[int, ...]] | None = None,
    tags: Mapping[str, str] | None = None,
) -> None:
    """Write a compressed, tiled, cloud-optimised GeoTIFF with overviews, and only a complete one.

    Args:
        path: Destination; an existing file is replaced once the new one is complete.
        pixels: (C, H, W) or (H, W).
        crs: Coordinate reference system, or None.
        transform: From pixel to map coordinates.
        bands: Description of each channel: band names, or anything else.
        nodata: Value that means no data.
        colormap: Colour (red, green, blue[, alpha]) of each value of a single 8-bit channel.
        tags: Metadata.

    Raises:
        ValueError: If the arguments do not fit each other or the type cannot be stored.
        OSError: If the file cannot be written; the destination is then as before.
    """
    _require_rasterio()
    pixels = pixels[None] if pixels.ndim == 2 else pixels
    if pixels.ndim != 3 or 0 in pixels.shape:
        raise ValueError(f"{path}: expected pixels (C, H, W) or (H, W), none of them 0, found {pixels.shape}.")
    if bands is not None and len(bands) != len(pixels):
        raise ValueError(f"{path}: got {len(bands)} band names for {len(pixels)} bands.")
    if not rasterio.dtypes.check_dtype(pixels.dtype.name):
        raise ValueError(f"{path}: a GeoTIFF holds no {pixels.dtype.name} values.")
    if nodata is not None and not rasterio.dtypes.in_dtype_range(nodata, pixels.dtype.name):
        raise ValueError(f"{path}: expected a nodata value that {pixels.dtype.name} can hold, found {nodata}.")
    destination = os.fspath(path)
    temporary = f"{destination}.{os.getpid()}.part"
    profile = {
        "driver": "COG",
        "count": len(pixels),
        "height": pixels.shape[1],
        "width": pixels.shape[2],
        "dtype": pixels.dtype.name,
        "crs": crs,
        "transform": transform,
        "nodata": nodata,
        "compress": "deflate",
        "predictor": "yes",
        "bigtiff": "if_safer",
        # Classes must not be averaged.
        "overview_resampling": "mode" if len(pixels) == 1 and pixels.dtype.kind in "ui" else "average",
    }
    try:
        with rasterio.open(temporary, "w", **profile) as dataset:
            dataset.write(pixels)
            dataset.descriptions = tuple(bands) if bands is not None else (None,) * len(pixels)
            if colormap is not None:
                dataset.write_colormap(1, dict(colormap))
            dataset.update_tags(**(tags or {}))
        os.replace(temporary, destination)
    except (rasterio.errors.RasterioError, rasterio._err.CPLE_BaseError) as error:
        raise OSError(f"{path}: cannot be written ({error}).") from error
    finally:
        if os.path.exists(temporary):
            os.remove(temporary)


def _require_rasterio() -> None:
    if rasterio is None:
        raise ImportError("Reading and writing files needs rasterio: `pip install rasterio`. Arrays work without it.")


def _by_path(layers: list[Layer]) -> dict[str, list[Layer]]:
    """Group layers by file, so that each file is read once."""
    groups: dict[str, list[Layer]] = {}
    for layer in layers:
        groups.setdefault(layer.path, []).append(layer)
    return groups


def _apply_offset(
    name: str, layers: list[Layer], offset: float | Sequence[float] | Mapping[str, float] | None
) -> list[Layer]:
    if offset is None:
        return layers
    given = offset
    if isinstance(offset, Mapping):
        by_name = dict(zip(resolve_bands(offset), offset.values()))
        offset = [by_name.get(str(layer.band), layer.offset or 0.0) for layer in layers]
    try:
        offsets = np.broadcast_to(np.asarray(offset, float), len(layers)).tolist()
    except (TypeError, ValueError):
        offsets = [math.nan]
    if not all(map(math.isfinite, offsets)):
        raise ValueError(f"{name}: expected a finite `offset`, one or {len(layers)} for the bands, found {given!r}.")
    return [replace(layer, offset=value) for layer, value in zip(layers, offsets)]


def _join_numbers(numbers: Sequence[float]) -> str:
    texts = [f"{number:g}" for number in numbers]
    return texts[0] if len(set(texts)) == 1 else ",".join(texts)
