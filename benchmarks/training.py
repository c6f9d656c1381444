"""Rows of training: pretraining steps and the dense head."""

import copy
from collections.abc import Callable
from contextlib import nullcontext
from functools import partial

import numpy as np
import torch
from torch import distributed, nn
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
from torch.nn.attention import SDPBackend, sdpa_kernel

from spectralgpt_hf import SpectralGPTConfig, SpectralGPTForPreTraining, SpectralGPTForSemanticSegmentation
from spectralgpt_hf.commands.pretrain import loss_of_noise
from spectralgpt_hf.data.shards.format import ShardRow, write_shards
from spectralgpt_hf.data.shards.stream import ShardStream
from spectralgpt_hf.modeling.bands import L2A_BANDS
from spectralgpt_hf.modeling.modeling_spectralgpt import (
    SpectralGPTConcatConv,
    SpectralGPTDecodeHead,
    SpectralGPTEmbeddings,
    SpectralGPTEnlargement,
    SpectralGPTLayer,
    patchify,
    resize,
    token_grid,
)
from spectralgpt_hf.training.attention import fastest_attention
from spectralgpt_hf.training.monitoring import attainable_flops, step_flops
from spectralgpt_hf.training.views import make_views

from .measuring import (
    NotMeasurableError,
    Part,
    Products,
    Setting,
    Work,
    bytes_part,
    check_dtype,
    name_of,
    product_parts,
    square_rate,
)


class ProjectAllTokens(SpectralGPTEmbeddings):
    """The literal order: project every token, add positions, then select the visible tokens."""

    def forward(
        self,
        pixel_values: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        ids_keep: torch.Tensor | None = None,
    ) -> torch.Tensor:
        patches = patchify(pixel_values, self.config).to(self.patch_embeddings.weight.dtype)
        tokens = self.patch_embeddings(patches) + self.position_embeddings(*token_grid(pixel_values, self.config))
        return tokens if ids_keep is None else tokens.gather(1, ids_keep[..., None].expand(-1, -1, tokens.shape[-1]))


