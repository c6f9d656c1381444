# Copyright 2026 The SpectralGPT-HF authors.
#
# Licensed under the Apache License, Version 2.0 (the "License");
# you may not use this file except in compliance with the License.
# You may obtain a copy of the License at
#
#     http://www.apache.org/licenses/LICENSE-2.0
#
# Unless required by applicable law or agreed to in writing, software
# distributed under the License is distributed on an "AS IS" BASIS,
# WITHOUT WARRANTIES OR CONDITIONS OF ANY KIND, either express or implied.
# See the License for the specific language governing permissions and
# limitations under the License.
"""Convert the outputs of a model to labels with scores, and to maps on the grid of the image."""

import colorsys
import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

import numpy as np
import torch
from torch import nn
from transformers.image_processing_base import BatchFeature

from .geometry import PreprocessingReport, Sizes
from .rasters import Raster


PROBLEM_TYPES: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "single_label_classification": lambda logits: logits.softmax(-1),
    "multi_label_classification": torch.sigmoid,
    "regression": lambda logits: logits,
}


THRESHOLD = 0.5
"""Probability from which a pixel counts as changed, or as the one class of a model of one class."""

USUAL_COLOURS = {
    ("water", "river", "lake", "sea"): (40, 110, 200),
    ("tree", "forest"): (20, 110, 40),
    ("wetland", "flooded"): (90, 190, 160),
    ("crop", "arable", "cultivated"): (235, 190, 70),
    ("grass", "pasture", "meadow", "vegetation"): (150, 205, 90),
    ("range", "shrub", "herbaceous"): (190, 180, 110),
    ("built", "artificial", "urban", "residential"): (200, 50, 45),
    ("industr", "highway", "road"): (130, 60, 130),
    ("bare", "sand", "rock", "open"): (165, 130, 100),
    ("snow", "ice"): (225, 240, 250),
    ("cloud",): (170, 170, 170),
}
"""Colours of classes whose name has a word that begins with one of these."""

Logits = TypeVar("Logits", np.ndarray, torch.Tensor)


