"""Reconstruct a real Sentinel-2 image from a tenth of its tokens, with the checkpoint and the image inside the package.

python examples/demo.py [--image scene.tif] [--checkpoint folder_or_hub_id] [--output outputs/demo.png]
"""

import argparse
from pathlib import Path

import numpy as np
import torch
from transformers.utils import logging

from spectralgpt_hf import SpectralGPTForPreTraining, SpectralGPTImageProcessor
from spectralgpt_hf.assets import SAMPLE, find_checkpoint
from spectralgpt_hf.inference.pictures import reconstruction_panel
from spectralgpt_hf.inference.reconstruction import (
    psnr,
    reconstruct_image,
    simple_baselines,
    spectral_angle,
)


def cosine(model: SpectralGPTForPreTraining, first: torch.Tensor, second: torch.Tensor) -> float:
    """Return the cosine similarity of the pooled embeddings of two crops (C, H, W)."""
    with torch.no_grad():
        embeddings = model.spectralgpt(torch.stack([first, second])).pooler_output
    return torch.nn.functional.cosine_similarity(embeddings[0], embeddings[1], dim=0).item()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--image", default=str(SAMPLE), help="Sentinel-2 file. Default: the embedded image.")
    parser.add_argument("--checkpoint", default="embedded", help="Folder or name on the Hub. Default: %(default)s.")
    parser.add_argument("--revision", default="main", help="Branch, tag or commit on the Hub. Default: %(default)s.")
    parser.add_argument("--output", type=Path, default=Path("outputs/demo.png"), help="Picture. Default: %(default)s.")
    parser.add_argument("--seed", type=int, default=0, help="Seed of the mask. Default: %(default)s.")
    options = parser.parse_args()
    logging.disable_progress_bar()

    # The weights are stored in half precision; a CPU computes in single precision.
    checkpoint = find_checkpoint(options.checkpoint, options.revision)
    model = SpectralGPTForPreTraining.from_pretrained(checkpoint, revision=options.revision, dtype=torch.float32).eval()
    processor = SpectralGPTImageProcessor.from_pretrained(checkpoint, revision=options.revision)
    inputs, (report,) = processor.preprocess(options.image, report=True)
    image = inputs["pixel_values"][0]
    height, width = report.sizes.original
    print(f"{Path(options.image).name}: {height} x {width} px, {report.crs}, bands {', '.join(report.band_names)}")

    result = reconstruct_image(model, image, seed=options.seed)
    low, scale = (value.numpy()[:, None, None] / 10_000 for value in (report.low, report.scale))
    original, masked = result.original, result.masked
    answers = {"SpectralGPT": result.reconstructed} | simple_baselines(original, masked)
    print(f"\n{masked.mean():.0%} of the tokens masked; the masked ones, reconstructed by:")
    print(f"{'':44}{'PSNR (dB)':>10}{'spectral angle':>16}")
    for name, answer in answers.items():
        angle = spectral_angle(original * scale + low, answer * scale + low, masked)
        print(f"{name:44}{psnr(original, answer, masked):10.2f}{angle:15.2f}°")
    print("The regression is replaced by the interpolation where all bands of a pixel are masked.")

    options.output.parent.mkdir(parents=True, exist_ok=True)
    reflectance = (original * scale + low, result.reconstructed * scale + low)
    reconstruction_panel(result, reflectance, report.bands, MARKS).save(options.output)
    print(f"\nPicture: {options.output}")

    print("\nCosine similarity of pooled embeddings (crops of 128 px):")
    for name, (first, second) in CROPS.items():
        crops = [image[:, row : row + 128, column : column + 128] for row, column in (first, second)]
        print(f"{name:44}{cosine(model, *crops):10.3f}")


# Name, row and column of pixels in the embedded image, and upper left corners (row, column) of crops.
MARKS = (("field", 75, 65), ("water", 400, 192), ("marsh", 410, 380))
CROPS = {
    "alike: marsh and marsh": ((0, 384), (384, 384)),
    "unlike: marsh and fields": ((384, 384), (64, 0)),
}


if __name__ == "__main__":
    np.seterr(all="raise", under="ignore")
    main()
