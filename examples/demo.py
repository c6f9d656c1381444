"""Reconstruct, map and search a real Sentinel-2 image, with the checkpoints and the image inside the package.

python examples/demo.py [--image scene.tif] [--checkpoint folder_or_hub_id] [--output outputs/demo.png]

The picture shows the image reconstructed from a tenth of its tokens, a map of its land cover, and the sites that are
most like a chosen one.
"""

import argparse
import tempfile
from pathlib import Path

import numpy as np
import rasterio
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from PIL import Image
from transformers.utils import logging

from spectralgpt_hf import (
    SpectralGPTForPreTraining,
    SpectralGPTForSemanticSegmentation,
    SpectralGPTImageProcessor,
    SpectralGPTModel,
)
from spectralgpt_hf.assets import SAMPLE, find_checkpoint
from spectralgpt_hf.inference.embedding import embed_scene
from spectralgpt_hf.inference.maps import class_map
from spectralgpt_hf.inference.pictures import composite, reconstruction_panel
from spectralgpt_hf.inference.prediction import predict_scene
from spectralgpt_hf.inference.reconstruction import (
    psnr,
    reconstruct_image,
    simple_baselines,
    spectral_angle,
)
from spectralgpt_hf.inference.similarity import similarity_map
from spectralgpt_hf.modeling.post_processing import class_colours
from spectralgpt_hf.modeling.rasters import read_raster


NUM_FOUND = 5
APART = 8  # those found lie at least as many patch positions apart, in rows or in columns


def cosine(model: SpectralGPTForPreTraining, first: torch.Tensor, second: torch.Tensor) -> float:
    """Return the cosine similarity of the pooled embeddings of two crops (C, H, W)."""
    with torch.no_grad():
        embeddings = model.spectralgpt(torch.stack([first, second])).pooler_output
    return torch.nn.functional.cosine_similarity(embeddings[0], embeddings[1], dim=0).item()


def land_cover(image: str) -> tuple[np.ndarray, list[str]]:
    """Return the number of the class of each pixel (H, W), and the names of the classes."""
    checkpoint = find_checkpoint("tiny-landcover")
    model = SpectralGPTForSemanticSegmentation.from_pretrained(checkpoint).eval()
    processor = SpectralGPTImageProcessor.from_pretrained(checkpoint)
    with tempfile.TemporaryDirectory() as folder:
        path = predict_scene(model, processor, image, Path(folder, "map.tif"), overlap=0.25, progress=False)
        codes = read_raster(path).pixels[0]
    numbers = np.full(256, 255, np.uint8)
    numbers[model.config.class_codes] = np.arange(len(model.config.class_codes))
    return numbers[codes], [model.config.id2label[number] for number in range(model.config.num_labels)]


def similarity(image: str, row: int, column: int) -> tuple[np.ndarray, int]:
    """Return how similar each patch position (h, w) is to that of a pixel, and the side of one in pixels."""
    checkpoint = find_checkpoint("tiny-zscore")
    model = SpectralGPTModel.from_pretrained(checkpoint).eval()
    processor = SpectralGPTImageProcessor.from_pretrained(checkpoint)
    with tempfile.TemporaryDirectory() as folder:
        path = embed_scene(model, processor, image, Path(folder, "features.tif"), overlap=0.25, progress=False)
        with rasterio.open(path) as dataset:
            features = dataset.read()
    cell = model.config.patch_size
    return similarity_map(features, row // cell, column // cell), cell


def nearest_positions(likeness: np.ndarray, row: int, column: int) -> list[tuple[int, int]]:
    """Return row and column of the positions most similar to a chosen one that are not near it or each other."""
    left, found = np.nan_to_num(likeness, nan=-np.inf), []
    for _ in range(NUM_FOUND + 1):
        left[max(0, row - APART + 1) : row + APART, max(0, column - APART + 1) : column + APART] = -np.inf
        found.append((row, column))
        row, column = (int(index) for index in np.unravel_index(left.argmax(), left.shape))
    return found[1:]


def map_panel(image: str, marks: tuple[tuple[str, int, int], ...], width: int) -> Image.Image:
    """Draw the map of land cover and the search for sites like the first mark, beside the image; `width` in pixels."""
    raster = read_raster(image)
    colours = composite(raster.pixels, raster.band_names or ())
    labels, names = land_cover(image)
    (name, row, column), *_ = marks
    likeness, cell = similarity(image, row, column)
    positions = nearest_positions(likeness, row // cell, column // cell)

    canvas = FigureCanvasAgg(Figure(figsize=(width / 100, 6), dpi=100, layout="constrained"))
    mapped, searched, found = canvas.figure.subplots(1, 3)
    mapped.imshow(class_map(labels, class_colours(names)))
    shares = np.bincount(labels.ravel(), minlength=256)[: len(names)] / labels.size
    patches = [
        Patch(color=class_colours(names)[number] / 255, label=f"{names[number]} {shares[number]:.0%}")
        for number in np.argsort(-shares)
        if shares[number] >= 0.005
    ]
    mapped.set_title("2. Land cover of every pixel, by a model\nthat learnt from five sites", fontsize=12)
    mapped.legend(handles=patches, loc="upper center", bbox_to_anchor=(0.5, 0), ncol=4, fontsize=10, frameon=False)
    searched.imshow(colours)
    searched.set_title(
        f"3. Search: the ring marks a {name},\nthe numbers the {NUM_FOUND} sites most similar to it", fontsize=12
    )
    for number, position in enumerate(positions, 1):
        y, x = ((index + 0.5) * cell for index in position)
        circle = {"boxstyle": "circle,pad=0.2", "facecolor": "yellow"}
        searched.text(x, y, str(number), ha="center", va="center", fontsize=10, bbox=circle)
    shades = found.imshow(likeness, cmap="magma", extent=(0, labels.shape[1], labels.shape[0], 0), vmin=0, vmax=1)
    found.set_title(f"Similarity of each site to that {name}:\nbright is similar, black is not", fontsize=12)
    canvas.figure.colorbar(shades, ax=found, shrink=0.8, label="cosine similarity")
    for axes in (searched, found):
        axes.plot(column, row, "o", markersize=16, markerfacecolor="none", markeredgecolor="cyan", markeredgewidth=3)
    for axes in (mapped, searched, found):
        axes.set_axis_off()
    canvas.draw()
    return Image.fromarray(np.asarray(canvas.buffer_rgba())[..., :3].copy())


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
    title = f"1. The model sees {1 - masked.mean():.0%} of the image and reconstructs the rest"
    upper = reconstruction_panel(result, reflectance, report.bands, MARKS, title=title)
    lower = map_panel(options.image, MARKS, upper.width)
    sheet = Image.new("RGB", (upper.width, upper.height + lower.height), "white")
    sheet.paste(upper, (0, 0))
    sheet.paste(lower, (0, upper.height))
    sheet.save(options.output)
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
