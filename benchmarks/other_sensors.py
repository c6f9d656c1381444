"""Measure what a model for another sensor gains from a Sentinel-2 checkpoint, and the cost of many bands and dates.

    python benchmarks/other_sensors.py start --chips ../shared/data/chips_worldwide/L1C [--checkpoint tiny]
    python benchmarks/other_sensors.py costs

`start` makes Landsat scenes from the bands of real Sentinel-2 chips, and reconstructs them without training, with
spectral positions that are interpolated by wavelength (`resize_bands`), interpolated by index (`resize_positions`) or
random. It prints the mean squared error of the masked values over chips and seeds; and the geometric mean of its ratio
to the error of the band's mean, because one chip of snow decides the former under zscore. The checkpoint itself, on its
own bands of the same chips, stands beside them. `costs` runs a classifier
of the tiny size with gradient checkpointing, forward and backward, on 202 bands of 64 x 64 px and on 12 dates of 12
bands of 128 x 128 px, each in a process of its own. It prints the peak memory of the process, and the seconds on the
clock and of processor time.
"""

import argparse
import copy
import resource
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
import torch

from spectralgpt_hf import (
    SpectralGPTConfig,
    SpectralGPTForImageClassification,
    SpectralGPTForPreTraining,
    SpectralGPTImageProcessor,
)
from spectralgpt_hf.assets import find_checkpoint
from spectralgpt_hf.inference.reconstruction import band_mean, reconstruct_image
from spectralgpt_hf.modeling.bands import L1C_BANDS
from spectralgpt_hf.modeling.modeling_spectralgpt import SpectralGPTPositionEmbeddings


# The bands of Sentinel-2 whose centres are within 12 nm of those of Landsat 8.
LANDSAT_FROM_SENTINEL_2 = dict(
    zip(("B1", "B2", "B3", "B4", "B5", "B6", "B7"), ("B1", "B2", "B3", "B4", "B8A", "B11", "B12"))
)


def landsat_models(checkpoint: str) -> dict[str, SpectralGPTForPreTraining]:
    """Return models for Landsat 8 that differ in where their spectral positions come from."""
    original = SpectralGPTForPreTraining.from_pretrained(find_checkpoint(checkpoint)).eval()
    bands = list(LANDSAT_FROM_SENTINEL_2)
    models = {}
    for name in ("wavelength", "index", "random"):
        model = models[name] = copy.deepcopy(original)
        if name == "index":
            by_index = [
                module.interpolate_spectral(3)
                for module in model.modules()
                if isinstance(module, SpectralGPTPositionEmbeddings)
            ]
        model.resize_bands(bands, sensor="landsat-8")
        positions = [module for module in model.modules() if isinstance(module, SpectralGPTPositionEmbeddings)]
        for number, module in enumerate(positions):
            if name == "index":
                module.spectral_position_embeddings.data = by_index[number].detach()
            elif name == "random":
                torch.manual_seed(number)
                torch.nn.init.normal_(module.spectral_position_embeddings.data, std=2**-0.5)
    return models


