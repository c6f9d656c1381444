"""Terms that the loss of pretraining can have beside those of the paper. Both are about the pooled features.

Contrast: two views of an image should have more similar features than views of others. Statistics: features should
predict brightness and texture of the bands. What the terms learn is not part of the model's checkpoint.
"""

import torch
from torch import distributed, nn
from torch.distributed.nn.functional import all_gather

from ..modeling.configuration_spectralgpt import SpectralGPTConfig
from ..modeling.modeling_spectralgpt import (
    SpectralGPTForPreTrainingOutput,
    SpectralGPTModel,
    band_statistics,
    masked_mean,
    num_band_statistics,
    skipped_pixels,
)
from .views import Views


PROJECTION_WIDTHS = (512, 128)
NUM_COMPONENTS = 24  # of the statistics
COMPONENT_SCALE = 2.0  # deviation of a component in the features; the mean square of a feature is 1 after the LayerNorm
LEAST_DEVIATION = 1e-2  # of a statistic or a component


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


def view_statistics(views: Views, config: SpectralGPTConfig) -> torch.Tensor:
    """Return the `band_statistics` (B, S) of the views of a step, masked tokens included; NaN for one without data."""
    pixels, mask = skipped_pixels(views["pixel_values"], config, views["attention_mask"])
    statistics = band_statistics(pixels, config.patch_size, mask)
    return statistics if mask is None else statistics.where(mask.flatten(1).any(1, keepdim=True), torch.nan)


class StatisticsTerm(nn.Module):
    """Error of the principal components of an image's `band_statistics`, as predicted by its pooled features.

    Reconstruction hardly rewards texture: noise that cannot be foretold is best filled with its mean. The components
    are scaled to a variance of 1, because brightness makes up most of the variance of the statistics. They are
    predicted along fixed orthogonal axes of the features, where all of them have the same variance. Errors below 1 are
    squared; larger ones count less, so that clouds and open sea do not outweigh the land.

    Args:
        config: Configuration of the model.
    """

    feature_axes: torch.Tensor
    mean: torch.Tensor
    axes: torch.Tensor

    def __init__(self, config: SpectralGPTConfig) -> None:
        super().__init__()
        num_statistics = num_band_statistics(config.patch_size) * config.num_channels
        num_components = min(NUM_COMPONENTS, num_statistics, config.hidden_size)
        self.bias = nn.Parameter(torch.zeros(num_components))
        generator = torch.Generator().manual_seed(0)  # every stage and run reads the features along the same axes
        axes = nn.init.orthogonal_(torch.empty(num_components, config.hidden_size), generator=generator)
        self.register_buffer("feature_axes", axes)
        self.register_buffer("mean", torch.zeros(num_statistics))
        self.register_buffer("axes", torch.zeros(num_components, num_statistics))

    @torch.no_grad()
    def fit(self, statistics: torch.Tensor) -> None:
        """Find the principal components of the statistics (N, S) of N images, each scaled to a variance of 1 before.

        Statistics that hardly vary are left out, and so are components. Rows of NaN are left out, too.
        """
        values = statistics[statistics.isfinite().all(1)].double().cpu()
        mean, deviations = values.mean(0), values.std(0)
        deviations[~(deviations > LEAST_DEVIATION)] = torch.inf
        variances, axes = torch.linalg.eigh(((values - mean) / deviations).T.cov())  # in rising order
        variances[variances < LEAST_DEVIATION**2] = torch.inf
        scaled = axes.T / variances.sqrt()[:, None] / deviations
        scaled[scaled.sum(1) < 0] *= -1  # the sign of an axis is arbitrary
        self.mean.copy_(mean)
        self.axes.copy_(scaled.flip(0)[: len(self.axes)])

    def forward(self, pooled: torch.Tensor, statistics: torch.Tensor) -> torch.Tensor:
        """Return the loss of pooled features (B, D) of images with these statistics (B, S), 0 for rows of NaN."""
        with torch.autocast(pooled.device.type, enabled=False):  # small components are differences of large numbers
            known = statistics.isfinite().all(1)
            targets = (statistics - self.mean).masked_fill(~known[:, None], 0.0) @ self.axes.T
            found = nn.functional.linear(pooled.float(), self.feature_axes / COMPONENT_SCALE, self.bias)
            errors = nn.functional.smooth_l1_loss(found, targets, reduction="none").mean(1)
            return 2 * (errors * known).mean()  # of all images, so that processes with fewer known ones count less


def _gather_views(features: torch.Tensor) -> torch.Tensor:
    """Join the features (2 B, D) of all processes, all first views before all second views."""
    if not distributed.is_initialized() or distributed.get_world_size() == 1:
        return features
    # Unlike `accelerator.gather`, this returns the gradients of the other processes to the process of the features.
    views = torch.cat([part.unflatten(0, (2, -1)) for part in all_gather(features.contiguous())], dim=1)
    return views.flatten(0, 1)
