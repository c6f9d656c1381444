"""SpectralGPT in TorchGeo: a model name for its tasks, and samples of its datasets through our image processor.

    entry = register("org/spectralgpt-base", "spectralgpt_base")
    dataset = EuroSAT("data", transforms=entry.transforms_for(EuroSAT))
    task = ClassificationTask(model="spectralgpt_base", in_channels=12, num_classes=10)
    task = SemanticSegmentationTask(model="upernet", backbone="spectralgpt_base", in_channels=12, num_classes=7)

TorchGeo takes backbones of classifiers from timm, and those of segmentation from segmentation_models_pytorch; the name
is registered in both. Needs `pip install spectralgpt-hf[torchgeo]`.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import torch
from torch import nn

from ..modeling.bands import L2A_BANDS
from ..modeling.image_processing_spectralgpt import SpectralGPTImageProcessor
from ..modeling.modeling_spectralgpt import SpectralGPTBackbone


try:
    import segmentation_models_pytorch as smp
    from timm.models import register_model
except ImportError as error:
    raise ImportError("This adapter needs TorchGeo: `pip install spectralgpt-hf[torchgeo]`.") from error


STRIDES = (4, 8, 16, 32)
"""Of the feature maps that the decoders of segmentation_models_pytorch expect, beside the image itself and stride 2."""

Sample = dict[str, Any]


@dataclass(frozen=True)
class Entry:
    """A checkpoint as TorchGeo describes weights: `meta`, `transforms` and `get_state_dict`.

    Attributes:
        name: Under which the model is registered.
        checkpoint: Folder or name on the Hub.
        revision: Branch, tag or commit on the Hub.
    """

    name: str
    checkpoint: str
    revision: str = "main"

    @cached_property
    def processor(self) -> SpectralGPTImageProcessor:
        """Image processor of the checkpoint."""
        return SpectralGPTImageProcessor.from_pretrained(self.checkpoint, revision=self.revision)

    @property
    def meta(self) -> dict[str, Any]:
        """What TorchGeo's weights state: the model, its bands and their number."""
        bands = list(self.processor.bands)
        return {"dataset": "Sentinel-2", "model": self.name, "bands": bands, "in_chans": len(bands)}

    def transforms_for(self, dataset: Any) -> Callable[[Sample], Sample]:
        """Return the transform for samples of a dataset of TorchGeo (the class or an object of it).

        Raises:
            ValueError: If the dataset does not name its bands.
        """
        return partial(prepare_sample, processor=self.processor, band_names=bands_of(dataset))

    def get_state_dict(self, progress: bool = True) -> dict[str, torch.Tensor]:
        """Return the weights under the names of the registered models' `backbone`."""
        backbone = SpectralGPTBackbone.from_pretrained(self.checkpoint, revision=self.revision)
        return {f"backbone.{name}": tensor for name, tensor in backbone.state_dict().items()}


def register(checkpoint: str, name: str = "spectralgpt", revision: str = "main") -> Entry:
    """Register a checkpoint under a name, for `model` of classification and `backbone` of segmentation tasks.

    Args:
        checkpoint: Folder or name on the Hub.
        name: Letters, digits and `_`.
        revision: Branch, tag or commit on the Hub.

    Returns:
        The entry, with transforms for TorchGeo's datasets.
    """

    def entrypoint(pretrained: bool = False, **options: Any) -> SpectralGPTClassifier:
        return SpectralGPTClassifier(checkpoint, revision, options["num_classes"], options["in_chans"])

    entrypoint.__name__ = name
    register_model(entrypoint)
    params = {"checkpoint": checkpoint, "revision": revision}
    smp.encoders.encoders[name] = {"encoder": SpectralGPTEncoder, "params": params, "pretrained_settings": {}}
    return Entry(name, checkpoint, revision)


