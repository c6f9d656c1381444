"""Options of the fine-tuning scripts: those of `transformers.TrainingArguments`, and those of this package."""

from collections.abc import Callable, Collection
from dataclasses import dataclass, fields
from enum import Enum
from pathlib import Path
from typing import Literal, TypeAlias

import torch
import yaml
from transformers import TrainingArguments
from transformers.trainer_utils import get_last_checkpoint

from ..assets import find_checkpoint
from .arguments import option


Task: TypeAlias = Literal["classification", "segmentation", "change-detection"]
ProblemType: TypeAlias = Literal["single_label_classification", "multi_label_classification", "regression"]


# Options of the Trainer that this project sets itself, and the reason or the option to use instead.
DECIDED = {
    "optim": "AdamW with rates by layer is used",
    "optim_args": "AdamW with rates by layer is used",
    "label_smoothing_factor": "pass `label_smoothing`",
    "label_names": "the samples decide it",
    "metric_for_best_model": "the main score of the task chooses the checkpoint",
    "greater_is_better": "the main score of the task chooses the checkpoint",
    "remove_unused_columns": "the samples decide it",
    "batch_eval_metrics": "scores are computed over whole sets",
}
FIXED: dict[str, tuple[object, ...]] = {
    "optim": ("adamw_torch", "adamw_torch_fused"),
    "label_names": (["labels", "ids"],),
    "remove_unused_columns": (False,),
    "batch_eval_metrics": (True,),
}

Condition: TypeAlias = Callable[[Task, str, ProblemType | None], bool]


def _own_maps(task: Task, dataset: str, problem_type: ProblemType | None) -> bool:
    return dataset == "folder" and task != "classification"


def _images(task: Task, dataset: str, problem_type: ProblemType | None) -> bool:
    return task == "classification"


def _single_label(task: Task, dataset: str, problem_type: ProblemType | None) -> bool:
    return task == "classification" and problem_type in (None, "single_label_classification")


def _one_class_each(task: Task, dataset: str, problem_type: ProblemType | None) -> bool:
    return problem_type in (None, "single_label_classification")


def _pairs(task: Task, dataset: str, problem_type: ProblemType | None) -> bool:
    return dataset == "folder" and task == "change-detection"


APPLIES: dict[str, tuple[Condition, str]] = {
    "classes": (_own_maps, "maps of your own (`dataset: folder`)"),
    "class_names": (lambda task, dataset, _: dataset == "folder", "classes of your own (`dataset: folder`)"),
    "ignored_codes": (_own_maps, "maps of your own (`dataset: folder`)"),
    "band_names": (lambda task, dataset, _: dataset in ("folder", "segmunich"), "the datasets folder and segmunich"),
    "images": (
        lambda task, dataset, _: dataset == "folder" and task == "segmentation",
        "segmentation of images of your own (`dataset: folder`)",
    ),
    "series": (
        lambda task, dataset, _: dataset == "folder" and task != "change-detection",
        "classes and maps of images of your own (`dataset: folder`)",
    ),
    "before": (_pairs, "change detection with pairs of your own (`dataset: folder`)"),
    "after": (_pairs, "change detection with pairs of your own (`dataset: folder`)"),
    "masks": (_own_maps, "maps of your own (`dataset: folder`)"),
    "holdout": (_own_maps, "maps of your own (`dataset: folder`)"),
    "crop_stride": (
        lambda task, dataset, _: dataset in ("folder", "oscd") and task != "classification",
        "maps of scenes (the datasets folder and oscd)",
    ),
    "crop_scale": (_images, "classification"),
    "random_erasing": (_images, "classification"),
    "eval_resize": (_images, "classification"),
    "probe_first": (_one_class_each, "images or pixels with one class each"),
    "mixup": (_single_label, "classification with one label per image"),
    "cutmix": (_single_label, "classification with one label per image"),
    "label_smoothing": (_single_label, "classification with one label per image"),
    "class_weights": (_one_class_each, "images or pixels with one class each"),
}
"""Options that have an effect in some runs only: a condition on task, dataset and problem type, and its description."""

