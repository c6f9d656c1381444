"""Compare features on EuroSAT with few labels: frozen networks, untrained networks, and statistics of the pixels.

The labelled images are split into parts. All choices are made on the training part; the test part is scored once.
Cross-validation holds out whole blocks of half a degree, because neighbouring images of EuroSAT are alike, and for
comparison single images, as is usual.
"""

import csv
import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NotRequired, TypedDict

import numpy as np
import rasterio
import torch
from tqdm.auto import tqdm
from transformers import AutoModel
from transformers.models.auto.image_processing_auto import AutoImageProcessor

from ..data.readers.common import PathLike, find_folder
from ..data.readers.eurosat import EUROSAT_CLASSES, load_eurosat
from ..inference.pictures import composite, to_image
from ..modeling.bands import EUROSAT_FILE_BANDS
from ..modeling.image_processing_spectralgpt import SpectralGPTImageProcessor
from ..modeling.modeling_spectralgpt import SpectralGPTModel
from .probing import (
    METHODS,
    best_weight_decay,
    bootstrap_interval,
    classify,
    cross_validate,
    draw_shots,
    fold_numbers,
    pixel_statistics,
    principal_components,
    read_out,
)


BLOCKS_PER_DEGREE = 2
FOLDS = 5
# Folds and methods of the scores by which runs and recipes of pretraining are compared.
FOLD_COLUMNS = [(kind, method) for kind in ("random", "spatial") for method in ("linear", "neighbours")]
TRUE_COLOUR_LIMITS = np.array([[0, 3000]] * 3)  # digital numbers of red, green and blue


class Accuracy(TypedDict):
    """An accuracy and its 95 % interval."""

    accuracy: float
    interval_95: tuple[float, float]


class Difference(TypedDict):
    """A difference of accuracies and its 95 % interval."""

    difference: float
    interval_95: tuple[float, float]


class MeanStd(TypedDict):
    """Mean and standard deviation over repetitions, and the values of these if they are kept."""

    mean: float
    std: float
    runs: NotRequired[list[float]]


class FeatureScores(TypedDict):
    """The scores of one contestant.

    Attributes:
        weight_decay: Weight decay of the linear classifier, chosen by spatial folds of the training part.
        folds: Accuracy in cross-validation of the training part, by kind of folds and method.
        test: Accuracy on the test part, by method.
        correct: Whether each test image is classified correctly, by method.
        few_shot: Accuracy on the test part, by method and number of training images per class.
    """

    weight_decay: float
    folds: dict[str, dict[str, float]]
    test: NotRequired[dict[str, Accuracy]]
    correct: NotRequired[dict[str, list[bool]]]
    few_shot: NotRequired[dict[str, dict[str, MeanStd]]]


class Contest(TypedDict):
    """The scores of all contestants.

    Attributes:
        train_part, test_part: Parts of the images; `test_part` is None if none is scored.
        contestants: Scores by contestant.
        differences: For each checkpoint and each other contestant, the paired difference by method.
        fine_tuning: For each starting point, the accuracy of few-shot fine-tuning by number of images per class.
        fine_tuning_differences: Paired differences between starting points, by number of images per class.
    """

    train_part: str
    test_part: str | None
    contestants: dict[str, FeatureScores]
    differences: dict[str, dict[str, dict[str, Difference]]]
    fine_tuning: NotRequired[dict[str, dict[str, MeanStd]]]
    fine_tuning_differences: NotRequired[dict[str, dict[str, Difference]]]


