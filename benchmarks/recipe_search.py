"""Compare recipes of pretraining by what frozen features tell about EuroSAT, one change at a time.

    python benchmarks/recipe_search.py SHARDS EUROSAT --work outputs/search [--only base "decoder of 4 layers"]

SHARDS is the output of `spectralgpt prepare`. Each recipe trains a small network from random weights with
`examples/pretrain.py`, all with the same number of images, and differs from `base` in one option. Names joined by
" + ", such as "statistics term + 6 bands a token", combine their changes. The benchmark prints the rate, and the
accuracy of a linear classifier and of ten nearest neighbours of pooled features, by cross-validation on one part of
EuroSAT, with folds of random images and of whole blocks. The losses of recipes with other tokens cannot be compared, so
they are not printed. A run that was interrupted is continued, and one that is complete is only scored.
"""

import argparse
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch
import yaml

from spectralgpt_hf import SpectralGPTImageProcessor, SpectralGPTModel
from spectralgpt_hf.training.few_labels import fold_accuracies, network_features, read_labelled
from spectralgpt_hf.training.few_labels_report import FOLD_HEADER, fold_cells


NETWORK = {"hidden_size": 256, "num_hidden_layers": 6, "num_attention_heads": 4, "intermediate_size": 1024}
BASE: dict[str, Any] = {
    "preset": "tiny",
    "image_size": 64,
    "normalization": "zscore",
    "symmetries": True,
    "crop_scale": 0.3,
    "mask_ratio": 0.9,
    "atmosphere": 0.3,
    "batch_size": 32,
    "base_learning_rate": 8e-3,
    "warmup_ratio": 0.05,
    "save_every": 100,
    "resume": "auto",
    "config_overrides": {"spectral_loss_weight": 0.1, "decode_ratio": 0.25, **NETWORK},
}
# Each recipe: what it changes in the options of the command, and in the configuration.
RECIPES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "base": ({}, {}),
    "base, another seed": ({"seed": 1}, {}),
    "spectral loss 0": ({}, {"spectral_loss_weight": 0.0}),
    "spectral loss 1": ({}, {"spectral_loss_weight": 1.0}),
    "decoder of 1 layer": ({}, {"decoder_num_hidden_layers": 1}),
    "decoder of 4 layers": ({}, {"decoder_num_hidden_layers": 4}),
    "2 bands a token": ({}, {"spectral_patch_size": 2}),
    "6 bands a token": ({}, {"spectral_patch_size": 6}),
    "tokens of 16 px": ({}, {"patch_size": 16}),
    "tokens of 4 px": ({}, {"patch_size": 4}),
    "75 % masked": ({"mask_ratio": 0.75}, {}),
    "50 % masked": ({"mask_ratio": 0.5}, {}),
    "contrastive term 0.2": ({"contrast_weight": 0.2}, {}),
    "statistics term": ({"statistics_weight": 1.0}, {}),
}


def recipe_options(name: str) -> dict[str, Any]:
    """Return the options of a recipe of `RECIPES`, or of several of them joined by " + "."""
    result: dict[str, Any] = {**BASE, "config_overrides": dict(BASE["config_overrides"])}
    for part in name.split(" + "):
        options, overrides = RECIPES[part]
        result.update(options)
        result["config_overrides"].update(overrides)
    return result


def recipe_name(text: str) -> str:
    """Return the name of a recipe as it is, after a check.

    Raises:
        argparse.ArgumentTypeError: If a part of it is not in `RECIPES`.
    """
    if unknown := set(text.split(" + ")) - set(RECIPES):
        raise argparse.ArgumentTypeError(f"unknown: {', '.join(sorted(unknown))}; choose from {', '.join(RECIPES)}")
    return text


def train(name: str, shards: Path, steps: int, folder: Path) -> float:
    """Train with a recipe, unless `folder` holds its result; return the images per second."""
    if not (folder / "model" / "model.safetensors").exists():
        folder.mkdir(parents=True, exist_ok=True)
        options = {**recipe_options(name), "data": str(shards), "output_dir": str(folder), "steps": steps}
        config = folder / "recipe.yaml"
        config.write_text(yaml.safe_dump(options), encoding="utf-8")
        script = Path(__file__).parents[1] / "examples" / "pretrain.py"
        with open(folder / "train.log", "a", encoding="utf-8") as log:
            subprocess.run([sys.executable, script, "--config", config], check=True, stdout=log, stderr=log)
    rows = [json.loads(line) for line in (folder / "log.jsonl").read_text(encoding="utf-8").splitlines()]
    rates = sorted(row["samples_per_second"] for row in rows if "samples_per_second" in row)
    return float(rates[len(rates) // 2])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("shards", type=Path, help="Folder that `spectralgpt prepare` wrote.")
    parser.add_argument("eurosat", type=Path, help="Folder of EuroSAT's class folders and index.csv.")
    parser.add_argument("--work", type=Path, default=Path("outputs/search"), help="Folder to write to.")
    parser.add_argument("--steps", type=int, default=320, help="Steps of a run. Default: %(default)s.")
    parser.add_argument("--part", default="choice", help="Part of index.csv. Default: %(default)s.")
    parser.add_argument("--repeats", type=int, default=3, help="Repeats of the folds. Default: %(default)s.")
    parser.add_argument("--only", nargs="+", type=recipe_name, default=list(RECIPES), help="Recipes to run.")
    options = parser.parse_args()
    images = read_labelled(options.eurosat)
    part = images.of(options.part)
    print(f"{part.sum()} images of the part {options.part}, {options.steps} steps of {BASE['batch_size']} images")
    print(f"{'':34}{'images/s':>10}{FOLD_HEADER}", flush=True)
    for name in options.only:
        named = f"{name} {options.steps}"
        folder = options.work.resolve() / re.sub(r"\W+", "-", named.replace("%", "percent"))
        rate = train(name, options.shards.resolve(), options.steps, folder)
        model = SpectralGPTModel.from_pretrained(folder / "model", dtype=torch.float32)
        processor = SpectralGPTImageProcessor.from_pretrained(folder / "model")
        features = network_features(model, processor, images, "pooled")
        scores = fold_cells(fold_accuracies(features, images, part, options.repeats))
        print(f"{name:34}{rate:>10.1f}{scores}", flush=True)


if __name__ == "__main__":
    main()
