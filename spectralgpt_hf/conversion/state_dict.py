"""The table of the original's tensor names and ours, which is read in both directions."""

import re
from collections.abc import Mapping

import torch

from ..modeling.configuration_spectralgpt import SpectralGPTConfig


# `pos_embed_temporal` is the spectral position. Its name comes from a model of videos, which the original derives from.
_ENCODER = (
    ("pos_embed_spatial", "spectralgpt.embeddings.position_embeddings.spatial_position_embeddings"),
    ("pos_embed_temporal", "spectralgpt.embeddings.position_embeddings.spectral_position_embeddings"),
    ("patch_embed.proj", "spectralgpt.embeddings.patch_embeddings"),
    ("norm", "spectralgpt.layernorm"),
)
_PRETRAINING_DECODER = (
    ("decoder_pos_embed_spatial", "decoder.position_embeddings.spatial_position_embeddings"),
    ("decoder_pos_embed_temporal", "decoder.position_embeddings.spectral_position_embeddings"),
    ("mask_token", "decoder.mask_token"),
    ("decoder_embed", "decoder.embed"),
    ("decoder_norm", "decoder.layernorm"),
    ("decoder_pred", "decoder.prediction"),
)
_LAYER = (
    ("norm1", "layernorm_before"),
    ("norm2", "layernorm_after"),
    ("attn.q", "attention.q_proj"),
    ("attn.k", "attention.k_proj"),
    ("attn.v", "attention.v_proj"),
    ("attn.proj", "attention.o_proj"),
    ("mlp.fc1", "mlp.fc1"),
    ("mlp.fc2", "mlp.fc2"),
)
_DENSE_HEAD = (
    ("fc.0", "decode_head.group_fusion"),
    ("conv{}.{}", "decode_head.branches.{}.{}"),
    ("decoder.PPMHead.psp_modules.{}.1", "decode_head.pool_projections.{}"),
    ("decoder.PPMHead.final.{}", "decode_head.pool_fusion.{}"),
    ("decoder.conv_x1", "decode_head.top_projection"),
    *((f"decoder.Conv_fuse{step + 1}.{{}}", f"decode_head.laterals.{step}.{{}}") for step in range(3)),
    *((f"decoder.Conv_fuse{step + 1}_.{{}}", f"decode_head.merges.{step}.{{}}") for step in range(3)),
    ("decoder.fuse_all.{}", "decode_head.level_fusion.{}"),
    ("cls_seg.0", "decode_head.classifier"),
)

# Original name, our name; `{}` stands for a number, the same on both sides, and `.weight` or `.bias` may follow.
NAMES: tuple[tuple[str, str], ...] = (
    *_ENCODER,
    *((f"blocks.{{}}.{original}", f"spectralgpt.layers.{{}}.{ours}") for original, ours in _LAYER),
    *_PRETRAINING_DECODER,
    *((f"decoder_blocks.{{}}.{original}", f"decoder.layers.{{}}.{ours}") for original, ours in _LAYER),
    *_DENSE_HEAD,
)

# The prefix of the encoder's names in every class but `SpectralGPTModel`.
ENCODER = "spectralgpt."
_PATCH_WEIGHT = "patch_embed.proj.weight"


def to_ours(state_dict: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Return the tensors of an original state dict under our names, as views.

    Raises:
        ValueError: If the original has no tensor of such a name.
    """
    return {
        our_name(name): tensor.flatten(1) if name == _PATCH_WEIGHT else tensor for name, tensor in state_dict.items()
    }


def to_original(state_dict: Mapping[str, torch.Tensor], config: SpectralGPTConfig) -> dict[str, torch.Tensor]:
    """Return the tensors of our state dict under the original's names and in its shapes, as views.

    Raises:
        ValueError: If the original has no counterpart of a tensor.
    """
    tensors = {original_name(name): tensor for name, tensor in state_dict.items()}
    cube = (1, config.spectral_patch_size, config.patch_size, config.patch_size)  # the kernel of a 3D convolution
    return {name: tensor.unflatten(1, cube) if name == _PATCH_WEIGHT else tensor for name, tensor in tensors.items()}


def our_name(name: str) -> str:
    """Return our name of the original's tensor `name`; `ValueError` if there is none."""
    return _translate(name, _TO_OURS, "No tensor of the original SpectralGPT is called")


def original_name(name: str) -> str:
    """Return the original's name of our tensor `name`; `ValueError` if there is none."""
    return _translate(name.removeprefix(ENCODER), _TO_ORIGINAL, "The original SpectralGPT has no counterpart of")


def _pattern(name: str) -> re.Pattern[str]:
    return re.compile(re.escape(name).replace(r"\{\}", r"(\d+)") + r"(\.weight|\.bias|)")


_TO_OURS = [(_pattern(original), ours) for original, ours in NAMES]
# The prefix is left out, because `SpectralGPTModel` has none.
_TO_ORIGINAL = [(_pattern(ours.removeprefix(ENCODER)), original) for original, ours in NAMES]


def _translate(name: str, table: list[tuple[re.Pattern[str], str]], refusal: str) -> str:
    for pattern, target in table:
        match = pattern.fullmatch(name)
        if match:
            *numbers, kind = match.groups()
            return target.format(*numbers) + kind
    raise ValueError(f"{refusal} {name!r}.")
