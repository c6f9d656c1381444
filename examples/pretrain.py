"""Pretrain SpectralGPT on chips cut from Sentinel-2 scenes.

    accelerate launch examples/pretrain.py --scenes scene.tif other_scene/ --output_dir outputs/tiny

A scene is anything that `read_raster` opens: a GeoTIFF, a folder with one file per band, a SAFE product. Options may
also come from a YAML file, which the command line overrides:

    accelerate launch examples/pretrain.py --config examples/configs/pretrain_tiny.yaml --scenes scene.tif
"""

import json
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import set_seed
from torch.utils.data import DataLoader
from tqdm.auto import tqdm
from transformers import get_cosine_schedule_with_warmup

from spectralgpt_hf import SpectralGPTConfig, SpectralGPTForPreTraining, SpectralGPTImageProcessor
from spectralgpt_hf.data.augmentation import keyed_uniform, random_resized_crop
from spectralgpt_hf.data.chips import cut_chips
from spectralgpt_hf.modeling.modeling_spectralgpt import mask_units
from spectralgpt_hf.modeling.pixel_statistics import minimum_maximum, span
from spectralgpt_hf.training.arguments import parse_options
from spectralgpt_hf.training.optimization import parameter_groups


@dataclass
class PretrainingOptions:
    scenes: list[str] = field(metadata={"help": "Sentinel-2 files or folders to learn from."})
    output_dir: str = field(metadata={"help": "Folder of the checkpoint and of log.jsonl."})
    preset: str = field(default="tiny", metadata={"help": "tiny, base, large or huge."})
    model_name_or_path: str | None = field(default=None, metadata={"help": "Checkpoint to go on from."})
    image_size: int = field(default=128, metadata={"help": "Size of the crops, in pixels."})
    chip_size: int = field(default=192, metadata={"help": "Size of the images that crops are taken from, in pixels."})
    chip_stride: int = field(default=96, metadata={"help": "Distance between these images, in pixels."})
    mask_ratio: float = field(default=0.9)
    masking: str = field(default="random", metadata={"help": "random, spatial or spectral."})
    steps: int = field(default=1000)
    batch_size: int = field(default=32, metadata={"help": "Images of a process and a step."})
    gradient_accumulation_steps: int = field(default=1)
    base_learning_rate: float = field(default=2e-4, metadata={"help": "Times the effective batch / 256."})
    warmup_share: float = field(default=0.1)
    weight_decay: float = field(default=0.05)
    max_grad_norm: float = field(default=1.0)
    mixed_precision: str = field(default="no", metadata={"help": "no, bf16 or fp16."})
    save_dtype: str = field(default="float32", metadata={"help": "float32, float16 or bfloat16."})
    log_every: int = field(default=10, metadata={"help": "Steps."})
    seed: int = field(default=0)


def read_images(scenes: list[str], bands: list[str], size: int, stride: int) -> list[torch.Tensor]:
    """Return every chip (C, H, W) without missing pixels, each band scaled to [0, 1] over the chip."""
    images = []
    for scene in tqdm(scenes, desc="Reading scenes", disable=None):
        for chip in cut_chips(scene, size, stride, bands):
            pixels = torch.from_numpy(chip.pixels).float()[None]
            low, high = (value[..., None, None] for value in minimum_maximum(pixels))
            images.append(((pixels - low) / span(low, high))[0])
    if not images:
        raise ValueError(f"No chip of the {len(scenes)} scenes is free of missing pixels: nothing to learn from.")
    return images


def collate(samples: list[tuple[int, torch.Tensor]]) -> dict[str, torch.Tensor]:
    """Stack images of different sizes, padded at the bottom and the right; `extent` tells their true size."""
    ids, images = zip(*samples)
    extent = torch.tensor([image.shape[1:] for image in images])
    batch = torch.zeros(len(images), len(images[0]), *extent.amax(0))
    for padded, image in zip(batch, images):
        padded[:, : image.shape[1], : image.shape[2]] = image
    return {"ids": torch.tensor(ids), "images": batch, "extent": extent}


