"""Score the defaults of `spectralgpt train` on small data, compared with a forest, a regression and the majority class.

    python benchmarks/first_hour.py chips CHIPS --work outputs/first_hour
    python benchmarks/first_hour.py eurosat EUROSAT --work outputs/first_hour --seeds 0 1 2
    python benchmarks/first_hour.py beetle BARKBEETLE --work outputs/first_hour --images 30
    python benchmarks/first_hour.py change BARKBEETLE --work outputs/first_hour --images 20 --seeds 0 1
    python benchmarks/first_hour.py pretrain BARKBEETLE --work outputs/first_hour --images 40 --seeds 0 1

Options after `--` are passed to `spectralgpt train`, such as `-- --checkpoint folder --epochs 5`. The command line is
called as a user would call it. If it stops because files seem to have an unstated offset, the table that it proposes is
copied, as its message recommends.

chips: `L1C/*.tif` (13 unnamed bands) and `LULC/*.tif` of the same names. Each chip in turn is held out, mapped with
`spectralgpt predict`, and compared with its labels. A chip whose classes occur in no other chip is not in the table,
because no model can learn them. eurosat: class folders and `index.csv`. The training set is 10 images per class of its
part "choice", and its part "report" is scored. beetle: `2020-09/sentinel_2/geojson_<id>.tif` and
`masks/{train,test}/mask_<id>.tif`. The score is the IoU of damage in the test part. change: the same sites with
`2019-09/sentinel_2/geojson_<id>.tif` as the first date. The scores are F1 and IoU of damage in the test part, also of
change vector analysis: the length of the difference of the standardised bands, above the best threshold of the training
sites. pretrain: the second date again, without labels. The scores are errors of the masked pixels of crops of the test
sites, beside those of `tiny-zscore`, from which training goes on by default, and of simple baselines.

The forest and the regression get the reflectance of each pixel (chips, beetle), of both dates and its difference
(change), or the mean, deviation and percentiles of each band (eurosat), of the same training images. The benchmark
prints a line per fold or seed, and the means.
"""

import argparse
import csv
import json
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from sklearn.dummy import DummyClassifier
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import jaccard_score, precision_recall_curve
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from spectralgpt_hf import SpectralGPTForPreTraining, SpectralGPTImageProcessor
from spectralgpt_hf.assets import find_checkpoint
from spectralgpt_hf.inference.reconstruction import reconstruct_image, simple_baselines, spectral_angle
from spectralgpt_hf.modeling.bands import EUROSAT_FILE_BANDS, L2A_BANDS
from spectralgpt_hf.modeling.rasters import read_raster


SHOTS = 10
CROP, MASK_RATIO, MASKS = 64, 0.9, 5  # size, share of masked tokens, and masks of each crop that `pretrain` scores
PIXELS = 20_000  # of all training images together, that the forest and the regression see
OFFSET_STOP = "look as if their digital numbers carried an offset"


def spectralgpt(*arguments: object) -> str:
    """Run the command line in a process of its own; return what it printed, or raise with its errors."""
    command = [sys.executable, "-c", "from spectralgpt_cli import app; app()", *map(str, arguments)]
    process = subprocess.run(command, capture_output=True, text=True)
    if process.returncode:
        raise RuntimeError(process.stderr.strip())
    return process.stdout


def train(task: str, data: Path, output: Path, options: Sequence[str]) -> float:
    """Train with defaults; return the minutes that it took."""
    shutil.rmtree(output, ignore_errors=True)
    start = time.monotonic()
    try:
        spectralgpt("train", task, data, "--output", output, *options)
    except RuntimeError as error:
        if OFFSET_STOP not in str(error):
            raise
        shutil.copy(output / "table.csv", data / "table.csv")
        spectralgpt("train", task, data, "--output", output, *options)
    return (time.monotonic() - start) / 60


def link(source: Path, target: Path) -> None:
    """Make a file appear in a folder of training data."""
    target.parent.mkdir(parents=True, exist_ok=True)
    target.unlink(missing_ok=True)
    target.symlink_to(source.resolve())


