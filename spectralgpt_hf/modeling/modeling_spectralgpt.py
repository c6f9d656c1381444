# Copyright 2026 The SpectralGPT-HF authors.
#
# Licensed under the Apache License, Version 2.0 (the "License");
# you may not use this file except in compliance with the License.
# You may obtain a copy of the License at
#
#     http://www.apache.org/licenses/LICENSE-2.0
#
# Unless required by applicable law or agreed to in writing, software
# distributed under the License is distributed on an "AS IS" BASIS,
# WITHOUT WARRANTIES OR CONDITIONS OF ANY KIND, either express or implied.
# See the License for the specific language governing permissions and
# limitations under the License.
"""PyTorch SpectralGPT model: a masked autoencoder of 3D (spectral x spatial) tokens for multispectral images.

Source: Hong et al., SpectralGPT: Spectral Remote Sensing Foundation Model, IEEE TPAMI 46(8), 2024 (arXiv 2311.07113).

Shapes: B images, or series of T dates; C bands, H x W pixels; G = C / spectral_patch_size spectral groups, rounded up;
h = H / patch_size and w = W / patch_size rows and columns of patch positions; N = G * h * w tokens in spectral-major
order (token = group * h * w + row * w + column); P = spectral_patch_size * patch_size ** 2 values in a token; K visible
tokens; S tokens that the decoder sees; D hidden size of the encoder or, within the decoder, of the decoder.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from transformers import initialization as init
from transformers.activations import ACT2FN
from transformers.backbone_utils import BackboneMixin, filter_output_hidden_states
from transformers.masking_utils import create_bidirectional_mask
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_outputs import (
    BackboneOutput,
    BaseModelOutputWithPooling,
    ImageClassifierOutput,
    SemanticSegmenterOutput,
)
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS, PreTrainedModel
from transformers.processing_utils import Unpack
from transformers.utils import ModelOutput, TransformersKwargs, auto_docstring
from transformers.utils.generic import can_return_tuple, merge_with_config_defaults
from transformers.utils.output_capturing import capture_outputs

from .configuration_spectralgpt import SpectralGPTConfig


@auto_docstring(custom_intro="Output of the SpectralGPT encoder.")
@dataclass
class SpectralGPTModelOutput(BaseModelOutputWithPooling):
    r"""
    last_hidden_state (`torch.FloatTensor` of shape `(batch_size, num_tokens, hidden_size)`):
        Tokens after the final LayerNorm, in spectral-major order (or in the order of `ids_keep`). A series has one set
        of tokens, which is fused from its dates.
    pooler_output (`torch.FloatTensor` of shape `(batch_size, hidden_size)`):
        Mean over the tokens with data of the last layer's output, then the final LayerNorm.
    last_layer_output (`torch.FloatTensor` of shape `(batch_size, num_tokens, hidden_size)`):
        Tokens before the final LayerNorm, from which the dense heads are computed.
    """

    last_layer_output: torch.Tensor | None = None


@auto_docstring(custom_intro="Output of SpectralGPT pretraining.")
@dataclass
class SpectralGPTForPreTrainingOutput(ModelOutput):
    r"""
    loss (`torch.FloatTensor` of shape `()`):
        Weighted sum of the token-to-token and the spectral-to-spectral reconstruction errors.
    token_loss (`torch.FloatTensor` of shape `()`):
        Mean squared error of the removed tokens.
    spectral_loss (`torch.FloatTensor` of shape `()`):
        Mean squared error of the sum over the spectral groups of each patch position, over all patch positions.
    logits (`torch.FloatTensor` of shape `(batch_size, num_tokens, spectral_patch_size * patch_size ** 2)`):
        Predicted values of every token. In training with `decode_ratio < 1`, tokens that were not decoded hold 0.
    mask (`torch.FloatTensor` of shape `(batch_size, num_tokens)`):
        0 = token kept, 1 = token removed.
    ids_restore (`torch.LongTensor` of shape `(batch_size, num_tokens)`):
        Rank of every token in the ascending order of the noise.
    """

    loss: torch.Tensor | None = None
    token_loss: torch.Tensor | None = None
    spectral_loss: torch.Tensor | None = None
    logits: torch.Tensor | None = None
    mask: torch.Tensor | None = None
    ids_restore: torch.Tensor | None = None
    hidden_states: tuple[torch.Tensor, ...] | None = None
    attentions: tuple[torch.Tensor, ...] | None = None


def patchify(pixel_values: torch.Tensor, config: SpectralGPTConfig) -> torch.Tensor:
    """Cut images (B, C, H, W) into 3D tokens (B, N, P), spectral-major; a token's values are (band, row, column)."""
    batch_size, num_channels, height, width = pixel_values.shape
    depth, size = config.spectral_patch_size, config.patch_size
    if num_channels % depth:  # the last group is padded with bands of zeros
        pixel_values = nn.functional.pad(pixel_values, (0, 0, 0, 0, 0, depth - num_channels % depth))
        num_channels = pixel_values.shape[1]
    patches = pixel_values.reshape(batch_size, num_channels // depth, depth, height // size, size, width // size, size)
    return patches.permute(0, 1, 3, 5, 2, 4, 6).reshape(batch_size, -1, depth * size * size)


def unpatchify(patches: torch.Tensor, height: int, width: int, config: SpectralGPTConfig) -> torch.Tensor:
    """Join tokens (B, N, P) to images (B, C, `height`, `width`): the inverse of `patchify`."""
    depth, size = config.spectral_patch_size, config.patch_size
    patches = patches.reshape(patches.shape[0], -1, height // size, width // size, depth, size, size)
    pixel_values = patches.permute(0, 1, 4, 2, 5, 3, 6).reshape(patches.shape[0], -1, height, width)
    # `token_grid` accepts a number of bands that does not fill the last group only where it is the configuration's own.
    is_padded = config.num_channels < pixel_values.shape[1] < config.num_channels + depth
    return pixel_values[:, : config.num_channels] if is_padded else pixel_values


def values_of_bands(pixel_values: torch.Tensor, config: SpectralGPTConfig) -> torch.Tensor | None:
    """Return which values (1, N, P), bool, of the tokens of images (B, C, H, W) belong to a band.

    None where all do: where C is a multiple of `spectral_patch_size`, so that no group is padded.
    """
    num_channels, depth = pixel_values.shape[1], config.spectral_patch_size
    if num_channels % depth == 0:
        return None
    return patchify(torch.ones_like(pixel_values[:1]), config) != 0


def spectral_interpolation(old: Sequence[float | None], new: Sequence[float | None]) -> torch.Tensor:
    """Return the matrix (groups of `new`, groups of `old`) that interpolates values of groups linearly by wavelength.

    A group beyond the range of `old` takes the value of the nearest group. A group without a wavelength takes the value
    of the group of the same number.

    Args:
        old: Mean wavelength, in nm, of each group that the values belong to.
        new: Mean wavelength, in nm, of each group to interpolate for.
    """
    known = sorted((centre, group) for group, centre in enumerate(old) if centre is not None)
    matrix = torch.zeros(len(new), len(old))
    for group, centre in enumerate(new):
        if centre is None or not known:
            matrix[group, min(group, len(old) - 1)] = 1
            continue
        above = next((i for i, (other, _) in enumerate(known) if other >= centre), len(known) - 1)
        (low, first), (high, second) = known[max(above - 1, 0)], known[above]
        share = 1.0 if high <= low or centre >= high else max(0.0, (centre - low) / (high - low))
        matrix[group, first] += 1 - share
        matrix[group, second] += share
    return matrix


def group_wavelengths(config: SpectralGPTConfig) -> list[float | None]:
    """Return the mean wavelength, in nm, of each spectral group of a configuration; None where no band has one."""
    size, centres = config.spectral_patch_size, list(config.wavelengths or ())
    groups = [
        [centre for centre in centres[start : start + size] if centre is not None]
        for start in range(0, config.num_channels, size)
    ]
    return [sum(group) / len(group) if group else None for group in groups]


def gather_tokens(tokens: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
    """Return the tokens (B, K, D) out of `tokens` (B, N, D) that `ids` (B, K) names."""
    return tokens.gather(1, ids[..., None].expand(-1, -1, tokens.shape[-1]))


def flatten_dates(
    pixel_values: torch.Tensor, attention_mask: torch.Tensor | None = None
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Return the dates of series as single images: (B * T, C, H, W) and (B * T, N). Single images stay as they are.

    Raises:
        ValueError: If `attention_mask` does not have one value per token of each date, (B, T, N).
    """
    if pixel_values.ndim != 5:
        return pixel_values, attention_mask
    if attention_mask is not None:
        series = tuple(pixel_values.shape[:2])
        if attention_mask.ndim != 3 or attention_mask.shape[:2] != series:
            raise ValueError(
                f"`attention_mask` of a series must have shape {(*series, 'tokens')} (batch, dates, tokens), got "
                f"{tuple(attention_mask.shape)}."
            )
        attention_mask = attention_mask.flatten(0, 1)
    return pixel_values.flatten(0, 1), attention_mask


def with_data_at_any_date(attention_mask: torch.Tensor | None) -> torch.Tensor | None:
    """Return which tokens (B, N) of series have data at one date or more. A mask of single images stays as it is."""
    if attention_mask is None or attention_mask.ndim != 3:
        return attention_mask
    return (attention_mask != 0).any(dim=1)


def dates_that_count(attention_mask: torch.Tensor) -> torch.Tensor:
    """Return which dates (B, T, N), bool, count for each token: those with data, or all if no date has data."""
    valid = attention_mask != 0
    return valid | ~valid.any(dim=1, keepdim=True)


def masked_mean(values: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
    """Average over the second dimension, in float32: sums overflow in float16 and lose small terms in bfloat16.

    Args:
        values: (B, K, ...).
        mask: (B, K, ...), of the shape of `values` or without its last dimension; values where it is 0 are left out.

    Returns:
        (B, ...) in the dtype of `values`; 0 where every value is left out.
    """
    sum_dtype = torch.promote_types(values.dtype, torch.float32)
    if mask is None:
        return values.mean(dim=1, dtype=sum_dtype).to(values.dtype)
    counted = mask.to(values.device) != 0
    if counted.ndim < values.ndim:
        counted = counted[..., None]
    total = values.masked_fill(~counted, 0.0).sum(dim=1, dtype=sum_dtype)
    return (total / counted.sum(dim=1).clamp(min=1)).to(values.dtype)


def skipped_pixels(
    pixel_values: torch.Tensor, config: SpectralGPTConfig, attention_mask: torch.Tensor | None = None
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Return the input that heads with `config.pixel_skip` see beside the features, and which of its values have data.

    Args:
        pixel_values: Images (B, C, H, W), or series (B, T, C, H, W).
        config: Configuration of the model.
        attention_mask: (B, N), or (B, T, N) of series; 0 = token without data.

    Returns:
        Values (B, C, H, W), 0 where a token has no data; those of a series are averaged over its dates with data. The
        mask, bool, has the same shape; it is None if `attention_mask` is.

    Raises:
        ValueError: If the number of bands is not the configuration's.
    """
    if pixel_values.shape[-3] != config.num_channels:
        raise ValueError(
            f"A head with `pixel_skip` takes images of {config.num_channels} bands (`num_channels`), got "
            f"{pixel_values.shape[-3]}."
        )
    pixels, mask = flatten_dates(pixel_values, attention_mask)
    if mask is not None:
        grid = (-1, pixels.shape[2] // config.patch_size, pixels.shape[3] // config.patch_size)
        mask = (mask.to(pixels.device) != 0).unflatten(1, grid)  # (B * T, G, h, w)
        for dim, size in enumerate((config.spectral_patch_size, config.patch_size, config.patch_size), start=1):
            mask = mask.repeat_interleave(size, dim=dim)
        mask = mask[:, : config.num_channels]  # (B * T, C, H, W), without the bands that pad the last group
    if pixel_values.ndim == 5:
        by_date = None if mask is None else mask.unflatten(0, pixel_values.shape[:2])  # (B, T, C, H, W)
        pixels = masked_mean(pixel_values, by_date)
        mask = None if by_date is None else by_date.any(dim=1)
    return (pixels if mask is None else pixels.masked_fill(~mask, 0.0)), mask


def num_band_statistics(patch_size: int) -> int:
    """Return how many statistics `band_statistics` computes of each band: 2, and 1 for each time a patch is halved."""
    num_halvings = (patch_size & -patch_size).bit_length() - 1  # the exponent of 2 in the patch size
    return 2 + num_halvings


def band_statistics(pixels: torch.Tensor, patch_size: int, mask: torch.Tensor | None = None) -> torch.Tensor:
    """Return statistics of brightness and texture of each band, (B, S * C), float32, ordered by statistic, then band.

    The first is the mean, the second the mean of the log-sigmoid, in which dark pixels differ more than bright ones.
    The others are logarithms of the texture: the mean distance of the quarters of a square from their mean, for squares
    of 2, 4, ... pixels, as often as the patch size can be halved.

    Args:
        pixels: Images (B, C, H, W).
        patch_size: Height and width of a patch in pixels.
        mask: (B, C, H, W), equal within a patch; patches where it is 0 are left out.
    """
    split = pixels.float().unflatten(3, (-1, patch_size)).unflatten(2, (-1, patch_size))  # (B, C, h, P, w, P)
    patches = split.permute(0, 2, 4, 1, 3, 5).flatten(1, 2)  # (B, h * w, C, P, P)
    counted = None
    if mask is not None:
        counted = mask[:, :, ::patch_size, ::patch_size].flatten(2).transpose(1, 2)  # (B, h * w, C)
    statistics = [
        masked_mean(values.mean(dim=(3, 4)), counted) for values in (patches, nn.functional.logsigmoid(patches))
    ]
    for _ in range(num_band_statistics(patch_size) - 2):
        quarters = patches.unflatten(4, (-1, 2)).unflatten(3, (-1, 2))  # (B, h * w, C, p, 2, p, 2)
        means = quarters.mean(dim=(4, 6), keepdim=True)
        texture = masked_mean((quarters - means).abs().mean(dim=(3, 4, 5, 6)), counted)
        statistics.append((texture + 0.01).log())  # finite where all pixels are equal
        patches = means[:, :, :, :, 0, :, 0]
    return torch.cat(statistics, dim=1)


def token_grid(
    pixel_values: torch.Tensor, config: SpectralGPTConfig, attention_mask: torch.Tensor | None = None
) -> tuple[int, int, int]:
    """Return the number of spectral groups, rows and columns of the tokens of `pixel_values` (B, C, H, W).

    Raises:
        ValueError: If the input is not a batch of float images whose bands and size divide into tokens, or if
            `attention_mask` does not have one value per token (B, N).
    """
    if pixel_values.ndim != 4:
        raise ValueError(
            "`pixel_values` must have 4 dimensions (batch, bands, height, width); only the encoder, classification and "
            f"segmentation take series (batch, dates, bands, height, width); got shape {tuple(pixel_values.shape)}."
        )
    if not pixel_values.is_floating_point():
        raise ValueError(
            f"`pixel_values` must hold normalised floats, got {pixel_values.dtype}: pass digital numbers through "
            "`SpectralGPTImageProcessor` first."
        )
    _, num_channels, height, width = pixel_values.shape
    if num_channels % config.spectral_patch_size and num_channels != config.num_channels:
        raise ValueError(
            f"The number of bands must be a multiple of {config.spectral_patch_size} (`spectral_patch_size`), got "
            f"{num_channels}."
        )
    if height % config.patch_size or width % config.patch_size:
        raise ValueError(
            f"Height and width must be multiples of {config.patch_size} px (`patch_size`), got {height} x {width}: let "
            "`SpectralGPTImageProcessor` pad or resize the image."
        )
    num_groups = -(-num_channels // config.spectral_patch_size)
    grid = num_groups, height // config.patch_size, width // config.patch_size
    expected = (pixel_values.shape[0], math.prod(grid))
    if attention_mask is not None and attention_mask.shape != expected:
        raise ValueError(
            f"`attention_mask` must have shape {expected} (batch, tokens), got {tuple(attention_mask.shape)}: it holds "
            "one value per token in spectral-major order."
        )
    return grid


def mask_units(
    grid: tuple[int, int, int], masking: str, device: torch.device | None = None
) -> tuple[torch.Tensor, int]:
    """Return the index (N,) of the unit with which each token is masked, and the number of units.

    A unit is a token (`masking="random"`), a patch position (`"spatial"`) or a spectral group (`"spectral"`). `grid`
    holds the numbers of spectral groups, rows and columns.
    """
    num_groups, num_positions = grid[0], grid[1] * grid[2]
    tokens = torch.arange(num_groups * num_positions, device=device)
    return {
        "random": (tokens, num_groups * num_positions),
        "spatial": (tokens % num_positions, num_positions),
        "spectral": (tokens // num_positions, num_groups),
    }[masking]


class SpectralGPTPositionEmbeddings(nn.Module):
    """Learned, factorised positions: one embedding per patch position plus one per spectral group."""

    def __init__(self, config: SpectralGPTConfig):
        super().__init__()
        self.grid_size = config.image_size // config.patch_size
        self.spatial_position_embeddings = nn.Parameter(torch.zeros(1, self.grid_size**2, config.hidden_size))
        self.spectral_position_embeddings = nn.Parameter(torch.zeros(1, config.num_groups, config.hidden_size))

    def forward(self, num_groups: int, rows: int, columns: int) -> torch.Tensor:
        """Return the positions (N, D) of a grid of tokens, interpolated where it differs from the pretrained one."""
        spatial = self.spatial_position_embeddings
        if (rows, columns) != (self.grid_size, self.grid_size):
            spatial = self.interpolate_spatial(rows, columns)
        spectral = self.spectral_position_embeddings
        if num_groups != spectral.shape[1]:
            spectral = self.interpolate_spectral(num_groups)
        return (spectral[0, :, None] + spatial[0, None]).flatten(0, 1)  # (G, h * w, D) -> (N, D)

    def sine_cosine_positions(self) -> torch.Tensor:
        """Return sine and cosine waves (1, h * w, D) along the rows and the columns.

        Their wavelengths run from a few patch positions to far beyond the grid.
        """
        width, device = self.spatial_position_embeddings.shape[-1], self.spatial_position_embeddings.device
        frequencies = 10_000 ** -torch.linspace(0, 1, width // 4, device=device)
        angles = torch.arange(self.grid_size, device=device)[:, None] * frequencies
        waves = torch.cat([angles.sin(), angles.cos()], dim=1)  # (grid_size, D / 2)
        rows = waves[:, None].expand(-1, self.grid_size, -1)
        positions = torch.cat([rows, rows.transpose(0, 1)], dim=-1).flatten(0, 1)
        return nn.functional.pad(positions, (0, width - positions.shape[-1]))[None]

    def interpolate_spatial(self, rows: int, columns: int) -> torch.Tensor:
        """Return the spatial positions (1, h * w, D) of another grid."""
        spatial = self.spatial_position_embeddings
        grid = spatial.float().unflatten(1, (self.grid_size, self.grid_size)).permute(0, 3, 1, 2)
        grid = nn.functional.interpolate(grid, size=(rows, columns), mode="bicubic", align_corners=False)
        return grid.flatten(2).transpose(1, 2).to(spatial.dtype)

    def interpolate_spectral(self, num_groups: int) -> torch.Tensor:
        """Return the spectral positions (1, G, D) of another number of groups."""
        spectral = self.spectral_position_embeddings
        groups = spectral.float().transpose(1, 2)
        groups = nn.functional.interpolate(groups, size=num_groups, mode="linear", align_corners=False)
        return groups.transpose(1, 2).to(spectral.dtype)


class SpectralGPTEmbeddings(nn.Module):
    """3D tokens and their positions. Only the tokens that the encoder will see are projected."""

    def __init__(self, config: SpectralGPTConfig):
        super().__init__()
        self.config = config
        self.patch_embeddings = nn.Linear(config.spectral_patch_size * config.patch_size**2, config.hidden_size)
        self.position_embeddings = SpectralGPTPositionEmbeddings(config)

    def forward(
        self,
        pixel_values: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        ids_keep: torch.Tensor | None = None,
    ) -> torch.Tensor:
        positions = self.position_embeddings(*token_grid(pixel_values, self.config, attention_mask))  # (N, D)
        patches = patchify(pixel_values, self.config)  # (B, N, P)
        if attention_mask is not None:
            # Pixels without data may be NaN, which a product with 0 would not remove.
            patches = patches.masked_fill(attention_mask[..., None] == 0, 0.0)
        if ids_keep is not None:
            patches = gather_tokens(patches, ids_keep)  # (B, K, P)
            positions = positions[ids_keep]  # (B, K, D)
        # The dtype of the positions is that of the computation. The projection's weight may be quantised to integers,
        # to which an image must not be cast.
        return self.patch_embeddings(patches.to(positions.dtype)) + positions


def eager_attention_forward(
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float,
    dropout: float = 0.0,
    **kwargs: Unpack[TransformersKwargs],
) -> tuple[torch.Tensor, torch.Tensor]:
    attention_weights = query @ key.transpose(2, 3) * scaling
    if attention_mask is not None:
        attention_weights = attention_weights + attention_mask
    attention_weights = nn.functional.softmax(attention_weights, dim=-1, dtype=torch.float32).to(query.dtype)
    attention_weights = nn.functional.dropout(attention_weights, p=dropout, training=module.training)
    return (attention_weights @ value).transpose(1, 2).contiguous(), attention_weights


class SpectralGPTAttention(nn.Module):
    """Multi-head self-attention over all tokens with data."""

    def __init__(self, config: SpectralGPTConfig):
        super().__init__()
        self.config = config
        self.head_dim = config.hidden_size // config.num_attention_heads
        self.scaling = self.head_dim**-0.5
        self.attention_dropout = config.attention_probs_dropout_prob
        self.is_causal = False

        self.q_proj = nn.Linear(config.hidden_size, config.hidden_size)
        self.k_proj = nn.Linear(config.hidden_size, config.hidden_size)
        self.v_proj = nn.Linear(config.hidden_size, config.hidden_size)
        self.o_proj = nn.Linear(config.hidden_size, config.hidden_size)

    def forward(
        self,
        hidden_states: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        heads_shape = (*hidden_states.shape[:-1], -1, self.head_dim)
        query = self.q_proj(hidden_states).view(heads_shape).transpose(1, 2)
        key = self.k_proj(hidden_states).view(heads_shape).transpose(1, 2)
        value = self.v_proj(hidden_states).view(heads_shape).transpose(1, 2)  # (B, heads, N, head_dim)

        attention_interface: Callable = ALL_ATTENTION_FUNCTIONS.get_interface(
            self.config._attn_implementation, eager_attention_forward
        )
        attention_output, attention_weights = attention_interface(
            self,
            query,
            key,
            value,
            attention_mask,
            scaling=self.scaling,
            dropout=self.attention_dropout if self.training else 0.0,
            **kwargs,
        )
        return self.o_proj(attention_output.reshape(hidden_states.shape)), attention_weights


class SpectralGPTMLP(nn.Module):
    """Two linear layers with an activation between them."""

    def __init__(self, config: SpectralGPTConfig):
        super().__init__()
        self.fc1 = nn.Linear(config.hidden_size, config.intermediate_size)
        self.activation = ACT2FN[config.hidden_act]
        self.fc2 = nn.Linear(config.intermediate_size, config.hidden_size)

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        return self.fc2(self.activation(self.fc1(hidden_states)))


class SpectralGPTDropPath(nn.Module):
    """Stochastic depth (arXiv 1603.09382): in training, the residual branch is skipped for a random share of images."""

    def __init__(self, drop_prob: float):
        super().__init__()
        self.drop_prob = drop_prob

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        if not self.training or self.drop_prob == 0.0:
            return hidden_states
        keep_prob = 1.0 - self.drop_prob
        kept = torch.rand(hidden_states.shape[0], 1, 1, device=hidden_states.device) < keep_prob
        return hidden_states * kept / keep_prob

    def extra_repr(self) -> str:
        return f"p={self.drop_prob:.3f}"


class SpectralGPTLayer(GradientCheckpointingLayer):
    """Pre-norm transformer layer."""

    def __init__(self, config: SpectralGPTConfig, layer_idx: int):
        super().__init__()
        self.layernorm_before = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.attention = SpectralGPTAttention(config)
        self.layernorm_after = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.mlp = SpectralGPTMLP(config)
        self.drop_path = SpectralGPTDropPath(config.drop_path_rate * layer_idx / max(config.num_hidden_layers - 1, 1))

    def forward(
        self,
        hidden_states: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> torch.Tensor:
        attention_output, _ = self.attention(self.layernorm_before(hidden_states), attention_mask, **kwargs)
        hidden_states = hidden_states + self.drop_path(attention_output)
        return hidden_states + self.drop_path(self.mlp(self.layernorm_after(hidden_states)))


class SpectralGPTTemporalFusion(nn.Module):
    """Attention over the dates, which fuses the tokens of T dates (B, T, N, D) into one set of tokens (B, N, D).

    It follows L-TAE (arXiv 2007.00586): each head has a learned query and weights the dates for its own share of the
    hidden size. Keys are computed from the token and the day of the year; values are the tokens themselves. The weight
    of a single date is 1, so its tokens are not changed. An untrained module almost averages the dates.
    """

    key_dim = 8
    num_harmonics = 4
    days_of_year = 365.2425

    def __init__(self, config: SpectralGPTConfig):
        super().__init__()
        self.num_heads = config.num_attention_heads
        self.layernorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.token_proj = nn.Linear(config.hidden_size, self.num_heads * self.key_dim)
        self.date_proj = nn.Linear(2 * self.num_harmonics, self.num_heads * self.key_dim, bias=False)
        self.query = nn.Parameter(torch.zeros(self.num_heads, self.key_dim))

    def forward(
        self, hidden_states: torch.Tensor, attention_mask: torch.Tensor | None, dates: torch.Tensor
    ) -> torch.Tensor:
        """Return the fused tokens (B, N, D).

        Args:
            hidden_states: (B, T, N, D).
            attention_mask: (B, T, N), 0 = token without data, which has no weight.
            dates: (B, T), in days since any 1 January.
        """
        waves = self.day_of_year_waves(dates).to(hidden_states)
        keys = self.token_proj(self.layernorm(hidden_states)) + self.date_proj(waves)[:, :, None]
        keys = keys.unflatten(-1, (self.num_heads, self.key_dim))  # (B, T, N, heads, key_dim)
        scores = torch.einsum("btnhk,hk->btnh", keys.float(), self.query.float()) * self.key_dim**-0.5
        # (B, T, N, heads, D / heads). Sums are in float32, as in `masked_mean`.
        values = hidden_states.unflatten(-1, (self.num_heads, -1)).float()
        if attention_mask is not None:
            counted = dates_that_count(attention_mask.to(scores.device))[..., None]  # (B, T, N, 1)
            scores = scores.masked_fill(~counted, torch.finfo(scores.dtype).min)
            values = values.masked_fill(~counted[..., None], 0.0)
        weights = scores.softmax(dim=1)  # (B, T, N, heads)
        return (weights[..., None] * values).sum(dim=1).flatten(-2).to(hidden_states.dtype)

    def day_of_year_waves(self, dates: torch.Tensor) -> torch.Tensor:
        """Return the sines and cosines (B, T, 2 * num_harmonics), float32, of the first harmonics of a year."""
        harmonics = torch.arange(1, self.num_harmonics + 1, device=dates.device)
        angles = (dates.float() % self.days_of_year)[..., None] * harmonics * (2 * math.pi / self.days_of_year)
        return torch.cat([angles.sin(), angles.cos()], dim=-1)


@auto_docstring
class SpectralGPTPreTrainedModel(PreTrainedModel):
    config: SpectralGPTConfig
    base_model_prefix = "spectralgpt"
    main_input_name = "pixel_values"
    input_modalities = ("image",)
    supports_gradient_checkpointing = True
    _no_split_modules = [
        "SpectralGPTEmbeddings",
        "SpectralGPTLayer",
        "SpectralGPTTemporalFusion",
        "SpectralGPTDecoder",
        "SpectralGPTDecodeHead",
    ]
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_flex_attn = True
    _supports_attention_backend = True
    _can_compile_fullgraph = True
    _can_record_outputs = {"hidden_states": SpectralGPTLayer, "attentions": SpectralGPTAttention}
    _input_embed_layer = "patch_embeddings"
    # Every loss is a mean by default, which the Trainer must divide by the number of accumulated steps.
    accepts_loss_kwargs = False

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if isinstance(module, nn.Linear | nn.Conv2d):
            init.xavier_uniform_(module.weight)  # its range follows the width, from the tiny to the huge preset
        elif isinstance(module, SpectralGPTPositionEmbeddings):
            # Positions are learned, but start as waves, in which neighbours are alike. That saves thousands of steps.
            init.copy_(module.spatial_position_embeddings, module.sine_cosine_positions())
            init.normal_(module.spectral_position_embeddings, std=2**-0.5)  # the standard deviation of a wave
        elif isinstance(module, SpectralGPTGroupFusion):
            init.constant_(module.weight, 1 / module.weight.shape[1])  # the mean over the groups, as in `feature_map`
            init.zeros_(module.bias)
        elif isinstance(module, SpectralGPTTemporalFusion):
            init.normal_(module.query, std=self.config.initializer_range)
        elif isinstance(module, SpectralGPTDecoder):
            init.trunc_normal_(module.mask_token, std=self.config.initializer_range)

    @torch.no_grad()
    def resize_positions(self, image_size: int, bands: list[str] | None = None) -> None:
        """Interpolate the positions, and the weights of group fusion, to another native image size and list of bands.

        The parameters are replaced, so an optimizer must be made afterwards. A refused call changes nothing.

        Args:
            image_size: Height and width in pixels, a multiple of `patch_size`.
            bands: Names of the bands in order. Their number must be a multiple of `spectral_patch_size`. The bands stay
                as they are by default.

        Raises:
            ValueError: If `image_size` or the number of `bands` is not such a multiple, or a band is unknown.
        """
        changes: dict[str, Any] = {"image_size": image_size}
        if bands is not None:
            changes |= {"bands": list(bands), "num_channels": len(bands), "wavelengths": None}
        new = self.changed_config(changes)
        rows, num_groups = image_size // new.patch_size, new.num_groups
        for module in self.modules():
            if isinstance(module, SpectralGPTPreTrainedModel):
                for name in changes:
                    setattr(module.config, name, getattr(new, name))
            elif isinstance(module, SpectralGPTPositionEmbeddings):
                module.spatial_position_embeddings = like(
                    module.spatial_position_embeddings, module.interpolate_spatial(rows, rows)
                )
                module.spectral_position_embeddings = like(
                    module.spectral_position_embeddings, module.interpolate_spectral(num_groups)
                )
                module.grid_size = rows
            elif isinstance(module, SpectralGPTGroupFusion):
                module.weight = like(module.weight, module.interpolate(num_groups))

    def changed_config(self, changes: dict[str, Any]) -> SpectralGPTConfig:
        """Return a copy of the configuration with changes; raise a `ValueError` if the model cannot follow them."""
        new = type(self.config)(**self.config.to_dict() | changes)
        if new.pixel_skip and new.bands != self.config.bands:
            raise ValueError(
                "A head with `pixel_skip` has weights for each of its bands: resize the encoder, and then fine-tune it "
                "for the new bands."
            )
        return new

    @torch.no_grad()
    def resize_bands(
        self,
        bands: Sequence[str],
        wavelengths: Sequence[float | None] | None = None,
        sensor: str | None = None,
    ) -> None:
        """Turn the model into one for other bands, also of another sensor.

        The projection of the tokens is shared by all spectral groups, so that only the spectral positions and the
        weights of group fusion change: they are interpolated linearly between the wavelengths of the groups. The same
        bands give the same model, bit for bit. The parameters are replaced, so an optimizer must be made afterwards. A
        refused call changes nothing.

        Args:
            bands: Names of the bands in order of wavelength.
            wavelengths: Wavelengths of the bands in nm. By default, those of the sensor's table or of names such as
                "842nm".
            sensor: Name of the sensor, as `config.sensor`; the model's own by default.

        Raises:
            ValueError: If a band is unknown, a wavelength is missing, or they do not ascend.
        """
        changes: dict[str, Any] = {
            "sensor": sensor or self.config.sensor,
            "bands": list(bands),
            "num_channels": len(bands),
            "wavelengths": None if wavelengths is None else list(wavelengths),
        }
        new = self.changed_config(changes)
        matrix = spectral_interpolation(group_wavelengths(self.config), group_wavelengths(new))
        for module in self.modules():
            if isinstance(module, SpectralGPTPreTrainedModel):
                for name in changes:
                    setattr(module.config, name, getattr(new, name))
            elif isinstance(module, SpectralGPTPositionEmbeddings):
                old = module.spectral_position_embeddings
                values = matrix.to(old.device) @ old[0].float()
                module.spectral_position_embeddings = like(old, values[None].to(old.dtype))
            elif isinstance(module, SpectralGPTGroupFusion):
                old = module.weight
                values = (matrix.to(old.device) @ old[0].float()) * (old.shape[1] / len(matrix))
                module.weight = like(old, values[None].to(old.dtype))


def like(parameter: nn.Parameter, values: torch.Tensor) -> nn.Parameter:
    """Return `values` as a parameter that is trained, or frozen, as `parameter` is."""
    return nn.Parameter(values, requires_grad=parameter.requires_grad)


@auto_docstring
class SpectralGPTModel(SpectralGPTPreTrainedModel):
    _keys_to_ignore_on_load_unexpected = [r"^decoder\."]  # of a pretraining checkpoint

    def __init__(self, config: SpectralGPTConfig):
        config.check()  # an attribute may have been set since the configuration was made
        super().__init__(config)
        self.embeddings = SpectralGPTEmbeddings(config)
        self.layers = nn.ModuleList([SpectralGPTLayer(config, i) for i in range(config.num_hidden_layers)])
        self.layernorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        # CODEPATH: the released checkpoints are for single dates, and have no parameters for several.
        self.temporal_fusion = SpectralGPTTemporalFusion(config) if config.temporal_fusion == "attention" else None
        self.post_init()

    def feature_map(
        self, hidden_states: torch.Tensor, height: int, width: int, attention_mask: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Average the spectral groups of each patch position.

        Args:
            hidden_states: Tokens (B, N, D).
            height: Height of the image, in pixels.
            width: Width of the image, in pixels.
            attention_mask: (B, N), 0 = token without data, left out of the average. Of a series (B, T, N).

        Returns:
            Features (B, D, h, w); 0 at a patch position without any data.
        """
        attention_mask = with_data_at_any_date(attention_mask)
        grid = (-1, height // self.config.patch_size, width // self.config.patch_size)
        mask = None if attention_mask is None else attention_mask.unflatten(1, grid)
        return masked_mean(hidden_states.unflatten(1, grid), mask).permute(0, 3, 1, 2)

    @merge_with_config_defaults
    @capture_outputs(tie_last_hidden_states=False)
    @auto_docstring
    def forward(
        self,
        pixel_values: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        ids_keep: torch.Tensor | None = None,
        dates: torch.Tensor | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> SpectralGPTModelOutput:
        r"""
        pixel_values (`torch.FloatTensor` of shape `(batch_size, num_channels, height, width)`):
            Normalised images, or series `(batch_size, num_dates, num_channels, height, width)` of dates in any order:
            each date is encoded separately, then `config.temporal_fusion` fuses them into one set of tokens. The
            `hidden_states` and `attentions` of a series hold its dates one after the other along the batch.
        attention_mask (`torch.Tensor` of shape `(batch_size, num_tokens)`, *optional*):
            0 = token without data: no other token attends to it, and it is left out of the pooled output. Of a series
            `(batch_size, num_dates, num_tokens)`: the token is then fused from its dates with data.
        ids_keep (`torch.LongTensor` of shape `(batch_size, num_kept)`, *optional*):
            Indices of the tokens to encode, in the order of the output. All tokens by default. Not for series.
        dates (`torch.Tensor` of shape `(batch_size, num_dates)`, *optional*):
            Days since any 1 January, such as 1 January 1970, from which `temporal_fusion="attention"` computes the day
            of the year. Required by it for series of two dates or more.
        """
        num_dates = pixel_values.shape[1] if pixel_values.ndim == 5 else 1
        self.check_series(pixel_values, ids_keep, dates)
        pixel_values, attention_mask = flatten_dates(pixel_values, attention_mask)
        hidden_states = self.embeddings(pixel_values, attention_mask, ids_keep)
        if attention_mask is not None and ids_keep is not None:
            attention_mask = attention_mask.gather(1, ids_keep)
        # By default transformers looks for a 0 in the mask, for which the host would wait for the accelerator.
        layer_mask = create_bidirectional_mask(
            config=self.config,
            inputs_embeds=hidden_states,
            attention_mask=attention_mask,
            allow_is_bidirectional_skip=attention_mask is None,
        )
        for layer in self.layers:
            hidden_states = layer(hidden_states, layer_mask, **kwargs)
        hidden_states, attention_mask = self.fuse_dates(hidden_states, attention_mask, num_dates, dates)

        return SpectralGPTModelOutput(
            last_hidden_state=self.layernorm(hidden_states),
            pooler_output=self.layernorm(masked_mean(hidden_states, attention_mask)),
            last_layer_output=hidden_states,
        )

    def check_series(
        self, pixel_values: torch.Tensor, ids_keep: torch.Tensor | None, dates: torch.Tensor | None
    ) -> None:
        """Raise a `ValueError` if a series is empty or given with `ids_keep`, or `dates` are missing or do not fit."""
        is_series = pixel_values.ndim == 5
        num_dates = pixel_values.shape[1] if is_series else 1
        if num_dates == 0:
            raise ValueError(f"Expected a series of one date or more, got shape {tuple(pixel_values.shape)}.")
        if is_series and ids_keep is not None:
            raise ValueError("`ids_keep` is for single dates (batch, bands, height, width): encode a series whole.")
        if dates is not None and dates.shape != (pixel_values.shape[0], num_dates):
            raise ValueError(
                f"`dates` must have shape {(pixel_values.shape[0], num_dates)} (batch, dates), got "
                f"{tuple(dates.shape)}."
            )
        if self.temporal_fusion is not None and dates is None and num_dates > 1:
            raise ValueError(
                '`temporal_fusion="attention"` needs the `dates` (batch, dates) of a series, in days since any '
                "1 January: pass those that `SpectralGPTImageProcessor` returns."
            )

    def fuse_dates(
        self,
        hidden_states: torch.Tensor,
        attention_mask: torch.Tensor | None,
        num_dates: int,
        dates: torch.Tensor | None,
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Return one set of tokens (B, N, D), and their mask (B, N), of all dates (B * T, N, D) and (B * T, N)."""
        # CODEPATH: the released checkpoints take single dates, whose mean is the date itself, bit for bit.
        if self.temporal_fusion is None and num_dates == 1:
            return hidden_states, attention_mask
        hidden_states = hidden_states.unflatten(0, (-1, num_dates))  # (B, T, N, D)
        if attention_mask is not None:
            attention_mask = attention_mask.unflatten(0, (-1, num_dates))  # (B, T, N)
        # CODEPATH: as above; no released checkpoint has several dates.
        if self.temporal_fusion is None:
            counted = None if attention_mask is None else dates_that_count(attention_mask)
            fused = masked_mean(hidden_states, counted)
        else:
            if dates is None:  # a single date, whose weight is 1
                dates = hidden_states.new_zeros(hidden_states.shape[:2])
            fused = self.temporal_fusion(hidden_states, attention_mask, dates)
        return fused, with_data_at_any_date(attention_mask)


@auto_docstring(
    custom_intro="The pretraining decoder: predicts the values of every token from the encoded visible tokens."
)
class SpectralGPTDecoder(SpectralGPTPreTrainedModel):
    # It is a pretrained model, not a plain module, so that `set_attn_implementation` reaches its derived configuration.
    def __init__(self, config: SpectralGPTConfig):
        decoder_config = config.decoder_config()
        super().__init__(decoder_config)
        self.embed = nn.Linear(config.hidden_size, decoder_config.hidden_size)
        self.mask_token = nn.Parameter(torch.zeros(1, 1, decoder_config.hidden_size))
        self.position_embeddings = SpectralGPTPositionEmbeddings(decoder_config)
        self.layers = nn.ModuleList(
            [SpectralGPTLayer(decoder_config, i) for i in range(decoder_config.num_hidden_layers)]
        )
        self.layernorm = nn.LayerNorm(decoder_config.hidden_size, eps=decoder_config.layer_norm_eps)
        self.prediction = nn.Linear(decoder_config.hidden_size, config.spectral_patch_size * config.patch_size**2)
        self.post_init()

    @auto_docstring
    def forward(
        self,
        hidden_states: torch.Tensor,
        ids_keep: torch.Tensor,
        grid: tuple[int, int, int],
        attention_mask: torch.Tensor | None = None,
        ids_decode: torch.Tensor | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> torch.Tensor:
        r"""
        hidden_states (`torch.Tensor` of shape `(batch_size, num_kept, encoder hidden_size)`):
            Encoded visible tokens.
        ids_keep (`torch.LongTensor` of shape `(batch_size, num_kept)`):
            Indices of the visible tokens.
        grid (`tuple[int, int, int]`):
            Number of spectral groups, rows and columns of all tokens.
        attention_mask (`torch.Tensor` of shape `(batch_size, num_tokens)`, *optional*):
            0 = token without data.
        ids_decode (`torch.LongTensor` of shape `(batch_size, num_decoded)`, *optional*):
            Indices of the tokens to decode. All tokens by default.

        Returns:
            `torch.Tensor` of shape `(batch_size, num_tokens, spectral_patch_size * patch_size ** 2)`: predicted values,
            0 for tokens that were not decoded.
        """
        positions = self.position_embeddings(*grid)  # (N, D)
        visible = self.embed(hidden_states)  # (B, K, D)
        tokens = self.mask_token.to(visible.dtype).expand(visible.shape[0], positions.shape[0], -1)  # (B, N, D)
        hidden_states = tokens.scatter(1, ids_keep[..., None].expand_as(visible), visible) + positions  # (B, N, D)
        if ids_decode is not None:
            hidden_states = gather_tokens(hidden_states, ids_decode)  # (B, S, D)
            attention_mask = None if attention_mask is None else attention_mask.gather(1, ids_decode)
        attention_mask = create_bidirectional_mask(
            config=self.config,
            inputs_embeds=hidden_states,
            attention_mask=attention_mask,
            allow_is_bidirectional_skip=attention_mask is None,  # as in the encoder
        )
        for layer in self.layers:
            hidden_states = layer(hidden_states, attention_mask, **kwargs)
        logits = self.prediction(self.layernorm(hidden_states))  # (B, N, P), or (B, S, P)
        if ids_decode is not None:
            zeros = logits.new_zeros(logits.shape[0], positions.shape[0], logits.shape[-1])
            logits = zeros.scatter(1, ids_decode[..., None].expand_as(logits), logits)  # (B, N, P)
        return logits


@auto_docstring(
    custom_intro="SpectralGPT with its pretraining decoder, which reconstructs images from their visible tokens."
)
class SpectralGPTForPreTraining(SpectralGPTPreTrainedModel):
    def __init__(self, config: SpectralGPTConfig):
        super().__init__(config)
        self.spectralgpt = SpectralGPTModel(config)
        self.decoder = SpectralGPTDecoder(config)
        self.post_init()

    def sample_mask(
        self, grid: tuple[int, int, int], noise: torch.Tensor, attention_mask: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Choose the tokens that stay visible: those of the units with the smallest noise.

        Args:
            grid: Number of spectral groups, rows and columns.
            noise: (B, units), float32 in [0, 1). Units are all N tokens (`masking="random"`), h * w patch positions
                (`"spatial"`) or G spectral groups (`"spectral"`).
            attention_mask: (B, N), 0 = token without data. Units with fewer such tokens are kept first.

        Returns:
            `ids_keep` (B, K), in ascending order of noise; `mask` (B, N), float32, 0 = kept; `ids_restore` (B, N).

        Raises:
            ValueError: If `noise` has half precision, which has too few values to order the tokens.
        """
        unit, num_units = mask_units(grid, self.config.masking, noise.device)
        num_kept = max(1, int(num_units * (1 - self.config.mask_ratio))) * (unit.numel() // num_units)
        if noise.dtype not in (torch.float32, torch.float64):
            raise ValueError(
                f"`noise` must be float32, got {noise.dtype}, which has too few values to order the tokens."
            )
        # Rank the units by their noise (the argsort of an argsort gives ranks).
        rank = noise.argsort(dim=1, stable=True).argsort(dim=1)  # (B, units)
        # Rank units by their number of tokens without data first, and by their noise among equals.
        if attention_mask is not None:
            missing = torch.zeros_like(rank).index_add(1, unit, (attention_mask == 0).to(rank.dtype))
            rank = (rank + missing * num_units).argsort(dim=1).argsort(dim=1)
        # Order the tokens by the ranks of their units.
        ids_shuffle = rank[:, unit].argsort(dim=1, stable=True)  # (B, N)
        ids_restore = ids_shuffle.argsort(dim=1)
        # Keep the first, and mask the rest.
        return ids_shuffle[:, :num_kept], (ids_restore >= num_kept).float(), ids_restore

    def sample_decoded(
        self,
        grid: tuple[int, int, int],
        noise: torch.Tensor,
        mask: torch.Tensor,
        num_kept: int,
        attention_mask: torch.Tensor | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Choose at random the share `config.decode_ratio` of the patch positions, for which the losses are computed.

        The choice is a function of the noise, so that the same noise always gives the same choice.

        Args:
            grid: Number of spectral groups, rows and columns.
            noise: (B, units), the noise that `sample_mask` takes.
            mask: (B, N), 0 = visible.
            num_kept: Number K of visible tokens of each image.
            attention_mask: (B, N), 0 = token without data. Patch positions without any data are chosen last.

        Returns:
            `ids_decode` (B, S), tokens that the decoder needs: those of the chosen patch positions, the other visible
            tokens and, so that S is the same for all images, some masked ones; `weights` (B, h * w), float32, by which
            errors are multiplied so that a mean over all patch positions stays unbiased.
        """
        num_groups, num_positions = grid[0], grid[1] * grid[2]
        num_chosen = max(1, int(num_positions * self.config.decode_ratio))
        # The mask depends on the order of the noise only. A hash of its digits, after SplitMix64 (Steele et al., 2014),
        # gives a choice independent of the mask.
        odd_numbers = 2 * torch.arange(noise.shape[1], device=noise.device) + 1
        seed = ((noise * 2**24).long() * odd_numbers).sum(dim=1, keepdim=True)  # (B, 1)
        keys = seed * 2862933555777941757 + torch.arange(num_positions, device=noise.device)
        for multiplier in (-4658895280553007687, -7723592293110705685):
            keys = (keys ^ (keys >> 30)) * multiplier
        rank = (keys ^ (keys >> 31)).argsort(dim=1).argsort(dim=1)  # (B, h * w)
        num_with_data = torch.full_like(seed, num_positions)
        if attention_mask is not None:
            empty = (attention_mask == 0).unflatten(1, (num_groups, -1)).all(dim=1)
            rank = (rank + empty * num_positions).argsort(dim=1).argsort(dim=1)
            num_with_data = num_positions - empty.sum(dim=1, keepdim=True)
        chosen = rank < num_chosen
        # Weight each error by the inverse of its probability of being chosen (Horvitz and Thompson, 1952).
        weights = chosen * (num_with_data.clamp(min=num_chosen).float() / num_chosen)
        order = torch.where(chosen.repeat(1, num_groups), 0, mask.long() + 1)  # chosen, visible, masked
        num_decoded = min(num_groups * num_chosen + num_kept, mask.shape[1])
        return order.argsort(dim=1, stable=True)[:, :num_decoded], weights

    @can_return_tuple
    @auto_docstring
    def forward(
        self,
        pixel_values: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        *,
        noise: torch.Tensor | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> SpectralGPTForPreTrainingOutput:
        r"""
        attention_mask (`torch.Tensor` of shape `(batch_size, num_tokens)`, *optional*):
            0 = token without data: it is kept last, no other token attends to it, and it is in neither loss.
        noise (`torch.Tensor` of shape `(batch_size, num_units)`, *optional*):
            Decides which tokens stay visible: one float32 value in [0, 1) per token, patch position or spectral group
            (`config.masking`), of which the smallest are kept. Drawn if not given.
        """
        grid = token_grid(pixel_values, self.config, attention_mask)
        shape = (pixel_values.shape[0], mask_units(grid, self.config.masking, pixel_values.device)[1])
        if noise is None:
            noise = torch.rand(shape, dtype=torch.float32, device=pixel_values.device)
        elif noise.shape != shape:
            raise ValueError(
                f"`noise` must have shape {shape} for masking={self.config.masking!r}, got {tuple(noise.shape)}."
            )
        ids_keep, mask, ids_restore = self.sample_mask(grid, noise, attention_mask)
        ids_decode = weights = None
        # CODEPATH: the released checkpoints were trained with every token decoded (`decode_ratio=1.0`).
        if self.training and self.config.decode_ratio < 1:
            ids_decode, weights = self.sample_decoded(grid, noise, mask, ids_keep.shape[1], attention_mask)
        outputs = self.spectralgpt(pixel_values, attention_mask, ids_keep, **kwargs)
        logits = self.decoder(outputs.last_hidden_state, ids_keep, grid, attention_mask, ids_decode, **kwargs)
        token_loss, spectral_loss = self.reconstruction_losses(
            pixel_values, logits, mask, grid, attention_mask, weights
        )
        return SpectralGPTForPreTrainingOutput(
            loss=self.config.token_loss_weight * token_loss + self.config.spectral_loss_weight * spectral_loss,
            token_loss=token_loss,
            spectral_loss=spectral_loss,
            logits=logits,
            mask=mask,
            ids_restore=ids_restore,
            hidden_states=outputs.hidden_states,
            attentions=outputs.attentions,
        )

    def reconstruction_losses(
        self,
        pixel_values: torch.Tensor,
        logits: torch.Tensor,
        mask: torch.Tensor,
        grid: tuple[int, int, int],
        attention_mask: torch.Tensor | None = None,
        weights: torch.Tensor | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the token-to-token and the spectral-to-spectral error (paper, section III-C), each (), in float32.

        Every image has the same weight, however many of its tokens have data; an image without data adds 0. The mean of
        the losses of equal parts of a batch is therefore the loss of the batch, wherever the parts are computed.

        Args:
            pixel_values: (B, C, H, W), the target.
            logits: (B, N, P), the predicted values.
            mask: (B, N), 0 = visible.
            grid: Number of spectral groups, rows and columns.
            attention_mask: (B, N), 0 = token without data.
            weights: (B, h * w), by which the errors of patch positions are multiplied; all 1 by default.
        """
        # The decoder may be on another device than the input (`device_map="auto"`).
        pixel_values, mask = pixel_values.to(logits.device).float(), mask.to(logits.device)
        target = patchify(pixel_values, self.config)  # (B, N, P)
        filled = values_of_bands(pixel_values, self.config)
        mean, scale = self.target_statistics(target, filled)
        error = logits.float() - (target - mean) / scale  # (B, N, P)
        if filled is not None:
            error = error.masked_fill(~filled, 0.0)
        complete = None
        if attention_mask is not None:
            valid = attention_mask.to(logits.device) != 0
            error = error.masked_fill(~valid[..., None], 0.0)
            mask = mask * valid
            # Patch positions where every group has data.
            complete = valid.unflatten(1, (grid[0], -1)).all(dim=1)  # (B, h * w)
        token_error = error.square().mean(dim=-1)  # (B, N)
        if filled is not None:
            token_error = token_error * (filled.shape[-1] / filled.sum(dim=-1))
        # The paper compares sums over the groups. Their difference is the sum of the differences.
        spectral_error = error.unflatten(1, (grid[0], -1)).sum(dim=1).square().mean(dim=-1)  # (B, h * w)
        if weights is not None:
            weights = weights.to(logits.device)
            token_error, spectral_error = token_error * weights.repeat(1, grid[0]), spectral_error * weights
        spectral_loss = spectral_error if complete is None else masked_mean(spectral_error, complete)
        return masked_mean(token_error, mask).mean(), spectral_loss.mean()

    def target_statistics(
        self, target: torch.Tensor, filled: torch.Tensor | None = None
    ) -> tuple[torch.Tensor | float, torch.Tensor | float]:
        """Return the mean and standard deviation (B, N, 1) by which `norm_pix_loss` standardises a target (B, N, P).

        Args:
            target: (B, N, P).
            filled: (1, N, P), True for the values that belong to a band; by default all do.
        """
        # CODEPATH: the released checkpoints predict plain values; `norm_pix_loss` is one of the paper's ablations.
        if not self.config.norm_pix_loss:
            return 0.0, 1.0
        if filled is None:
            return target.mean(dim=-1, keepdim=True), (target.var(dim=-1, keepdim=True) + 1e-6).sqrt()
        count = filled.sum(dim=-1, keepdim=True)
        mean = (target * filled).sum(dim=-1, keepdim=True) / count  # (B, N, 1)
        variance = ((target - mean).square() * filled).sum(dim=-1, keepdim=True) / (count - 1)
        return mean, (variance + 1e-6).sqrt()

    @torch.no_grad()
    def reconstruct(
        self,
        pixel_values: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        *,
        noise: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Reconstruct images from their visible tokens.

        Args:
            pixel_values: (B, C, H, W), normalised.
            attention_mask: As in `forward`.
            noise: As in `forward`. The masked tokens are those of `forward(...).mask` with the same noise.

        Returns:
            Images (B, C, H, W): predictions where tokens were masked, the input where they were visible. With
            `norm_pix_loss` the predictions are scaled back with each token's own mean and standard deviation.
        """
        outputs = self(pixel_values, attention_mask, noise=noise)
        target = patchify(pixel_values, self.config)  # (B, N, P)
        mean, scale = self.target_statistics(target, values_of_bands(pixel_values, self.config))
        prediction = outputs.logits.to(target) * scale + mean
        reconstruction = torch.where(outputs.mask[..., None] == 1, prediction, target)
        return unpatchify(reconstruction, pixel_values.shape[2], pixel_values.shape[3], self.config)


def classification_loss(logits: torch.Tensor, labels: torch.Tensor, config: SpectralGPTConfig) -> torch.Tensor:
    """Return the loss (), in float32, that `config.problem_type` names.

    A `problem_type` of None is inferred, and recorded in the configuration: regression for a single class; else single
    label for labels (B,) and multi label for labels (B, classes).

    Args:
        logits: (B, classes).
        labels: For "regression", values (B, classes), or (B,) for a single class (mean squared error). For
            "single_label_classification", class indices (B,) or class probabilities (B, classes) (cross-entropy). For
            "multi_label_classification", 0 or 1 for each class (B, classes) (binary cross-entropy).
        config: Configuration with `problem_type`.

    Raises:
        ValueError: If `labels` has a shape or dtype that does not belong to the problem type, or a single class has a
            single label.
    """
    if config.problem_type is None:
        inferred = "single_label_classification" if labels.ndim == 1 else "multi_label_classification"
        config.problem_type = "regression" if logits.shape[1] == 1 else inferred
    if config.problem_type == "single_label_classification" and logits.shape[1] == 1:
        raise ValueError(
            "`num_labels` must be 2 or more for single_label_classification, whose only label would always be right, "
            "got 1: set `problem_type` to multi_label_classification (0 or 1) or regression."
        )
    labels, logits = labels.to(logits.device), logits.float()
    if config.problem_type == "regression" and logits.shape[1] == 1 and labels.ndim == 1:
        labels = labels[:, None]
    if config.problem_type == "single_label_classification" and not labels.is_floating_point():
        expected, found = logits.shape[:1], labels.long()
    else:
        expected, found = logits.shape, labels.float()
    if labels.shape != expected:
        raise ValueError(
            f"`labels` of dtype {labels.dtype} must have shape {tuple(expected)} for {config.problem_type} with "
            f"{logits.shape[1]} labels (`config.problem_type`, `config.num_labels`), got {tuple(labels.shape)}."
        )
    if config.problem_type == "regression":
        return nn.functional.mse_loss(logits, found)
    if config.problem_type == "multi_label_classification":
        return nn.functional.binary_cross_entropy_with_logits(logits, found)
    return nn.functional.cross_entropy(logits, found)


@auto_docstring(custom_intro="SpectralGPT with a linear classifier on its pooled output, also for regression.")
class SpectralGPTForImageClassification(SpectralGPTPreTrainedModel):
    _keys_to_ignore_on_load_unexpected = [r"^decoder\."]

    def __init__(self, config: SpectralGPTConfig):
        super().__init__(config)
        self.num_labels = config.num_labels
        self.spectralgpt = SpectralGPTModel(config)
        self.dropout = nn.Dropout(config.classifier_dropout)
        # CODEPATH: the paper's classifier sees the pooled output only.
        num_statistics = num_band_statistics(config.patch_size) * config.num_channels if config.pixel_skip else 0
        self.classifier = nn.Linear(config.hidden_size + num_statistics, config.num_labels)
        self.post_init()

    def classifier_input(
        self, pooler_output: torch.Tensor, pixel_values: torch.Tensor, attention_mask: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Return what the classifier sees: the pooled output (B, D), with `pixel_skip` also statistics of each band.

        Args:
            pooler_output: Pooled output of the encoder (B, D).
            pixel_values: As of `forward`.
            attention_mask: As of `forward`.

        Raises:
            ValueError: If a classifier with `pixel_skip` was made for another number of bands.
        """
        # CODEPATH: the paper's classifier sees the pooled output only.
        if not self.config.pixel_skip:
            return pooler_output
        pixels, mask = skipped_pixels(pixel_values, self.config, attention_mask)
        statistics = band_statistics(pixels, self.config.patch_size, mask)
        return torch.cat([pooler_output, statistics.to(pooler_output)], dim=1)

    @can_return_tuple
    @auto_docstring
    def forward(
        self,
        pixel_values: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        dates: torch.Tensor | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> ImageClassifierOutput:
        r"""
        attention_mask (`torch.Tensor` of shape `(batch_size, num_tokens)`, *optional*):
            0 = token without data. Of a series `(batch_size, num_dates, num_tokens)`.
        labels (`torch.Tensor` of shape `(batch_size,)` or `(batch_size, num_labels)`, *optional*):
            By `config.problem_type`, which is inferred from the labels and recorded if it is None: class indices
            (cross-entropy), 0 or 1 for each class (several labels per image: binary cross-entropy), or values
            (regression: mean squared error). `"single_label_classification"` also takes class probabilities (mixup).
        dates (`torch.Tensor` of shape `(batch_size, num_dates)`, *optional*):
            Of a series `pixel_values` (batch_size, num_dates, num_channels, height, width), as in `SpectralGPTModel`.
        """
        outputs = self.spectralgpt(pixel_values, attention_mask, dates=dates, **kwargs)
        features = self.classifier_input(outputs.pooler_output, pixel_values, attention_mask)
        logits = self.classifier(self.dropout(features))
        return ImageClassifierOutput(
            loss=None if labels is None else classification_loss(logits, labels, self.config),
            logits=logits,
            hidden_states=outputs.hidden_states,
            attentions=outputs.attentions,
        )


class SpectralGPTGroupFusion(nn.Module):
    """Learned weighted sum of the spectral groups of each patch position: tokens (B, N, D) to features (B, D, h, w).

    Tokens without data are left out. The weights of the groups that a patch position lacks are shared equally by the
    groups that it has, so that the sum of the weights stays as learned. (Dividing by the sum of the remaining weights
    would fail: weights have both signs, so it can be 0.) A patch position without any data takes the mean of the
    image's other patch positions, which changes neither the maxima nor the means that the decode head takes over the
    whole map.
    """

    def __init__(self, config: SpectralGPTConfig):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1, config.num_groups))
        self.bias = nn.Parameter(torch.zeros(1))

    def forward(
        self, hidden_states: torch.Tensor, grid: tuple[int, int, int], attention_mask: torch.Tensor | None = None
    ) -> torch.Tensor:
        num_groups, rows, columns = grid
        weight = self.weight
        if num_groups != weight.shape[1]:
            weight = self.interpolate(num_groups)
        # With `device_map="auto"` only inputs of the decode head's own `forward` are moved; this is called before it.
        groups = hidden_states.to(weight.device).unflatten(1, (num_groups, -1))  # (B, G, h * w, D)
        if attention_mask is None:
            features = torch.einsum("bgpd,g->bpd", groups, weight[0])
        else:
            valid = (attention_mask.to(weight.device) != 0).unflatten(1, (num_groups, -1))  # (B, G, h * w)
            num_valid = valid.sum(dim=1)  # (B, h * w)
            missing = torch.einsum("bgp,g->bp", (~valid).to(weight.dtype), weight[0]) / num_valid.clamp(min=1)
            weight = (weight[..., None] + missing[:, None]) * valid
            features = torch.einsum("bgpd,bgp->bpd", groups, weight)
        features = features + self.bias.to(features.dtype)  # (B, h * w, D); under autocast the bias stays float32
        if attention_mask is not None:
            features = features.where(num_valid[..., None] > 0, masked_mean(features, num_valid)[:, None])
        return features.transpose(1, 2).unflatten(2, (rows, columns))

    def interpolate(self, num_groups: int) -> torch.Tensor:
        """Return weights (1, G) for another number of groups, with the same sum."""
        weight = self.weight.float()[None]
        weight = nn.functional.interpolate(weight, size=num_groups, mode="linear", align_corners=False)[0]
        return (weight * (self.weight.shape[1] / num_groups)).to(self.weight.dtype)


class SpectralGPTConcatConv(nn.Conv2d):
    """1x1 convolution of several feature maps, resized to the size of the last one and concatenated.

    Such a convolution is a sum over its inputs and commutes with resizing. Each map is therefore convolved at its own
    resolution, then resized and added: the result is the same and costs less.
    """

    def forward(self, feature_maps: list[torch.Tensor]) -> torch.Tensor:
        weights = self.weight.split([feature_map.shape[1] for feature_map in feature_maps], dim=1)
        output = nn.functional.conv2d(feature_maps[-1], weights[-1], self.bias)
        for feature_map, weight in zip(feature_maps[:-1], weights[:-1]):
            output += resize(nn.functional.conv2d(feature_map, weight), output.shape[-2:])
        return output


class SpectralGPTEnlargement(nn.ConvTranspose2d):
    """Transposed convolution whose stride is its kernel size: a matrix product, whose values then become pixels."""

    bias: nn.Parameter

    def forward(self, feature_map: torch.Tensor) -> torch.Tensor:
        values = feature_map.permute(0, 2, 3, 1) @ self.weight.flatten(1)  # (B, h, w, channels * kernel * kernel)
        pixels = nn.functional.pixel_shuffle(values.permute(0, 3, 1, 2), self.kernel_size[0])
        return pixels + self.bias.to(pixels.dtype)[:, None, None]  # under autocast the bias stays float32


class SpectralGPTConvBlock(nn.Sequential):
    """Convolution, group normalisation, GELU, an optional enlargement, and dropout."""

    def __init__(self, config: SpectralGPTConfig, conv: nn.Conv2d, num_groups: int, *upsampling: nn.Module):
        norm = nn.GroupNorm(num_groups, conv.out_channels)
        # In place, because these are the largest tensors and no earlier layer needs its output for its gradient.
        super().__init__(conv, norm, nn.GELU(), *upsampling, nn.Dropout(config.decode_dropout, inplace=True))


class SpectralGPTDecodeHead(nn.Module):
    """The head of segmentation and change detection: a UPerNet (arXiv 1807.10221) on features of a single resolution.

    Four branches compute four resolutions from the fused features; pyramid pooling and a top-down path join them.
    `forward` takes fused features (B, D, h, w), with `pixel_skip` also the input of all dates (B, dates * C, H, W), and
    returns logits (B, classes, H, W). Callers use `group_fusion` first, because change detection fuses the tokens of
    each date and subtracts before it calls `forward`.
    """

    pool_sizes = (1, 2, 3, 6)

    def __init__(self, config: SpectralGPTConfig, num_dates: int = 1):
        super().__init__()
        num_label_values = max(2, config.num_labels or 0)  # a single class has the labels 0 and 1
        if 0 <= config.semantic_loss_ignore_index < num_label_values:
            raise ValueError(
                "`semantic_loss_ignore_index` must not be the number of a class (0 to `num_labels` - 1), got "
                f"{config.semantic_loss_ignore_index} with {config.num_labels} classes: pass another, such as -100."
            )
        width = config.decode_hidden_size
        level_widths = [width, 2 * width, 4 * width, 8 * width]  # from one value per pixel to one per patch position
        self.group_fusion = SpectralGPTGroupFusion(config)
        self.branches = nn.ModuleList()
        for level, level_width in enumerate(level_widths):
            hidden = max(2 * width, level_width)
            stride = max(1, config.patch_size >> level)  # patch_size, then half as much for each next level
            upsampling = [SpectralGPTEnlargement(hidden, level_width, stride, stride)] if level < 3 else []
            conv = nn.Conv2d(config.hidden_size, hidden, 1)
            self.branches.append(SpectralGPTConvBlock(config, conv, 32, *upsampling))
        self.pool_projections = nn.ModuleList([nn.Conv2d(8 * width, width, 1) for _ in self.pool_sizes])
        self.pool_fusion = SpectralGPTConvBlock(config, SpectralGPTConcatConv(12 * width, width, 1), 16)
        self.top_projection = nn.Conv2d(width, width, 1)
        # The other three levels, from the coarsest to the finest.
        self.laterals = nn.ModuleList(
            [SpectralGPTConvBlock(config, nn.Conv2d(size, width, 1), 16) for size in reversed(level_widths[:3])]
        )
        self.merges = nn.ModuleList([SpectralGPTConvBlock(config, nn.Conv2d(width, width, 1), 16) for _ in range(3)])
        self.level_fusion = SpectralGPTConvBlock(config, SpectralGPTConcatConv(4 * width, width, 1), 16)
        self.classifier = nn.Conv2d(width, config.num_labels, 3, padding=1)
        num_values = num_dates * config.num_channels
        # CODEPATH: the paper's head sees the encoder's features only.
        self.pixel_classifier = nn.Conv2d(num_values, config.num_labels, 1, bias=False) if config.pixel_skip else None

    def forward(self, features: torch.Tensor, pixels: torch.Tensor | None = None) -> torch.Tensor:
        # (B, width, H, W), (B, 2 * width, H / 2, W / 2), (B, 4 * width, H / 4, W / 4) and (B, 8 * width, h, w)
        *levels, coarsest = [branch(features) for branch in self.branches]
        pools = [
            projection(nn.functional.adaptive_max_pool2d(coarsest, size))
            for projection, size in zip(self.pool_projections, self.pool_sizes)
        ]
        merged = [self.pool_fusion([*pools, coarsest])]
        # Projected before it is enlarged, because a 1x1 convolution and resizing commute.
        top = self.top_projection(merged[0])  # (B, width, h, w)
        for lateral, merge, level in zip(self.laterals, self.merges, reversed(levels)):
            top = merge(resize(top, level.shape[-2:]) + lateral(level))
            merged.append(top)
        logits = self.classifier(self.level_fusion(merged))
        # CODEPATH: the paper's head sees the encoder's features only.
        if self.pixel_classifier is None or pixels is None:
            return logits
        return logits + self.pixel_classifier(pixels)


def resize(feature_map: torch.Tensor, size: torch.Size) -> torch.Tensor:
    """Interpolate a feature map (B, channels, h, w) to another (height, width)."""
    return nn.functional.interpolate(feature_map, size=size, mode="bilinear", align_corners=True)


def keep_untrained(module: nn.Module) -> None:
    """Turn the parameters of a module that the loss does not depend on into buffers.

    They are saved and loaded as before, but distributed training expects no gradient of them. `requires_grad_(False)`
    would not do, because `from_pretrained` makes every parameter trainable.
    """
    for name, parameter in list(module.named_parameters()):
        delattr(module, name)
        module.register_buffer(name, parameter.detach())


def labelled_pixels(
    labels: torch.Tensor, ignore_index: int, patch_size: int, attention_mask: torch.Tensor | None = None
) -> torch.Tensor:
    """Return which pixels (B, H, W), bool, have a label and lie in a patch with data in some spectral group.

    Args:
        labels: (B, H, W), class indices or `ignore_index`.
        ignore_index: Label of pixels without a class.
        patch_size: Height and width of a patch in pixels.
        attention_mask: (B, N), 0 = token without data.
    """
    counted = labels != ignore_index
    if attention_mask is None:
        return counted
    grid = (-1, labels.shape[1] // patch_size, labels.shape[2] // patch_size)
    with_data = (attention_mask.to(labels.device) != 0).unflatten(1, grid).any(dim=1)  # (B, h, w)
    return counted & with_data.repeat_interleave(patch_size, dim=1).repeat_interleave(patch_size, dim=2)


def label_weights(
    labels: torch.Tensor, config: SpectralGPTConfig, attention_mask: torch.Tensor | None = None
) -> torch.Tensor:
    """Return the weight (B, H, W), float32, of each pixel in the loss of segmentation and change detection.

    Args:
        labels: (B, H, W), class indices or `config.semantic_loss_ignore_index`, which has weight 0.
        config: Configuration with `class_weights` and `semantic_loss_ignore_index`.
        attention_mask: (B, N), 0 = token without data. Pixels without data in any spectral group have weight 0.
    """
    counted = labelled_pixels(labels, config.semantic_loss_ignore_index, config.patch_size, attention_mask)
    # CODEPATH: the released segmentation checkpoint was trained without weights, that of change detection with weights.
    if config.class_weights is None:
        return counted.float()
    weights = counted.float()
    # Python numbers, because a tensor of the weights would have to be copied from the host at every step.
    for label, weight in enumerate(config.class_weights):
        weights = weights.where(labels != label, weight * counted)
    return weights


def dense_loss(
    logits: torch.Tensor,
    labels: torch.Tensor,
    config: SpectralGPTConfig,
    attention_mask: torch.Tensor | None = None,
    num_items_in_batch: torch.Tensor | float | None = None,
) -> torch.Tensor:
    """Return the weighted mean cross-entropy, in float32, of the pixels that have a label and data in some group.

    Args:
        logits: (B, classes, H, W). A single class has binary cross-entropy.
        labels: (B, H, W), class indices, or 0 or 1 for a single class; or `config.semantic_loss_ignore_index`.
        config: Configuration with `class_weights` and `semantic_loss_ignore_index`.
        attention_mask: (B, N), 0 = token without data. Pixels without data in any spectral group have weight 0.
        num_items_in_batch: Sum of `label_weights` over every part of the batch, on all processes and accumulated steps,
            so that the losses of the parts add up to that of the batch. By default, their sum over `labels`.

    Returns:
        (), 0 where no pixel counts.

    Raises:
        ValueError: If `labels` has another shape.
    """
    expected = (logits.shape[0], *logits.shape[2:])
    if labels.shape != expected:
        raise ValueError(f"`labels` must have shape {expected}, got {tuple(labels.shape)}.")
    labels = labels.to(logits.device)
    weights = label_weights(labels, config, attention_mask)
    known = labels.where(weights > 0, 0)
    if logits.shape[1] == 1:
        errors = nn.functional.binary_cross_entropy_with_logits(logits[:, 0].float(), known.float(), reduction="none")
    else:
        errors = nn.functional.cross_entropy(logits.float(), known, reduction="none")
    total = weights.sum() if num_items_in_batch is None else num_items_in_batch
    if torch.is_tensor(total):
        total = total.to(logits.device).clamp(min=1e-12)
    return (errors * weights).sum() / total


@auto_docstring(custom_intro="SpectralGPT with a head that classifies every pixel.")
class SpectralGPTForSemanticSegmentation(SpectralGPTPreTrainedModel):
    _keys_to_ignore_on_load_unexpected = [r"^decoder\."]

    def __init__(self, config: SpectralGPTConfig):
        super().__init__(config)
        self.num_labels = config.num_labels
        self.spectralgpt = SpectralGPTModel(config)
        self.decode_head = SpectralGPTDecodeHead(config)
        keep_untrained(self.spectralgpt.layernorm)  # the head takes the tokens before the final LayerNorm
        self.post_init()

    @can_return_tuple
    @auto_docstring
    def forward(
        self,
        pixel_values: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        dates: torch.Tensor | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> SemanticSegmenterOutput:
        r"""
        attention_mask (`torch.Tensor` of shape `(batch_size, num_tokens)`, *optional*):
            0 = token without data. Of a series `(batch_size, num_dates, num_tokens)`. Pixels without data in any
            spectral group, at any date, are left out of the loss.
        labels (`torch.LongTensor` of shape `(batch_size, height, width)`, *optional*):
            Class of each pixel; `config.semantic_loss_ignore_index` is left out of the loss.
        dates (`torch.Tensor` of shape `(batch_size, num_dates)`, *optional*):
            Of a series `pixel_values` (batch_size, num_dates, num_channels, height, width), as in `SpectralGPTModel`.

        The keyword `num_items_in_batch`, which the Trainer passes, is described at `dense_loss`.
        """
        num_items_in_batch = kwargs.pop("num_items_in_batch", None)
        outputs = self.spectralgpt(pixel_values, attention_mask, dates=dates, **kwargs)
        grid = token_grid(flatten_dates(pixel_values)[0], self.config)
        # CODEPATH: the paper's head sees the encoder's features only.
        pixels = skipped_pixels(pixel_values, self.config, attention_mask)[0] if self.config.pixel_skip else None
        attention_mask = with_data_at_any_date(attention_mask)
        features = self.decode_head.group_fusion(outputs.last_layer_output, grid, attention_mask)
        logits = self.decode_head(features, pixels)  # (B, classes, H, W)
        loss = None
        if labels is not None:
            loss = dense_loss(logits, labels, self.config, attention_mask, num_items_in_batch)
        return SemanticSegmenterOutput(
            loss=loss, logits=logits, hidden_states=outputs.hidden_states, attentions=outputs.attentions
        )


@auto_docstring(custom_intro="SpectralGPT on two dates, with a head that predicts for every pixel whether it changed.")
class SpectralGPTForChangeDetection(SpectralGPTPreTrainedModel):
    _keys_to_ignore_on_load_unexpected = [r"^decoder\."]

    def __init__(self, config: SpectralGPTConfig):
        if config.num_labels != 2:
            raise ValueError(
                f"`num_labels` must be 2 (unchanged, changed), got {config.num_labels}: pass `num_labels=2`."
            )
        super().__init__(config)
        self.num_labels = config.num_labels
        self.spectralgpt = SpectralGPTModel(config)
        self.decode_head = SpectralGPTDecodeHead(config, num_dates=2)
        keep_untrained(self.spectralgpt.layernorm)  # the head takes the tokens before the final LayerNorm
        self.post_init()

    @can_return_tuple
    @auto_docstring
    def forward(
        self,
        pixel_values: torch.Tensor,
        pixel_values_after: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        attention_mask_after: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> SemanticSegmenterOutput:
        r"""
        pixel_values_after (`torch.Tensor` of shape `(batch_size, num_channels, height, width)`):
            The second date, normalised with the same statistics as the first.
        attention_mask (`torch.Tensor` of shape `(batch_size, num_tokens)`, *optional*):
            0 = token without data at the first date.
        attention_mask_after (`torch.Tensor` of shape `(batch_size, num_tokens)`, *optional*):
            0 = token without data at the second date. Only groups with data at both dates are compared, and pixels
            without such a group are left out of the loss.
        labels (`torch.LongTensor` of shape `(batch_size, height, width)`, *optional*):
            1 = changed, 0 = unchanged; `config.semantic_loss_ignore_index` is left out of the loss.

        The keyword `num_items_in_batch`, which the Trainer passes, is described at `dense_loss`. The output's
        `hidden_states` and `attentions` hold the first dates of the batch, then the second ones.
        """
        num_items_in_batch = kwargs.pop("num_items_in_batch", None)
        if pixel_values.shape != pixel_values_after.shape:
            raise ValueError(
                "`pixel_values` and `pixel_values_after` must have one shape, got "
                f"{tuple(pixel_values.shape)} and {tuple(pixel_values_after.shape)}."
            )
        grid = token_grid(pixel_values, self.config, attention_mask)
        token_grid(pixel_values_after, self.config, attention_mask_after)  # raises where the mask does not fit
        masks = compared = None
        if attention_mask is not None or attention_mask_after is not None:
            shape = (pixel_values.shape[0], math.prod(grid))
            everything = torch.ones(shape, dtype=torch.bool, device=pixel_values.device)
            first_mask = everything if attention_mask is None else attention_mask.bool()
            second_mask = everything if attention_mask_after is None else attention_mask_after.bool()
            masks, compared = torch.cat([first_mask, second_mask]), first_mask & second_mask
        outputs = self.spectralgpt(torch.cat([pixel_values, pixel_values_after]), masks, **kwargs)
        first, second = outputs.last_layer_output.chunk(2)
        fuse = self.decode_head.group_fusion
        features = fuse(first, grid, compared) - fuse(second, grid, compared)
        pixels = None
        # CODEPATH: the paper's head sees the encoder's features only.
        if self.config.pixel_skip:
            dates = (pixel_values, pixel_values_after)
            pixels = torch.cat([skipped_pixels(date, self.config, compared)[0] for date in dates], dim=1)
        logits = self.decode_head(features, pixels)  # (B, classes, H, W)
        loss = None if labels is None else dense_loss(logits, labels, self.config, compared, num_items_in_batch)
        return SemanticSegmenterOutput(
            loss=loss, logits=logits, hidden_states=outputs.hidden_states, attentions=outputs.attentions
        )


@auto_docstring(custom_intro="SpectralGPT as a backbone: one feature map for each chosen layer.")
class SpectralGPTBackbone(BackboneMixin, SpectralGPTPreTrainedModel):
    _keys_to_ignore_on_load_unexpected = [r"^decoder\."]

    def __init__(self, config: SpectralGPTConfig):
        super().__init__(config)
        # CODEPATH: no released checkpoint is a backbone; both poolings work with each.
        width = config.hidden_size * (config.num_groups if config.group_pooling == "concat" else 1)
        self.num_features = [width for _ in self.stage_names]
        self.spectralgpt = SpectralGPTModel(config)
        self.post_init()

    @property
    def out_channels(self) -> list[int]:
        """Number of channels of each feature map (`channels` in transformers)."""
        return self.channels

    @property
    def patch_size(self) -> int:
        """Pixels per row and column of a feature map."""
        return self.config.patch_size

    @can_return_tuple
    @filter_output_hidden_states
    @auto_docstring
    def forward(
        self,
        pixel_values: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> BackboneOutput:
        r"""
        attention_mask (`torch.Tensor` of shape `(batch_size, num_tokens)`, *optional*):
            0 = token without data.
        """
        kwargs["output_hidden_states"] = True
        grid = token_grid(pixel_values, self.config, attention_mask)
        outputs = self.spectralgpt(pixel_values, attention_mask, **kwargs)
        feature_maps = tuple(
            self.pool_groups(hidden_state, grid, attention_mask)
            for stage, hidden_state in zip(self.stage_names, outputs.hidden_states)
            if stage in self.out_features
        )
        return BackboneOutput(
            feature_maps=feature_maps, hidden_states=outputs.hidden_states, attentions=outputs.attentions
        )

    def pool_groups(
        self, hidden_states: torch.Tensor, grid: tuple[int, int, int], attention_mask: torch.Tensor | None
    ) -> torch.Tensor:
        """Return the feature map (B, D, h, w), or (B, G * D, h, w) if groups are concatenated, of tokens (B, N, D).

        Raises:
            ValueError: If groups are concatenated and their number is not that of `channels`.
        """
        # CODEPATH: no released checkpoint is a backbone; the option is named as in DINOv2.
        if self.config.apply_layernorm:
            hidden_states = self.spectralgpt.layernorm(hidden_states)
        # CODEPATH: no released checkpoint is a backbone; both poolings work with each.
        if self.config.group_pooling == "mean":
            height, width = grid[1] * self.patch_size, grid[2] * self.patch_size
            return self.spectralgpt.feature_map(hidden_states, height, width, attention_mask)
        if grid[0] != self.config.num_groups:
            raise ValueError(
                f'`group_pooling="concat"` needs the {self.config.num_channels} bands of the configuration '
                f"(`num_channels`), got {grid[0] * self.config.spectral_patch_size}."
            )
        if attention_mask is not None:
            hidden_states = hidden_states.masked_fill(attention_mask.to(hidden_states.device)[..., None] == 0, 0.0)
        return hidden_states.unflatten(1, grid).permute(0, 1, 4, 2, 3).flatten(1, 2)


__all__ = [
    "SpectralGPTBackbone",
    "SpectralGPTForChangeDetection",
    "SpectralGPTForImageClassification",
    "SpectralGPTForPreTraining",
    "SpectralGPTForSemanticSegmentation",
    "SpectralGPTModel",
    "SpectralGPTPreTrainedModel",
]
