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
"""Pipelines for multispectral images: from files or arrays to labels, maps of classes or change, and features."""

# The base class declares its hooks without types, or with those of other tasks.
# mypy: disable-error-code="override, assignment"

from collections.abc import Iterator, Mapping, Sized
from dataclasses import replace
from itertools import chain, islice
from types import SimpleNamespace
from typing import Any

import torch
from torch.utils.data import DataLoader
from transformers.models.auto.modeling_auto import (
    AutoModel,
    AutoModelForImageClassification,
    AutoModelForSemanticSegmentation,
    AutoModelForUniversalSegmentation,
)
from transformers.pipelines import PIPELINE_REGISTRY
from transformers.pipelines.base import Pipeline, no_collate_fn
from transformers.pipelines.pt_utils import PipelineDataset, PipelineIterator

from .band_plan import require_same_bands
from .geometry import PreprocessingReport


# How many batches of inputs are read ahead, to find images of one size.
LOOK_AHEAD = 4


class MultispectralPipeline(Pipeline):
    """What the pipelines share: inputs of any kind and any number, in batches of images of one size.

    Inputs are what `SpectralGPTImageProcessor` takes as an image (path, URL, TIFF bytes, STAC item, array, tensor):
    one of them, a list, a generator, or a dataset. `band_names`, `nodata`, `offset`, `mask` and `statistics` are passed
    to the processor. If it wants `statistics` and there are none, they are measured on each image.
    """

    model: Any
    image_processor: Any

    _load_processor = False
    _load_image_processor = True
    _load_video_processor = False
    _load_feature_extractor = False
    _load_tokenizer = False

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        require_same_bands(self.model.config.bands, self.image_processor.bands)

    def __call__(self, inputs: Any, **kwargs: Any) -> Any:
        """Run the pipeline.

        Args:
            inputs: One input, a list (gives a list), or a generator or dataset (gives an iterator, in the same order).
            kwargs: `batch_size`, `num_workers`, the processor's arguments and those of the pipeline.
        """
        inputs = self._as_inputs(inputs)
        return [] if isinstance(inputs, list) and not inputs else super().__call__(inputs, **kwargs)

    def get_iterator(
        self,
        inputs: Any,
        num_workers: int,
        batch_size: int,
        preprocess_params: dict[str, Any],
        forward_params: dict[str, Any],
        postprocess_params: dict[str, Any],
    ) -> PipelineIterator:
        """Return the results in the order of the inputs."""
        if isinstance(inputs, Sized):
            dataset = PipelineDataset(inputs, self.preprocess, preprocess_params)
        else:
            dataset = PipelineIterator(inputs, self.preprocess, preprocess_params)
            num_workers = min(num_workers, 1)  # each worker would go through the whole generator
        loader = DataLoader(dataset, num_workers=num_workers, batch_size=1, collate_fn=no_collate_fn)
        outputs = self._forward_by_size(iter(loader), batch_size, forward_params)
        return PipelineIterator(outputs, self.postprocess, postprocess_params)

    def preprocess(self, input_: Any, **options: Any) -> dict[str, Any]:
        if self.image_processor.statistics_scope == "given":
            options = self._with_statistics(input_, options)
        batch, reports = self.image_processor(input_, return_tensors="pt", report=True, **options)
        return {**batch, "reports": reports}

    def _forward(self, model_inputs: dict[str, Any], **options: Any) -> dict[str, Any]:
        inputs = {key: value for key, value in model_inputs.items() if key != "reports"}
        return {"logits": self.model(**inputs).logits.float(), "reports": model_inputs["reports"]}

    def _as_inputs(self, inputs: Any) -> Any:
        """Return several inputs as a list or a generator, which is how the base class tells them from one."""
        if isinstance(inputs, tuple) or getattr(inputs, "ndim", 3) == 4:
            return list(inputs)
        return (item for item in inputs) if isinstance(inputs, Iterator) else inputs

    def _with_statistics(self, images: Any, options: dict[str, Any]) -> dict[str, Any]:
        """Add statistics of the images together, unless they are given or not needed."""
        if options.get("statistics") is not None or not self.image_processor.measures_pixels:
            return options
        options = {key: value for key, value in options.items() if key != "statistics"}
        statistics = self.image_processor.measure_statistics(images, **options)
        return {**options, "statistics": statistics, "warn": False}  # measuring has raised the warnings

    def _forward_by_size(
        self, items: Iterator[dict[str, Any]], batch_size: int, forward_params: dict[str, Any]
    ) -> Iterator[dict[str, Any]]:
        """Yield the outputs for each item, in order; items that are near each other and of one size share a batch."""
        while window := list(islice(items, batch_size * LOOK_AHEAD if batch_size > 1 else 1)):
            by_size: dict[tuple[int, ...], list[int]] = {}
            for i, item in enumerate(window):
                by_size.setdefault(tuple(item["pixel_values"].shape), []).append(i)
            results: dict[int, dict[str, Any]] = {}
            for indices in by_size.values():
                for start in range(0, len(indices), batch_size):
                    part = indices[start : start + batch_size]
                    outputs = self.forward(_collate([window[i] for i in part]), **forward_params)
                    for position, i in enumerate(part):
                        results[i] = {key: value[position : position + 1] for key, value in outputs.items()}
            yield from (results[i] for i in range(len(window)))


