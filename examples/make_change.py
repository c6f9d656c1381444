"""Train the embedded model of change, and score it and simple baselines on sites that none of them has seen.

    python examples/make_change.py BARKBEETLE IMAGES... --work outputs/change

BARKBEETLE holds real pairs of dates with maps of what changed between them: `2019-09/sentinel_2/geojson_N.tif` and
`2020-09/sentinel_2/geojson_N.tif` with 12 bands (L2A), `masks/train/mask_N.tif` and `masks/test/mask_N.tif` with 1 for
forest that bark beetles have killed. IMAGES are single images of other land, with the names of their bands. Pairs are
made of them: the second date has another illumination and atmosphere, vegetation at another stage of the season, and a
shift of less than a pixel, none of which counts as change, and in most pairs regions of another site. The baselines
are change vector analysis (the length of the difference of the normalised bands) and a logistic regression of the
differences, each with the threshold that is best on the training sites. Intervals are 95 % bootstrap intervals over the
sites. The result is `model` in the folder `run`, which `examples/embed_head.py` embeds.
"""

import argparse
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from scipy import ndimage
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import precision_recall_curve

from spectralgpt_hf import SpectralGPTForChangeDetection, SpectralGPTImageProcessor
from spectralgpt_hf.assets import GALLERY
from spectralgpt_hf.inference.prediction import predict_scene
from spectralgpt_hf.modeling.bands import L2A_BANDS
from spectralgpt_hf.modeling.geometry import IGNORE_INDEX
from spectralgpt_hf.modeling.rasters import read_raster, write_raster
from spectralgpt_hf.training.transforms import vary_atmosphere


SIZE = 64
TEST_SHARE = 0.2  # of the single images
RECIPE = "--epochs 6 --freeze-encoder true --frozen-share 0 --train-split train"
RESAMPLES = 2000
# Factor of the reflectance of each band where green vegetation becomes dry.
DRYING = dict(zip(L2A_BANDS, (1.1, 1.15, 1.15, 1.5, 1.25, 0.9, 0.8, 0.78, 0.78, 0.8, 1.2, 1.4), strict=True))


def bark_beetle_pairs(folder: Path, part: str) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Yield both dates (C, H, W) of each real site and what changed (H, W)."""
    for path in sorted((folder / "masks" / part).glob("mask_*.tif")):
        name = path.name.replace("mask", "geojson")
        before, after = (read(folder / date / "sentinel_2" / name) for date in ("2019-09", "2020-09"))
        known = (before > 0).all(0) & (after > 0).all(0)
        yield before, after, np.where(known, read(path)[0], IGNORE_INDEX)


def made_pairs(
    paths: Sequence[Path], count: int, random: np.random.Generator
) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Yield `count` pairs like `bark_beetle_pairs`, of which three quarters hold regions of another site."""
    images = [image for image in map(read, paths) if min(image.shape[1:]) >= SIZE]
    chosen = random.permutation(count) % len(images)
    for number in chosen:
        before = crop(images[number], random)
        after, changed = before, np.zeros((SIZE, SIZE), bool)
        if random.random() < 0.75:
            others = [crop(images[other], random) for other in random.choice(len(images), 8) if other != number]
            # Of these sites one that looks different: a forest in place of another forest is no change.
            donor = max(others, key=lambda other: spectral_distance(before, other))
            changed, blend = region(random)
            after = before + (donor - before) * blend
        yield *vary(before, after, random), changed


def spectral_distance(first: np.ndarray, second: np.ndarray) -> float:
    """Return the mean over the bands of the absolute logarithm of the ratio of two images' means."""
    return float(np.abs(np.log((first.mean((1, 2)) + 1) / (second.mean((1, 2)) + 1))).mean())