class PostProcessing:
    """The methods of `SpectralGPTImageProcessor` that process outputs of a model. They use none of its attributes."""

    def post_process_image_classification(
        self,
        outputs: Any,
        top_k: int | None = 5,
        threshold: float | None = None,
        id2label: Mapping[int, str] | None = None,
        problem_type: str | None = None,
    ) -> list[list[dict[str, Any]]]:
        """Turn logits into labels with scores, the best first, or into predicted values.

        Args:
            outputs: Outputs with `logits` (B, K).
            top_k: Largest number of labels per image; None for all.
            threshold: Smallest score of the returned labels; None for all.
            id2label: Names of the labels (`model.config.id2label`). By default labels are returned as numbers.
            problem_type: `model.config.problem_type`: scores come from a softmax for "single_label_classification",
                from a sigmoid for "multi_label_classification". For "regression" they are all of the outputs, in the
                order of the labels. By default a sigmoid if `threshold` is given or there is one label, else a
                softmax.

        Returns:
            For each image, a list of dicts with the keys `label` and `score`.

        Raises:
            ValueError: If the problem type is unknown.
        """
        logits = outputs.logits.float()
        if problem_type is None:
            exclusive = threshold is None and logits.shape[-1] > 1
            problem_type = "single_label_classification" if exclusive else "multi_label_classification"
        if problem_type not in PROBLEM_TYPES:
            raise ValueError(f"`problem_type` must be one of {', '.join(PROBLEM_TYPES)}, got {problem_type!r}.")
        scores, labels = PROBLEM_TYPES[problem_type](logits).sort(descending=True)
        if problem_type == "regression":
            scores, labels = logits, torch.arange(logits.shape[-1]).expand_as(logits)
            top_k = threshold = None
        return [
            [
                {"label": str(label) if id2label is None else id2label[label], "score": score}
                for score, label in zip(scores[i, :top_k].tolist(), labels[i, :top_k].tolist())
                if threshold is None or score >= threshold
            ]
            for i in range(len(logits))
        ]

    def post_process_semantic_segmentation(
        self,
        outputs: Any,
        target_sizes: Sequence[tuple[int, int]] | None = None,
        reports: Sequence[PreprocessingReport] | None = None,
        return_segmentation_scores: bool = False,
        threshold: float | None = None,
    ) -> list[Any]:
        """Turn logits into maps of class numbers.

        Maps of a model of one class are 1 where its probability is at least `threshold`, and 0 elsewhere.

        Args:
            outputs: Outputs with `logits` (B, K, H, W).
            target_sizes: (height, width) of each map; that of the logits by default.
            reports: Reports of `preprocess`. If given, the maps get the size and the georeference of the source:
                padding is cropped off and resizing reversed.
            return_segmentation_scores: Whether to return also the scores of the classes.
            threshold: For a model of one class only; 0.5 by default.

        Returns:
            For each image a map (H, W), int64. With `reports`, a `Raster` whose only band is the map (uint8, or uint16
            for more than 256 classes), with the valid mask of the source. With `return_segmentation_scores`, a dict
            with `segmentation` (this map) and `segmentation_scores` (K, H, W), which are also attributes.

        Raises:
            ValueError: If a `threshold` is given for several classes.
        """
        if threshold is not None and outputs.logits.shape[1] > 1:
            raise ValueError(
                f"`threshold` is for models of one class, found {outputs.logits.shape[1]}: the class of the largest "
                "logit is taken."
            )
        scores = list(to_source_grids(outputs.logits, target_sizes, reports))
        maps: list[Any] = [choose_classes(of_classes, threshold) for of_classes in scores]
        if reports is not None:
            maps = [georeference(*pair) for pair in zip(maps, reports)]
        if not return_segmentation_scores:
            return maps
        # transformers 5.23 has a class for this, which is a `BatchFeature` with these keys.
        return [BatchFeature({"segmentation": map_, "segmentation_scores": s}) for map_, s in zip(maps, scores)]

    def post_process_change_detection(
        self,
        outputs: Any,
        target_sizes: Sequence[tuple[int, int]] | None = None,
        reports: Sequence[PreprocessingReport] | None = None,
        threshold: float = THRESHOLD,
    ) -> list[torch.Tensor] | list[Raster]:
        """Turn logits (B, 2, H, W) into maps of change: 1 where its probability is at least `threshold`, else 0.

        Other arguments and result as in `post_process_semantic_segmentation`.
        """
        scores = to_source_grids(outputs.logits, target_sizes, reports)
        maps = [choose_classes(logits, threshold) for logits in scores]
        return maps if reports is None else [georeference(*pair) for pair in zip(maps, reports)]


def choose_classes(logits: Logits, threshold: float | None = None) -> Logits:
    """Return the class number (H, W), int64, of each pixel: the rule of every map.

    Args:
        logits: (K, H, W). A single logit is compared with that of "not this class", which is 0.
        threshold: Probability from which a pixel belongs to class 1, for K = 1 (0.5 by default) or K = 2. Without it,
            the class of the largest logit is taken.

    Raises:
        ValueError: If the threshold is not a probability, or there are more than two classes.
    """
    if len(logits) == 1 and threshold is None:
        threshold = THRESHOLD
    if threshold is None:
        return logits.argmax(0)
    if not 0 <= threshold <= 1 or len(logits) > 2:
        raise ValueError(
            f"Expected a `threshold` between 0 and 1, for one or two classes, got {threshold} for {len(logits)}."
        )
    # Log-odds are compared, because an exponential rounds otherwise in other libraries and other array positions.
    odds = threshold / (1 - threshold) if threshold < 1 else math.inf
    chosen = logits[-1] - (logits[0] if len(logits) == 2 else 0.0) >= (math.log(odds) if odds else -math.inf)
    return chosen.astype(np.int64) if isinstance(chosen, np.ndarray) else chosen.long()


