"""Statistics of training sets: those of each scene or of all pixels, and the spread of the values of a regression."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from typing import Literal, cast

import datasets
import numpy as np
import torch
from tqdm.auto import tqdm

from ..data.readers.columns import MultispectralImage, Reference
from ..data.readers.common import dates_of
from ..data.shards.histograms import Histograms
from ..modeling.band_plan import plan_bands
from ..modeling.chips import open_chips
from ..modeling.image_processing_spectralgpt import SpectralGPTImageProcessor
from ..modeling.matching import Matching
from ..modeling.pixel_statistics import StatisticName, Statistics
from ..modeling.radiometry import LARGEST_REFLECTANCE, Notices, stack_chips, warn_once


# Smallest digital number that the statistics of a training set count. Offsets make dark pixels negative.
LOWEST_MEASURED = -10000


def measure_by_scene(dataset: datasets.Dataset, processor: SpectralGPTImageProcessor) -> dict[str, Statistics]:
    """Measure the statistics of each scene, or of each pair of dates, as `predict_scene` does; by names of scenes."""
    files = references_of(dataset)
    scenes = dict(zip(dataset["scene" if "scene" in dataset.features else "id"], files))
    image = dataset.features["pixels"]
    return {
        scene: processor.measure_statistics(
            [date["path"] for date in dates],
            band_names=image.band_names,
            offset=_of_files("offset", dates, image),
            nodata=_of_files("nodata", dates, image),
        )
        for scene, dates in tqdm(scenes.items(), desc="Measuring scenes", disable=None)
    }


def measure_over(dataset: datasets.Dataset, processor: SpectralGPTImageProcessor) -> Statistics:
    """Measure statistics over all pixels of a dataset. Every stored window is read once.

    Values are rounded to whole digital numbers, or to 0.0001 of reflectance, and counted, so that memory does not grow
    with the dataset.

    Raises:
        ValueError: If no pixel of a band has data.
    """
    unique = {str(dates): row for row, dates in reversed(list(enumerate(references_of(dataset))))}
    notices: Notices = defaultdict(list)
    histograms, unit = Histograms(LOWEST_MEASURED), 0.0
    for row in tqdm(dataset.select(sorted(unique.values())), desc="Measuring the training set", disable=None):
        for date in map(np.asanyarray, dates_of(row)):  # which keeps the mark of saturated values
            if not date.any():
                continue
            names = dataset.features["pixels"].bands
            (chip,) = open_chips(date, processor.bands, names, matching=Matching(processor.expected))
            plan = plan_bands(chip.name, chip.band_names, processor.bands, processor.missing_bands, processor.expected)
            part = stack_chips([chip], plan, notices)
            pixels = part.pixels[0].numpy()
            unit = unit or (1e-4 if np.abs(pixels).max() <= LARGEST_REFLECTANCE else 1.0)
            counted = np.ones(pixels.shape[1:], bool) if part.measured is None else part.measured[0].numpy()
            histograms.add(processor.bands, pixels if unit == 1 else pixels / unit, counted)
    warn_once(notices)
    found = histograms.statistics()
    empty = [band for band in processor.bands if band not in found["bands"]]
    if empty:
        raise ValueError(f"Expected pixels with data in the training set, found none of {', '.join(empty)}.")
    order = [found["bands"].index(band) for band in processor.bands]

    def select(name: StatisticName) -> list[float]:
        return [found[name][i] * unit for i in order]

    return {
        "bands": list(processor.bands),
        "pixels": int(max(found["pixels"])),
        "minimum": select("minimum"),
        "maximum": select("maximum"),
        "percentile_1": select("percentile_1"),
        "percentile_99": select("percentile_99"),
        "mean": select("mean"),
        "std": select("std"),
    }


def value_statistics(dataset: datasets.Dataset) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the mean and the standard deviation (K,) of the values of regression; 1 if they are constant."""
    column = "labels" if "labels" in dataset.features else "label"
    values = torch.tensor(dataset[column][:], dtype=torch.float64).view(len(dataset), -1)
    if not torch.isfinite(values).all():
        raise ValueError(f"Expected finite values in the column `{column}`: leave out the samples without one.")
    std = values.std(0, correction=0)
    return values.mean(0).float(), torch.where(std > 0, std, 1.0).float()


def references_of(dataset: datasets.Dataset) -> list[list[Reference]]:
    """Return the references of the dates of each row, without reading pixels."""
    columns = [name for name in dataset.features if name.startswith("pixels")]
    if not isinstance(dataset.features["pixels"], MultispectralImage):
        raise ValueError("Expected files to measure statistics on, found shards: set `statistics_scope` to image.")
    references = dataset.select_columns(columns)
    for name in columns:
        references = references.cast_column(name, replace(dataset.features[name], decode=False))
    return [[cast(Reference, row[name]) for name in columns if row[name]] for row in references]


def _of_files(
    name: Literal["offset", "nodata"], dates: Sequence[Reference], image: MultispectralImage
) -> float | list[float | None] | None:
    """Return the offset or nodata value of each date, its own or else that of the column; one value if all agree."""
    values = [getattr(image, name) if date[name] is None else date[name] for date in dates]
    return values[0] if len(set(values)) == 1 else values
