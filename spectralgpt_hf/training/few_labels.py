"""A contest of features with few labels, on EuroSAT: frozen networks, untrained ones, and statistics of the pixels.

The labelled images are split into parts. Everything is decided on the training part; a test part is looked at once.
Folds hold out whole blocks of half a degree, because EuroSAT images lie side by side, and single images, as is usual.
"""

import csv
import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

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
TRUE_COLOUR_LIMITS = np.array([[0, 3000]] * 3)  # digital numbers of red, green and blue


@dataclass(frozen=True)
class LabelledImages:
    """EuroSAT images in memory.

    Attributes:
        ids: Names of the images.
        pixels: Digital numbers (N, 13, 64, 64), in the order of EuroSAT's files.
        labels: Class numbers (N,).
        blocks: Of half a degree, in which each image lies.
        parts: Which part of a fixed split each image belongs to, as `index.csv` says; "all" without it.
    """

    ids: list[str]
    pixels: np.ndarray
    labels: torch.Tensor
    blocks: list[str]
    parts: list[str]

    def of(self, part: str) -> torch.Tensor:
        """Return which images (N,) belong to a part.

        Raises:
            ValueError: If none does.
        """
        chosen = torch.tensor([found == part for found in self.parts])
        if not chosen.any():
            raise ValueError(f"Expected a part among {', '.join(sorted(set(self.parts)))}, got {part!r}.")
        return chosen


def read_labelled(root: PathLike) -> LabelledImages:
    """Read EuroSAT images, the block where each lies, and `index.csv` (columns `file` and `part`) where there is one.

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
    """Return a read-out (N, F) of the images, prepared by the processor that is saved with the model."""
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
    """Return what needs no network: statistics of the digital numbers and of the model's input, and its main axes.

    Args:
        processor: Of the model.
        images: N of them.
        fitted: (N,) bool, those that the axes are found on.
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
) -> dict[str, Any]:
    """Score one contestant.

    Args:
        features: (N, F) of all images.
        images: Their labels and blocks.
        train: (N,) bool, images of the training part.
        test: (N,) bool, images of the test part, if it is to be looked at.
        repeats: Of the cross-validation, each with other folds.
        shots: Numbers of training images of each class.
        draws: How often these are drawn.

    Returns:
        `weight_decay` of the linear classifier, chosen by spatial folds of the training part; `folds`, the accuracy in
        cross-validation of the training part, by kind of folds and method; with `test` also `test`, the accuracy and
        its interval by method, `correct`, whether each test image is right, and `few_shot`, mean and deviation by
        method and number of shots.
    """
    x, y = features[train], images.labels[train]
    blocks = [block for block, chosen in zip(images.blocks, train.tolist()) if chosen]
    decay = best_weight_decay(x, y, fold_numbers(y, blocks, FOLDS, seed=0))
    result: dict[str, Any] = {"weight_decay": decay, "folds": {}}
    for kind, grouped in (("spatial", blocks), ("random", None)):
        folds = [fold_numbers(y, grouped, FOLDS, seed) for seed in range(repeats)]
        result["folds"][kind] = {
            method: np.mean([cross_validate(method, x, y, fold, decay).float().mean() for fold in folds]).item()
            for method in METHODS
        }
    if test is None:
        return result
    result |= {"test": {}, "correct": {}, "few_shot": {}}
    chosen = [[draw_shots(y, count, draw) for draw in range(draws)] for count in shots]
    for method in METHODS:
        correct = classify(method, x, y, features[test], decay) == images.labels[test]
        result["correct"][method] = correct.tolist()
        result["test"][method] = {"accuracy": correct.float().mean().item(), "interval_95": bootstrap_interval(correct)}
        curve = {}
        for count, draws_of in zip(shots, chosen):
            accuracies = [
                (classify(method, x[i], y[i], features[test], decay, k=count) == images.labels[test]).float().mean()
                for i in draws_of
            ]
            curve[str(count)] = {"mean": float(np.mean(accuracies)), "std": float(np.std(accuracies))}
        result["few_shot"][method] = curve
    return result


def compare(first: dict[str, Any], others: Sequence[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Return by how much one contestant is better than others (several seeds count as one), test image by test image.

    Args:
        first: From `score_features` with a test part.
        others: The same, of one contestant with one or more seeds.
    """
    result = {}
    for method in METHODS:
        mean = torch.tensor([other["correct"][method] for other in others], dtype=torch.float64).mean(0)
        difference = torch.tensor(first["correct"][method], dtype=torch.float64) - mean
        result[method] = {"difference": difference.mean().item(), "interval_95": bootstrap_interval(difference)}
    return result


def _block(path: str | os.PathLike[str]) -> str:
    with rasterio.open(path) as source:
        return "_".join(str(math.floor(BLOCKS_PER_DEGREE * degrees)) for degrees in source.lnglat())
