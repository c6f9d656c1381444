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
"""List the bands of STAC items: their files, scales and offsets."""

import itertools
import json
import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Protocol, TypeAlias, TypeGuard

from .bands import Sensor
from .identification import sensor_of_files, sensor_of_statements
from .matching import OF_SENTINEL_2, Matching
from .products import Layer, Product, linear
from .stac_links import join_href


JsonObject: TypeAlias = Mapping[str, Any]
"""A parsed object of JSON."""


class StacItem(Protocol):
    """The part of `pystac.Item` that is used."""

    id: str
    assets: JsonObject

    def to_dict(self) -> dict[str, Any]:
        """Return the item as JSON values."""
        ...


def is_stac_item(source: object) -> TypeGuard[JsonObject | StacItem]:
    """Return whether a source is a STAC item: parsed JSON or a `pystac.Item`."""
    is_item = isinstance(source, Mapping) or (hasattr(source, "to_dict") and hasattr(source, "assets"))
    return is_item and not hasattr(source, "data_vars")  # a dataset of xarray is a mapping too


def read_stac_item(item: JsonObject, name: str, folder: str = "", matching: Matching = OF_SENTINEL_2) -> Product:
    """List the bands of a STAC item.

    An asset is matched by its key, else by the band that it describes. If none matches, one asset may hold all bands.
    Scales and offsets of the raster extension are used, unless the item declares that the offset has been applied to
    the pixels already (`earthsearch:boa_offset_applied`).

    Args:
        item: The parsed JSON.
        name: Name of the item in messages.
        folder: Folder that relative links are relative to.
        matching: The expected sensor.

    Raises:
        ValueError: If the item has no asset of a band of its sensor, or is of another sensor than expected.
    """
    assets, properties = item.get("assets"), item.get("properties") or {}
    if item.get("type") != "Feature" or not isinstance(assets, Mapping) or not isinstance(properties, Mapping):
        raise ValueError(f"{name}: expected a STAC item (a GeoJSON Feature with assets).")
    layers: dict[str, Layer] = {}
    scene_classification = None
    links = [str(asset.get("href")) for asset in assets.values() if isinstance(asset, Mapping)]
    stated = [properties.get("platform"), properties.get("constellation"), *_strings(properties.get("instruments"))]
    found = sensor_of_files([str(item.get("id")), *links]) or sensor_of_statements(stated)
    sensor = matching.sensor_of(found, name)
    harmonised = any(value is True for key, value in properties.items() if key.endswith("boa_offset_applied"))
    # Keys have priority, because catalogues repeat a band as another asset (COG and JPEG 2000) with another key.
    by_resolution = sorted(assets.items(), key=lambda pair: _resolution(pair[0]))
    for by_key, (key, asset) in itertools.product((True, False), by_resolution):
        if not isinstance(asset, Mapping) or not isinstance(asset.get("href"), str):
            continue
        href = join_href(folder, asset["href"])
        described = [*_mappings(asset.get("eo:bands")), *_mappings(asset.get("bands"))]
        label = key if by_key else str(described[0].get("name")) if len(described) == 1 else ""
        band = sensor.find(label)
        if by_key and re.match(r"scl(_\d0m)?$", key, re.IGNORECASE):
            scene_classification = scene_classification or href
        elif band is not None and band not in layers:
            statements = [asset, *_mappings(asset.get("raster:bands")), *described]
            gain, offset = _stated_radiometry(statements, f"{name}: {key}")
            layers[band] = Layer(href, 1, band, gain, 0.0 if harmonised else offset)
    layers = layers or _layers_of_one_asset(assets, sensor, name, folder)
    if not layers:
        raise ValueError(f"{name}: no asset of this STAC item is a {sensor} band; found {', '.join(assets) or 'none'}.")
    named = {"date": "datetime", "processing_baseline": "s2:processing_baseline"}
    tags = {tag: str(properties[key]) for tag, key in named.items() if properties.get(key)}
    ordered = [layers.pop(band) for band in sensor.band_names if band in layers] + [*layers.values()]
    tags |= {"product": str(item.get("id", ""))}
    return Product(name, ordered, scene_classification, tags, harmonised, sensor)


def read_stac_file(path: str, matching: Matching = OF_SENTINEL_2) -> Product:
    """List the bands of a STAC item in a JSON file."""
    try:
        item = json.loads(Path(path).read_bytes())
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path}: expected a STAC item, but this is not JSON ({error}).") from error
    if not isinstance(item, Mapping):
        raise ValueError(f"{path}: expected a STAC item (a GeoJSON Feature with assets).")
    return read_stac_item(item, path, os.path.dirname(path), matching)


def _layers_of_one_asset(assets: JsonObject, sensor: Sensor, name: str, folder: str) -> dict[str, Layer]:
    """Return the bands of the first asset that describes several, by name or by wavelength (in micrometres)."""
    for key, asset in assets.items():
        described = asset.get("eo:bands") or asset.get("bands") if isinstance(asset, Mapping) else None
        entries = _mappings(described)
        if len(entries) < 2 or not isinstance(asset.get("href"), str):
            continue
        gain, offset = _stated_radiometry([asset, *_mappings(asset.get("raster:bands")), *entries], f"{name}: {key}")
        found = {}
        for number, entry in enumerate(entries, 1):
            centre = entry.get("center_wavelength", entry.get("eo:center_wavelength"))
            labels = [str(entry.get(label)) for label in ("name", "common_name", "eo:common_name") if entry.get(label)]
            band = next(filter(None, map(sensor.find, labels)), None) if sensor.bands else None
            if band is None and isinstance(centre, int | float):
                band = sensor.find(f"{centre} um")
            if band is not None and band not in found:
                found[band] = Layer(join_href(folder, asset["href"]), number, band, gain, offset)
        if found:
            return found
    return {}


def _stated_radiometry(statements: list[JsonObject], name: str) -> tuple[float | None, float | None]:
    """Return gain and offset of the first statement that has them, under the names of STAC 1.0 or 1.1."""
    for statement in statements:
        scale, offset = (statement.get(key, statement.get(f"raster:{key}")) for key in ("scale", "offset"))
        if scale is not None or offset is not None:
            return linear(1 if scale is None else scale, offset or 0, name)
    return None, None


def _resolution(name: str) -> int:
    found = re.search(r"_(\d+)m$", name)
    return int(found[1]) if found else 0


def _strings(value: object) -> list[str]:
    return [value] if isinstance(value, str) else list(map(str, value)) if isinstance(value, Iterable) else []


def _mappings(value: object) -> list[JsonObject]:
    return [entry for entry in value if isinstance(entry, Mapping)] if isinstance(value, Iterable) else []
