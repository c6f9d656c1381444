"""The original network as plain functions of an original state dict, against which a conversion is verified.

It shares no code with `modeling/` or with the table of names, so that an error in those shows as a difference.
"""

from collections.abc import Mapping

import torch
import torch.nn.functional as F


State = Mapping[str, torch.Tensor]


def pretrain(
    state: State,
    images: torch.Tensor,
    noise: torch.Tensor,
    num_heads: int,
    decoder_num_heads: int,
    mask_ratio: float = 0.9,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Mask tokens, encode the visible ones and reconstruct all.

    Args:
        state: Tensors of a pretraining checkpoint.
        images: (B, C, H, W), of the checkpoint's size.
        noise: (B, N); the tokens with the smallest values stay visible.
        num_heads: Attention heads of the encoder.
        decoder_num_heads: Attention heads of the decoder.
        mask_ratio: Share of tokens that are masked.

    Returns:
        The loss, and the prediction (B, N, values of a token).
    """
    target = tokens(state, images)
    batch_size, num_tokens, _ = target.shape
    rows = torch.arange(batch_size)[:, None]
    kept = noise.argsort(dim=1, stable=True)[:, : int(num_tokens * (1 - mask_ratio))]

    visible = layer_norm(state, "norm", encode(state, images, num_heads, kept))
    hidden = state["mask_token"].repeat(batch_size, num_tokens, 1)
    hidden[rows, kept] = linear(state, "decoder_embed", visible)
    hidden = transformer(state, "decoder_blocks", hidden + positions(state, "decoder_"), decoder_num_heads)
    prediction = linear(state, "decoder_pred", layer_norm(state, "decoder_norm", hidden))

    removed = torch.ones(batch_size, num_tokens)
    removed[rows, kept] = 0
    token_error = (prediction - target).pow(2).mean(dim=2)
    groups = (batch_size, state["pos_embed_temporal"].shape[1], -1, target.shape[2])
    spectral_error = (prediction.reshape(groups).sum(dim=1) - target.reshape(groups).sum(dim=1)).pow(2)
    return (token_error * removed).sum() / removed.sum() + spectral_error.mean(), prediction


def segment(state: State, images: torch.Tensor, num_heads: int) -> torch.Tensor:
    """Return the logits (B, classes, H, W) of images (B, C, H, W)."""
    return decode_map(state, fused_features(state, images, num_heads))


def detect_change(state: State, before: torch.Tensor, after: torch.Tensor, num_heads: int) -> torch.Tensor:
    """Return the log-probabilities (B, 2, H, W) of change between two images (B, C, H, W)."""
    difference = fused_features(state, before, num_heads) - fused_features(state, after, num_heads)
    return decode_map(state, difference).log_softmax(dim=1)


def encode(state: State, images: torch.Tensor, num_heads: int, kept: torch.Tensor | None = None) -> torch.Tensor:
    """Return the last layer's output (B, N or K, D) for all tokens, or for those at the indices `kept` (B, K)."""
    weight = state["patch_embed.proj.weight"].flatten(1)
    hidden = tokens(state, images) @ weight.T + state["patch_embed.proj.bias"] + positions(state)
    if kept is not None:
        hidden = hidden[torch.arange(len(hidden))[:, None], kept]
    return transformer(state, "blocks", hidden, num_heads)


def tokens(state: State, images: torch.Tensor) -> torch.Tensor:
    """Cut images (B, C, H, W) into tokens (B, N, bands x rows x columns), the spectral group slowest."""
    _, _, bands, size, _ = state["patch_embed.proj.weight"].shape
    # (B, G, h, w, bands, size, size)
    cubes = images.unfold(1, bands, bands).unfold(2, size, size).unfold(3, size, size)
    return cubes.flatten(4).flatten(1, 3)


def positions(state: State, prefix: str = "") -> torch.Tensor:
    """Return (1, N, D): the embedding of the patch position plus that of the spectral group."""
    spatial, spectral = state[f"{prefix}pos_embed_spatial"], state[f"{prefix}pos_embed_temporal"]
    return spatial.repeat(1, spectral.shape[1], 1) + spectral.repeat_interleave(spatial.shape[1], dim=1)


def transformer(state: State, prefix: str, hidden: torch.Tensor, num_heads: int) -> torch.Tensor:
    layer = 0
    while f"{prefix}.{layer}.norm1.weight" in state:
        name = f"{prefix}.{layer}"
        hidden = hidden + attention(state, f"{name}.attn", layer_norm(state, f"{name}.norm1", hidden), num_heads)
        inner = F.gelu(linear(state, f"{name}.mlp.fc1", layer_norm(state, f"{name}.norm2", hidden)))
        hidden = hidden + linear(state, f"{name}.mlp.fc2", inner)
        layer += 1
    return hidden


def attention(state: State, name: str, hidden: torch.Tensor, num_heads: int) -> torch.Tensor:
    query, key, value = (
        linear(state, f"{name}.{projection}", hidden).unflatten(2, (num_heads, -1)).transpose(1, 2)
        for projection in "qkv"
    )
    weights = (query @ key.transpose(2, 3) / query.shape[-1] ** 0.5).softmax(dim=3)
    return linear(state, f"{name}.proj", (weights @ value).transpose(1, 2).flatten(2))


def fused_features(state: State, images: torch.Tensor, num_heads: int) -> torch.Tensor:
    """Return features (B, D, h, w): a learned weighted sum of the spectral groups of each patch position."""
    height, width = (side // state["patch_embed.proj.weight"].shape[-1] for side in images.shape[2:])
    groups = encode(state, images, num_heads).unflatten(1, (-1, height, width))  # (B, G, h, w, D)
    return linear(state, "fc.0", groups.permute(0, 4, 2, 3, 1)).squeeze(4)


def decode_map(state: State, features: torch.Tensor) -> torch.Tensor:
    """Return logits (B, classes, H, W) of features (B, D, h, w)."""
    fine, middle, coarse, deepest = (branch(state, f"conv{level}", features) for level in range(4))
    x1 = pyramid_pooling(state, deepest)
    x2 = block(state, "decoder.Conv_fuse1_", conv(state, "decoder.conv_x1", double(x1)) + fuse(state, 1, coarse))
    x3 = block(state, "decoder.Conv_fuse2_", double(x2) + fuse(state, 2, middle))
    x4 = block(state, "decoder.Conv_fuse3_", double(x3) + fuse(state, 3, fine))
    maps = [resize(x, x4.shape[2:]) for x in (x1, x2, x3)] + [x4]
    return conv(state, "cls_seg.0", block(state, "decoder.fuse_all", torch.cat(maps, dim=1)), padding=1)


def branch(state: State, name: str, features: torch.Tensor) -> torch.Tensor:
    hidden = F.gelu(group_norm(state, f"{name}.1", conv(state, f"{name}.0", features), 32))
    if f"{name}.3.weight" not in state:
        return hidden
    weight = state[f"{name}.3.weight"]
    return F.conv_transpose2d(hidden, weight, state[f"{name}.3.bias"], stride=weight.shape[-1])


def pyramid_pooling(state: State, features: torch.Tensor) -> torch.Tensor:
    pooled = [
        resize(
            conv(state, f"decoder.PPMHead.psp_modules.{i}.1", F.adaptive_max_pool2d(features, side)), features.shape[2:]
        )
        for i, side in enumerate((1, 2, 3, 6))
    ]
    return block(state, "decoder.PPMHead.final", torch.cat([*pooled, features], dim=1))


def fuse(state: State, step: int, features: torch.Tensor) -> torch.Tensor:
    return block(state, f"decoder.Conv_fuse{step}", features)


def block(state: State, name: str, features: torch.Tensor) -> torch.Tensor:
    return F.gelu(group_norm(state, f"{name}.1", conv(state, f"{name}.0", features), 16))


def conv(state: State, name: str, features: torch.Tensor, padding: int = 0) -> torch.Tensor:
    return F.conv2d(features, state[f"{name}.weight"], state[f"{name}.bias"], padding=padding)


def double(features: torch.Tensor) -> torch.Tensor:
    return resize(features, [2 * side for side in features.shape[2:]])


def resize(features: torch.Tensor, size: torch.Size | list[int]) -> torch.Tensor:
    return F.interpolate(features, size=list(size), mode="bilinear", align_corners=True)


def linear(state: State, name: str, hidden: torch.Tensor) -> torch.Tensor:
    return F.linear(hidden, state[f"{name}.weight"], state[f"{name}.bias"])


def layer_norm(state: State, name: str, hidden: torch.Tensor) -> torch.Tensor:
    return F.layer_norm(hidden, hidden.shape[-1:], state[f"{name}.weight"], state[f"{name}.bias"], eps=1e-6)


def group_norm(state: State, name: str, features: torch.Tensor, num_groups: int) -> torch.Tensor:
    return F.group_norm(features, num_groups, state[f"{name}.weight"], state[f"{name}.bias"])