class SpectralGPTClassifier(nn.Module):
    """The pooled output of a checkpoint and a linear layer, with what TorchGeo asks of timm's models."""

    def __init__(self, checkpoint: str, revision: str, num_classes: int, in_chans: int) -> None:
        super().__init__()
        self.backbone = _load(checkpoint, revision, in_chans)
        self.classifier = nn.Linear(self.backbone.config.hidden_size, num_classes)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Return logits (B, classes) of normalised images (B, C, H, W)."""
        return self.classifier(self.backbone.spectralgpt(images).pooler_output)

    def get_classifier(self) -> nn.Module:
        """Return the layer that is trained while the rest is frozen."""
        return self.classifier


class SpectralGPTEncoder(nn.Module):
    """The last four of a checkpoint's layers, in equal steps, as a pyramid for segmentation_models_pytorch.

    Args:
        checkpoint, revision: As in `register`.
        depth: Number of feature maps beside the image; 5, or fewer with smaller strides only.
        output_stride: Of the coarsest of them.
    """

    _is_torch_scriptable = False
    _is_torch_exportable = True
    _is_torch_compilable = True

    def __init__(self, checkpoint: str, revision: str = "main", depth: int = 5, output_stride: int = 32) -> None:
        super().__init__()
        self.backbone = _load(checkpoint, revision, None)
        layers = self.backbone.config.num_hidden_layers
        indices = [round(layers * step / len(STRIDES)) for step in range(1, len(STRIDES) + 1)]
        self.backbone = SpectralGPTBackbone.from_pretrained(checkpoint, revision=revision, out_indices=indices)
        self.output_stride = output_stride
        # There is nothing between the image and the tokens: the map of stride 2 has no channels.
        self.out_channels = [self.backbone.config.num_channels, 0, *self.backbone.out_channels][: depth + 1]

    def set_in_channels(self, in_channels: int, pretrained: bool = True) -> None:
        """Check the number of bands, which is the checkpoint's.

        Raises:
            ValueError: If it differs.
        """
        _check_bands(self.backbone, in_channels)

    def forward(self, images: torch.Tensor) -> list[torch.Tensor]:
        """Return the image and feature maps (B, D, H / s, W / s) for strides s of 2, 4, ..., of images (B, C, H, W)."""
        height, width = images.shape[-2:]
        empty = images.new_zeros(len(images), 0, height // 2, width // 2)
        maps = self.backbone(images).feature_maps
        pyramid = [
            nn.functional.interpolate(features, (height // stride, width // stride), mode="bilinear")
            if stride != self.backbone.patch_size
            else features
            for features, stride in zip(maps, STRIDES)
        ]
        return [images, empty, *pyramid][: len(self.out_channels)]


def prepare_sample(sample: Sample, processor: SpectralGPTImageProcessor, band_names: Sequence[str]) -> Sample:
    """Normalise the images of a sample of TorchGeo; labels and masks stay as they are.

    Args:
        sample: With `image` (C, H, W) or, of several dates, (T, C, H, W), or `image1` and `image2`.
        processor: Of the checkpoint. Where the sample has a mask, images keep their size.
        band_names: Of the C bands.

    Returns:
        The sample with its images in the bands and the order of the checkpoint. All dates have one normalisation.
    """
    keys = [key for key in ("image", "image1", "image2") if key in sample]
    dates = [date for key in keys for date in (sample[key] if sample[key].ndim == 4 else sample[key][None])]
    options: dict[str, Any] = {"band_names": list(band_names)}
    if len(dates) > 1 and processor.measures_pixels:
        options["statistics"] = processor.measure_statistics(dates, band_names=list(band_names))
    if "mask" in sample:
        options |= {"do_resize": False, "do_center_crop": False}
    prepared = processor(dates, return_tensors="pt", **options)["pixel_values"]
    found: Sample = dict(sample)
    for key in keys:
        count = len(sample[key]) if sample[key].ndim == 4 else 1
        found[key] = prepared[:count] if sample[key].ndim == 4 else prepared[0]
        prepared = prepared[count:]
    return found


def bands_of(dataset: Any) -> list[str]:
    """Return the names of the bands of a dataset's images, in their order.

    Args:
        dataset: Of TorchGeo: an object, or a class, of which all bands count.

    Raises:
        ValueError: If it does not name them, or mixes sensors.
    """
    name = getattr(dataset, "__name__", type(dataset).__name__)
    for attribute in ("bands", "all_bands", "all_band_names"):
        found = getattr(dataset, attribute, None)
        if found == "s2":  # BigEarthNet names a set
            return list(L2A_BANDS)
        if isinstance(found, Sequence) and not isinstance(found, str):
            return [str(band) for band in found]
        if isinstance(found, str):
            raise ValueError(f"{name}: expected Sentinel-2 bands alone, found `bands={found!r}`: pass `bands='s2'`.")
    raise ValueError(f"{name}: expected the attribute `bands` or `all_bands`, found none: it does not name its bands.")


def _load(checkpoint: str, revision: str, in_channels: int | None) -> SpectralGPTBackbone:
    backbone = SpectralGPTBackbone.from_pretrained(checkpoint, revision=revision)
    if in_channels is not None:
        _check_bands(backbone, in_channels)
    return backbone


def _check_bands(backbone: SpectralGPTBackbone, in_channels: int) -> None:
    expected = backbone.config.num_channels
    if in_channels != expected:
        raise ValueError(f"`in_channels`: expected {expected}, the bands of the checkpoint, got {in_channels}.")