def simple_models(features: np.ndarray, labels: np.ndarray, seed: int) -> dict[str, Any]:
    """Fit the two simple classifiers, and the majority, to at most `PIXELS` rows (N, F) with labels (N,)."""
    chosen = np.random.default_rng(seed).permutation(len(labels))[:PIXELS]
    features, labels = features[chosen], labels[chosen]
    forest = RandomForestClassifier(200, min_samples_leaf=3, random_state=seed).fit(features, labels)
    regression = make_pipeline(StandardScaler(), LogisticRegression(max_iter=500)).fit(features, labels)
    return {
        "forest": forest.predict,
        "regression": regression.predict,
        "majority": DummyClassifier(strategy="most_frequent").fit(features, labels).predict,
    }


def mean_iou(truth: np.ndarray, found: np.ndarray) -> float:
    """Return the mean IoU of the classes that the truth holds."""
    return float(jaccard_score(truth, found, labels=np.unique(truth), average="macro"))


def chips(options: argparse.Namespace) -> dict[str, list[tuple[float, ...]]]:
    """Leave one chip out at a time; scores are overall accuracy and mean IoU."""
    files = {path.stem: path for path in sorted((options.data / "L1C").glob("*.tif"))}
    maps = {name: read_raster(options.data / "LULC" / f"{name}.tif").pixels[0] for name in files}
    pixels = {name: read_pixels(path) for name, path in files.items()}
    scores: dict[str, list[tuple[float, ...]]] = {}
    for held_out in files:
        others = [name for name in files if name != held_out]
        if not set(np.unique(maps[held_out])) & set(np.unique(np.stack([maps[name] for name in others]))):
            print(f"{held_out}: no other chip holds its classes")
            continue
        data, output = options.work / "chips" / held_out, options.work / "chips" / f"{held_out}_run"
        for name in files:
            split = "test" if name == held_out else "train"
            link(files[name], data / split / "images" / f"{name}.tif")
            link(options.data / "LULC" / f"{name}.tif", data / split / "masks" / f"{name}.tif")
        minutes = train("segment", data, output, options.rest)
        offset = ["--offset", "-1000"] if raised(data, held_out) else []
        result = output / "map.tif"
        spectralgpt("predict", output / "model", files[held_out], result, "--overwrite", *offset)
        found = {"model": read_raster(result).pixels[0].ravel()}
        table = {name: pixels[name] - (1000 if raised(data, name) else 0) for name in files}
        features = np.concatenate([table[name] for name in others])
        labels = np.concatenate([maps[name].ravel() for name in others])
        for kind, predict in simple_models(features, labels, options.seeds[0]).items():
            found[kind] = predict(table[held_out])
        truth = maps[held_out].ravel()
        row = {kind: (float(np.mean(truth == values)), mean_iou(truth, values)) for kind, values in found.items()}
        report(f"{held_out} ({minutes:.1f} min)", row, scores)
    return scores


def eurosat(options: argparse.Namespace) -> dict[str, list[tuple[float, ...]]]:
    """Learn from a few images per class of one part; the score is the accuracy on the other part."""
    with open(options.data / "index.csv", newline="", encoding="utf-8") as file:
        part = {row["file"]: row["part"] for row in csv.DictReader(file)}
    images = sorted(options.data.glob("*/*.tif"))
    part_of = {path: part.get(path.name) or part[f"{path.parent.name}/{path.name}"] for path in images}
    statistics = {path: band_statistics(path) for path in images}
    scores: dict[str, list[tuple[float, ...]]] = {}
    for seed in options.seeds:
        random = np.random.default_rng(seed)
        chosen: list[Path] = []
        for name in sorted({path.parent.name for path in images}):
            candidates = [path for path in images if path.parent.name == name and part_of[path] == "choice"]
            chosen += [candidates[i] for i in random.permutation(len(candidates))[:SHOTS]]
        test = [path for path in images if part_of[path] == "report"]
        data, output = options.work / "eurosat" / str(seed), options.work / "eurosat" / f"{seed}_run"
        shutil.rmtree(data, ignore_errors=True)
        for split, paths in (("train", chosen), ("test", test)):
            for path in paths:
                link(path, data / split / path.parent.name / path.name)
        bands = ["--band-names", ",".join(EUROSAT_FILE_BANDS)]
        minutes = train("classify", data, output, [*bands, "--seed", str(seed), *options.rest])
        metrics = json.loads((output / "model" / "metrics.json").read_text())
        row = {"model": (metrics["test"]["scores"]["accuracy"],)}
        labels = np.array([path.parent.name for path in chosen])
        models = simple_models(np.stack([statistics[path] for path in chosen]), labels, seed)
        truth = np.array([path.parent.name for path in test])
        for kind, predict in models.items():
            row[kind] = (float(np.mean(predict(np.stack([statistics[path] for path in test])) == truth)),)
        report(f"seed {seed} ({minutes:.1f} min)", row, scores)
    return scores


