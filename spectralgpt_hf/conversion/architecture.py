"""Infer the task, the sizes and the bands of an original checkpoint from its tensors and its file name."""

import logging
import math
import re
import statistics
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

import torch

from ..modeling.bands import L2A_BANDS, PSEUDO_BAND_MEAN, SEGMUNICH_BANDS
from ..modeling.configuration_spectralgpt import PRESETS, SpectralGPTConfig
from ..modeling.modeling_spectralgpt import (
    SpectralGPTForChangeDetection,
    SpectralGPTForPreTraining,
    SpectralGPTForSemanticSegmentation,
    SpectralGPTModel,
    SpectralGPTPreTrainedModel,
)
from .original_checkpoint import OriginalCheckpoint
from .state_dict import to_original


logger = logging.getLogger(__name__)

FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
ARCHITECTURES: dict[str, type[SpectralGPTPreTrainedModel]] = {
    architecture.__name__: architecture
    for architecture in (
        SpectralGPTForPreTraining,
        SpectralGPTForSemanticSegmentation,
        SpectralGPTForChangeDetection,
        SpectralGPTModel,
    )
}


@dataclass(frozen=True)
class Release:
    """Facts about a released file that are not stored in it.

    All released weights were trained with min-max normalisation of each image and band.
    """

    bands: tuple[str, ...] = L2A_BANDS
    labels: tuple[str, ...] = ()


SEGMUNICH = Release(
    bands=(*SEGMUNICH_BANDS, PSEUDO_BAND_MEAN, PSEUDO_BAND_MEAN),
    labels=(
        "Background",
        "Arable land",
        "Permanent crops",
        "Pastures",
        "Forests",
        "Surface water",
        "Shrub",
        "Open spaces",
        "Wetlands",
        "Mine dump",
        "Artificial vegetation",
        "Urban fabric",
        "Buildings",
    ),
)
OSCD = Release(labels=("No change", "Change"))
RELEASES: dict[str, Release] = {
    "SpectralGPT.pth": Release(),
    "SpectralGPT+.pth": Release(),
    "model_3con_loss_51_0.pth": SEGMUNICH,
    "spectralGPT+_54_28.pth": OSCD,
}


def infer_architecture(
    original: OriginalCheckpoint, overrides: Mapping[str, Any]
) -> tuple[type[SpectralGPTPreTrainedModel], SpectralGPTConfig]:
    """Find the class and the configuration of an original checkpoint.

    A file with neither a pretraining decoder nor a dense head is treated as an encoder (`SpectralGPTModel`).

    Args:
        original: The checkpoint. A released one is recognised by its file name.
        overrides: Attributes of the configuration that the caller sets; `architectures=[name]` chooses the class.

    Raises:
        ValueError: If an override is unknown, or a size cannot be inferred from the tensors.
    """
    _check_overrides(overrides)
    state_dict = original.state_dict
    if "pos_embed" in state_dict:
        raise ValueError(
            f"{original.name} has one joint `pos_embed` of shape {_shape(state_dict['pos_embed'])}, as the original "
            "writes after fine-tuning a classifier. It cannot be split into a spatial and a spectral one: fine-tune "
            "`SpectralGPTForImageClassification` from a converted pretraining checkpoint instead."
        )
    sizes = _encoder_sizes(original)
    if any(name.startswith("decoder_") or name == "mask_token" for name in state_dict):
        name = SpectralGPTForPreTraining.__name__
        sizes |= _decoder_sizes(original)
    elif any(name.startswith("cls_seg.") for name in state_dict):
        sizes |= _dense_sizes(original)
        # Both dense tasks have the same tensors. The original saves those of segmentation under the key "model" and
        # those of change detection without it.
        is_change = not original.nested and sizes["num_labels"] == 2
        name = (SpectralGPTForChangeDetection if is_change else SpectralGPTForSemanticSegmentation).__name__
    else:
        name = SpectralGPTModel.__name__
    name = overrides.get("architectures", [name])[0]
    if name not in ARCHITECTURES:
        raise ValueError(f"`architectures` must be one of {', '.join(ARCHITECTURES)}, got {name!r}.")

    release = _find_release(original, name, {**sizes, **overrides})
    attributes: dict[str, object] = {**sizes, **_heads(sizes, overrides), **_labels(release, sizes)}
    if sizes["num_channels"] == len(release.bands):
        attributes["bands"] = release.bands
    elif "bands" not in overrides:
        raise ValueError(
            f"{original.name} takes {sizes['num_channels']} bands (`pos_embed_temporal` x `patch_embed.proj.weight`): "
            f"expected {len(release.bands)}, or the names in `bands`."
        )
    return ARCHITECTURES[name], SpectralGPTConfig(**{**attributes, **overrides})


