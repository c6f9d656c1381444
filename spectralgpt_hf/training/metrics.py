"""Scores over whole evaluation sets. Every sample counts once, no matter how batches and processes share the set.

Scores are updated with gathered batches. These may repeat samples, as padded last batches do, which is recognised by
the numbers of the samples. Intervals come from resampling independent units: images, or scenes if windows are stitched.
"""

import warnings
from collections.abc import Sequence
from functools import lru_cache
from typing import Literal, NotRequired, Protocol, TypeAlias, TypedDict

import numpy as np
import torch
from torch import nn

from ..modeling.geometry import IGNORE_INDEX
from ..modeling.tiling import blending_weights


try:
    from torchmetrics.functional.classification import (
        multiclass_accuracy,
        multiclass_confusion_matrix,
        multilabel_average_precision,
        multilabel_f1_score,
    )
except ImportError as error:
    raise ImportError("Scores need torchmetrics: pip install spectralgpt-hf[train].") from error


ScoredSplit: TypeAlias = Literal["validation", "test"]


class ScoreDetails(TypedDict, total=False):
    """Scores by class, and the data of pictures. Which entries there are depends on the task.

    Attributes:
        class_accuracy, average_precision, iou: Score by the name of the class; None if it is not defined.
        positives: Number of images of each class.
        confusion_matrix: Counts; rows are the true classes, columns the predicted ones.
        mae_by_value, rmse_by_value, r2_by_value: Error or R2 by the name of the value; None if it is not defined.
    """

    class_accuracy: dict[str, float | None]
    average_precision: dict[str, float | None]
    iou: dict[str, float | None]
    positives: dict[str, int]
    confusion_matrix: list[list[int]]
    mae_by_value: dict[str, float | None]
    rmse_by_value: dict[str, float | None]
    r2_by_value: dict[str, float | None]


class SplitScores(ScoreDetails):
    """All scores of a model on a split, as `metrics.json` holds them.

    Attributes:
        samples: Number of samples.
        units: Number of independent observations.
        class_names: Names of the classes, in the order of their numbers.
        loss: Mean of the loss.
        scores: Each score by name.
        intervals_95: The 95 % interval of each score.
        trained_on_too: Whether the model was trained on these samples too.
    """

    samples: int
    units: int
    class_names: list[str]
    loss: float
    scores: dict[str, float]
    intervals_95: dict[str, list[float]]
    trained_on_too: NotRequired[bool]


class Scores(Protocol):
    """The interface of all scores.

    Attributes:
        main: Name of the score that chooses the checkpoint.
        greater_is_better: Whether a higher main score is better.
        units: Number of independent observations.
    """

    main: str
    greater_is_better: bool
    units: int

    def update(self, logits: torch.Tensor, labels: torch.Tensor, ids: torch.Tensor) -> None:
        """Add a batch of outputs, without samples that were added before."""

    def compute(self, units: torch.Tensor | None = None) -> dict[str, float]:
        """Return the scores over all units, or over the units of the given numbers, which may repeat."""

    def details(self) -> ScoreDetails:
        """Return scores by class and the data of pictures, as values that JSON can hold."""


def bootstrap_intervals(scores: Scores, resamples: int = 200, seed: int = 0) -> dict[str, list[float]]:
    """Return the 95 % percentile interval of each score over resampled units; nothing for fewer than two units."""
    if scores.units < 2 or resamples < 1:
        return {}
    generator = torch.Generator().manual_seed(seed)
    draws = [
        scores.compute(torch.randint(scores.units, (scores.units,), generator=generator)) for _ in range(resamples)
    ]
    limits = torch.tensor([0.025, 0.975], dtype=torch.float64)
    values = {name: torch.tensor([draw[name] for draw in draws], dtype=torch.float64) for name in draws[0]}
    return {name: torch.nanquantile(value, limits).tolist() for name, value in values.items()}


class ClassificationScores:
    """Scores of images with one class each.

    Args:
        num_samples: Size of the evaluation set.
        class_names: In the order of the class numbers.
    """

    main, greater_is_better = "accuracy", True

    def __init__(self, num_samples: int, class_names: Sequence[str]) -> None:
        self.units = num_samples
        self.class_names = list(class_names)
        self.predictions = torch.zeros(num_samples, dtype=torch.int64)
        self.labels = torch.zeros(num_samples, dtype=torch.int64)
        self.seen = torch.zeros(num_samples, dtype=torch.bool)

    def update(self, logits: torch.Tensor, labels: torch.Tensor, ids: torch.Tensor) -> None:
        ids = ids.cpu()
        self.predictions[ids], self.labels[ids] = logits.argmax(1).cpu(), labels.cpu()
        self.seen[ids] = True

    def compute(self, units: torch.Tensor | None = None) -> dict[str, float]:
        _check_complete(self.seen)
        chosen = slice(None) if units is None else units
        pair, number = (self.predictions[chosen], self.labels[chosen]), len(self.class_names)
        return {
            "accuracy": multiclass_accuracy(*pair, number, average="micro").item(),
            "mean_class_accuracy": _nan_mean(_recall(multiclass_confusion_matrix(*pair, number))),
        }

    def details(self) -> ScoreDetails:
        matrix = multiclass_confusion_matrix(self.predictions, self.labels, len(self.class_names))
        return {
            "class_accuracy": _by_class(self.class_names, _recall(matrix)),
            "confusion_matrix": matrix.tolist(),
        }


