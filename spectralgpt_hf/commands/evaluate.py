"""What pretraining has taught checkpoints: reconstruction, a land-use probe, and EuroSAT with few labels.

    python examples/evaluate_pretraining.py --data chips/ --checkpoints before/ after/ --output scores.json
    python examples/evaluate_pretraining.py --eurosat EuroSAT/ --checkpoints before/ after/ --output scores.json

EuroSAT (`--eurosat`, an ancestor of its class folders): simple classifiers on frozen features, against the same network
untrained, statistics of the pixels and their principal components. `index.csv` beside the class folders may say which
part each image belongs to. Features are chosen by cross-validation on `--train_part`; `--test_part` is scored with
classifiers trained on the former, with intervals, paired differences, few-shot curves and, with `--finetune_seeds`,
few-shot fine-tuning of all weights.

Chips (`--data`): a folder with `L1C/<chip>.tif`, 13 bands in the order of the product, and `LULC/<chip>.tif`, classes
with 0 for unknown, on the same grid. Chips are normalised as a whole and seen in crops of the model's own size: a chip
of 224 px in four of 128 px, which overlap. Nothing is tuned on the scores.

Reconstruction: most tokens of each crop are masked, with several seeds. Errors are of the masked pixels, in
reflectance; all crops and seeds of a chip count together. The other ways use only what is visible.

Land use: classifiers read the most frequent class of tiles of 16 px off frozen features, averaged over the tile and
over the crops that hold it. Each chip is predicted by a classifier trained on the others; only classes count that occur
in two chips or more, and only chips that hold one of them. The same network untrained, with several seeds, shows what
its structure alone gives. Features are also taken of tiles alone, without the rest of the crop: what a tile takes over
from its surroundings tells the chip rather than the class.
"""

import argparse
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm.auto import tqdm

from .. import (
    SpectralGPTForImageClassification,
    SpectralGPTForPreTraining,
    SpectralGPTImageProcessor,
    SpectralGPTModel,
)
from ..data.chip_grid import chip_corners
from ..data.readers.eurosat import EUROSAT_CLASSES
from ..files import write_json
from ..inference.reconstruction import (
    psnr,
    reconstruct_image,
    simple_baselines,
    spectral_angle,
)
from ..modeling.band_plan import require_same_bands
from ..modeling.bands import EUROSAT_FILE_BANDS, L1C_BANDS
from ..modeling.rasters import read_raster
from ..training.few_labels import (
    LabelledImages,
    baseline_features,
    compare,
    network_features,
    read_labelled,
    score_features,
)
from ..training.few_labels_report import contest_table, draw_contest
from ..training.few_shot import FewShotRecipe, finetune_few_shot
from ..training.land_use import (
    common_classes,
    leave_one_place_out,
    majority_labels,
    share_between_places,
    tile_features,
    tile_statistics,
)
from ..training.probing import READ_OUTS, draw_shots


TILE_SIZE = 16
ALONE = ", tiles alone"


def read_chips(folder: Path, processor: SpectralGPTImageProcessor, with_offset: list[str]) -> dict[str, dict[str, Any]]:
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


def evaluate_chips(options: argparse.Namespace) -> dict[str, Any]:
    """Score reconstruction and land use on chips, and print tables."""
    contestants = {}
    scores: dict[str, Any] = {"reconstruction": {}, "land_use": {}}
    for checkpoint in options.checkpoints:
        model = SpectralGPTForPreTraining.from_pretrained(checkpoint, dtype=torch.float32).eval()
        processor = SpectralGPTImageProcessor.from_pretrained(checkpoint)
        require_same_bands(model.config.bands, processor.bands)
        chips = read_chips(options.data, processor, options.with_offset)
        contestants[checkpoint] = (model, chips)
        progress = tqdm(chips.items(), desc="Reconstruction", disable=None)
        by_chip = {name: score_chip(model, chip, options.seeds) for name, chip in progress}
        scores["reconstruction"][checkpoint] = by_chip
        report_reconstruction(checkpoint, by_chip, processor.bands)
    crops = len(corners_of(next(iter(chips.values()))["image"], model.config.image_size))
    print(f"\nn: {len(chips)} chips x {crops} crops x {options.seeds} seeds; {model.config.mask_ratio:.0%} masked")

    for seed in range(options.seeds):
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
            untrained = np.array([rows.pop(f"untrained {seed}{alone}") for seed in range(options.seeds)])
            rows[f"untrained{alone}, mean of the seeds"] = untrained.mean(axis=0).tolist()
            rows[f"untrained{alone}, best of each column"] = untrained.max(axis=0).tolist()
        print_table(f"Land use, balanced accuracy, {classifier}", [*columns, "mean", "together"], rows, 3)
        trained = [checkpoint + alone for checkpoint in options.checkpoints for alone in ("", ALONE)]
        for checkpoint in trained:
            for name in (name for name in rows if name not in trained):
                wins = sum(rows[checkpoint][i] > rows[name][i] for i in range(len(columns)))
                print(f"{checkpoint} above {name}: {wins} of {len(columns)} chips")
    shares = {name: share_between_places(values, places) for name, values in features.items()}
    scores["land_use"]["variance_between_chips"] = shares
    print_table("Share of the features' variance between chips", [""], {name: [x] for name, x in shares.items()}, 3)
    print(f"\nn: {len(labels)} tiles of {TILE_SIZE} px; tiles of each class: {classes}")
    return scores


