"""Compute features of whole scenes, as a map or as one vector per chip."""

import math
import os
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rasterio.crs import CRS
from torch import nn

from ..files import write_json
from ..modeling.bands import Sensor
from ..modeling.chips import one_each
from ..modeling.dates import Date
from ..modeling.image_processing_spectralgpt import SpectralGPTImageProcessor
from ..modeling.modeling_spectralgpt import SpectralGPTModel, SpectralGPTPreTrainedModel
from ..modeling.products import Offset
from ..modeling.raster_files import Source
from ..modeling.tiled import positions_with_data
from ..modeling.tiling import TileGrid
from .areas import Area
from .checkpoints import check_model
from .destinations import check_destination
from .outputs import INTEGER_NODATA, Layer, describe, keep_inside, masked, measure_scales, write_layer
from .quantization import HALF
from .scenes import Scene, find_sources
from .stac_items import describe_embeddings, item_path
from .streaming import Parts, Resources, Task, map_scene, tile_has_data, warn_of_seams
from .vectors import VECTOR_DTYPES, Chips, write_geoparquet


def embed_scene(
    model: SpectralGPTPreTrainedModel,
    processor: SpectralGPTImageProcessor,
    source: Source | None = None,
    destination: str | os.PathLike[str] | None = None,
    *,
    sources: Any = None,
    dates: Sequence[Date] | None = None,
    stride: int | None = None,
    area: Area | None = None,
    area_crs: CRS | str | int | None = None,
    band_names: Sequence[str] | None = None,
    offset: Offset | None = None,
    nodata: float | None = None,
    mask: Source | None = None,
    statistics_scope: str = "scene",
    tile_size: int | None = None,
    overlap: float | None = None,
    dtype: str | None = None,
    tags: Mapping[str, str] | None = None,
    overwrite: bool = False,
    batch_size: int | None = None,
    workers: int = 2,
    memory_limit: int = 2**30,
    progress: bool = True,
    sensor: Sensor | str | None = None,
    match: str | None = None,
) -> Path:
    """Embed a scene or a series of any size.

    The suffix of the destination selects the format. `.tif` is a map of features: a COG with one band per feature, in
    which all bands of a pixel are stored together; the spectral groups are averaged and overlapping tiles blended.
    `.parquet` is GeoParquet with one row per chip and the columns of the Major TOM embeddings
    (`vectors.write_geoparquet`), of which `embedding` is the pooled output. A STAC item with the embedding extension is
    written beside it, as `<destination>.stac.json`.

    Resuming, sharing work between processes and the memory limit work as in `predict_scene`.

    Args:
        model: Any SpectralGPT model, in evaluation mode. Its encoder is used.
        processor: Processor of the checkpoint.
        source: Scene in any format that `open_raster` reads.
        destination: File to write, `.tif`, `.tiff` or `.parquet`.
        sources, dates: Series of several dates, instead of `source`, as in `predict_scene`. The model fuses the
            features of its dates (`config.temporal_fusion`).
        stride: For a map, the size of its pixels in pixels of the scene, the patch size by default. Features are
            averaged to a larger size, and interpolated (bilinear) to a smaller one. For vectors, the distance between
            chips in pixels, their size by default.
        overlap: Overlap of the tiles of a map, 0.5 by default, as in `predict_scene`. Vectors have no such option: the
            overlap of chips follows from `stride`.
        tile_size: Height and width of a tile or chip, in pixels. By default the model's image size, for a map rounded
            to a multiple of both patch size and stride.
        dtype: Type of the stored numbers: `"float32"`, `"float16"` or `"int8"`. By default half floats in maps and
            single precision in tables. Integers are multiples of a scale, which a map states for each feature and a
            table for each chip. A warning is raised if the type cannot hold the values.
        tags: Further metadata of the file.
        area, area_crs, band_names, offset, nodata, mask, statistics_scope, overwrite: As in `predict_scene`.
        batch_size, workers, memory_limit, progress, sensor, match: As in `predict_scene`.

    Returns:
        `destination`. In a map, cells without data are NaN; chips without data have no row.

    Raises:
        FileNotFoundError, ValueError, OSError: As `predict_scene`.
    """
    series = find_sources(source, sources, dates)
    images: Sequence[Any] = [source] if series is None else series.images
    destination = check_destination(destination, (".tif", ".tiff", ".parquet"))
    suffix = destination.suffix.lower()
    check_model(model, processor)
    if stride is not None and stride < 1:
        raise ValueError(f"Expected a positive `stride`, in pixels, got {stride}.")
    encoder: SpectralGPTModel = model.base_model  # type: ignore[assignment]  # transformers declares an nn.Module
    patch_size = processor.patch_size
    per_chip = suffix == ".parquet"
    if overlap is not None and per_chip:
        raise ValueError(f"`overlap` is for maps (.tif): chips overlap by their `stride` alone, got {overlap}.")
    if statistics_scope == "tile" and not per_chip:
        warn_of_seams()
    dtype = dtype or ("float32" if per_chip else HALF)
    if dtype not in VECTOR_DTYPES:
        raise ValueError(f"`dtype`: expected one of {', '.join(VECTOR_DTYPES)}, got {dtype!r}.")
    # Strips are kept in half or single precision, from which every type is written at the end.
    kept = HALF if dtype == HALF and not per_chip else "float32"
    resources = Resources(batch_size, workers, memory_limit, progress)
    with Scene(
        series or images,
        processor,
        band_names=band_names,
        offset=offset,
        nodata=nodata,
        masks=one_each(mask, len(images), "mask"),
        area=area,
        area_crs=area_crs,
        statistics_scope=statistics_scope,
        resize=per_chip,
        sensor=sensor,
        match=match,
    ) as scene:
        size = encoder.config.image_size if tile_size is None else tile_size
        if per_chip:
            shape = (scene.reader.height, scene.reader.width)
            grid = TileGrid.cover(*shape, size, max(0.0, 1 - (stride or size) / size), None, 1)
        else:
            cell = stride or patch_size
            unit = math.lcm(cell, patch_size)
            size = max(unit, round(size / unit) * unit) if tile_size is None else tile_size
            grid = TileGrid.cover(
                scene.reader.height, scene.reader.width, size, 0.5 if overlap is None else overlap, cell, patch_size
            )
        channels = encoder.config.hidden_size
        if per_chip:
            task = Task(encoder, partial(_pooled, encoder), channels, tile_has_data, _vectors)
        else:
            valid_of = partial(positions_with_data, patch_size=patch_size, cells=grid.cells)
            task = Task(
                encoder, partial(_feature_map, encoder, grid.cells), channels, valid_of, partial(_features, dtype=kept)
            )
        options = {"stride": stride, "band_names": band_names, "offset": offset, "nodata": nodata, "mask": mask}
        tags = dict(tags or {}) | describe(scene, encoder, grid, options)
        item = item_path(destination)
        applied = {
            "tile_size": grid.size,
            "stride": grid.stride if per_chip else grid.cell,
            "kind": "chip" if per_chip else "pixel",
        }

        def write(parts: Callable[[str], Parts], scratch: Path) -> None:
            scales = None
            if dtype == "int8" and not per_chip:
                scales = measure_scales(parts("features"), scene, grid)
            if per_chip:
                _write_vectors(destination, parts("features"), scene, grid, dtype, tags)
            else:
                empty = float("nan") if scales is None else INTEGER_NODATA
                layer = Layer(destination, channels, dtype, empty, interleave="pixel")
                write_layer(layer, parts("features"), scratch, scene, grid, tags, scales)
            write_json(item, describe_embeddings(destination, scene, images, encoder, tags, applied, dtype, scales))

        key = {"tags": tags, "suffix": suffix, "kept": kept}
        map_scene(scene, grid, task, embedded_files(destination), overwrite, write, key, resources)
    return destination


