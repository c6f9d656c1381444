"""Rows of inference: embeddings and maps of chips, against the literal encoder, and with `torch.compile`."""

import copy
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import torch

from spectralgpt_hf import SpectralGPTConfig, SpectralGPTForSemanticSegmentation, SpectralGPTModel
from spectralgpt_hf.inference.threads import ordered_map, restored_threads

from .measuring import Products, Setting, Work, check_dtype, name_of, product_parts


def chips(task: str, preset: str, dtype: torch.dtype, setting: Setting) -> Work:
    """Chips through a model as `embed_scene` and `predict_scene` compute them: one chip per core.

    The literal way materialises the attention matrix, and computes one chip at a time on all cores.
    """
    check_dtype(dtype)
    image_size, number = 128, 1 if setting.quick else {"tiny": 16, "base": 4}[preset]
    config = SpectralGPTConfig.from_preset(preset, image_size=image_size, num_labels=13)
    if setting.quick:
        config.num_hidden_layers = 1
    cls = SpectralGPTModel if task == "embed" else SpectralGPTForSemanticSegmentation
    torch.manual_seed(0)
    model = cls(config).eval().to(dtype)
    literal_model = cls(copy.deepcopy(config)).eval().to(dtype)  # which holds the kind of attention
    literal_model.load_state_dict(model.state_dict())
    literal_model.set_attn_implementation("eager")
    images = torch.rand(number, 1, config.num_channels, image_size, image_size, dtype=dtype)
    key = "pooler_output" if task == "embed" else "logits"

    @torch.inference_mode()
    def forward(net: torch.nn.Module, image: torch.Tensor) -> torch.Tensor:
        return getattr(net(image), key)

    def ours() -> list[torch.Tensor]:
        with restored_threads() as cores:
            return list(ordered_map(partial(forward, model), images, cores, 2 * cores))

    def literal() -> list[torch.Tensor]:
        return [forward(literal_model, image) for image in images]

    found, expected = torch.cat(ours()).float(), torch.cat(literal()).float()
    difference = ((found - expected).abs().max() / expected.abs().max()).item()
    with torch.no_grad(), Products() as products:  # in inference mode, composite operations show no products
        model(images[0])
    return Work(
        f"{'embedding' if task == 'embed' else 'segmentation'} of {number} chips of {image_size} px, {preset}, "
        f"{name_of(dtype)}",
        ours,
        product_parts({product: count * number for product, count in products.found.items()}),
        literal,
        {"chips": number, "Mpx": number * image_size**2 / 1e6, "GFLOP": products.flop * number / 1e9},
        notes=f"largest relative difference to the literal way {difference:.0e}",
    )


def compiled(preset: str, setting: Setting) -> Work:
    """Embedding with `torch.compile`, against the same model without it. Compiling itself is not counted."""
    image_size, number = 128, 1 if setting.quick else 16
    torch.manual_seed(0)
    model = SpectralGPTModel(SpectralGPTConfig.from_preset(preset, image_size=image_size)).eval()
    fast = torch.compile(model)
    images = torch.rand(number, 1, model.config.num_channels, image_size, image_size)

    @torch.inference_mode()
    def embed(net: Callable[[torch.Tensor], Any]) -> torch.Tensor:
        return torch.cat([net(image).pooler_output for image in images])

    start = time.perf_counter()
    found = embed(fast)
    seconds, expected = time.perf_counter() - start, embed(model)
    difference = ((found - expected).abs().max() / expected.abs().max()).item()
    with torch.no_grad(), Products() as products:
        model(images[0])
    return Work(
        f"embedding of {number} chips of {image_size} px, {preset}, compiled; literal: not compiled",
        partial(embed, fast),
        product_parts({product: count * number for product, count in products.found.items()}),
        partial(embed, model),
        {"chips": number},
        notes=f"{seconds:.0f} s of the first run, which compiles; largest relative difference {difference:.0e}",
    )


ROWS: dict[str, Callable[[Setting], Work]] = {
    "embed-tiny-compiled": partial(compiled, "tiny"),
    **{
        f"{task}-{preset}-{name_of(dtype)}": partial(chips, task, preset, dtype)
        for task in ("embed", "map")
        for preset in ("tiny", "base")
        for dtype in (torch.float32, torch.bfloat16)
    },
}
