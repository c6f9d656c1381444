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
"""The files of a source: opened by content, kept open together, and listed band by band."""

import hashlib
import math
import os
import re
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TypeAlias

import numpy as np

from .bands import SENTINEL_2, Sensor, find_band
from .file_bands import name_bands, table_radiometry
from .file_states import name_of_file, state_of_file
from .identification import contradicts, sensor_of_files, sensor_of_tags
from .matching import OF_SENTINEL_2, Matching, match_tags
from .notices import warn
from .products import (
    SAFE_METADATA,
    Layer,
    Offset,
    Product,
    linear,
    offsets_per_band,
    read_folder,
    unstated_offset,
)
from .stac_assets import JsonObject, StacItem, is_stac_item, read_stac_file, read_stac_item
from .untrusted import Budget, driver_of, refuse_references


try:
    import rasterio
    from rasterio.enums import ColorInterp, Interleaving
    from rasterio.env import env_ctx_if_needed, getenv, hasenv
    from rasterio.io import DatasetReader, MemoryFile
except ImportError:
    rasterio = None


# A file that declares more than `CHECKED_BYTES` must have at least one byte for each `LARGEST_COMPRESSION` of them.
CHECKED_BYTES, LARGEST_COMPRESSION = 2**28, 1000

# Settings of GDAL while a file is opened, in seconds and bytes. By default GDAL waits for a stalled server forever.
NETWORK_DEFAULTS = {
    "GDAL_HTTP_CONNECTTIMEOUT": "10",
    "GDAL_HTTP_TIMEOUT": "60",
    "GDAL_HTTP_LOW_SPEED_TIME": "15",
    "GDAL_HTTP_LOW_SPEED_LIMIT": "1000",
    "GDAL_HTTP_MAX_RETRY": "3",
    "GDAL_HTTP_RETRY_DELAY": "1",
}

Source: TypeAlias = str | os.PathLike[str] | bytes | bytearray | memoryview | JsonObject | StacItem


@dataclass(frozen=True)
class OpenFile:
    """An open file and its metadata by band. They are cached, because rasterio asks GDAL for all bands at each access.

    Attributes:
        dataset: The file.
        descriptions: Description of each band.
    """

    dataset: "DatasetReader"
    descriptions: tuple[str | None, ...]

    @cached_property
    def alpha(self) -> int | None:
        """Index of the alpha band, which only marks valid pixels; None if there is none."""
        for index, interpretation, name in zip(self.dataset.indexes, self.dataset.colorinterp, self.descriptions):
            # GDAL declares four bands of 8 bits as RGBA by default. A spectral name shows that it is none.
            if interpretation == ColorInterp.alpha and not find_band(name or ""):
                return index
        return None

    @cached_property
    def scales(self) -> tuple[float, ...]:
        """Scale of each band; 1 if there is none."""
        return self.dataset.scales

    @cached_property
    def offsets(self) -> tuple[float, ...]:
        """Offset of each band; 0 if there is none."""
        return self.dataset.offsets

    @cached_property
    def nodata(self) -> tuple[float | None, ...]:
        """Nodata value of each band."""
        return self.dataset.nodatavals

    @cached_property
    def tags(self) -> dict[str, str]:
        """Tags of the file, and those of the domain `IMAGERY`, in which GDAL's drivers name the satellite."""
        return {**self.dataset.tags(ns="IMAGERY"), **self.dataset.tags()}


