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
"""Find the file of each band of a SAFE product or a folder of band files, and how its stored values become reflectance.

This module opens no raster.
"""

import math
import os
import re
import zipfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias
from xml.etree import ElementTree

import numpy as np

from .bands import L1C_BANDS, SENTINEL_2, Sensor
from .identification import sensor_of_files
from .matching import OF_SENTINEL_2, Matching


Offset: TypeAlias = float | Sequence[float] | Mapping[str, float]
"""Offset that is added to stored digital numbers: one number, one for each band of the source, or one by band name."""


SATURATED = 65535
"""Stored value of saturated pixels in products of 16 bits (SPECIAL_VALUE SATURATED)."""

FIRST_BASELINE_WITH_OFFSET = 4.0


@dataclass(frozen=True)
class Layer:
    """One band of one file.

    Attributes:
        path: Path that GDAL opens.
        index: Number of the band in the file, from 1.
        band: Canonical band name, or None.
        gain: Digital numbers (reflectance x 10000) = stored x gain + offset; None if only the file may state it.
        offset: See `gain`.
        nodata: Stored value that means no data in this band, or None if only the file may state it.
    """

    path: str
    index: int = 1
    band: str | None = None
    gain: float | None = None
    offset: float | None = None
    nodata: float | None = None


@dataclass(frozen=True)
class Product:
    """Files of one image.

    Attributes:
        name: Name in messages.
        layers: One layer for each band.
        scene_classification: Path of the SCL layer, or None.
        tags: Metadata: "date", "product", "processing_baseline".
        is_harmonised: Whether the metadata state that the offset has been applied to the pixels already.
        sensor: Sensor of the source, which decides how values are stored and how bands are named before matching.
    """

    name: str
    layers: list[Layer]
    scene_classification: str | None = None
    tags: dict[str, str] = field(default_factory=dict)
    is_harmonised: bool = False
    sensor: Sensor = SENTINEL_2

    @property
    def finest(self) -> Layer:
        """The layer of the finest resolution."""
        return min(self.layers, key=lambda layer: self.sensor.band(layer.band or "").resolution or 0)


def by_path(layers: Iterable[tuple[int, Layer]]) -> dict[str, list[tuple[int, Layer]]]:
    """Group numbered layers by file, so that each file is read once."""
    groups: dict[str, list[tuple[int, Layer]]] = {}
    for number, layer in layers:
        groups.setdefault(layer.path, []).append((number, layer))
    return groups


def read_folder(path: str, matching: Matching = OF_SENTINEL_2) -> Product:
    """List the bands of a SAFE product or of a folder with one file per band. Either may be zipped.

    A folder inside a SAFE, such as `IMG_DATA`, is read with the metadata of the product that contains it. The folders
    of SeasoNet, with one file for the bands of each resolution, are read too.

    Args:
        path: Folder or zip archive.
        matching: The expected sensor.

    Raises:
        ValueError: If no band is found, a band is found twice, the files are of another sensor, or the metadata of a
            SAFE are missing or damaged.
    """
    files, metadata = _list_zip(path) if os.path.isfile(path) else _list_folder(path)
    sensor = matching.sensor_of(SENTINEL_2 if metadata else sensor_of_files([path, *files]), path)
    if metadata is None and holds_band_groups(files):
        groups = {found[1]: file for file in files if (found := _BAND_GROUP.search(file))}
        grouped = {band: (groups[name], i) for name in groups for i, band in enumerate(_GROUPS[name], 1)}
        layers = [Layer(*grouped[band], band) for band in L1C_BANDS if band in grouped]
        return Product(path, layers)
    bands: dict[str, dict[int, list[str]]] = {}
    for file in files:
        found = _BAND_FILE.search(os.path.basename(file))
        layer = "SCL" if found and found["band"].upper() == "SCL" else sensor.find(found["band"]) if found else None
        if found and layer:  # panchromatic and thermal bands are files too
            bands.setdefault(layer, {}).setdefault(int(found["resolution"] or 0), []).append(file)
    finest = {}
    for band, resolutions in bands.items():
        candidates = resolutions[min(resolutions)]
        if len(candidates) > 1:
            both = " and ".join(sorted(os.path.basename(file) for file in candidates)[:2])
            raise ValueError(
                f"{path}: expected one file per band, but both {both} hold {band}. Pass one date's folder."
            )
        finest[band] = candidates[0]
    scene_classification = finest.pop("SCL", None)
    if not finest:
        raise ValueError(
            f"{path}: no band found. Expected a SAFE product, or files named after their band (..._B02.tif, B8A.jp2)."
        )
    names = [band for band in sensor.band_names if band in finest]
    if metadata is None:
        return Product(path, [Layer(finest[band], band=band) for band in names], scene_classification, sensor=sensor)
    quantification, offsets, tags = _parse_safe_metadata(path, metadata)
    unstated = [name for name in names if offsets and name not in offsets]
    if unstated:
        raise ValueError(f"{path}: the product's metadata state offsets, but none for {', '.join(unstated)}.")
    gain = 10000 / quantification
    layers = [Layer(finest[name], 1, name, gain, offsets.get(name, 0.0) * gain, nodata=0.0) for name in names]
    return Product(path, layers, scene_classification, tags)


