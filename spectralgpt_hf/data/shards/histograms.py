"""Exact statistics of 16-bit pixels, from how often each value occurs."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ...files import atomic_path
from ...modeling.bands import L1C_BANDS
from ..readers.common import PathLike


PERCENTILES = (1, 2, 5, 25, 50, 75, 95, 98, 99)
_VALUES = 2**16


class Histograms:
    """How often each stored value occurs in each band, among pixels with data.

    Attributes:
        counts: (65536,) int64 of each band.
    """

    def __init__(self) -> None:
        self.counts: dict[str, np.ndarray] = {}

    def add(self, bands: Sequence[str], pixels: np.ndarray) -> None:
        """Count an image (C, H, W), uint16; a pixel that is 0 in all bands has no data."""
        empty = int((~pixels.any(0)).sum())
        for band, channel in zip(bands, pixels):
            counts = np.bincount(channel.ravel(), minlength=_VALUES)
            counts[0] -= empty
            self.counts[band] = self.counts.get(band, 0) + counts

    def save(self, path: PathLike, record: Mapping[str, Any]) -> None:
        """Write them, and a record beside them, as one file that is complete or not there."""
        with atomic_path(path) as scratch, scratch.open("wb") as file:
            np.savez_compressed(file, allow_pickle=False, record=np.array(json.dumps(record)), **self.counts)

    def merge(self, path: PathLike) -> dict[str, Any]:
        """Add what `save` has written, and return the record."""
        with np.load(path) as content:
            for band in content.files:
                if band != "record":
                    self.counts[band] = self.counts.get(band, 0) + content[band]
            return json.loads(str(content["record"]))

    def statistics(self) -> dict[str, Any]:
        """Return what `measure_statistics` returns, in stored values, with more percentiles.

        Percentiles lie between neighbouring ranks as NumPy's do; the deviation is that of the population.
        """
        bands = [band for band in L1C_BANDS if self.counts.get(band, np.zeros(1)).any()]
        rows = [_describe(self.counts[band]) for band in bands]
        return {"bands": bands, **{key: [row[key] for row in rows] for key in (rows[0] if rows else {})}}


def _describe(counts: np.ndarray) -> dict[str, float]:
    values = np.arange(_VALUES)
    number = int(counts.sum())
    mean = int(counts @ values) / number
    deviation = float(np.sqrt(counts @ np.square(values - mean) / number))
    present = np.flatnonzero(counts)
    ranks = counts.cumsum()
    result = {"pixels": number, "minimum": int(present[0]), "maximum": int(present[-1]), "mean": mean, "std": deviation}
    for percentile in PERCENTILES:
        position = percentile / 100 * (number - 1)
        # The value at a rank is the first one whose cumulated count exceeds it.
        below, above = np.searchsorted(ranks, [np.floor(position), np.ceil(position)], side="right")
        result[f"percentile_{percentile}"] = float(below + (above - below) * (position % 1))
    return result
