"""Pretrain a small model on a real hyperspectral image, resume it, and classify 16 crops from few labels.

    pip install tensorly
    python benchmarks/indian_pines.py [--steps 400] [--seeds 0 1 2 3 4]

Indian Pines (AVIRIS, 12 June 1992, 145 x 145 px of 20 m, 200 bands from 400 to 2,500 nm, radiance) comes with the
package tensorly; `--data` names another folder with its two `.npy` files. The image is cut into 144 tiles of 12 px, of
which 12 are kept from pretraining. `commands.pretrain` writes a checkpoint half-way; the second half is repeated from
it, and must end with the same weights. Printed are the loss; on the 12 tiles the mean squared error of masked values
against that of simple baselines; and the accuracy on all other labelled pixels of a linear classifier of the frozen
encoder's features, with a few labels per class drawn at random, against the nearest neighbour among the raw spectra, of
pixels and of the mean of a patch (the 3 x 3 px of a token).
"""

import argparse
import importlib.util
import json
import shutil
import tempfile
import time
import warnings
from pathlib import Path

import numpy as np
import rasterio
import torch
from rasterio.errors import NotGeoreferencedWarning
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier
from sklearn.preprocessing import StandardScaler

from spectralgpt_hf import SpectralGPTForPreTraining, SpectralGPTImageProcessor
from spectralgpt_hf.commands.pretrain import main as pretrain
from spectralgpt_hf.data.shards.prepare import prepare_shards
from spectralgpt_hf.inference.reconstruction import band_mean, interpolation, reconstruct_image


# AVIRIS records 224 bands, of which the data set holds 220; the 20 of water vapour are left out (Baumgardner et al.,
# 2015, 10.4231/R7RX991C). The centres are about 9.6 nm apart.
LEFT_OUT = (*range(103, 108), *range(149, 163), 219)
WAVELENGTHS = [value for number, value in enumerate(np.linspace(400, 2500, 220)) if number not in LEFT_OUT]
BANDS = [f"{wavelength:.1f}nm" for wavelength in WAVELENGTHS]
TILE, PATCH, TILES = 12, 3, 12
SIZES = {
    "patch_size": PATCH,
    "spectral_patch_size": 20,
    "hidden_size": 96,
    "num_hidden_layers": 3,
    "num_attention_heads": 3,
    "intermediate_size": 384,
    "decoder_hidden_size": 64,
    "decoder_intermediate_size": 256,
    # The sums over 10 spectral groups, which are alike, are 10 times as large as those of a group.
    "spectral_loss_weight": 10**-2,
}


