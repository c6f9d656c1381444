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
"""Read the file of any known sensor by band name, on one grid, with a valid mask and known radiometry.

Units are digital numbers, reflectance x 10000. An offset or scale is applied if the caller passes it or the metadata of
the source state it. It is never inferred from dates, names or values.
"""

import os
import re
from collections.abc import Collection, Iterable, Sequence
from copy import copy
from dataclasses import dataclass
from typing import Any

import numpy as np

from .bands import SENTINEL_2, Sensor
from .dates import date_in_name
from .grids import Grid, Part, choose_grid, read_part
from .matching import Matching
from .notices import warn
from .products import SATURATED, Layer, Offset, by_path
from .raster_files import Files, Source, is_remote, named_errors
from .raster_writing import write_raster
from .untrusted import Budget


try:
    import rasterio
    from affine import Affine
    from rasterio.crs import CRS
    from rasterio.windows import Window
except ImportError:
    rasterio = None


__all__ = ["MAX_READ_BYTES", "SCL_EXCLUDED", "Raster", "RasterReader", "open_raster", "read_raster", "write_raster"]

SCL_EXCLUDED = (0, 1, 3, 8, 9, 10)
"""Classes of the scene classification that are left out: no data, saturated, shadow, two of cloud, cirrus."""

MAX_READ_BYTES = 4 * 2**30
"""Default limit of one read. A file of a few bytes can declare terabytes."""

STRIP_ROWS = 512
"""Rows that are read between two checks of the time limit."""

NEGATIVE_SHARE = 0.25
"""Share of negative visible pixels above which a warning is raised. Near-infrared bands are often negative on water."""


@dataclass(frozen=True, eq=False)
class Raster:
    """Pixels of some bands on one grid.

    Attributes:
        pixels: (C, H, W), in digital numbers; in the stored type, or float32 where a value had to be computed.
        band_names: Canonical name of each band, or None if the source does not name them.
        valid: (H, W), bool. Where it is False, the values of `pixels` have no meaning.
        crs: Coordinate reference system, or None.
        transform: Affine transform from pixel to map coordinates, or None.
        tags: The tags of the file; "source"; "date" if it is known; "scale" and "offset" if they are stated, which turn
            stored values into digital numbers.
        offsets: Offset that was added to each band, in digital numbers, or None if nothing states an offset.
        saturated: (C, H, W), bool, True where the stored value is 65535. Such pixels have data, but their value does
            not measure brightness, so limits of normalisation leave them out. None if no pixel is saturated.
        sensor: Name of the sensor whose names `band_names` holds.
    """

    pixels: np.ndarray
    band_names: tuple[str, ...] | None
    valid: np.ndarray
    crs: "CRS | None"
    transform: "Affine | None"
    tags: dict[str, str]
    offsets: tuple[float, ...] | None
    saturated: np.ndarray | None = None
    sensor: str = SENTINEL_2.name


def read_raster(
    source: Source,
    bands: Sequence[str] | None = None,
    window: "Window | tuple[int, int, int, int] | None" = None,
    resolution: float | None = 10,
    mask: Source | None = None,
    offset: Offset | None = None,
    **options: Any,
) -> Raster:
    """Read a source, or a window of it, by `open_raster` and `RasterReader.read`.

    Args:
        source, bands, resolution, mask, offset, options: As in `open_raster`.
        window: Part of the output grid: a rasterio window or (column offset, row offset, width, height), in pixels.

    Raises:
        FileNotFoundError, ValueError: As in `open_raster` and `RasterReader.read`.
    """
    with open_raster(source, bands, resolution, mask, offset, **options) as reader:
        return reader.read(window)


