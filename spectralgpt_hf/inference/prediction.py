"""Maps of classes or of change of whole scenes."""

import json
import os
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..modeling.bands import Sensor
from ..modeling.chips import one_each
from ..modeling.dates import Date
from ..modeling.image_processing_spectralgpt import SpectralGPTImageProcessor
from ..modeling.post_processing import THRESHOLD, choose_classes, map_class_names
from ..modeling.raster_files import Source
from ..modeling.series import Series, open_series
from ..modeling.tiled import pixels_with_data
from ..modeling.tiling import TileGrid
from .areas import Area
from .checkpoints import check_model
from .destinations import check_destination
from .map_styles import style_path, write_style
from .maps import MAP_NODATA, class_colours
from .outputs import Layer, describe, masked, write_layer
from .scenes import Scene
from .streaming import Parts, Resources, Task, map_scene, tile_has_data, warn_of_seams


LAYERS = ("confidence", "entropy", "probabilities")

SEGMENTATION, CHANGE, CLASSIFICATION = (
    f"SpectralGPTFor{task}" for task in ("SemanticSegmentation", "ChangeDetection", "ImageClassification")
)


def predict_scene(
    model: Any,
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
    area_crs: Any = None,
    band_names: Sequence[str] | None = None,
    offset: Any = None,
    nodata: float | None = None,
    mask: Any = None,
    mask_after: Any = None,
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
    A style beside it, `.qml`, makes QGIS show both.

    Tiles overlap, and their logits are blended. All are normalised with statistics measured once for the scene, which
    are written into the tags. A run that was killed goes on where it stopped when it is called again with the same
    arguments (finished strips wait in `<destination>.parts`), and its file is the same to the last bit; so it is for
    any number of workers, processes and cores and any batch size. Under `accelerate launch` the processes share the
    strips, each with a model on its own device.

    Args:
        model: For segmentation, change detection or classification, in evaluation mode. Classification gives one pixel
            for each chip.
        processor: Of the checkpoint.
        source: Scene, or first date: anything that `open_raster` opens.
        destination: File to write.
        sources: Series of several dates, in place of `source`: a list of such scenes, a folder of dated files, a STAC
            item collection, or a `Series`, as in `open_series`. All dates come onto the grid of the first, and a pixel
            has a class where any date has data.
        dates: Date of each of `sources`, where these do not say it.
        after: Second date, for change detection; it is warped onto the grid of the first if it has another.
        threshold: From which probability on a pixel counts as changed, or as the one class of a model that knows only
            one; 0.5 by default. Models of more classes take none.
        layers: What to write beside it, as half floats in files of their own (a colour table allows but one band):
            `"confidence"`, the probability of the class, in `<destination>_confidence.tif`; `"entropy"`, 0 where the
            model is sure to 1 where all classes are alike; `"probabilities"`, one band a class.
        area: Area of interest: bounds (left, bottom, right, top), or GeoJSON as a dict or a file. The map is cropped to
            it; tiles and statistics are those of the whole scene.
        area_crs: Reference system of `area`. By default that of the scene for bounds; for GeoJSON longitude and
            latitude.
        band_names: Names of the bands in the files, in their order, where these do not say them.
        offset: Added to the digital numbers, as in `open_raster`.
        nodata: Stored value that means no data, as in `open_raster`.
        mask: Further pixels to leave out, such as clouds: `"SCL"` or a file, as in `open_raster`; for `sources` also a
            list with one for each date.
        mask_after: The same for the second date.
        statistics_scope: `"scene"`, or `"tile"` to measure on each tile, which makes seams.
        tile_size: Pixels on a side of a tile; the model's image size by default.
        overlap: Share of a tile that the next one covers too, 0 or more and below 1. 0.5 by default; 0 for
            classification.
        shift: By how many pixels the grid of tiles is moved up and left, to see what depends on it.
        tags: Further metadata of the files.
        overwrite: Whether to replace existing files at the end. Inputs are never replaced.
        batch_size: Tiles that go to the device at once.
        workers: Threads that read and prepare.
        memory_limit: Bytes for pixels, results and GDAL's cache, whatever the scene's size. The model's come on top.
        progress: Whether to show a bar.
        sensor: Which sensor took the scene, in place of what its files say: a name ("landsat-8") or a `Sensor`.
        match: `"wavelength"` maps a scene of another sensor than the model's: the bands that are near in wavelength
            serve, the rest is masked, and the tags `source_sensor` and `matched_bands` say so. None refuses it.

    Returns:
        `destination`. Pixels without data, masked, or outside of the area are 255 (NaN in the other layers).

    Raises:
        FileNotFoundError: If a source or the destination's folder does not exist.
        FileExistsError: If a file to write exists and `overwrite` is False.
        ValueError: If something does not fit: the model, the bands, the area, the memory; if no pixel of the area has
            data, or a file to write is an input.
        OSError: If a file cannot be written, or another process writes it.
    """
    series = _check_sources(source, destination, sources, dates, after)
    classes = _check(model, processor, after, layers, threshold)
    destination = check_destination(destination or "", (".tif", ".tiff"))
    codes = list(model.config.class_codes or range(len(classes)))
    if threshold is None and len(classes) == 2 and (model.config.num_labels == 1 or after is not None):
        threshold = THRESHOLD
    per_chip = type(model).__name__ == CLASSIFICATION
    several = model.config.problem_type == "multi_label_classification" and model.config.num_labels > 1
    resources = Resources(batch_size, workers, memory_limit, progress)
    if statistics_scope == "tile" and not per_chip:
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
        resize=per_chip,
        sensor=sensor,
        match=match,
    ) as scene:
        grid = TileGrid.cover(
            scene.reader.height,
            scene.reader.width,
            model.config.image_size if tile_size is None else tile_size,
            (0.0 if per_chip else 0.5) if overlap is None else overlap,
            cell=None if per_chip else 1,
            step=1 if per_chip else processor.patch_size,
            shift=shift,
        )
        task = Task(
            model,
            partial(_scores, model),
            model.config.num_labels,
            tile_has_data if per_chip else pixels_with_data,
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

        paths = [style_path(destination), *(file.path for file in files.values())]
        key = {"tags": tags, "layers": [*layers]}
        map_scene(scene, grid, task, paths, overwrite, write, key, resources)
    return destination


def _check_sources(
    source: Source | None,
    destination: str | os.PathLike[str] | None,
    sources: Any,
    dates: Sequence[Date] | None,
    after: Source | None,
) -> Series | None:
    """Return the series to map; None where it is one scene or a pair."""
    if (source is None) == (sources is None):
        raise ValueError("Expected either `source`, a scene, or `sources`, a series of several dates.")
    if destination is None:
        raise ValueError("Expected `destination`, the file to write.")
    if sources is None and dates is not None:
        raise ValueError("`dates` are those of `sources`: pass these, or leave the dates out.")
    if sources is not None and after is not None:
        raise ValueError("`after` is the second date of a pair: pass `source` with it, or `sources` alone.")
    return None if sources is None else open_series(sources, dates)


def _check(
    model: Any,
    processor: SpectralGPTImageProcessor,
    after: Source | None,
    layers: Sequence[str],
    threshold: float | None,
) -> list[str]:
    """Return the names of the classes."""
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
    classes = map_class_names(model.config.id2label, model.config.num_labels)
    if model.config.problem_type == "regression":
        raise ValueError("Expected a model that tells classes apart, found one for regression.")
    if threshold is not None and (not 0 <= threshold <= 1 or (kind != CHANGE and model.config.num_labels > 1)):
        raise ValueError(
            f"Expected a `threshold` between 0 and 1, for change detection or a model of one class, got {threshold}."
        )
    if len(classes) > MAP_NODATA:
        raise ValueError(f"Expected at most {MAP_NODATA} classes, which 8 bits hold, found {len(classes)}.")
    check_model(model, processor)
    return classes


def _scores(model: Any, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
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
        logits: Blended.
        valid: (rows, columns).
        names: Layers beside the classes.
        several: Whether classes do not exclude each other.
        threshold: From which probability on the second of two classes is chosen; None for the likeliest class.
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
        # NumPy computes an element alike wherever it stands in an array, so that an area of interest changes nothing.
        exponentials = np.exp(logits - logits.max(0))
        probabilities = exponentials / exponentials.sum(0)
        entropy = -_times_log(probabilities).sum(0, keepdims=True) / np.log(max(2, len(logits)))
    found = {"confidence": probabilities.max(0, keepdims=True), "entropy": entropy, "probabilities": probabilities}
    return classes | {name: masked(found[name], valid, "float16") for name in names}


def _times_log(probabilities: np.ndarray) -> np.ndarray:
    return probabilities * np.log(np.maximum(probabilities, np.float32(1e-30)))


def _files(destination: Path, layers: Sequence[str], classes: list[str], codes: list[int]) -> dict[str, Layer]:
    """Return the files to write, by layer. The map comes last: where it is, all is."""
    files = {}
    for layer in layers:
        names = classes if layer == "probabilities" else [layer]
        path = destination.with_name(f"{destination.stem}_{layer}{destination.suffix}")
        files[layer] = Layer(path, len(names), "float16", float("nan"), names)
    colours = {code: tuple(colour) for code, colour in zip(codes, class_colours(classes).tolist())}
    return files | {"classes": Layer(destination, 1, "uint8", MAP_NODATA, ["class"], colours)}
