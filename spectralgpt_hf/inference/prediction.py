"""Map classes or change over whole scenes."""

import json
import os
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import torch
from rasterio.crs import CRS

from ..modeling.bands import Sensor
from ..modeling.chips import one_each
from ..modeling.dates import Date
from ..modeling.image_processing_spectralgpt import SpectralGPTImageProcessor
from ..modeling.modeling_spectralgpt import (
    SpectralGPTForChangeDetection,
    SpectralGPTForImageClassification,
    SpectralGPTForSemanticSegmentation,
)
from ..modeling.post_processing import THRESHOLD, choose_classes, class_colours, map_class_names
from ..modeling.products import Offset
from ..modeling.raster_files import Source
from ..modeling.tiled import pixels_with_data
from ..modeling.tiling import TileGrid
from .areas import Area
from .checkpoints import check_model
from .destinations import check_destination
from .map_styles import style_path, write_style
from .maps import MAP_NODATA
from .outputs import Layer, describe, masked, write_layer
from .scenes import Scene, find_sources
from .streaming import Parts, Resources, Task, map_scene, tile_has_data, warn_of_seams


MapModel: TypeAlias = (
    SpectralGPTForSemanticSegmentation | SpectralGPTForChangeDetection | SpectralGPTForImageClassification
)
LAYERS = ("confidence", "entropy", "probabilities")

SEGMENTATION, CHANGE, CLASSIFICATION = (
    f"SpectralGPTFor{task}" for task in ("SemanticSegmentation", "ChangeDetection", "ImageClassification")
)