def start(options: argparse.Namespace) -> None:
    """Print the error of each start."""
    models = landsat_models(options.checkpoint)
    saved = SpectralGPTImageProcessor.from_pretrained(find_checkpoint(options.checkpoint))
    original = SpectralGPTForPreTraining.from_pretrained(find_checkpoint(options.checkpoint)).eval()
    bands = list(LANDSAT_FROM_SENTINEL_2)
    settings: dict[str, Any] = {"normalization": saved.normalization, "sensor": "landsat-8"}
    if saved.mean is not None and saved.std is not None:
        settings |= {
            key: [values[band] for band in LANDSAT_FROM_SENTINEL_2.values()]
            for key, values in (("mean", saved.mean), ("std", saved.std))
        }
    processor = SpectralGPTImageProcessor(bands, **settings)
    errors: dict[str, list[float]] = {name: [] for name in [*models, "Sentinel-2"]}
    means: dict[str, list[float]] = {name: [] for name in errors}
    for path in sorted(options.chips.glob("*.tif")):
        with rasterio.open(path) as file:
            pixels = file.read().astype(np.float32)
        if np.median(pixels[L1C_BANDS.index("B10")]) >= 900:  # which has hardly any signal: the offset of +1000
            pixels -= 1000
        channels = [L1C_BANDS.index(band) for band in LANDSAT_FROM_SENTINEL_2.values()]
        image = processor.preprocess(pixels[channels], band_names=bands)["pixel_values"][0]
        own = saved.preprocess(pixels, band_names=L1C_BANDS)["pixel_values"][0]
        for seed in range(options.seeds):
            for name, model in [*models.items(), ("Sentinel-2", original)]:
                result = reconstruct_image(model, own if model is original else image, seed, options.mask_ratio)
                mean = band_mean(result.original, result.masked)
                for answers, answer in ((errors, result.reconstructed), (means, mean)):
                    answers[name].append(float(np.square(answer - result.original)[result.masked].mean()))
    for name, values in errors.items():
        ratio = np.exp(np.mean(np.log(values) - np.log(means[name])))
        print(
            f"{name:12s} mean squared error {np.mean(values):.5f}, band's mean {np.mean(means[name]):.5f}; "
            f"median {np.median(values):.5f} and {np.median(means[name]):.5f}; ratio {ratio:.2f} (n = {len(values)})"
        )
    better = np.mean(np.array(errors["wavelength"]) < np.minimum(errors["index"], errors["random"]))
    print(f"wavelength is best in {better:.0%} of the cases")


def costs(options: argparse.Namespace) -> None:
    """Print memory and seconds of a training step, for each case in a process of its own."""
    if options.case is None:
        for case in ("bands", "dates"):
            command = [sys.executable, __file__, "costs", f"--case={case}", f"--batch_size={options.batch_size}"]
            subprocess.run(command, check=True)
        return
    if options.case == "bands":
        bands = [f"{wavelength:.1f}nm" for wavelength in np.linspace(400, 2500, 202)]
        config = SpectralGPTConfig.from_preset("tiny", sensor="aviris", bands=bands, image_size=64, num_labels=16)
        shape: tuple[int, ...] = (options.batch_size, 202, 64, 64)
        dates = None
    else:
        config = SpectralGPTConfig.from_preset("tiny", temporal_fusion="attention", num_labels=16)
        shape = (options.batch_size, 12, 12, 128, 128)
        dates = 30 * torch.arange(12).expand(options.batch_size, -1)
    model = SpectralGPTForImageClassification(config).train()
    model.gradient_checkpointing_enable()
    pixels, labels = torch.rand(shape), torch.zeros(options.batch_size, dtype=torch.long)
    for number in range(2):
        begin = time.perf_counter(), time.process_time()
        model(pixels, labels=labels, dates=dates).loss.backward()
        wall, used = time.perf_counter() - begin[0], time.process_time() - begin[1]
        print(f"step {number}: {wall:.1f} s, {used:.1f} s of processor time for {' x '.join(map(str, shape))}")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform != "darwin" else 2**30)
    tokens = config.num_groups * (shape[-1] // config.patch_size) ** 2
    print(f"peak memory of the process: {peak:.2f} GiB; {tokens} tokens; {torch.get_num_threads()} threads")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True)
    command = commands.add_parser("start")
    command.add_argument("--chips", type=Path, required=True, help="Folder of Sentinel-2 L1C chips.")
    command.add_argument("--checkpoint", default="tiny")
    command.add_argument("--seeds", type=int, default=3)
    command.add_argument("--mask_ratio", type=float, default=0.75)
    command.set_defaults(run=start)
    command = commands.add_parser("costs")
    command.add_argument("--batch_size", type=int, default=1)
    command.add_argument("--case", choices=["bands", "dates"], help="One of the cases; both by default.")
    command.set_defaults(run=costs)
    options = parser.parse_args()
    options.run(options)


if __name__ == "__main__":
    main()
