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
from functools import partial
from itertools import chain, islice
from types import SimpleNamespace
from typing import Any, TypeAlias

import numpy as np
import torch
from torch.utils.data import DataLoader, get_worker_info
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
from .chips import ImageInput
from .geometry import PreprocessingReport
from .notices import collected_warnings, warn_of_new
from .post_processing import THRESHOLD, map_class_names
from .radiometry import settle
from .series import READING, SETTINGS, Series, SeriesDates, find_series, open_dates, prepare_dates
from .tiled import LargeImage, check_deadline, keeps_pixels, pixels_with_data, positions_with_data


# Arguments, inputs and outputs of the steps of a pipeline, by name.
Values: TypeAlias = dict[str, Any]

# Number of batches of inputs that are read ahead, to find images of one size.
LOOK_AHEAD = 4


class MultispectralPipeline(Pipeline):
    """The base of all pipelines. It accepts inputs of any kind and number, and forms batches of images of one size.

    An input is an image in any form that `SpectralGPTImageProcessor` accepts (path, URL, TIFF bytes, STAC item, array,
    tensor). The pipeline accepts one of them, a list, a generator, or a dataset. `band_names`, `nodata`, `offset`,
    `mask`, `sensor`, `match` and `statistics` are passed to the processor. If it requires `statistics` and none are
    passed, they are measured on each image.

    All pipelines except change detection also accept series of several dates: a `Series`, `xarray` with a dimension
    `time`, a STAC item collection, or a list of images inside the list of inputs. `pipe([first, second])` returns the
    results of two images, `pipe([[first, second]])` a list with the result of one series, and
    `pipe([first, second], dates=[...])` the result of one series. All dates are normalised alike, with statistics that
    are measured on the whole series.

    Maps and features of an image that is larger than the model's own size (`config.image_size`), and that the processor
    does not resize, are computed tile by tile as in `predict_scene` and `embed_scene`, with the same result: statistics
    are measured once for the image, tiles overlap by half, and their results are blended. All pixels and results are
    held in memory, so call those functions for whole products.

    `deadline` is the time, on the clock of `time.monotonic`, at which the work must have ended. It is checked between
    tiles, and a `ValueError` is raised when it has passed.
    """

    model: Any
    image_processor: Any
    tiles_large_images = True
    takes_series = True

    _load_processor = False
    _load_image_processor = True
    _load_video_processor = False
    _load_feature_extractor = False
    _load_tokenizer = False

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        config, processor = self.model.config, self.image_processor
        require_same_bands(config.bands, processor.bands, (config.sensor, processor.sensor))

    def __call__(self, inputs: ImageInput, dates: SeriesDates = None, **kwargs: Any) -> Any:
        """Run the pipeline.

        Args:
            inputs: One input; a list, for which the result is a list; or a generator or dataset, for which it is an
                iterator, in the same order.
            dates: Date of each image, if the inputs are one series, or a list of these for several series. A date is
                text in ISO 8601, a moment, or days since 1 January 1970. Files and STAC items state their dates.
            kwargs: `batch_size`, `num_workers`, the processor's arguments and those of the pipeline.
        """
        if dates is not None and not self.takes_series:
            raise ValueError("`dates` are for series, and this pipeline expects pairs of images: leave them out.")
        if dates is not None or (self.takes_series and not isinstance(inputs, list | tuple)):
            found = find_series(inputs, dates) or [inputs]
            inputs = found if dates is not None and isinstance(dates[0], list | tuple) else found[0]
        inputs = self._as_inputs(inputs)
        return [] if isinstance(inputs, list) and not inputs else super().__call__(inputs, **kwargs)

    def get_iterator(
        self,
        inputs: ImageInput,
        num_workers: int,
        batch_size: int,
        preprocess_params: Values,
        forward_params: Values,
        postprocess_params: Values,
    ) -> PipelineIterator:
        """Return the results in the order of the inputs."""
        if isinstance(inputs, Sized):
            dataset = PipelineDataset(inputs, self._preprocess_and_listen, preprocess_params)
        else:
            dataset = PipelineIterator(inputs, self._preprocess_and_listen, preprocess_params)
            num_workers = min(num_workers, 1)  # each worker would go through the whole generator
        loader = DataLoader(dataset, num_workers=num_workers, batch_size=1, collate_fn=no_collate_fn)
        outputs = self._forward_by_size(iter(loader), batch_size, forward_params)
        return PipelineIterator(outputs, self.postprocess, postprocess_params)

    def preprocess(self, input_: ImageInput, in_tiles: bool = True, **options: Any) -> Values:
        series = find_series([input_])
        if series is None:
            return self._prepare([input_], options, in_tiles)
        return self._prepare(list(series[0].images), options, in_tiles, series[0])

    def _preprocess_and_listen(self, input_: ImageInput, **options: Any) -> Values:
        """Return the prepared input. In a worker process, add the warnings, which the parent would not see."""
        if get_worker_info() is None:
            return self.preprocess(input_, **options)
        with collected_warnings() as texts:
            return {**self.preprocess(input_, **options), "warnings": texts}

    def _forward(self, model_inputs: Values, deadline: float | None = None) -> Values:
        if "large" in model_inputs:
            return self._forward_large(model_inputs["large"], deadline)
        reports = model_inputs["reports"]
        check_deadline(deadline, reports[0].source)
        inputs = {key: value for key, value in model_inputs.items() if key != "reports"}
        return {"logits": self.model(**inputs).logits.float(), "reports": reports}

    def _forward_large(self, image: LargeImage, deadline: float | None) -> Values:
        """Return the outputs of an image in tiles."""
        logits, _, report = image.score(
            lambda inputs: self.model(**inputs).logits,
            pixels_with_data,
            channels=self.model.config.num_labels,
            size=self.model.config.image_size,
            cell=1,
            device=self.device,
            deadline=deadline,
        )
        return {"logits": torch.from_numpy(logits)[None], "reports": [report]}

    def _prepare(
        self, images: list[ImageInput], options: Values, in_tiles: bool = True, series: Series | None = None
    ) -> Values:
        """Return an image, a pair or the dates of a `series` as inputs of the model and reports, or as a `LargeImage`.

        The key of a `LargeImage` is `"large"`.
        """
        reading = {name: options[name] for name in READING if name in options}
        settings = {name: options[name] for name in SETTINGS if name in options}
        others = {name: value for name, value in options.items() if name not in (*READING, *SETTINGS, "statistics")}
        statistics = options.get("statistics")
        processor = self.image_processor.for_match(reading.get("match")).with_settings(**settings)
        chips = open_dates(processor, images, reading)
        days = None if series is None else series.days([chip.tags for chip in chips])
        is_larger = max(chips[0].pixels.shape[1:]) > self.model.config.image_size
        is_large = is_larger and in_tiles and self.tiles_large_images and keeps_pixels(processor)
        one_radiometry = is_large or len(chips) > 1 or processor.statistics_scope == "given"
        warn = others.pop("warn", True)
        if statistics is None and processor.measures_pixels and one_radiometry:
            statistics, warn = processor.measure_statistics(images, **reading), False  # which raises the warnings
        if not is_large:
            if series is not None:
                inputs, report = prepare_dates(processor, chips, days, statistics, warn=warn, **others)
                return {**inputs, "reports": [report]}
            processing = {"return_tensors": "pt", "report": True, "warn": warn, **others}
            batch, reports = processor(chips, statistics=statistics, **processing)
            return {**batch, "reports": reports}
        settled = (processor.bands, processor.missing_bands, warn, processor.expected)
        dates = [settle(chip, *settled, may_be_empty=series is not None) for chip in chips]
        return {"large": LargeImage(chips[0].name, dates, processor, statistics, others, series is not None, days)}

    def _as_inputs(self, inputs: ImageInput) -> ImageInput:
        """Return several inputs as a list or a generator. The base class takes other types as one input."""
        if isinstance(inputs, tuple) or getattr(inputs, "ndim", 3) == 4:
            return list(inputs)
        return (item for item in inputs) if isinstance(inputs, Iterator) else inputs

    def _forward_by_size(self, items: Iterator[Values], batch_size: int, forward_params: Values) -> Iterator[Values]:
        """Yield the outputs for each item, in order. Items of one size that are near each other share a batch."""
        raised: set[str] = set()
        while window := list(islice(items, batch_size * LOOK_AHEAD if batch_size > 1 else 1)):
            for item in window:
                warn_of_new(item.pop("warnings", ()), raised)
            by_size: dict[tuple[int, ...], list[int]] = {}
            for i, item in enumerate(window):
                # Large images share no batch, because their tiles are one.
                size = (-i - 1,) if "large" in item else (*item["pixel_values"].shape, "dates" in item)
                by_size.setdefault(size, []).append(i)
            results: dict[int, Values] = {}
            for indices in by_size.values():
                for start in range(0, len(indices), batch_size):
                    part = indices[start : start + batch_size]
                    outputs = self.forward(_collate([window[i] for i in part]), **forward_params)
                    for position, i in enumerate(part):
                        results[i] = {key: value[position : position + 1] for key, value in outputs.items()}
            yield from (results[i] for i in range(len(window)))


