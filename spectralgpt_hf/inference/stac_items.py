"""Write STAC items of results, and collections of them, with the embedding extension.

The extension is https://github.com/geo-embeddings/embeddings-stac-specification, which is for items of STAC 1.0.
"""

import json
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rasterio.crs import CRS
from rasterio.io import DatasetReader
from rasterio.warp import transform_bounds

from ..files import write_json
from ..modeling.bands import SENTINEL_2, Sensor
from ..modeling.modeling_spectralgpt import SpectralGPTPreTrainedModel
from ..modeling.raster_files import Source, is_remote
from ..modeling.rasters import RasterReader
from ..modeling.sensors import SENSORS
from ..modeling.tiling import Box
from .scenes import Scene
from .vectors import WGS84, bounds_of, geographic_rings, timestamp


EMBEDDINGS = "https://stac-extensions.github.io/embeddings/v0.0.1/schema.json"
PROJECTION = "https://stac-extensions.github.io/projection/v1.1.0/schema.json"
STAC_VERSION = "1.0.0"
MODEL_ITEM = "stac_item.json"
"""File name of the item of a checkpoint, in the folder of its weights."""

MODEL_LINK = "emb:model"
"""Relation of the link from the item of a result to that of its model."""

OPEN_END = "9999-12-31T23:59:59Z"
"""End of a period without one, which STAC does not allow for."""

GEOTIFF = "image/tiff; application=geotiff; profile=cloud-optimized"
PARQUET = "application/vnd.apache.parquet"


def item_path(result: Path) -> Path:
    """Return the path of the item of a result: that of the result, followed by `.stac.json`."""
    return result.with_name(f"{result.name}.stac.json")


def describe_embeddings(
    result: Path,
    scene: Scene,
    sources: Sequence[Source],
    model: SpectralGPTPreTrainedModel,
    tags: Mapping[str, str],
    options: Mapping[str, object],
    dtype: str,
    scales: np.ndarray | None = None,
) -> dict[str, object]:
    """Return the STAC item of a file of embeddings.

    Args:
        result: The file, .tif or .parquet.
        scene: The scene that was embedded.
        sources: The sources of the scene, one for each date.
        model: The model that computed the embeddings.
        tags: Tags of the file.
        options: Options with which the model was applied, as JSON values.
        dtype: Type of the stored embeddings.
        scales: Scale of each feature of a map of integers, or None.
    """
    item = describe_result(result, "embeddings", scene.reader, scene.area.box, sources, model, tags)
    item["stac_extensions"].append(EMBEDDINGS)
    properties: dict[str, object] = item["properties"] | {
        "emb:runtime_parameters": dict(options),
        "emb:preprocessing": {"format": "spectralgpt-hf", "expression": scene.processor.to_dict() | _measured(scene)},
    }
    if dtype == "int8":
        properties["emb:quantization"] = {
            "method": "per-feature linear" if scales is not None else "per-vector linear, in `embedding_scale`",
            "original_dtype": "float32",
            "quantized_dtype": "int8",
            **({} if scales is None else {"scale": [float(scale) for scale in scales]}),
        }
    return item | {"properties": properties}


def describe_result(
    result: Path,
    asset: str,
    raster: RasterReader | DatasetReader,
    box: Box,
    sources: Sequence[Source],
    model: SpectralGPTPreTrainedModel,
    tags: Mapping[str, str],
) -> dict[str, Any]:
    """Return a STAC item of a file that was computed from a scene.

    Args:
        result: The file.
        asset: Key of the file among the assets of the item.
        raster: The scene or the result, open, for its georeference.
        box: The part of this raster that the file covers, in pixels.
        sources, model, tags: As in `describe_embeddings`.
    """
    a, b, c, d, e, f = tuple(raster.transform)[:6]
    corners = [(box.left, box.top), (box.left, box.bottom), (box.right, box.bottom), (box.right, box.top)]
    outline = [(a * x + b * y + c, d * x + e * y + f) for x, y in corners]
    kind = PARQUET if result.suffix == ".parquet" else GEOTIFF
    geography, projection = _geography(outline, raster.crs)
    links = [
        {"rel": MODEL_LINK, "href": _model_link(model, result), "type": "application/geo+json"},
        *({"rel": "emb:source-data", "href": href} for source in sources for href in _source_links(source, result)),
    ]
    return {
        "type": "Feature",
        "stac_version": STAC_VERSION,
        "stac_extensions": [PROJECTION],
        "id": result.stem,
        **geography,
        "properties": {**_time(tags), **projection},
        "links": links,
        "assets": {asset: {"href": f"./{result.name}", "type": kind, "roles": ["data", asset]}},
    }