class MultiLabelScores:
    """Scores of images with any number of classes each. Macro means leave out classes without positive images.

    Args:
        num_samples: Size of the evaluation set.
        class_names: In the order of the class numbers.
    """

    main, greater_is_better = "macro_map", True

    def __init__(self, num_samples: int, class_names: Sequence[str]) -> None:
        self.units = num_samples
        self.class_names = list(class_names)
        # The logits are mapped into [0, 1], because torchmetrics applies no sigmoid to such values. The mapping keeps
        # their order and their sign (above or below 0.5). A sigmoid would round large logits to 1.
        self.ranks = torch.zeros(num_samples, len(class_names), dtype=torch.float64)
        self.labels = torch.zeros(num_samples, len(class_names), dtype=torch.int64)
        self.seen = torch.zeros(num_samples, dtype=torch.bool)

    def update(self, logits: torch.Tensor, labels: torch.Tensor, ids: torch.Tensor) -> None:
        ids = ids.cpu()
        self.ranks[ids] = 0.5 + 0.5 * nn.functional.softsign(logits.cpu().double())
        self.labels[ids] = labels.cpu().long()
        self.seen[ids] = True

    def compute(self, units: torch.Tensor | None = None) -> dict[str, float]:
        _check_complete(self.seen)
        chosen = slice(None) if units is None else units
        pair, number = (self.ranks[chosen], self.labels[chosen]), len(self.class_names)
        return {
            "macro_map": _nan_mean(_average_precision(*pair)),
            "micro_map": multilabel_average_precision(*pair, number, average="micro").item(),
            "macro_f1": _nan_mean(_f1_where_positive(*pair)),
            "micro_f1": multilabel_f1_score(*pair, number, average="micro").item(),
        }

    def details(self) -> ScoreDetails:
        return {
            "average_precision": _by_class(self.class_names, _average_precision(self.ranks, self.labels)),
            "positives": dict(zip(self.class_names, self.labels.sum(0).tolist())),
        }


class RegressionScores:
    """Errors of predicted values, in their unit. With several values per image, a score is the mean over them.

    Args:
        num_samples: Size of the evaluation set.
        names: Names of the K values of an image.
    """

    main, greater_is_better = "rmse", False

    def __init__(self, num_samples: int, names: Sequence[str]) -> None:
        self.units = num_samples
        self.names = list(names)
        self.predictions, self.labels = torch.zeros(2, num_samples, len(names), dtype=torch.float64)
        self.seen = torch.zeros(num_samples, dtype=torch.bool)

    def update(self, logits: torch.Tensor, labels: torch.Tensor, ids: torch.Tensor) -> None:
        ids = ids.cpu()
        self.predictions[ids], self.labels[ids] = logits.cpu().double(), labels.cpu().double()
        self.seen[ids] = True

    def compute(self, units: torch.Tensor | None = None) -> dict[str, float]:
        _check_complete(self.seen)
        return {name: _nan_mean(values) for name, values in self._by_value(units).items()}

    def details(self) -> ScoreDetails:
        by_value = self._by_value(None)
        return {
            "mae_by_value": _by_class(self.names, by_value["mae"]),
            "rmse_by_value": _by_class(self.names, by_value["rmse"]),
            "r2_by_value": _by_class(self.names, by_value["r2"]),
        }

    def _by_value(self, units: torch.Tensor | None) -> dict[str, torch.Tensor]:
        """Return the mean absolute error, the root of the mean squared error, and R2 (NaN for constant labels)."""
        chosen = slice(None) if units is None else units
        predictions, labels = self.predictions[chosen], self.labels[chosen]
        squared = (predictions - labels).square().mean(0)
        variance = labels.var(0, correction=0)
        return {
            "mae": (predictions - labels).abs().mean(0),
            "rmse": squared.sqrt(),
            "r2": torch.where(variance > 0, 1 - squared / variance, torch.nan),
        }