class MultispectralImageClassificationPipeline(MultispectralPipeline):
    """Labels with scores. Task: `multispectral-image-classification`.

    Each result is a list of `{"label": ..., "score": ...}`, the best first: at most `top_k` (5 by default), and only
    those with a score of at least `threshold`, if it is given. Scores depend on `config.problem_type`: with
    `"multi_label_classification"`, or with one label, each label has its own probability (sigmoid). Otherwise the
    probabilities add up to 1 (softmax). With `"regression"` the scores are the predicted values, in the order of the
    labels. Images of any size are processed as a whole.
    """

    tiles_large_images = False

    def _sanitize_parameters(
        self,
        top_k: int | None = None,
        threshold: float | None = None,
        deadline: float | None = None,
        **processing: object,
    ) -> tuple[Values, Values, Values]:
        return processing, _given(deadline=deadline), _given(top_k=top_k, threshold=threshold)

    def postprocess(self, model_outputs: Values, top_k: int = 5, threshold: float | None = None) -> list[Values]:
        config = self.model.config
        one_of_many = config.problem_type is None and config.num_labels > 1
        problem_type = "single_label_classification" if one_of_many else config.problem_type
        (labels,) = self.image_processor.post_process_image_classification(
            SimpleNamespace(**model_outputs), top_k, threshold, config.id2label, problem_type
        )
        return labels


