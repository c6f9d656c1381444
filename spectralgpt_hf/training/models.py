"""Models to fine-tune: SpectralGPT, or any image model of transformers as a baseline.

A model starts from a checkpoint or from random weights. All weights are trained, or the head alone, or LoRA adapters.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, TypeGuard

import torch
from torch import nn
from transformers import (
    AutoConfig,
    AutoModelForImageClassification,
    AutoModelForSemanticSegmentation,
    PreTrainedConfig,
    PreTrainedModel,
)

from ..modeling.bands import L2A_BANDS
from ..modeling.configuration_spectralgpt import PRESETS, SpectralGPTConfig
from ..modeling.image_processing_spectralgpt import SpectralGPTImageProcessor
from ..modeling.modeling_spectralgpt import (
    SpectralGPTForChangeDetection,
    SpectralGPTForImageClassification,
    SpectralGPTForSemanticSegmentation,
    SpectralGPTPreTrainedModel,
)
from .options import FineTuningOptions, ProblemType, Task


if TYPE_CHECKING:
    from peft import PeftModel


SPECTRALGPT: dict[str, type[SpectralGPTPreTrainedModel]] = {
    "classification": SpectralGPTForImageClassification,
    "segmentation": SpectralGPTForSemanticSegmentation,
    "change-detection": SpectralGPTForChangeDetection,
}
# Two dates are passed to a baseline as the channels of one image.
BASELINES: dict[str, type[AutoModelForImageClassification] | type[AutoModelForSemanticSegmentation]] = {
    "classification": AutoModelForImageClassification,
    "segmentation": AutoModelForSemanticSegmentation,
    "change-detection": AutoModelForSemanticSegmentation,
}
# Entries of the configuration that follow from options or from the classes of the data.
DECIDED = {"bands", "class_weights", "drop_path_rate", "id2label", "image_size", "label2id", "num_channels"} | {
    "num_labels",
    "problem_type",
}
# Heads start from random weights, so all their weights are trained even with LoRA.
HEADS = ("classifier", "decode_head")
BAND_OPTIONS = ("bands", "sensor", "wavelengths")
LAYER_MAPS = r".*\blayers\.\d+\..*(q_proj|k_proj|v_proj|o_proj|fc1|fc2)"


def build_processor(options: FineTuningOptions, task: Task = "classification") -> SpectralGPTImageProcessor:
    """Return the processor that prepares images for training and scores, and is saved with the checkpoint.

    It is the processor of the pretrained SpectralGPT, or else the default one, with the changes that the options and
    the task require. A classifier takes images of one size: they are resized and, with `eval_resize`, cropped at the
    centre. Models for maps take images of any size, with statistics that are measured once per scene: statistics of
    each crop would make seams in a map, and statistics of each date would look like change.
    """
    changes: dict[str, Any] = {
        name: getattr(options, name)
        for name in (*BAND_OPTIONS, "normalization", "statistics_scope", "mean", "std", "missing_bands")
        if getattr(options, name) is not None
    }
    changes |= {"size": options.eval_resize or options.image_size, "do_resize": task == "classification"}
    changes |= {"do_center_crop": options.eval_resize is not None, "crop_size": options.image_size}
    if task != "classification":
        changes["statistics_scope"] = options.statistics_scope or "given"
    config = _load_config(options)
    if options.model_name_or_path is None and is_spectralgpt(config):
        changes |= config.band_settings()
    if options.model_name_or_path is None or not is_spectralgpt(config):
        processor = SpectralGPTImageProcessor(**changes)
    else:
        processor = SpectralGPTImageProcessor.from_pretrained(
            options.model_name_or_path, revision=options.revision, **changes
        )
    if options.mean is not None and processor.normalization not in ("zscore", "sigma_clip"):
        raise ValueError(
            f"`mean` and `std` are for zscore and sigma_clip, not {processor.normalization}: set `normalization`, or "
            "leave them out."
        )
    return processor


def build_model(
    task: str,
    options: FineTuningOptions,
    class_names: Sequence[str],
    class_weights: Sequence[float] | None = None,
    problem_type: ProblemType | None = None,
    class_codes: Sequence[int] | None = None,
) -> PreTrainedModel:
    """Return a model with a new head.

    Args:
        task: "classification", "segmentation" or "change-detection".
        options: Options of the run, which name the model and the weights to train.
        class_names: Names of the classes, in the order of their numbers.
        class_weights: Weight of each class in the loss, saved in the configuration of SpectralGPT's dense heads.
        problem_type: "single_label_classification", "multi_label_classification" or "regression"; None for maps.
        class_codes: Value of each class in maps, saved in the configuration of SpectralGPT.

    Raises:
        ValueError: If the bands do not fit the pretrained model, LoRA does not fit the model, an option has no effect
            on it, or there is only one class to choose from.
    """
    if len(class_names) < 2 and problem_type in ("single_label_classification", None):
        raise ValueError(
            f"Expected two classes or more, found {', '.join(class_names) or 'none'}: a model of one class is always "
            "right. Add samples or a code of other classes."
        )
    config = _load_config(options)
    config.id2label = dict(enumerate(class_names))
    config.label2id = {name: number for number, name in enumerate(class_names)}
    config.problem_type = problem_type
    if options.drop_path_rate is not None:
        if not hasattr(config, "drop_path_rate"):
            raise ValueError(f"`drop_path_rate`: {config.model_type} has no stochastic depth. Leave it out.")
        config.drop_path_rate = options.drop_path_rate
    if is_spectralgpt(config):
        config.class_codes = list(class_codes) if class_codes else None
        model = _build_spectralgpt(task, config, options, class_weights)
    else:
        model = _build_baseline(task, config, options)
    if options.freeze_encoder:
        model.base_model.requires_grad_(False)
    return with_lora(model, options.lora_rank) if options.lora_rank else model


def is_spectralgpt(config: PreTrainedConfig) -> TypeGuard[SpectralGPTConfig]:
    """Return whether a configuration belongs to SpectralGPT, not to a baseline."""
    return config.model_type == "spectralgpt"


def finished(model: "PreTrainedModel | PeftModel") -> PreTrainedModel:
    """Return a model with LoRA's weights merged into its own, and any other model as it is."""
    return model if isinstance(model, PreTrainedModel) else model.merge_and_unload()


