"""Compare the segmentation head with a literal implementation of the same decoder.

    python benchmarks/dense_head.py [--preset base] [--batch_size 2] [--device cpu] [--dtype float32]

The literal decoder uses plain transposed convolutions, and resizes feature maps to full resolution and concatenates
them before the convolution. Both have the same weights and dropout. The benchmark prints the time of forward and
backward relative to the literal decoder (median over alternating rounds), the largest difference of the logits relative
to the largest logit, and a lower bound for the time of our head: the arithmetic of its convolutions at this machine's
rate of matrix multiplication, and the bytes that its modules read and write at its rate of copying.
"""

import argparse
import copy
import statistics
import time
from collections.abc import Callable

import torch
from torch import nn

from spectralgpt_hf import SpectralGPTConfig
from spectralgpt_hf.modeling.modeling_spectralgpt import (
    SpectralGPTConcatConv,
    SpectralGPTDecodeHead,
    SpectralGPTEnlargement,
    SpectralGPTForSemanticSegmentation,
    resize,
)


class LiteralConcatConv(SpectralGPTConcatConv):
    def forward(self, feature_maps: list[torch.Tensor]) -> torch.Tensor:  # type: ignore[override]
        size = feature_maps[-1].shape[-2:]
        resized = [resize(feature_map, size) for feature_map in feature_maps[:-1]]
        return nn.Conv2d.forward(self, torch.cat([*resized, feature_maps[-1]], dim=1))


class LiteralDecodeHead(SpectralGPTDecodeHead):
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
    literal = copy.deepcopy(head)
    for module in literal.modules():
        module.__class__ = LITERAL.get(type(module), type(module))
        if isinstance(module, nn.Dropout):
            module.inplace = False
    return literal


def work(head: nn.Module, features: torch.Tensor) -> tuple[float, float]:
    """Return FLOPs and bytes of forward and backward. The backward pass needs twice those of the forward pass."""
    flops = byte_count = 0.0

    def count(module: nn.Module, inputs: tuple, output: torch.Tensor) -> None:
        nonlocal flops, byte_count
        tensors = [tensor for value in inputs for tensor in (value if isinstance(value, list) else [value])]
        byte_count += 3 * sum(tensor.nbytes for tensor in [*tensors, output])
        if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
            positions = [tensor[0, 0].numel() for tensor in tensors]
            widths = [tensor.shape[1] for tensor in tensors]
            pairs = sum(count * width for count, width in zip(positions, widths))
            per_input = (
                module.weight[0].numel()
                if isinstance(module, nn.ConvTranspose2d)
                else (module.out_channels * module.kernel_size[0] ** 2)
            )
            flops += 3 * 2 * len(output) * pairs * per_input

    leaves = [module for module in head.modules() if not list(module.children())]
    handles = [module.register_forward_hook(count) for module in leaves]
    with torch.no_grad():
        head(features)
    for handle in handles:
        handle.remove()
    return flops, byte_count


def seconds(run: Callable[[], object], device: str) -> float:
    start = time.perf_counter()
    run()
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", default="base")
    parser.add_argument("--image_size", type=int, default=128)
    parser.add_argument("--num_labels", type=int, default=13)
    parser.add_argument("--batch_size", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", default="float32", help="Type of automatic mixed precision.")
    options = parser.parse_args()
    dtype = getattr(torch, options.dtype)

    torch.manual_seed(0)
    config = SpectralGPTConfig.from_preset(
        options.preset, image_size=options.image_size, num_labels=options.num_labels, num_hidden_layers=1
    )
    ours = SpectralGPTForSemanticSegmentation(config).decode_head.to(options.device)
    heads = {"ours": ours, "literal": literal_copy(ours)}
    side = options.image_size // config.patch_size
    tokens = torch.randn(options.batch_size, side * side, config.hidden_size, device=options.device)
    # The strides are those of the features that the model passes to its head.
    features = tokens.transpose(1, 2).unflatten(2, (side, side)).requires_grad_()

    with torch.no_grad():
        logits, expected = (head.eval()(features) for head in heads.values())
    difference = ((logits - expected).abs().max() / expected.abs().max()).item()

    def step(head: nn.Module) -> None:
        with torch.autocast(options.device, dtype, enabled=dtype is not torch.float32):
            logits = head(features)
        logits.float().square().mean().backward()

    left, right = (torch.randn(2048, 2048, device=options.device, dtype=dtype) for _ in range(2))
    source, target = (torch.zeros(2**26, device=options.device, dtype=dtype) for _ in range(2))
    runs: dict[str, Callable[[], object]] = {
        "ours": lambda: step(heads["ours"].train()),
        "literal": lambda: step(heads["literal"].train()),
        "matmul": lambda: left @ right,
        "copy": lambda: target.copy_(source),
    }
    times: dict[str, list[float]] = {name: [] for name in runs}
    for repeat in range(options.repeats + 1):
        for name, run in runs.items():
            elapsed = seconds(run, options.device)
            if repeat:  # the first round warms up
                times[name].append(elapsed)
    median = {name: statistics.median(values) for name, values in times.items()}
    ratio = statistics.median(first / second for first, second in zip(times["ours"], times["literal"]))
    print(
        f"{options.preset}, {options.image_size} px, batch {options.batch_size}, {options.device}, {options.dtype}, "
        f"{torch.get_num_threads()} threads: {ratio:.2f} x the literal decoder's time "
        f"({median['ours']:.3g} s against {median['literal']:.3g} s); largest relative difference {difference:.1e}"
    )
    flop_rate, byte_rate = 2 * 2048**3 / median["matmul"], 2 * source.nbytes / median["copy"]
    flops, byte_count = work(heads["ours"], features)
    print(
        f"lower bound of ours: {flops / 1e9:.0f} GFLOP = {flops / flop_rate:.2f} s at {flop_rate / 1e9:.0f} GFLOP/s; "
        f"{byte_count / 1e9:.1f} GB = {byte_count / byte_rate:.2f} s at {byte_rate / 1e9:.0f} GB/s"
    )


if __name__ == "__main__":
    main()
