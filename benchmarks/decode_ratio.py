"""Measure what quality a GFLOP of pretraining buys if only a share of the patch positions is decoded (`decode_ratio`).

    python benchmarks/decode_ratio.py PATCHES [--tflop 20] [--seeds 0 1 2] [--eurosat FOLDER]

PATCHES holds GeoTIFFs of 12 bands of Level-2A in the usual order, all of one size. The tiny size is trained from random
weights with each ratio, with the same batches and masks, until it has used the same number of floating-point operations
(counted for a step of each ratio). The benchmark prints, as mean and range over the seeds, the steps and the processor
time that it took, and the reconstruction error of a tenth of the patches, which was held out: every position is decoded
there, whatever the ratio. With `--eurosat` it also prints the accuracy of a linear classifier of the frozen encoder;
FOLDER holds one folder of images per class and `index.csv`, whose parts "choice" and "report" serve for training and
test.
"""

import argparse
import csv
import math
import time
from pathlib import Path

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode

from spectralgpt_hf import SpectralGPTConfig, SpectralGPTForPreTraining, SpectralGPTImageProcessor
from spectralgpt_hf.modeling.bands import EUROSAT_FILE_BANDS, L2A_BANDS
from spectralgpt_hf.training.probing import LinearProbe


WEIGHT_DECAY = 1e-2  # of the linear classifier


def step_flop(config: SpectralGPTConfig, batch_size: int) -> int:
    """Return the floating-point operations of a step, counted without computing it."""
    with torch.device("meta"):
        model = SpectralGPTForPreTraining(config).train()
        model.set_attn_implementation("eager")  # whose products the counter knows on every device
        images = torch.empty(batch_size, config.num_channels, config.image_size, config.image_size)
        with FlopCounterMode(display=False) as counter:
            model(images).loss.backward()
    return counter.get_total_flops()


def train(
    config: SpectralGPTConfig, images: torch.Tensor, steps: int, options: argparse.Namespace, seed: int
) -> SpectralGPTForPreTraining:
    """Return a model that is trained for a number of steps on images (N, C, H, W)."""
    torch.manual_seed(seed)
    model = SpectralGPTForPreTraining(config).train()
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=options.learning_rate, betas=(0.9, 0.95), weight_decay=0.05, fused=True
    )
    draw = torch.Generator().manual_seed(seed)
    tokens = config.num_groups * (config.image_size // config.patch_size) ** 2
    for step in range(steps):
        share = (step + 1) / steps
        for group in optimizer.param_groups:  # warm-up, then a cosine to zero
            group["lr"] = options.learning_rate * min(10 * share, 0.5 + 0.5 * math.cos(math.pi * share))
        batch = images[torch.randint(len(images), (options.batch_size,), generator=draw)]
        noise = torch.rand(options.batch_size, tokens, generator=draw)
        model(batch, noise=noise).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    return model.eval()


@torch.no_grad()
def held_out_loss(model: SpectralGPTForPreTraining, images: torch.Tensor) -> float:
    """Return the error of masked tokens of images (N, C, H, W), always with the same masks."""
    draw = torch.Generator().manual_seed(0)
    config = model.config
    noise = torch.rand(len(images), config.num_groups * (config.image_size // config.patch_size) ** 2, generator=draw)
    losses = [model(part, noise=each).token_loss for part, each in zip(images.split(32), noise.split(32))]
    sizes = torch.tensor([len(part) for part in images.split(32)])
    return float((torch.stack(losses) * sizes).sum() / sizes.sum())


class EuroSAT:
    """Images of EuroSAT in two parts, with their classes."""

    def __init__(self, folder: Path, processor: SpectralGPTImageProcessor) -> None:
        with open(folder / "index.csv", newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
        self.names = sorted({row["class"] for row in rows})
        self.parts = {}
        for part in ("choice", "report"):
            chosen = [row for row in rows if row["part"] == part]
            paths = [str(folder / row["file"]) for row in chosen]
            pixel_values = processor(paths, band_names=EUROSAT_FILE_BANDS).pixel_values
            self.parts[part] = pixel_values, torch.tensor([self.names.index(row["class"]) for row in chosen])

    @torch.no_grad()
    def accuracy(self, model: SpectralGPTForPreTraining) -> float:
        """Return the accuracy of a linear classifier of the frozen encoder's pooled features."""
        features = {
            part: torch.cat([model.spectralgpt(images).pooler_output for images in pixel_values.split(32)])
            for part, (pixel_values, _) in self.parts.items()
        }
        labels = {part: labels for part, (_, labels) in self.parts.items()}
        with torch.enable_grad():
            probe = LinearProbe(features["choice"], labels["choice"], len(self.names), WEIGHT_DECAY)
        return float((probe(features["report"]).argmax(1) == labels["report"]).float().mean())


def text(values: list[float]) -> str:
    return f"{np.mean(values):.4f} ({min(values):.4f}-{max(values):.4f})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("patches", type=Path)
    parser.add_argument("--tflop", type=float, default=20.0, help="Budget of each run, in 1e12 operations.")
    parser.add_argument("--ratios", type=float, nargs="+", default=[1.0, 0.5, 0.25])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--batch_size", type=int, default=16)
    parser.add_argument("--learning_rate", type=float, default=1e-3)
    parser.add_argument("--eurosat", type=Path)
    options = parser.parse_args()
    processor = SpectralGPTImageProcessor()
    paths = sorted(options.patches.rglob("*.tif"))
    images = processor(list(map(str, paths)), band_names=L2A_BANDS).pixel_values
    held_out, images = images[::10], images[torch.arange(len(images)) % 10 != 0]
    eurosat = EuroSAT(options.eurosat, processor) if options.eurosat else None
    print(
        f"{len(images)} patches of {images.shape[-1]} px, {len(held_out)} held out; {options.tflop:g} TFLOP per run, "
        f"{torch.get_num_threads()} threads",
        flush=True,
    )
    for ratio in options.ratios:
        config = SpectralGPTConfig.from_preset("tiny", image_size=images.shape[-1], decode_ratio=ratio)
        steps = int(options.tflop * 1e12 / step_flop(config, options.batch_size))
        losses, accuracies, seconds = [], [], []
        for seed in options.seeds:
            start = time.process_time()
            model = train(config, images, steps, options, seed)
            seconds.append(time.process_time() - start)
            losses.append(held_out_loss(model, held_out))
            accuracies += [eurosat.accuracy(model)] if eurosat else []
        accuracy = f"; accuracy on EuroSAT {text(accuracies)}" if accuracies else ""
        print(
            f"decode_ratio {ratio:g}: {steps} steps, {np.mean(seconds):.0f} s of processor time; held-out error "
            f"{text(losses)}{accuracy}",
            flush=True,
        )


if __name__ == "__main__":
    main()