def map_class_names(id2label: Mapping[int, str], num_labels: int) -> list[str]:
    """Return the names of the numbers in a map: those of the labels; of a single label also that of its absence."""
    names = [str(id2label[number]) for number in range(num_labels)]
    return [f"not {names[0]}", *names] if num_labels == 1 else names


def to_source_grids(
    logits: torch.Tensor,
    target_sizes: Sequence[tuple[int, int]] | None,
    reports: Sequence[PreprocessingReport] | None,
) -> Iterator[torch.Tensor]:
    """Yield the scores (K, H, W) of each image at the size of its source (without padding), or at its target size.

    Around a centre crop, the scores of its edge are repeated. `georeference` marks these pixels as invalid.

    Raises:
        ValueError: If there is not one report or target for each image.
    """
    for given in (target_sizes, reports):
        if given is not None and len(given) != len(logits):
            raise ValueError(f"Expected one size or report for each of the {len(logits)} images, found {len(given)}.")
    for i, scores in enumerate(logits.float()):
        if reports is not None:
            sizes = reports[i].sizes
            kept = _resize(scores, sizes.padded)[:, : sizes.cropped[0], : sizes.cropped[1]]
            yield _resize(_around_crop(kept, sizes), sizes.original)
        else:
            yield scores if target_sizes is None else _resize(scores, target_sizes[i])


def class_colours(names: Sequence[str]) -> np.ndarray:
    """Return a colour for each class, (K, 3) uint8: that of `USUAL_COLOURS` if a word of its name is found there.

    The hues of other classes are a golden angle apart, and saturation and brightness alternate, so that neighbours
    differ.
    """
    colours = []
    for number, name in enumerate(names):
        words = re.findall("[a-z]+", name.lower())
        usual = [colour for begin, colour in USUAL_COLOURS.items() if any(word.startswith(begin) for word in words)]
        hue, saturation, value = (0.58 + number * 0.381966) % 1, (0.75, 0.45)[number % 2], (0.8, 0.95, 0.55)[number % 3]
        colour = tuple(round(255 * part) for part in colorsys.hsv_to_rgb(hue, saturation, value))
        colours.append(next((other for other in usual if other not in colours), colour))
    return np.array(colours, np.uint8).reshape(len(colours), 3)


def georeference(labels: torch.Tensor, report: PreprocessingReport) -> Raster:
    """Return a map of labels (H, W) as a raster on the grid of the report's image.

    It is valid where that image has data and inside its centre crop.
    """
    pixels = labels[None].cpu().numpy().astype(np.uint8 if labels.max() < 256 else np.uint16)
    valid = np.ones(labels.shape, bool) if report.valid is None else report.valid.cpu().numpy()
    valid = valid & _within_crop(report.sizes)
    tags = {**report.tags, "normalization": report.normalization}
    return Raster(pixels, None, valid, report.crs, report.transform, tags, None)


def _around_crop(scores: torch.Tensor, sizes: Sizes) -> torch.Tensor:
    """Bring scores (K, h, w) of a centre crop to the size of the resized image."""
    rows, columns = sizes.crop
    height, width = sizes.resized
    margins = (columns.start, width - columns.stop, rows.start, height - rows.stop)
    return nn.functional.pad(scores[None], margins, mode="replicate")[0] if any(margins) else scores


def _within_crop(sizes: Sizes) -> np.ndarray:
    """Return whether the centre of each pixel of the source (H, W) is inside the centre crop."""
    inside = []
    for kept, resized, original in zip(sizes.crop, sizes.resized, sizes.original):
        centres = (np.arange(original) + 0.5) * resized / original
        inside.append((centres >= kept.start) & (centres < kept.stop))
    return inside[0][:, None] & inside[1]


def _resize(scores: torch.Tensor, size: tuple[int, ...]) -> torch.Tensor:
    if scores.shape[1:] == tuple(size):
        return scores
    return nn.functional.interpolate(scores[None], tuple(size), mode="bilinear", align_corners=False)[0]