class Site(NamedTuple):
    """Files of a site of bark beetles: a name for copies, the map of damage, and the images of both dates."""

    name: str
    mask: Path
    before: Path
    after: Path


def sites_of(options: argparse.Namespace, split: str, seed: int) -> list[Site]:
    """Return the sites of a split in random order; of the training split as many as the options say."""
    masks = sorted((options.data / "masks" / split).glob("mask_*.tif"))
    count = options.images if split == "train" else len(masks)
    sites = []
    for number in np.random.default_rng(seed).permutation(len(masks))[:count]:
        name = masks[number].name.removeprefix("mask_")
        dates = [options.data / date / "sentinel_2" / f"geojson_{name}" for date in ("2019-09", "2020-09")]
        sites.append(Site(name, masks[number], *dates))
    return sites


def beetle(options: argparse.Namespace) -> dict[str, list[tuple[float, ...]]]:
    """Learn bark-beetle damage from some sites; the score is its IoU on the test sites."""
    scores: dict[str, list[tuple[float, ...]]] = {}
    for seed in options.seeds:
        data, output = options.work / "beetle" / str(seed), options.work / "beetle" / f"{seed}_run"
        shutil.rmtree(data, ignore_errors=True)
        pairs: dict[str, list[tuple[Path, Path]]] = {}
        for split in ("train", "test"):
            for site in sites_of(options, split, seed):
                link(site.after, data / split / "images" / site.name)
                link(site.mask, data / split / "masks" / site.name)
                pairs.setdefault(split, []).append((site.after, site.mask))
        classes = ["--classes", "0=none,1=damage"]
        minutes = train("segment", data, output, [*classes, "--seed", str(seed), *options.rest])
        metrics = json.loads((output / "model" / "metrics.json").read_text())
        matrix = np.array(metrics["test"]["confusion_matrix"])
        row = {"model": (float(matrix[1, 1] / (matrix[1].sum() + matrix[:, 1].sum() - matrix[1, 1])),)}
        rows = {split: [read_labelled(*pair) for pair in found] for split, found in pairs.items()}
        features, labels = (np.concatenate(values) for values in zip(*rows["train"]))
        truth = np.concatenate([values for _, values in rows["test"]])
        tested = np.concatenate([values for values, _ in rows["test"]])
        for kind, predict in simple_models(features, labels, seed).items():
            found = predict(tested)
            row[kind] = (float(jaccard_score(truth, found)),)
        report(f"seed {seed} ({minutes:.1f} min)", row, scores)
    return scores