def evaluate_eurosat(options: argparse.Namespace) -> dict[str, Any]:
    """Score checkpoints, untrained networks and statistics with few labels on EuroSAT, and print tables."""
    images = read_labelled(options.eurosat)
    train = images.of(options.train_part)
    test = None if options.test_part is None else images.of(options.test_part)
    features: dict[str, torch.Tensor] = {}
    untrained: dict[str, list[torch.Tensor]] = {}
    for checkpoint in options.checkpoints:
        model = SpectralGPTModel.from_pretrained(checkpoint, dtype=torch.float32)
        processor = SpectralGPTImageProcessor.from_pretrained(checkpoint)
        for name in options.read_out:
            features[f"{checkpoint}, {name}"] = network_features(model, processor, images, name)
        for seed in range(options.seeds):
            torch.manual_seed(seed)
            model = SpectralGPTModel(model.config)
            untrained.setdefault(checkpoint, []).append(network_features(model, processor, images, options.read_out[0]))
        features |= {
            f"{name} of {checkpoint}" if "input" in name else name: values
            for name, values in baseline_features(processor, images, train).items()
        }
    contestants = {name: score_features(values, images, train, test) for name, values in features.items()}
    seeds = {c: [score_features(values, images, train, test) for values in of] for c, of in untrained.items()}
    for checkpoint, results in seeds.items():
        contestants[f"{checkpoint} untrained, median of the seeds"] = sorted(
            results, key=lambda result: result["folds"]["spatial"]["linear"]
        )[len(results) // 2]
    scores: dict[str, Any] = {"train_part": options.train_part, "test_part": options.test_part}
    scores |= {"contestants": contestants, "differences": {}}
    if test is not None:
        for checkpoint in options.checkpoints:
            first = f"{checkpoint}, {options.read_out[0]}"
            others = {name: [contestants[name]] for name in contestants if name != first and "untrained" not in name}
            others["untrained, mean of the seeds"] = seeds[checkpoint]
            scores["differences"][first] = {name: compare(contestants[first], of) for name, of in others.items()}
        if options.finetune_seeds:
            scores["fine_tuning"] = finetune_checkpoints(options, images, train, test)
    print(contest_table(scores))
    if test is not None and options.output:
        options.output.parent.mkdir(parents=True, exist_ok=True)
        draw_contest(scores, options.output.with_suffix(".png"))
    return scores


def finetune_checkpoints(
    options: argparse.Namespace, images: LabelledImages, train: torch.Tensor, test: torch.Tensor
) -> dict[str, dict[str, Any]]:
    """Return accuracies of few-shot fine-tuning, from each checkpoint and from random weights, by shots."""
    results: dict[str, dict[str, Any]] = {}
    for checkpoint in options.checkpoints:
        processor = SpectralGPTImageProcessor.from_pretrained(checkpoint)
        inputs = processor.preprocess(list(images.pixels), band_names=EUROSAT_FILE_BANDS)["pixel_values"]
        for trained in (True, False):
            curve = results.setdefault(checkpoint if trained else f"random weights like {checkpoint}", {})
            for shots in (1, 2, 5, 10):
                accuracies = []
                for seed in tqdm(range(options.finetune_seeds), desc=f"Fine-tuning, {shots} per class", disable=None):
                    torch.manual_seed(seed)
                    model: Any = SpectralGPTForImageClassification.from_pretrained(
                        checkpoint, dtype=torch.float32, num_labels=len(EUROSAT_CLASSES)
                    )
                    if not trained:
                        torch.manual_seed(seed)
                        model = SpectralGPTForImageClassification(model.config)
                    chosen = train.nonzero()[:, 0][draw_shots(images.labels[train], shots, seed)]
                    recipe = FewShotRecipe(steps=options.finetune_steps)
                    finetune_few_shot(model, inputs[chosen], images.labels[chosen], recipe, seed)
                    with torch.no_grad():
                        logits = torch.cat([model(part).logits for part in inputs[test].split(32)])
                    accuracies.append((logits.argmax(1) == images.labels[test]).float().mean().item())
                curve[str(shots)] = {"mean": float(np.mean(accuracies)), "std": float(np.std(accuracies))}
                curve[str(shots)]["runs"] = accuracies
    return results


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="folder of labelled chips")
    parser.add_argument("--eurosat", type=Path, help="an ancestor of EuroSAT's class folders")
    parser.add_argument(
        "--train_part", default="all", help="part of EuroSAT to train on and to choose by (default: all)"
    )
    parser.add_argument("--test_part", help="part of EuroSAT to be scored, once everything is chosen (default: none)")
    parser.add_argument(
        "--read_out", nargs="+", default=["pooled"], help=f"features: {', '.join(READ_OUTS)}, 'layer 3', ..."
    )
    parser.add_argument("--finetune_seeds", type=int, default=0, help="runs of few-shot fine-tuning (default: none)")
    parser.add_argument(
        "--finetune_steps", type=int, default=FewShotRecipe.steps, help="of each (default: %(default)s)"
    )
    parser.add_argument("--checkpoints", nargs="+", required=True, help="folders or Hub ids")
    parser.add_argument(
        "--with_offset",
        nargs="*",
        default=["282D_485L_3_3", "433D_629L_3_1", "609U_541L_3_0"],
        help="chips that carry an offset of +1000, which nothing in the files says",
    )
    parser.add_argument("--seeds", type=int, default=5, help="of the masks, and of untrained networks")
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()

    if options.data is None and options.eurosat is None:
        parser.error("expected --data, --eurosat or both")
    scores: dict[str, Any] = {"seeds": options.seeds}
    if options.eurosat is not None:
        scores["eurosat"] = evaluate_eurosat(options)
    if options.data is not None:
        scores |= evaluate_chips(options)
    if options.output:
        write_json(options.output, scores)