@dataclass(frozen=True)
class LabelledImages:
    """EuroSAT images in memory.

    Attributes:
        ids: Names of the images.
        pixels: Digital numbers (N, 13, 64, 64), in the order of EuroSAT's files.
        labels: Class numbers (N,).
        blocks: The block of half a degree that each image is in.
        parts: The part of a fixed split that each image belongs to, from `index.csv`; "all" if there is no such file.
    """

    ids: list[str]
    pixels: np.ndarray
    labels: torch.Tensor
    blocks: list[str]
    parts: list[str]

    def of(self, part: str) -> torch.Tensor:
        """Return whether each image belongs to a part, (N,) bool.

        Raises:
            ValueError: If no image does.
        """
        chosen = torch.tensor([found == part for found in self.parts])
        if not chosen.any():
            raise ValueError(f"Expected a part among {', '.join(sorted(set(self.parts)))}, got {part!r}.")
        return chosen


def read_labelled(root: PathLike) -> LabelledImages:
    """Read EuroSAT images, the block of each, and `index.csv` (columns `file` and `part`) if there is one.

    Raises:
        FileNotFoundError: If there are no class folders below `root`.
    """
    dataset = load_eurosat(root, "all")
    folder = Path(find_folder(root, *(f"{name}/{name}_*.tif" for name in EUROSAT_CLASSES)))
    part_of: dict[str, str] = {}
    if (folder / "index.csv").is_file():
        with open(folder / "index.csv", newline="", encoding="utf-8") as file:
            part_of = {Path(row["file"]).stem: row["part"] for row in csv.DictReader(file)}
    ids = list(dataset["id"])
    return LabelledImages(
        ids,
        np.stack([np.asarray(pixels) for pixels in dataset["pixels"]]),
        torch.tensor(dataset["label"]),
        [_block(folder / name.rpartition("_")[0] / f"{name}.tif") for name in ids],
        [part_of.get(name, "all") for name in ids],
    )


@torch.no_grad()
def network_features(
    model: SpectralGPTModel, processor: SpectralGPTImageProcessor, images: LabelledImages, name: str
) -> torch.Tensor:
    """Return a read-out (N, F) of the images, which are prepared by the processor that is saved with the model."""
    features = []
    for start in tqdm(range(0, len(images.pixels), 32), desc="Features", disable=None):
        batch = processor.preprocess(list(images.pixels[start : start + 32]), band_names=EUROSAT_FILE_BANDS)
        features.append(read_out(model.eval(), batch["pixel_values"], name).float())
    return torch.cat(features)


@torch.no_grad()
def image_model_features(name: str, images: LabelledImages) -> torch.Tensor:
    """Return features (N, F) of another image model of transformers, which sees true colour of 8 bits.

    Pooled output where the model has one, else the mean of its last hidden state. All images have one stretch.

    Args:
        name: Folder or name on the Hub of a model with an image processor.
        images: N of them.

    Raises:
        OSError: If there is no such model.
    """
    model = AutoModel.from_pretrained(name, dtype=torch.float32).eval()
    processor = AutoImageProcessor.from_pretrained(name)
    features = []
    for start in tqdm(range(0, len(images.pixels), 32), desc=f"Features, {name}", disable=None):
        pictures = [
            to_image(composite(pixels, EUROSAT_FILE_BANDS, limits=TRUE_COLOUR_LIMITS))
            for pixels in images.pixels[start : start + 32]
        ]
        outputs = model(**processor(pictures, return_tensors="pt"))
        if getattr(outputs, "pooler_output", None) is not None:
            features.append(outputs.pooler_output.flatten(1))
        else:
            hidden = outputs.last_hidden_state
            features.append(hidden.mean((2, 3)) if hidden.ndim == 4 else hidden.mean(1))
    return torch.cat(features)


def baseline_features(
    processor: SpectralGPTImageProcessor, images: LabelledImages, fitted: torch.Tensor
) -> dict[str, torch.Tensor]:
    """Return features that need no network: statistics of the digital numbers and of the input, and its components.

    Args:
        processor: Processor of the model.
        images: N images.
        fitted: (N,) bool, the images from which the principal components are computed.
    """
    inputs = processor.preprocess(list(images.pixels), band_names=EUROSAT_FILE_BANDS)["pixel_values"]
    return {
        "mean and std of digital numbers": pixel_statistics(torch.from_numpy(images.pixels.astype(np.float32))),
        "mean and std of the input": pixel_statistics(inputs),
        "principal components of the input": principal_components(inputs, inputs[fitted]),
    }


