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
"""The files behind a source: opened by content, kept open together, and listed band by band."""

import math
import os
import re
import warnings
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from typing import Any, TypeAlias

import numpy as np

from .bands import BANDS, bands_from_count, find_band, resolve_bands
from .products import Layer, Product, linear, read_folder, read_stac_file, read_stac_item


try:
    import rasterio
    from rasterio.enums import ColorInterp, Interleaving
    from rasterio.io import MemoryFile
except ImportError:
    rasterio = None

# From this size on a file must be large enough for what it declares: no image is compressed better.
CHECKED_BYTES = 2**28
LARGEST_COMPRESSION = 1000

_IMAGE_SIGNATURES = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+", b"\0\0\0\x0cjP  ", b"\xff\x4f\xff\x51")

Source: TypeAlias = str | os.PathLike[str] | bytes | Mapping[str, Any]


class Files:
    """The open files of one source.

    Args:
        source: As in `open_raster`.
        band_names: What a file or array holds, in its order, in place of what it says itself.

    Attributes:
        name: The source, as messages call it.
        product: Its layers.
    """

    def __init__(self, source: Source, band_names: Sequence[str] | None) -> None:
        self.name = _name(source)
        self._datasets: dict[str, Any] = {}
        self._sizes: dict[str, int] = {}
        with ExitStack() as self._stack, named_errors(self.name):
            self.product = self._resolve(source, band_names)
            # From here on the files stay open until `close`.
            self._stack = self._stack.pop_all()

    def close(self) -> None:
        """Close all files."""
        self._stack.close()

    def open(self, path: str) -> Any:
        """Return the rasterio dataset of a path."""
        if path not in self._datasets:
            dataset = self._stack.enter_context(rasterio.open(path))
            # GDAL reads whole blocks, and may allocate one before it finds that the data end.
            together = dataset.count if dataset.interleaving == Interleaving.pixel else 1
            for (height, width), dtype in zip(dataset.block_shapes, dataset.dtypes):
                self.check_size(path, height * width * together * np.dtype(dtype).itemsize, "blocks")
            self._datasets[path] = dataset
        return self._datasets[path]

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
        """Return a path under which GDAL finds these bytes."""
        # Bytes come from strangers, and many other formats can refer to files and networks.
        if not content.startswith(_IMAGE_SIGNATURES):
            raise ValueError(f"{self.name}: expected the bytes of a TIFF or JPEG 2000, found {content[:8]!r}...")
        path = self._stack.enter_context(MemoryFile(content)).name
        self._sizes[path] = len(content)
        return path

    def describe(self, layer: Layer) -> Layer:
        """Add what the file itself says of its radiometry and nodata to what the product's metadata say.

        Raises:
            ValueError: If it holds complex numbers, or its scale cannot be applied.
        """
        dataset, position = self.open(layer.path), layer.index - 1
        if dataset.dtypes[position].startswith("complex"):
            raise ValueError(f"{self.name}: expected real numbers, found {dataset.dtypes[position]}.")
        gain, offset, nodata = layer.gain, layer.offset, layer.nodata
        scale, added = dataset.scales[position], dataset.offsets[position]
        if gain is None and (scale, added) != (1, 0):
            gain, stated = linear(scale, added, self.name)
            offset = stated if offset is None else offset
        # A nodata of 0 says nothing about one band alone: there it may be a measurement.
        if nodata is None and dataset.nodatavals[position] != 0:
            nodata = dataset.nodatavals[position]
        return replace(layer, gain=gain, offset=offset, nodata=nodata)

    def _resolve(self, source: Source, band_names: Sequence[str] | None) -> Product:
        """Find out what the source is, by content, and list its layers."""
        if isinstance(source, Mapping):
            return read_stac_item(source, self.name)
        if isinstance(source, bytes | bytearray | memoryview):
            return self._resolve_raster(self.hold(bytes(source)), band_names)
        path = self.name
        if is_remote(path):
            return self._resolve_raster(path, band_names)
        if not os.path.exists(path):
            raise FileNotFoundError(f"{path}: no such file or folder.")
        if os.path.isdir(path):
            return read_folder(path)
        if not os.path.isfile(path):
            raise ValueError(f"{path}: expected a file or a folder.")
        with open(path, "rb") as file:
            start = file.read(512)
        if start.startswith(b"\x93NUMPY"):
            if band_names is None:
                raise ValueError(f"{path}: an .npy array names no bands: pass `band_names`, in the array's order.")
            return self._resolve_raster(self._hold_array(path), band_names)
        if zipfile.is_zipfile(path):
            return read_folder(path)
        if start.lstrip().startswith(b"{"):
            return read_stac_file(path)
        if re.search(r"MTD_(MSI|SAF)L(1C|2A).*\.xml$", path):
            return read_folder(os.path.dirname(path) or ".")
        return self._resolve_raster(path, band_names)

    def _resolve_raster(self, path: str, band_names: Sequence[str] | None) -> Product:
        """List the bands of one file, named by the caller, by its descriptions, or by their count."""
        dataset = self.open(path)
        indexes = [index for index in dataset.indexes if index != alpha_band(dataset)]
        if not indexes:
            parts = f"; pass one of its parts: {', '.join(dataset.subdatasets)}" if dataset.subdatasets else ""
            raise ValueError(f"{self.name}: expected a raster, found no bands{parts}.")
        found: Sequence[str | None] = [find_band(dataset.descriptions[index - 1] or "") for index in indexes]
        if band_names is not None:
            found = resolve_bands(band_names)
            if len(found) != len(indexes):
                raise ValueError(f"{self.name}: got {len(found)} band names for {len(indexes)} bands.")
        elif not any(found):
            assumed = bands_from_count(len(indexes))
            if assumed is not None:
                warnings.warn(
                    f"A file of {len(indexes)} bands without names: taken as {', '.join(assumed)}, in this order. If "
                    "that is wrong (EuroSAT stores B8A last), pass `band_names`.",
                    stacklevel=6,
                )
                found = assumed
        twice = [band for band in BANDS if found.count(band) > 1]
        if twice:
            raise ValueError(
                f"{self.name}: {', '.join(twice)} occurs more than once: pass the `names` of one date's bands."
            )
        # Beside named bands, others are quality layers.
        layers = [Layer(path, index, band) for index, band in zip(indexes, found) if band or not any(found)]
        return Product(self.name, layers, tags={k: v for k, v in dataset.tags().items() if k != "AREA_OR_POINT"})

    def _stored_bytes(self, path: str) -> float:
        """Return the size of the file behind a path, or infinity where only reading would tell."""
        zipped = re.match(r"/vsizip/\{(.*)\}/", path)
        path = zipped[1] if zipped else path
        return os.path.getsize(path) if os.path.isfile(path) else self._sizes.get(path, math.inf)

    def _hold_array(self, path: str) -> str:
        """Hold an `.npy` file as a TIFF, so that arrays take the same way as files."""
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
    """Turn whatever goes wrong with a file into a `ValueError` that names the source."""
    try:
        yield
    except (rasterio.errors.RasterioError, rasterio._err.CPLE_BaseError, OSError, MemoryError, ValueError) as error:
        if isinstance(error, FileNotFoundError) or (isinstance(error, ValueError) and name in str(error)):
            raise
        raise ValueError(
            f"{name}: cannot be read as a raster; expected a GeoTIFF or another format of rasterio "
            f"({error.__cause__ or error})."
        ) from error


def alpha_band(dataset: Any) -> int | None:
    """Return the index of the band that only says which pixels are valid."""
    for index, interpretation, name in zip(dataset.indexes, dataset.colorinterp, dataset.descriptions):
        # Four bands of 8 bits are often declared RGBA by default; a band's name says that it is none.
        if interpretation == ColorInterp.alpha and not find_band(name or ""):
            return index
    return None


def is_remote(path: str) -> bool:
    """Return whether only GDAL can say if a path exists: `/vsicurl/...`, `s3://...`, a subdataset."""
    return re.match(r"/vsi|[A-Za-z][A-Za-z0-9+_]+:", path) is not None


def _name(source: Source) -> str:
    if isinstance(source, Mapping):
        return f"STAC item {source.get('id', '')!r}"
    if isinstance(source, bytes | bytearray | memoryview):
        return f"raster of {len(source)} bytes"
    return os.fspath(source)