class DenseScores:
    """Scores of maps. Windows of one scene are stitched first, and logits are averaged where windows overlap.

    Args:
        class_names: In the order of the class numbers.
        scenes: Name of the scene of each sample; samples without a window must have scenes of their own.
        windows: (left, top, width, height) of each sample in its scene, in pixels, or None for a whole scene.
        change: Whether class 1 is change, whose precision, recall and F1 are then added.
        background: Class that is left out of a second mean of the IoU (`miou_without_background`).
    """

    greater_is_better = True

    def __init__(
        self,
        class_names: Sequence[str],
        scenes: Sequence[str],
        windows: Sequence[Sequence[int] | None],
        change: bool = False,
        background: int | None = None,
    ) -> None:
        self.main = "f1" if change else "miou"
        self.class_names, self.change, self.background = list(class_names), change, background
        numbers = {name: number for number, name in enumerate(dict.fromkeys(scenes))}
        self.scenes, self.windows = [numbers[scene] for scene in scenes], list(windows)
        self.units = len(numbers)
        self.seen = torch.zeros(len(scenes), dtype=torch.bool)
        self.missing = torch.tensor(self.scenes).bincount(minlength=self.units).tolist()
        self.mosaics: dict[int, _Mosaic] = {}
        self.confusion = torch.zeros(self.units, len(class_names), len(class_names), dtype=torch.int64)
        self.extents: dict[int, tuple[int, int]] = {}  # height and width of what the windows of a scene cover
        for number, window in zip(self.scenes, self.windows):
            if window is not None:
                height, width = self.extents.get(number, (0, 0))
                left, top, *size = window
                self.extents[number] = (max(height, top + size[1]), max(width, left + size[0]))

    def update(self, logits: torch.Tensor, labels: torch.Tensor, ids: torch.Tensor) -> None:
        for sample, scores, truth in zip(ids.tolist(), logits.float().cpu(), labels.cpu()):
            if self.seen[sample]:
                continue
            self.seen[sample] = True
            scene, window = self.scenes[sample], self.windows[sample]
            self.missing[scene] -= 1
            if window is not None:
                mosaic = self.mosaics.setdefault(scene, _Mosaic(len(self.class_names), *self.extents[scene]))
                mosaic.add(scores, truth, window)
                if self.missing[scene]:
                    continue
                finished = self.mosaics.pop(scene)
                scores, truth = finished.scores, finished.labels
            self.confusion[scene] = multiclass_confusion_matrix(
                scores[None], truth[None], len(self.class_names), ignore_index=IGNORE_INDEX
            )

    def compute(self, units: torch.Tensor | None = None) -> dict[str, float]:
        _check_complete(self.seen)
        matrix = (self.confusion if units is None else self.confusion[units]).sum(0)
        iou = _iou(matrix)
        scores = {"oa": (matrix.trace() / matrix.sum()).item(), "miou": _nan_mean(iou)}
        if self.background is not None:
            kept = [number for number in range(len(iou)) if number != self.background]
            scores["miou_without_background"] = _nan_mean(iou[kept])
        if self.change:
            found, predicted, present = (
                value.double() for value in (matrix[1, 1], matrix[:, 1].sum(), matrix[1].sum())
            )
            scores["precision"] = (found / predicted).nan_to_num(0.0).item()
            scores["recall"] = (found / present).nan_to_num(0.0).item()
            scores["f1"] = (2 * found / (predicted + present)).nan_to_num(0.0).item()
        return scores

    def details(self) -> ScoreDetails:
        matrix = self.confusion.sum(0)
        return {"iou": _by_class(self.class_names, _iou(matrix)), "confusion_matrix": matrix.tolist()}


class _Mosaic:
    """One scene, assembled from windows with the blending weights of `predict_scene`."""

    def __init__(self, num_classes: int, height: int, width: int) -> None:
        self.scores = torch.zeros(num_classes, height, width)
        self.labels = torch.full((height, width), IGNORE_INDEX)

    def add(self, scores: torch.Tensor, labels: torch.Tensor, window: Sequence[int]) -> None:
        left, top, width, height = window
        inside = (..., slice(top, top + height), slice(left, left + width))
        # The largest weighted sum belongs to the same class as the largest weighted mean, so the sums are not divided.
        self.scores[inside] += scores[:, :height, :width] * self._weights(height, width)
        known = labels[:height, :width] != IGNORE_INDEX
        self.labels[inside][known] = labels[:height, :width][known]

    @staticmethod
    @lru_cache
    def _weights(height: int, width: int) -> torch.Tensor:
        return torch.from_numpy(np.outer(blending_weights(height), blending_weights(width)).astype(np.float32))


def _check_complete(seen: torch.Tensor) -> None:
    if not seen.all():
        raise ValueError(f"Expected all {len(seen)} samples before scores are computed, got {int(seen.sum())}.")


def _average_precision(ranks: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Return the average precision of each class; NaN where it has no positive image."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="No positive samples")
        values = multilabel_average_precision(ranks, labels, labels.shape[1], average="none")
    return torch.where(labels.any(0), values, torch.nan)


def _f1_where_positive(ranks: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    values = multilabel_f1_score(ranks, labels, labels.shape[1], average="none")
    return torch.where(labels.any(0), values, torch.nan)


def _recall(matrix: torch.Tensor) -> torch.Tensor:
    return matrix.diagonal().double() / matrix.sum(1)


def _iou(matrix: torch.Tensor) -> torch.Tensor:
    """Return the intersection over union of each class; NaN where it is neither present nor predicted."""
    both = matrix.diagonal().double()
    return both / (matrix.sum(0) + matrix.sum(1) - both)


def _nan_mean(values: torch.Tensor) -> float:
    return values.nanmean().item()


def _by_class(names: Sequence[str], values: torch.Tensor) -> dict[str, float | None]:
    return {name: None if value != value else value for name, value in zip(names, values.tolist())}
