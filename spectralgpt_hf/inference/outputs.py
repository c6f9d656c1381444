"""Maps as files: where their cells lie, what is known about them, and one COG a layer."""

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..modeling.tiling import TileGrid
from .cogs import write_cog
from .scenes import Scene
from .streaming import Parts


@dataclass(frozen=True)
class Layer:
    """A file of one or more bands.

    Attributes:
        path: To write.
        count: Number of bands.
        dtype: As in `write_cog`.
        nodata: Value that means no data.
        descriptions: Of the bands.
        colormap: As in `write_cog`.
    """

    path: Path
    count: int
    dtype: str
    nodata: float
    descriptions: Sequence[str] | None = None
    colormap: Mapping[int, tuple[int, ...]] | None = None


def check_destination(destination: str | os.PathLike[str]) -> Path:
    """Return the path of a file that can be written.

    Raises:
        FileNotFoundError: If its folder does not exist.
        ValueError: If it is a folder.
    """
    path = Path(destination)
    if path.is_dir():
        raise ValueError(f"{path}: expected a file to write, found a folder.")
    if not path.absolute().parent.is_dir():
        raise FileNotFoundError(f"{path.parent}: no such folder to write to.")
    return path


def describe(scene: Scene, model: Any, grid: TileGrid) -> dict[str, str]:
    """Return what a result's tags say: the source's own, the model, and how it was applied."""
    processor = scene.processor
    tags = dict(scene.reader.tags)
    for reader in scene.readers[1:]:
        tags |= {f"after_{name}": reader.tags[name] for name in ("source", "date", "offset") if name in reader.tags}
    scope = "scene" if scene.statistics is not None else "tile" if processor.measures_pixels else "given"
    tags |= {
        "model": os.path.basename(str(model.config._name_or_path).rstrip("/")) or type(model).__name__,
        "normalization": f"{processor.normalization}, limits per {scope}",
        "tile_size": str(grid.size),
        "tile_stride": str(grid.stride),
    }
    statistics = scene.statistics or (None if processor.measures_pixels else processor.statistics)
    return tags if statistics is None else tags | {"statistics": json.dumps(statistics)}


def write_layer(
    layer: Layer, parts: Parts, scratch: Path, scene: Scene, grid: TileGrid, tags: Mapping[str, str]
) -> None:
    """Write one layer as a COG, nodata outside of the area of interest.

    Args:
        layer: What to write.
        parts: Its content.
        scratch: Folder for a temporary file.
        scene: Gives the georeference.
        grid: Gives that of the cells.
        tags: Of the file.
    """
    area = grid.to_cells(scene.area.box)
    write_cog(
        layer.path,
        keep_inside(parts, scene, grid, layer.nodata),
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
    )


def keep_inside(parts: Parts, scene: Scene, grid: TileGrid, nodata: float) -> Parts:
    """Yield parts with nodata where they lie outside of the area of interest."""
    area = grid.to_cells(scene.area.box)
    for box, pixels in parts:
        place = box._replace(left=box.left + area.left, top=box.top + area.top)
        within = scene.area.inside(pixels.shape[1:], grid.transform(scene.reader.transform, place))
        if within is not None:
            pixels[:, ~within] = nodata
        yield box, pixels


def as_half(values: np.ndarray, valid: np.ndarray) -> np.ndarray:
    """Return values (K, rows, columns) as half floats, NaN where they are not valid."""
    return np.where(valid, values, np.float32(np.nan)).astype(np.float16)