class Files:
    """The open files of one source.

    Args:
        source: As in `open_raster`.
        band_names: Names of the bands of a file or array, in its order. They replace the names in the file.
        budget: Limits of reading; None for no limit.
        matching: The expected sensor, and whether another one is matched to it.

    Attributes:
        name: Name of the source in messages.
        product: The layers of the source, whose bands have the names of `sensor`.
        sensor: Sensor of the source, or the expected one if bands were matched to it by wavelength.
        finest: The layer of the finest resolution, whose grid all bands have by default.
        notes: Tags that state where the radiometry comes from, after `describe` was called.
    """

    def __init__(
        self,
        source: Source,
        band_names: Sequence[str] | None,
        budget: Budget | None = None,
        matching: Matching = OF_SENTINEL_2,
    ) -> None:
        self.name = _name(source)
        self.matching = matching
        self.notes: dict[str, str] = {}
        # Bytes may come from strangers, so that they have a budget even if the caller sets none.
        self.budget = Budget() if budget is None and isinstance(source, bytes | bytearray | memoryview) else budget
        self._are_named = band_names is not None
        self._files: dict[str, OpenFile] = {}
        self._held: dict[str, bytes] = {}
        self._decoded = 0
        with ExitStack() as self._stack, named_errors(self.name):
            self.finest = (product := self._resolve(source, band_names)).finest
            self.product, self.sensor = self._match(product)
            # From here on the files stay open until `close`.
            self._stack = self._stack.pop_all()

    def close(self) -> None:
        """Close all files."""
        self._stack.close()

    def open(self, path: str) -> OpenFile:
        """Return the open file of a path.

        Raises:
            ValueError: If the file refers to other files although its bytes are not trusted, exceeds the budget, or
                declares more than it can hold.
        """
        if path not in self._files:
            file = self._open_held(path) if path in self._held else self._open_path(path)
            dataset = file.dataset
            if any(dtype.startswith("complex") for dtype in dataset.dtypes):
                raise ValueError(f"{self.name}: expected real numbers, found complex ones.")
            budget = self.budget or (Budget() if path in self._held else None)
            if budget is not None:
                self._decoded += budget.check_file(self.name, dataset)
                budget.check_bytes(self.name, self._decoded)
            # GDAL reads whole blocks, and may allocate one before it finds that the file is too short.
            together = dataset.count if dataset.interleaving == Interleaving.pixel else 1
            sizes = [h * w * np.dtype(dtype).itemsize for (h, w), dtype in zip(dataset.block_shapes, dataset.dtypes)]
            self.check_size(path, max(sizes, default=0) * together, "blocks")
            self._files[path] = file
        return self._files[path]

    def check_size(self, path: str, declared: float, what: str) -> None:
        """Refuse a file that declares far more than it can hold.

        Raises:
            ValueError: If `declared` bytes are many, and more than any compression makes of the file's size.
        """
        stored = self._stored_bytes(path)
        if declared > CHECKED_BYTES and declared > LARGEST_COMPRESSION * stored:
            raise ValueError(
                f"{self.name}: declares {what} of {declared / 2**20:.0f} MiB, but holds {stored} bytes: truncated or "
                "damaged."
            )

    def hold(self, content: bytes) -> str:
        """Keep bytes in memory, in a folder of their own, and return the path under which GDAL finds them.

        Raises:
            ValueError: If they are neither a TIFF nor a JPEG 2000.
        """
        driver_of(content, self.name)
        path = self._stack.enter_context(MemoryFile(content, filename=getattr(content, "name", None))).name
        self._held[path] = content
        return path

    def describe(self, layers: list[Layer], offset: Offset | None = None, nodata: float | None = None) -> list[Layer]:
        """Add gain, offset and nodata to layers of the product, from their files or from the caller.

        Args:
            layers: The layers that are read.
            offset: As in `open_raster`. It replaces the offset in files and metadata.
            nodata: Stored value that means no data. It replaces the value in files and metadata.

        Raises:
            ValueError: If a file is of another sensor, its scale cannot be applied, or the offset does not fit.
        """
        described = [self._describe(layer, nodata) for layer in layers]
        source = self.product.layers
        if offset is None:
            warning = unstated_offset(self.product, described) if source[0].band is not None else None
            if warning is not None:
                warn(warning)
            return described
        stated = {(layer.path, layer.index, layer.band): layer.offset for layer in (*source, *described)}
        bands = [layer.band for layer in source]
        added = offsets_per_band(self.name, offset, bands, list(stated.values()), self.sensor)
        by_layer = dict(zip(stated, added))
        return [replace(layer, offset=by_layer[layer.path, layer.index, layer.band]) for layer in described]

    def _describe(self, layer: Layer, nodata: float | None) -> Layer:
        file, position = self.open(layer.path), layer.index - 1
        if layer.band is not None and not self._are_named:
            self._check_tags(file.tags, layer.path)
        gain, offset, by_table = layer.gain, layer.offset, None
        scale, added, sensor = file.scales[position], file.offsets[position], self.product.sensor
        if gain is None and (scale, added) != (1, 0):
            gain, stated = linear(scale, added, self.name)
            offset = stated if offset is None else offset
        elif gain is None and layer.band is not None and not file.dataset.dtypes[position].startswith("float"):
            by_table = table_radiometry(sensor, layer.path, self.matching.sensor is not None)
        if by_table is not None:
            gain, stated = by_table
            offset = stated if offset is None else offset
            self.notes["radiometry"] = f"{sensor}: reflectance = stored x {sensor.scale:g} + {sensor.offset:g}"
        if nodata is None:
            # A file's nodata of 0 is ignored for single bands, in which 0 may be measured: pixels with 0 in all bands
            # are taken as nodata anyway.
            nodata = layer.nodata if layer.nodata is not None else file.nodata[position] or None
            nodata = sensor.nodata if nodata is None and layer.band is not None else nodata
        return replace(layer, gain=gain, offset=offset, nodata=nodata)

    def _check_tags(self, tags: Mapping[str, str], path: str) -> None:
        """Refuse a file whose tags state another sensor than the product's, unless the caller or a name stated it."""
        stated = sensor_of_tags(tags)
        is_settled = self.matching.sensor is not None or sensor_of_files([self.name, path]) is not None
        if stated is None or is_settled or not contradicts(stated, self.product.sensor):
            return
        if self.matching.match:
            raise ValueError(f"{self.name}: the tags state {stated}: pass `sensor='{stated.name}'`.")
        Matching(self.product.sensor).sensor_of(stated, self.name)

    def _match(self, product: Product) -> tuple[Product, Sensor]:
        """Match the bands of another sensor to the expected ones; return the product and the sensor of its names."""
        bands = [layer.band or "unnamed" for layer in product.layers]
        served = self.matching.serve(product.sensor, bands, self.name)
        if served is None:
            own = {} if product.sensor.name == SENTINEL_2.name else {"sensor": str(product.sensor)}
            return replace(product, tags=product.tags | own), product.sensor
        layers = [replace(product.layers[number], band=band) for band, number in served.items()]
        tags = product.tags | match_tags(product.sensor, bands, served)
        return replace(product, layers=layers, tags=tags), self.matching.expected

    def identity(self) -> list[tuple[str, str]]:
        """Return each file of the source, with a text that changes with its content: see `RasterReader.identity`.

        Raises:
            ValueError: If a file no longer exists, or its server does not answer.
        """
        with named_errors(self.name):
            states: dict[str, str] = {}
            if os.path.isfile(self.name):
                self._identify(self.name, states)
            for path, file in self._files.items():
                for part in dict.fromkeys([path, *file.dataset.files]):
                    self._identify(part, states)
        return sorted(states.items())

    def _identify(self, path: str, states: dict[str, str]) -> None:
        name = name_of_file(path)
        if path in self._held:
            states[self.name] = hashlib.sha256(self._held[path]).hexdigest()
        elif name not in states and not name.startswith("/vsimem/"):
            states[name] = state_of_file(path, _settings(), float(NETWORK_DEFAULTS["GDAL_HTTP_CONNECTTIMEOUT"]))
            if name.lower().endswith(".vrt") and os.path.isfile(name) and name not in self._files:
                with rasterio.open(name) as dataset:
                    for part in dataset.files:
                        self._identify(part, states)

    def _open_path(self, path: str) -> OpenFile:
        if self.budget is not None:
            self.budget.check_time(self.name)
        set_already = _settings()
        with rasterio.Env(**{key: value for key, value in NETWORK_DEFAULTS.items() if key not in set_already}):
            dataset = self._stack.enter_context(rasterio.open(path))
        return OpenFile(dataset, dataset.descriptions)

    def _open_held(self, path: str) -> OpenFile:
        """Open bytes with the driver of their format, and without following references to other files."""
        if self.budget is not None:
            self.budget.check_time(self.name)
        driver = driver_of(self._held[path], self.name)
        options = {"driver": driver, "sharing": False, "GEOREF_SOURCES": "INTERNAL"}
        dataset = self._stack.enter_context(rasterio.open(path, **options))
        refuse_references(dataset, self.name)
        descriptions = dataset.descriptions
        if driver == "GTiff" and dataset.count and dataset.overviews(1):
            # Overviews of a TIFF are images of their own, of any size, that are not checked here. With this option GDAL
            # ignores them, and also the descriptions. The levels of a JPEG 2000 are part of its only image.
            dataset = self._stack.enter_context(rasterio.open(path, OVERVIEW_LEVEL="NONE", **options))
        return OpenFile(dataset, descriptions)

    def _resolve(self, source: Source, band_names: Sequence[str] | None) -> Product:
        """Find out by content what kind of source it is, and list its layers."""
        if is_stac_item(source):
            item = source if isinstance(source, Mapping) else source.to_dict()
            return read_stac_item(item, self.name, "", self.matching)
        if isinstance(source, bytes | bytearray | memoryview):
            return self._resolve_raster(self.hold(source if isinstance(source, bytes) else bytes(source)), band_names)
        if not isinstance(source, str | os.PathLike):
            raise ValueError(f"Expected a path, bytes or a STAC item, found {type(source).__name__}.")
        path = self.name
        if is_remote(path):
            return self._resolve_raster(path, band_names)
        if not os.path.exists(path):
            raise FileNotFoundError(f"{path}: no such file or folder.")
        if os.path.isdir(path):
            return read_folder(path, self.matching)
        if not os.path.isfile(path):
            raise ValueError(f"{path}: expected a file or a folder.")
        with open(path, "rb") as file:
            start = file.read(512)
        if start.startswith(b"\x93NUMPY"):
            if band_names is None:
                raise ValueError(f"{path}: an .npy array names no bands: pass `band_names`, in the array's order.")
            return self._resolve_raster(self._hold_array(path), band_names)
        if zipfile.is_zipfile(path):
            return read_folder(path, self.matching)
        if start.lstrip().startswith(b"{"):
            return read_stac_file(path, self.matching)
        if SAFE_METADATA.search(path):
            return read_folder(os.path.dirname(path) or ".", self.matching)
        return self._resolve_raster(path, band_names)

    def _resolve_raster(self, path: str, band_names: Sequence[str] | None) -> Product:
        """List the bands of one file, named by the caller, by its descriptions, or by their count."""
        file = self.open(path)
        indexes = [index for index in file.dataset.indexes if index != file.alpha]
        if not indexes:
            inner = file.dataset.subdatasets
            parts = f"; pass one of its parts: {', '.join(inner)}" if inner else ""
            raise ValueError(f"{self.name}: expected a raster, found no bands{parts}.")
        sensor, found = name_bands(
            self.name, file.dataset, file.descriptions, file.tags, indexes, band_names, self.matching
        )
        twice = [band for band in dict.fromkeys(found) if band and found.count(band) > 1]
        if twice:
            raise ValueError(
                f"{self.name}: {', '.join(twice)} occurs more than once: pass `band_names`, or a file of one date."
            )
        # In a file with named bands, the unnamed ones are quality layers.
        layers = [Layer(path, index, band) for index, band in zip(indexes, found) if band or not any(found)]
        tags = {key: value for key, value in file.dataset.tags().items() if key != "AREA_OR_POINT"}
        harmonised = tags.get("boa_offset_applied", "").lower() == "true"
        return Product(self.name, layers, tags=tags, is_harmonised=harmonised, sensor=sensor)

    def _stored_bytes(self, path: str) -> float:
        """Return the size of a file in bytes, or infinity if it is not a local file."""
        if path in self._held:
            return len(self._held[path])
        path = name_of_file(path)
        return os.path.getsize(path) if os.path.isfile(path) else math.inf

    def _hold_array(self, path: str) -> str:
        """Keep an `.npy` file in memory as a TIFF, so that arrays are read as files are."""
        try:
            array = np.load(path, mmap_mode="r", allow_pickle=False)
        except (ValueError, OSError, EOFError, SyntaxError) as error:
            raise ValueError(f"{path}: cannot be read as an .npy array ({error}).") from error
        if array.ndim != 3 or 0 in array.shape or array.dtype.kind not in "uif":
            raise ValueError(f"{path}: expected a numeric array (C, H, W), found {array.dtype} {array.shape}.")
        array = array.astype(np.float32) if array.dtype == np.float16 else array
        count, height, width = array.shape
        memory = self._stack.enter_context(MemoryFile())
        with memory.open(driver="GTiff", count=count, height=height, width=width, dtype=array.dtype.name) as dataset:
            dataset.write(array)
        return memory.name


