"""Search by example: the similarity of each patch position of a scene to a chosen one."""

import numpy as np


def similarity_map(features: np.ndarray, row: int, column: int) -> np.ndarray:
    """Return the cosine similarity (h, w) of each patch position to a chosen one, NaN where there are no data.

    The mean of the scene is subtracted first, so that features that all positions share do not affect the result.

    Args:
        features: (D, h, w), as `embed_scene` writes them, NaN where there are no data.
        row, column: The chosen patch position.

    Raises:
        IndexError: If the chosen position is outside the map.
    """
    centred = features - np.nanmean(features, axis=(1, 2), keepdims=True, dtype=np.float64)
    centred /= np.maximum(np.linalg.norm(centred, axis=0), 1e-12)
    return np.einsum("dhw,d->hw", centred, centred[:, row, column])