def predict_scene(
    model: MapModel,
    processor: SpectralGPTImageProcessor,
    source: Source | None = None,
    destination: str | os.PathLike[str] | None = None,
    *,
    sources: Any = None,
    dates: Sequence[Date] | None = None,
    after: Source | None = None,
    threshold: float | None = None,
    layers: Sequence[str] = (),
    area: Area | None = None,
    area_crs: CRS | str | int | None = None,
    band_names: Sequence[str] | None = None,
    offset: Offset | None = None,
    nodata: float | None = None,
    mask: Source | None = None,
    mask_after: Source | None = None,
    statistics_scope: str = "scene",
    tile_size: int | None = None,
    overlap: float | None = None,
    shift: int = 0,
    tags: Mapping[str, str] | None = None,
    overwrite: bool = False,
    batch_size: int | None = None,
    workers: int = 2,
    memory_limit: int = 2**30,
    progress: bool = True,
    sensor: Sensor | str | None = None,
    match: str | None = None,
) -> Path:
    """Map a scene of any size: a COG of classes on its grid, with their colours and names.

    The map holds the codes of the maps that the model was trained on (`config.class_codes`), else class numbers.
    A style file for QGIS, `.qml`, is written beside it with the same colours and names.

    Tiles overlap, and their logits are blended. All tiles are normalised with statistics that are measured once for the
    scene and written into the tags. Calling the function again with the same arguments resumes a run that was killed:
    finished strips are kept in `<destination>.parts`. The file is the same to the last bit after a resume, and for any
    number of workers, processes and cores and any batch size. Under `accelerate launch` the processes share the strips,
    each with a model on its own device.

    Args:
        model: Model for segmentation, change detection or classification, in evaluation mode. A map of a classification
            model has one pixel for each tile.
        processor: Processor of the checkpoint.
        source: Scene, or first date, in any format that `open_raster` reads.
        destination: File to write.
        sources: Series of several dates, instead of `source`: a list of scenes, a folder of dated files, a STAC item
            collection, or a `Series`, as in `open_series`. All dates are warped to the grid of the first, and a pixel
            has a class if any date has data.
        dates: Date of each of `sources`, if these do not state them.
        after: Second date, for change detection. It is warped to the grid of the first if it has another.
        threshold: Probability from which a pixel counts as changed, or as the class of a model with one class; 0.5 by
            default. Models with more classes have no threshold.
        layers: Further results to write as half floats, each to a file of its own because a file with a colour table
            has only one band: `"confidence"`, the probability of the class, to `<destination>_confidence.tif`;
            `"entropy"`, from 0 for a certain class to 1 for equal probabilities; `"probabilities"`, one band per class.
        area: Area of interest: bounds (left, bottom, right, top), or GeoJSON as a dict or a file. The map is cropped to
            it. Tiles and statistics are those of the whole scene.
        area_crs: Reference system of `area`. By default that of the scene for bounds, and longitude and latitude for
            GeoJSON.
        band_names: Names of the bands in the files, in their order, if the files do not state them.
        offset: Number that is added to the digital numbers, as in `open_raster`.
        nodata: Stored value that means no data, as in `open_raster`.
        mask: Further pixels to leave out, such as clouds: `"SCL"` or a file, as in `open_raster`; for `sources` also a
            list with one for each date.
        mask_after: The mask of the second date.
        statistics_scope: `"scene"`, or `"tile"` to measure on each tile, which causes seams.
        tile_size: Height and width of a tile, in pixels; the model's image size by default.
        overlap: Share of a tile that the next one covers too, 0 or more and below 1. By default 0.5, and 0 for
            classification.
        shift: Number of pixels by which the grid of tiles is moved up and left, to see how results depend on it.
        tags: Further metadata of the files.
        overwrite: Whether to replace existing files at the end. Inputs are never replaced.
        batch_size: Number of tiles that are sent to the device at once. By default 32, on a CPU one per core.
        workers: Number of threads that read, and number of threads that prepare tiles.
        memory_limit: Bytes for pixels, results and GDAL's cache, for a scene of any size, without those of the model.
        progress: Whether to show a progress bar.
        sensor: Sensor that took the scene, instead of the one that its files state: a name ("landsat-8") or a `Sensor`.
        match: `"wavelength"` maps a scene of another sensor than the model's. Each band that the model expects is read
            from the band that is nearest in wavelength, if one is near enough, and masked otherwise; the tags
            `source_sensor` and `matched_bands` state the pairs. None refuses such a scene.

    Returns:
        `destination`. Pixels without data, masked, or outside the area are 255 (NaN in the other layers).

    Raises:
        FileNotFoundError: If a source or the destination's folder does not exist.
        FileExistsError: If a file to write exists and `overwrite` is False.
        ValueError: If the model, the bands, the area or the memory limit do not fit, if no pixel of the area has data,
            or if a file to write is an input.
        OSError: If a file cannot be written, or another process writes it.
    """
    if sources is not None and after is not None:
        raise ValueError("`after` is the second date of a pair: pass `source` with it, or `sources` alone.")
    series = find_sources(source, sources, dates)
    classes = _check(model, processor, after, layers, threshold)
    destination = check_destination(destination, (".tif", ".tiff"))
    codes = list(model.config.class_codes or range(len(classes)))
    num_labels = len(model.config.id2label or ())
    if threshold is None and len(classes) == 2 and (num_labels == 1 or after is not None):
        threshold = THRESHOLD
    per_tile = type(model).__name__ == CLASSIFICATION
    several = model.config.problem_type == "multi_label_classification" and num_labels > 1
    resources = Resources(batch_size, workers, memory_limit, progress)
    if statistics_scope == "tile" and not per_tile:
        warn_of_seams()
    if mask_after is not None and after is None:
        raise ValueError("`mask_after` is the mask of a second date: pass `after` too, or leave it out.")
    with Scene(
        series or [image for image in (source, after) if image is not None],
        processor,
        band_names=band_names,
        offset=offset,
        nodata=nodata,
        masks=(mask, mask_after) if series is None else one_each(mask, len(series.images), "mask"),
        area=area,
        area_crs=area_crs,
        statistics_scope=statistics_scope,
        resize=per_tile,
        sensor=sensor,
        match=match,
    ) as scene:
        grid = TileGrid.cover(
            scene.reader.height,
            scene.reader.width,
            model.config.image_size if tile_size is None else tile_size,
            (0.0 if per_tile else 0.5) if overlap is None else overlap,
            cell=None if per_tile else 1,
            step=1 if per_tile else processor.patch_size,
            shift=shift,
        )
        task = Task(
            model,
            partial(_scores, model),
            num_labels,
            tile_has_data if per_tile else pixels_with_data,
            partial(_layers, names=layers, several=several, threshold=threshold, codes=np.array(codes, np.uint8)),
        )
        options = {
            "threshold": threshold,
            "band_names": band_names,
            "offset": offset,
            "nodata": nodata,
            "mask": mask,
            "mask_after": mask_after,
            "shift": shift or None,
        }
        given = dict(tags or {})
        tags = given | describe(scene, model, grid, options) | {"classes": json.dumps(dict(zip(codes, classes)))}
        files = _files(destination, layers, classes, codes)

        def write(parts: Callable[[str], Parts], scratch: Path) -> None:
            for name, file in files.items():
                write_layer(file, parts(name), scratch, scene, grid, tags)
            write_style(destination, dict(zip(codes, classes)), class_colours(classes))

        paths = predicted_files(destination, layers)
        key = {"tags": tags, "layers": [*layers]}
        map_scene(scene, grid, task, paths, overwrite, write, key, resources)
    return destination