@torch.no_grad()
def rescale_outputs(model: PreTrainedModel, mean: torch.Tensor, std: torch.Tensor) -> None:
    """Multiply the outputs (K,) of a model by `std` and add `mean`, by the weights of its last linear layer.

    Raises:
        ValueError: If the head of the model has no such layer.
    """
    layers = [layer for layer in model.get_submodule("classifier").modules() if isinstance(layer, nn.Linear)]
    if not layers or layers[-1].out_features != len(mean) or layers[-1].bias is None:
        raise ValueError(f"Expected a `classifier` that ends with a linear layer, found {type(model).__name__}.")
    weight, bias = layers[-1].weight, layers[-1].bias
    mean, std = mean.to(bias), std.to(bias)
    weight.mul_(std[:, None])
    bias.mul_(std).add_(mean)


def _load_config(options: FineTuningOptions) -> PreTrainedConfig:
    overrides = _parse_overrides(options.config_overrides)
    decided = sorted(set(overrides) & DECIDED)
    if decided:
        raise ValueError(f"`config_overrides` must not hold {', '.join(decided)}: options or data decide it.")
    if options.model_name_or_path is not None:
        if options.sensor is not None or options.wavelengths is not None:
            raise ValueError(
                "`sensor` and `wavelengths` describe a new model (`config_name`), but a checkpoint has its own: leave "
                "them out, or pretrain it for another sensor first (`pretrain.py --sensor`)."
            )
        config = AutoConfig.from_pretrained(options.model_name_or_path, revision=options.revision, **overrides)
        unknown = [name for name in overrides if not hasattr(config, name)]
        if unknown:
            raise ValueError(
                f"`config_overrides`: {config.model_type} has no {', '.join(unknown)} in its configuration."
            )
        return config
    name = options.config_name or ""
    if name in PRESETS:
        own: dict[str, object] = {"image_size": options.image_size}
        if options.sensor is not None:
            own |= {"sensor": options.sensor, "wavelengths": options.wavelengths}
        if options.bands is not None or options.sensor is None:
            bands = options.bands or list(L2A_BANDS)
            own |= {"bands": bands, "num_channels": len(bands)}
        return SpectralGPTConfig.from_preset(name, **own | overrides)
    known = AutoConfig.for_model(name)
    unknown = [entry for entry in overrides if not hasattr(known, entry)]
    if unknown:
        raise ValueError(f"`config_overrides`: {name} has no {', '.join(unknown)} in its configuration.")
    return AutoConfig.for_model(name, **overrides)


def _build_spectralgpt(
    task: str, config: SpectralGPTConfig, options: FineTuningOptions, class_weights: Sequence[float] | None
) -> PreTrainedModel:
    model_class = SPECTRALGPT[task]
    config.class_weights = None if class_weights is None or task == "classification" else list(class_weights)
    if options.bands is not None:
        if len(options.bands) != config.num_channels:
            raise ValueError(
                f"`bands` must be {config.num_channels} bands, as many as the model has channels, got "
                f"{len(options.bands)}: {' '.join(options.bands)}. `mean` may stand for others."
            )
        config.bands = list(config.expected_sensor.resolve_all(options.bands, allow_mean=True))
        config.wavelengths = config.expected_sensor.wavelengths(config.bands)
    if options.model_name_or_path is None:
        return model_class(config)
    # A head for another number of classes is replaced by a new one.
    model = model_class.from_pretrained(
        options.model_name_or_path,
        revision=options.revision,
        config=config,
        dtype="float32",
        ignore_mismatched_sizes=True,
    )
    if model.config.image_size != options.image_size:
        model.resize_positions(options.image_size)
    return model


def _build_baseline(task: str, config: Any, options: FineTuningOptions) -> PreTrainedModel:
    dates = 2 if task == "change-detection" else 1
    config.num_channels = dates * len(options.bands or L2A_BANDS)
    if hasattr(config, "image_size"):
        config.image_size = options.image_size
    if options.model_name_or_path is None:
        return BASELINES[task].from_config(config)
    # The first layer has another number of channels than in pretraining, so it is replaced like the head.
    return BASELINES[task].from_pretrained(
        options.model_name_or_path,
        revision=options.revision,
        config=config,
        dtype="float32",
        ignore_mismatched_sizes=True,
    )


def with_lora(model: PreTrainedModel, rank: int) -> Any:  # a PeftModel, which passes calls on to the model
    try:
        from peft import LoraConfig, get_peft_model
    except ImportError as error:
        raise ImportError("`lora_rank` needs peft: pip install spectralgpt-hf[train].") from error
    heads = [name for name, _ in model.named_children() if name in HEADS]
    if not is_spectralgpt(model.config):
        return get_peft_model(model, LoraConfig(r=rank, target_modules="all-linear", modules_to_save=heads))
    config = LoraConfig(r=rank, lora_alpha=2 * rank, target_modules=LAYER_MAPS, modules_to_save=heads)
    return get_peft_model(model, config)


def _parse_overrides(text: str | None) -> dict[str, object]:
    """Read `hidden_size=64,depths=[1,1]` as YAML values."""
    import yaml

    pairs = yaml.safe_load("{" + text.replace("=", ": ") + "}") if text else {}
    return dict(pairs)
