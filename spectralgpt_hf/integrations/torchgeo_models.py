"""SpectralGPT in TorchGeo: a model name for its tasks, and transforms of its samples by our image processor.

    entry = register("org/spectralgpt-base", "spectralgpt_base")
    dataset = EuroSAT("data", transforms=entry.transforms_for(EuroSAT))
    task = ClassificationTask(model="spectralgpt_base", in_channels=12, num_classes=10)
    task = SemanticSegmentationTask(model="upernet", backbone="spectralgpt_base", in_channels=12, num_classes=7)

TorchGeo takes the backbones of classifiers from timm, and those of segmentation models from
segmentation_models_pytorch. The name is registered in both. Needs `pip install spectralgpt-hf[torchgeo]`.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import torch
from torch import nn

from ..assets import find_checkpoint
from ..modeling.bands import L2A_BANDS
from ..modeling.configuration_spectralgpt import SpectralGPTConfig
from ..modeling.image_processing_spectralgpt import SpectralGPTImageProcessor
from ..modeling.modeling_spectralgpt import SpectralGPTBackbone


try:
    import segmentation_models_pytorch as smp
    from timm.models import register_model
except ImportError as error:
    raise ImportError("This adapter needs TorchGeo: `pip install spectralgpt-hf[torchgeo]`.") from error


STRIDES = (4, 8, 16, 32)
"""Strides of the feature maps that the decoders of segmentation_models_pytorch expect after the image and stride 2."""

Sample = dict[str, Any]


@dataclass(frozen=True)
class Entry:
    """A checkpoint in the form of TorchGeo's weights: `meta`, `transforms` and `get_state_dict`.

    Attributes:
        name: Name under which the model is registered.
        checkpoint: Folder, or name on the Hub.
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
    def meta(self) -> dict[str, object]:
        """Metadata in the form of TorchGeo's weights: the model, its bands and their number."""
        bands = list(self.processor.bands)
        return {"dataset": str(self.processor.expected), "model": self.name, "bands": bands, "in_chans": len(bands)}

    def transforms_for(self, dataset: object) -> Callable[[Sample], Sample]:
        """Return the transform for samples of a dataset of TorchGeo, given as a class or as an object.

        Raises:
            ValueError: If the dataset does not name its bands.
        """
        return partial(prepare_sample, processor=self.processor, band_names=bands_of(dataset))

    def get_state_dict(self, progress: bool = True) -> dict[str, torch.Tensor]:
        """Return the weights under the names of the registered models' `backbone`."""
        backbone = SpectralGPTBackbone.from_pretrained(self.checkpoint, revision=self.revision)
        return {f"backbone.{name}": tensor for name, tensor in backbone.state_dict().items()}


def register(checkpoint: str, name: str = "spectralgpt", revision: str = "main") -> Entry:
    """Register a checkpoint under a name, for the arguments `model` of classification and `backbone` of segmentation.

    Args:
        checkpoint: Folder, name on the Hub, or alias of an embedded one.
        name: Name of letters, digits and `_`.
        revision: Branch, tag or commit on the Hub.

    Returns:
        The entry, with transforms for TorchGeo's datasets.

    Raises:
        ValueError: If a revision is given for a folder.
        FileNotFoundError: If there is no such checkpoint.
    """
    checkpoint = find_checkpoint(checkpoint, revision)

    def entrypoint(pretrained: bool = False, **options: Any) -> SpectralGPTClassifier:
        return SpectralGPTClassifier(checkpoint, revision, options["num_classes"], options["in_chans"])

    entrypoint.__name__ = name
    register_model(entrypoint)
    params = {"checkpoint": checkpoint, "revision": revision}
    smp.encoders.encoders[name] = {"encoder": SpectralGPTEncoder, "params": params, "pretrained_settings": {}}
    return Entry(name, checkpoint, revision)