def score_features(
    features: torch.Tensor,
    images: LabelledImages,
    train: torch.Tensor,
    test: torch.Tensor | None = None,
    *,
    repeats: int = 5,
    shots: Sequence[int] = (1, 2, 5, 10),
    draws: int = 20,
) -> FeatureScores:
    """Score one contestant.

    Args:
        features: Features (N, F) of all images.
        images: The images, with labels and blocks.
        train: (N,) bool, images of the training part.
        test: (N,) bool, images of the test part; None to leave it out.
        repeats: Repetitions of the cross-validation, each with other folds.
        shots: Numbers of training images per class.
        draws: Number of random draws of these images.
    """
    x, y = features[train], images.labels[train]
    blocks = [block for block, chosen in zip(images.blocks, train.tolist()) if chosen]
    decay = best_weight_decay(x, y, fold_numbers(y, blocks, FOLDS, seed=0))
    result: FeatureScores = {"weight_decay": decay, "folds": {}}
    for kind, grouped in (("spatial", blocks), ("random", None)):
        folds = [fold_numbers(y, grouped, FOLDS, seed) for seed in range(repeats)]
        result["folds"][kind] = {
            method: np.mean([cross_validate(method, x, y, fold, decay).float().mean() for fold in folds]).item()
            for method in METHODS
        }
    if test is None:
        return result
    result["test"], result["correct"], result["few_shot"] = {}, {}, {}
    chosen = [[draw_shots(y, count, draw) for draw in range(draws)] for count in shots]
    for method in METHODS:
        correct = classify(method, x, y, features[test], decay) == images.labels[test]
        result["correct"][method] = correct.tolist()
        result["test"][method] = {"accuracy": correct.float().mean().item(), "interval_95": bootstrap_interval(correct)}
        curve: dict[str, MeanStd] = {}
        for count, draws_of in zip(shots, chosen):
            accuracies = [
                (classify(method, x[i], y[i], features[test], decay, k=count) == images.labels[test]).float().mean()
                for i in draws_of
            ]
            curve[str(count)] = {"mean": float(np.mean(accuracies)), "std": float(np.std(accuracies))}
        result["few_shot"][method] = curve
    return result


def fold_accuracies(
    features: torch.Tensor, images: LabelledImages, part: torch.Tensor | None = None, repeats: int = 3
) -> np.ndarray:
    """Return the accuracies of `FOLD_COLUMNS` (4,).

    Args:
        features: Features (N, F) of all images.
        images: The images.
        part: (N,) bool, the images that are cross-validated; all by default.
        repeats: Repetitions of the cross-validation.
    """
    chosen = torch.ones(len(features), dtype=torch.bool) if part is None else part
    folds = score_features(features, images, chosen, repeats=repeats)["folds"]
    return np.array([folds[kind][method] for kind, method in FOLD_COLUMNS])


def compare(first: FeatureScores, others: Sequence[FeatureScores]) -> dict[str, Difference]:
    """Return the difference of accuracy between two contestants by method, paired by test image.

    Args:
        first: Scores of one contestant, with a test part.
        others: Scores of the other contestant for one or more seeds, of which the mean is taken.
    """
    result: dict[str, Difference] = {}
    for method in METHODS:
        mean = torch.tensor([other["correct"][method] for other in others], dtype=torch.float64).mean(0)
        difference = torch.tensor(first["correct"][method], dtype=torch.float64) - mean
        result[method] = {"difference": difference.mean().item(), "interval_95": bootstrap_interval(difference)}
    return result


def _block(path: str | os.PathLike[str]) -> str:
    with rasterio.open(path) as source:
        return "_".join(str(math.floor(BLOCKS_PER_DEGREE * degrees)) for degrees in source.lnglat())
