"""Compare a pretraining step with the arithmetic that it needs, and with a literal implementation.

    python benchmarks/pretraining_step.py [--presets base] [--batch_size 8] [--dtypes float32 bfloat16]

A step is forward, backward and AdamW. For each dtype the benchmark prints GFLOP/s, the share of this machine's rate of
matrix multiplication (measured between the steps, in the same dtype), and the time relative to the literal step, which
materialises the attention matrix and projects every token before it selects the visible ones. Runs alternate, and
medians are printed, because other work on the machine disturbs single runs.

With `--modes` the same model runs in several modes, on the GPU if there is one. For each preset and mode the benchmark
prints samples/s, the share of the device's stated rate (MFU), and its peak memory:

    python benchmarks/pretraining_step.py --modes eager sdpa compiled --presets base large huge --batch_size 128

All runs use an allocator that keeps freed memory (KEEP_MEMORY): by default glibc returns every large block to the
kernel, and a step then spends up to half of its time on page faults.
"""

import argparse
import os
import statistics
import sys
import time
from collections.abc import Callable

import torch

from spectralgpt_hf import SpectralGPTConfig, SpectralGPTForPreTraining
from spectralgpt_hf.modeling.modeling_spectralgpt import SpectralGPTEmbeddings, patchify, token_grid
from spectralgpt_hf.training.monitoring import attainable_flops, step_flops


KEEP_MEMORY = {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": str(2**40)}


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
) -> Callable[[], None]:
    torch.manual_seed(0)
    model = SpectralGPTForPreTraining(config).train().to(device)
    if mode == "literal":
        model.spectralgpt.embeddings.__class__ = ProjectAllTokens
    if mode in ("literal", "eager"):
        model.set_attn_implementation("eager")
    if mode == "compiled":
        model.compile()
    fused = mode != "literal"  # one pass over the weights instead of a dozen
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, betas=(0.9, 0.95), weight_decay=0.05, fused=fused)
    pixel_values = torch.rand(batch_size, config.num_channels, config.image_size, config.image_size, device=device)

    def step() -> None:
        with torch.autocast(device, dtype, enabled=dtype is not torch.float32):
            loss = model(pixel_values).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        if device == "cuda":
            torch.cuda.synchronize()

    return step


def seconds(run: Callable[[], object]) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--presets", nargs="+", default=["base"])
    parser.add_argument("--modes", nargs="+", choices=("eager", "sdpa", "compiled"))
    parser.add_argument("--image_size", type=int, default=128)
    parser.add_argument("--batch_size", type=int, default=8)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--dtypes", nargs="+", default=["float32", "bfloat16"])
    options = parser.parse_args()

    for preset in options.presets:
        config = SpectralGPTConfig.from_preset(preset, image_size=options.image_size)
        print(
            f"{preset}, {options.image_size} px, batch {options.batch_size}, {torch.get_num_threads()} threads: "
            f"{step_flops(config) / 1e9:.0f} GFLOP per sample and step"
        )
        for name in options.dtypes:
            if options.modes:
                compare_modes(config, options, getattr(torch, name))
            else:
                compare_with_literal(config, options, getattr(torch, name))


def compare_with_literal(config: SpectralGPTConfig, options: argparse.Namespace, dtype: torch.dtype) -> None:
    size = 2048
    left, right = (torch.randn(size, size).to(dtype) for _ in range(2))
    ours, literal = (make_step(config, options.batch_size, dtype, mode) for mode in ("sdpa", "literal"))
    runs = {"matmul": lambda: left @ right, "ours": ours, "literal": literal}
    times: dict[str, list[float]] = {name: [] for name in runs}
    for repeat in range(options.repeats + 1):
        for name, run in runs.items():
            elapsed = seconds(run)
            if repeat:  # the first round warms up
                times[name].append(elapsed)
    median = {name: statistics.median(values) for name, values in times.items()}
    peak = 2 * size**3 / median["matmul"]
    rate = step_flops(config) * options.batch_size / median["ours"]
    ratio = statistics.median(a / b for a, b in zip(times["ours"], times["literal"]))
    print(
        f"{str(dtype).removeprefix('torch.'):>8}: {rate / 1e9:6.0f} GFLOP/s = {rate / peak:.0%} of matrix "
        f"multiplication ({peak / 1e9:.0f} GFLOP/s); {options.batch_size / median['ours']:.2f} samples/s; "
        f"{ratio:.2f} x the time of the literal step"
    )


def compare_modes(config: SpectralGPTConfig, options: argparse.Namespace, dtype: torch.dtype) -> None:
    device = "cuda" if torch.cuda.is_available() else "cpu"
    attainable = attainable_flops(torch.device(device), dtype)
    for mode in options.modes:
        if device == "cuda":
            torch.cuda.reset_peak_memory_stats()
        step = make_step(config, options.batch_size, dtype, mode, device)
        elapsed = statistics.median([seconds(step) for _ in range(options.repeats + 3)][3:])  # three warm up
        rate = options.batch_size / elapsed
        memory = f"{torch.cuda.max_memory_allocated() / 2**30:.1f} GiB" if device == "cuda" else "memory not measured"
        print(
            f"{str(dtype).removeprefix('torch.'):>8} {mode:>8} on {device}: {rate:8.1f} samples/s, "
            f"{rate * step_flops(config) / attainable:.0%} of {attainable / 1e12:.2f} TFLOP/s, {memory}"
        )


if __name__ == "__main__":
    if not KEEP_MEMORY.keys() <= os.environ.keys():
        # The allocator reads these variables only when a process starts.
        os.execve(sys.executable, [sys.executable, *sys.argv], {**os.environ, **KEEP_MEMORY})
    main()