class MultispectralImageClassificationPipeline(MultispectralPipeline):
    """Labels with scores. Task: `multispectral-image-classification`.

    Each result is a list of `{"label": ..., "score": ...}`, the best first: at most `top_k` (5 by default), and with
    `threshold` those that score at least this. Scores follow `config.problem_type`: with
    `"multi_label_classification"`, or one label, each has a probability of its own (sigmoid); otherwise they share one
    (softmax). With `"regression"` the scores are the predicted values, in the order of the labels.
    """

    def _sanitize_parameters(
        self, top_k: int | None = None, threshold: float | None = None, **processing: Any
    ) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
        return processing, {}, _given(top_k=top_k, threshold=threshold)

    def postprocess(
        self, model_outputs: dict[str, Any], top_k: int = 5, threshold: float | None = None
    ) -> list[dict[str, Any]]:
        config = self.model.config
        one_of_many = config.problem_type is None and config.num_labels > 1
        problem_type = "single_label_classification" if one_of_many else config.problem_type
        (labels,) = self.image_processor.post_process_image_classification(
            SimpleNamespace(**model_outputs), top_k, threshold, config.id2label, problem_type
        )
        return labels


class MultispectralImageSegmentationPipeline(MultispectralPipeline):
    """A map of classes. Task: `multispectral-image-segmentation`.

    Each result is `{"map": ..., "labels": [...]}`: a `Raster` on the grid of the input, georeferenced if the input is,
    whose one band holds class numbers; and for each class that occurs `{"label": ..., "id": ..., "share": ...}`, with
    its share of the pixels with data, the largest first.
    """

    def _sanitize_parameters(self, **processing: Any) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
        return processing, {}, {}

    def postprocess(self, model_outputs: dict[str, Any]) -> dict[str, Any]:
        (result,) = self.image_processor.post_process_semantic_segmentation(
            SimpleNamespace(**model_outputs), reports=model_outputs["reports"]
        )
        counts = torch.from_numpy(result.pixels[0][result.valid]).long().bincount().tolist()
        shares = sorted((count / sum(counts), i) for i, count in enumerate(counts) if count)
        names = self.model.config.id2label
        labels = [{"label": names[i], "id": i, "share": share} for share, i in reversed(shares)]
        return {"map": result, "labels": labels}