@contextmanager
def named_errors(name: str) -> Iterator[None]:
    """Convert all errors about a file to a `ValueError` that names the source."""
    try:
        with env_ctx_if_needed():  # without rasterio's environment, which logs them, GDAL prints its warnings
            yield
    except (rasterio.errors.RasterioError, rasterio._err.CPLE_BaseError, OSError, MemoryError, ValueError) as error:
        if isinstance(error, FileNotFoundError) or (isinstance(error, ValueError) and name in str(error)):
            raise
        raise ValueError(
            f"{name}: cannot be read as a raster; expected a GeoTIFF or another format of rasterio "
            f"({error.__cause__ or error})."
        ) from error


def is_remote(path: str) -> bool:
    """Return whether only GDAL can find out if a path exists: `/vsicurl/...`, `s3://...`, a subdataset."""
    return re.match(r"/vsi|[A-Za-z][A-Za-z0-9+_]+:", path) is not None


def _name(source: Source) -> str:
    if is_stac_item(source):
        return f"STAC item {(source.get('id', '') if isinstance(source, Mapping) else source.id)!r}"
    if isinstance(source, bytes | bytearray | memoryview):
        return getattr(source, "name", f"raster of {len(source)} bytes")
    return os.fspath(source) if isinstance(source, str | os.PathLike) else type(source).__name__


def _settings() -> dict[str, str]:
    """Return the settings of GDAL, from the environment and from `rasterio.Env`."""
    return {**os.environ, **({key.upper(): str(value) for key, value in getenv().items()} if hasenv() else {})}