ALWAYS_RECORDED = (
    "num_train_epochs",
    "per_device_train_batch_size",
    "gradient_accumulation_steps",
    "learning_rate",
    "lr_scheduler_type",
    "warmup_steps",
    "weight_decay",
    "max_grad_norm",
    "seed",
    "image_size",
    "layer_decay",
    "class_weights",
)
NOT_RECORDED = {
    "dataset": "is an entry of its own",
    "model_name_or_path": "is an entry of its own, `base_model`",
    "hub_dataset": "is written to `.eval_results`",
    "data_dir": "is a path of one machine",
    "images": "is a path of one machine",
    "before": "is a path of one machine",
    "after": "is a path of one machine",
    "masks": "is a path of one machine",
    "classes": "may be a path; the names of the classes are recorded with the scores",
    "dry_run": "nothing is trained with it",
    "in_memory": "changes the speed only",
}


@dataclass
class FineTuningOptions(TrainingArguments):
    """Options of data, model, optimisation and regularisation; others, such as `num_train_epochs`, are the Trainer's.

    Raises:
        ValueError: If options exclude each other.
        FileNotFoundError: If there is no checkpoint `model_name_or_path`.
    """

    # Data
    dataset: str = option("folder", "Name of the dataset, as the script lists them; `folder` reads data of your own.")
    data_dir: str = option(".", "Folder that holds the data, directly or in folders below.")
    train_split: str = option("train", "Split to learn from; some datasets also take a file that lists samples.")
    validation_split: str = option(
        "validation", "Split that chooses the checkpoint and stops training early; `none` leaves both out."
    )
    test_split: str = option("test", "Split that is scored once, at the end; `none` leaves the test out.")
    train_share: float = option(
        1.0, "Share of the training split to learn from, 0 to 1; `data_seed` is the seed of the choice."
    )
    classes: str | None = option(
        None,
        "Codes and names of the classes of own maps: `1=water,2=trees` or a YAML file. By default, the codes found in "
        "the maps.",
    )
    class_names: list[str] | None = option(None, "Names of the classes of own data, if their codes are 0, 1, ...")
    ignored_codes: list[int] | None = option(None, "Codes of own maps that mean no class; 255 by default.")
    band_names: list[str] | None = option(None, "Band names of own files, in order, where these do not name them.")
    images: str | None = option(None, "Folder of own images, or a pattern; found by default.")
    before: str | None = option(None, "Folder of own images of the first date, or a pattern; found by default.")
    after: str | None = option(None, "Folder of own images of the second date, or a pattern; found by default.")
    masks: str | None = option(None, "Folder of own maps, or a pattern; found by default.")
    holdout: Literal["file", "spatial", "auto"] = option(
        "file",
        "What is held out of own maps without splits: whole files (`file`), square blocks of the images (`spatial`), "
        "or blocks where there are few files and else whole files (`auto`).",
    )
    dry_run: bool = option(False, "Whether to stop after the summary of the data, before training.")
    crop_stride: int | None = option(
        None, "Distance between the training crops of a scene, in pixels; the image size by default."
    )
    series: bool = option(
        False,
        "Whether own images of the same name apart from a date are the dates of one sample (`a_20200103.tif` and "
        "`a_20200301.tif`).",
    )
    offset: float | None = option(
        None,
        "Number that is added to the digital numbers, such as -1000 for products since baseline 04.00. By default, "
        "the offset that the files state.",
    )
    nodata: float | None = option(None, "Stored value that means no data. By default, that which the files declare.")
    in_memory: bool = option(False, "Whether to keep the normalised samples in memory, which suits small datasets.")

    # Model
    model_name_or_path: str | None = option(
        None,
        "Pretrained SpectralGPT, or another image model as a baseline: a folder, a name on the Hub, or `tiny`, which "
        "comes with the package.",
    )
    revision: str = option("main", "Branch, tag or commit of the pretrained model on the Hub.")
    config_name: str | None = option(
        None, "Architecture for random weights: tiny, base, large, huge, or a model type of transformers."
    )
    config_overrides: str | None = option(
        None, "Entries of the configuration to change, such as `decode_hidden_size=32,decode_dropout=0.0`."
    )
    image_size: int = option(128, "Height and width of the model's input in pixels.")
    bands: list[str] | None = option(None, "Bands of the model's input; those of the checkpoint by default.")
    sensor: str | None = option(None, "Sensor of a new model's bands, such as landsat-8; sentinel-2 by default.")
    wavelengths: list[float] | None = option(
        None,
        "Central wavelengths of a new model's bands in nm, if neither the sensor's table nor names state them.",
    )
    normalization: str | None = option(None, "minmax, percentile, zscore or sigma_clip; the checkpoint's by default.")
    statistics_scope: str | None = option(
        None,
        "Pixels on which the limits of normalisation are measured: those of each image (`image`), or those that "
        "`statistics` selects (`given`). Default: `given` for maps, else the checkpoint's.",
    )
    statistics: str = option(
        "scene",
        "Pixels on which the limits are measured if `statistics_scope` is `given`: those of each scene or pair of "
        "dates (`scene`), or those of the training set (`dataset`).",
    )
    mean: list[float] | None = option(
        None, "Mean of each of the model's bands in digital numbers, for zscore and sigma_clip."
    )
    std: list[float] | None = option(
        None, "Standard deviation of each of the model's bands, for zscore and sigma_clip."
    )
    missing_bands: str | None = option(
        None,
        "What replaces a band that the files lack: error (nothing does), nearest, mean or mask. Default: the "
        "checkpoint's.",
    )
    freeze_encoder: bool = option(False, "Whether the encoder keeps its weights, so that only the head learns.")
    lora_rank: int = option(
        0, "Rank of LoRA adapters, which are trained instead of the encoder's weights; 0 trains all weights."
    )
    drop_path_rate: float | None = option(
        None,
        "Probability of dropping the last layer; it rises linearly from the first layer (stochastic depth). The "
        "checkpoint's by default.",
    )

    # Optimisation
    base_learning_rate: float | None = option(
        None, "Learning rate for a batch of 256, scaled with the effective batch; replaces `learning_rate`."
    )
    layer_decay: float = option(
        1.0, "Learning rate of a layer divided by that of the next one; SpectralGPT only, 1 for equal rates."
    )
    epoch_decay: float | None = option(
        None, "Learning rate of an epoch divided by that of the epoch before; replaces the schedule."
    )
    warmup_ratio: float | None = option(None, "Share of all steps in which the learning rate rises from 0.")
    frozen_share: float = option(
        0.0, "Share of the training, at its beginning, in which the encoder keeps its weights and only the head learns."
    )
    probe_first: bool = option(
        False,
        "Whether the head starts as what can be solved exactly, and stays so where no evaluation is clearly better: a "
        "classifier as the linear discriminant of the frozen features, with `pixel_skip` as the mean of it and of that "
        "of the statistics of bands; a model of segmentation or change with `pixel_skip` as the logistic regression of "
        "its pixels (SpectralGPT only; one class for each image or pixel).",
    )
    class_weights: str = option(
        "none",
        "Weights of the classes in the loss: none, root (inverse to the root of the share), balanced (inverse to the "
        "share), change (the authors' rule for OSCD), or `0.4,1.6`.",
    )
    early_stopping_patience: int = option(
        0, "Number of evaluations without a better score after which training stops; 0 never stops it."
    )

    # Regularisation
    crop_scale: float | None = option(
        None, "Smallest share of an image that a random crop takes (classification); no random crops by default."
    )
    symmetries: bool = option(False, "Whether images and maps are flipped and rotated by 90 degrees at random.")
    mixup: float = option(
        0.0, "Parameter of mixup's beta distribution; 0 turns mixup off (single-label classification)."
    )
    cutmix: float = option(
        0.0, "Parameter of cutmix's beta distribution; 0 turns cutmix off (single-label classification)."
    )
    label_smoothing: float = option(
        0.0, "Share of a label that is spread over all classes (single-label classification)."
    )
    random_erasing: float = option(0.0, "Share of the images of which a box is erased (classification).")

    # Scores
    eval_resize: int | None = option(
        None,
        "Size in pixels to resize to before the centre crop of `image_size` (classification); saved in the processor.",
    )
    bootstrap_resamples: int = option(200, "Number of resamples behind the 95 % intervals of the scores.")
    hub_dataset: str | None = option(
        None,
        "Dataset on the Hub whose test split is scored: namespace/name, or namespace/name/task. The score is written "
        "to `.eval_results`, which the Hub shows with the dataset.",
    )

    def __post_init__(self) -> None:
        self._refuse_without_effect()
        self.dataloader_pin_memory = self.dataloader_pin_memory and torch.accelerator.is_available()
        # What the data, the collator and the scores rely on.
        self.remove_unused_columns, self.label_names, self.batch_eval_metrics = False, ["labels", "ids"], True
        if self.frozen_share:
            self.ddp_find_unused_parameters = True
        self.has_validation = self.validation_split != "none"
        if not self.has_validation:
            self.eval_strategy = "no"
        else:
            self.eval_strategy = "epoch" if self.eval_strategy == "no" else self.eval_strategy
            self.save_strategy, self.load_best_model_at_end = self.eval_strategy, True
        # The Trainer would push every checkpoint without checks. The scripts check and publish the last one.
        self.publish, self.push_to_hub = self.push_to_hub, False
        if self.warmup_ratio is not None:
            if self.warmup_steps:
                raise ValueError("`warmup_ratio` and `warmup_steps` exclude each other.")
            self.warmup_steps = self.warmup_ratio  # transformers treats a value below 1 as a share of all steps
        super().__post_init__()
        if self.base_learning_rate is not None:
            batch = self.train_batch_size * self.world_size * self.gradient_accumulation_steps
            self.learning_rate = self.base_learning_rate * batch / 256
        if (self.model_name_or_path is None) == (self.config_name is None):
            raise ValueError("Pass either `model_name_or_path` (pretrained) or `config_name` (random weights).")
        if self.model_name_or_path is not None:
            self.model_name_or_path = find_checkpoint(self.model_name_or_path, self.revision)
        if self.statistics not in ("scene", "dataset"):
            raise ValueError(f"`statistics` must be 'scene' or 'dataset', got {self.statistics!r}.")
        if self.publish and not self.hub_model_id:
            raise ValueError("`push_to_hub` needs `hub_model_id`: namespace/name.")
        check_hub_dataset(self.hub_dataset)
        if not self.learning_rate > 0:
            raise ValueError(f"`learning_rate` must be above 0, got {self.learning_rate}.")
        if not 0 <= self.frozen_share < 1:
            raise ValueError(f"`frozen_share` must be 0 or more and below 1, got {self.frozen_share}.")
        if self.freeze_encoder and (self.lora_rank or self.frozen_share):
            other = "lora_rank" if self.lora_rank else "frozen_share"
            raise ValueError(f"`freeze_encoder` and `{other}` exclude each other.")
        if self.frozen_share and self.lora_rank:
            raise ValueError("`frozen_share` and `lora_rank` exclude each other.")
        if self.early_stopping_patience and not self.has_validation:
            raise ValueError("Early stopping needs a `validation_split`.")
        if self.classes is not None and self.class_names is not None:
            raise ValueError("`classes` and `class_names` exclude each other: both name the classes.")
        if self.resume_from_checkpoint == "last":
            folder = self.output_dir or "."
            self.resume_from_checkpoint = get_last_checkpoint(folder) if Path(folder).is_dir() else None

    def _refuse_without_effect(self) -> None:
        """Refuse options of the Trainer that this project decides itself, and those that others replace."""
        defaults = {entry.name: entry.default for entry in fields(TrainingArguments)}
        for name, reason in DECIDED.items():
            if getattr(self, name) not in (defaults[name], None, *FIXED.get(name, ())):
                raise ValueError(f"`{name}` has no effect here: {reason}. Leave it out.")
        if self.epoch_decay is not None:
            replaced = ("lr_scheduler_type", "warmup_ratio", "warmup_steps")
            given = [name for name in replaced if getattr(self, name) not in (defaults.get(name), None, 0)]
            if given:
                raise ValueError(
                    f"`epoch_decay` replaces the schedule, and {', '.join(given)} with it: set one of them."
                )
        if self.base_learning_rate is not None and self.learning_rate != defaults["learning_rate"]:
            raise ValueError("`base_learning_rate` replaces `learning_rate`: set one of them.")

    def check_applies(self, task: Task, problem_type: ProblemType | None = None) -> None:
        """Raise a `ValueError` that names the first option that was set and has no effect.

        Args:
            task: "classification", "segmentation" or "change-detection".
            problem_type: Problem type of the classifier; None before the data have been read.
        """
        for name in self._without_effect(task, problem_type):
            kind = f"{task} ({problem_type})" if problem_type else task
            raise ValueError(
                f"`{name}` is for {APPLIES[name][1]}, and has no effect for {kind} with the dataset {self.dataset}: "
                "leave it out."
            )

    def leave_out(self, names: Collection[str], task: Task, problem_type: ProblemType | None) -> list[str]:
        """Set those of some options that have no effect to their defaults, and return them.

        A recipe of this package is written before the data are known: it may hold options of which only some apply.
        """
        left_out = [name for name in self._without_effect(task, problem_type) if name in names]
        for entry in fields(FineTuningOptions):
            if entry.name in left_out:
                setattr(self, entry.name, entry.default)
        return left_out

    def _without_effect(self, task: Task, problem_type: ProblemType | None) -> list[str]:
        return [
            entry.name
            for entry in fields(FineTuningOptions)
            if entry.name in APPLIES
            and getattr(self, entry.name) != entry.default
            and not APPLIES[entry.name][0](task, self.dataset, problem_type)
        ]

    def recorded(self) -> dict[str, object]:
        """Return the settings that `metrics.json` and the card state: all that the result depends on."""
        own = {entry.name for entry in fields(FineTuningOptions)} - {entry.name for entry in fields(TrainingArguments)}
        changed = [
            entry.name
            for entry in fields(FineTuningOptions)
            if entry.name in own - NOT_RECORDED.keys() and getattr(self, entry.name) != entry.default
        ]
        names = dict.fromkeys([*ALWAYS_RECORDED, *changed, *["max_steps"] * (self.max_steps > 0)])
        values = {name: getattr(self, name) for name in names if getattr(self, name) is not None}
        return {name: value.value if isinstance(value, Enum) else value for name, value in values.items()}

    @property
    def class_codes(self) -> dict[int, str] | None:
        """Names of the classes by their codes, or None if neither `classes` nor `class_names` is set.

        Raises:
            ValueError: If `classes` is not a mapping from whole numbers to names.
            FileNotFoundError: If it names a file that does not exist.
        """
        if self.classes is None:
            names, ignored = self.class_names or [], self.ignored_codes or []
            return {code: name for code, name in enumerate(names) if code not in ignored} or None
        text = self.classes
        if "=" in text:
            found = dict(pair.split("=", 1) for pair in text.split(",") if "=" in pair)
        elif Path(text).is_file():
            found = yaml.safe_load(Path(text).read_text())
        else:
            raise FileNotFoundError(f"`classes`: expected `1=water,2=trees` or a YAML file, found no file {text!r}.")
        try:
            return {int(code): str(name) for code, name in found.items()}
        except (AttributeError, ValueError) as error:
            raise ValueError(f"`classes`: expected names by code such as `1=water`, found {found!r}.") from error

    @property
    def model_dir(self) -> Path:
        """Folder of the finished model, with its processor, scores, pictures and card."""
        return Path(self.output_dir or ".") / "model"


def check_hub_dataset(name: str | None) -> None:
    """Raise a `ValueError` unless an option is None or the name of a dataset on the Hub, with or without a task."""
    if name is not None and name.count("/") not in (1, 2):
        raise ValueError(f"`hub_dataset`: expected namespace/name or namespace/name/task, got {name!r}.")
