"""Scores of pretraining on labelled chips: reconstruction, and land use read off frozen features.

A folder holds `L1C/<chip>.tif`, 13 bands in the order of the product, and `LULC/<chip>.tif`, classes with 0 for
unknown, on the same grid. Chips are normalised as a whole and seen in crops of the model's own size: a chip of 224 px
in four of 128 px, which overlap. Nothing is tuned on the scores.

Reconstruction: most tokens of each crop are masked, with several seeds. Errors are of the masked pixels, in
reflectance; all crops and seeds of a chip count together. The simple baselines use only what is visible.

Land use: classifiers predict the most frequent class of tiles of 16 px from frozen features, averaged over the tile and
over the crops that hold it. Each chip is predicted by a classifier trained on the others; only classes count that occur
in two chips or more, and only chips that hold one of them. The same network untrained, with several seeds, shows what
its structure alone gives. Features are also taken of tiles alone, without the rest of the crop, because a tile whose
features mix in its surroundings tells the chip rather than the class.
"""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm.auto import tqdm

from ..data.chip_grid import chip_corners
from ..inference.reconstruction import psnr, reconstruct_image, simple_baselines, spectral_angle
from ..modeling.band_plan import require_same_bands
from ..modeling.bands import L1C_BANDS
from ..modeling.image_processing_spectralgpt import SpectralGPTImageProcessor
from ..modeling.modeling_spectralgpt import SpectralGPTForPreTraining
from ..modeling.rasters import read_raster
from ..training.land_use import (
    common_classes,
    leave_one_place_out,
    majority_labels,
    share_between_places,
    tile_features,
    tile_statistics,
)


TILE_SIZE = 16
ALONE = ", tiles alone"


def score_chips(
    checkpoints: Sequence[str],
    folder: Path,
    *,
    with_offset: Sequence[str] = (),
    seeds: int = 5,
    revision: str = "main",
) -> dict[str, Any]:
    """Score reconstruction and land use on chips, and print tables.

    Args:
        checkpoints: Folders or names on the Hub.
        folder: Of the chips.
        with_offset: Names of the chips that carry an offset of +1000, which nothing in their files says.
        seeds: Number of masks for each crop, and of untrained networks.
        revision: Branch, tag or commit of checkpoints on the Hub.

    Returns:
        `reconstruction`, errors by checkpoint, chip and way; `land_use`, balanced accuracies by classifier and
        features.

    Raises:
        ValueError: If the folder holds fewer than two chips, or a checkpoint and its processor differ in their bands.
    """
    contestants = {}
    scores: dict[str, Any] = {"reconstruction": {}, "land_use": {}}
    for checkpoint in checkpoints:
        model = SpectralGPTForPreTraining.from_pretrained(checkpoint, revision=revision, dtype=torch.float32).eval()
        processor = SpectralGPTImageProcessor.from_pretrained(checkpoint, revision=revision)
        require_same_bands(model.config.bands, processor.bands)
        chips = read_chips(folder, processor, with_offset)
        contestants[checkpoint] = (model, chips)
        progress = tqdm(chips.items(), desc="Reconstruction", disable=None)
        by_chip = {name: score_chip(model, chip, seeds) for name, chip in progress}
        scores["reconstruction"][checkpoint] = by_chip
        report_reconstruction(checkpoint, by_chip, processor.bands)
    crops = len(corners_of(next(iter(chips.values()))["image"], model.config.image_size))
    print(f"\nn: {len(chips)} chips x {crops} crops x {seeds} seeds; {model.config.mask_ratio:.0%} masked")

    for seed in range(seeds):
        torch.manual_seed(seed)
        contestants[f"untrained {seed}"] = (SpectralGPTForPreTraining(model.config).eval(), chips)
    features, labels, places = probe_features(contestants)
    classes = {int(number): int((labels == number).sum()) for number in np.unique(labels)}
    scores["land_use"] = {"tiles": len(labels), "tiles_of_classes": classes}
    for classifier in ("logistic", "neighbours"):
        probes = {"majority": leave_one_place_out(features[next(iter(features))], labels, places, "majority")}
        probes |= {name: leave_one_place_out(values, labels, places, classifier) for name, values in features.items()}
        scores["land_use"][classifier] = {name: asdict(probe) for name, probe in probes.items()}
        columns = list(probes["majority"].places)
        rows = {
            name: [*probe.places.values(), float(np.mean(list(probe.places.values()))), probe.together]
            for name, probe in probes.items()
        }
        for alone in ("", ALONE):
            untrained = np.array([rows.pop(f"untrained {seed}{alone}") for seed in range(seeds)])
            rows[f"untrained{alone}, mean of the seeds"] = untrained.mean(axis=0).tolist()
            rows[f"untrained{alone}, best of each column"] = untrained.max(axis=0).tolist()
        print_table(f"Land use, balanced accuracy, {classifier}", [*columns, "mean", "together"], rows, 3)
        trained = [checkpoint + alone for checkpoint in checkpoints for alone in ("", ALONE)]
        for checkpoint in trained:
            for name in (name for name in rows if name not in trained):
                wins = sum(rows[checkpoint][i] > rows[name][i] for i in range(len(columns)))
                print(f"{checkpoint} above {name}: {wins} of {len(columns)} chips")
    shares = {name: share_between_places(values, places) for name, values in features.items()}
    scores["land_use"]["variance_between_chips"] = shares
    print_table("Share of the features' variance between chips", [""], {name: [x] for name, x in shares.items()}, 3)
    print(f"\nn: {len(labels)} tiles of {TILE_SIZE} px; tiles of each class: {classes}")
    return scores


