"""Print what the statistics term of pretraining asks for, and how much of it the features of a checkpoint hold.

    python benchmarks/statistics_term.py SHARDS EUROSAT [--checkpoint tiny-zscore]

The principal components of the statistics of bands are those of crops of SHARDS, which are varied as in the training of
`tiny-zscore`. A ridge regression predicts them from the pooled features; it is fitted to crops of other images. Printed
are the share of the variance of each component that it explains, on varied and on unvaried crops of further images and
on one part of EuroSAT, and the accuracy of a linear classifier and of ten nearest neighbours on that part, by
cross-validation with folds of random images and of whole blocks: of the components themselves, of the predicted ones,
and of the features.
"""

import argparse
from dataclasses import replace
from itertools import islice
from pathlib import Path

import torch
from sklearn.linear_model import Ridge
from sklearn.metrics import explained_variance_score

from spectralgpt_hf import SpectralGPTConfig, SpectralGPTImageProcessor, SpectralGPTModel
from spectralgpt_hf.assets import find_checkpoint
from spectralgpt_hf.data.shards.stream import ShardStream
from spectralgpt_hf.modeling.bands import EUROSAT_FILE_BANDS
from spectralgpt_hf.training.few_labels import fold_accuracies, read_labelled
from spectralgpt_hf.training.few_labels_report import FOLD_HEADER, fold_cells
from spectralgpt_hf.training.pretraining_terms import StatisticsTerm, view_statistics
from spectralgpt_hf.training.probing import read_out
from spectralgpt_hf.training.stages import PretrainingOptions, view_recipe
from spectralgpt_hf.training.views import ViewRecipe, Views, make_views


BATCH = 64
PENALTY = 10.0  # of the ridge regression


def draw_crops(
    stream: ShardStream, config: SpectralGPTConfig, recipe: ViewRecipe, first: int, batches: int
) -> torch.Tensor:
    """Return a crop of each image of some batches of the first epoch, but for crops with tokens without data."""
    if first + batches > len(stream):
        raise SystemExit(f"expected {(first + batches) * BATCH:,} images or more, found {stream.num_samples:,}")
    kept = []
    for batch in islice(stream.batches(start=first), batches):
        view = make_views(batch, config, 0, 0, torch.device("cpu"), recipe)
        mask = view["attention_mask"]
        kept.append(view["pixel_values"] if mask is None else view["pixel_values"][mask.all(1)])
    return torch.cat(kept)


@torch.no_grad()
def pooled_features(model: SpectralGPTModel, pixels: torch.Tensor) -> torch.Tensor:
    return torch.cat([read_out(model, batch, "pooled") for batch in pixels.split(BATCH)])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("shards", type=Path, help="Output of `spectralgpt prepare`.")
    parser.add_argument("eurosat", type=Path, help="Folder of EuroSAT's class folders and index.csv.")
    parser.add_argument("--checkpoint", default="tiny-zscore", help="Checkpoint of zscore. Default: %(default)s.")
    parser.add_argument("--part", default="choice", help="Part of index.csv. Default: %(default)s.")
    parser.add_argument("--batches", type=int, default=16, help=f"Batches of {BATCH} of a set. Default: %(default)s.")
    parser.add_argument("--repeats", type=int, default=3, help="Repeats of the folds. Default: %(default)s.")
    options = parser.parse_args()

    checkpoint = find_checkpoint(options.checkpoint)
    model = SpectralGPTModel.from_pretrained(checkpoint, dtype=torch.float32).eval()
    processor = SpectralGPTImageProcessor.from_pretrained(checkpoint)
    if processor.normalization != "zscore":
        parser.error(f"{options.checkpoint} has the normalization {processor.normalization!r}, expected 'zscore'")
    config, count = model.config, options.batches
    stream = ShardStream(options.shards, list(config.bands or ()), BATCH)
    unvaried = view_recipe(PretrainingOptions(normalization="zscore", crop_scale=1.0), processor)
    varied = replace(unvaried, symmetries=True, crop_scale=0.5, atmosphere=1.0)
    images = read_labelled(options.eurosat)
    part = images.of(options.part)
    euro = processor.preprocess(list(images.pixels), band_names=EUROSAT_FILE_BANDS)["pixel_values"]

    def statistics(pixels: torch.Tensor) -> torch.Tensor:
        return view_statistics(Views(pixel_values=pixels, noise=torch.empty(0), attention_mask=None), config)

    term = StatisticsTerm(config)
    term.fit(statistics(draw_crops(stream, config, varied, 0, 2 * count)))

    def components(pixels: torch.Tensor) -> torch.Tensor:
        return (statistics(pixels) - term.mean) @ term.axes.T

    fitted = draw_crops(stream, config, varied, 2 * count, count)
    ridge = Ridge(alpha=PENALTY).fit(pooled_features(model, fitted), components(fitted))

    print(f"explained share of the variance of components 1 to {len(term.axes)} (largest first)")
    for name, pixels in (
        ("varied crops", draw_crops(stream, config, varied, 3 * count, count)),
        ("unvaried crops", draw_crops(stream, config, unvaried, 3 * count, count)),
        (f"EuroSAT, {options.part}", euro[part]),
    ):
        predicted = ridge.predict(pooled_features(model, pixels))
        shares = explained_variance_score(components(pixels), predicted, multioutput="raw_values")
        print(f"{name:24}" + " ".join(f"{share:5.2f}" for share in shares), flush=True)

    print(f"\n{int(part.sum())} images of the part {options.part}, {options.repeats} repeats")
    print(f"{'':44}{FOLD_HEADER}")
    pooled, known = pooled_features(model, euro), components(euro)
    for name, values in (
        ("components 1 to 8", known[:, :8]),
        (f"components 1 to {len(term.axes)}", known),
        ("the same, as predicted from the features", torch.from_numpy(ridge.predict(pooled))),
        ("pooled features", pooled),
    ):
        print(f"{name:44}{fold_cells(fold_accuracies(values, images, part, options.repeats))}", flush=True)


if __name__ == "__main__":
    main()
