"""Small checkpoints of every task, with random weights."""

from pathlib import Path

import torch

from spectralgpt_hf import (
    SpectralGPTConfig,
    SpectralGPTForChangeDetection,
    SpectralGPTForImageClassification,
    SpectralGPTForPreTraining,
    SpectralGPTForSemanticSegmentation,
    SpectralGPTImageProcessor,
)


LABELS = ["water", "forest", "crops", "urban"]
MODELS = {
    "features": SpectralGPTForPreTraining,
    "classification": SpectralGPTForImageClassification,
    "segmentation": SpectralGPTForSemanticSegmentation,
    "change": SpectralGPTForChangeDetection,
}


def save_checkpoint(task: str, folder: Path, image_size: int = 32, **sensor: object) -> Path:
    """Save a checkpoint of a task; `sensor`, `bands` and `wavelengths` as in the configuration."""
    torch.manual_seed(0)
    labels = ["unchanged", "changed"] if task == "change" else LABELS
    config = SpectralGPTConfig.from_preset(
        "tiny",
        image_size=image_size,
        num_hidden_layers=2,
        hidden_size=48,
        intermediate_size=96,
        decode_hidden_size=16,
        id2label=dict(enumerate(labels)),
        label2id={label: i for i, label in enumerate(labels)},
        **sensor,
    )
    MODELS[task](config).save_pretrained(folder)
    SpectralGPTImageProcessor(**config.band_settings()).save_pretrained(folder)
    return folder