class MultispectralChangeDetectionPipeline(MultispectralPipeline):
    """A map of change between two dates. Task: `multispectral-change-detection`.

    An input is a pair `(before, after)` or `{"before": ..., "after": ...}` on one grid; several are a list of pairs.
    Both dates are normalised alike, with statistics measured on the pair. Each result is `{"map": ..., "share": ...}`:
    a `Raster` on the grid of the input with 1 where the probability of change is at least `threshold` (0.5 by default),
    and the share of changed pixels among those with data in both dates.
    """

    def preprocess(self, input_: Any, **options: Any) -> dict[str, Any]:
        if isinstance(input_, Mapping) and {"before", "after"} <= input_.keys():
            input_ = (input_["before"], input_["after"])
        if not isinstance(input_, list | tuple) or len(input_) != 2:
            raise ValueError(
                "Expected a pair (before, after) or {'before': ..., 'after': ...}, for several a list of such pairs, "
                f"found {type(input_).__name__}."
            )
        pair = list(input_)
        options = self._with_statistics(pair, options)
        batch, (before, after) = self.image_processor(pair, return_tensors="pt", report=True, **options)
        if before.sizes != after.sizes or (before.crs, before.transform) != (after.crs, after.transform):
            raise ValueError(
                f"{before.source} and {after.source} are not on one grid: expected the same size, reference system "
                "and transform. Warp one onto the other before (rasterio's WarpedVRT does)."
            )
        dates = {"": slice(0, 1), "_after": slice(1, 2)}
        inputs = {key + suffix: batch[key][date] for key in batch for suffix, date in dates.items()}
        return {**inputs, "reports": [_in_both(before, after)]}

    def _sanitize_parameters(
        self, threshold: float | None = None, **processing: Any
    ) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
        return processing, {}, _given(threshold=threshold)

    def postprocess(self, model_outputs: dict[str, Any], threshold: float = 0.5) -> dict[str, Any]:
        (result,) = self.image_processor.post_process_change_detection(
            SimpleNamespace(**model_outputs), reports=model_outputs["reports"], threshold=threshold
        )
        return {"map": result, "share": float(result.pixels[0][result.valid].mean())}

    def _as_inputs(self, inputs: Any) -> Any:
        """A tuple is one pair."""
        return inputs if isinstance(inputs, tuple) else super()._as_inputs(inputs)


class MultispectralFeatureExtractionPipeline(MultispectralPipeline):
    """Features of the encoder. Task: `multispectral-feature-extraction`.

    Each result is a float32 tensor. By `output` it is `"pooled"` (D,), the default; `"tokens"` (N, D), in
    spectral-major order; or `"map"` (D, height / 8, width / 8), the spectral groups averaged. Padding is part of the
    last two.
    """

    def _sanitize_parameters(
        self, output: str | None = None, **processing: Any
    ) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
        if output not in (None, "pooled", "tokens", "map"):
            raise ValueError(f"`output` must be 'pooled', 'tokens' or 'map', got {output!r}.")
        return processing, _given(output=output), {}

    def _forward(self, model_inputs: dict[str, Any], output: str = "pooled") -> dict[str, Any]:
        pixel_values, mask = model_inputs["pixel_values"], model_inputs.get("attention_mask")
        outputs = self.model(pixel_values, attention_mask=mask)
        features = outputs.pooler_output if output == "pooled" else outputs.last_hidden_state
        if output == "map":
            features = self.model.feature_map(features, *pixel_values.shape[-2:], mask)
        return {"features": features.float()}

    def postprocess(self, model_outputs: dict[str, Any]) -> torch.Tensor:
        return model_outputs["features"][0]


TASKS = {
    "multispectral-image-classification": (MultispectralImageClassificationPipeline, AutoModelForImageClassification),
    "multispectral-image-segmentation": (MultispectralImageSegmentationPipeline, AutoModelForSemanticSegmentation),
    "multispectral-change-detection": (MultispectralChangeDetectionPipeline, AutoModelForUniversalSegmentation),
    "multispectral-feature-extraction": (MultispectralFeatureExtractionPipeline, AutoModel),
}


def register_pipelines() -> None:
    """Make the tasks known to `transformers.pipeline`."""
    for task, (implementation, auto_class) in TASKS.items():
        PIPELINE_REGISTRY.register_pipeline(task, implementation, pt_model=auto_class, type="image")


def _given(**options: Any) -> dict[str, Any]:
    return {key: value for key, value in options.items() if value is not None}


def _collate(items: list[dict[str, Any]]) -> dict[str, Any]:
    """Join items of one size; those without an attention mask have data everywhere."""
    everywhere = {key: torch.ones_like(item[key]) for item in items for key in item if key.startswith("attention_mask")}
    items = [{**everywhere, **item} for item in items]
    values = {key: [item[key] for item in items] for key in items[0]}
    reports = list(chain.from_iterable(values.pop("reports")))
    return {**{key: torch.cat(tensors) for key, tensors in values.items()}, "reports": reports}


def _in_both(before: PreprocessingReport, after: PreprocessingReport) -> PreprocessingReport:
    """Return the report of a pair: pixels have data where both dates have."""
    masks = [report.valid for report in (before, after) if report.valid is not None]
    return replace(before, valid=torch.stack(masks).all(0) if masks else None)
