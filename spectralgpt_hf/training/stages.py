"""Options of pretraining, and what each of its stages makes of them."""

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import torch

from ..modeling.configuration_spectralgpt import SpectralGPTConfig
from ..modeling.image_processing_spectralgpt import SpectralGPTImageProcessor
from .arguments import convert_options, option
from .views import ViewRecipe


# Between the 5th and the 95th percentile of a normal distribution lie so many standard deviations.
PERCENTILES_5_TO_95 = 3.29


@dataclass
class PretrainingOptions:
    # What may differ from stage to stage
    data: str = option("shards", "Folder of Parquet shards.")
    image_size: int = option(128, "Size of the crops, in pixels.")
    bands: list[str] | None = option(None, "Names of the bands, in order; the checkpoint's or the usual 12 by default.")
    mask_ratio: float = option(0.9, "Share of the tokens that is hidden.")
    masking: Literal["random", "spatial", "spectral"] = option("random", "What is hidden together.")
    epochs: float = option(1.0, "Passes over the data.")
    steps: int = option(0, "Instead of `epochs`.")
    schedule_epochs: float | None = option(None, "Length of the cosine, where a stage ends before it does.")
    warmup_share: float = option(0.1, "Of the schedule.")
    batch_size: int = option(32, "Images of a process and a forward pass.")
    gradient_accumulation_steps: int = option(1, "Forward passes of a step.")
    base_learning_rate: float = option(2e-4, "Times the effective batch / 256.")
    config_overrides: str = option("{}", "Other entries of the configuration, a mapping (JSON on the command line).")
    positions: Literal["interpolate", "reinitialise"] = option("interpolate", "Positions of a stage of another size.")
    symmetries: bool = option(False, "Whether to turn and mirror crops in all eight ways, not sideways alone.")
    stretch: float = option(0.0, "Share of its range by which each band may seem to have darker and brighter pixels.")
    crop_scale: float = option(0.2, "Smallest share of an image's area that a crop takes.")
    normalization: Literal["minmax", "zscore"] = option(
        "minmax", "minmax: by the extremes of each image. zscore: by statistics of all shards, which keeps reflectance."
    )
    atmosphere: float = option(
        0.0, "Strength of random haze, water vapour and calibration, with zscore; 1 spans levels 2A and 1C."
    )
    contrast_weight: float = option(
        0.0, "Weight of a contrastive loss between two views of each image, which the paper does not have."
    )
    contrast_temperature: float = option(0.2, "What similarities are divided by in the contrastive loss.")

    # Model and optimisation
    stages: list[str] = option([], "In a YAML file: one mapping of the options above for each stage.")
    preset: Literal["tiny", "base", "large", "huge"] = option("tiny", "Size of a new model.")
    model_name_or_path: str | None = option(None, "Checkpoint to go on from.")
    weight_decay: float = option(0.05, "Not of biases, norms and positions.")
    max_grad_norm: float = option(1.0, "Gradients are clipped to it; 0 for not at all.")
    mixed_precision: Literal["bf16", "fp16", "no"] = option("bf16", "Whatever Accelerate's own configuration says.")
    compile: bool = option(False, "Whether to compile the model.")
    gradient_checkpointing: bool = option(False, "Whether to trade time for memory.")
    max_nonfinite_steps: int = option(20, "Steps in a row that may be skipped because a gradient is not finite.")
    seed: int = option(0, "Of weights, order, crops and masks.")
    num_workers: int = option(2, "Threads that read, of each process.")

    # Output
    output_dir: str = option("outputs/pretraining", "Folder of everything that is written.")
    resume: str = option("no", "auto (the newest checkpoint in `output_dir`, if any), no, or a checkpoint.")
    save_every: int = option(1000, "Steps between checkpoints.")
    total_limit: int = option(3, "How many checkpoints are kept.")
    time_limit: float = option(0.0, "Minutes after which to save a checkpoint and stop; 0 for none.")
    eval_every: int = option(500, "Steps between validations, with a picture.")
    log_every: int = option(10, "Steps between records in log.jsonl.")
    report_to: list[str] = option([], "Trackers: trackio, tensorboard, wandb.")
    save_dtype: Literal["float32", "float16", "bfloat16"] = option("float32", "Of the result.")
    push_to_hub: str | None = option(None, "namespace/name to publish the result as.")