def write_collection(
    path: Path,
    items: Mapping[str, Mapping[str, Any]],
    *,
    title: str,
    description: str,
    fields: Mapping[str, object],
) -> None:
    """Write a STAC collection of items in the same folder.

    Args:
        path: File to write.
        items: The items by file name, at least one.
        title, description: Title and description of the collection.
        fields: Further members, such as those of the embedding extension.
    """
    boxes = np.array([item["bbox"] for item in items.values() if "bbox" in item] or [[-180, -90, 180, 90]])
    moments = [
        moment
        for item in items.values()
        for moment in (item["properties"].get(name) for name in ("datetime", "start_datetime", "end_datetime"))
        if moment
    ]
    open_end = any(item["properties"].get("end_datetime") == OPEN_END for item in items.values())
    inherited = [link for item in items.values() for link in item["links"] if link["rel"].startswith("emb:")]
    collection = {
        "type": "Collection",
        "stac_version": STAC_VERSION,
        "stac_extensions": [EMBEDDINGS] if "emb:type" in fields else [],
        "id": re.sub(r"[^\w.-]+", "-", title),
        "title": title,
        "description": description,
        "license": "proprietary",
        "extent": {
            "spatial": {"bbox": [bounds_of(boxes.T)]},
            "temporal": {"interval": [[min(moments), None if open_end else max(moments)]]},
        },
        "links": [
            *({"rel": "item", "href": f"./{name}", "type": "application/geo+json"} for name in items),
            *{(link["rel"], link["href"]): link for link in inherited}.values(),
        ],
        **fields,
    }
    write_json(path, collection)


def _geography(outline: Sequence[tuple[float, float]], crs: CRS | None) -> tuple[dict[str, object], dict[str, object]]:
    """Return geometry and bounds in WGS84, and the properties of the projection extension."""
    if crs is None:
        return {"geometry": None}, {}
    x, y = zip(*outline)
    bounds = transform_bounds(crs, WGS84, min(x), min(y), max(x), max(y))
    code = crs.to_epsg()
    projection = {"proj:epsg": code, **({} if code else {"proj:wkt2": crs.to_wkt(version="WKT2_2019")})}
    polygons = [[ring.tolist()] for ring in geographic_rings(np.array(outline), crs)]
    geometry: dict[str, Any] = {"type": "Polygon", "coordinates": polygons[0]}
    if len(polygons) > 1:
        geometry = {"type": "MultiPolygon", "coordinates": polygons}
    return {"geometry": geometry, "bbox": [*bounds]}, projection


def open_period(sensor: Sensor) -> dict[str, str | None]:
    """Return the time of an item as STAC properties: the whole period since the launch of a sensor."""
    start = sensor.launch or "0001-01-01"  # STAC has no period without a start or an end
    return {"datetime": None, "start_datetime": f"{start}T00:00:00Z", "end_datetime": OPEN_END}


def _time(tags: Mapping[str, str]) -> dict[str, str | None]:
    """Return the time of a scene, or the period of a series, from the tags of its result; else that of its sensor."""
    dates = json.loads(tags.get("dates", "null")) or [tags.get("date")]
    moments = sorted(moment for moment in map(timestamp, dates) if moment is not None)
    times = [moment.isoformat().replace("+00:00", "Z") for moment in moments]
    if len(times) == 1:
        return {"datetime": times[0]}
    if times:
        return {"datetime": None, "start_datetime": times[0], "end_datetime": times[-1]}
    title = tags.get("source_sensor") or tags.get("sensor") or str(SENTINEL_2)
    return open_period(next((sensor for sensor in SENSORS.values() if str(sensor) == title), Sensor(title)))


def _measured(scene: Scene) -> dict[str, object]:
    return {} if scene.statistics is None else {"statistics": scene.statistics}


def _model_link(model: SpectralGPTPreTrainedModel, result: Path) -> str:
    """Return the link to the item of the model's checkpoint, on the Hub or in its folder."""
    name = str(model.config._name_or_path)
    if name and not os.path.isdir(name):
        commit = getattr(model.config, "_commit_hash", None) or "main"
        return f"https://huggingface.co/{name}/resolve/{commit}/{MODEL_ITEM}"
    return _relative(os.path.join(name, MODEL_ITEM), result)


def _source_links(source: Source, result: Path) -> Iterable[str]:
    """Yield the links to a source without their queries, which may hold signatures.

    A STAC item is linked by its own URL, or else by that of its first asset.
    """
    if isinstance(source, str | os.PathLike):
        name = os.fspath(source)
        yield name.split("?")[0] if is_remote(name) else _relative(name, result)
    elif not isinstance(source, bytes | bytearray | memoryview):
        item: Any = source if isinstance(source, Mapping) else source.to_dict()
        links = {link.get("rel"): str(link["href"]) for link in item.get("links", ()) if "href" in link}
        assets = [str(asset["href"]) for asset in item.get("assets", {}).values() if "href" in asset]
        for href in [links["self"]] if "self" in links else assets[:1]:
            yield href.split("?")[0]


def _relative(path: str, result: Path) -> str:
    return Path(os.path.relpath(path, result.absolute().parent)).as_posix()