def offsets_per_band(
    name: str,
    offset: Offset,
    band_names: Sequence[str | None],
    stated: Sequence[float | None] | None = None,
    sensor: Sensor = SENTINEL_2,
) -> tuple[float, ...]:
    """Return the offset of each band of a source, in digital numbers, from the caller's `offset`.

    Args:
        name: Name of the source in messages.
        offset: A number, one for each of `band_names`, or one for each band name.
        band_names: Names of all bands of the source, in its order.
        stated: Offset of each band in the metadata, which applies to bands that `offset` does not name.
        sensor: Sensor of the band names.

    Raises:
        ValueError: If a number is missing or not finite, or a band is unknown or named twice.
    """
    values: Any = offset
    if isinstance(offset, Mapping):
        by_name = dict(zip(sensor.resolve_all(offset), offset.values()))
        default = [value or 0.0 for value in stated] if stated is not None else [0.0] * len(band_names)
        values = [by_name.get(str(band), value) for band, value in zip(band_names, default)]
    try:
        offsets = np.broadcast_to(np.asarray(values, float), len(band_names)).tolist()
    except (TypeError, ValueError):
        offsets = [math.nan]
    if not all(map(math.isfinite, offsets)):
        raise ValueError(
            f"{name}: expected a finite `offset`: one number, one for each of the {len(band_names)} bands of the "
            f"source, or one for each band name; found {offset!r}."
        )
    return tuple(offsets)


def unstated_offset(product: Product, layers: Iterable[Layer]) -> str | None:
    """Return a warning if the baseline of a product has an offset and nothing states one, else None.

    Since baseline 04.00 (25 January 2022) products store reflectance x 10000 + 1000 (Sentinel-2 Products Specification
    Document). Baseline 99.99 marks reprocessed collections, from which the offset may have been removed.
    """
    is_other = product.sensor.name != SENTINEL_2.name
    if (
        is_other
        or product.is_harmonised
        or "offset" in product.tags
        or any(layer.offset is not None for layer in layers)
    ):
        return None
    in_name = re.search(r"_N(\d\d)(\d\d)_", f"{product.name} {product.tags.get('product', '')}")
    baseline = product.tags.get("processing_baseline") or (f"{in_name[1]}.{in_name[2]}" if in_name else "")
    digits = re.search(r"\d\d?\.\d+", baseline)
    if digits is None or not FIRST_BASELINE_WITH_OFFSET <= float(digits[0]) < 99:
        return None
    return (
        f"{product.name}: processing baseline {digits[0]} stores values with an offset of +1000, and nothing states "
        "whether these values still have it. They were not changed: pass `offset=-1000` to remove it, or `offset=0` if "
        "the values are harmonised."
    )


def linear(scale: float | str, offset: float | str, name: str) -> tuple[float, float]:
    """Return gain and offset to digital numbers from the usual pair, physical value = stored x scale + offset.

    With a scale, the physical value is a reflectance. Without one, the offset is in digital numbers.
    """
    try:
        gain, added = float(scale), float(offset)
    except (TypeError, ValueError):
        gain = added = math.nan
    if not math.isfinite(gain) or not math.isfinite(added) or gain == 0:
        raise ValueError(
            f"{name}: expected a finite scale other than 0 and a finite offset, found {scale} and {offset}."
        )
    return (1.0, added) if gain == 1 else (gain * 10000, added * 10000)


# SeasoNet (Kossmann et al., 2022): the bands of each file of a patch, in its order.
_GROUPS = {
    "10m_RGB": ("B4", "B3", "B2"),
    "10m_IR": ("B8",),
    "20m": ("B5", "B6", "B7", "B8A", "B11", "B12"),
    "60m": ("B1", "B9"),
}
_BAND_GROUP = re.compile(rf"_({'|'.join(_GROUPS)})\.tif$")


def holds_band_groups(files: Iterable[str]) -> bool:
    """Return whether these are the files of a patch of SeasoNet, which hold the bands of one resolution each."""
    return {found[1] for file in files if (found := _BAND_GROUP.search(file))} >= {"10m_RGB", "10m_IR", "20m"}


