"""Store embeddings in fewer bytes: as half floats without infinity, or as 8-bit integers with scales."""

import numpy as np

from ..modeling.notices import warn


HALF = "float16"
LIMIT = float(np.finfo(np.float16).max)
LEVELS = 127
"""Largest integer. -128 is reserved for nodata."""

LEAST_COSINE = 0.999
"""Cosine similarity of a vector and its integers below which a warning is raised."""


def to_half(values: np.ndarray) -> np.ndarray:
    """Return values as half floats. Values outside their range are clipped, with a warning."""
    if (np.abs(values) > LIMIT).any():  # False for NaN
        warn(f"Values beyond {LIMIT:,.0f}, the limit of half floats, were clipped. `dtype='float32'` keeps them.")
    return np.clip(values, -LIMIT, LIMIT).astype(np.float16)


def quantize_rows(vectors: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return vectors (n, D) as integers (n, D), int8, and the scale of each vector (n,), float32.

    Each vector has its own scale, so that it does not depend on the other rows of a table, and the cosine of two
    vectors equals that of their integers up to rounding.
    """
    scales = scales_for(np.abs(vectors).max(1))
    return quantize(vectors, scales[:, None]), scales


def scales_for(largest: np.ndarray) -> np.ndarray:
    """Return the scales, float32, with which values up to `largest` fit into 8 bits."""
    return np.where(largest > 0, largest / LEVELS, 1).astype(np.float32)


def quantize(values: np.ndarray, scales: np.ndarray) -> np.ndarray:
    """Return the integers (int8) whose products with the scales, which broadcast, are nearest to the values."""
    return np.clip(np.rint(values / scales), -LEVELS, LEVELS).astype(np.int8)


def least_cosine(vectors: np.ndarray, restored: np.ndarray) -> float:
    """Return the least similarity, -1 to 1, of vectors (n, D) and what integers keep of them; 1 without vectors."""
    lengths = np.linalg.norm(vectors, axis=1) * np.linalg.norm(restored, axis=1)
    cosines = (vectors * restored).sum(1) / np.where(lengths > 0, lengths, np.inf)
    return float(cosines[lengths > 0].min(initial=1))


def warn_of_coarse_steps(least: float) -> None:
    """Warn where the least similarity of vectors and their integers says that integers are too coarse for them."""
    if least < LEAST_COSINE:
        warn(
            f"With int8 the cosine between a vector and its stored integers falls to {least:.4f}, below "
            f"{LEAST_COSINE}, because a few of its values are much larger than all others. Pass `dtype='float16'` to "
            "keep the direction."
        )
