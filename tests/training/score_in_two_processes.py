"""Scores 21 images with several labels in all processes of `torchrun`, with the Trainer that fine-tunes."""

import json
import sys
from pathlib import Path

import numpy as np
import torch
from datasets import ClassLabel, List

from spectralgpt_hf import SpectralGPTConfig, SpectralGPTForImageClassification, SpectralGPTImageProcessor
from spectralgpt_hf.data.readers.columns import MultispectralImage
from spectralgpt_hf.data.readers.common import build_dataset
from spectralgpt_hf.modeling.bands import L2A_BANDS
from spectralgpt_hf.training.finetuning import FineTuner
from spectralgpt_hf.training.options import FineTuningOptions
from spectralgpt_hf.training.samples import Samples


def main(folder: Path) -> None:
    options = FineTuningOptions(
        output_dir=str(folder / "run"),
        config_name="tiny",
        validation_split="none",
        per_device_eval_batch_size=4,
        use_cpu=True,
        disable_tqdm=True,
    )
    rng, rank = np.random.default_rng(0), options.process_index
    images = rng.integers(1, 4000, (21, 12, 16, 16), dtype=np.uint16)
    files = [folder / f"{rank}_{i}.npy" for i in range(len(images))]
    for file, image in zip(files, images):
        np.save(file, image)
    truth = rng.random((21, 3)) < 0.4
    labels = [np.flatnonzero(row).tolist() for row in truth]
    dataset = build_dataset(
        folder,
        [file.stem for file in files],
        MultispectralImage(list(L2A_BANDS), band_names=list(L2A_BANDS)),
        [str(file) for file in files],
        labels=(List(ClassLabel(names=["a", "b", "c"])), labels),
    )
    torch.manual_seed(0)
    config = SpectralGPTConfig(
        hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16, image_size=16, num_labels=3
    )
    model = SpectralGPTForImageClassification(config).eval()
    samples = Samples(dataset, SpectralGPTImageProcessor())
    tuner = FineTuner(model, options, samples)
    result = tuner.score(samples)
    if rank == 0:
        pixels = torch.stack([samples[i]["pixel_values"] for i in range(21)])
        with torch.no_grad():
            np.save(folder / "logits.npy", tuner.accelerator.unwrap_model(model)(pixels).logits.numpy())
        np.save(folder / "labels.npy", truth)
        found = {"world_size": torch.distributed.get_world_size(), "scores": result["scores"]}
        (folder / "scores.json").write_text(json.dumps(found))
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