def change(options: argparse.Namespace) -> dict[str, list[tuple[float, ...]]]:
    """Learn from some pairs of dates where bark beetles killed trees; scores are F1 and IoU on the test sites."""
    scores: dict[str, list[tuple[float, ...]]] = {}
    for seed in options.seeds:
        data, output = options.work / "change" / str(seed), options.work / "change" / f"{seed}_run"
        shutil.rmtree(data, ignore_errors=True)
        rows: dict[str, list[tuple[np.ndarray, np.ndarray]]] = {}
        for split in ("train", "test"):
            for site in sites_of(options, split, seed):
                for kind, path in {"before": site.before, "after": site.after, "masks": site.mask}.items():
                    link(path, data / split / kind / site.name)
                rows.setdefault(split, []).append(read_pair(site.before, site.after, site.mask))
        minutes = train("change", data, output, ["--seed", str(seed), *options.rest])
        metrics = json.loads((output / "model" / "metrics.json").read_text())
        matrix = np.array(metrics["test"]["confusion_matrix"])
        row = {"model": overlap(matrix[1, 1], matrix[1].sum(), matrix[:, 1].sum())}
        features, labels = (np.concatenate(values) for values in zip(*rows["train"]))
        tested, truth = (np.concatenate(values) for values in zip(*rows["test"]))
        models = simple_models(features, labels, seed) | {"vectors": change_vectors(features, labels)}
        for kind, predict in models.items():
            found = predict(tested) == 1
            row[kind] = overlap((found & (truth == 1)).sum(), (truth == 1).sum(), found.sum())
        report(f"seed {seed} ({minutes:.1f} min)", row, scores)
    return scores


def pretrain(options: argparse.Namespace) -> dict[str, list[tuple[float, ...]]]:
    """Continue pretraining on the images of some sites; scores are errors of masked pixels at the test sites."""
    scores: dict[str, list[tuple[float, ...]]] = {}
    tested = sorted(sites_of(options, "test", 0))
    crops = [crop for site in tested if (crop := centre(site.after)) is not None]
    print(f"{len(crops)} of {len(tested)} test sites have a whole crop of {CROP} px at their centre")
    if not crops:
        raise ValueError(f"{options.data}: no image of the test part is large enough and without nodata.")
    known = reconstruction_errors(find_checkpoint("tiny-zscore"), crops)
    known["tiny-zscore"] = known.pop("model")
    for seed in options.seeds:
        data, output = options.work / "pretrain" / str(seed), options.work / "pretrain" / f"{seed}_run"
        shutil.rmtree(data, ignore_errors=True)
        for site in sites_of(options, "train", seed):
            link(site.after, data / site.name)
        minutes = train("pretrain", data, output, ["--seed", str(seed), *options.rest])
        after = reconstruction_errors(output / "model", crops)["model"]
        report(f"seed {seed} ({minutes:.1f} min)", {"model": after} | known, scores)
    return scores