def region(random: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Return whether each pixel lies in a region of irregular shape (H, W), and the same with soft edges, float."""
    noise = ndimage.gaussian_filter(random.standard_normal((SIZE, SIZE)), random.uniform(3, 9))
    inside = noise > np.quantile(noise, 1 - random.uniform(0.02, 0.3))
    blend = ndimage.gaussian_filter(inside.astype(np.float32), random.uniform(0.4, 1.2))
    return blend > 0.5, blend


def vary(before: np.ndarray, after: np.ndarray, random: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Return both dates (C, H, W) of a made pair, with the differences that do not count as change."""
    red, infrared = (after[L2A_BANDS.index(band)] for band in ("B4", "B8"))
    vegetation = ((infrared - red) / (infrared + red + 1) / 0.6).clip(0, 1)
    field = ndimage.gaussian_filter(random.standard_normal(red.shape), random.uniform(4, 12))
    # A negative exponent makes dry vegetation green. Fields differ in how far they are.
    stage = random.uniform(-1, 1) + random.uniform(0, 0.5) * field / field.std()
    factors = np.array([DRYING[band] for band in L2A_BANDS])[:, None, None]
    after = after * factors ** (vegetation * stage)
    after = ndimage.shift(after, (0, *random.uniform(-0.7, 0.7, 2)), order=1, mode="nearest")
    after = after * random.lognormal(0, 0.07) * random.lognormal(0, 0.02, after.shape)
    pair = np.stack([before, after]).astype(np.float32)
    for strength, drawn in ((0.8, random.random((1, 3 + len(L2A_BANDS)))), (0.15, random.random((2, 15)))):
        uniform = torch.from_numpy(np.broadcast_to(drawn, (2, drawn.shape[1])).astype(np.float32))
        pair = vary_atmosphere(torch.from_numpy(pair), L2A_BANDS, uniform, strength).numpy()
    return pair[0], pair[1]


def crop(image: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """Return a random window (C, SIZE, SIZE) of an image (C, H, W), turned by a multiple of 90 degrees."""
    row, column, turns = (int(random.integers(end)) for end in (*np.array(image.shape[1:]) - SIZE + 1, 4))
    return np.rot90(image[:, row : row + SIZE, column : column + SIZE], turns, (1, 2)).astype(np.float32)


def read(path: Path) -> np.ndarray:
    """Return the pixels (C, H, W) of a file, in the order of `L2A_BANDS` if it names its bands."""
    raster = read_raster(path)
    names = raster.band_names or ()
    return raster.pixels[[names.index(band) for band in L2A_BANDS]] if set(L2A_BANDS) <= set(names) else raster.pixels


def write_pairs(pairs: Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]], folder: Path, name: str) -> None:
    """Write pairs of dates and maps of change into the folders that `spectralgpt train change` finds."""
    for kind in ("before", "after", "masks"):
        (folder / kind).mkdir(parents=True, exist_ok=True)
    for number, (*dates, changed) in enumerate(pairs):
        for kind, image in zip(("before", "after"), dates):
            # 0 means no data.
            stored = np.where((image > 0).all(0), image.round(), 0).clip(0, 65535)
            path, stored = folder / kind / f"{name}_{number}.tif", stored.astype(np.uint16)
            write_raster(path, stored, crs=None, transform=None, band_names=L2A_BANDS, nodata=0)
        path = folder / "masks" / f"{name}_{number}.tif"
        write_raster(path, changed.astype(np.uint8), crs=None, transform=None, band_names=["change"])


def pixels_of(folder: Path, name: str, std: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, list[Path]]:
    """Return normalised differences (M, C), labels (M,) and numbers of the sites (M,) of all labelled pixels.

    The last value are the files of the first date, one for each site.
    """
    differences, labels, sites, paths = [], [], [], sorted((folder / "before").glob(f"{name}_*.tif"))
    for number, path in enumerate(paths):
        changed = read(folder / "masks" / path.name)[0]
        known = changed != IGNORE_INDEX
        before, after = (read(folder / kind / path.name)[:, known].T.astype(np.float32) for kind in ("before", "after"))
        differences.append((after - before) / std)
        labels.append(changed[known])
        sites.append(np.full(known.sum(), number))
    return np.concatenate(differences), np.concatenate(labels) == 1, np.concatenate(sites), paths


def best_threshold(values: np.ndarray, labels: np.ndarray) -> float:
    """Return the threshold of the values with the highest F1."""
    precision, recall, thresholds = precision_recall_curve(labels, values)
    f1 = 2 * precision * recall / np.maximum(precision + recall, 1e-9)
    return float(thresholds[f1[:-1].argmax()])


def resampled_f1(found: np.ndarray, labels: np.ndarray, sites: np.ndarray) -> np.ndarray:
    """Return F1 (`RESAMPLES`,) of sites drawn with replacement; the same sites whatever was found."""
    counts = np.stack(
        [np.bincount(sites[chosen], minlength=sites.max() + 1) for chosen in (found & labels, found, labels)]
    )
    num_sites = counts.shape[1]
    drawn = np.random.default_rng(0).integers(num_sites, size=(RESAMPLES, num_sites))
    both, *each = counts[:, drawn].sum(-1)
    return 2 * both / np.maximum(1, sum(each))


def row(found: np.ndarray, labels: np.ndarray) -> str:
    """Return precision, recall, F1 and IoU of change as columns of a table."""
    both = (found & labels).sum()
    scores = (both / max(1, found.sum()), both / labels.sum(), 2 * both / (found.sum() + labels.sum()))
    return "".join(f"{score:11.3f}" for score in (*scores, both / (found | labels).sum()))