def read_chips(
    folder: Path, processor: SpectralGPTImageProcessor, with_offset: Sequence[str]
) -> dict[str, dict[str, Any]]:
    """Return, by name, pixels (C, H, W) as reflectance and normalised, what undoes the latter, and labels (H, W)."""
    chips = {}
    for path in sorted((folder / "L1C").glob("*.tif")):
        offset = -1000.0 if path.stem in with_offset else 0.0
        inputs, (report,) = processor.preprocess(str(path), band_names=L1C_BANDS, offset=offset, report=True)
        image = inputs["pixel_values"][0]
        low, scale = (value.numpy()[:, None, None] / 10_000 for value in (report.low, report.scale))
        labels = read_raster(folder / "LULC" / path.name).pixels[0]
        chips[path.stem] = {"image": image, "low": low, "scale": scale, "labels": labels}
    if len(chips) < 2:
        raise ValueError(f"{folder / 'L1C'}: expected at least two chips (*.tif), found {len(chips)}.")
    return chips


def corners_of(image: torch.Tensor, size: int) -> list[tuple[int, int]]:
    """Return where crops begin such that they cover the image, overlapping by less than half."""
    return chip_corners(image.shape[1], image.shape[2], size, size)


def score_chip(model: SpectralGPTForPreTraining, chip: dict[str, Any], seeds: int) -> dict[str, dict[str, Any]]:
    """Return for each way to reconstruct a chip: RMSE of each band and their mean, spectral angle and PSNR."""
    size, low, scale = model.config.image_size, chip["low"], chip["scale"]
    errors: dict[str, list[np.ndarray]] = {}
    others: dict[str, list[tuple[float, float]]] = {}
    counts: list[np.ndarray] = []
    for seed in range(seeds):
        for number, (left, top) in enumerate(corners_of(chip["image"], size)):
            result = reconstruct_image(
                model, chip["image"][:, top : top + size, left : left + size], 1000 * seed + number
            )
            original, masked = result.original, result.masked
            counts.append(masked.sum(axis=(1, 2)))
            for name, answer in ({"model": result.reconstructed} | simple_baselines(original, masked)).items():
                errors.setdefault(name, []).append((np.square((answer - original) * scale) * masked).sum(axis=(1, 2)))
                angle = spectral_angle(original * scale + low, answer * scale + low, masked)
                others.setdefault(name, []).append((psnr(original, answer, masked), angle))
    scores = {}
    for name in errors:
        rmse = np.sqrt(sum(errors[name]) / sum(counts))
        means = np.mean(others[name], axis=0)
        scores[name] = {"rmse": float(rmse.mean()), "rmse_of_bands": rmse.tolist()}
        scores[name] |= {"psnr": float(means[0]), "spectral_angle": float(means[1])}
    return scores


