"""Tools for agents: a server of the Model Context Protocol (MCP), whose tools read, map, embed and find scenes.

It runs as `spectralgpt mcp`, started by the agent's program on the user's machine, and has the user's rights: the tools
read and write the paths that they are given, and never replace a file. Without this command nothing of it runs.
"""

import json
import warnings
from collections.abc import Callable, Sequence
from dataclasses import asdict
from datetime import datetime as Datetime
from functools import wraps
from pathlib import Path
from typing import Any

import numpy as np
import rasterio

from ..hub.info import describe_checkpoint
from ..inference import embed_scene, predict_scene
from ..inference.checkpoints import load_encoder, load_model
from ..inference.similar_sites import search_embeddings
from ..inference.stac_search import cloud_cover, search_items
from ..modeling.rasters import open_raster


INSTRUCTIONS = (
    "Maps, embeddings and facts of Sentinel-2 scenes with SpectralGPT. A scene is a GeoTIFF, a SAFE product, a folder "
    "with a file per band, a STAC item in a file, or a URL of one. A checkpoint is a folder, a name on the Hugging "
    "Face Hub, or `tiny`. Regions are west, south, east, north in degrees."
)

Region = tuple[float, float, float, float]


def describe_model(checkpoint: str = "tiny") -> dict[str, Any]:
    """Describe a checkpoint: task, bands, classes, size.

    Args:
        checkpoint: Folder, name on the Hub, or `tiny`.
    """
    info = describe_checkpoint(checkpoint)
    return {
        "architecture": info.architecture,
        "bands": list(info.config.bands or ()),
        "image_size": info.config.image_size,
        "parameters": info.num_parameters,
        "classes": {str(number): name for number, name in (info.config.id2label or {}).items()},
    }


def describe_scene(source: str) -> dict[str, Any]:
    """Describe a scene: size, bands, georeference, date. Its pixels are not read.

    Args:
        source: Path or URL of the scene.
    """
    with warnings.catch_warnings(record=True, action="always") as caught, open_raster(source) as reader:
        return {
            "height": reader.height,
            "width": reader.width,
            "band_names": [str(band) for band in reader.band_names or ()],
            "crs": str(reader.crs) if reader.crs else None,
            "transform": list(reader.transform)[:6] if reader.transform else None,
            "statements": {name: str(value) for name, value in reader.tags.items()},
            "warnings": _texts(caught),
        }


def map_scene(
    checkpoint: str, source: str, destination: str, after: str | None = None, region: Region | None = None
) -> dict[str, Any]:
    """Map the classes of a scene, or the changes between two dates, to a GeoTIFF.

    Args:
        checkpoint: Folder or name on the Hub of a model for segmentation, classification or change detection.
        source: Path or URL of the scene.
        destination: GeoTIFF to write. It must not exist.
        after: Scene of the second date, for change detection only.
        region: Part of the scene. Default: the whole scene.
    """
    model, processor = load_model(checkpoint)
    with warnings.catch_warnings(record=True, action="always") as caught:
        path = predict_scene(model, processor, source, destination, after=after, progress=False, **_area(region))
        return {"map": str(path), "shares": _shares(path), "warnings": _texts(caught)}


def embed(checkpoint: str, source: str, destination: str, region: Region | None = None) -> dict[str, Any]:
    """Compute features of a scene: a map of them (.tif), or a table of one vector per chip (.parquet).

    Args:
        checkpoint: Folder, name on the Hub, or `tiny`.
        source: Path or URL of the scene.
        destination: File to write, which ends with .tif or .parquet. It must not exist.
        region: Part of the scene. Default: the whole scene.
    """
    model, processor = load_encoder(checkpoint)
    with warnings.catch_warnings(record=True, action="always") as caught:
        path = embed_scene(model, processor, source, destination, progress=False, **_area(region))
        return {"embeddings": str(path), "warnings": _texts(caught)}


def find_similar_sites(embeddings: str, longitude: float, latitude: float, top: int = 10) -> list[dict[str, Any]]:
    """Find the sites whose embeddings are most similar to those of one site, the most similar first.

    Args:
        embeddings: Table of `embed` (.parquet), or a folder of tables.
        longitude: Longitude of the site, in degrees.
        latitude: Latitude of the site, in degrees.
        top: Number of sites.
    """
    _, found = search_embeddings(embeddings, (longitude, latitude), top)
    return [{name: _plain(value) for name, value in asdict(site).items() if name != "geometry"} for site in found]


def find_scenes(
    stac: str, collection: str, region: Region, datetime: str | None = None, max_cloud: float | None = None
) -> list[dict[str, Any]]:
    """Search a STAC API for scenes, the oldest first.

    Args:
        stac: URL of the API.
        collection: Collection of the API, such as sentinel-2-l2a.
        region: Region that the scenes meet.
        datetime: Date, or interval such as 2024-06-01/2024-08-31.
        max_cloud: Largest share of clouds, in percent.
    """
    items = search_items(stac, collection, bbox=region, datetime=datetime, max_cloud=max_cloud)
    return [
        {"id": item["id"], "datetime": item["properties"].get("datetime"), "cloud_cover": cloud_cover(item)}
        for item in items
    ]


TOOLS: tuple[Callable[..., object], ...] = (
    describe_model,
    describe_scene,
    map_scene,
    embed,
    find_similar_sites,
    find_scenes,
)


def build_server() -> Any:
    """Return the server, an `MCPServer` with `TOOLS`.

    Raises:
        ImportError: If the package `mcp` is not installed.
    """
    try:
        from mcp.server import MCPServer
        from mcp.server.mcpserver.exceptions import ToolError
    except ImportError as error:
        raise ImportError("The server needs the package mcp: `pip install spectralgpt-hf[mcp]`.") from error

    def answering(tool: Callable[..., object]) -> Callable[..., object]:
        """Return a tool that answers mistakes with their messages. The server conceals those of other exceptions."""

        @wraps(tool)
        def run(**arguments: object) -> object:
            try:
                return tool(**arguments)
            except (ValueError, OSError, ImportError) as error:
                raise ToolError(str(error)) from error

        return run

    server = MCPServer("spectralgpt", instructions=INSTRUCTIONS)
    for tool in TOOLS:
        server.add_tool(answering(tool))
    return server


def _texts(caught: Sequence[warnings.WarningMessage]) -> list[str]:
    """Return the texts of the package's warnings, each once."""
    return list(dict.fromkeys(str(warning.message) for warning in caught if warning.category is UserWarning))


def _area(region: Region | None) -> dict[str, Any]:
    return {} if region is None else {"area": list(region), "area_crs": "EPSG:4326"}


def _shares(path: Path) -> dict[str, float]:
    """Return the share of each class among the pixels with data of a map."""
    counts = np.zeros(256, np.int64)
    with rasterio.open(path) as file:
        names = file.tags().get("classes", "{}")
        for _, window in file.block_windows(1):
            counts += np.bincount(file.read(1, window=window).ravel(), minlength=256)
        counts[int(file.nodata)] = 0
    return {name: counts[int(number)] / counts.sum() for number, name in json.loads(names).items()}


def _plain(value: object) -> object:
    return value.isoformat() if isinstance(value, Datetime) else value