def embedded_files(destination: Path) -> list[Path]:
    """Return the files that `embed_scene` writes: the result, and its STAC item."""
    return [destination, item_path(destination)]


def _encode(encoder: SpectralGPTModel, inputs: dict[str, torch.Tensor]) -> Any:  # all entries are declared optional
    return encoder(**inputs)


def _pooled(encoder: SpectralGPTModel, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
    """Return one vector per image (B, D, 1, 1)."""
    return _encode(encoder, inputs).pooler_output[..., None, None]


def _feature_map(encoder: SpectralGPTModel, cells: int, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
    """Return features (B, D, cells, cells). Patch positions without data do not contribute to them."""
    mask, (height, width) = inputs.get("attention_mask"), inputs["pixel_values"].shape[-2:]
    features = encoder.feature_map(_encode(encoder, inputs).last_hidden_state, height, width, mask).float()
    if features.shape[-1] == cells:
        return features

    def resize(values: torch.Tensor) -> torch.Tensor:
        if cells < values.shape[-1]:
            return nn.functional.interpolate(values, (cells, cells), mode="area")
        return nn.functional.interpolate(values, (cells, cells), mode="bilinear", align_corners=False)

    if mask is None:
        return resize(features)
    size = encoder.config.patch_size
    with_data = mask.view(len(mask), -1, height // size, width // size).amax(1, keepdim=True).to(features.dtype)
    return resize(features * with_data) / resize(with_data).clamp(min=1e-6)


def _features(values: np.ndarray, valid: np.ndarray, dtype: str) -> dict[str, np.ndarray]:
    return {"features": masked(values, valid, dtype)}


def _vectors(values: np.ndarray, valid: np.ndarray) -> dict[str, np.ndarray]:
    return {"features": np.where(valid, values, np.float32(np.nan))}


def _write_vectors(path: Path, parts: Parts, scene: Scene, grid: TileGrid, dtype: str, tags: dict[str, str]) -> None:
    """Write a row for each chip with data in the area of interest."""
    area = grid.to_cells(scene.area.box)
    boxes, vectors = [], []
    for box, features in keep_inside(parts, scene, grid, np.nan):
        for row, column in np.argwhere(np.isfinite(features).all(0)):
            top, left = grid.tops[area.top + box.top + row], grid.lefts[area.left + box.left + column]
            boxes.append((left, top, left + grid.size, top + grid.size))
            vectors.append(features[:, row, column])
    if not boxes:
        raise ValueError(f"{path}: nothing to write, because no chip of the area has data.")
    pixels = np.array(boxes)
    a, b, c, d, e, f = tuple(scene.reader.transform)[:6]
    x, y = pixels[:, [0, 0, 2, 2]], pixels[:, [1, 3, 3, 1]]
    footprints = np.stack([a * x + b * y + c, d * x + e * y + f], -1)
    if a * e - b * d > 0:  # rows run upwards on the map: keep the rings counter-clockwise
        footprints = footprints[:, ::-1]
    chips = Chips(pixels, footprints, np.array(vectors, np.float32), scene.reader.crs)
    product = scene.reader.tags.get("product", "")
    if not product or " " in product:  # any file may have a tag of this name; names of products have no spaces
        product = Path(scene.reader.tags["source"]).stem
    write_geoparquet(path, chips, dtype=dtype, product=product, date=tags.get("date"), model=tags["weights"], tags=tags)