def tile_of(image: np.ndarray, number: int) -> np.ndarray:
    """Return one of the 144 tiles (C, 12, 12) of an image (C, 145, 145); the last row and column are in none."""
    row, column = TILE * (number // TILES), TILE * (number % TILES)
    return image[:, row : row + TILE, column : column + TILE]


def run_pretraining(shards: Path, output: Path, options: argparse.Namespace, *more: str) -> Path:
    """Run the command of pretraining, and return the checkpoint."""
    pretrain(
        [
            f"--data={shards}",
            f"--output_dir={output}",
            "--sensor=aviris",
            "--bands",
            *BANDS,
            "--normalization=zscore",
            f"--config_overrides={json.dumps(SIZES)}",
            f"--image_size={TILE}",
            f"--mask_ratio={options.mask_ratio}",
            f"--steps={options.steps}",
            f"--save_every={options.steps // 2}",
            "--batch_size=24",
            "--base_learning_rate=0.03",
            "--crop_scale=1.0",
            "--symmetries=true",
            "--num_workers=1",
            "--mixed_precision=no",
            f"--log_every={max(1, options.steps // 8)}",
            *more,
        ]
    )
    return output / "model"


def check_resuming(shards: Path, whole: Path, folder: Path, options: argparse.Namespace) -> bool:
    """Return whether the second half, repeated from the middle checkpoint, ends with the same weights."""
    middle = whole / "checkpoints" / f"step-{options.steps // 2:08d}"
    run_pretraining(shards, folder, options, f"--resume={middle}")
    first, second = (SpectralGPTForPreTraining.from_pretrained(path / "model").state_dict() for path in (whole, folder))
    return all(torch.equal(value, second[name]) for name, value in first.items())


def print_reconstruction(
    model: SpectralGPTForPreTraining, processor: SpectralGPTImageProcessor, tiles: list[np.ndarray], mask_ratio: float
) -> None:
    """Print the mean squared error of masked values of tiles that pretraining has not seen."""
    errors: dict[str, list[float]] = {}
    for number, tile in enumerate(tiles):
        image = processor.preprocess(tile, band_names=BANDS)["pixel_values"][0]
        result = reconstruct_image(model, image, number, mask_ratio)
        answers = {
            "model": result.reconstructed,
            "band's mean": band_mean(result.original, result.masked),
            "interpolation": interpolation(result.original, result.masked, PATCH),
        }
        for name, answer in answers.items():
            errors.setdefault(name, []).append(float(np.square(answer - result.original)[result.masked].mean()))
    for name, values in errors.items():
        print(f"mean squared error of masked values, {len(tiles)} held-out tiles: {name:14s}{np.mean(values):.4f}")


@torch.no_grad()
def features_of(
    model: SpectralGPTForPreTraining, processor: SpectralGPTImageProcessor, image: np.ndarray
) -> np.ndarray:
    """Return the encoder's features (48, 48, G * D) of each patch position."""
    rows = []
    for row in range(TILES):
        tiles = [tile_of(image, TILES * row + column) for column in range(TILES)]
        tokens = model.spectralgpt(processor.preprocess(tiles, band_names=BANDS)["pixel_values"]).last_hidden_state
        side = TILE // PATCH
        grid = tokens.unflatten(1, (-1, side, side)).permute(0, 2, 3, 1, 4).flatten(3)  # (tiles, rows, columns, G * D)
        rows.append(np.concatenate(list(grid.numpy()), axis=1))
    return np.concatenate(rows)


def print_accuracies(features: np.ndarray, image: np.ndarray, truth: np.ndarray, seeds: list[int]) -> None:
    """Print accuracies from a few labels per class."""
    side = TILE * TILES
    labels = truth[:side, :side]
    rows, columns = np.nonzero(labels)
    classes = labels[rows, columns]
    spectra = image[:, :side, :side]
    patches = spectra.reshape(len(spectra), side // PATCH, PATCH, side // PATCH, PATCH).mean((2, 4))
    inputs = {
        "encoder, linear": features[rows // PATCH, columns // PATCH],
        "raw spectrum, nearest": spectra[:, rows, columns].T,
        "raw spectrum, linear": spectra[:, rows, columns].T,
        "raw patch, nearest": patches[:, rows // PATCH, columns // PATCH].T,
        "raw patch, linear": patches[:, rows // PATCH, columns // PATCH].T,
    }
    for count in (5, 10):
        for name, values in inputs.items():
            scores = []
            for seed in seeds:
                generator = np.random.default_rng(seed)
                known = np.concatenate(
                    [generator.permutation(np.flatnonzero(classes == number))[:count] for number in np.unique(classes)]
                )
                rest = np.setdiff1d(np.arange(len(classes)), known)
                if name.endswith("nearest"):
                    rule = KNeighborsClassifier(1).fit(values[known], classes[known])
                    predicted = rule.predict(values[rest])
                else:
                    scaler = StandardScaler().fit(values)
                    rule = LogisticRegression(C=0.1, max_iter=300).fit(scaler.transform(values[known]), classes[known])
                    predicted = rule.predict(scaler.transform(values[rest]))
                recalls = [(predicted[classes[rest] == n] == n).mean() for n in np.unique(classes[rest])]
                scores.append([(predicted == classes[rest]).mean(), np.mean(recalls)])
            accuracy, recall = np.array(scores).T
            print(
                f"{count:2d} labels per class: {name:22s} accuracy {accuracy.mean():.3f} "
                f"({accuracy.min():.3f}-{accuracy.max():.3f}), mean of the classes {recall.mean():.3f}"
            )


def find_data() -> Path:
    """Return the folder of tensorly that holds the data.

    Raises:
        FileNotFoundError: If tensorly is not installed.
    """
    found = importlib.util.find_spec("tensorly")
    if found is None or found.origin is None:
        raise FileNotFoundError("Indian Pines comes with tensorly: `pip install tensorly`, or pass `--data`.")
    return Path(found.origin).parent / "datasets" / "data"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="Folder of Indian_pines_*.npy; that of tensorly by default.")
    parser.add_argument("--steps", type=int, default=200, help="Steps of pretraining (200).")
    parser.add_argument("--mask_ratio", type=float, default=0.75)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    options = parser.parse_args()
    folder = options.data or find_data()
    image = np.load(folder / "Indian_pines_corrected.npy").transpose(2, 0, 1).astype(np.uint16)
    truth = np.load(folder / "Indian_pines_gt.npy")
    held_out = [TILES * row + (2 * row) % TILES for row in range(TILES)]
    warnings.simplefilter("ignore", NotGeoreferencedWarning)
    begin = time.perf_counter()
    with tempfile.TemporaryDirectory() as name:
        scratch = Path(name)
        (scratch / "tiles").mkdir()
        for number in range(TILES**2):
            if number not in held_out:
                profile = {"driver": "GTiff", "count": len(BANDS), "height": TILE, "width": TILE, "dtype": "uint16"}
                with rasterio.open(scratch / "tiles" / f"{number:02d}.tif", "w", **profile) as file:
                    file.write(tile_of(image, number))
        shards = prepare_shards(
            scratch / "tiles", scratch / "shards", "folder", sensor="aviris", band_names=BANDS, num_workers=1
        )
        checkpoint = run_pretraining(shards, scratch / "whole", options)
        print(f"pretraining of {options.steps} steps: {time.perf_counter() - begin:.0f} s")
        records = [json.loads(line) for line in (scratch / "whole" / "log.jsonl").read_text().splitlines()]
        losses = [f"{record['token_loss']:.3f}" for record in records if "token_loss" in record]
        print(f"loss of the tokens: {' '.join(losses)}", flush=True)
        same = check_resuming(shards, scratch / "whole", scratch / "resumed", options)
        print(f"resumed from step {options.steps // 2}: {'the same weights' if same else 'OTHER WEIGHTS'}")
        model = SpectralGPTForPreTraining.from_pretrained(checkpoint).eval()
        processor = SpectralGPTImageProcessor.from_pretrained(checkpoint)
        shutil.rmtree(scratch / "resumed")
    print_reconstruction(model, processor, [tile_of(image, number) for number in held_out], options.mask_ratio)
    print_accuracies(features_of(model, processor, image), image, truth, options.seeds)
    print(f"{time.perf_counter() - begin:.0f} s on {torch.get_num_threads()} thread(s)")


if __name__ == "__main__":
    main()
