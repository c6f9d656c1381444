"""Exact statistics of any number of images in bounded memory, from a count of each digital number in each band."""

import json
from collections.abc import Mapping, Sequence
from typing import Any, TypedDict, cast

import numpy as np

from ...files import atomic_path
from ...modeling.bands import L1C_BANDS
from ..readers.common import PathLike


PERCENTILES = (1, 2, 5, 25, 50, 75, 95, 98, 99)
HIGHEST = 2**16 - 1


class BandStatistics(TypedDict):
    """Statistics of the pixels of each of `bands`, in digital numbers, with their number `pixels`."""

    bands: list[str]
    pixels: list[float]
    minimum: list[float]
    maximum: list[float]
    mean: list[float]
    std: list[float]
    percentile_1: list[float]
    percentile_2: list[float]
    percentile_5: list[float]
    percentile_25: list[float]
    percentile_50: list[float]
    percentile_75: list[float]
    percentile_95: list[float]
    percentile_98: list[float]
    percentile_99: list[float]


class Histograms:
    """The count of each digital number in each band, over the pixels with data.

    Args:
        lowest: Smallest digital number that is counted. It is 0 for stored values; values to which an offset was added
            may be negative.

    Attributes:
        counts: For each band an array (65536 - `lowest`,) of int64: the number of pixels that hold `lowest`,
            `lowest` + 1, ..., 65535.
    """

    def __init__(self, lowest: int = 0) -> None:
        self.lowest = lowest
        self.counts: dict[str, np.ndarray] = {}

    def add(self, band_names: Sequence[str], pixels: np.ndarray, valid: np.ndarray | None = None) -> None:
        """Count the pixels of an image.

        Args:
            band_names: Names of the C bands.
            pixels: (C, H, W), digital numbers. Fractions are rounded to the nearest integer; values outside
                `lowest` ... 65535 are counted at the nearest end.
            valid: (H, W) or (C, H, W), True where a pixel has data. By default a pixel that is 0 in all bands has none.
        """
        inside = np.broadcast_to(pixels.any(0) if valid is None else valid, pixels.shape)
        for band, channel, counted in zip(band_names, pixels, inside):
            values = channel[counted]
            if values.dtype != np.uint16 or self.lowest:
                values = np.rint(values).clip(self.lowest, HIGHEST).astype(np.int64) - self.lowest
            counts = np.bincount(values, minlength=HIGHEST + 1 - self.lowest)
            self.counts[band] = self.counts.get(band, 0) + counts

    def save(self, path: PathLike, record: Mapping[str, object]) -> None:
        """Write the counts and a record that JSON can hold into one `.npz` file, which is renamed when complete."""
        with atomic_path(path) as scratch, scratch.open("wb") as file:
            np.savez_compressed(file, allow_pickle=False, record=np.array(json.dumps(record)), **self.counts)

    def merge(self, path: PathLike) -> dict[str, Any]:
        """Add the counts that `save` wrote, and return its record."""
        with np.load(path) as content:
            for band in content.files:
                if band != "record":
                    self.counts[band] = self.counts.get(band, 0) + content[band]
            return json.loads(str(content["record"]))

    def statistics(self) -> BandStatistics:
        """Return the statistics that `measure_statistics` returns, with more percentiles and the number of pixels.

        Bands of Sentinel-2 are in the order of its products; others follow as they were found. Percentiles are
        interpolated between neighbouring ranks as NumPy does; the standard deviation is that of the population.
        """
        order = {band: number for number, band in enumerate(L1C_BANDS)}
        bands = sorted((band for band in self.counts if self.counts[band].any()), key=lambda band: order.get(band, 99))
        rows = [self._describe(self.counts[band]) for band in bands]
        keys = [key for key in BandStatistics.__annotations__ if key != "bands"]
        return cast(BandStatistics, {"bands": bands, **{key: [row[key] for row in rows] for key in keys}})

    def _describe(self, counts: np.ndarray) -> dict[str, float]:
        values = np.arange(self.lowest, HIGHEST + 1)
        number = int(counts.sum())
        mean = int(counts @ values) / number
        deviation = float(np.sqrt(counts @ np.square(values - mean) / number))
        present = values[np.flatnonzero(counts)]
        ranks = counts.cumsum()
        result: dict[str, float] = {"pixels": number, "minimum": int(present[0]), "maximum": int(present[-1])}
        result |= {"mean": mean, "std": deviation}
        for percentile in PERCENTILES:
            position = percentile / 100 * (number - 1)
            # The value at a rank is the first one whose cumulated count exceeds it.
            below, above = values[np.searchsorted(ranks, [np.floor(position), np.ceil(position)], side="right")]
            result[f"percentile_{percentile}"] = float(below + (above - below) * (position % 1))
        return result