def predicted_files(destination: Path, layers: Sequence[str] = ()) -> list[Path]:
    """Return the files that `predict_scene` writes: the map, one for each further layer, and the style of the map."""
    return [destination, *(_layer_path(destination, layer) for layer in layers), style_path(destination)]


def _layer_path(destination: Path, layer: str) -> Path:
    return destination.with_name(f"{destination.stem}_{layer}{destination.suffix}")


def _check(
    model: MapModel,
    processor: SpectralGPTImageProcessor,
    after: Source | None,
    layers: Sequence[str],
    threshold: float | None,
) -> list[str]:
    """Check the arguments that do not depend on the scene, and return the names of the classes."""
    kind = type(model).__name__
    if kind not in (SEGMENTATION, CHANGE, CLASSIFICATION):
        raise ValueError(f"Expected a model for segmentation, change detection or classification, found {kind}.")
    if (kind == CHANGE) != (after is not None):
        raise ValueError(
            f"{kind} takes {'two dates: pass `after`' if kind == CHANGE else 'one date, without `after`'}."
        )
    unknown = [layer for layer in layers if layer not in LAYERS]
    if unknown or len(set(layers)) < len(layers):
        raise ValueError(f"`layers`: expected some of {', '.join(LAYERS)}, each once, got {', '.join(layers)}.")
    names = {int(number): str(name) for number, name in (model.config.id2label or {}).items()}
    classes = map_class_names(names, len(names))
    if model.config.problem_type == "regression":
        raise ValueError("Expected a model of classes, found one for regression.")
    if threshold is not None and (not 0 <= threshold <= 1 or (kind != CHANGE and len(names) > 1)):
        raise ValueError(
            f"Expected a `threshold` between 0 and 1, for change detection or a model of one class, got {threshold}."
        )
    if len(classes) > MAP_NODATA:
        raise ValueError(f"Expected at most {MAP_NODATA} classes, the limit of 8 bits, found {len(classes)}.")
    check_model(model, processor)
    return classes


def _scores(model: MapModel, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
    """Return logits (B, K, cells, cells)."""
    logits = model(**inputs).logits
    return logits[..., None, None] if logits.ndim == 2 else logits


def _layers(
    logits: np.ndarray,
    valid: np.ndarray,
    names: Sequence[str],
    several: bool,
    threshold: float | None,
    codes: np.ndarray,
) -> dict[str, np.ndarray]:
    """Turn blended logits (K, rows, columns) into the layers of a strip.

    Args:
        logits: Blended logits.
        valid: Valid mask (rows, columns).
        names: Names of the layers beside the classes.
        several: Whether a pixel can have several classes.
        threshold: Probability from which the second of two classes is chosen; None for the most probable class.
        codes: Value of each class in the map (K,), uint8.
    """
    classes = {"classes": np.where(valid, codes[choose_classes(logits, threshold)], np.uint8(MAP_NODATA))[None]}
    if not names:
        return classes
    if len(logits) == 1:  # of the sigmoid, which is the softmax beside a logit of 0
        logits = np.concatenate([np.zeros_like(logits), logits])
    if several:
        probabilities = 1 / (1 + np.exp(-logits))
        doubt = -_times_log(probabilities) - _times_log(1 - probabilities)
        entropy = doubt.mean(0, keepdims=True) / np.log(2)
    else:
        # NumPy computes an element in the same way at each position of an array, so an area of interest changes
        # nothing.
        exponentials = np.exp(logits - logits.max(0))
        probabilities = exponentials / exponentials.sum(0)
        entropy = -_times_log(probabilities).sum(0, keepdims=True) / np.log(max(2, len(logits)))
    found = {"confidence": probabilities.max(0, keepdims=True), "entropy": entropy, "probabilities": probabilities}
    return classes | {name: masked(found[name], valid, "float16") for name in names}


def _times_log(probabilities: np.ndarray) -> np.ndarray:
    return probabilities * np.log(np.maximum(probabilities, np.float32(1e-30)))


def _files(destination: Path, layers: Sequence[str], classes: list[str], codes: list[int]) -> dict[str, Layer]:
    """Return the files to write, by layer. The map is the last, so that it exists only if all files do."""
    files = {}
    for layer in layers:
        names = classes if layer == "probabilities" else [layer]
        files[layer] = Layer(_layer_path(destination, layer), len(names), "float16", float("nan"), names)
    colours = {code: tuple(colour) for code, colour in zip(codes, class_colours(classes).tolist())}
    return files | {"classes": Layer(destination, 1, "uint8", MAP_NODATA, ["class"], colours)}
