"""Writes the gradient of one step over four maps, shared by accumulated batches and by processes of `torchrun`."""

import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import TrainerCallback

from spectralgpt_hf.data.readers.folders import load_image_masks
from spectralgpt_hf.modeling.bands import L2A_BANDS
from spectralgpt_hf.training.finetuning import FineTuner
from spectralgpt_hf.training.models import build_model, build_processor
from spectralgpt_hf.training.options import FineTuningOptions
from spectralgpt_hf.training.samples import Samples
from tests.data.files import write_image


MODEL = (
    "hidden_size=16,num_hidden_layers=1,num_attention_heads=2,intermediate_size=16,decode_hidden_size=16,"
    "decode_dropout=0.0"
)


class KeepGradient(TrainerCallback):
    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
        self.gradient = torch.cat([weight.grad.flatten() for weight in model.parameters() if weight.grad is not None])


def write_data(folder: Path) -> None:
    """Write four images whose maps label 4 to 256 pixels; one image lacks data in a corner."""
    rng = np.random.default_rng(0)
    for i in range(4):
        pixels = rng.integers(1, 4000, (12, 16, 16), dtype=np.uint16)
        labels = rng.integers(0, 2, (16, 16), dtype=np.uint8)
        labels[2 * (i + 1) :] = 255 if i < 3 else labels[2 * (i + 1) :]
        pixels[:, :8, :8] *= i != 1
        write_image(folder / "images" / f"{i}.tif", pixels)
        write_image(folder / "masks" / f"{i}.png", labels)


def main(data: Path, batch: int, accumulated: int, result: Path) -> None:
    options = FineTuningOptions(
        output_dir=str(result.parent),
        config_name="tiny",
        config_overrides=MODEL,
        image_size=16,
        validation_split="none",
        per_device_train_batch_size=batch,
        gradient_accumulation_steps=accumulated,
        max_steps=1,
        max_grad_norm=0.0,
        save_strategy="no",
        use_cpu=True,
        disable_tqdm=True,
        seed=0,
    )
    torch.manual_seed(0)
    rows = load_image_masks(data, "all", classes=["a", "b"], band_names=L2A_BANDS)
    options.statistics_scope = "image"
    samples = Samples(rows, build_processor(options, "segmentation"))
    weights = [0.2, 1.8]
    model = build_model("segmentation", options, samples.class_names, weights)
    tuner = FineTuner(model, options, samples, class_weights=weights)
    kept = KeepGradient()
    tuner.add_callback(kept)
    tuner.train()
    if tuner.is_world_process_zero():
        torch.save(kept.gradient, result)


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), Path(sys.argv[4]))
