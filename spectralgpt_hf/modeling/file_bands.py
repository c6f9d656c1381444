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
"""Find the sensor and the bands of one raster file, from the caller, descriptions, wavelengths or their number."""

import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from xml.etree import ElementTree

from .bands import SENTINEL_2, Sensor, bands_from_count, parse_wavelength
from .identification import PLANETSCOPE, sensor_of_files, sensor_of_tags
from .matching import Matching
from .notices import warn
from .sensors import SENSORS


try:  # noqa: SIM105  # the laws of this folder allow such imports in `try` only
    from rasterio.io import DatasetReader
except ImportError:
    # `open_raster` raises an error that names the missing package.
    pass


# Names of products of surface reflectance whose stored values follow the table of their sensor.
_SURFACE_REFLECTANCE = re.compile(
    r"L[COTE]0?\d_L2S[PR]_|HLS\.[LS]30\.|\d{8}_\d{6}_\w+_3[AB]_?Analytic\w*_SR|M[OYC]D(?:09|43)|ENMAP\d\d-_*L2A",
    re.IGNORECASE,
)


def name_bands(
    name: str,
    dataset: "DatasetReader",
    descriptions: Sequence[str | None],
    tags: Mapping[str, str],
    indexes: Sequence[int],
    band_names: Sequence[str] | None,
    matching: Matching,
) -> tuple[Sensor, list[str | None]]:
    """Return the sensor of a file and the canonical name of each band, None for a layer that is not a band.

    Args:
        name: Name of the file, for messages and because it may indicate the sensor.
        dataset: The open file.
        descriptions: Descriptions of all bands of the file.
        tags: Tags of the file, including those of GDAL's IMAGERY domain.
        indexes: Numbers of the bands, from 1, without an alpha band.
        band_names: Names of the bands that the caller passed, or None.
        matching: The expected sensor.

    Raises:
        ValueError: If the number of names does not fit, a band occurs twice, or the sensor is not the expected one.
    """
    by_name = sensor_of_files([name])
    found = by_name or sensor_of_tags(tags)
    if found is None and "B8A" not in matching.expected.band_names:
        found = sensor_of_files(text for text in descriptions if text)
    if found is not None and found.name == PLANETSCOPE.name:
        found = SENSORS.get(f"planetscope-{len(indexes)}", found)
    if band_names is not None:
        sensor = matching.sensor_of(found, name, are_named=True)
        named = sensor.resolve_all(band_names)
        if len(named) != len(indexes):
            raise ValueError(f"{name}: got {len(named)} band names for {len(indexes)} bands.")
        return sensor, list(named)
    likely = matching.sensor or found or matching.expected
    names = [likely.find(descriptions[index - 1] or "") for index in indexes]
    if not any(names):
        names = [likely.find(text) for text in _wavelengths(dataset, indexes)] or names
    if by_name and len(indexes) == 1 and not any(names):
        names = [likely.find(os.path.basename(name))]
    assumed = None
    if not any(names):
        assumed = bands_from_count(len(indexes)) if likely.name == SENTINEL_2.name else likely.band_names
        assumed = assumed if assumed and len(assumed) == len(indexes) > 1 else None
    # A map of classes may have the tags of a sensor, although it is not an image of it.
    is_image = any(names) or any(matching.expected.find(description or "") for description in descriptions)
    sensor = matching.sensor_of(found, name) if by_name or is_image or assumed else matching.expected
    if assumed:
        warn(
            f"A file of {len(indexes)} bands without names: taken as {', '.join(assumed)}, in this order. If "
            "that is wrong (EuroSAT stores B8A last), pass `band_names`."
        )
        return sensor, list(assumed)
    return sensor, names


def table_radiometry(sensor: Sensor, name: str, is_stated: bool) -> tuple[float, float] | None:
    """Return gain and offset to digital numbers from the table of the sensor, or None if it does not apply.

    Args:
        sensor: Sensor of the file.
        name: Name of the file or product, which shows whether it holds surface reflectance.
        is_stated: Whether the caller has passed the sensor. The table then applies to files of any name.
    """
    if sensor.scale is None or not (is_stated or _SURFACE_REFLECTANCE.match(os.path.basename(name.rstrip("/")))):
        return None
    return sensor.scale * 10000, sensor.offset * 10000


def _wavelengths(dataset: "DatasetReader", indexes: Sequence[int]) -> list[str]:
    """Return the wavelength of each band with its unit, from band tags, an ENVI header or EnMAP's metadata."""
    found = []
    for index in indexes:
        centre = dataset.tags(index, ns="IMAGERY").get("CENTRAL_WAVELENGTH_UM")
        tags = {key.lower(): value for key, value in dataset.tags(index).items()}
        unit = tags.get("wavelength_units", "nm")
        found.append(f"{centre} um" if centre else f"{tags['wavelength']} {unit}" if "wavelength" in tags else "")
    header = {key.lower(): value for key, value in dataset.tags(ns="ENVI").items()}
    if not any(found) and "wavelength" in header:
        unit = header.get("wavelength_units", header.get("wavelength units", "nm"))
        found = [f"{value} {unit}" for value in re.findall(r"[\d.]+(?:e[+-]?\d+)?", header["wavelength"].lower())]
    if not any(found):
        found = [f"{value} nm" for value in _enmap_wavelengths(dataset.name)]
    if len(found) != len(indexes) or None in map(parse_wavelength, found):
        return []
    return found


def _enmap_wavelengths(name: str) -> list[str]:
    """Return the centre wavelengths, in nm, from the METADATA.XML of an EnMAP image; none for other files."""
    stem = re.match(r"(ENMAP\d\d-.*-)SPECTRAL_IMAGE\w*\.\w+$", os.path.basename(name), re.IGNORECASE)
    file = Path(name).with_name(f"{stem[1]}METADATA.XML") if stem else None
    if file is None or not file.is_file():
        return []
    try:
        root = ElementTree.parse(file).getroot()
    except ElementTree.ParseError as error:
        raise ValueError(f"{name}: the metadata {file.name} are damaged ({error}).") from error
    return [(element.text or "").strip() for element in root.iter("wavelengthCenterOfBand")]