def open_raster(
    source: Source,
    bands: Sequence[str] | None = None,
    resolution: float | None = 10,
    mask: Source | None = None,
    offset: Offset | None = None,
    *,
    band_names: Sequence[str] | None = None,
    mask_classes: Collection[int] | None = None,
    max_bytes: int = MAX_READ_BYTES,
    like: "RasterReader | None" = None,
    nodata: float | None = None,
    skip_missing: bool = False,
    budget: Budget | None = None,
    beside: Sequence[str] = (),
    sensor: Sensor | str | None = None,
    match: str | None = None,
    expected: Sensor | str | None = None,
) -> "RasterReader":
    """Open a source for reading by windows.

    Args:
        source: GeoTIFF or any other format of rasterio, also `/vsicurl/` and `/vsis3/`; the bytes of a TIFF or JPEG
            2000, which must not refer to another file; a folder with one file per band; a SAFE product; either of them
            zipped; an `.npy` array (C, H, W), which is held in memory; or a STAC item, as a dict, a `pystac.Item` or a
            JSON file. The format is recognised by the content.
        bands: Bands to read, in order. Defaults to all.
        resolution: Size of the output pixels in metres, or None for the finest of the source. Grids in degrees and
            grids without a reference system are kept as they are, and so are those within 1 % of it.
        mask: Further pixels to leave out: "SCL" for the product's own scene classification, or an overlapping file.
        offset: Number that is added to the stored digital numbers instead of the offset in the metadata: one number, a
            list with one for each band of the source in its order, or one for each band name.
        band_names: Names of the bands of a file or array, in its order, instead of those that it states. Products name
            their files.
        mask_classes: Values of the mask that leave a pixel out. Defaults to `SCL_EXCLUDED` for an SCL, else to 0.
        max_bytes: Largest read, in bytes.
        like: A source whose grid is used instead of this one's own.
        nodata: Stored value that means no data in any band, instead of the value in the metadata.
        skip_missing: Whether to read only those of `bands` that the source holds, in its own order. If it holds or
            names none of them, all its bands are read.
        budget: Limits of the cost of reading. Bytes have the default `Budget`, all other sources none.
        beside: Bands to read beside `bands` if the source holds them. They do not decide which pixels are valid.
        sensor: Sensor that took the source, instead of the one that it states: a name ("landsat-8") or a `Sensor`.
        match: `"wavelength"` reads a source of another sensor than expected: each expected band is read from the band
            that is nearest in wavelength, if one is near enough, and the tags list these pairs. None refuses such a
            source.
        expected: Sensor of `bands`. Defaults to `sensor` if it is given without `match`, else to Sentinel-2.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the source is damaged, holds no raster, lacks a band, is of another sensor, or exceeds the
            budget. The message names the source.
    """
    if rasterio is None:
        raise ImportError("Reading and writing files needs rasterio: `pip install rasterio`. Arrays work without it.")
    files = Files(source, band_names, budget, Matching.of(expected, sensor, match))
    try:
        with named_errors(files.name):
            layers = files.describe(_select(files, bands, skip_missing, beside), offset, nodata)
            grid = like.grid if like is not None else _choose_grid(files, layers, resolution)
            used = () if bands is None else files.sensor.resolve_all(bands)
            extra = {band for band in files.sensor.resolve_all(beside) if band not in used}
            left_out = None if mask is None else _open_mask(files, mask, mask_classes)
            return RasterReader(files, layers, grid, extra, left_out, max_bytes)
    except BaseException:
        files.close()
        raise


