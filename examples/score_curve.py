"""Score the features of several checkpoints of one pretraining run, and extrapolate the curve.

    python examples/score_curve.py EUROSAT run/step-* --config run/model --images-per-step 32

Pooled features of EuroSAT images of one part are scored by cross-validation, with folds of random images and of whole
blocks, as `spectralgpt evaluate` does. The number of steps is the last number in the name of a checkpoint's folder. The
same network with random weights, other checkpoints and statistics of the digital numbers are scored alongside. A
straight line through the scores over the logarithm of the number of images says what a longer run would give if it
went on in the same way.
"""

import argparse
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from scipy import stats

from spectralgpt_hf import SpectralGPTConfig, SpectralGPTImageProcessor, SpectralGPTModel
from spectralgpt_hf.assets import find_checkpoint
from spectralgpt_hf.training.few_labels import (
    LabelledImages,
    fold_accuracies,
    network_features,
    read_labelled,
)
from spectralgpt_hf.training.few_labels_report import FOLD_HEADER, fold_cells
from spectralgpt_hf.training.probing import pixel_statistics


def of_part(images: LabelledImages, part: str) -> LabelledImages:
    """Return the images of a part alone."""
    kept = images.of(part).nonzero()[:, 0].tolist()
    ids, blocks, parts = ([values[number] for number in kept] for values in (images.ids, images.blocks, images.parts))
    return replace(images, ids=ids, pixels=images.pixels[kept], labels=images.labels[kept], blocks=blocks, parts=parts)


def extrapolate(counts: list[int], scores: np.ndarray, target: float) -> Iterator[tuple[float, float]]:
    """Yield, for each column of scores (N, K), the line's value at `target` images and half its 95 % interval.

    The interval is that of the line. It holds only if the scores were independent, and the line straight.
    """
    x, distance = np.log(counts), np.log(target) - np.log(counts).mean()
    for column in scores.T:
        line = stats.linregress(x, column)
        residual = np.sqrt(((column - line.intercept - line.slope * x) ** 2).sum() / max(1, len(x) - 2))
        error = residual * np.sqrt(1 / len(x) + distance**2 / ((x - x.mean()) ** 2).sum())
        value = line.intercept + line.slope * np.log(target)
        yield float(value), float(error * stats.t.ppf(0.975, max(1, len(x) - 2)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("eurosat", type=Path, help="Folder of EuroSAT's class folders and index.csv.")
    parser.add_argument("checkpoints", type=Path, nargs="+", help="Folders with model.safetensors, in any order.")
    parser.add_argument("--config", help="Checkpoint whose config and processor all have. Default: each one's own.")
    parser.add_argument("--images-per-step", type=int, required=True, help="Images of a step of the run.")
    parser.add_argument("--part", default="choice", help="Part of index.csv. Default: %(default)s.")
    parser.add_argument("--also", nargs="*", default=["tiny-zscore"], help="Other checkpoints. Default: %(default)s.")
    parser.add_argument("--seeds", type=int, default=5, help="Number of untrained networks. Default: %(default)s.")
    parser.add_argument("--repeats", type=int, default=3, help="Repeats of the folds. Default: %(default)s.")
    parser.add_argument("--target", type=float, default=1e6, help="Images to extrapolate to. Default: %(default)s.")
    options = parser.parse_args()

    images = of_part(read_labelled(options.eurosat), options.part)
    steps = {path: int(re.findall(r"\d+", path.name)[-1]) for path in options.checkpoints}
    ordered = sorted(steps, key=steps.__getitem__)
    settings = find_checkpoint(options.config or ordered[0])
    config = SpectralGPTConfig.from_pretrained(settings)
    processor = SpectralGPTImageProcessor.from_pretrained(settings)

    print(f"{len(images.ids)} images of the part {options.part}, pooled features, {options.repeats} repeats")
    print(f"{'':44}{FOLD_HEADER}")

    def report(name: str, scores: np.ndarray, errors: np.ndarray | None = None) -> None:
        print(f"{name:44}{fold_cells(scores, errors)}", flush=True)

    pixels = torch.from_numpy(images.pixels.astype(np.float32))
    report(
        "mean and std of digital numbers", fold_accuracies(pixel_statistics(pixels), images, repeats=options.repeats)
    )
    for name in options.also:
        other = SpectralGPTModel.from_pretrained(find_checkpoint(name), dtype=torch.float32)
        own = SpectralGPTImageProcessor.from_pretrained(find_checkpoint(name))
        features = network_features(other, own, images, "pooled")
        report(name, fold_accuracies(features, images, repeats=options.repeats))
    untrained = []
    for seed in range(options.seeds):
        torch.manual_seed(seed)
        features = network_features(SpectralGPTModel(config), processor, images, "pooled")
        untrained.append(fold_accuracies(features, images, repeats=options.repeats))
    if untrained:
        report(f"untrained, mean ± deviation of {options.seeds} seeds", *(np.mean(untrained, 0), np.std(untrained, 0)))
    curve = []
    for path in ordered:
        model = SpectralGPTModel.from_pretrained(path, config=config, dtype=torch.float32)
        features = network_features(model, processor, images, "pooled")
        curve.append(fold_accuracies(features, images, repeats=options.repeats))
        report(f"{steps[path] * options.images_per_step:,} images", curve[-1])
    if len(curve) > 2:
        counts = [steps[path] * options.images_per_step for path in ordered]
        values = np.array(list(extrapolate(counts, np.array(curve), options.target)))
        report(f"{options.target:,.0f} images, by a line ± 95 % interval", values[:, 0], values[:, 1])


if __name__ == "__main__":
    main()
