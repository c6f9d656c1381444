"""What the demo computes of an upload. All visitors share the models, which no request changes."""

import math
import re
import warnings
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import BatchFeature, pipeline

from ..assets import TASK_CHECKPOINTS, find_checkpoint
from ..inference.checkpoints import load_model, reading
from ..inference.maps import MAP_NODATA, ClassArea, class_areas
from ..inference.reconstruction import (
    band_mean,
    interpolation,
    psnr,
    reconstruct_image,
    regression,
    spectral_angle,
)
from ..modeling.bands import SENTINEL_2, Sensor
from ..modeling.geometry import PreprocessingReport
from ..modeling.image_processing_spectralgpt import SpectralGPTImageProcessor
from ..modeling.modeling_spectralgpt import SpectralGPTForPreTraining
from ..modeling.pipeline_spectralgpt import MultispectralFeatureExtractionPipeline, MultispectralPipeline
from ..modeling.post_processing import map_class_names
from .uploads import Upload, check_time, cut


CLASSIFICATION, SEGMENTATION, CHANGE = "classification", "segmentation", "change"
PIPELINES = {
    CLASSIFICATION: "multispectral-image-classification",
    SEGMENTATION: "multispectral-image-segmentation",
    CHANGE: "multispectral-change-detection",
}
ARCHITECTURES = {
    CLASSIFICATION: "SpectralGPTForImageClassification",
    SEGMENTATION: "SpectralGPTForSemanticSegmentation",
    CHANGE: "SpectralGPTForChangeDetection",
}
CARDS = Path(__file__).parents[1] / "hub" / "model_cards"


@dataclass(frozen=True, eq=False)
class Result:
    """A reconstruction, with its scores and those of the simple baselines.

    Attributes:
        bands: The C bands of the model.
        masked: (C, H, W), True where a token was masked.
        share: Share of the tokens that were masked.
        original, reconstructed: (C, H, W), reflectance.
        scores: For SpectralGPT and each baseline, by name: PSNR in dB and spectral angle in degrees, over the masked
            pixels with data.
    """

    bands: tuple[str, ...]
    masked: np.ndarray
    share: float
    original: np.ndarray
    reconstructed: np.ndarray
    scores: dict[str, tuple[float, float]]


