"""Parameter groups, a schedule that transformers does not have, and the types that machines compute in."""

import re
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR


# MAE's recipe, which the paper follows: no weight decay on biases, norms, positions and learned tokens.
FREE_OF_DECAY = ("position_embeddings", "mask_token", "cls_token", "relative_position_bias_table")


def parameter_groups(
    model: nn.Module, weight_decay: float, *, learning_rate: float | None = None, layer_decay: float = 1.0
) -> list[dict[str, object]]:
    """Split the trainable parameters by weight decay and, if rates differ, by layer.

    Args:
        model: The model, before it is wrapped for distributed training. LoRA may have wrapped it already.
        weight_decay: Weight decay of all parameters but biases, norms, positions and learned tokens, which have none.
        learning_rate: Learning rate of the head, needed with `layer_decay`.
        layer_decay: Learning rate of a layer divided by that of the next one: layer i of L has the rate
            learning_rate * layer_decay ** (L + 1 - i). The patch embedding and the positions are layer 0, the
            encoder's layers 1 to L, and everything after them is layer L + 1.

    Returns:
        Non-empty parameter groups for a torch optimizer: one with and one without weight decay, for each layer if rates
        differ by layer.

    Raises:
        ValueError: If rates should differ by layer, but the model is not SpectralGPT or `learning_rate` is missing.
    """
    by_layer = layer_decay != 1.0
    if by_layer and learning_rate is None:
        raise ValueError("`layer_decay` needs the `learning_rate` of the head.")
    head = _head_depth(model) if by_layer else 0
    groups: dict[tuple[int, bool], dict[str, Any]] = {}
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        is_free = parameter.ndim == 1 or name.endswith(FREE_OF_DECAY)
        depth = layer_of(name, head) if by_layer else head
        group = groups.setdefault((depth, is_free), {"params": [], "weight_decay": 0.0 if is_free else weight_decay})
        group["params"].append(parameter)
        if learning_rate is not None:
            group["lr"] = learning_rate * layer_decay ** (head - depth)
    return [groups[key] for key in sorted(groups)]


def layer_of(name: str, head: int) -> int:
    """Return the layer of SpectralGPT that a parameter belongs to: 0 for embeddings, `head` beyond the last layer."""
    found = re.search(r"(?<!decoder\.)\b(?:embeddings|layers\.(\d+))\.", name)
    if found is None:
        return head
    return 0 if found[1] is None else int(found[1]) + 1


def exponential_schedule(optimizer: Optimizer, steps_per_epoch: int, factor: float) -> LambdaLR:
    """Multiply the learning rate by `factor` after each epoch."""
    return LambdaLR(optimizer, lambda step: factor ** (step // steps_per_epoch))


def _head_depth(model: nn.Module) -> int:
    config: Any = getattr(model, "config", None)
    if getattr(config, "model_type", None) != "spectralgpt":
        found = getattr(config, "model_type", type(model).__name__)
        raise ValueError(f"`layer_decay` is only available for SpectralGPT, found {found}: set it to 1.")
    return config.num_hidden_layers + 1


def computes_in_bfloat16() -> bool:
    """Return whether the accelerator, or else the processor, has instructions for bfloat16. Emulation is slow."""
    if torch.cuda.is_available():
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if torch.accelerator.is_available():
        return True
    return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
