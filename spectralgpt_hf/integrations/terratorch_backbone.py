"""SpectralGPT as a backbone of TerraTorch: `import spectralgpt_hf.integrations.terratorch_backbone` registers it.

    model = MODEL_FACTORY_REGISTRY.build("EncoderDecoderFactory").build_model(
        task="segmentation", backbone="terratorch_spectralgpt", backbone_checkpoint="org/spectralgpt-base",
        backbone_out_indices=[3, 6, 9, 12], necks=[{"name": "LearnedInterpolateToPyramidal"}],
        decoder="UperNetDecoder", num_classes=7)

Images must be normalised by the checkpoint's own image processor. Needs `pip install spectralgpt-hf[terratorch]`.
"""

from collections.abc import Sequence

import torch
from torch import nn

from ..assets import find_checkpoint
from ..modeling.configuration_spectralgpt import SpectralGPTConfig
from ..modeling.modeling_spectralgpt import SpectralGPTBackbone


try:
    from terratorch.registry import TERRATORCH_BACKBONE_REGISTRY
except ImportError as error:
    raise ImportError("This adapter needs TerraTorch: `pip install spectralgpt-hf[terratorch]`.") from error


class SpectralGPTForTerraTorch(nn.Module):
    """A backbone with the attributes and the output that TerraTorch expects.

    Args:
        backbone: The backbone that computes the features.

    Attributes:
        out_channels: Number of channels of each feature map.
        patch_size: Height and width of a token, in pixels. TerraTorch pads images to multiples of it.
    """

    def __init__(self, backbone: SpectralGPTBackbone) -> None:
        super().__init__()
        self.backbone = backbone
        self.out_channels = list(backbone.out_channels)
        self.patch_size = backbone.patch_size

    def forward(self, images: torch.Tensor) -> list[torch.Tensor]:
        """Return the feature maps (B, D, h, w) of normalised images (B, C, H, W), one for each of `out_indices`."""
        return list(self.backbone(images).feature_maps)


@TERRATORCH_BACKBONE_REGISTRY.register
def spectralgpt(
    checkpoint: str | None = None,
    out_indices: Sequence[int] | None = None,
    pretrained: bool = True,
    bands: Sequence[str] | None = None,
    preset: str = "base",
    revision: str = "main",
) -> SpectralGPTForTerraTorch:
    """Build the backbone. In TerraTorch, the arguments are called `backbone_<name>`.

    Args:
        checkpoint: Folder, name on the Hub, or alias of an embedded one. `pretrained` needs it.
        out_indices: Layers whose features are returned: 0 for the embeddings, then 1 to the number of layers. By
            default the last one.
        pretrained: Whether to load the weights. Otherwise they are random, with the sizes of `checkpoint`'s
            configuration or of `preset`.
        bands: Names of the bands of the images. They must be those of the checkpoint, in the same order.
        preset: Size of a model without a checkpoint, as in `SpectralGPTConfig.from_preset`.
        revision: Branch, tag or commit on the Hub.

    Raises:
        ValueError: If `pretrained` is True without a checkpoint, a revision is given for a folder, or the bands differ.
        FileNotFoundError: If there is no such checkpoint.
    """
    indices = None if out_indices is None else list(out_indices)
    if pretrained and checkpoint is None:
        raise ValueError(
            "`backbone_pretrained`: expected a `backbone_checkpoint` (folder or name on the Hub), got none."
        )
    if checkpoint is None:
        config = SpectralGPTConfig.from_preset(preset, out_indices=indices)
    else:
        checkpoint = find_checkpoint(checkpoint, revision)
        config = SpectralGPTConfig.from_pretrained(checkpoint, revision=revision, out_indices=indices)
    if bands is not None and list(config.expected_sensor.resolve_all(bands)) != list(config.bands or ()):
        raise ValueError(
            f"`backbone_bands`: expected {' '.join(config.bands or ())}, in this order, got {' '.join(bands)}."
        )
    if pretrained:
        backbone = SpectralGPTBackbone.from_pretrained(checkpoint, revision=revision, out_indices=indices)
    else:
        backbone = SpectralGPTBackbone(config)
    return SpectralGPTForTerraTorch(backbone)
