"""A land-use probe: how well a simple classifier predicts the land use of small tiles at a site it was not trained on.

The classifier gets the frozen features of a model.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from ..modeling.modeling_spectralgpt import SpectralGPTModel


@torch.no_grad()
def tile_features(
    model: SpectralGPTModel,
    image: torch.Tensor,
    corners: Sequence[tuple[int, int]],
    tile_size: int = 16,
    alone: bool = False,
) -> np.ndarray:
    """Average the features of a model over tiles, and over the crops that contain them.

    Args:
        model: Model in evaluation mode.
        image: (C, H, W), normalised.
        corners: (left, top) of each crop of the model's image size, multiples of `tile_size`. The crops must cover the
            image.
        tile_size: Height and width of a tile, in pixels.
        alone: Whether the model sees each tile without the rest of the crop.

    Returns:
        Features (H / tile_size, W / tile_size, D).
    """
    size, tokens = model.config.image_size, tile_size // model.config.patch_size
    groups = -(-len(image) // model.config.spectral_patch_size)
    high, wide = (min(size, side) // tile_size for side in image.shape[1:])  # tiles of a crop
    shape = (image.shape[1] // tile_size, image.shape[2] // tile_size)
    total, count = torch.zeros(*shape, model.config.hidden_size), torch.zeros(*shape, 1)
    ids = torch.arange(groups * high * wide * tokens**2).view(groups, high, tokens, wide, tokens)
    ids_of_tiles = ids.permute(1, 3, 0, 2, 4).reshape(high * wide, -1)
    for left, top in corners:
        crop = image[None, :, top : top + size, left : left + size]
        if alone:
            seen = model(crop.expand(high * wide, -1, -1, -1), ids_keep=ids_of_tiles).last_hidden_state
        else:
            seen = model(crop).last_hidden_state[0, ids_of_tiles]
        rows = slice(top // tile_size, top // tile_size + high)
        columns = slice(left // tile_size, left // tile_size + wide)
        total[rows, columns] += seen.float().mean(1).view(high, wide, -1).cpu()
        count[rows, columns] += 1
    return (total / count).numpy()


def tile_statistics(pixels: np.ndarray, tile_size: int = 16) -> np.ndarray:
    """Return mean and standard deviation of each band, (H / tile_size, W / tile_size, 2 C), of pixels (C, H, W)."""
    tiles = _tiles(pixels, tile_size)
    return np.concatenate([tiles.mean(axis=-1), tiles.std(axis=-1)], axis=-1)


def majority_labels(labels: np.ndarray, ignored: int = 0, tile_size: int = 16) -> np.ndarray:
    """Return the most frequent label of each tile apart from `ignored`; `ignored` for a tile without other labels."""
    counts = np.stack([_tiles(labels[None] == number, tile_size)[..., 0, :].sum(-1) for number in range(256)])
    counts[ignored] = 0
    return np.where(counts.any(axis=0), counts.argmax(axis=0), ignored)


def share_between_sites(features: np.ndarray, sites: np.ndarray) -> float:
    """Return the share of the variance of features (n, D) that is between sites (n,) and not within them: 0 to 1.

    Differences between sites do not help a classifier at another site. The share is the mean over the features that are
    not constant.
    """
    features = features[:, features.std(axis=0) > 0]
    standard = (features - features.mean(axis=0)) / features.std(axis=0)
    means = [np.square(standard[sites == site].mean(axis=0)) * np.mean(sites == site) for site in np.unique(sites)]
    return float(np.sum(means, axis=0).mean())


@dataclass(frozen=True)
class ProbeScores:
    """Balanced accuracies, 0 to 1.

    Attributes:
        sites: Accuracy at each site, over the classes that occur there.
        together: Accuracy over the tiles of all sites, each predicted by the classifier that was not trained on its
            site.
    """

    sites: dict[str, float]
    together: float


def leave_one_site_out(
    features: np.ndarray, labels: np.ndarray, sites: np.ndarray, classifier: str = "logistic", neighbours: int = 5
) -> ProbeScores:
    """For each site, train on all other sites and test on this one.

    Args:
        features: (n, D). They are standardised with the mean and deviation of the training tiles.
        labels: (n,), classes that occur at two sites or more (`common_classes`).
        sites: (n,), the site of each tile.
        classifier: "logistic" (logistic regression with equal weights of the classes), "neighbours" (with equal votes)
            or "majority".
        neighbours: Number of neighbours that vote.

    Raises:
        ValueError: If `classifier` is unknown.
        ImportError: If scikit-learn is missing.
    """
    try:
        from sklearn.dummy import DummyClassifier
        from sklearn.linear_model import LogisticRegression
        from sklearn.metrics import recall_score
        from sklearn.neighbors import KNeighborsClassifier
        from sklearn.pipeline import make_pipeline
        from sklearn.preprocessing import StandardScaler
    except ImportError as error:
        raise ImportError("The land-use probe needs scikit-learn: `pip install scikit-learn`.") from error
    choices = {
        "logistic": lambda: LogisticRegression(max_iter=2000, class_weight="balanced"),
        "neighbours": lambda: KNeighborsClassifier(neighbours),
        "majority": lambda: DummyClassifier(strategy="most_frequent"),
    }
    if classifier not in choices:
        raise ValueError(f"`classifier` must be one of {', '.join(choices)}, got {classifier!r}.")

    def score(true: np.ndarray, predicted: np.ndarray) -> float:
        return float(recall_score(true, predicted, labels=np.unique(true), average="macro", zero_division=0))

    predictions = np.zeros_like(labels)
    for site in np.unique(sites):
        held_out = sites == site
        probe = make_pipeline(StandardScaler(), choices[classifier]())
        predictions[held_out] = probe.fit(features[~held_out], labels[~held_out]).predict(features[held_out])
    by_site = {str(site): score(labels[sites == site], predictions[sites == site]) for site in np.unique(sites)}
    return ProbeScores(by_site, score(labels, predictions))


def common_classes(labels: np.ndarray, sites: np.ndarray) -> list[int]:
    """Return the labels that occur at two sites or more. Others cannot be learned from the other sites."""
    return [int(label) for label in np.unique(labels) if len(np.unique(sites[labels == label])) > 1]


def _tiles(pixels: np.ndarray, tile_size: int) -> np.ndarray:
    """Return (rows, columns, C, pixels) from (C, H, W). Incomplete tiles at the bottom and the right are dropped."""
    channels, rows, columns = len(pixels), pixels.shape[1] // tile_size, pixels.shape[2] // tile_size
    tiles = pixels[:, : rows * tile_size, : columns * tile_size]
    tiles = tiles.reshape(channels, rows, tile_size, columns, tile_size).transpose(1, 3, 0, 2, 4)
    return tiles.reshape(rows, columns, channels, -1)
