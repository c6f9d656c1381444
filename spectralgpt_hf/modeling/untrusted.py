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
"""Limits for sources that are not trusted: their driver, references to other files, and the cost of reading.

A source that the caller names by path is trusted. Bytes are not, because they come from strangers, and many of GDAL's
hundred drivers follow references to other files and to the network.
"""

import math
import os
import subprocess
import sys
import time
from dataclasses import dataclass

import numpy as np


try:
    import rasterio
    from rasterio.io import DatasetReader
except ImportError:
    rasterio = None


# TIFF and BigTIFF in both byte orders, JPEG 2000 in its container and as a bare code stream.
DRIVERS = {
    b"II*\0": "GTiff",
    b"MM\0*": "GTiff",
    b"II+\0": "GTiff",
    b"MM\0+": "GTiff",
    b"\0\0\0\x0cjP  ": "JP2OpenJPEG",
    b"\xff\x4f\xff\x51": "JP2OpenJPEG",
}

# Metadata domains of a TIFF whose items GDAL follows: external overviews, overviews elsewhere, geolocation arrays.
_REFERRING_DOMAINS = {"OVERVIEWS", "PROXYOVERVIEWREQUEST", "GEOLOCATION"}


class NamedBytes(bytes):
    """Bytes of a file whose name is known, which messages state and which may indicate the sensor.

    Attributes:
        name: Name of the file, without its folder. No file of this name is opened.
    """

    def __new__(cls, content: bytes, name: str) -> "NamedBytes":
        named = super().__new__(cls, content)
        named.name = os.path.basename(name)
        return named

    name: str


@dataclass(frozen=True)
class Budget:
    """Limits of the cost of reading a source that is not trusted.

    Attributes:
        pixels: Largest number of pixels of a file, height x width. The default admits a Sentinel-2 tile at 10 m.
        bands: Largest number of bands of a file.
        decoded_bytes: Largest number of bytes that all files of the source decode to, and that one read returns.
        deadline: Time at which reading must have ended, on the clock of `time.monotonic`. It is checked before a file
            is opened and between strips of pixels.
    """

    pixels: int = 2**27
    bands: int = 256
    decoded_bytes: int = 2**32
    deadline: float = math.inf

    @classmethod
    def for_seconds(cls, seconds: float, **limits: int) -> "Budget":
        """Return a budget with a deadline `seconds` from now."""
        return cls(deadline=time.monotonic() + seconds, **limits)

    def check_time(self, name: str) -> None:
        """Raise a `ValueError` if the deadline has passed.

        Args:
            name: Name of the source in the message.
        """
        if time.monotonic() > self.deadline:
            raise ValueError(f"{name}: reading took longer than its time limit (`deadline`): pass a smaller raster.")

    def check_file(self, name: str, dataset: "DatasetReader") -> int:
        """Return the bytes that an open file decodes to.

        Raises:
            ValueError: If the file declares more pixels, bands or bytes than the budget allows.
        """
        if dataset.count > self.bands:
            raise ValueError(f"{name}: holds {dataset.count} bands, more than the limit of {self.bands} (`bands`).")
        height, width = dataset.shape
        if height * width > self.pixels:
            raise ValueError(
                f"{name}: holds {width} x {height} px, more than the limit of {self.pixels} pixels (`pixels`)."
            )
        decoded = 0
        for (block_height, block_width), dtype in zip(dataset.block_shapes, dataset.dtypes):
            rows, columns = math.ceil(height / block_height), math.ceil(width / block_width)
            decoded += rows * columns * block_height * block_width * np.dtype(dtype).itemsize
        return decoded

    def check_bytes(self, name: str, decoded: int) -> None:
        """Raise a `ValueError` if the files of a source decode to more than the budget allows."""
        if decoded > self.decoded_bytes:
            raise ValueError(
                f"{name}: decodes to {decoded / 2**20:.0f} MiB, more than the limit of "
                f"{self.decoded_bytes / 2**20:.0f} MiB (`decoded_bytes`)."
            )


def driver_of(content: bytes, name: str) -> str:
    """Return the name of the only GDAL driver that may open these bytes.

    Raises:
        ValueError: If they are neither a TIFF nor a JPEG 2000.
    """
    for signature, driver in DRIVERS.items():
        if content.startswith(signature):
            return driver
    raise ValueError(f"{name}: expected the bytes of a TIFF or JPEG 2000, found {content[:8]!r}...")


def refuse_references(dataset: "DatasetReader", name: str) -> None:
    """Refuse a file that names other files, before GDAL opens those.

    Raises:
        ValueError: If its metadata or its reference system name other files.
    """
    domains = [domain for domain in dataset.tag_namespaces() if domain.upper() in _REFERRING_DOMAINS]
    # PROJ opens the grids of a datum shift by name.
    grids = dataset.crs is not None and "grids=" in dataset.crs.to_wkt()
    if domains or grids:
        where = f"metadata ({', '.join(domains)}) name" if domains else "reference system names"
        raise ValueError(f"{name}: its {where} other files, which is not allowed in bytes: pass a file without them.")


def restrict_gdal(drivers: tuple[str, ...] = ("GTiff", "COG", "JP2OpenJPEG", "MEM")) -> None:
    """Restrict GDAL to some drivers, without network and side files, in this process and its children.

    A process that serves strangers must call this before it opens a raster, because GDAL registers its drivers once.
    The restriction is set by environment variables, which processes started later inherit. GDAL registers its VRT
    driver again when it resamples. VRTs in bytes are refused nevertheless, because `open_raster` opens bytes with one
    driver only.

    Args:
        drivers: Names of the drivers to keep.

    Raises:
        RuntimeError: If GDAL has registered its drivers already.
    """
    # All drivers are listed by a process without restrictions, because the environment may leave some out already.
    listing = "import rasterio\nwith rasterio.Env() as env: print(*env.drivers(), sep=',')"
    everything = {key: value for key, value in os.environ.items() if key != "GDAL_SKIP"}
    command = [sys.executable, "-c", listing]
    names = subprocess.run(command, env=everything, capture_output=True, text=True, check=True).stdout.strip()
    os.environ |= {
        "GDAL_SKIP": ",".join(name for name in names.split(",") if name not in drivers),
        "GDAL_DISABLE_READDIR_ON_OPEN": "EMPTY_DIR",
        "GDAL_PAM_ENABLED": "NO",
        "PROJ_NETWORK": "OFF",
        # All network file systems of GDAL may open only this name. Requests that bypass the check go to a proxy that
        # does not exist.
        "CPL_VSIL_CURL_ALLOWED_FILENAME": "none",
        "GDAL_HTTP_PROXY": "127.0.0.1:9",
    }
    with rasterio.Env() as env:
        left = sorted(set(env.drivers()) - set(drivers))
    if left:
        raise RuntimeError(
            f"GDAL has registered {len(left)} other drivers already ({', '.join(left[:3])}, ...): call `restrict_gdal` "
            "before the first raster is opened."
        )
