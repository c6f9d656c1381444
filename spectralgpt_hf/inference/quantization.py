"""Embeddings in fewer bytes: half floats that never become infinite, and integers of 8 bits with their scales."""

import numpy as np

from ..modeling.notices import warn


HALF = "float16"
LIMIT = float(np.finfo(np.float16).max)
LEVELS = 127
"""Largest integer; -128 is left for nodata."""

LEAST_COSINE = 0.999
"""Similarity of a vector and its integers below which there is a warning."""


def to_half(values: np.ndarray) -> np.ndarray:
    """Return values as half floats; those beyond their range are set to its ends, with a warning."""
    if (np.abs(values) > LIMIT).any():  # False for NaN
        warn(f"Values beyond {LIMIT:,.0f}, the end of half floats, were set to it. `dtype='float32'` keeps them.")
    return np.clip(values, -LIMIT, LIMIT).astype(np.float16)


def quantize_rows(vectors: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return vectors (n, D) as integers (n, D), int8, and the scale (n,), float32, of each of them.

    A scale of its own lets a vector keep its meaning in any table, and cosines of integers are its own.
    """
    scales = scales_for(np.abs(vectors).max(1))
    return quantize(vectors, scales[:, None]), scales


def scales_for(largest: np.ndarray) -> np.ndarray:
    """Return the scales, float32, with which values up to `largest` fit into 8 bits."""
    return np.where(largest > 0, largest / LEVELS, 1).astype(np.float32)


def quantize(values: np.ndarray, scales: np.ndarray) -> np.ndarray:
    """Return values as int8: the nearest multiple of the scales, which broadcast."""
    return np.clip(np.rint(values / scales), -LEVELS, LEVELS).astype(np.int8)


def warn_of_coarse_steps(vectors: np.ndarray, restored: np.ndarray) -> None:
    """Warn where integers are too coarse for vectors (n, D): where `restored` points elsewhere."""
    lengths = np.linalg.norm(vectors, axis=1) * np.linalg.norm(restored, axis=1)
    cosines = (vectors * restored).sum(1) / np.where(lengths > 0, lengths, np.inf)
    least = float(cosines[lengths > 0].min(initial=1))
    if least < LEAST_COSINE:
        warn(
            f"With int8 the cosine between a vector and its stored integers falls to {least:.4f}, below "
            f"{LEAST_COSINE}: a few of its values are much larger than all others. `dtype='float16'` keeps them."
        )
