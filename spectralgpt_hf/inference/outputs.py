"""Write the layers of a map as COGs, with georeference and tags."""

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from transformers import PreTrainedModel

from ..modeling.tiling import TileGrid
from .cogs import write_cog
from .quantization import HALF, least_cosine, quantize, scales_for, to_half, warn_of_coarse_steps
from .resuming import hash_weights
from .scenes import Scene
from .streaming import Parts


INTEGER_NODATA = -128


@dataclass(frozen=True)
class Layer:
    """A file to write.

    Attributes:
        path: Path of the file.
        count: Number of bands.
        dtype: As in `write_cog`.
        nodata: Value that means no data.
        descriptions: Description of each band.
        colormap, interleave: As in `write_cog`.
    """

    path: Path
    count: int
    dtype: str
    nodata: float
    descriptions: Sequence[str] | None = None
    colormap: Mapping[int, tuple[int, ...]] | None = None
    interleave: str = "band"


def describe(scene: Scene, model: PreTrainedModel, grid: TileGrid, options: Mapping[str, object]) -> dict[str, str]:
    """Return the tags of a result: those of the source, the name of the model, and how it was applied.

    Args:
        scene: Open scene.
        model: Model that computes the result.
        grid: Grid of the tiles.
        options: Further arguments on which the result depends. Those that are not None are recorded; files by their
            names without the folder.
    """
    processor = scene.processor
    tags = dict(scene.reader.tags)
    if scene.is_series:
        tags["sources"] = json.dumps([reader.tags["source"] for reader in scene.readers])
        if scene.days is not None:
            tags["dates"] = json.dumps([str(np.datetime64(day, "D")) for day in scene.days])
    for reader in scene.readers[1:] if not scene.is_series else []:
        tags |= {f"after_{name}": reader.tags[name] for name in ("source", "date", "offset") if name in reader.tags}
    scope = "tile" if scene.is_per_tile else "given" if scene.statistics is None else "scene"
    tags |= {
        "model": os.path.basename(str(model.config._name_or_path).rstrip("/")) or type(model).__name__,
        "weights": hash_weights(model),
        "normalization": f"{processor.normalization}, limits per {scope}",
        "tile_size": str(grid.size),
        "tile_stride": str(grid.stride),
        "dtype": str(model.dtype).removeprefix("torch."),
        "missing_bands": processor.missing_bands,
    }
    given = {name: _recorded(value) for name, value in options.items() if value is not None}
    tags |= {"options": json.dumps(given)} if given else {}
    statistics = scene.statistics or (None if scene.is_per_tile else processor.statistics)
    return tags if statistics is None else tags | {"statistics": json.dumps(statistics)}


def write_layer(
    layer: Layer,
    parts: Parts,
    scratch: Path,
    scene: Scene,
    grid: TileGrid,
    tags: Mapping[str, str],
    scales: np.ndarray | None = None,
) -> None:
    """Write one layer as a COG, with nodata outside the area of interest.

    Args:
        layer: The file to write.
        parts: Content of the layer.
        scratch: Folder for a temporary file.
        scene: The scene, for its georeference and area.
        grid: Grid of the tiles, for the georeference of the cells.
        tags: Tags of the file.
        scales: Scale of each band (C,) of a file of integers. The parts are real numbers, and are rounded to multiples.
    """
    area = grid.to_cells(scene.area.box)
    write_cog(
        layer.path,
        keep_inside(parts, scene, grid, layer.nodata) if scales is None else _as_integers(parts, scene, grid, scales),
        scratch,
        count=layer.count,
        shape=(area.bottom - area.top, area.right - area.left),
        dtype=layer.dtype,
        crs=scene.reader.crs,
        transform=grid.transform(scene.reader.transform, area),
        nodata=layer.nodata,
        descriptions=layer.descriptions,
        colormap=layer.colormap,
        tags=tags,
        interleave=layer.interleave,
        scales=scales,
    )


def keep_inside(parts: Parts, scene: Scene, grid: TileGrid, nodata: float) -> Parts:
    """Yield parts with nodata outside the area of interest."""
    box_of_area = grid.to_cells(scene.area.box)
    shape = (box_of_area.bottom - box_of_area.top, box_of_area.right - box_of_area.left)
    area = scene.area.on_cells(shape, grid.transform(scene.reader.transform, box_of_area))
    for box, pixels in parts:
        moved = box._replace(left=box.left + box_of_area.left, top=box.top + box_of_area.top)
        within = area.inside(pixels.shape[1:], grid.transform(scene.reader.transform, moved))
        if within is not None:
            pixels[:, ~within] = nodata
        yield box, pixels


def _recorded(value: object) -> object:
    """Return a value as JSON can hold it, without folders of this machine."""
    if isinstance(value, bytes | bytearray):
        return f"{len(value)} bytes"
    if isinstance(value, os.PathLike) or (isinstance(value, str) and os.path.exists(value)):
        return os.path.basename(os.fspath(value).rstrip("/"))
    if isinstance(value, Mapping):
        return {str(key): _recorded(entry) for key, entry in value.items()}
    if isinstance(value, np.ndarray | list | tuple):
        return [_recorded(entry) for entry in value]
    return value if isinstance(value, bool | int | float) else str(value)


def measure_scales(parts: Parts, scene: Scene, grid: TileGrid) -> np.ndarray:
    """Return the scale (C,), float32, with which each band of parts fits into 8 bits, inside of the area."""
    largest: np.ndarray | float = 0.0
    for _, pixels in keep_inside(parts, scene, grid, np.nan):
        largest = np.fmax(largest, np.fmax.reduce(np.abs(pixels), axis=(1, 2)))
    return scales_for(np.nan_to_num(largest))


def _as_integers(parts: Parts, scene: Scene, grid: TileGrid, scales: np.ndarray) -> Parts:
    """Yield parts as int8, -128 where there is no data."""
    least = 1.0
    for box, pixels in keep_inside(parts, scene, grid, np.nan):
        valid = np.isfinite(pixels).all(0)
        integers = quantize(np.where(valid, pixels, 0), scales[:, None, None])
        least = min(least, least_cosine(pixels[:, valid].T, (integers[:, valid] * scales[:, None]).T))
        yield box, np.where(valid, integers, np.int8(INTEGER_NODATA))
    warn_of_coarse_steps(least)  # once, not for every part


def masked(values: np.ndarray, valid: np.ndarray, dtype: str) -> np.ndarray:
    """Return values (K, rows, columns) as "float16" or "float32", NaN where they are not valid."""
    values = np.where(valid, values, np.float32(np.nan))
    return to_half(values) if dtype == HALF else values
