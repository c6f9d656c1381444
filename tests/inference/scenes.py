"""Small scenes and models for tests of whole-scene inference."""

import numpy as np
import rasterio
import torch
from rasterio.windows import Window

from spectralgpt_hf import (
    SpectralGPTConfig,
    SpectralGPTForChangeDetection,
    SpectralGPTForImageClassification,
    SpectralGPTForSemanticSegmentation,
    SpectralGPTImageProcessor,
    SpectralGPTModel,
)
from spectralgpt_hf.assets import SAMPLE


def minimal_config(num_labels=3, **options):
    names = {number: f"class {number}" for number in range(num_labels)}
    sizes = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 64}
    defaults = {**sizes, "image_size": 32, "decode_hidden_size": 16, "id2label": names, "label2id": {}}
    return SpectralGPTConfig.from_preset("tiny", **{**defaults, **options})


def build(model_class, seed=0, **options):
    """Return a model whose logits vary within an image, as those of a trained model do."""
    torch.manual_seed(seed)
    model = model_class(minimal_config(**options)).eval()
    head = getattr(model, "decode_head", model)
    if hasattr(head, "classifier"):
        head.classifier.weight.data *= 30
    return model


def segmenter(**options):
    return build(SpectralGPTForSemanticSegmentation, **options)


def change_detector(**options):
    return build(SpectralGPTForChangeDetection, num_labels=2, **options)


def classifier(**options):
    return build(SpectralGPTForImageClassification, **options)


def encoder(**options):
    return build(SpectralGPTModel, **options)


def processor(**options):
    return SpectralGPTImageProcessor(**options)


def write_scene(path, left=100, top=150, width=90, height=75, change=None, nodata=None):
    """Write a crop of the sample, with all its tags; `change` may alter its pixels (13, height, width)."""
    with rasterio.open(SAMPLE) as sample:
        window = Window(left, top, width, height)
        pixels = sample.read(window=window)
        profile = {"driver": "GTiff", "count": 13, "height": height, "width": width, "dtype": "uint16"}
        if change is not None:
            change(pixels)
        with rasterio.open(
            path, "w", **profile, crs=sample.crs, transform=sample.window_transform(window), nodata=nodata
        ) as dataset:
            dataset.write(pixels)
            dataset.descriptions = sample.descriptions
    return path


def read(path):
    with rasterio.open(path) as dataset:
        return dataset.read()


def cut_corner(pixels):
    """Let a swath end across the scene, with single pixels and a thin line beyond it."""
    rows, columns = np.indices(pixels.shape[1:])
    lost = rows + columns > 90
    lost[70, 80] = lost[60:64, 85] = False
    pixels[:, lost] = 0
