"""The contrastive term of pretraining: two views of an image should have more similar features than views of others.

The paper does not have this term. The projection is trained with the model, but is not part of the checkpoint.
"""

import torch
from torch import distributed, nn
from torch.distributed.nn.functional import all_gather

from ..modeling.modeling_spectralgpt import SpectralGPTForPreTrainingOutput, SpectralGPTModel, masked_mean


PROJECTION_WIDTHS = (512, 128)


def build_projection(hidden_size: int) -> nn.Sequential:
    """Return the layers between the pooled features and the contrastive loss.

    They can discard information that differs between the views, so that the features keep it.
    """
    hidden, width = PROJECTION_WIDTHS
    return nn.Sequential(nn.Linear(hidden_size, hidden), nn.GELU(), nn.Linear(hidden, width))


def pooled_visible_tokens(
    encoder: SpectralGPTModel, output: SpectralGPTForPreTrainingOutput, attention_mask: torch.Tensor | None
) -> torch.Tensor:
    """Return the pooled output (B, D), float32, of the visible tokens of a pretraining step.

    Args:
        encoder: Encoder of the model that computed `output`.
        output: Output of the model, called with `output_hidden_states=True`.
        attention_mask: (B, N), 0 for tokens without data.

    Raises:
        ValueError: If `output` lacks the hidden states or the order of the tokens.
    """
    if output.hidden_states is None or output.ids_restore is None:
        raise ValueError("Expected `hidden_states` and `ids_restore`: call the model with `output_hidden_states=True`.")
    tokens = output.hidden_states[-1]  # (B, K, D), before the final LayerNorm
    if attention_mask is not None:
        attention_mask = attention_mask.gather(1, output.ids_restore.argsort(1)[:, : tokens.shape[1]])
    return encoder.layernorm(masked_mean(tokens, attention_mask)).float()


def contrastive_loss(features: torch.Tensor, temperature: float) -> torch.Tensor:
    """Return the cross-entropy of finding each image's other view among all views of the global batch (NT-Xent).

    Every process returns the same loss. The average of their gradients is the gradient of that loss, as it would be in
    one process.

    Source: Chen et al., A Simple Framework for Contrastive Learning of Visual Representations, ICML 2020.

    Args:
        features: (2 B, D), the first views of this process followed by the second. B is the same in all processes.
        temperature: Divisor of the cosine similarities.
    """
    features = _gather_views(nn.functional.normalize(features.float(), dim=1))
    similarity = features @ features.T / temperature
    itself = torch.eye(len(features), dtype=torch.bool, device=features.device)
    partner = torch.arange(len(features), device=features.device).roll(len(features) // 2)
    return nn.functional.cross_entropy(similarity.masked_fill(itself, -torch.inf), partner)


def _gather_views(features: torch.Tensor) -> torch.Tensor:
    """Join the features (2 B, D) of all processes, all first views before all second views."""
    if not distributed.is_initialized() or distributed.get_world_size() == 1:
        return features
    # Unlike `accelerator.gather`, this returns the gradients of the other processes to the process of the features.
    views = torch.cat([part.unflatten(0, (2, -1)) for part in all_gather(features.contiguous())], dim=1)
    return views.flatten(0, 1)