class MultispectralImageSegmentationPipeline(MultispectralPipeline):
    """A map of classes. Task: `multispectral-image-segmentation`.

    Each result is `{"map": ..., "labels": [...]}`. The map is a `Raster` on the grid of the input, georeferenced if the
    input is, with one band of class numbers. The labels are `{"label": ..., "id": ..., "share": ...}` for each class
    that occurs, with its share of the pixels with data, the largest first. The map of a model of one class is 1 where
    its probability is at least `threshold` (0.5 by default), and 0 elsewhere. Models of several classes have no
    threshold.
    """

    def _sanitize_parameters(
        self, threshold: float | None = None, deadline: float | None = None, **processing: object
    ) -> tuple[Values, Values, Values]:
        return processing, _given(deadline=deadline), _given(threshold=threshold)

    def postprocess(self, model_outputs: Values, threshold: float | None = None) -> Values:
        (result,) = self.image_processor.post_process_semantic_segmentation(
            SimpleNamespace(**model_outputs), reports=model_outputs["reports"], threshold=threshold
        )
        counts = torch.from_numpy(result.pixels[0][result.valid]).long().bincount().tolist()
        shares = sorted((count / sum(counts), i) for i, count in enumerate(counts) if count)
        names = map_class_names(self.model.config.id2label, self.model.config.num_labels)
        labels = [{"label": names[i], "id": i, "share": share} for share, i in reversed(shares)]
        return {"map": result, "labels": labels}


class MultispectralChangeDetectionPipeline(MultispectralPipeline):
    """A map of change between two dates. Task: `multispectral-change-detection`.

    An input is a pair `(before, after)` or `{"before": ..., "after": ...}` on one grid. Several inputs are a list of
    pairs. Both dates are normalised alike, with statistics measured on the pair. Each result is `{"map": ..., "share":
    ...}`: a `Raster` on the grid of the input with 1 where the probability of change is at least `threshold` (0.5 by
    default), and the share of changed pixels among those with data in both dates.
    """

    takes_series = False

    def preprocess(self, input_: ImageInput, **options: Any) -> Values:
        if isinstance(input_, Mapping) and {"before", "after"} <= input_.keys():
            input_ = (input_["before"], input_["after"])
        if not isinstance(input_, list | tuple) or len(input_) != 2:
            raise ValueError(
                "Expected a pair (before, after) or {'before': ..., 'after': ...}, for several a list of such pairs, "
                f"found {type(input_).__name__}."
            )
        prepared = self._prepare(list(input_), options)
        if "large" in prepared:
            return prepared
        dates = {"": slice(0, 1), "_after": slice(1, 2)}
        reports = [_in_both(*prepared.pop("reports"))]
        return {key + suffix: batch[date] for key, batch in prepared.items() for suffix, date in dates.items()} | {
            "reports": reports
        }

    def _sanitize_parameters(
        self, threshold: float | None = None, deadline: float | None = None, **processing: object
    ) -> tuple[Values, Values, Values]:
        return processing, _given(deadline=deadline), _given(threshold=threshold)

    def postprocess(self, model_outputs: Values, threshold: float = THRESHOLD) -> Values:
        (result,) = self.image_processor.post_process_change_detection(
            SimpleNamespace(**model_outputs), reports=model_outputs["reports"], threshold=threshold
        )
        return {"map": result, "share": float(result.pixels[0][result.valid].mean())}

    def _as_inputs(self, inputs: ImageInput) -> ImageInput:
        """Return the inputs. A tuple is one pair."""
        return inputs if isinstance(inputs, tuple) else super()._as_inputs(inputs)