def probe_features(
    contestants: dict[str, tuple[SpectralGPTForPreTraining, dict[str, dict[str, Any]]]],
) -> tuple[dict[str, np.ndarray], np.ndarray, np.ndarray]:
    """Return features (n, D) by name, labels (n,) and chips (n,) of the tiles whose class occurs in several chips.

    Args:
        contestants: By name, a model and the chips as its own processor normalised them.
    """
    _, chips = next(iter(contestants.values()))
    labels = np.concatenate([majority_labels(chip["labels"], tile_size=TILE_SIZE).ravel() for chip in chips.values()])
    tiles_of_a_chip = len(labels) // len(chips)
    places = np.repeat(list(chips), tiles_of_a_chip)
    counted = np.isin(labels, common_classes(labels, places)) & (labels > 0)

    def gather(tiles: list[np.ndarray]) -> np.ndarray:
        return np.concatenate([tile.reshape(-1, tile.shape[-1]) for tile in tiles])[counted]

    reflectance = [chip["image"].numpy() * chip["scale"] + chip["low"] for chip in chips.values()]
    features = {
        "mean and std of reflectance": gather([tile_statistics(pixels, TILE_SIZE) for pixels in reflectance]),
        "mean and std of the model's input": gather(
            [tile_statistics(c["image"].numpy(), TILE_SIZE) for c in chips.values()]
        ),
    }
    for name, (model, own_chips) in contestants.items():
        encoder = model.spectralgpt
        for alone in (False, True):
            progress = tqdm(own_chips.values(), desc=f"Features, {name}", disable=None)
            features[name + ALONE * alone] = gather(
                [
                    tile_features(encoder, image, corners_of(image, encoder.config.image_size), TILE_SIZE, alone)
                    for image in (chip["image"] for chip in progress)
                ]
            )
    return features, labels[counted], places[counted]


def print_table(title: str, columns: list[str], rows: dict[str, list[float]], digits: int) -> None:
    width = max(len(name) for name in rows)
    print(f"\n{title}\n{'':{width}}" + "".join(f"{column[:13]:>14}" for column in columns))
    for name, values in rows.items():
        print(f"{name:{width}}" + "".join(f"{value:14.{digits}f}" for value in values))


def report_reconstruction(checkpoint: str, scores: dict[str, dict[str, dict[str, Any]]], bands: list[str]) -> None:
    """Print errors by chip and by band, and in how many chips the model is better than each other way."""
    chips, ways = list(scores), list(next(iter(scores.values())))
    for key, title, digits in (
        ("rmse", "RMSE in reflectance, mean of the bands", 4),
        ("psnr", "PSNR in dB; the peak is each band's range in the chip", 2),
        ("spectral_angle", "spectral angle in degrees", 2),
    ):
        rows = {way: [scores[chip][way][key] for chip in chips] for way in ways}
        rows = {way: [*values, float(np.mean(values))] for way, values in rows.items()}
        print_table(f"{checkpoint}: {title}", [*chips, "mean"], rows, digits)
    rows = {way: np.mean([scores[chip][way]["rmse_of_bands"] for chip in chips], axis=0).tolist() for way in ways}
    print_table(f"{checkpoint}: RMSE in reflectance by band, mean of the chips", bands, rows, 4)
    for way in ways[1:]:
        wins = sum(scores[chip]["model"]["rmse"] < scores[chip][way]["rmse"] for chip in chips)
        print(f"RMSE below that of the {way}: {wins} of {len(chips)} chips")