class SpectralGPTClassifier(nn.Module):
    """A linear layer on the pooled output of a checkpoint, with the methods of timm's models that TorchGeo calls."""

    def __init__(self, checkpoint: str, revision: str, num_classes: int, in_chans: int) -> None:
        super().__init__()
        self.backbone = SpectralGPTBackbone.from_pretrained(checkpoint, revision=revision)
        _check_bands(self.backbone, in_chans)
        self.classifier = nn.Linear(self.backbone.config.hidden_size, num_classes)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Return logits (B, classes) of normalised images (B, C, H, W)."""
        return self.classifier(self.backbone.spectralgpt(images).pooler_output)

    def get_classifier(self) -> nn.Module:
        """Return the layer that is trained while the rest is frozen."""
        return self.classifier


class SpectralGPTEncoder(nn.Module):
    """Four layers of a checkpoint at equal distances, as a pyramid of features for segmentation_models_pytorch.

    Args:
        checkpoint, revision: As in `register`.
        depth: Number of feature maps after the image: 5, or fewer, which leaves out the largest strides.
        output_stride: Stride of the coarsest map.
    """

    _is_torch_scriptable = False
    _is_torch_exportable = True
    _is_torch_compilable = True

    def __init__(self, checkpoint: str, revision: str = "main", depth: int = 5, output_stride: int = 32) -> None:
        super().__init__()
        layers = SpectralGPTConfig.from_pretrained(checkpoint, revision=revision).num_hidden_layers
        indices = [round(layers * step / len(STRIDES)) for step in range(1, len(STRIDES) + 1)]
        self.backbone = SpectralGPTBackbone.from_pretrained(checkpoint, revision=revision, out_indices=indices)
        self.output_stride = output_stride
        # The model computes no features between the image and the tokens, so the map of stride 2 has no channels.
        self.out_channels = [self.backbone.config.num_channels, 0, *self.backbone.out_channels][: depth + 1]

    def set_in_channels(self, in_channels: int, pretrained: bool = True) -> None:
        """Check the number of bands.

        Raises:
            ValueError: If it differs from that of the checkpoint.
        """
        _check_bands(self.backbone, in_channels)

    def forward(self, images: torch.Tensor) -> list[torch.Tensor]:
        """Return the images (B, C, H, W) and their feature maps (B, D, H / s, W / s) for strides s of 2, 4, ..."""
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
    """Normalise the images of a sample of TorchGeo. Labels and masks are not changed.

    Args:
        sample: Sample with `image` (C, H, W), or (T, C, H, W) for several dates, or with `image1` and `image2`.
        processor: Processor of the checkpoint. If the sample has a mask, images are not resized.
        band_names: Names of the C bands.

    Returns:
        The sample, whose images have the bands of the checkpoint in their order. All dates are normalised alike.
    """
    keys = [key for key in ("image", "image1", "image2") if key in sample]
    dates = [date for key in keys for date in (sample[key] if sample[key].ndim == 4 else sample[key][None])]
    options: dict[str, object] = {"band_names": list(band_names)}
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


def bands_of(dataset: object) -> list[str]:
    """Return the names of the bands of a dataset's images, in their order.

    Args:
        dataset: Dataset of TorchGeo: an object, or a class, for which all bands are returned.

    Raises:
        ValueError: If the dataset does not name its bands, or mixes sensors.
    """
    name = getattr(dataset, "__name__", type(dataset).__name__)
    for attribute in ("bands", "all_bands", "all_band_names"):
        found = getattr(dataset, attribute, None)
        if found == "s2":  # BigEarthNet names a set
            return list(L2A_BANDS)
        if isinstance(found, Sequence) and not isinstance(found, str):
            return [str(band) for band in found]
        if isinstance(found, str):
            raise ValueError(f"{name}: expected only Sentinel-2 bands, found `bands={found!r}`: pass `bands='s2'`.")
    raise ValueError(f"{name}: expected the attribute `bands` or `all_bands` with names of bands, found none.")


def _check_bands(backbone: SpectralGPTBackbone, in_channels: int) -> None:
    expected = backbone.config.num_channels
    if in_channels != expected:
        raise ValueError(f"`in_channels`: expected {expected}, the bands of the checkpoint, got {in_channels}.")
