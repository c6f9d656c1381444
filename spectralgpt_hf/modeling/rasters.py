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
import warnings
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from types import TracebackType
from typing import Any

import numpy as np

from .bands import BANDS, resolve_bands
from .products import Layer
from .sources import Files, Source, alpha_band, is_remote, named_errors, stored_bytes


try:
    import rasterio
    from affine import Affine
    from rasterio.enums import MaskFlags, Resampling
    from rasterio.vrt import WarpedVRT
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
        tags: The file's own tags, and "source", "date", "offset", "scale" where known or applied.
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
    names: Sequence[str] | None = None,
    mask_classes: Collection[int] | None = None,
    max_bytes: int = MAX_READ_BYTES,
) -> "RasterReader":
    """Open a source for reading by windows.

    Args:
        source: GeoTIFF or anything else that rasterio opens, also `/vsicurl/` and `/vsis3/`; the bytes of such a file;
            a folder with one file per band; a SAFE product; either of them zipped; an `.npy` array (C, H, W); a STAC
            item, as a dict or a JSON file. The format is read from the content.
        bands: Which bands, in which order. Defaults to all. For an `.npy` without `names` they name its channels.
        resolution: Size of the output pixels in metres, or None for the finest of the source. Grids in degrees and
            grids without a reference system are kept as they are, and so are those within 1 % of it.
        mask: Further pixels to leave out: "SCL" for the product's own scene classification, or a file that overlaps.
        offset: What to add to the stored digital numbers, in place of what the metadata say: a number, one for each of
            `bands`, or one for each band name.
        names: What the source holds, in its order, in place of what it says itself.
        mask_classes: Values of the mask that leave a pixel out. Defaults to `SCL_EXCLUDED` for a scene classification,
            and to 0 for any other mask.
        max_bytes: Largest read.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the source is damaged, holds no raster, or lacks a band. The message names the source.
    """
    if rasterio is None:
        raise ImportError("Reading and writing files needs rasterio: `pip install rasterio`. Arrays work without it.")
    return RasterReader(source, bands, resolution, mask, offset, names, mask_classes, max_bytes)


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
        names: Sequence[str] | None,
        mask_classes: Collection[int] | None,
        max_bytes: int,
    ) -> None:
        self._files = Files(source, names, bands)
        self.name = self._files.name
        self._max_bytes = max_bytes
        try:
            with named_errors(self.name):
                self._layers = _apply_offset(self.name, [*map(self._files.describe, self._select(bands))], offset)
                self._set_grid(resolution)
                self._mask = None if mask is None else self._open_mask(mask, mask_classes)
                self._dtype = self._output_type()
        except BaseException:
            self.close()
            raise
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
        area = self._checked(window)
        height, width = out_shape or (area.height, area.width)
        transform = self.transform * Affine.translation(area.col_off, area.row_off)
        transform *= Affine.scale(area.width / width, area.height / height)
        view = _View(area, height, width, transform)
        self._check_size(view)
        with named_errors(self.name):
            pixels = np.empty((len(self._layers), height, width), self._dtype)
            valid = np.ones((height, width), bool)
            empty = np.ones((height, width), bool)
            for path, positions in _by_path(self._layers).items():
                layers = [self._layers[position] for position in positions]
                values, stored, covered = self._read(path, [layer.index for layer in layers], view)
                valid &= covered
                for position, layer, channel, raw in zip(positions, layers, values, stored):
                    empty &= raw == 0
                    if layer.nodata is not None:
                        valid &= raw != layer.nodata
                    pixels[position] = channel
                    if layer.gain not in (None, 1):
                        pixels[position] *= layer.gain
                    if layer.offset:
                        pixels[position] += layer.offset
            valid &= ~self._empty(view, empty)
            if np.issubdtype(self._dtype, np.floating):
                valid &= np.isfinite(pixels).all(0)
            if self._mask is not None:
                mask_path, left_out = self._mask
                _, (classes,), covered = self._read(mask_path, [1], view, nearest=True)
                valid &= covered & ~np.isin(classes, left_out)
        return Raster(pixels, self.bands, valid, self.crs, transform, dict(self.tags), self.offsets)

    def _select(self, bands: Sequence[str] | None) -> list[Layer]:
        layers = self._files.product.layers
        if bands is None:
            return layers
        wanted = resolve_bands(bands)
        by_name = {layer.band: layer for layer in layers}
        missing = [band for band in wanted if band not in by_name]
        if missing and layers[0].band is None:
            raise ValueError(
                f"{self.name}: expected band names, or 13, 12 or 10, found {len(layers)} without names: pass `names`."
            )
        if missing:
            held = ", ".join(str(layer.band) for layer in layers)
            raise ValueError(f"{self.name}: no band {', '.join(missing)}; the source holds {held}.")
        return [by_name[band] for band in wanted]

    def _set_grid(self, resolution: float | None) -> None:
        """Choose the output grid: the finest of the source, so that it does not depend on which bands are asked for."""
        finest = min(self._files.product.layers, key=lambda layer: BANDS[layer.band].resolution if layer.band else 0)
        paths = dict.fromkeys([finest.path, *(layer.path for layer in self._layers)])
        reference = min(map(self._files.open, paths), key=lambda dataset: abs(dataset.transform.determinant))
        self.crs, self.transform = reference.crs, reference.transform
        self.width, self.height = reference.width, reference.height
        if self.crs is None:
            return
        sampling = math.sqrt(abs(self.transform.determinant))
        if self.crs.is_projected:
            sampling *= self.crs.linear_units_factor[1]
        else:
            latitude = (self.transform * (self.width / 2, self.height / 2))[1]
            sampling *= 111_320 * math.sqrt(max(math.cos(math.radians(latitude)), 0.01))
        if not 5 <= sampling <= 20:
            warnings.warn(
                f"{self.name}: ground sampling is {sampling:.3g} m, Sentinel-2's finest is 10 m.", stacklevel=2
            )
        if self.crs.is_projected and resolution is not None and abs(resolution / sampling - 1) > 0.01:
            factor = resolution / sampling
            self.transform *= Affine.scale(factor)
            self.width = math.ceil(self.width / factor - 1e-6)
            self.height = math.ceil(self.height / factor - 1e-6)

    def _open_mask(self, mask: Source, classes: Collection[int] | None) -> tuple[str, tuple[int, ...]]:
        """Return the path of the mask and the values that leave a pixel out."""
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
        return path, tuple(classes if classes is not None else SCL_EXCLUDED if is_scl else (0,))

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
        """The stored type where values are copied, float32 where they are computed."""
        computed = any(layer.gain not in (None, 1) or layer.offset for layer in self._layers)
        if computed or not all(self._is_on_grid(self._files.open(layer.path)) for layer in self._layers):
            return np.dtype(np.float32)
        return np.result_type(*(self._files.open(layer.path).dtypes[layer.index - 1] for layer in self._layers))

    def _read(
        self, path: str, indexes: list[int], view: "_View", nearest: bool = False
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Read bands of one file on the view.

        Returns:
            Values, interpolated where the grids differ (C, H, W); the nearest stored values (C, H, W), which tell
            nodata; and which pixels the file covers (H, W).
        """
        dataset = self._files.open(path)
        shape = (view.height, view.width)
        flags = dataset.mask_flag_enums[0]
        alpha = alpha_band(dataset)
        masked = MaskFlags.per_dataset in flags and (alpha is not None or MaskFlags.alpha not in flags)
        if self._is_on_grid(dataset):
            stored = dataset.read(indexes, window=view.window, out_shape=(len(indexes), *shape))
            covered = np.ones(shape, bool)
            if masked:
                covered = dataset.read_masks(indexes[0], window=view.window, out_shape=shape) > 0
            return stored, stored, covered
        if dataset.crs is None or self.crs is None:
            raise ValueError(
                f"{self.name}: {os.path.basename(path)} has {dataset.height} x {dataset.width} px beside {self.height} "
                f"x {self.width} px, and without a reference system nothing says how they overlap."
            )
        target = {"crs": self.crs, "transform": view.transform, "height": view.height, "width": view.width}
        # Exact to well below a pixel; 0 would select no transformer at all.
        target["tolerance"] = 1e-6
        # Here NaN means that no value is nodata, so that what is stored comes out and alpha tells the extent.
        extent = {"src_nodata": math.nan, "add_alpha": True}
        if masked and alpha is not None:
            extent = {"src_nodata": math.nan, "src_alpha": alpha, "add_alpha": True}
        with WarpedVRT(dataset, resampling=Resampling.nearest, **target, **extent) as warped:
            stored = warped.read(indexes)
            covered = warped.read(warped.count) > 0
        if nearest or view.decimated:
            return stored, stored, covered
        coarser = abs(dataset.transform.determinant) > 0.99 * abs(self.transform.determinant)
        resampling = Resampling.bilinear if coarser else Resampling.average
        # Zeros beyond the swath are seldom declared, and must not be mixed into the pixels beside them either.
        nodata = dataset.nodatavals[indexes[0] - 1] or 0
        with WarpedVRT(
            dataset, resampling=resampling, dtype="float32", src_nodata=nodata, nodata=0, **target
        ) as warped:
            return warped.read(indexes), stored, covered

    def _empty(self, view: "_View", empty: np.ndarray) -> np.ndarray:
        """Narrow the pixels that are 0 in all bands asked for down to those that are 0 in all bands of the source."""
        others = [layer for layer in self._files.product.layers if not any(_same(layer, read) for read in self._layers)]
        for path, positions in _by_path(others).items():
            if not empty.any():
                break
            _, stored, _ = self._read(path, [others[position].index for position in positions], view, nearest=True)
            empty = empty & (stored == 0).all(0)
        return empty

    def _is_on_grid(self, dataset: Any) -> bool:
        if (dataset.height, dataset.width) != (self.height, self.width):
            return False
        if dataset.crs is None or self.crs is None:
            return True
        precision = 1e-3 * math.sqrt(abs(self.transform.determinant))
        return dataset.crs == self.crs and dataset.transform.almost_equals(self.transform, precision)

    def _checked(self, window: "Window | tuple[int, int, int, int] | None") -> "Window":
        if window is None:
            return Window(0, 0, self.width, self.height)
        numbers = window.flatten() if isinstance(window, Window) else tuple(window)
        column, row, width, height = (int(number) for number in numbers)
        inside = min(column, row) >= 0 and column + width <= self.width and row + height <= self.height
        if (column, row, width, height) != numbers or width < 1 or height < 1 or not inside:
            raise ValueError(
                f"{self.name}: expected a window of whole pixels (column, row, width, height) within {self.width} x "
                f"{self.height} px, found {numbers}."
            )
        return Window(column, row, width, height)

    def _check_size(self, view: "_View") -> None:
        needed = len(self._layers) * view.height * view.width * self._dtype.itemsize
        what = (
            f"{self.name}: {len(self._layers)} bands of {view.width} x {view.height} px take {needed / 2**30:.1f} GiB"
        )
        if needed > self._max_bytes:
            limit = f"{self._max_bytes / 2**30:.1f} GiB"
            raise ValueError(
                f"{what}, more than `max_bytes` ({limit}): read windows, or a decimated image (`out_shape`)."
            )
        stored = sum(stored_bytes(path) for path in _by_path(self._layers))
        if needed > 2**28 and needed > 2000 * stored and not view.decimated:
            raise ValueError(f"{what}, but it holds {stored} bytes: the file is truncated or damaged.")


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
    pixels = pixels[None] if pixels.ndim == 2 else pixels
    if pixels.ndim != 3 or 0 in pixels.shape:
        raise ValueError(f"{path}: expected pixels (C, H, W) or (H, W), none of them 0, found {pixels.shape}.")
    if bands is not None and len(bands) != len(pixels):
        raise ValueError(f"{path}: got {len(bands)} band names for {len(pixels)} bands.")
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
    finally:
        if os.path.exists(temporary):
            os.remove(temporary)


@dataclass(frozen=True)
class _View:
    """What is read: a window of the output grid, at a shape of its own."""

    window: "Window"
    height: int
    width: int
    transform: "Affine"

    @property
    def decimated(self) -> bool:
        return (self.height, self.width) != (self.window.height, self.window.width)


def _by_path(layers: list[Layer]) -> dict[str, list[int]]:
    """Positions of the layers of each file, so that a file is read once."""
    groups: dict[str, list[int]] = {}
    for position, layer in enumerate(layers):
        groups.setdefault(layer.path, []).append(position)
    return groups


def _same(one: Layer, other: Layer) -> bool:
    return (one.path, one.index) == (other.path, other.index)


def _apply_offset(
    name: str, layers: list[Layer], offset: float | Sequence[float] | Mapping[str, float] | None
) -> list[Layer]:
    if offset is None:
        return layers
    if isinstance(offset, Mapping):
        by_name = dict(zip(resolve_bands(offset), offset.values()))
        offsets = [by_name.get(str(layer.band), layer.offset) for layer in layers]
    else:
        offsets = list(offset) if isinstance(offset, Sequence) else [offset] * len(layers)
    if len(offsets) != len(layers) or not all(value is None or math.isfinite(value) for value in offsets):
        raise ValueError(f"{name}: expected a finite `offset`, one or {len(layers)} for the bands, found {offset}.")
    return [replace(layer, offset=value if value is None else float(value)) for layer, value in zip(layers, offsets)]


def _join_numbers(numbers: Sequence[float]) -> str:
    texts = [f"{number:g}" for number in numbers]
    return texts[0] if len(set(texts)) == 1 else ",".join(texts)