class MultispectralFeatureExtractionPipeline(MultispectralPipeline):
    """Features of the encoder. Task: `multispectral-feature-extraction`.

    Each result is a float32 tensor. By `output` it is `"pooled"` (D,), the default; `"tokens"` (N, D), in
    spectral-major order; or `"map"` (D, height / 8, width / 8), the spectral groups averaged and 0 where there is no
    data. Padding is part of the last two.

    Of an image in tiles, the map is that of `embed_scene`, and the pooled features are the mean over the positions with
    data of the last layer's blended outputs, then normalised as `pooler_output` is. Tokens always come from one pass
    over the whole image, whose cost grows with the square of its pixels.
    """

    def _sanitize_parameters(
        self, output: str | None = None, deadline: float | None = None, **processing: object
    ) -> tuple[Values, Values, Values]:
        if output not in (None, "pooled", "tokens", "map"):
            raise ValueError(f"`output` must be 'pooled', 'tokens' or 'map', got {output!r}.")
        in_tiles = {} if output is None else {"in_tiles": output != "tokens"}
        return processing | in_tiles, _given(output=output, deadline=deadline), {}

    def _forward(self, model_inputs: Values, output: str = "pooled", deadline: float | None = None) -> Values:
        if "large" in model_inputs:
            return {"features": self._features_in_tiles(model_inputs["large"], output, deadline)[None]}
        check_deadline(deadline, model_inputs["reports"][0].source)
        pixel_values, mask = model_inputs["pixel_values"], model_inputs.get("attention_mask")
        outputs = self.model(pixel_values, attention_mask=mask, dates=model_inputs.get("dates"))
        features = outputs.pooler_output if output == "pooled" else outputs.last_hidden_state
        if output == "map":
            features = self.model.feature_map(features, *pixel_values.shape[-2:], mask)
        return {"features": features.float()}

    def postprocess(self, model_outputs: Values) -> torch.Tensor:
        return model_outputs["features"][0]

    def _features_in_tiles(self, image: LargeImage, output: str, deadline: float | None) -> torch.Tensor:
        config, field = self.model.config, "last_layer_output" if output == "pooled" else "last_hidden_state"

        def score(inputs: dict[str, torch.Tensor]) -> torch.Tensor:
            outputs = self.model(**inputs)
            shape, mask = inputs["pixel_values"].shape[-2:], inputs.get("attention_mask")
            return self.model.feature_map(outputs[field], *shape, mask)

        features, valid, _ = image.score(
            score,
            partial(positions_with_data, patch_size=config.patch_size, cells=config.image_size // config.patch_size),
            channels=config.hidden_size,
            size=config.image_size,
            cell=config.patch_size,
            device=self.device,
            deadline=deadline,
        )
        if output == "map":
            return torch.from_numpy(features)
        mean = torch.from_numpy(features[:, valid].mean(1, dtype=np.float64))
        return self.model.layernorm(mean.to(self.device, self.model.dtype)).float()


TASKS = {
    "multispectral-image-classification": (MultispectralImageClassificationPipeline, AutoModelForImageClassification),
    "multispectral-image-segmentation": (MultispectralImageSegmentationPipeline, AutoModelForSemanticSegmentation),
    "multispectral-change-detection": (MultispectralChangeDetectionPipeline, AutoModelForUniversalSegmentation),
    "multispectral-feature-extraction": (MultispectralFeatureExtractionPipeline, AutoModel),
}


def register_pipelines() -> None:
    """Register the tasks with `transformers.pipeline`."""
    for task, (implementation, auto_class) in TASKS.items():
        PIPELINE_REGISTRY.register_pipeline(task, implementation, pt_model=auto_class, type="image")


def _given(**options: object) -> Values:
    return {key: value for key, value in options.items() if value is not None}


def _collate(items: list[Values]) -> Values:
    """Join items of one size. Items without an attention mask have data everywhere."""
    if "large" in items[0]:
        return items[0]
    everywhere = {key: torch.ones_like(item[key]) for item in items for key in item if key.startswith("attention_mask")}
    items = [{**everywhere, **item} for item in items]
    values = {key: [item[key] for item in items] for key in items[0]}
    reports = list(chain.from_iterable(values.pop("reports")))
    return {**{key: torch.cat(tensors) for key, tensors in values.items()}, "reports": reports}


def _in_both(before: PreprocessingReport, after: PreprocessingReport) -> PreprocessingReport:
    """Return the report of a pair, in which pixels have data if they have data at both dates."""
    masks = [report.valid for report in (before, after) if report.valid is not None]
    valid = torch.stack(masks).all(0) if masks else None
    if valid is not None and not valid.any():
        raise ValueError(f"{before.source} and {after.source}: no pixel has data in both dates.")
    return replace(before, valid=valid)
