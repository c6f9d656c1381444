"""Show what the statistics term of pretraining asks for, and how much of it the features of a checkpoint tell.

    python benchmarks/statistics_term.py SHARDS EUROSAT [--checkpoint tiny-zscore]

The principal components of the statistics of bands are those of crops of SHARDS, which are varied as in training. A
ridge regression of the pooled features is fitted to other such crops. Printed are the share of the variance of each
component that it explains, on crops of a third draw, on whole images of SHARDS and on one part of EuroSAT, and the
accuracy of a linear classifier and of ten nearest neighbours on that part, by cross-validation with folds of random
images and of whole blocks: on the components themselves, on what the regression makes of the features, and on the
features.
"""

import argparse
from dataclasses import replace
from itertools import islice
from pathlib import Path

import torch

from spectralgpt_hf import SpectralGPTConfig, SpectralGPTImageProcessor, SpectralGPTModel
from spectralgpt_hf.assets import find_checkpoint
from spectralgpt_hf.data.shards.stream import ShardStream
from spectralgpt_hf.modeling.bands import EUROSAT_FILE_BANDS
from spectralgpt_hf.training.few_labels import FOLD_HEADER, fold_accuracies, read_labelled
from spectralgpt_hf.training.pretraining_terms import StatisticsTerm, view_statistics
from spectralgpt_hf.training.stages import PretrainingOptions, view_recipe
from spectralgpt_hf.training.views import ViewRecipe, Views, make_views


BATCH = 64
PENALTY = 10.0  # of the ridge regression


def draw_views(stream: ShardStream, config: SpectralGPTConfig, recipe: ViewRecipe, seed: int, count: int) -> Views:
    """Return `count` crops of images with data everywhere, by one seed."""
    batches = islice(stream.endless(), 2 * count // BATCH)
    views = [make_views(batch, config, seed, epoch, torch.device("cpu"), recipe) for epoch, batch in batches]
    pixels = torch.cat([view["pixel_values"] for view in views])
    masks = [view["attention_mask"] for view in views]
    whole = torch.cat([torch.ones(BATCH, dtype=torch.bool) if mask is None else mask.all(1) for mask in masks])
    return Views(pixel_values=pixels[whole][:count], noise=torch.empty(0), attention_mask=None)


@torch.no_grad()
def pooled_features(model: SpectralGPTModel, pixels: torch.Tensor) -> torch.Tensor:
    return torch.cat([model(batch).pooler_output for batch in pixels.split(BATCH)])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("shards", type=Path, help="Output of `spectralgpt prepare`.")
    parser.add_argument("eurosat", type=Path, help="Folder of EuroSAT's class folders and index.csv.")
    parser.add_argument("--checkpoint", default="tiny-zscore", help="Checkpoint. Default: %(default)s.")
    parser.add_argument("--part", default="choice", help="Part of index.csv. Default: %(default)s.")
    parser.add_argument("--count", type=int, default=1024, help="Crops of each draw. Default: %(default)s.")
    parser.add_argument("--repeats", type=int, default=3, help="Repeats of the folds. Default: %(default)s.")
    options = parser.parse_args()

    checkpoint = find_checkpoint(options.checkpoint)
    model = SpectralGPTModel.from_pretrained(checkpoint, dtype=torch.float32).eval()
    processor = SpectralGPTImageProcessor.from_pretrained(checkpoint)
    config = model.config
    stream = ShardStream(options.shards, list(config.bands or ()), BATCH)
    whole = view_recipe(PretrainingOptions(normalization="zscore", crop_scale=1.0), processor)
    varied = replace(whole, symmetries=True, crop_scale=0.5, atmosphere=1.0)
    images = read_labelled(options.eurosat)
    part = images.of(options.part)
    euro = processor.preprocess(list(images.pixels), band_names=EUROSAT_FILE_BANDS)["pixel_values"]

    term = StatisticsTerm(config)
    term.fit(view_statistics(draw_views(stream, config, varied, 0, 2 * options.count), config))

    def components(pixels: torch.Tensor) -> torch.Tensor:
        views = Views(pixel_values=pixels, noise=torch.empty(0), attention_mask=None)
        return (view_statistics(views, config) - term.mean) @ term.axes.T

    fitted = draw_views(stream, config, varied, 1, options.count)["pixel_values"]
    features, targets = pooled_features(model, fitted), components(fitted)
    center, level = features.mean(0), targets.mean(0)
    gram = (features - center).T @ (features - center) + PENALTY * torch.eye(features.shape[1])
    weight = torch.linalg.solve(gram, (features - center).T @ (targets - level))

    print(f"explained share of the variance of components 1 to {len(term.axes)} (largest first)")
    for name, pixels in (
        ("varied crops", draw_views(stream, config, varied, 2, options.count)["pixel_values"]),
        ("whole images", draw_views(stream, config, whole, 2, options.count)["pixel_values"]),
        (f"EuroSAT, {options.part}", euro[part]),
    ):
        truth = components(pixels)
        errors = (pooled_features(model, pixels) - center) @ weight + level - truth
        shares = 1 - errors.var(0) / truth.var(0)
        print(f"{name:24}" + " ".join(f"{share:5.2f}" for share in shares), flush=True)

    print(f"\n{int(part.sum())} images of the part {options.part}, {options.repeats} repeats")
    print(f"{'':44}{FOLD_HEADER}")
    pooled = pooled_features(model, euro)
    for name, values in (
        (f"components 1 to {len(term.axes)}", components(euro)),
        ("the same, as the features tell them", (pooled - center) @ weight),
        ("pooled features", pooled),
    ):
        scores = fold_accuracies(values, images, part, options.repeats)
        print(f"{name:44}" + "".join(f"{score:>20.3f}" for score in scores), flush=True)


if __name__ == "__main__":
    main()
