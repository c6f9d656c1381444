"""Parameter groups."""

from typing import Any

from torch import nn


def parameter_groups(model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Split the trainable parameters into those with weight decay and those without.

    Biases, norms, positions and the mask token are not decayed (MAE's recipe, which the paper follows).

    Args:
        model: The model, before it is wrapped.
        weight_decay: Of the parameters that have one.

    Returns:
        Two groups for a torch optimizer.
    """
    decayed: list[nn.Parameter] = []
    free: list[nn.Parameter] = []
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            is_free = parameter.ndim == 1 or name.endswith(("position_embeddings", "mask_token"))
            (free if is_free else decayed).append(parameter)
    return [{"params": decayed, "weight_decay": weight_decay}, {"params": free, "weight_decay": 0.0}]
