"""Score pretrained checkpoints on labelled chips: reconstruction, and land use predicted from frozen features.

The folder holds `L1C/<chip>.tif`, 13 bands in the order of the product, and `LULC/<chip>.tif`, class numbers on the
same grid, where 0 means unknown. Each chip is normalised as a whole, and cut into overlapping crops of the model's
image size: a chip of 224 px into four crops of 128 px. Nothing is tuned on the scores.

Reconstruction: most tokens of each crop are masked, with several seeds. Errors are those of the masked pixels, in
reflectance, over all crops and seeds of a chip. The simple baselines use only the visible pixels.

Land use: classifiers predict the most frequent class of tiles of 16 px from frozen features, averaged over the tile and
over the crops that contain it. Each chip is predicted by a classifier trained on the other chips. Only classes that
occur in two chips or more count, and only chips that have one of them. The same network untrained, with several seeds,
shows how much its architecture contributes. Features are also computed from single tiles, without the rest of the crop:
with it, the features of a tile describe the chip more than the class.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias, TypedDict

import numpy as np
import torch
from tqdm.auto import tqdm

from ..assets import find_checkpoint
from ..data.chip_grid import chip_corners
from ..inference.reconstruction import psnr, reconstruct_image, simple_baselines, spectral_angle
from ..modeling.band_plan import require_same_bands
from ..modeling.bands import L1C_BANDS
from ..modeling.image_processing_spectralgpt import SpectralGPTImageProcessor
from ..modeling.modeling_spectralgpt import SpectralGPTForPreTraining
from ..modeling.rasters import read_raster
from ..training.land_use import (
    common_classes,
    leave_one_site_out,
    majority_labels,
    share_between_sites,
    tile_features,
    tile_statistics,
)


TILE_SIZE = 16
ALONE = ", tiles alone"


@dataclass(frozen=True, eq=False)
class LabelledChip:
    """A chip as the processor of a checkpoint normalises it.

    Attributes:
        image: (C, H, W), normalised.
        low, scale: (C, 1, 1); reflectance is `image * scale + low`.
        labels: (H, W), class numbers.
    """

    image: torch.Tensor
    low: np.ndarray
    scale: np.ndarray
    labels: np.ndarray


class ReconstructionScores(TypedDict):
    """Errors of the masked pixels of a chip: RMSE in reflectance, PSNR in dB, spectral angle in degrees."""

    rmse: float
    rmse_of_bands: list[float]
    psnr: float
    spectral_angle: float


Chips: TypeAlias = dict[str, LabelledChip]
SCORE_TITLES: tuple[tuple[Literal["rmse", "psnr", "spectral_angle"], str, int], ...] = (
    ("rmse", "RMSE in reflectance, mean of the bands", 4),
    ("psnr", "PSNR in dB; the peak is each band's range in the chip", 2),
    ("spectral_angle", "spectral angle in degrees", 2),
)


def score_chips(
    checkpoints: Sequence[str],
    folder: Path,
    *,
    with_offset: Sequence[str] = (),
    seeds: int = 5,
    revision: str = "main",
) -> dict[str, object]:
    """Score reconstruction and land use on chips, and print tables.

    Args:
        checkpoints: Folders or names on the Hub.
        folder: Folder of the chips.
        with_offset: Names of the chips whose values have an offset of +1000 that their files do not state.
        seeds: Number of masks for each crop, and number of untrained networks.
        revision: Branch, tag or commit of checkpoints on the Hub.

    Returns:
        `reconstruction`, errors by checkpoint, chip and method; `land_use`, balanced accuracies by classifier and
        features.

    Raises:
        ValueError: If the folder holds fewer than two chips, or a checkpoint and its processor differ in their bands.
    """
    contestants = {}
    scores: dict[str, Any] = {"reconstruction": {}, "land_use": {}}
    for checkpoint in checkpoints:
        found = find_checkpoint(checkpoint, revision)
        model = SpectralGPTForPreTraining.from_pretrained(found, revision=revision, dtype=torch.float32).eval()
        processor = SpectralGPTImageProcessor.from_pretrained(found, revision=revision)
        require_same_bands(model.config.bands, processor.bands, (model.config.sensor, processor.sensor))
        chips = read_chips(folder, processor, with_offset)
        contestants[checkpoint] = (model, chips)
        progress = tqdm(chips.items(), desc="Reconstruction", disable=None)
        by_chip = {name: score_chip(model, chip, seeds) for name, chip in progress}
        scores["reconstruction"][checkpoint] = by_chip
        report_reconstruction(checkpoint, by_chip, processor.bands)
    crops = len(corners_of(next(iter(chips.values())).image, model.config.image_size))
    print(f"\nn: {len(chips)} chips x {crops} crops x {seeds} seeds; {model.config.mask_ratio:.0%} masked")

    for seed in range(seeds):
        torch.manual_seed(seed)
        contestants[f"untrained {seed}"] = (SpectralGPTForPreTraining(model.config).eval(), chips)
    features, labels, sites = probe_features(contestants)
    classes = {int(number): int((labels == number).sum()) for number in np.unique(labels)}
    scores["land_use"] = {"tiles": len(labels), "tiles_of_classes": classes}
    for classifier in ("logistic", "neighbours"):
        probes = {"majority": leave_one_site_out(features[next(iter(features))], labels, sites, "majority")}
        probes |= {name: leave_one_site_out(values, labels, sites, classifier) for name, values in features.items()}
        scores["land_use"][classifier] = {name: asdict(probe) for name, probe in probes.items()}
        columns = list(probes["majority"].sites)
        rows = {
            name: [*probe.sites.values(), float(np.mean(list(probe.sites.values()))), probe.together]
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
    shares = {name: share_between_sites(values, sites) for name, values in features.items()}
    scores["land_use"]["variance_between_chips"] = shares
    print_table("Share of the features' variance between chips", [""], {name: [x] for name, x in shares.items()}, 3)
    print(f"\nn: {len(labels)} tiles of {TILE_SIZE} px; tiles of each class: {classes}")
    return scores


def read_chips(folder: Path, processor: SpectralGPTImageProcessor, with_offset: Sequence[str]) -> Chips:
    """Return the chips of a folder by name."""
    chips = {}
    for path in sorted((folder / "L1C").glob("*.tif")):
        offset = -1000.0 if path.stem in with_offset else 0.0
        inputs, (report,) = processor.preprocess(str(path), band_names=L1C_BANDS, offset=offset, report=True)
        image = inputs["pixel_values"][0]
        low, scale = (value.numpy()[:, None, None] / 10_000 for value in (report.low, report.scale))
        labels = read_raster(folder / "LULC" / path.name).pixels[0]
        chips[path.stem] = LabelledChip(image, low, scale, labels)
    if len(chips) < 2:
        raise ValueError(f"{folder / 'L1C'}: expected at least two chips (*.tif), found {len(chips)}.")
    return chips


def corners_of(image: torch.Tensor, size: int) -> list[tuple[int, int]]:
    """Return (left, top) of crops that cover the image and overlap by less than half."""
    return chip_corners(image.shape[1], image.shape[2], size, size)


def score_chip(model: SpectralGPTForPreTraining, chip: LabelledChip, seeds: int) -> dict[str, ReconstructionScores]:
    """Return the errors of a model and of each simple baseline on a chip."""
    size, low, scale = model.config.image_size, chip.low, chip.scale
    errors: dict[str, list[np.ndarray]] = {}
    others: dict[str, list[tuple[float, float]]] = {}
    counts: list[np.ndarray] = []
    for seed in range(seeds):
        for number, (left, top) in enumerate(corners_of(chip.image, size)):
            crop = chip.image[:, top : top + size, left : left + size]
            result = reconstruct_image(model, crop, 1000 * seed + number)
            original, masked = result.original, result.masked
            counts.append(masked.sum(axis=(1, 2)))
            for name, answer in ({"model": result.reconstructed} | simple_baselines(original, masked)).items():
                errors.setdefault(name, []).append((np.square((answer - original) * scale) * masked).sum(axis=(1, 2)))
                angle = spectral_angle(original * scale + low, answer * scale + low, masked)
                others.setdefault(name, []).append((psnr(original, answer, masked), angle))
    scores: dict[str, ReconstructionScores] = {}
    for name in errors:
        rmse = np.sqrt(sum(errors[name]) / sum(counts))
        means = np.mean(others[name], axis=0)
        scores[name] = {
            "rmse": float(rmse.mean()),
            "rmse_of_bands": rmse.tolist(),
            "psnr": float(means[0]),
            "spectral_angle": float(means[1]),
        }
    return scores


def probe_features(
    contestants: dict[str, tuple[SpectralGPTForPreTraining, Chips]],
) -> tuple[dict[str, np.ndarray], np.ndarray, np.ndarray]:
    """Return features (n, D) by name, labels (n,) and chips (n,) of the tiles whose class occurs in several chips.

    Args:
        contestants: A model and the chips as its own processor normalises them, by name.
    """
    _, chips = next(iter(contestants.values()))
    labels = np.concatenate([majority_labels(chip.labels, tile_size=TILE_SIZE).ravel() for chip in chips.values()])
    sites = np.repeat(list(chips), len(labels) // len(chips))
    counted = np.isin(labels, common_classes(labels, sites)) & (labels > 0)

    def gather(tiles: list[np.ndarray]) -> np.ndarray:
        return np.concatenate([tile.reshape(-1, tile.shape[-1]) for tile in tiles])[counted]

    reflectance = [chip.image.numpy() * chip.scale + chip.low for chip in chips.values()]
    features = {
        "mean and std of reflectance": gather([tile_statistics(pixels, TILE_SIZE) for pixels in reflectance]),
        "mean and std of the model's input": gather(
            [tile_statistics(chip.image.numpy(), TILE_SIZE) for chip in chips.values()]
        ),
    }
    for name, (model, own_chips) in contestants.items():
        encoder = model.spectralgpt
        for alone in (False, True):
            progress = tqdm(own_chips.values(), desc=f"Features, {name}", disable=None)
            features[name + ALONE * alone] = gather(
                [
                    tile_features(encoder, image, corners_of(image, encoder.config.image_size), TILE_SIZE, alone)
                    for image in (chip.image for chip in progress)
                ]
            )
    return features, labels[counted], sites[counted]


def print_table(title: str, columns: list[str], rows: dict[str, list[float]], digits: int) -> None:
    """Print rows of numbers with the names of the columns, cut to 13 characters."""
    width = max(len(name) for name in rows)
    print(f"\n{title}\n{'':{width}}" + "".join(f"{column[:13]:>14}" for column in columns))
    for name, values in rows.items():
        print(f"{name:{width}}" + "".join(f"{value:14.{digits}f}" for value in values))


def report_reconstruction(
    checkpoint: str, scores: dict[str, dict[str, ReconstructionScores]], band_names: list[str]
) -> None:
    """Print errors by chip and by band, and the number of chips in which the model is better than each baseline."""
    chips, methods = list(scores), list(next(iter(scores.values())))
    for key, title, digits in SCORE_TITLES:
        rows = {method: [scores[chip][method][key] for chip in chips] for method in methods}
        rows = {method: [*values, float(np.mean(values))] for method, values in rows.items()}
        print_table(f"{checkpoint}: {title}", [*chips, "mean"], rows, digits)
    rows = {
        method: np.mean([scores[chip][method]["rmse_of_bands"] for chip in chips], axis=0).tolist()
        for method in methods
    }
    print_table(f"{checkpoint}: RMSE in reflectance by band, mean of the chips", band_names, rows, 4)
    for method in methods[1:]:
        wins = sum(scores[chip]["model"]["rmse"] < scores[chip][method]["rmse"] for chip in chips)
        print(f"RMSE below that of the {method}: {wins} of {len(chips)} chips")