def centre(path: Path) -> np.ndarray | None:
    """Return the crop (C, CROP, CROP) at the centre of an image, if the image is so large and all pixels have data."""
    pixels = read_raster(path, band_names=L2A_BANDS).pixels
    top, left = ((side - CROP) // 2 for side in pixels.shape[1:])
    crop = pixels[:, max(0, top) : top + CROP, max(0, left) : left + CROP]
    return crop if crop.shape[1:] == (CROP, CROP) and crop.any(0).all() else None


def reconstruction_errors(checkpoint: str | Path, crops: Sequence[np.ndarray]) -> dict[str, tuple[float, ...]]:
    """Return RMSE in percent of reflectance and spectral angle in degrees by method, means over crops and masks.

    The masks do not depend on the model.
    """
    model = SpectralGPTForPreTraining.from_pretrained(checkpoint, dtype=torch.float32).eval()
    processor = SpectralGPTImageProcessor.from_pretrained(checkpoint)
    errors: dict[str, list[tuple[float, float]]] = {}
    for seed, crop in enumerate(crop for crop in crops for _ in range(MASKS)):
        inputs, (scaling,) = processor.preprocess(crop, band_names=L2A_BANDS, report=True)
        result = reconstruct_image(model, inputs["pixel_values"][0], seed, MASK_RATIO)
        low, scale = (value.numpy()[:, None, None] / 10_000 for value in (scaling.low, scaling.scale))
        truth = result.original * scale + low
        answers = {"model": result.reconstructed} | simple_baselines(result.original, result.masked)
        for kind, answer in answers.items():
            found = answer * scale + low
            rmse = 100 * np.sqrt(np.square(found - truth)[result.masked].mean())
            errors.setdefault(kind, []).append((rmse, spectral_angle(truth, found, result.masked)))
    return {kind: tuple(np.mean(values, axis=0).tolist()) for kind, values in errors.items()}


def change_vectors(features: np.ndarray, labels: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
    """Return change vector analysis of features (N, 3 C) of `read_pair`, with the threshold of the highest F1."""
    bands = features.shape[1] // 3
    std = features[:, :bands].std(0)
    length = np.linalg.norm(features[:, -bands:] / std, axis=1)
    precision, recall, thresholds = precision_recall_curve(labels, length)
    best = thresholds[(2 * precision * recall / np.maximum(precision + recall, 1e-9))[:-1].argmax()]
    return lambda tested: (np.linalg.norm(tested[:, -bands:] / std, axis=1) >= best).astype(int)


def overlap(both: float, truth: float, found: float) -> tuple[float, float]:
    """Return F1 and IoU, from the numbers of pixels that both hold, that the truth holds, and that were found."""
    return float(2 * both / (truth + found)), float(both / (truth + found - both))


def read_pair(before: Path, after: Path, mask: Path) -> tuple[np.ndarray, np.ndarray]:
    """Return both dates and their difference (N, 3 bands) of the pixels with data at both, and their labels (N,)."""
    first, second, labels = read_pixels(before), read_pixels(after), read_raster(mask).pixels[0].ravel()
    counted = first.any(1) & second.any(1) & (labels <= 1)
    return np.concatenate([first, second, second - first], axis=1)[counted], labels[counted]


def read_pixels(path: Path) -> np.ndarray:
    """Return the digital numbers (pixels, bands) of a file."""
    pixels = read_raster(path).pixels.astype(np.float32)
    return pixels.reshape(len(pixels), -1).T


def read_labelled(image: Path, mask: Path) -> tuple[np.ndarray, np.ndarray]:
    """Return the digital numbers (N, bands) of the pixels with data, and their labels (N,)."""
    pixels, labels = read_pixels(image), read_raster(mask).pixels[0].ravel()
    counted = pixels.any(1) & (labels <= 1)
    return pixels[counted], labels[counted]


def raised(data: Path, name: str) -> bool:
    """Return whether the table of a folder says that a chip carries an offset."""
    table = data / "table.csv"
    return table.is_file() and any(name in line for line in table.read_text().splitlines())


def band_statistics(path: Path) -> np.ndarray:
    """Return mean, deviation and percentiles of each band."""
    pixels = read_pixels(path)
    return np.concatenate([pixels.mean(0), pixels.std(0), *np.percentile(pixels, (5, 25, 50, 75, 95), axis=0)])


def report(name: str, row: Mapping[str, tuple[float, ...]], scores: dict[str, list[tuple[float, ...]]]) -> None:
    """Print the scores of a fold or seed, and add them to the others."""
    for kind, values in row.items():
        scores.setdefault(kind, []).append(values)
    print(f"{name:28}" + "".join(f"  {kind} {describe(values)}" for kind, values in row.items()), flush=True)


def describe(values: Sequence[float]) -> str:
    return " / ".join(f"{value:.3f}" for value in values)


SCORES = {
    "chips": (chips, "accuracy / mean IoU"),
    "eurosat": (eurosat, "accuracy"),
    "beetle": (beetle, "IoU of damage"),
    "change": (change, "F1 / IoU"),
    "pretrain": (pretrain, "RMSE in % of reflectance / spectral angle in degrees"),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("task", choices=list(SCORES))
    parser.add_argument("data", type=Path, help="Folder of the data.")
    parser.add_argument("--work", type=Path, default=Path("outputs/first_hour"), help="Folder to write to.")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0], help="Seeds of all but chips.")
    parser.add_argument("--images", type=int, default=160, help="Training sites of beetle, change and pretrain.")
    argv = sys.argv[1:]
    cut = argv.index("--") if "--" in argv else len(argv)
    options = parser.parse_args(argv[:cut])
    options.rest = argv[cut + 1 :]
    score, names = SCORES[options.task]
    scores = score(options)
    print(f"\n{options.task}: {names}, mean of {len(scores['model'])}")
    for kind, rows in scores.items():
        print(f"  {kind:12} {describe(np.mean(rows, axis=0).tolist())}")


if __name__ == "__main__":
    main()