class RasterReader:
    """A source on its output grid, read by windows. Use it in a `with` statement.

    Attributes:
        name: Name of the source in messages.
        band_names: Canonical name of each band, or None if the source does not name them.
        grid, width, height, crs, transform: The output grid.
        tags, offsets: As in `Raster`.
    """

    def __init__(
        self,
        files: Files,
        layers: list[Layer],
        grid: Grid,
        beside: Collection[str] = (),
        mask: tuple[Layer, tuple[int, ...]] | None = None,
        max_bytes: int = MAX_READ_BYTES,
    ) -> None:
        self.name = files.name
        self._files, self._layers, self._beside, self._mask = files, layers, beside, mask
        self._budget = files.budget
        self._max_bytes = max_bytes if self._budget is None else min(max_bytes, self._budget.decoded_bytes)
        self._warned = False
        self._set_grid(grid)

    def __enter__(self) -> "RasterReader":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the files."""
        self._files.close()

    def select(self, bands: Collection[str] | None = None, like: "RasterReader | None" = None) -> "RasterReader":
        """Return a reader that shares the open files of this one. `close` of either closes them.

        Args:
            bands: Bands to read, as far as this reader has them, in its order. Defaults to all.
            like: A source whose grid is used instead of this one's own.

        Raises:
            ValueError: If this reader has none of the bands.
        """
        selected = copy(self)
        if bands is not None:
            selected._layers = [layer for layer in self._layers if layer.band in bands]
            if not selected._layers:
                found = " ".join(str(layer.band) for layer in self._files.product.layers)
                raise ValueError(f"{self.name}: expected some of the bands {' '.join(bands)}, found {found}.")
        with named_errors(self.name):
            selected._set_grid(self.grid if like is None else like.grid)
        return selected

    def read(
        self, window: "Window | tuple[int, int, int, int] | None" = None, out_shape: tuple[int, int] | None = None
    ) -> Raster:
        """Read pixels. Only the blocks that the window needs are decoded.

        Args:
            window: Part of the grid: a rasterio window or (column offset, row offset, width, height). Defaults to all.
            out_shape: (height, width) of a decimated read, for statistics and previews. It takes the nearest pixels,
                from overviews if the file has them.

        Raises:
            ValueError: If the window is not inside the grid, the read exceeds `max_bytes`, or the file is damaged.
        """
        part = self.grid.part(window, out_shape, self.name)
        self._check_size(part)
        shape = (part.grid.height, part.grid.width)
        with named_errors(self.name):
            pixels = np.empty((len(self._layers), *shape), self._dtype)
            valid = np.empty(shape, bool)
            strips: Iterable[tuple[slice, Part]] = [(slice(None), part)]
            if self._budget is not None:  # its time limit is checked between strips of whole blocks
                blocks = [self._files.open(layer.path).dataset.block_shapes[0][0] for layer in self._layers]
                strips = part.strips(max(STRIP_ROWS, *blocks))
            flags = None
            for rows, strip in strips:
                if self._budget is not None:
                    self._budget.check_time(self.name)
                saturated = self._read_strip(strip, pixels[:, rows], valid[rows])
                if saturated is not None:
                    flags = np.zeros(pixels.shape, bool) if flags is None else flags
                    flags[:, rows] = saturated
        self._warn_of_negative(pixels, valid)
        known = (self.crs, part.grid.transform, dict(self.tags), self.offsets, flags, self._files.sensor.name)
        return Raster(pixels, self.band_names, valid, *known)

    def identity(self) -> list[tuple[str, str]]:
        """Return each file of the layers and the mask, with a state that changes with its content.

        A run that resumes compares them. Files behind a VRT and side files are listed too.

        Returns:
            Sorted pairs: the path, or the URL without its query, which may hold a signature; and the size and time of a
            local file or an object in S3, the ETag of a URL (else its time and size), or the SHA-256 of bytes. The
            second is empty if it is not known, as for other object stores.

        Raises:
            ValueError: If a file no longer exists, or its server does not answer.
        """
        return self._files.identity()

    def _read_strip(self, part: Part, pixels: np.ndarray, valid: np.ndarray) -> np.ndarray | None:
        """Read a part into `pixels` (C, H, W) and `valid` (H, W). Return where they are saturated, or None."""
        valid[:] = True
        empty, saturated = np.ones(valid.shape, bool), None
        for path, members in by_path(enumerate(self._layers)).items():
            layers = [layer for _, layer in members]
            values, stored, covered = self._read(path, layers, part)
            if any(layer.band not in self._beside for layer in layers):
                valid &= covered
            for (position, layer), channel, raw in zip(members, values, stored):
                empty &= raw == 0
                if layer.nodata is not None and layer.band not in self._beside:
                    valid &= raw != layer.nodata
                if raw.dtype == np.uint16 and layer.nodata != SATURATED and raw.max() == SATURATED:
                    saturated = np.zeros(pixels.shape, bool) if saturated is None else saturated
                    saturated[position] = raw == SATURATED
                target = pixels[position]
                target[:] = channel
                if layer.gain not in (None, 1):
                    target *= layer.gain
                if layer.offset:
                    target += layer.offset
        valid &= ~self._narrow(empty, part)
        if pixels.dtype.kind == "f":
            used = [number for number, layer in enumerate(self._layers) if layer.band not in self._beside]
            valid &= np.isfinite(pixels if len(used) == len(pixels) else pixels[used]).all(0)
        if self._mask is not None:
            layer, left_out = self._mask
            _, (classes,), covered = self._read(layer.path, [layer], part, nearest=True)
            valid &= covered & ~np.isin(classes, left_out)
        return saturated

    def _warn_of_negative(self, pixels: np.ndarray, valid: np.ndarray) -> None:
        """Warn once if an offset makes many visible pixels negative, as in values that are harmonised already."""
        added = [number for number, layer in enumerate(self._layers) if (layer.offset or 0.0) < 0]
        centres = self._files.sensor.wavelengths(layer.band or "" for layer in self._layers)
        visible = [number for number in added if 450 < (centres[number] or 0) < 700] or added
        if self._warned or not visible or not valid.any():
            return
        share = float(np.mean([(pixels[number] < 0).mean(where=valid) for number in visible]))
        if share > NEGATIVE_SHARE:
            self._warned = True
            warn(
                f"{self.name}: the offset makes {share:.0%} of the valid pixels negative, as if it had been applied "
                "before. The values were not changed: pass `offset=0` if they are harmonised."
            )

    def _set_grid(self, grid: Grid) -> None:
        """Set the grid, and the attributes that depend on it and on the layers."""
        self.grid = grid
        self.crs, self.transform, self.height, self.width = grid.crs, grid.transform, grid.height, grid.width
        self._dtype = self._output_type()
        self.band_names = None if self._layers[0].band is None else tuple(str(layer.band) for layer in self._layers)
        stated = any(layer.offset is not None for layer in self._layers)
        self.offsets = tuple(layer.offset or 0.0 for layer in self._layers) if stated else None
        self.tags = self._describe()

    def _describe(self) -> dict[str, str]:
        tags = self._files.product.tags | self._files.notes
        dates = [value for key, value in tags.items() if key.lower() in ("date", "datetime", "acquisition_date")]
        name = os.path.basename(self.name.rstrip("/"))
        date = dates[0] if dates else date_in_name(name)
        tags |= {"date": date} if date else {}
        tags["source"] = name
        if self.offsets is not None:
            tags["offset"] = _join_numbers(self.offsets)
        if any(layer.gain is not None for layer in self._layers):
            tags["scale"] = _join_numbers([1.0 if layer.gain is None else layer.gain for layer in self._layers])
        return tags

    def _output_type(self) -> np.dtype[Any]:
        """Return the stored type if values are copied, float32 if they are computed."""
        computed = any(layer.gain not in (None, 1) or layer.offset for layer in self._layers)
        dtypes = set()
        for path, members in by_path(enumerate(self._layers)).items():
            dataset = self._files.open(path).dataset
            if computed or not self.grid.holds(dataset):
                return np.dtype(np.float32)
            dtypes |= {dataset.dtypes[layer.index - 1] for _, layer in members}
        return np.result_type(*dtypes)

    def _read(
        self, path: str, layers: list[Layer], part: Part, nearest: bool = False
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        indexes = [layer.index for layer in layers]
        return read_part(self._files.open(path), indexes, self.grid, part, self.name, layers[0].nodata, nearest)

    def _narrow(self, empty: np.ndarray, part: Part) -> np.ndarray:
        """Return those pixels that are 0 in the selected bands and also in all other bands of the source."""
        read = {(layer.path, layer.index) for layer in self._layers}
        others = [layer for layer in self._files.product.layers if (layer.path, layer.index) not in read]
        for path, members in by_path(enumerate(others)).items():
            if not empty.any():
                break
            _, stored, _ = self._read(path, [layer for _, layer in members], part, nearest=True)
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
            for path, members in by_path(enumerate(self._layers)).items():
                self._files.check_size(path, needed * len(members) / count, "pixels")


def _select(files: Files, bands: Sequence[str] | None, skip_missing: bool, beside: Sequence[str]) -> list[Layer]:
    layers = files.product.layers
    if bands is None:
        return layers
    resolve = files.sensor.resolve_all
    wanted, extra = resolve(bands), resolve(beside)
    if skip_missing:
        return [layer for layer in layers if layer.band in (*wanted, *extra)] or layers
    if not wanted:
        raise ValueError(f"{files.name}: expected `bands` to name at least one band, or None for all.")
    by_name = {layer.band: layer for layer in layers}
    missing = [band for band in wanted if band not in by_name]
    if missing and layers[0].band is None:
        found = f"{len(layers)} without names"
        raise ValueError(f"{files.name}: expected band names, or 13, 12 or 10, found {found}: pass `band_names`.")
    if missing:
        held = ", ".join(str(layer.band) for layer in layers)
        raise ValueError(f"{files.name}: no band {', '.join(missing)}; the source holds {held}.")
    return [by_name[band] for band in dict.fromkeys((*wanted, *(band for band in extra if band in by_name)))]


def _choose_grid(files: Files, layers: list[Layer], resolution: float | None) -> Grid:
    """Return the finest grid of the source, so that the grid does not depend on the selected bands."""
    paths = dict.fromkeys([files.finest.path, *(layer.path for layer in layers)])
    datasets = [files.open(path).dataset for path in paths]
    reference = min(datasets, key=lambda dataset: abs(dataset.transform.determinant))
    return choose_grid(reference, resolution, files.name, files.sensor)


def _open_mask(files: Files, mask: Source, classes: Collection[int] | None) -> tuple[Layer, tuple[int, ...]]:
    """Return the layer of the mask, and the values that leave a pixel out."""
    if isinstance(mask, bytes | bytearray | memoryview):
        path = files.hold(bytes(mask))
    elif not isinstance(mask, str | os.PathLike):
        raise ValueError(f"{files.name}: expected `mask` to be a file or 'SCL', found {type(mask).__name__}.")
    elif str(mask).upper() == "SCL":
        path = files.product.scene_classification or ""
        if not path:
            raise ValueError(f"{files.name}: has no scene classification (SCL): pass a mask file, or no mask.")
    else:
        path = os.fspath(mask)
        if not is_remote(path) and not os.path.exists(path):
            raise FileNotFoundError(f"{path}: no such mask.")
    is_scl = "SCL" in re.split(r"[_\W]+", f"{path} {files.open(path).descriptions[0]}".upper())
    return Layer(path), tuple(classes if classes is not None else SCL_EXCLUDED if is_scl else (0,))


def _join_numbers(numbers: Sequence[float]) -> str:
    texts = [f"{number:g}" for number in numbers]
    return texts[0] if len(set(texts)) == 1 else ",".join(texts)