def main() -> None:
    options = parse_options(PretrainingOptions)
    accelerator = Accelerator(
        mixed_precision=options.mixed_precision, gradient_accumulation_steps=options.gradient_accumulation_steps
    )
    set_seed(options.seed)
    output_dir = Path(options.output_dir)
    output_dir.mkdir(parents=True, exist_ok=True)

    # Model
    settings: dict[str, Any] = {"mask_ratio": options.mask_ratio, "masking": options.masking}
    if options.model_name_or_path:
        model = SpectralGPTForPreTraining.from_pretrained(options.model_name_or_path, **settings)
        model.resize_positions(options.image_size)
    else:
        preset = SpectralGPTConfig.from_preset(options.preset, image_size=options.image_size, **settings)
        model = SpectralGPTForPreTraining(preset)
    config, bands = model.config, list(model.config.bands or ())
    rows = options.image_size // config.patch_size
    _, num_units = mask_units((config.num_channels // config.spectral_patch_size, rows, rows), config.masking)

    # Data
    images = read_images(options.scenes, bands, options.chip_size, options.chip_stride)
    dataset: Any = list(enumerate(images))
    loader = DataLoader(dataset, batch_size=options.batch_size, shuffle=True, drop_last=True, collate_fn=collate)
    if len(images) < options.batch_size * accelerator.num_processes:
        raise ValueError(
            f"{len(images)} images do not fill a batch of {options.batch_size} on {accelerator.num_processes} "
            "processes: give more scenes, a smaller `chip_stride` or a smaller `batch_size`."
        )

    # Optimisation: the paper's recipe
    effective_batch = options.batch_size * accelerator.num_processes * options.gradient_accumulation_steps
    optimizer = torch.optim.AdamW(
        parameter_groups(model, options.weight_decay),
        lr=options.base_learning_rate * effective_batch / 256,
        betas=(0.9, 0.95),
    )
    schedule = get_cosine_schedule_with_warmup(optimizer, int(options.warmup_share * options.steps), options.steps)
    model, optimizer, loader = accelerator.prepare(model, optimizer, loader)
    accelerator.print(
        f"{len(images)} images, {accelerator.num_processes} processes on {accelerator.device.type}, "
        f"effective batch {effective_batch}, {options.steps} steps"
    )

    # Training
    progress = tqdm(total=options.steps, disable=None if accelerator.is_main_process else True)
    log = (output_dir / "log.jsonl").open("w") if accelerator.is_main_process else None
    model.train()
    step, epoch, started = 0, 0, time.perf_counter()
    while step < options.steps:
        for batch in loader:
            with accelerator.accumulate(model):
                crops = random_resized_crop(
                    batch["images"],
                    keyed_uniform(options.seed, epoch, batch["ids"], 5),
                    options.image_size,
                    extent=batch["extent"],
                )
                noise = keyed_uniform(options.seed, epoch, batch["ids"], num_units, stream=1)
                output = model(crops, noise=noise)
                accelerator.backward(output.loss)
                if accelerator.sync_gradients:
                    accelerator.clip_grad_norm_(model.parameters(), options.max_grad_norm)
                optimizer.step()
                optimizer.zero_grad()
            if not accelerator.sync_gradients:
                continue
            schedule.step()
            step += 1
            progress.update()
            if step % options.log_every == 0 or step == options.steps:
                losses = torch.stack([output.loss, output.token_loss, output.spectral_loss]).detach()[None]
                loss, token_loss, spectral_loss = accelerator.gather(losses).mean(0).tolist()
                progress.set_postfix(loss=f"{loss:.4f}")
                if log:
                    record = {
                        "step": step,
                        "epoch": epoch,
                        "loss": loss,
                        "token_loss": token_loss,
                        "spectral_loss": spectral_loss,
                        "learning_rate": schedule.get_last_lr()[0],
                        "samples_per_second": step * effective_batch / (time.perf_counter() - started),
                    }
                    log.write(json.dumps(record) + "\n")
                    log.flush()
            if step == options.steps:
                break
        epoch += 1
    progress.close()

    # The checkpoint: weights, configuration, processor, code
    accelerator.wait_for_everyone()
    if accelerator.is_main_process:
        unwrapped = accelerator.unwrap_model(model)
        unwrapped.to(getattr(torch, options.save_dtype)).save_pretrained(output_dir)
        SpectralGPTImageProcessor(bands=bands).save_pretrained(output_dir)
    accelerator.end_training()


if __name__ == "__main__":
    main()
