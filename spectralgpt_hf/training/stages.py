"""The options of a pretraining run, and the model, processor and views of each of its stages."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, Field, dataclass, fields, replace
from pathlib import Path
from typing import Any, Literal

import torch
from transformers.initialization import no_init_weights

from ..modeling.configuration_spectralgpt import SpectralGPTConfig
from ..modeling.image_processing_spectralgpt import SpectralGPTImageProcessor
from ..modeling.modeling_spectralgpt import SpectralGPTForPreTraining, SpectralGPTPositionEmbeddings
from .arguments import JsonMapping, build_options, convert_options, option, read_options
from .optimization import computes_in_bfloat16
from .views import ViewRecipe


# Distance between the 5th and the 95th percentile of a normal distribution, in standard deviations.
PERCENTILES_5_TO_95 = 3.29
# Options that had another name in checkpoints of earlier versions.
RENAMED = {"warmup_share": "warmup_ratio"}


@dataclass
class StageOptions:
    """Options that may differ from stage to stage."""

    data: str = option("shards", "Folder of Parquet shards, one shard, or a pattern of shards.")
    image_size: int = option(128, "Height and width of the random crops, in pixels.")
    bands: list[str] | None = option(
        None,
        "Names of the bands, in order. Defaults to those of the checkpoint or stage before, else the 12 of L2A.",
    )
    sensor: str | None = option(
        None,
        "Sensor of the bands, such as landsat-8. Defaults to that of the checkpoint or stage before, or sentinel-2.",
    )
    wavelengths: list[float] | None = option(
        None, "Central wavelengths of the bands in nm, if neither the sensor's table nor the bands' names state them."
    )
    mask_ratio: float = option(0.9, "Share of the tokens that are masked.")
    masking: Literal["random", "spatial", "spectral"] = option(
        "random", "Masks single tokens, all groups of a patch position (spatial), or whole spectral groups (spectral)."
    )
    epochs: float = option(1.0, "Length of the stage, in passes over the data.")
    steps: int = option(0, "Length of the stage, in optimizer steps. Replaces `epochs` unless it is 0.")
    schedule_epochs: float | None = option(
        None, "Length of the cosine schedule, in epochs. Defaults to the length of the stage."
    )
    warmup_ratio: float = option(0.1, "Share of the schedule in which the learning rate rises from 0.")
    batch_size: int = option(32, "Images per process and forward pass.")
    gradient_accumulation_steps: int = option(1, "Forward passes per optimizer step.")
    base_learning_rate: float = option(2e-4, "Learning rate for an effective batch of 256; it scales with the batch.")
    config_overrides: JsonMapping = option(
        JsonMapping(), "Other entries of the model's configuration: a mapping (JSON on the command line)."
    )
    positions: Literal["interpolate", "reinitialise"] = option(
        "interpolate", "How position embeddings begin in a stage whose image size differs from the one before."
    )
    symmetries: bool = option(
        False, "Turns and mirrors crops in all eight ways at random. By default they are only mirrored left to right."
    )
    stretch: float = option(
        0.0,
        "Largest share of its range by which the range of each band grows at random at either end. It needs minmax.",
    )
    crop_scale: float = option(0.2, "Smallest share of an image's area that a crop takes.")
    normalization: Literal["minmax", "zscore"] = option(
        "minmax",
        "minmax scales by the extremes of each image; zscore by statistics of all shards, which keeps reflectance.",
    )
    atmosphere: float = option(
        0.0, "Strength of random haze, water vapour and calibration; 1 spans levels 2A and 1C. It needs zscore."
    )
    contrast_weight: float = option(
        0.0,
        "Weight of a contrastive loss between two views of each image, which the paper does not have. The negative "
        "examples are the views of all other images of the forward pass, in all processes.",
    )
    contrast_temperature: float = option(0.2, "Divisor of the similarities in the contrastive loss.")
    statistics_weight: float = option(
        0.0,
        "Weight of the error of brightness and texture of the bands, as predicted by the pooled features, which the "
        "paper does not have.",
    )

    @property
    def pools_features(self) -> bool:
        """Whether the loss has a term about the pooled features."""
        return self.contrast_weight > 0 or self.statistics_weight > 0

    def __post_init__(self) -> None:
        for name in ("image_size", "batch_size", "gradient_accumulation_steps"):
            _check(name, getattr(self, name), 1)
        for name in (
            "epochs",
            "steps",
            "stretch",
            "base_learning_rate",
            "atmosphere",
            "contrast_weight",
            "statistics_weight",
        ):
            _check(name, getattr(self, name), 0)
        for name in ("warmup_ratio", "crop_scale"):
            _check(name, getattr(self, name), 0, 1)
        if self.schedule_epochs is not None and not self.schedule_epochs > 0:
            raise ValueError(f"`schedule_epochs` must be above 0, or left out, got {self.schedule_epochs}.")
        decided = sorted(set(self.config_overrides) & {"image_size", "bands", "mask_ratio", "masking", "num_channels"})
        if decided:
            raise ValueError(f"`config_overrides` must not hold {', '.join(decided)}: the options decide it.")
        if not self.steps and not self.epochs:
            raise ValueError("`epochs` or `steps` must be above 0.")
        if self.normalization == "minmax" and self.atmosphere:
            raise ValueError("`atmosphere` needs `normalization: zscore`, because minmax removes its effect.")
        if self.normalization == "zscore" and self.stretch:
            raise ValueError("`stretch` needs `normalization: minmax`, whose values are between 0 and 1.")


@dataclass
class RuntimeOptions:
    """Options that may change when a run is resumed, because the learned weights do not depend on them."""

    compile: bool = option(False, "Compiles the model with torch.compile.")
    num_workers: int = option(
        2, "Threads per process that read and decode shards. Batches do not depend on their number."
    )
    output_dir: str = option("outputs/pretraining", "Folder of everything that is written.")
    resume: str = option(
        "no", "auto resumes from the newest checkpoint in `output_dir` if there is one; or the folder of a checkpoint."
    )
    save_every: int = option(1000, "Steps between checkpoints.")
    total_limit: int = option(3, "Number of checkpoints that are kept; the oldest are deleted.")
    time_limit: float = option(0.0, "Minutes after which the run saves a checkpoint and stops. 0 means no limit.")
    eval_every: int = option(500, "Steps between validations, each with a picture.")
    log_every: int = option(10, "Steps between records in log.jsonl.")
    report_to: list[str] = option([], "Trackers that get the records too: trackio, tensorboard, wandb.")
    save_dtype: Literal["float32", "float16", "bfloat16"] = option("float32", "Type of the weights of the result.")
    push_to_hub: str | None = option(None, "Repository (namespace/name) to publish the result as.")


@dataclass
class PretrainingOptions(RuntimeOptions, StageOptions):
    """All options of a run. Those of `StageOptions` hold for every stage that does not set them itself."""

    stages: list[JsonMapping] = option([], "In a YAML file: a list with a mapping of options for each stage.")
    preset: Literal["tiny", "base", "large", "huge"] | None = option(
        None, "Size of a new model, which is tiny by default. It is refused beside `model_name_or_path`."
    )
    model_name_or_path: str | None = option(
        None,
        "Checkpoint that the first stage starts from: a folder, or a name on the Hub. By default the model is new.",
    )
    weight_decay: float = option(0.05, "Weight decay of AdamW. Biases, norms, positions and learned tokens have none.")
    max_grad_norm: float = option(1.0, "Norm to which gradients are clipped. 0 turns clipping off.")
    mixed_precision: Literal["auto", "bf16", "fp16", "no"] = option(
        "auto",
        "Type of the arithmetic of a step. It wins over Accelerate's configuration; `no` means float32, `auto` bf16 "
        "where the processor or GPU computes with it, else float32.",
    )
    gradient_checkpointing: bool = option(False, "Recomputes activations in the backward pass to save memory.")
    max_nonfinite_steps: int = option(20, "Steps in a row with a gradient that is not finite before the run ends.")
    seed: int = option(0, "Seed of the weights, the order of the data, the crops and the masks.")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.model_name_or_path and self.preset:
            raise ValueError(
                f"`preset` {self.preset} is the size of a new model, but `model_name_or_path` names a model that has "
                f"its size already: {self.model_name_or_path}. Set one of them."
            )
        if not self.model_name_or_path:
            self.preset = self.preset or "tiny"
        for name in ("save_every", "total_limit", "eval_every", "log_every", "num_workers"):
            _check(name, getattr(self, name), 1)
        for name in ("weight_decay", "max_grad_norm", "max_nonfinite_steps", "time_limit"):
            _check(name, getattr(self, name), 0)
        # What a run records and compares when it resumes is the type itself.
        if self.mixed_precision == "auto":
            self.mixed_precision = "bf16" if computes_in_bfloat16() else "no"


STAGE_OPTIONS = {entry.name for entry in fields(StageOptions)}
RUNTIME_OPTIONS = {entry.name for entry in fields(RuntimeOptions)}


def parse_pretraining_options(argv: Sequence[str] | None = None) -> PretrainingOptions:
    """Read the options of a run from the command line and from a YAML file.

    The command line wins over the file, and over each of the file's stages.

    Raises:
        ValueError, FileNotFoundError: As `parse_options`; the message names the file, the stage and the key.
    """
    file, command_line, source = read_options(PretrainingOptions, argv)
    if command_line.get("model_name_or_path") and "preset" not in command_line:
        file.pop("preset", None)  # a checkpoint on the command line replaces the new model of the file
    overridden = set(command_line)
    if "epochs" in overridden and "steps" not in overridden:
        overridden.add("steps")  # otherwise the steps of the file would replace the epochs
        command_line["steps"] = 0
    stages = command_line.get("stages", file.get("stages", []))
    kept = []
    for number, stage in enumerate(stages, 1):
        options = _stage_settings(stage, f"{source}: stage {number}")
        kept.append(JsonMapping({name: value for name, value in options.items() if name not in overridden}))
    return build_options(PretrainingOptions, file | command_line | {"stages": kept})


def split_stages(options: PretrainingOptions) -> list[PretrainingOptions]:
    """Return the options of each stage."""
    stages = []
    for number, mapping in enumerate(options.stages or [{}], 1):
        settings = _stage_settings(mapping, f"stage {number}")
        try:
            stages.append(replace(options, **settings))
        except ValueError as error:
            raise ValueError(f"stage {number}: {error}") from error
    default = next(entry.default for entry in fields(StageOptions) if entry.name == "contrast_temperature")
    changed = any(stage.contrast_temperature != default for stage in stages)
    if changed and not any(stage.contrast_weight for stage in stages):
        raise ValueError("`contrast_temperature` has no effect without a `contrast_weight` above 0. Leave it out.")
    return stages


def complete_settings(saved: Mapping[str, Any]) -> dict[str, object]:
    """Return the options with which a checkpoint was written. Options that did not exist then have their defaults."""
    known = {RENAMED.get(name, name): value for name, value in saved.items()}
    defaults = {entry.name: _default(entry) for entry in fields(PretrainingOptions)}
    known["config_overrides"] = JsonMapping(known.get("config_overrides", {}))
    if known.get("model_name_or_path"):
        known["preset"] = None  # earlier versions recorded a preset that they did not use
    return {**defaults, **known}


def _default(entry: Field[object]) -> object:
    return entry.default if entry.default_factory is MISSING else entry.default_factory()


def build_model(stage: PretrainingOptions, previous: str | Path | None) -> SpectralGPTForPreTraining:
    """Return the model of a stage, new or from a checkpoint, with positions for the image size and bands."""
    if previous is None:
        return SpectralGPTForPreTraining(_new_config(stage))
    model = SpectralGPTForPreTraining.from_pretrained(previous, dtype=torch.float32, **_model_settings(stage))
    _fit_positions(model, stage)
    return model


def _model_settings(stage: PretrainingOptions) -> dict[str, Any]:
    return {"mask_ratio": stage.mask_ratio, "masking": stage.masking, **stage.config_overrides}


def _new_config(stage: PretrainingOptions) -> SpectralGPTConfig:
    settings = {**_model_settings(stage), "image_size": stage.image_size}
    if stage.bands:
        settings |= {"bands": stage.bands, "num_channels": len(stage.bands)}
    settings |= {name: getattr(stage, name) for name in ("sensor", "wavelengths") if getattr(stage, name)}
    return SpectralGPTConfig.from_preset(stage.preset or "tiny", **settings)


def _fit_positions(model: SpectralGPTForPreTraining, stage: PretrainingOptions) -> None:
    """Change the image size, the bands and their sensor of a model to those of a stage."""
    resized = stage.image_size != model.config.image_size
    if stage.sensor not in (None, model.config.sensor) or stage.wavelengths:
        bands = stage.bands or SpectralGPTConfig(sensor=stage.sensor or model.config.sensor).bands
        model.resize_bands(bands or (), stage.wavelengths, stage.sensor)
        model.resize_positions(stage.image_size)
    else:
        model.resize_positions(stage.image_size, stage.bands)
    if resized and stage.positions == "reinitialise":
        for module in model.modules():
            if isinstance(module, SpectralGPTPositionEmbeddings):
                module.spatial_position_embeddings.data = module.sine_cosine_positions()


def check_model(stage: PretrainingOptions, before: SpectralGPTConfig | None) -> SpectralGPTConfig:
    """Build the model of a stage on the meta device from the configuration of the stage before; return its own."""
    with torch.device("meta"), no_init_weights():
        if before is None:
            return SpectralGPTForPreTraining(_new_config(stage)).config
        config = SpectralGPTConfig.from_dict(before.to_dict() | _model_settings(stage))
        model = SpectralGPTForPreTraining(config)
        old, new = (_shapes(one) for one in (SpectralGPTForPreTraining(before), model))
        changed = sorted(name for name in old.keys() | new.keys() if old.get(name) != new.get(name))
        if changed:
            raise ValueError(
                f"`config_overrides` {dict(stage.config_overrides)} must not change the shapes of the weights of the "
                f"stage before, but would change {len(changed)} of them, such as {changed[0]}: {old.get(changed[0])} "
                f"to {new.get(changed[0])}."
            )
        _fit_positions(model, stage)
        return model.config


def _shapes(model: SpectralGPTForPreTraining) -> dict[str, tuple[int, ...]]:
    return {name: tuple(weight.shape) for name, weight in model.state_dict().items()}


def stage_processor(
    stage: PretrainingOptions,
    bands: list[str],
    previous: str | Path | None,
    config: SpectralGPTConfig | None = None,
) -> SpectralGPTImageProcessor:
    """Return the processor that normalises images as the stage does.

    With zscore, mean and standard deviation are those of the checkpoint before, or else those of the shards. The
    deviation is computed from percentiles, because a few clouds would double the usual estimate. `config` holds the
    sensor of `bands`, by default Sentinel-2.

    Raises:
        FileNotFoundError: If zscore needs the statistics of shards that have none.
    """
    own: dict[str, Any] = {"bands": bands} if config is None else config.band_settings()
    if stage.normalization == "minmax":
        return SpectralGPTImageProcessor(**own)
    before = SpectralGPTImageProcessor.from_pretrained(previous) if previous else None
    is_same = before is not None and (config is None or before.sensor == config.sensor)
    if before is not None and before.normalization == "zscore" and before.bands == bands and is_same:
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
    return SpectralGPTImageProcessor(**own, normalization="zscore", mean=of_bands("mean").tolist(), std=std.tolist())


def view_recipe(stage: PretrainingOptions, processor: SpectralGPTImageProcessor) -> ViewRecipe:
    """Return the settings with which the crops of a stage are normalised and varied."""
    limits = None
    if processor.normalization == "zscore":
        if processor.mean is None or processor.std is None:
            raise ValueError("Expected a processor with `mean` and `std` for normalization='zscore'.")
        mean, std = ([values[band] for band in processor.bands] for values in (processor.mean, processor.std))
        limits = (torch.tensor(mean), torch.tensor(std))
    return ViewRecipe(limits, stage.crop_scale, stage.symmetries, stage.stretch, stage.atmosphere)


def _check(name: str, value: float, least: float, most: float = math.inf) -> None:
    if not least <= value <= most:
        limits = f"{least} or more" if most == math.inf else f"between {least} and {most}"
        raise ValueError(f"`{name}` must be {limits}, got {value}.")


def _stage_settings(mapping: Mapping[str, object], source: str) -> dict[str, Any]:
    settings = convert_options(mapping, PretrainingOptions, source)
    general = sorted(set(settings) - STAGE_OPTIONS)
    if general:
        raise ValueError(f"{source}: {', '.join(general)} cannot differ from stage to stage.")
    return settings