def saved_architecture(config: SpectralGPTConfig) -> type[SpectralGPTPreTrainedModel]:
    """Return the class that a converted checkpoint was saved from; `ValueError` if the original has no such network."""
    name = (config.architectures or ["none"])[0]
    if name not in ARCHITECTURES:
        raise ValueError(f"The original has no layout for {name}: expected one of {', '.join(ARCHITECTURES)}.")
    return ARCHITECTURES[name]


def check_tensors(original: OriginalCheckpoint, model: SpectralGPTPreTrainedModel) -> None:
    """Compare a checkpoint's tensors one by one with those of `model`, which may be on the meta device.

    Raises:
        ValueError: If a tensor is missing, unexpected, not finite, or of another shape or dtype; the message lists all.
    """
    found = original.state_dict
    expected = to_original(model.state_dict(), model.config)
    problems = [
        *(f"{name}: missing, expected {_shape(expected[name])}" for name in expected if name not in found),
        *(f"{name}: left over, no such tensor in this architecture" for name in found if name not in expected),
    ]
    for name in [name for name in expected if name in found]:
        if found[name].shape != expected[name].shape:
            problems.append(f"{name}: expected shape {_shape(expected[name])}, found {_shape(found[name])}")
        elif not _is_plain(found[name]):
            problems.append(f"{name}: expected plain floats that the file holds, found {_kind(found[name])}")
    if not problems:  # the values are read last, because a view can claim a size that would not fit into memory
        problems = [f"{name}: holds NaN or infinity" for name, tensor in found.items() if not tensor.isfinite().all()]
    if problems:
        config = model.config
        more = [f"... and {len(problems) - 20} more"] if len(problems) > 20 else []
        raise ValueError(
            f"{original.name} is not a complete checkpoint of {type(model).__name__} "
            f"(hidden_size={config.hidden_size}, {config.num_hidden_layers} layers, image_size={config.image_size}):"
            + "".join(f"\n  {problem}" for problem in problems[:20] + more)
        )


def _check_overrides(overrides: Mapping[str, object]) -> None:
    known = {field.name for field in fields(SpectralGPTConfig)} | {"num_labels"}
    unknown = [name for name in overrides if name not in known]
    if unknown:
        raise ValueError(f"Unknown configuration attributes: {', '.join(unknown)}. See `SpectralGPTConfig`.")


def _encoder_sizes(original: OriginalCheckpoint) -> dict[str, int]:
    weight = original.state_dict.get("patch_embed.proj.weight")
    if weight is None or weight.ndim != 5:
        found = "none" if weight is None else f"shape {_shape(weight)}"
        raise ValueError(f"{original.name}: expected a `patch_embed.proj.weight` of 5 dimensions, found {found}.")
    spectral_patch_size, patch_size = weight.shape[2:4]
    return {
        "hidden_size": _size(original, -1, "norm.bias", "patch_embed.proj.bias", "pos_embed_(spatial|temporal)"),
        "num_hidden_layers": _layers(original, "blocks"),
        "intermediate_size": _size(original, 0, r"blocks\.\d+\.mlp\.fc1\.bias"),
        "image_size": math.isqrt(_size(original, 1, "(decoder_)?pos_embed_spatial")) * patch_size,
        "patch_size": patch_size,
        "spectral_patch_size": spectral_patch_size,
        "num_channels": _size(original, 1, "(decoder_)?pos_embed_temporal") * spectral_patch_size,
    }