def interval(values: np.ndarray) -> str:
    """Return the range that holds 95 % of the values, as a column of a table."""
    return "{:.3f} to {:.3f}".format(*np.quantile(values, (0.025, 0.975))).rjust(19)


def write_data(barkbeetle: Path, images: Sequence[Path], folder: Path, num_pairs: int, seed: int) -> None:
    """Write the pairs of both parts. Sites of one are not in the other, also those that regions are taken from."""
    random = np.random.default_rng(seed)
    shuffled = [sorted(images)[number] for number in random.permutation(len(images))]
    num_test = round(TEST_SHARE * len(shuffled))
    for part, paths, count in (
        ("test", shuffled[:num_test], num_pairs // 4),
        ("train", shuffled[num_test:], num_pairs),
    ):
        write_pairs(bark_beetle_pairs(barkbeetle, part), folder / part, "real")
        write_pairs(made_pairs(paths, count, random), folder / part, "made")


def train(data: Path, checkpoint: str, output: Path) -> Path:
    """Train on the pairs of the part `train`; return the folder of the model."""
    command = [sys.executable, "-c", "from spectralgpt_cli import app; app()", "train", "change", data]
    command += ["--output", output, "--checkpoint", checkpoint, *RECIPE.split(), "--validation-split", "none"]
    command += ["--test-split", "none", "--early-stopping-patience", 0]
    subprocess.run(list(map(str, command)), check=True)
    return output / "model"


def score(checkpoint: Path, data: Path, work: Path) -> None:
    """Print the scores of the model and of the baselines on the part `test`, and what it finds in a season's change."""
    model = SpectralGPTForChangeDetection.from_pretrained(checkpoint).eval()
    processor = SpectralGPTImageProcessor.from_pretrained(checkpoint)
    std = np.array([(processor.std or {})[band] for band in processor.bands])

    def predict(before: Path, after: Path) -> np.ndarray:
        predict_scene(model, processor, before, work / "map.tif", after=after, overwrite=True, progress=False)
        return read(work / "map.tif")[0] == 1

    columns = "".join(f"{name:>11}" for name in ("precision", "recall", "F1", "IoU"))
    print(f"{'held-out sites':44}{columns}{'interval of F1':>19}{'F1 of model - F1':>19}")
    for name, title in (("real", "real pairs"), ("made", "made pairs")):
        differences, labels, *_ = pixels_of(data / "train", name, std)
        regression = LogisticRegression(class_weight="balanced").fit(differences[::5], labels[::5])
        length_limit = best_threshold(np.linalg.norm(differences, axis=1), labels)
        logit_limit = best_threshold(regression.decision_function(differences), labels)
        differences, labels, sites, paths = pixels_of(data / "test", name, std)
        found = []
        for path in paths:
            known = read(data / "test" / "masks" / path.name)[0] != IGNORE_INDEX
            found.append(predict(path, data / "test" / "after" / path.name)[known])
        answers = {
            "the model": np.concatenate(found),
            "change vector analysis": np.linalg.norm(differences, axis=1) >= length_limit,
            "logistic regression of the differences": regression.decision_function(differences) >= logit_limit,
        }
        print(f"{title}: {len(paths)} sites, {labels.mean():.1%} of the pixels changed")
        f1 = {method: resampled_f1(answer, labels, sites) for method, answer in answers.items()}
        for method, answer in answers.items():
            difference = "" if method == "the model" else interval(f1["the model"] - f1[method])
            print(f"{'  ' + method:44}{row(answer, labels)}{interval(f1[method])}{difference}", flush=True)
    share = predict(*(GALLERY / f"forest-{date}.tif" for date in ("before", "after"))).mean()
    print(f"forest and meadows, July and September: {share:.1%} of the pixels changed")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("barkbeetle", type=Path, help="Folder of the real pairs.")
    parser.add_argument("images", type=Path, nargs="+", help="Files of single images, at least 64 x 64 px.")
    parser.add_argument("--work", type=Path, default=Path("outputs/change"), help="Empty folder to write to.")
    parser.add_argument("--checkpoint", default="tiny-zscore", help="Checkpoint to start from. Default: %(default)s.")
    parser.add_argument("--pairs", type=int, default=480, help="Pairs to make for training. Default: %(default)s.")
    parser.add_argument("--seed", type=int, default=0, help="Seed of the made pairs. Default: %(default)s.")
    options = parser.parse_args()
    data = options.work / "data"
    write_data(options.barkbeetle, options.images, data, options.pairs, options.seed)
    score(train(data, options.checkpoint, options.work / "run"), data, options.work)


if __name__ == "__main__":
    main()