# "..._B02.tif", "B8A.jp2", "..._B05_20m.jp2", "..._B02_(Raw).tiff", "..._SR_B5.TIF": the band is near the end.
_BAND_FILE = re.compile(
    r"(?:^|(?<!ST)[_\-. ])(?P<band>B0?[1-9]|B1[0-2]|B0?8A|SCL)(?:_(?P<resolution>[1-6]0)m)?(?:_\(raw\))?"
    r"\.(?:tiff?|jp2|img|vrt)$",
    re.IGNORECASE,
)
# Including the names before 2016: S2A_OPER_MTD_SAFL1C_PDMC_....xml.
SAFE_METADATA = re.compile(r"(?:^|[_/])MTD_(?:MSI|SAF)L(?:1C|2A)[^/]*\.xml$", re.IGNORECASE)
_INSIDE_SAFE = re.compile(r"\.SAFE(?:[/\\]|$)|(?:^|[/\\])IMG_DATA(?:[/\\]|$)", re.IGNORECASE)
_WITHOUT_METADATA = (
    "{}: part of a SAFE product without its metadata, which state the offset: expected MTD_MSIL1C.xml or "
    "MTD_MSIL2A.xml beside the folder GRANULE. Pass the whole product."
)
_MAX_METADATA_BYTES = 64 * 2**20


def _list_folder(path: str) -> tuple[list[str], bytes | None]:
    """Return the files that may be bands, and the content of the SAFE metadata if there is one."""
    folder = Path(path)
    inner = sorted(folder.glob("*.SAFE"))
    if len(inner) > 1:
        raise ValueError(f"{path}: expected one SAFE product, found {len(inner)}: pass one of them.")
    if inner:
        return _list_folder(str(inner[0]))
    root = folder.resolve()
    metadata = _find_metadata(root)
    patterns: tuple[str, ...] = ("GRANULE/*/IMG_DATA/*", "GRANULE/*/IMG_DATA/R?0m/*") if metadata else ("*",)
    if not metadata and _INSIDE_SAFE.search(str(root)):
        metadata = next(filter(None, map(_find_metadata, root.parents[:4])), None)
        patterns = ("*", "R?0m/*", "IMG_DATA/*", "IMG_DATA/R?0m/*", "*/IMG_DATA/*", "*/IMG_DATA/R?0m/*")
        if metadata is None:
            raise ValueError(_WITHOUT_METADATA.format(path))
    files = [str(file) for pattern in patterns for file in folder.glob(pattern) if file.is_file()]
    return files, metadata.read_bytes() if metadata else None


def _find_metadata(folder: Path) -> Path | None:
    return next((file for file in sorted(folder.glob("*.[xX][mM][lL]")) if SAFE_METADATA.search(file.name)), None)


def _list_zip(path: str) -> tuple[list[str], bytes | None]:
    prefix = f"/vsizip/{{{os.path.abspath(path)}}}/"
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
            metadata = [name for name in names if SAFE_METADATA.search(name)]
            if not metadata and any(map(_INSIDE_SAFE.search, names)):
                raise ValueError(_WITHOUT_METADATA.format(path))
            if not metadata:
                return [prefix + name for name in names], None
            if archive.getinfo(metadata[0]).file_size > _MAX_METADATA_BYTES:
                raise ValueError(f"{path}: {metadata[0]} is too large for the metadata of a product.")
            return [prefix + name for name in names if "/IMG_DATA/" in name], archive.read(metadata[0])
    except (zipfile.BadZipFile, OSError, EOFError, RuntimeError) as error:
        raise ValueError(f"{path}: cannot be read as a zip archive ({error}).") from error


def _parse_safe_metadata(path: str, content: bytes) -> tuple[float, dict[str, float], dict[str, str]]:
    """Return the quantification value, the offset of each band in stored units, and tags."""
    try:
        # Only the root carries a namespace, and its version changes with the baseline.
        elements = list(ElementTree.fromstring(content).iter())
        texts = {element.tag: (element.text or "").strip() for element in elements}
        quantification = next(float(texts[tag]) for tag in _QUANTIFICATION_TAGS if tag in texts)
        added = [element for element in elements if element.tag in ("RADIO_ADD_OFFSET", "BOA_ADD_OFFSET")]
        numbers = [int(element.attrib["band_id"]) for element in added]
        if len(set(numbers)) < len(numbers) or not set(numbers) <= set(range(len(L1C_BANDS))):
            raise ValueError(f"band_id {numbers}, expected each of 0 to 12 once")
        offsets = {L1C_BANDS[number]: float(element.text or "") for number, element in zip(numbers, added)}
        if not (math.isfinite(quantification) and quantification > 0 and all(map(math.isfinite, offsets.values()))):
            raise ValueError(f"quantification value {quantification}, offsets {offsets}")
    except (ElementTree.ParseError, StopIteration, LookupError, ValueError) as error:
        raise ValueError(
            f"{path}: the product's metadata (MTD_MSIL1C.xml or MTD_MSIL2A.xml) is damaged: expected a quantification "
            f"value and numeric offsets ({error!r})."
        ) from error
    named = {"date": "PRODUCT_START_TIME", "product": "PRODUCT_URI", "processing_baseline": "PROCESSING_BASELINE"}
    return quantification, offsets, {key: texts[tag] for key, tag in named.items() if texts.get(tag)}


_QUANTIFICATION_TAGS = ("BOA_QUANTIFICATION_VALUE", "L2A_BOA_QUANTIFICATION_VALUE", "QUANTIFICATION_VALUE")