def _decoder_sizes(original: OriginalCheckpoint) -> dict[str, int]:
    return {
        "decoder_hidden_size": _size(
            original, -1, "decoder_norm.bias", "mask_token", "decoder_pos_embed_(spatial|temporal)"
        ),
        "decoder_num_hidden_layers": _layers(original, "decoder_blocks"),
        "decoder_intermediate_size": _size(original, 0, r"decoder_blocks\.\d+\.mlp\.fc1\.bias"),
    }


def _dense_sizes(original: OriginalCheckpoint) -> dict[str, int]:
    return {
        "num_labels": _size(original, 0, r"cls_seg\.0\.(weight|bias)"),
        "decode_hidden_size": _size(original, 0, r"decoder\.(conv_x1|fuse_all\.0|Conv_fuse\d_\.0)\.bias"),
    }


def _find_release(original: OriginalCheckpoint, architecture: str, sizes: Mapping[str, object]) -> Release:
    for name, release in RELEASES.items():
        if name.lower() == original.name.lower():
            return release
    if architecture == SpectralGPTForChangeDetection.__name__:
        return OSCD
    if sizes.get("num_labels") == len(SEGMUNICH.labels) and "bands" not in sizes:
        logger.warning(
            "%s has %d classes and is treated as a SegMunich model with the bands %s. If not, pass its `bands`.",
            original.name,
            sizes["num_labels"],
            " ".join(SEGMUNICH.bands),
        )
        return SEGMUNICH
    return Release()


def _labels(release: Release, sizes: Mapping[str, int]) -> dict[str, dict[int, str] | dict[str, int]]:
    """Return the names of the classes, where they are known."""
    if sizes.get("num_labels") != len(release.labels):
        return {}
    return {
        "id2label": dict(enumerate(release.labels)),
        "label2id": {label: index for index, label in enumerate(release.labels)},
    }


def _heads(sizes: Mapping[str, int], overrides: Mapping[str, object]) -> dict[str, int]:
    """Return the numbers of attention heads of the presets of the same widths: no tensor's shape depends on them."""
    heads = {}
    presets = [SpectralGPTConfig.from_preset(name) for name in PRESETS]
    for prefix in ("", "decoder_"):
        width, name = sizes.get(f"{prefix}hidden_size"), f"{prefix}num_attention_heads"
        known = {getattr(preset, f"{prefix}hidden_size"): getattr(preset, name) for preset in presets}
        if width in known:
            heads[name] = known[width]
        elif width is not None and name not in overrides:
            raise ValueError(
                f"The number of heads cannot be inferred from the tensors, and no preset has `{prefix}hidden_size` "
                f"{width} (the presets have {', '.join(map(str, known))}): pass `{name}`."
            )
    return heads


def _layers(original: OriginalCheckpoint, prefix: str) -> int:
    """Count the layers that have most of their tensors, so that one misnamed tensor does not change the count."""
    tensors = Counter(match[1] for name in original.state_dict if (match := re.match(rf"{prefix}\.(\d+)\.", name)))
    return sum(count > max(tensors.values()) / 2 for count in tensors.values())


def _size(original: OriginalCheckpoint, axis: int, *names: str) -> int:
    """Return the size that most of the tensors with these names (regular expressions) have along an axis."""
    pattern = re.compile("|".join(names))
    shapes = [tensor.shape for name, tensor in original.state_dict.items() if pattern.fullmatch(name)]
    sizes = [shape[axis] for shape in shapes if len(shape) > max(axis, 0)]
    if not sizes:
        raise ValueError(f"{original.name}: expected tensors called {', '.join(names)}, found none.")
    return statistics.mode(sizes)


def _is_plain(tensor: torch.Tensor) -> bool:
    """Return whether a tensor holds floats that are all in the file: a view can claim more than its storage has."""
    return (
        tensor.layout == torch.strided
        and tensor.device.type == "cpu"
        and tensor.dtype in FLOATS
        and tensor.numel() * tensor.element_size() <= tensor.untyped_storage().nbytes()
    )


def _kind(tensor: torch.Tensor) -> str:
    return f"{str(tensor.dtype).removeprefix('torch.')} ({tensor.layout}, {tensor.device})"


def _shape(tensor: torch.Tensor) -> str:
    return str(tuple(tensor.shape))