def make_step(
    config: SpectralGPTConfig, batch_size: int, dtype: torch.dtype, mode: str, device: str = "cpu"
) -> Callable[..., None]:
    """Return a step: forward, backward and AdamW, on its own images or on those that it is called with.

    The mode is "literal"; "eager" or "sdpa" attention; "flash", which lets torch use no other kernel than that of flash
    attention; "compiled"; or "sharded" (FSDP2), where one process holds all shards of the weights and the optimizer.
    """
    torch.manual_seed(0)
    # The configuration holds the kind of attention, so each model has its own.
    model = SpectralGPTForPreTraining(copy.deepcopy(config)).train().to(device)
    if mode == "literal":
        model.spectralgpt.embeddings.__class__ = ProjectAllTokens
    if mode in ("literal", "eager"):
        model.set_attn_implementation("eager")
    if mode == "compiled":
        model.compile()
    if mode == "sharded":
        shard(model, dtype)
    fused = mode != "literal"  # one pass over the weights instead of a dozen
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, betas=(0.9, 0.95), weight_decay=0.05, fused=fused)
    tokens = config.num_groups * (config.image_size // config.patch_size) ** 2
    own = {
        "pixel_values": torch.rand(batch_size, config.num_channels, *[config.image_size] * 2, device=device),
        "noise": torch.rand(batch_size, tokens, device=device),
    }

    def step(**inputs: torch.Tensor | None) -> None:
        kernels = sdpa_kernel(SDPBackend.FLASH_ATTENTION) if mode == "flash" else nullcontext()
        with kernels, torch.autocast(device, dtype, enabled=dtype is not torch.float32):
            loss = model(**(inputs or own)).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


def shard(model: SpectralGPTForPreTraining, dtype: torch.dtype) -> None:
    """Shard a model in one process, layer by layer, with the types that `training/run.py` lets Accelerate use."""
    if not distributed.is_initialized():
        distributed.init_process_group(store=distributed.HashStore(), rank=0, world_size=1)
    policy = MixedPrecisionPolicy(dtype, dtype, dtype, cast_forward_inputs=False)
    for module in model.modules():
        if isinstance(module, SpectralGPTLayer):
            fully_shard(module, mp_policy=policy)
    fully_shard(model, mp_policy=policy)


def pretraining_step(preset: str, dtype: torch.dtype, setting: Setting) -> Work:
    """A pretraining step on the CPU, whose limit are its matrix products, each in its own shape."""
    check_dtype(dtype)
    image_size, batch_size, aim = (128, 2, "92 %") if preset == "base" else (64, 16, "60 %")
    if dtype != torch.float32 and preset == "base":
        aim = "80 %"
    config = SpectralGPTConfig.from_preset(preset, image_size=image_size)
    if setting.quick:
        batch_size = 1
        config.num_hidden_layers = config.decoder_num_hidden_layers = 1
    tried = SpectralGPTForPreTraining(copy.deepcopy(config))
    attention = fastest_attention(tried, partial(loss_of_noise, tried), batch_size, dtype, torch.device("cpu"))
    ours, literal = (make_step(config, batch_size, dtype, mode) for mode in (attention, "literal"))
    with Products() as products:
        ours()
    return Work(
        f"pretraining step, {preset}, {image_size} px, batch {batch_size}, {name_of(dtype)}",
        ours,
        product_parts(products.found),
        literal,
        {"GFLOP": products.flop / 1e9, "samples": batch_size},
        aim,
        notes=f"{attention} attention",
    )


def gpu_step(preset: str, mode: str, setting: Setting) -> Work:
    """A pretraining step in bfloat16 on a GPU, whose limit is the rate on the card's data sheet."""
    if not torch.cuda.is_available():
        raise NotMeasurableError("there is no GPU")
    config = SpectralGPTConfig.from_preset(preset, image_size=128)
    batch_size = 8 if setting.quick else {"base": 128, "large": 64, "huge": 32}[preset]
    if mode == "flash" and torch.cuda.get_device_capability() < (8, 0):
        raise NotMeasurableError("flash attention needs a newer GPU")
    ours = make_step(config, batch_size, torch.bfloat16, mode, "cuda")
    ours()  # after which the optimizer has its moments
    torch.cuda.reset_peak_memory_stats()
    ours()
    memory = torch.cuda.max_memory_allocated() / 2**30
    literal = make_step(config, batch_size, torch.bfloat16, "literal", "cuda")
    size = 8192
    left, right = (torch.randn(size, size, device="cuda", dtype=torch.bfloat16) for _ in range(2))
    stated = attainable_flops(torch.device("cuda"), torch.bfloat16)
    # The stated rate as a share of a product that is measured beside the step.
    speed = square_rate(torch.bfloat16, "cuda", size) / stated
    flop = step_flops(config) * batch_size
    return Work(
        f"pretraining step, {preset}, 128 px, batch {batch_size}, bfloat16, {mode}",
        ours,
        [Part(lambda: left @ right, speed * flop / (2 * size**3))],
        literal,
        {"TFLOP": flop / 1e12, "samples": batch_size},
        "50 %" if preset == "base" else "",
        notes=f"{memory:.1f} GiB of {torch.cuda.get_device_name()}; limit: {stated / 1e12:.0f} TFLOP/s",
    )


def fed_step(preset: str, device: str, setting: Setting) -> Work:
    """Pretraining steps whose images come from shards. The limit is that of the same steps on images in memory."""
    if device == "cuda" and not torch.cuda.is_available():
        raise NotMeasurableError("there is no GPU")
    image_size, batch_size, count = (128, 128, 1024) if device == "cuda" else (64, 16, 128)
    dtype = torch.bfloat16 if device == "cuda" else torch.float32
    config = SpectralGPTConfig.from_preset(preset, image_size=image_size)
    if setting.quick:
        batch_size, count = 2, 4
        config.num_hidden_layers = config.decoder_num_hidden_layers = 1
    draw = np.random.default_rng(0)
    shape = (len(L2A_BANDS), 3 * image_size // 2, 3 * image_size // 2)
    images = (draw.integers(1, 10_000, shape, dtype=np.uint16) for _ in range(count))
    write_shards((ShardRow(str(i), image, L2A_BANDS) for i, image in enumerate(images)), setting.folder / "shards")
    stream = ShardStream(setting.folder / "shards", L2A_BANDS, batch_size, num_workers=2, pin_memory=device == "cuda")
    step = make_step(config, batch_size, dtype, "sdpa", device)

    def fed() -> None:
        for batch in stream.batches():
            step(**make_views(batch, config, 0, 0, torch.device(device)))

    return Work(
        f"{len(stream)} pretraining steps, {preset}, {image_size} px, batch {batch_size}, {name_of(dtype)}, {device}, "
        "fed from shards; limit: the steps alone",
        fed,
        [Part(step, len(stream))],
        amounts={"samples": len(stream) * batch_size},
    )


class LiteralConcatConv(SpectralGPTConcatConv):
    """Enlarges every feature map to full resolution and concatenates before the convolution."""

    def forward(self, feature_maps: list[torch.Tensor]) -> torch.Tensor:  # type: ignore[override]
        size = feature_maps[-1].shape[-2:]
        resized = [resize(feature_map, size) for feature_map in feature_maps[:-1]]
        return nn.Conv2d.forward(self, torch.cat([*resized, feature_maps[-1]], dim=1))


class LiteralDecodeHead(SpectralGPTDecodeHead):
    """Enlarges feature maps before their projections."""

    def forward(self, features: torch.Tensor, pixels: torch.Tensor | None = None) -> torch.Tensor:
        *levels, deepest = [branch(features) for branch in self.branches]
        pools = [
            projection(nn.functional.adaptive_max_pool2d(deepest, size))
            for projection, size in zip(self.pool_projections, self.pool_sizes)
        ]
        x1 = self.pool_fusion([*pools, deepest])
        top = self.top_projection(resize(x1, levels[2].shape[-2:])) + self.laterals[0](levels[2])
        x2 = self.merges[0](top)
        x3 = self.merges[1](resize(x2, levels[1].shape[-2:]) + self.laterals[1](levels[1]))
        x4 = self.merges[2](resize(x3, levels[0].shape[-2:]) + self.laterals[2](levels[0]))
        return self.classifier(self.level_fusion([x1, x2, x3, x4]))


LITERAL: dict[type, type] = {
    SpectralGPTDecodeHead: LiteralDecodeHead,
    SpectralGPTConcatConv: LiteralConcatConv,
    SpectralGPTEnlargement: nn.ConvTranspose2d,
}


def literal_copy(head: SpectralGPTDecodeHead) -> nn.Module:
    """Return the literal decoder with the same weights."""
    literal = copy.deepcopy(head)
    for module in literal.modules():
        module.__class__ = LITERAL.get(type(module), type(module))
        if isinstance(module, nn.Dropout):
            module.inplace = False
    return literal


def dense_head(preset: str, setting: Setting) -> Work:
    """The segmentation head, whose limit are its products and the bytes that its modules read and write."""
    torch.manual_seed(0)
    config = SpectralGPTConfig.from_preset(preset, image_size=128, num_labels=13, num_hidden_layers=1)
    if setting.quick:
        config.decode_hidden_size = 32
    batch_size = 1 if setting.quick else 2
    ours = SpectralGPTForSemanticSegmentation(config).decode_head
    literal = literal_copy(ours)
    side = 128 // config.patch_size
    tokens = torch.randn(batch_size, side * side, config.hidden_size)
    # The strides are those of the features that the model passes to its head.
    features = tokens.transpose(1, 2).unflatten(2, (side, side)).requires_grad_()
    with torch.no_grad():
        logits, expected = (head.eval()(features) for head in (ours, literal))
    difference = ((logits - expected).abs().max() / expected.abs().max()).item()

    def step(head: nn.Module) -> None:
        head.train()(features).square().mean().backward()

    with Products() as products:
        step(ours)
    return Work(
        f"segmentation head, {preset}, 128 px, batch {batch_size}, forward and backward",
        partial(step, ours),
        [*product_parts(products.found), bytes_part(moved_bytes(ours, features))],
        partial(step, literal),
        {"GFLOP": products.flop / 1e9},
        notes=f"largest relative difference to the literal head {difference:.0e}",
    )


def moved_bytes(head: nn.Module, features: torch.Tensor) -> float:
    """Return the bytes that the modules read and write in the forward pass and, twice as many, in the backward pass."""
    count = 0

    def add(module: nn.Module, inputs: tuple, output: torch.Tensor) -> None:
        nonlocal count
        tensors = [tensor for value in inputs for tensor in (value if isinstance(value, list) else [value])]
        count += 3 * sum(tensor.nbytes for tensor in [*tensors, output])

    leaves = [module for module in head.modules() if not list(module.children())]
    handles = [module.register_forward_hook(add) for module in leaves]
    with torch.no_grad():
        head(features)
    for handle in handles:
        handle.remove()
    return count


ROWS: dict[str, Callable[[Setting], Work]] = {
    **{
        f"step-{preset}-{name_of(dtype)}": partial(pretraining_step, preset, dtype)
        for preset in ("base", "tiny")
        for dtype in (torch.float32, torch.bfloat16)
    },
    "head-base": partial(dense_head, "base"),
    **{
        f"gpu-{preset}-{mode}": partial(gpu_step, preset, mode)
        for preset in ("base", "large", "huge")
        for mode in ("eager", "sdpa", "flash", "compiled", "sharded")
    },
    "fed-tiny-cpu": partial(fed_step, "tiny", "cpu"),
    "fed-base-gpu": partial(fed_step, "base", "cuda"),
}