class Models:
    """The checkpoints of the page, loaded once.

    Args:
        checkpoint: Pretrained checkpoint for reconstruction and embeddings, as in `assets.find_checkpoint`.
        classification, segmentation, change: Checkpoints fine-tuned for these tasks, or None. One that expects another
            sensor than the pretrained checkpoint is left out with a warning.
        revisions: Branch, tag or commit of each checkpoint on the Hub, by the names of the arguments above. Default:
            `main`.

    Attributes:
        name: Name of the pretrained checkpoint.
        card_url: URL of its card on the Hub; empty for a folder.
        cards: Texts of the cards that the checkpoints' folders or this package hold, by task; that of the pretrained
            checkpoint is under "pretraining".
        pipelines: Pipelines of the fine-tuned checkpoints, by task.

    Raises:
        ValueError: If a checkpoint was trained for another task, or a revision is given for a folder.
        FileNotFoundError: If there is no such checkpoint.
    """

    def __init__(
        self,
        checkpoint: str | Path,
        classification: str | Path | None = None,
        segmentation: str | Path | None = None,
        change: str | Path | None = None,
        *,
        revisions: Mapping[str, str] | None = None,
    ) -> None:
        chosen = defaultdict(lambda: "main", revisions or {})
        checkpoint = find_checkpoint(checkpoint, chosen["checkpoint"])
        self.name = Path(checkpoint).name
        self.card_url = "" if Path(checkpoint).is_dir() else f"https://huggingface.co/{checkpoint}"
        # dtype: weights may be stored in half precision, and a CPU computes in single.
        with reading(checkpoint):
            loaded: Any = SpectralGPTForPreTraining.from_pretrained(
                checkpoint, revision=chosen["checkpoint"], dtype=torch.float32, output_loading_info=True
            )
        self._model: SpectralGPTForPreTraining = loaded[0]
        if loaded[1]["missing_keys"]:
            raise ValueError(f"{checkpoint} has no pretraining decoder: expected a pretrained checkpoint.")
        self._model.eval()
        # Images are used whole and at their own resolution. The page names the bands that replace missing ones.
        options: dict[str, Any] = {"do_resize": False, "missing_bands": "nearest"}
        with reading(checkpoint):
            self._processor = SpectralGPTImageProcessor.from_pretrained(
                checkpoint, revision=chosen["checkpoint"], **options
            )
        self._extract: Any = MultispectralFeatureExtractionPipeline(
            model=self._model.spectralgpt, image_processor=self._processor, device=torch.device("cpu")
        )
        given = {CLASSIFICATION: classification, SEGMENTATION: segmentation, CHANGE: change}
        loaded = {task: _load(task, source, chosen[task]) for task, source in given.items() if source}
        self.pipelines = {task: run for task, run in loaded.items() if self._fits(run.model.config.sensor, given[task])}
        shown = {"pretraining": checkpoint} | {task: given[task] for task in self.pipelines}
        cards = {task: _read_card(Path(find_checkpoint(source))) for task, source in shown.items() if source}
        self.cards = {task: card for task, card in cards.items() if card}

    @property
    def cell(self) -> int:
        """Side of a position of the pretrained model, in pixels."""
        return self._model.config.patch_size

    @property
    def bands_per_token(self) -> int:
        """Number of bands in a spectral group of the pretrained model."""
        return self._model.config.spectral_patch_size

    @property
    def tile_size(self) -> int:
        """Height and width of the images that the pretrained model was trained on, in pixels."""
        return self._model.config.image_size

    @property
    def sensor(self) -> Sensor:
        """The sensor whose images the models expect."""
        return self._processor.expected

    @property
    def has_examples(self) -> bool:
        """Whether the gallery has images of this sensor."""
        return self.sensor.name == SENTINEL_2.name

    @property
    def bands(self) -> list[str]:
        """Names of the bands that the pretrained model expects, in order."""
        return self._processor.bands

    @property
    def real_bands(self) -> list[str]:
        """These bands without pseudo-bands."""
        return [band for band in self.bands if band in self.sensor.band_names]

    @property
    def class_names(self) -> list[str]:
        """Names of the numbers in the maps of the segmentation model."""
        config = self.pipelines[SEGMENTATION].model.config
        return map_class_names(config.id2label, config.num_labels)

    @property
    def class_codes(self) -> list[int]:
        """Values of these numbers in a map that is written."""
        return list(self.pipelines[SEGMENTATION].model.config.class_codes or range(len(self.class_names)))

    @property
    def num_parameters(self) -> int:
        """Number of parameters of the pretrained model."""
        return self._model.num_parameters()

    def reconstruct(
        self, upload: Upload, mask_ratio: float, masking: str, seed: int, until: float = math.inf
    ) -> Result:
        """Mask most of an image, reconstruct it, and compare the result with simple baselines without a network.

        Here and in the methods below, `until` is the deadline on the clock of `time.monotonic`. When it has passed,
        the method raises a `ValueError`.
        """
        inputs, report = self.normalise(upload)
        result = reconstruct_image(
            self._model, inputs["pixel_values"][0], seed, mask_ratio, masking, lambda: check_time(until)
        )
        low, scale = (value.numpy()[:, None, None] / 10_000 for value in (report.low, report.scale))
        linear = interpolation(result.original, result.masked)
        answers = {
            "SpectralGPT": result.reconstructed,
            "Mean of the band": band_mean(result.original, result.masked),
            "Linear interpolation": linear,
            "Regression on visible bands": regression(result.original, result.masked, fallback=linear),
        }
        check_time(until)
        height, width = upload.shape  # the processor pads images to whole tokens
        inside = np.s_[:, :height, :width]
        original, masked = result.original[inside], result.masked[inside]
        counted, reflectance = masked & upload.raster.valid, original * scale + low
        scores = {}
        for name, answer in answers.items():
            found = answer[inside]
            angle = spectral_angle(reflectance, found * scale + low, counted)
            scores[name] = (psnr(original, found, counted), angle)
        reconstructed = result.reconstructed[inside] * scale + low
        return Result(report.bands, masked, float(result.masked.mean()), reflectance, reconstructed, scores)

    def embed(self, upload: Upload, until: float = math.inf) -> np.ndarray:
        """Return features (D, h, w), a vector for each position of `cell` x `cell` px; NaN where there is no data."""
        features = self._extract(upload.raster, output="map", deadline=until).numpy()
        features[:, ~features.any(axis=0)] = np.nan
        return features

    def classify(self, upload: Upload, row: int, column: int) -> tuple[dict[str, float], tuple[int, int, int, int]]:
        """Return the label scores of the chip around a pixel, and the chip's window (row, column, h, w)."""
        classify = self.pipelines[CLASSIFICATION]
        size = classify.model.config.image_size
        height, width = (min(size, side) for side in upload.shape)
        top = min(max(0, row - height // 2), upload.shape[0] - height)
        left = min(max(0, column - width // 2), upload.shape[1] - width)
        chip = cut(upload.raster, top, left, height, width)
        if not chip.valid.any():
            raise ValueError("The chip around this pixel has no data: click elsewhere.")
        labels = classify(chip, top_k=10)
        return {entry["label"]: entry["score"] for entry in labels}, (top, left, height, width)

    def segment(self, upload: Upload, until: float = math.inf) -> tuple[np.ndarray, list[ClassArea]]:
        """Return a map of classes (H, W), 255 without data, and the area of each class."""
        segment, raster = self.pipelines[SEGMENTATION], upload.raster
        classes = segment(raster, deadline=until, **_in_tiles(segment, upload))["map"].pixels[0]
        classes = np.where(raster.valid, classes, MAP_NODATA).astype(np.uint8)
        return classes, class_areas(classes, self.class_names, raster.crs, raster.transform, raster.valid)

    def compare(
        self, before: Upload, after: Upload, threshold: float, until: float = math.inf
    ) -> tuple[np.ndarray, list[ClassArea]]:
        """Return where the ground changed (H, W), 255 without data, and the areas without and with change."""
        self.check_grid(before, after)
        first, second = before.raster, after.raster
        compare = self.pipelines[CHANGE]
        result = compare((first, second), threshold=threshold, deadline=until, **_in_tiles(compare, before))
        changed = result["map"].pixels[0]
        valid = first.valid & second.valid
        changed = np.where(valid, changed, MAP_NODATA).astype(np.uint8)
        return changed, class_areas(changed, ["unchanged", "changed"], first.crs, first.transform, valid)

    def check_grid(self, before: Upload, after: Upload) -> None:
        """Raise a `ValueError` unless two dates are on one grid."""
        first, second = before.raster, after.raster
        if before.shape != after.shape or (first.crs, first.transform) != (second.crs, second.transform):
            raise ValueError(
                f"{before.name} ({before.shape[0]} × {before.shape[1]} px) and {after.name} ({after.shape[0]} × "
                f"{after.shape[1]} px) are not on one grid: expected the same size, reference system and transform."
            )

    def _fits(self, sensor: str, source: object) -> bool:
        own = self._model.config.sensor
        if sensor != own and source not in TASK_CHECKPOINTS.values():  # the embedded ones were not asked for
            warnings.warn(
                f"{source} expects images of {sensor}, but {self.name} those of {own}: left out.", stacklevel=3
            )
        return sensor == own

    def normalise(self, upload: Upload) -> tuple[BatchFeature, PreprocessingReport]:
        """Return the inputs of the pretrained model, and the processor's report of what it did."""
        statistics = None
        if self._processor.statistics_scope == "given" and self._processor.measures_pixels:
            statistics = self._processor.measure_statistics(upload.raster)
        inputs, (report,) = self._processor.preprocess(upload.raster, statistics=statistics, report=True)
        return inputs, report


def _load(task: str, source: str | Path, revision: str) -> Any:
    model, processor = load_model(str(source), "cpu", revision=revision)
    found = type(model).__name__
    if found != ARCHITECTURES[task]:
        raise ValueError(f"{source}: expected a checkpoint for {task} ({ARCHITECTURES[task]}), found a {found}.")
    make: Any = pipeline  # its signature lists the tasks of transformers only
    return make(PIPELINES[task], model=model, image_processor=processor)


def _read_card(checkpoint: Path) -> str:
    """Return the Markdown of a checkpoint's card, without the metadata above it."""
    for path in (checkpoint / "README.md", CARDS / f"{checkpoint.name}.md"):
        if path.is_file():
            return re.sub(r"\A---\n.*?\n---\n", "", path.read_text(encoding="utf-8"), flags=re.DOTALL)
    return ""


def _in_tiles(run: MultispectralPipeline, upload: Upload) -> dict[str, bool]:
    """Return the option with which a pipeline maps a larger image than its model's in tiles instead of resizing it."""
    return {"do_resize": False} if max(upload.shape) > run.model.config.image_size else {}