STAGE_OPTIONS = list(PretrainingOptions.__dataclass_fields__)[:21]
# What may change when a run is resumed.
FREE = {"output_dir", "resume", "save_every", "total_limit", "time_limit", "eval_every", "log_every", "report_to"}
FREE |= {"num_workers", "save_dtype", "push_to_hub", "compile", "stages"}


def split_stages(options: PretrainingOptions) -> list[PretrainingOptions]:
    """Return the options of each stage."""
    stages = []
    for number, text in enumerate(options.stages or ["{}"], 1):
        stage = convert_options(json.loads(text), PretrainingOptions, f"stage {number}")
        general = sorted(set(stage) - set(STAGE_OPTIONS))
        if general:
            raise ValueError(f"stage {number}: {', '.join(general)} cannot differ from stage to stage.")
        stages.append(replace(options, **stage))
    return stages


def stage_config(stage: PretrainingOptions, before: SpectralGPTConfig | None) -> SpectralGPTConfig:
    """Return the configuration of a stage: of a new model, or of the one before with other settings."""
    settings = {"mask_ratio": stage.mask_ratio, "masking": stage.masking, **json.loads(stage.config_overrides)}
    settings["image_size"] = stage.image_size
    if stage.bands:
        settings |= {"bands": stage.bands, "num_channels": len(stage.bands)}
    if before is None:
        return SpectralGPTConfig.from_preset(stage.preset, **settings)
    return SpectralGPTConfig.from_dict(before.to_dict() | settings)


def stage_processor(stage: PretrainingOptions, bands: list[str], previous: str | None) -> SpectralGPTImageProcessor:
    """Return the processor that does to images what the stage does to them.

    With zscore, mean and standard deviation are those of the checkpoint before, or else of the shards. The deviation
    comes from percentiles, because a few clouds would double it.

    Raises:
        FileNotFoundError: If zscore needs the statistics of shards that have none.
        ValueError: If `atmosphere` is asked for without zscore.
    """
    if stage.normalization == "minmax":
        if stage.atmosphere:
            raise ValueError("`atmosphere` needs `normalization: zscore`: minmax undoes it. Set one of them.")
        return SpectralGPTImageProcessor(bands=bands)
    before = SpectralGPTImageProcessor.from_pretrained(previous) if previous else None
    if before is not None and before.normalization == "zscore" and before.bands == bands:
        return before
    file = Path(stage.data) / "statistics.json"
    if not file.is_file():
        raise FileNotFoundError(
            f"{file}: expected statistics of the shards for zscore, as `spectralgpt prepare` writes."
        )
    measured = json.loads(file.read_text(encoding="utf-8"))["train"]

    def of_bands(key: str) -> torch.Tensor:
        return torch.tensor([measured[key][measured["bands"].index(band)] for band in bands])

    std = (of_bands("percentile_95") - of_bands("percentile_5")) / PERCENTILES_5_TO_95
    return SpectralGPTImageProcessor(
        bands=bands, normalization="zscore", mean=of_bands("mean").tolist(), std=std.tolist()
    )


def view_recipe(stage: PretrainingOptions, processor: SpectralGPTImageProcessor) -> ViewRecipe:
    """Return how the crops of a stage are normalised and varied."""
    limits = None
    if processor.normalization == "zscore":
        limits = (torch.tensor(processor.mean), torch.tensor(processor.std))
    return ViewRecipe(limits, stage.crop_scale, stage.symmetries, stage.stretch, stage.atmosphere)
