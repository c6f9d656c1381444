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
"""Read any Sentinel-2 file by band name, on one grid, with valid pixels and known radiometry.

Units are digital numbers, reflectance x 10000. An offset or scale is applied when it is given or when the source's own
metadata state it, and never inferred from dates, names or values.
"""

import os
import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any

import numpy as np

from .bands import SENTINEL_2, Sensor
from .grids import Grid, Part, choose_grid, read_part
from .matching import OF_SENTINEL_2, Matching
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
"""What one read may take, unless told otherwise: a file of a few bytes can declare terabytes."""

STRIP_ROWS = 512
"""Rows that are read between looks at the clock."""

NEGATIVE_SHARE = 0.25
"""Share of negative visible pixels from which an offset is doubted: water in the near infrared is often negative."""


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
        saturated: (C, H, W), bool, where the stored value is 65535: data, but no measure of how bright the pixel is,
            so that limits leave it out. None where no pixel is.
        sensor: Name of the sensor in whose names the bands are given.
    """

    pixels: np.ndarray
    bands: tuple[str, ...] | None
    valid: np.ndarray
    crs: "CRS | None"
    transform: "Affine"
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
    """Read a source, or a window of it: `open_raster`, then `RasterReader.read`.

    Args:
        source, bands, resolution, mask, offset, options: As in `open_raster`.
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
        source: GeoTIFF or anything else that rasterio opens, also `/vsicurl/` and `/vsis3/`; the bytes of a TIFF or
            JPEG 2000, which may refer to no other file; a folder with one file per band; a SAFE product; either of
            them zipped; an `.npy` array (C, H, W), which is held in memory; a STAC item, as a dict, a `pystac.Item` or
            a JSON file. The format is read from the content.
        bands: Which bands, in which order. Defaults to all.
        resolution: Size of the output pixels in metres, or None for the finest of the source. Grids in degrees and
            grids without a reference system are kept as they are, and so are those within 1 % of it.
        mask: Further pixels to leave out: "SCL" for the product's own scene classification, or a file that overlaps.
        offset: What to add to the stored digital numbers, in place of what the metadata state: a number, one for each
            band of the source in its order, or one for each band name.
        band_names: What a file or array holds, in its order, in place of what it says itself. Products name
            their files.
        mask_classes: Values of the mask that leave a pixel out. Defaults to `SCL_EXCLUDED` for a scene classification,
            and to 0 for any other mask.
        max_bytes: Largest read.
        like: A source whose grid to read this one on, in place of its own.
        nodata: Stored value that means no data in any band, in place of what the metadata state.
        skip_missing: Whether to read only those of `bands` that the source holds, in its own order, and all of its
            bands where it holds or names none of them.
        budget: What reading may cost. Bytes have the default `Budget`, and everything else no limit.
        beside: Bands to read beside `bands` where the source holds them. They do not decide which pixels are valid.
        sensor: Which sensor took it, in place of what it says itself: a name ("landsat-8") or a `Sensor`.
        match: `"wavelength"` reads a source of another sensor than expected: its bands serve those of the expected one
            to which they are near in wavelength, and the tags say which served which. None refuses it.
        expected: The sensor whose bands are asked for. Defaults to `sensor` where nothing is to be matched, else to
            Sentinel-2.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the source is damaged, holds no raster, lacks a band, is of another sensor, or exceeds the
            budget. The message names the source.
    """
    _require_rasterio()
    matching = Matching.of(expected, sensor, match)
    reading = (band_names, mask_classes, max_bytes, like, nodata, skip_missing, budget, beside, matching)
    return RasterReader(source, bands, resolution, mask, offset, *reading)


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
        offset: Offset | None,
        band_names: Sequence[str] | None,
        mask_classes: Collection[int] | None,
        max_bytes: int,
        like: "RasterReader | None" = None,
        nodata: float | None = None,
        skip_missing: bool = False,
        budget: Budget | None = None,
        beside: Sequence[str] = (),
        matching: Matching = OF_SENTINEL_2,
    ) -> None:
        self._files = Files(source, band_names, budget, matching)
        self.name = self._files.name
        self._budget = self._files.budget
        self._max_bytes = max_bytes if self._budget is None else min(max_bytes, self._budget.decoded_bytes)
        self._warned = False
        try:
            with named_errors(self.name):
                self._layers = self._files.describe(self._select(bands, skip_missing, beside), offset, nodata)
                used = () if bands is None else self._files.sensor.resolve_all(bands)
                self._beside = {band for band in self._files.sensor.resolve_all(beside) if band not in used}
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
            valid = np.empty(shape, bool)
            # Only a budget has a deadline to look at between strips.
            strips = [(slice(None), part)] if self._budget is None else part.strips(self._strip_rows())
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
        return Raster(pixels, self.bands, valid, *known)

    def identity(self) -> list[tuple[str, str]]:
        """Return each file that the layers and the mask come from, and what changes when its content does.

        For keys of work that is resumed. Files behind a VRT and side files are listed too.

        Returns:
            Sorted pairs: the path, or the URL without its query, which may hold a signature; and the size and time of a
            local file, the ETag of a URL (else its time and size), or the SHA-256 of bytes. The second is empty where
            nothing tells, as for object stores that only GDAL can ask.

        Raises:
            ValueError: If a file is no longer there, or its server does not answer.
        """
        return self._files.identity()

    def _read_strip(self, part: Part, pixels: np.ndarray, valid: np.ndarray) -> np.ndarray | None:
        """Read a part into `pixels` (C, H, W) and `valid` (H, W), and return which are saturated; None for none."""
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

    def _select(self, bands: Sequence[str] | None, skip_missing: bool, beside: Sequence[str]) -> list[Layer]:
        layers = self._files.product.layers
        if bands is None:
            return layers
        resolve = self._files.sensor.resolve_all
        wanted, extra = resolve(bands), resolve(beside)
        if skip_missing:
            return [layer for layer in layers if layer.band in (*wanted, *extra)] or layers
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
        return [by_name[band] for band in dict.fromkeys((*wanted, *(band for band in extra if band in by_name)))]

    def _warn_of_negative(self, pixels: np.ndarray, valid: np.ndarray) -> None:
        """Warn, once, where an offset makes many visible pixels negative: the values had been harmonised already."""
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
                "before. Nothing was changed: pass `offset=0` if the values are harmonised."
            )

    def _strip_rows(self) -> int:
        """Return how many rows to read between looks at the clock: whole blocks, so that none is decoded twice."""
        blocks = [self._files.open(layer.path).dataset.block_shapes[0][0] for layer in self._layers]
        return max(STRIP_ROWS, *blocks)

    def _choose_grid(self, resolution: float | None) -> Grid:
        """Take the finest grid of the source, so that it does not depend on which bands are asked for."""
        paths = dict.fromkeys([self._files.finest.path, *(layer.path for layer in self._layers)])
        datasets = [self._files.open(path).dataset for path in paths]
        reference = min(datasets, key=lambda dataset: abs(dataset.transform.determinant))
        return choose_grid(reference, resolution, self.name)

    def _open_mask(self, mask: Source, classes: Collection[int] | None) -> tuple[Layer, tuple[int, ...]]:
        """Return the mask and the values that leave a pixel out."""
        if isinstance(mask, bytes | bytearray | memoryview):
            path = self._files.hold(bytes(mask))
        elif not isinstance(mask, str | os.PathLike):
            raise ValueError(f"{self.name}: expected `mask` to be a file or 'SCL', found {type(mask).__name__}.")
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
        tags = self._files.product.tags | self._files.notes
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
        computed = any(layer.gain not in (None, 1) or layer.offset for layer in self._layers)
        dtypes = set()
        for path, members in by_path(enumerate(self._layers)).items():
            dataset = self._files.open(path).dataset
            if computed or not self._grid.holds(dataset):
                return np.dtype(np.float32)
            dtypes |= {dataset.dtypes[layer.index - 1] for _, layer in members}
        return np.result_type(*dtypes)

    def _read(
        self, path: str, layers: list[Layer], part: Part, nearest: bool = False
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        indexes = [layer.index for layer in layers]
        return read_part(self._files.open(path), indexes, self._grid, part, self.name, layers[0].nodata, nearest)

    def _narrow(self, empty: np.ndarray, part: Part) -> np.ndarray:
        """Narrow pixels that are 0 in all bands asked for down to those that are 0 in all bands of the source."""
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


def _require_rasterio() -> None:
    if rasterio is None:
        raise ImportError("Reading and writing files needs rasterio: `pip install rasterio`. Arrays work without it.")


def _join_numbers(numbers: Sequence[float]) -> str:
    texts = [f"{number:g}" for number in numbers]
    return texts[0] if len(set(texts)) == 1 else ",".join(texts)
