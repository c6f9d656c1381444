"""How fast a pretraining step is, against the arithmetic it needs and against the literal way to write it.

    python benchmarks/pretraining_step.py [--preset base] [--batch_size 8] [--dtypes float32 bfloat16]

A step is forward, backward and AdamW. Printed for each dtype: GFLOP/s, the share of this machine's
matrix-multiplication rate (measured between the steps, in the same dtype), and the time relative to the same step with
materialised attention and with every token projected before the visible ones are chosen. Runs alternate and medians are
taken, since machines are noisy.

Both ways run with an allocator that keeps freed memory (see KEEP_MEMORY): glibc's default hands every large block back
to the kernel, and a step then spends up to half of its time on page faults.
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


KEEP_MEMORY = {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": str(2**40)}


class ProjectAllTokens(SpectralGPTEmbeddings):
    """The literal order: project every token, add positions, then choose."""

    def forward(
        self,
        pixel_values: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        ids_keep: torch.Tensor | None = None,
    ) -> torch.Tensor:
        patches = patchify(pixel_values, self.config).to(self.patch_embeddings.weight.dtype)
        tokens = self.patch_embeddings(patches) + self.position_embeddings(*token_grid(pixel_values, self.config))
        return tokens if ids_keep is None else tokens.gather(1, ids_keep[..., None].expand(-1, -1, tokens.shape[-1]))


def step_flops(config: SpectralGPTConfig) -> float:
    """Return the floating-point operations of one sample: matrix products only, backward twice the forward."""
    tokens = config.num_channels // config.spectral_patch_size * (config.image_size // config.patch_size) ** 2
    visible = int(tokens * (1 - config.mask_ratio))
    values = config.spectral_patch_size * config.patch_size**2

    def layers(count: int, width: int, mlp: int, length: int) -> float:
        return count * (2 * length * (4 * width**2 + 2 * width * mlp) + 4 * length**2 * width)

    decoder = config.decoder_config()
    forward = layers(config.num_hidden_layers, config.hidden_size, config.intermediate_size, visible)
    forward += layers(decoder.num_hidden_layers, decoder.hidden_size, decoder.intermediate_size, tokens)
    forward += 2 * visible * (values + decoder.hidden_size) * config.hidden_size  # into and out of the encoder
    forward += 2 * tokens * decoder.hidden_size * values  # the prediction
    return 3 * forward


def make_step(config: SpectralGPTConfig, batch_size: int, dtype: torch.dtype, literal: bool) -> Callable[[], None]:
    torch.manual_seed(0)
    model = SpectralGPTForPreTraining(config).train()
    if literal:
        model.spectralgpt.embeddings.__class__ = ProjectAllTokens
        model.set_attn_implementation("eager")
    # Fused: one pass over the weights instead of a dozen.
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, betas=(0.9, 0.95), weight_decay=0.05, fused=not literal)
    pixel_values = torch.rand(batch_size, config.num_channels, config.image_size, config.image_size)

    def step() -> None:
        with torch.autocast("cpu", dtype, enabled=dtype is not torch.float32):
            loss = model(pixel_values).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


def seconds(run: Callable[[], object]) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", default="base")
    parser.add_argument("--image_size", type=int, default=128)
    parser.add_argument("--batch_size", type=int, default=8)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--dtypes", nargs="+", default=["float32", "bfloat16"])
    options = parser.parse_args()

    config = SpectralGPTConfig.from_preset(options.preset, image_size=options.image_size)
    flops = step_flops(config)
    print(
        f"{options.preset}, {options.image_size} px, batch {options.batch_size}, {torch.get_num_threads()} threads: "
        f"{flops / 1e9:.0f} GFLOP a sample and step"
    )
    for dtype in (getattr(torch, name) for name in options.dtypes):
        size = 2048
        left, right = (torch.randn(size, size).to(dtype) for _ in range(2))
        ours, literal = (make_step(config, options.batch_size, dtype, literal) for literal in (False, True))
        runs = {"matmul": lambda: left @ right, "ours": ours, "literal": literal}  # noqa: B023
        times: dict[str, list[float]] = {name: [] for name in runs}
        for repeat in range(options.repeats + 1):
            for name, run in runs.items():
                elapsed = seconds(run)
                if repeat:  # the first round warms up
                    times[name].append(elapsed)
        median = {name: statistics.median(values) for name, values in times.items()}
        peak = 2 * size**3 / median["matmul"]
        rate = flops * options.batch_size / median["ours"]
        ratio = statistics.median(a / b for a, b in zip(times["ours"], times["literal"]))
        print(
            f"{str(dtype).removeprefix('torch.'):>8}: {rate / 1e9:6.0f} GFLOP/s = {rate / peak:.0%} of matrix "
            f"multiplication ({peak / 1e9:.0f} GFLOP/s); {options.batch_size / median['ours']:.2f} samples/s; "
            f"{ratio:.2f} x the time of the literal step"
        )


if __name__ == "__main__":
    if not KEEP_MEMORY.keys() <= os.environ.keys():
        os.execve(sys.executable, [sys.executable, *sys.argv], {**os.environ, **KEEP_MEMORY})  # read at start only
    main()
