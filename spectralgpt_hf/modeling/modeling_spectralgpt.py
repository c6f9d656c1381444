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

Shapes: B images, C bands, H x W pixels; G = C / 3 spectral groups, h = H / 8 and w = W / 8 rows and columns of places,
N = G * h * w tokens in spectral-major order (token = g * h * w + row * w + column), D hidden size.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

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
        Tokens after the final LayerNorm, in spectral-major order (or in the order of `ids_keep`).
    pooler_output (`torch.FloatTensor` of shape `(batch_size, hidden_size)`):
        Mean over the tokens with data of the last layer's output, then the final LayerNorm.
    last_layer_output (`torch.FloatTensor` of shape `(batch_size, num_tokens, hidden_size)`):
        Tokens before the final LayerNorm: what the dense read-outs take.
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
        Mean squared error of the sum over the spectral groups of each place, over all places.
    logits (`torch.FloatTensor` of shape `(batch_size, num_tokens, spectral_patch_size * patch_size ** 2)`):
        Predicted values of every token.
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
    """Cut images (B, C, H, W) into 3D tokens (B, N, 3 * 8 * 8), spectral-major; values as (band, row, column)."""
    batch_size, num_channels, height, width = pixel_values.shape
    bands, size = config.spectral_patch_size, config.patch_size
    patches = pixel_values.reshape(batch_size, num_channels // bands, bands, height // size, size, width // size, size)
    return patches.permute(0, 1, 3, 5, 2, 4, 6).reshape(batch_size, -1, bands * size * size)


def unpatchify(patches: torch.Tensor, height: int, width: int, config: SpectralGPTConfig) -> torch.Tensor:
    """Put tokens (B, N, 3 * 8 * 8) back together as images (B, C, `height`, `width`)."""
    bands, size = config.spectral_patch_size, config.patch_size
    patches = patches.reshape(patches.shape[0], -1, height // size, width // size, bands, size, size)
    return patches.permute(0, 1, 4, 2, 5, 3, 6).reshape(patches.shape[0], -1, height, width)


def token_grid(pixel_values: torch.Tensor, config: SpectralGPTConfig) -> tuple[int, int, int]:
    """Return the number of spectral groups, rows and columns of the tokens of `pixel_values` (B, C, H, W).

    Raises:
        ValueError: If the input is no batch of float images whose bands and size divide into tokens.
    """
    if pixel_values.ndim != 4:
        raise ValueError(
            "`pixel_values` must have 4 dimensions (batch, bands, height, width), got shape "
            f"{tuple(pixel_values.shape)}."
        )
    if not pixel_values.is_floating_point():
        raise ValueError(
            f"`pixel_values` must hold normalised floats, got {pixel_values.dtype}: pass digital numbers through "
            "`SpectralGPTImageProcessor` first."
        )
    _, num_channels, height, width = pixel_values.shape
    if num_channels % config.spectral_patch_size:
        raise ValueError(
            f"The number of bands must be a multiple of {config.spectral_patch_size} (`spectral_patch_size`), got "
            f"{num_channels}."
        )
    if height % config.patch_size or width % config.patch_size:
        raise ValueError(
            f"Height and width must be multiples of {config.patch_size} px (`patch_size`), got {height} x {width}: let "
            "`SpectralGPTImageProcessor` pad or resize the image."
        )
    return num_channels // config.spectral_patch_size, height // config.patch_size, width // config.patch_size


def mask_units(
    grid: tuple[int, int, int], masking: str, device: torch.device | None = None
) -> tuple[torch.Tensor, int]:
    """Return the unit (N,) that each token of a `grid` of groups, rows and columns is hidden with, and their number."""
    num_groups, num_places = grid[0], grid[1] * grid[2]
    tokens = torch.arange(num_groups * num_places, device=device)
    return {
        "random": (tokens, num_groups * num_places),
        "spatial": (tokens % num_places, num_places),
        "spectral": (tokens // num_places, num_groups),
    }[masking]


class SpectralGPTPositionEmbeddings(nn.Module):
    """Learned, factorised positions: one embedding per place plus one per spectral group."""

    def __init__(self, config: SpectralGPTConfig):
        super().__init__()
        self.grid_size = config.image_size // config.patch_size
        num_groups = config.num_channels // config.spectral_patch_size
        self.spatial_position_embeddings = nn.Parameter(torch.zeros(1, self.grid_size**2, config.hidden_size))
        self.spectral_position_embeddings = nn.Parameter(torch.zeros(1, num_groups, config.hidden_size))

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
        """Return waves (1, h * w, D) along the rows and the columns, from one pixel of a place to beyond the grid."""
        width = self.spatial_position_embeddings.shape[-1]
        frequencies = 10_000 ** -torch.linspace(0, 1, width // 4)
        angles = torch.arange(self.grid_size)[:, None] * frequencies
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
        positions = self.position_embeddings(*token_grid(pixel_values, self.config))  # (N, D)
        patches = patchify(pixel_values, self.config)  # (B, N, 192)
        if attention_mask is not None:
            # Whatever stands where there is no data, NaN included, must not reach a multiplication.
            patches = patches.masked_fill(attention_mask[..., None] == 0, 0.0)
        if ids_keep is not None:
            patches = patches.gather(1, ids_keep[..., None].expand(-1, -1, patches.shape[-1]))  # (B, K, 192)
            positions = positions[ids_keep]  # (B, K, D)
        return self.patch_embeddings(patches.to(self.patch_embeddings.weight.dtype)) + positions


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
    """Multi-head self-attention of all tokens with data."""

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
    def __init__(self, config: SpectralGPTConfig):
        super().__init__()
        self.fc1 = nn.Linear(config.hidden_size, config.intermediate_size)
        self.activation = ACT2FN[config.hidden_act]
        self.fc2 = nn.Linear(config.intermediate_size, config.hidden_size)

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        return self.fc2(self.activation(self.fc1(hidden_states)))


class SpectralGPTDropPath(nn.Module):
    """Stochastic depth (arXiv 1603.09382): in training, a residual branch is left out of a share of the images."""

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


@auto_docstring
class SpectralGPTPreTrainedModel(PreTrainedModel):
    config: SpectralGPTConfig
    base_model_prefix = "spectralgpt"
    main_input_name = "pixel_values"
    input_modalities = ("image",)
    supports_gradient_checkpointing = True
    _no_split_modules = ["SpectralGPTEmbeddings", "SpectralGPTLayer"]
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_flex_attn = True
    _supports_attention_backend = True
    _can_compile_fullgraph = True
    _can_record_outputs = {"hidden_states": SpectralGPTLayer, "attentions": SpectralGPTAttention}
    _input_embed_layer = "patch_embeddings"
    accepts_loss_kwargs = False  # every loss is a mean: the Trainer must divide it by the steps it accumulates

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if isinstance(module, nn.Linear | nn.Conv2d):
            init.xavier_uniform_(module.weight)  # scales with the width, from tiny to huge
        elif isinstance(module, SpectralGPTPositionEmbeddings):
            # Learned, but from waves: places know their neighbours from the start, which saves thousands of steps.
            init.copy_(module.spatial_position_embeddings, module.sine_cosine_positions())
            init.normal_(module.spectral_position_embeddings, std=2**-0.5)  # as strong as the waves
        elif isinstance(module, SpectralGPTGroupFusion):
            init.constant_(module.weight, 1 / module.weight.shape[1])  # the mean, as in the other read-outs
            init.zeros_(module.bias)
        elif isinstance(module, SpectralGPTDecoder):
            init.trunc_normal_(module.mask_token, std=self.config.initializer_range)

    @torch.no_grad()
    def resize_positions(self, image_size: int, bands: list[str] | None = None) -> None:
        """Make another image size and list of bands the native ones: the next stage starts from interpolated positions.

        Args:
            image_size: Height and width, in pixels, a multiple of `patch_size`.
            bands: Names of the bands, in order; their number a multiple of `spectral_patch_size`. As before by default.

        Raises:
            ValueError: If `image_size` or the number of `bands` is no such multiple.
        """
        for module in self.modules():
            if isinstance(module, SpectralGPTPreTrainedModel):
                module.config.image_size = image_size
                if bands is not None:
                    module.config.bands, module.config.num_channels = list(bands), len(bands)
                module.config.check()
        rows = image_size // self.config.patch_size
        groups = self.config.num_channels // self.config.spectral_patch_size
        for module in self.modules():
            if isinstance(module, SpectralGPTPositionEmbeddings):
                module.spatial_position_embeddings = nn.Parameter(module.interpolate_spatial(rows, rows))
                module.spectral_position_embeddings = nn.Parameter(module.interpolate_spectral(groups))
                module.grid_size = rows


@auto_docstring
class SpectralGPTModel(SpectralGPTPreTrainedModel):
    _keys_to_ignore_on_load_unexpected = [r"^decoder\."]  # of a pretraining checkpoint

    def __init__(self, config: SpectralGPTConfig):
        config.check()  # it may have been changed since it was made
        super().__init__(config)
        self.embeddings = SpectralGPTEmbeddings(config)
        self.layers = nn.ModuleList([SpectralGPTLayer(config, i) for i in range(config.num_hidden_layers)])
        self.layernorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.post_init()

    def feature_map(
        self, hidden_states: torch.Tensor, height: int, width: int, attention_mask: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Average the spectral groups of each place.

        Args:
            hidden_states: Tokens (B, N, D).
            height: Height of the image, in pixels.
            width: Width of the image, in pixels.
            attention_mask: (B, N), 0 = token without data, left out of the average.

        Returns:
            Features (B, D, height / 8, width / 8); 0 at a place without any data.
        """
        grid = (-1, height // self.config.patch_size, width // self.config.patch_size)
        tokens = hidden_states.unflatten(1, grid)  # (B, G, h, w, D)
        if attention_mask is None:
            return tokens.mean(dim=1).permute(0, 3, 1, 2)
        valid = attention_mask.to(tokens.dtype).unflatten(1, grid)[..., None]
        return ((tokens * valid).sum(dim=1) / valid.sum(dim=1).clamp(min=1)).permute(0, 3, 1, 2)

    @merge_with_config_defaults
    @capture_outputs(tie_last_hidden_states=False)
    @auto_docstring
    def forward(
        self,
        pixel_values: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        ids_keep: torch.Tensor | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> SpectralGPTModelOutput:
        r"""
        attention_mask (`torch.Tensor` of shape `(batch_size, num_tokens)`, *optional*):
            0 = token without data: nobody attends to it and it is left out of the pooled output.
        ids_keep (`torch.LongTensor` of shape `(batch_size, num_kept)`, *optional*):
            Indices of the tokens to encode, in the order wanted; the others are hidden. All tokens by default.
        """
        hidden_states = self.embeddings(pixel_values, attention_mask, ids_keep)
        if attention_mask is not None and ids_keep is not None:
            attention_mask = attention_mask.gather(1, ids_keep)
        layer_mask = create_bidirectional_mask(
            config=self.config, inputs_embeds=hidden_states, attention_mask=attention_mask
        )
        for layer in self.layers:
            hidden_states = layer(hidden_states, layer_mask, **kwargs)

        return SpectralGPTModelOutput(
            last_hidden_state=self.layernorm(hidden_states),
            pooler_output=self.layernorm(masked_mean(hidden_states, attention_mask)),
            last_layer_output=hidden_states,
        )


def masked_mean(hidden_states: torch.Tensor, attention_mask: torch.Tensor | None) -> torch.Tensor:
    """Average tokens (B, N, D) over those with data."""
    if attention_mask is None:
        return hidden_states.mean(dim=1)
    valid = attention_mask.to(hidden_states.dtype)[..., None]
    return (hidden_states * valid).sum(dim=1) / valid.sum(dim=1).clamp(min=1)


@auto_docstring(custom_intro="Predicts the values of every token from the encoded visible ones.")
class SpectralGPTDecoder(SpectralGPTPreTrainedModel):
    # A model of its own, so that `set_attn_implementation` reaches its derived config.
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
        **kwargs: Unpack[TransformersKwargs],
    ) -> torch.Tensor:
        r"""
        hidden_states (`torch.Tensor` of shape `(batch_size, num_kept, encoder hidden_size)`):
            Encoded visible tokens.
        ids_keep (`torch.LongTensor` of shape `(batch_size, num_kept)`):
            Their indices.
        grid (`tuple[int, int, int]`):
            Number of spectral groups, rows and columns of all tokens.
        attention_mask (`torch.Tensor` of shape `(batch_size, num_tokens)`, *optional*):
            0 = token without data.

        Returns:
            `torch.Tensor` of shape `(batch_size, num_tokens, spectral_patch_size * patch_size ** 2)`: predicted values.
        """
        positions = self.position_embeddings(*grid)  # (N, 512)
        visible = self.embed(hidden_states)
        tokens = self.mask_token.to(visible.dtype).expand(visible.shape[0], positions.shape[0], -1)
        hidden_states = tokens.scatter(1, ids_keep[..., None].expand_as(visible), visible) + positions  # (B, N, 512)
        attention_mask = create_bidirectional_mask(
            config=self.config, inputs_embeds=hidden_states, attention_mask=attention_mask
        )
        for layer in self.layers:
            hidden_states = layer(hidden_states, attention_mask, **kwargs)
        return self.prediction(self.layernorm(hidden_states))


@auto_docstring(custom_intro="SpectralGPT with its pretraining decoder: rebuilds an image from a tenth of its tokens.")
class SpectralGPTForPreTraining(SpectralGPTPreTrainedModel):
    def __init__(self, config: SpectralGPTConfig):
        super().__init__(config)
        self.spectralgpt = SpectralGPTModel(config)
        self.decoder = SpectralGPTDecoder(config)
        self.post_init()

    def sample_mask(
        self,
        batch_size: int,
        grid: tuple[int, int, int],
        noise: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        device: torch.device | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Choose the tokens that stay visible: those of the units (tokens, places or groups) with the smallest noise.

        Args:
            batch_size: Number of images B.
            grid: Number of spectral groups, rows and columns.
            noise: (B, units); drawn if not given. Units are all N tokens (`masking="random"`), h * w places
                (`"spatial"`) or G groups (`"spectral"`).
            attention_mask: (B, N), 0 = token without data; a unit with fewer of them comes first.
            device: Device of `noise`, and of the result.

        Returns:
            `ids_keep` (B, K), in ascending order of noise; `mask` (B, N), 0 = kept; `ids_restore` (B, N).

        Raises:
            ValueError: If `noise` has another shape.
        """
        unit, num_units = mask_units(grid, self.config.masking, device)
        num_kept = max(1, int(num_units * (1 - self.config.mask_ratio))) * (unit.numel() // num_units)

        if noise is None:
            noise = torch.rand(batch_size, num_units, device=device)
        elif noise.shape != (batch_size, num_units):
            raise ValueError(
                f"`noise` must have shape {(batch_size, num_units)} for masking={self.config.masking!r}, got "
                f"{tuple(noise.shape)}."
            )
        rank = noise.float().argsort(dim=1, stable=True).argsort(dim=1)  # (B, units)
        if attention_mask is not None:
            missing = torch.zeros_like(rank).index_add(1, unit, (attention_mask == 0).to(rank.dtype))
            rank = (rank + missing * num_units).argsort(dim=1).argsort(dim=1)
        ids_shuffle = rank[:, unit].argsort(dim=1, stable=True)  # (B, N)
        ids_restore = ids_shuffle.argsort(dim=1)
        return ids_shuffle[:, :num_kept], (ids_restore >= num_kept).to(noise.dtype), ids_restore

    @can_return_tuple
    @auto_docstring
    def forward(
        self,
        pixel_values: torch.Tensor,
        noise: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> SpectralGPTForPreTrainingOutput:
        r"""
        noise (`torch.Tensor` of shape `(batch_size, num_units)`, *optional*):
            What decides which tokens stay visible, one value in [0, 1) for each token, place or group
            (`config.masking`): the smallest are kept. Drawn if not given.
        attention_mask (`torch.Tensor` of shape `(batch_size, num_tokens)`, *optional*):
            0 = token without data: it is kept last, nobody attends to it, and it is in neither loss.
        """
        grid = token_grid(pixel_values, self.config)
        ids_keep, mask, ids_restore = self.sample_mask(
            pixel_values.shape[0], grid, noise, attention_mask, pixel_values.device
        )
        outputs = self.spectralgpt(pixel_values, attention_mask, ids_keep, **kwargs)
        logits = self.decoder(outputs.last_hidden_state, ids_keep, grid, attention_mask, **kwargs)
        token_loss, spectral_loss = self.reconstruction_losses(pixel_values, logits, mask, grid, attention_mask)
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
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the token-to-token and the spectral-to-spectral error, in float32 (paper, section III-C).

        Images count alike, however much data they hold; one without any adds 0. So the mean of the losses of parts of a
        batch is the loss of the batch, wherever the parts are computed.
        """
        target = patchify(pixel_values.float(), self.config)  # (B, N, 192)
        mean, scale = self.target_statistics(target)
        error = logits.float() - (target - mean) / scale
        places = None
        if attention_mask is not None:
            valid = attention_mask.to(error.dtype)
            error = error.masked_fill(attention_mask[..., None] == 0, 0.0)
            mask = mask * valid
            places = valid.unflatten(1, (grid[0], -1)).amin(dim=1)  # all groups have data
        token_error = error.square().mean(dim=-1)  # (B, N)
        token_loss = ((token_error * mask).sum(dim=1) / mask.sum(dim=1).clamp(min=1)).mean()
        # The difference of the sums over the groups is the sum of the differences.
        spectral_error = error.unflatten(1, (grid[0], -1)).sum(dim=1).square().mean(dim=-1)  # (B, h * w)
        if places is None:
            return token_loss, spectral_error.mean()
        return token_loss, ((spectral_error * places).sum(dim=1) / places.sum(dim=1).clamp(min=1)).mean()

    def target_statistics(self, target: torch.Tensor) -> tuple[torch.Tensor | float, torch.Tensor | float]:
        """Return the mean and deviation (B, N, 1) by which `norm_pix_loss` standardises a target (B, N, 192)."""
        # CODEPATH: the released checkpoints predict plain values; `norm_pix_loss` is one of the paper's ablations.
        if not self.config.norm_pix_loss:
            return 0.0, 1.0
        return target.mean(dim=-1, keepdim=True), (target.var(dim=-1, keepdim=True) + 1e-6).sqrt()

    @torch.no_grad()
    def reconstruct(
        self,
        pixel_values: torch.Tensor,
        noise: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Rebuild images from their visible tokens.

        Args:
            pixel_values: (B, C, H, W), normalised.
            noise: As in `forward`. The tokens hidden are those of `forward(...).mask` with the same noise.
            attention_mask: As in `forward`.

        Returns:
            Images (B, C, H, W): predictions where tokens were hidden, the input where they were visible. With
            `norm_pix_loss` the predictions are scaled back with each token's own mean and deviation.
        """
        outputs = self(pixel_values, noise=noise, attention_mask=attention_mask)
        target = patchify(pixel_values, self.config)
        mean, scale = self.target_statistics(target)
        prediction = outputs.logits.to(target.dtype) * scale + mean
        rebuilt = torch.where(outputs.mask[..., None] == 1, prediction, target)
        return unpatchify(rebuilt, pixel_values.shape[2], pixel_values.shape[3], self.config)


@auto_docstring(custom_intro="SpectralGPT with a linear classifier on its pooled output, for one label or many.")
class SpectralGPTForImageClassification(SpectralGPTPreTrainedModel):
    _keys_to_ignore_on_load_unexpected = [r"^decoder\."]

    def __init__(self, config: SpectralGPTConfig):
        super().__init__(config)
        self.num_labels = config.num_labels
        self.spectralgpt = SpectralGPTModel(config)
        self.dropout = nn.Dropout(config.classifier_dropout)
        self.classifier = nn.Linear(config.hidden_size, config.num_labels)
        self.post_init()

    @can_return_tuple
    @auto_docstring
    def forward(
        self,
        pixel_values: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> ImageClassifierOutput:
        r"""
        attention_mask (`torch.Tensor` of shape `(batch_size, num_tokens)`, *optional*):
            0 = token without data.
        labels (`torch.Tensor` of shape `(batch_size,)` or `(batch_size, num_labels)`, *optional*):
            One class index an image (cross-entropy), or 0 or 1 for each class (multi-label: binary cross-entropy). With
            `problem_type="single_label_classification"` a row of class probabilities is taken too (mixup).
        """
        outputs = self.spectralgpt(pixel_values, attention_mask, **kwargs)
        logits = self.classifier(self.dropout(outputs.pooler_output))
        loss = None
        if labels is not None:
            many = "multi_label_classification" if labels.ndim == 2 else "single_label_classification"
            if (self.config.problem_type or many) == "multi_label_classification":
                loss = nn.functional.binary_cross_entropy_with_logits(logits.float(), labels.float())
            else:
                loss = nn.functional.cross_entropy(logits.float(), labels)
        return ImageClassifierOutput(
            loss=loss, logits=logits, hidden_states=outputs.hidden_states, attentions=outputs.attentions
        )


class SpectralGPTGroupFusion(nn.Module):
    """Learned weighted sum of the spectral groups of each place: tokens (B, N, D) to features (B, D, h, w).

    Tokens without data have no part in it. The weight of the groups that a place lacks is shared equally by those it
    has, so that the sum of the weights stays as learned. (Dividing by what remains of it would not do: weights have
    both signs.) A place without any data takes the mean of the image's other places, which moves neither the maxima nor
    the means that the decode head takes over the whole map.
    """

    def __init__(self, config: SpectralGPTConfig):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1, config.num_channels // config.spectral_patch_size))
        self.bias = nn.Parameter(torch.zeros(1))

    def forward(
        self, hidden_states: torch.Tensor, grid: tuple[int, int, int], attention_mask: torch.Tensor | None = None
    ) -> torch.Tensor:
        num_groups, rows, columns = grid
        weight = self.weight
        if num_groups != weight.shape[1]:  # interpolated like the spectral positions; more groups share the same sum
            weight = nn.functional.interpolate(weight[None], size=num_groups, mode="linear", align_corners=False)[0]
            weight = weight * (self.weight.shape[1] / num_groups)
        groups = hidden_states.unflatten(1, (num_groups, -1))  # (B, G, h * w, D)
        if attention_mask is None:
            features = torch.einsum("bgpd,g->bpd", groups, weight[0]) + self.bias
        else:
            valid = attention_mask.unflatten(1, (num_groups, -1)).to(weight.dtype)  # (B, G, h * w)
            num_valid = valid.sum(dim=1)  # (B, h * w)
            missing = torch.einsum("bgp,g->bp", 1 - valid, weight[0]) / num_valid.clamp(min=1)
            weight = (weight[..., None] + missing[:, None]) * valid
            features = torch.einsum("bgpd,bgp->bpd", groups, weight) + self.bias
            features = features.where(num_valid[..., None] > 0, masked_mean(features, num_valid > 0)[:, None])
        return features.transpose(1, 2).unflatten(2, (rows, columns))


class SpectralGPTConcatConv(nn.Conv2d):
    """1x1 convolution of several feature maps, as if resized to the size of the last one and concatenated.

    Such a convolution is a sum over its inputs and commutes with resizing: each is convolved at its own resolution.
    """

    def forward(self, feature_maps: list[torch.Tensor]) -> torch.Tensor:
        weights = self.weight.split([feature_map.shape[1] for feature_map in feature_maps], dim=1)
        output = nn.functional.conv2d(feature_maps[-1], weights[-1], self.bias)
        for feature_map, weight in zip(feature_maps[:-1], weights[:-1]):
            output += resize(nn.functional.conv2d(feature_map, weight), output.shape[-2:])
        return output


class SpectralGPTEnlargement(nn.ConvTranspose2d):
    """Transposed convolution whose kernels lie side by side: one matrix product, and its values put in their places."""

    bias: nn.Parameter

    def forward(self, feature_map: torch.Tensor) -> torch.Tensor:
        values = feature_map.permute(0, 2, 3, 1) @ self.weight.flatten(1)  # (B, h, w, channels * kernel * kernel)
        pixels = nn.functional.pixel_shuffle(values.permute(0, 3, 1, 2), self.kernel_size[0])
        return pixels + self.bias[:, None, None]


class SpectralGPTConvBlock(nn.Sequential):
    def __init__(self, config: SpectralGPTConfig, conv: nn.Conv2d, num_groups: int, *upsampling: nn.Module):
        norm = nn.GroupNorm(num_groups, conv.out_channels)
        # In place: nothing before it needs its own output again, and these are the largest tensors of all.
        super().__init__(conv, norm, nn.GELU(), *upsampling, nn.Dropout(config.decode_dropout, inplace=True))


class SpectralGPTDecodeHead(nn.Module):
    """Fused spectral groups, four resolutions made of one, pyramid pooling and a top-down path (arXiv 1807.10221).

    `forward` takes fused features (B, D, h, w) and returns logits (B, classes, H, W); fusing is a step of its own,
    since change detection subtracts in between.
    """

    pool_sizes = (1, 2, 3, 6)

    def __init__(self, config: SpectralGPTConfig):
        super().__init__()
        width = config.decode_hidden_size
        level_widths = [width, 2 * width, 4 * width, 8 * width]  # from single pixels to places
        self.group_fusion = SpectralGPTGroupFusion(config)
        self.branches = nn.ModuleList()
        for level, level_width in enumerate(level_widths):
            hidden = max(2 * width, level_width)
            stride = max(1, config.patch_size >> level)
            upsampling = [SpectralGPTEnlargement(hidden, level_width, stride, stride)] if level < 3 else []
            conv = nn.Conv2d(config.hidden_size, hidden, 1)
            self.branches.append(SpectralGPTConvBlock(config, conv, 32, *upsampling))
        self.pool_projections = nn.ModuleList([nn.Conv2d(8 * width, width, 1) for _ in self.pool_sizes])
        self.pool_fusion = SpectralGPTConvBlock(config, SpectralGPTConcatConv(12 * width, width, 1), 16)
        self.top_projection = nn.Conv2d(width, width, 1)
        # From the coarsest of the other three levels to the finest.
        self.laterals = nn.ModuleList(
            [SpectralGPTConvBlock(config, nn.Conv2d(size, width, 1), 16) for size in reversed(level_widths[:3])]
        )
        self.merges = nn.ModuleList([SpectralGPTConvBlock(config, nn.Conv2d(width, width, 1), 16) for _ in range(3)])
        self.level_fusion = SpectralGPTConvBlock(config, SpectralGPTConcatConv(4 * width, width, 1), 16)
        self.classifier = nn.Conv2d(width, config.num_labels, 3, padding=1)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        *levels, places = [branch(features) for branch in self.branches]
        pools = [
            projection(nn.functional.adaptive_max_pool2d(places, size))
            for projection, size in zip(self.pool_projections, self.pool_sizes)
        ]
        merged = [self.pool_fusion([*pools, places])]
        top = self.top_projection(merged[0])  # before it is enlarged: the two commute
        for lateral, merge, level in zip(self.laterals, self.merges, reversed(levels)):
            top = merge(resize(top, level.shape[-2:]) + lateral(level))
            merged.append(top)
        return self.classifier(self.level_fusion(merged))


def resize(feature_map: torch.Tensor, size: torch.Size) -> torch.Tensor:
    return nn.functional.interpolate(feature_map, size=size, mode="bilinear", align_corners=True)


def keep_untrained(module: nn.Module) -> None:
    """Turn parameters into buffers: saved and loaded as before, but distributed training expects no gradient of them.

    `requires_grad_(False)` would not last: `from_pretrained` makes every parameter trainable.
    """
    for name, parameter in list(module.named_parameters()):
        delattr(module, name)
        module.register_buffer(name, parameter.detach())


def dense_loss(
    logits: torch.Tensor, labels: torch.Tensor, config: SpectralGPTConfig, attention_mask: torch.Tensor | None = None
) -> torch.Tensor:
    """Return the weighted mean cross-entropy, in float32, of the pixels that have a label and, in some group, data.

    Args:
        logits: (B, classes, H, W).
        labels: (B, H, W), class indices or `config.semantic_loss_ignore_index`.
        config: Gives `class_weights` and `semantic_loss_ignore_index`.
        attention_mask: (B, N), 0 = token without data.

    Returns:
        (), 0 where no pixel counts.

    Raises:
        ValueError: If `labels` has another shape.
    """
    batch_size, num_labels, height, width = logits.shape
    if labels.shape != (batch_size, height, width):
        raise ValueError(f"`labels` must have shape {(batch_size, height, width)}, got {tuple(labels.shape)}.")
    counted = labels != config.semantic_loss_ignore_index
    if attention_mask is not None:
        size = config.patch_size
        places = attention_mask.unflatten(1, (-1, height // size, width // size)).amax(dim=1)
        counted &= places.repeat_interleave(size, dim=1).repeat_interleave(size, dim=2) != 0
    labels = labels.where(counted, 0)
    class_weights = torch.tensor(config.class_weights or [1.0] * num_labels, dtype=torch.float32, device=logits.device)
    weights = class_weights[labels] * counted
    errors = nn.functional.cross_entropy(logits.float(), labels, reduction="none")
    return (errors * weights).sum() / weights.sum().clamp(min=1e-12)


@auto_docstring(custom_intro="SpectralGPT with a head that gives every pixel a class.")
class SpectralGPTForSemanticSegmentation(SpectralGPTPreTrainedModel):
    _keys_to_ignore_on_load_unexpected = [r"^decoder\."]

    def __init__(self, config: SpectralGPTConfig):
        super().__init__(config)
        self.num_labels = config.num_labels
        self.spectralgpt = SpectralGPTModel(config)
        self.decode_head = SpectralGPTDecodeHead(config)
        keep_untrained(self.spectralgpt.layernorm)  # the head takes what comes before it
        self.post_init()

    @can_return_tuple
    @auto_docstring
    def forward(
        self,
        pixel_values: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> SemanticSegmenterOutput:
        r"""
        attention_mask (`torch.Tensor` of shape `(batch_size, num_tokens)`, *optional*):
            0 = token without data. Pixels without any are left out of the loss.
        labels (`torch.LongTensor` of shape `(batch_size, height, width)`, *optional*):
            Class of each pixel; `config.semantic_loss_ignore_index` is left out of the loss.
        """
        outputs = self.spectralgpt(pixel_values, attention_mask, **kwargs)
        grid = token_grid(pixel_values, self.config)
        features = self.decode_head.group_fusion(outputs.last_layer_output, grid, attention_mask)
        logits = self.decode_head(features)  # (B, classes, H, W)
        return SemanticSegmenterOutput(
            loss=None if labels is None else dense_loss(logits, labels, self.config, attention_mask),
            logits=logits,
            hidden_states=outputs.hidden_states,
            attentions=outputs.attentions,
        )


@auto_docstring(custom_intro="SpectralGPT on two dates, with a head that tells for every pixel whether it changed.")
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
        self.decode_head = SpectralGPTDecodeHead(config)
        keep_untrained(self.spectralgpt.layernorm)  # the head takes what comes before it
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
            without any are left out of the loss.
        labels (`torch.LongTensor` of shape `(batch_size, height, width)`, *optional*):
            1 = changed, 0 = unchanged; `config.semantic_loss_ignore_index` is left out of the loss.

        The output's `hidden_states` and `attentions` hold the first dates of the batch, then the second ones.
        """
        if pixel_values.shape != pixel_values_after.shape:
            raise ValueError(
                "`pixel_values` and `pixel_values_after` must have one shape, got "
                f"{tuple(pixel_values.shape)} and {tuple(pixel_values_after.shape)}."
            )
        grid = token_grid(pixel_values, self.config)
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
        logits = self.decode_head(fuse(first, grid, compared) - fuse(second, grid, compared))  # (B, classes, H, W)
        return SemanticSegmenterOutput(
            loss=None if labels is None else dense_loss(logits, labels, self.config, compared),
            logits=logits,
            hidden_states=outputs.hidden_states,
            attentions=outputs.attentions,
        )


@auto_docstring(custom_intro="SpectralGPT as a backbone: one feature map per chosen layer, spectral groups averaged.")
class SpectralGPTBackbone(BackboneMixin, SpectralGPTPreTrainedModel):
    _keys_to_ignore_on_load_unexpected = [r"^decoder\."]

    def __init__(self, config: SpectralGPTConfig):
        super().__init__(config)
        self.num_features = [config.hidden_size for _ in range(config.num_hidden_layers + 1)]
        self.spectralgpt = SpectralGPTModel(config)
        self.post_init()

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
        outputs = self.spectralgpt(pixel_values, attention_mask, **kwargs)
        height, width = pixel_values.shape[2:]
        feature_maps = tuple(
            self.spectralgpt.feature_map(self.spectralgpt.layernorm(hidden_state), height, width, attention_mask)
            for stage, hidden_state in zip(self.stage_names, outputs.hidden_states)
            if stage in self.out_features
        )
        return BackboneOutput(
            feature_maps=feature_maps, hidden_states=outputs.hidden_states, attentions=outputs.attentions
        )


__all__ = [
    "SpectralGPTBackbone",
    "SpectralGPTForChangeDetection",
    "SpectralGPTForImageClassification",
    "SpectralGPTForPreTraining",
    "SpectralGPTForSemanticSegmentation",
    "SpectralGPTModel",
    "SpectralGPTPreTrainedModel",
]
