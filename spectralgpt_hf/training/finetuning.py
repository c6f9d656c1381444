"""Fine-tuning with `transformers.Trainer`, which provides the loop, checkpoints and logging.

This module adds augmentation, learning rates by layer, the mean of the loss over a whole step, and scores.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from accelerate.utils import broadcast_object_list
from torch import nn
from torch.utils.data import DataLoader
from tqdm.auto import tqdm
from transformers import EarlyStoppingCallback, EvalPrediction, PreTrainedModel, Trainer
from transformers.trainer_utils import EvalLoopOutput, TrainOutput
from transformers.training_args import OptimizerNames

from ..files import write_json
from ..modeling.band_plan import require_same_bands
from ..modeling.configuration_spectralgpt import SpectralGPTConfig
from ..modeling.geometry import IGNORE_INDEX
from ..modeling.modeling_spectralgpt import labelled_pixels
from .attention import fastest_attention
from .augmentation import Augmentation
from .batches import collate, model_inputs, tokens_with_data
from .console import ConsoleLog
from .measuring import value_statistics
from .metrics import (
    ClassificationScores,
    DenseScores,
    MultiLabelScores,
    RegressionScores,
    Scores,
    SplitScores,
    bootstrap_intervals,
)
from .models import finished, is_spectralgpt, rescale_outputs
from .optimization import exponential_schedule, parameter_groups
from .options import FineTuningOptions
from .samples import Samples
from .starting import FrozenStart, start_from_samples


TINY = 1e-12  # replaces 0 as the divisor of the loss if no pixel has a label


class FineTuner(Trainer):
    """Trains a model on `Samples`, chooses the checkpoint that scores best on validation samples, and scores it.

    The loss of a step is the mean over the labelled pixels (weighted by class) or the samples of the step, however
    these are shared by accumulated batches and processes.

    Args:
        model: Model of `build_model`.
        options: Options of the run.
        train: Samples to learn from.
        validation: Samples to choose the checkpoint by and to stop early by, if any.
        class_weights: Weight of each class in the loss.
        background: Class that is left out of a second mean of the IoU (`miou_without_background`).

    Raises:
        ValueError: If a baseline is to be published, if the model and the processor differ in their bands, or if an
            option has no effect for these samples.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        options: FineTuningOptions,
        train: Samples,
        validation: Samples | None = None,
        class_weights: list[float] | None = None,
        background: int | None = None,
    ) -> None:
        self.model: Any  # a PreTrainedModel, or PEFT's around it
        self.options, self.samples, self.background = options, train, background
        self.is_spectralgpt = is_spectralgpt(model.config)
        if train.problem_type is not None:
            options.check_applies("classification", train.problem_type)
        if options.publish and not self.is_spectralgpt:
            raise ValueError(
                f"`push_to_hub` checks and publishes only models of SpectralGPT, not {model.config.model_type}: leave "
                "it out, and upload the finished folder with `hf upload`."
            )
        if train.length and not self.is_spectralgpt:
            raise ValueError(f"`series` is for models of SpectralGPT, not {model.config.model_type}: leave it out.")
        require_same_bands(getattr(model.config, "bands", train.processor.bands), train.processor.bands)
        self.class_weights = torch.tensor(class_weights or [1.0] * len(train.class_names))
        self.scores: Scores = self.new_scores(train)
        options.metric_for_best_model = f"eval_{self.scores.main}"
        options.greater_is_better = self.scores.greater_is_better
        self.is_regression = train.problem_type == "regression"
        # The model learns standardised values, because a head starts near 0 with outputs near 1, whatever the unit.
        self.mean, self.std = value_statistics(train.dataset) if self.is_regression else (torch.zeros(1), torch.ones(1))
        if options.probe_first:
            start_from_samples(model, train, options.seed)
        patience = options.early_stopping_patience
        super().__init__(
            model=model,
            args=options,
            train_dataset=train,
            eval_dataset=validation,
            data_collator=collate,
            processing_class=train.processor,
            compute_metrics=self._add_to_scores,  # type: ignore[arg-type]  # `batch_eval_metrics` adds an argument
            callbacks=[EarlyStoppingCallback(patience)] if patience else None,
        )
        for replaced in ConsoleLog.replaces:
            self.remove_callback(replaced)
        self.add_callback(ConsoleLog(self.scores.main))
        if self.is_spectralgpt:
            self._choose_attention()
        if options.frozen_share:
            self.add_callback(FrozenStart(model, options.frozen_share))
        vars(self.model.config).pop("use_cache", None)  # the Trainer sets it, for language models
        single = train.problem_type == "single_label_classification"
        self.augmentation = Augmentation(options, len(train.class_names) if single else None)
        # `compute_loss` divides by what the whole step holds: the Trainer must not average over accumulated batches.
        self.model_accepts_loss_kwargs = True

    def _choose_attention(self) -> None:
        """Let the encoder compute with the attention that is the fastest here, the same in all processes."""
        options, config = self.options, cast(SpectralGPTConfig, self.model.config)
        dates = max(1, self.samples.length, 2 * self.samples.is_change)
        images = dates * options.per_device_train_batch_size * options.world_size
        model = self.model.train() if isinstance(self.model, PreTrainedModel) else self.model.train().get_base_model()

        def compute(count: int) -> torch.Tensor:
            pixel_values = torch.rand(count, config.num_channels, config.image_size, config.image_size)
            return model.base_model(pixel_values=pixel_values).last_hidden_state.sum()

        dtype = torch.bfloat16 if options.bf16 else torch.float32
        fastest = fastest_attention(model, compute, images, dtype, options.device)
        model.set_attn_implementation(*broadcast_object_list([fastest]))

    def new_scores(self, samples: Samples) -> Scores:
        """Return empty scores for samples."""
        if not samples.dense:
            kinds: dict[str | None, Any] = {
                "multi_label_classification": MultiLabelScores,
                "regression": RegressionScores,
                "single_label_classification": ClassificationScores,
            }
            return kinds[samples.problem_type](len(samples), samples.class_names)
        names, scenes, windows = samples.class_names, samples.scenes, samples.windows
        return DenseScores(names, scenes, windows, samples.is_change, self.background)

    def create_optimizer(self, model: nn.Module | None = None) -> torch.optim.Optimizer:
        """Make AdamW with rates by layer."""
        if self.optimizer is None:
            options = self.options
            groups = parameter_groups(
                model or self.model,  # type: ignore[arg-type]
                options.weight_decay,
                learning_rate=options.learning_rate,
                layer_decay=options.layer_decay,
            )
            betas = (options.adam_beta1, options.adam_beta2)
            fused = options.optim == OptimizerNames.ADAMW_TORCH_FUSED  # one pass over the weights instead of a dozen
            self.optimizer = torch.optim.AdamW(groups, options.learning_rate, betas, options.adam_epsilon, fused=fused)
        return self.optimizer

    def create_scheduler(
        self, num_training_steps: int, optimizer: torch.optim.Optimizer | None = None
    ) -> torch.optim.lr_scheduler.LRScheduler:
        """Make the schedule of the options: one of transformers', or a factor for each epoch."""
        if self.options.epoch_decay is None or self.lr_scheduler is not None:
            return super().create_scheduler(num_training_steps, optimizer)
        steps = max(1, round(num_training_steps / self.options.num_train_epochs))
        optimizer = optimizer or self.create_optimizer()
        self.lr_scheduler = exponential_schedule(optimizer, steps, self.options.epoch_decay)
        self._created_lr_scheduler = True
        return self.lr_scheduler

    def train(self, *arguments: Any, **options: Any) -> TrainOutput:
        """Train as the Trainer does; with `probe_first`, the first weights are kept if no evaluation is clearly better.

        A few images may not suffice to improve on a head that was solved exactly. As few of them validate, the best of
        several evaluations is above the first by chance: it must be so by two standard errors of a share of as many
        labels (Agresti and Coull, 1998).
        """
        if not (self.options.probe_first and self.options.has_validation):
            return super().train(*arguments, **options)
        weights = {name: tensor.cpu().clone() for name, tensor in self.model.state_dict().items()}
        first = self.evaluate()[str(self.options.metric_for_best_model)]  # a share, such as the accuracy
        count = np.sum(self.scores.details()["confusion_matrix"]) + 4
        share = (first * (count - 4) + 2) / count
        error = 2 * (share * (1 - share) / count) ** 0.5
        output = super().train(*arguments, **options)
        if (self.state.best_metric or 0.0) <= first + error:
            self.accelerator.unwrap_model(self.model).load_state_dict(weights)
            if self.is_world_process_zero():
                tqdm.write(
                    f"no epoch was clearly better than the head that was solved at the start ({first:.3f}): "
                    "that head is saved"
                )
        return output

    def compute_loss(
        self,
        model: nn.Module,
        inputs: Mapping[str, torch.Tensor],
        return_outputs: bool = False,
        num_items_in_batch: torch.Tensor | int | None = None,
    ) -> torch.Tensor | tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """Return the loss of a batch of `collate`, and the outputs too if `return_outputs`.

        Batches are augmented in training mode. Without `num_items_in_batch`, the loss is the mean over the batch.
        With it, the loss is the share of this batch in the mean over the whole step, times the number of processes,
        because gradients are averaged over processes.
        """
        batch = dict(inputs)
        if model.training:
            batch = self.augmentation(batch, int(self.state.epoch or 0))
        inputs = model_inputs(batch)
        if self.is_spectralgpt:
            logits = model(**inputs).logits
        else:
            pixels = [value for name, value in inputs.items() if name.startswith("pixel_values")]
            logits = model(torch.cat(pixels, 1)).logits
        if self.samples.dense and logits.shape[-2:] != batch["labels"].shape[-2:]:
            # The heads of some baselines predict at a quarter of the resolution.
            logits = nn.functional.interpolate(logits, batch["labels"].shape[-2:], mode="bilinear")
        loss = self._summed_loss(logits.float(), batch)
        if num_items_in_batch is None:
            loss = loss / self.count_items(batch).clamp(min=TINY)
        else:
            loss = loss / num_items_in_batch * self.accelerator.num_processes
        if self.is_regression:
            logits = logits.float() * self.std.to(logits.device) + self.mean.to(logits.device)
        return (loss, {"logits": logits}) if return_outputs else loss

    def count_items(self, batch: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """Return the divisor of the summed loss of a batch: its samples, or the weights of its pixels."""
        if not self.samples.dense:
            return torch.tensor(float(len(batch["labels"])), device=batch["labels"].device)
        labels = counted_labels(batch, self.samples.processor.patch_size)
        counted = labels != IGNORE_INDEX
        return (self.class_weights.to(labels.device)[labels.where(counted, 0)] * counted).sum()

    def _get_num_items_in_batch(
        self, batch_samples: list[Mapping[str, torch.Tensor]], device: torch.device
    ) -> torch.Tensor | None:
        """Return the divisor of the summed loss of a step, over all accumulated batches and processes."""
        if not batch_samples or self.args.n_gpu > 1:  # `DataParallel` averages the losses of its replicas itself
            return None
        # Augmentation runs later, but symmetries move pixels together with their tokens, so the count stays the same.
        items = torch.stack([self.count_items(batch) for batch in batch_samples]).sum().to(device)
        return self.accelerator.gather(items).sum().clamp(min=TINY)

    def evaluation_loop(
        self,
        dataloader: DataLoader,
        description: str,
        prediction_loss_only: bool | None = None,
        ignore_keys: list[str] | None = None,
        metric_key_prefix: str = "eval",
    ) -> EvalLoopOutput:
        """Score all samples of a loader."""
        self.scores = self.new_scores(cast(Samples, dataloader.dataset))
        return super().evaluation_loop(dataloader, description, prediction_loss_only, ignore_keys, metric_key_prefix)

    def score(self, samples: Samples) -> SplitScores:
        """Return all scores of the model on samples, with their intervals and by class."""
        loss = self.evaluate(samples, metric_key_prefix="test")["test_loss"]
        return {
            "samples": len(samples),
            "units": self.scores.units,
            "class_names": samples.class_names,
            "loss": loss,
            "scores": self.scores.compute(),
            "intervals_95": bootstrap_intervals(self.scores, self.options.bootstrap_resamples, self.options.seed),
            **self.scores.details(),
        }

    def save_finished(self, folder: Path, metrics: Mapping[str, object]) -> None:
        """Write the model, its processor and `metrics.json`. It is the last step: training cannot go on after it.

        The outputs of a regression model are converted to the unit of the labels. LoRA's weights are merged into the
        model. The adapter alone is written to a folder `lora` beside it.
        """
        model = self.accelerator.unwrap_model(self.model)
        if hasattr(model, "merge_and_unload") and self.is_world_process_zero():
            base = model.get_base_model()
            base.name_or_path = base.config.name_or_path = public_name(self.options.model_name_or_path) or ""
            model.peft_config["default"].base_model_name_or_path = base.name_or_path
            model.save_pretrained(folder.with_name("lora"))
        model = finished(model)
        if self.is_regression:
            rescale_outputs(model, self.mean, self.std)
            # From here on the outputs have the unit of the labels.
            self.mean, self.std = torch.zeros_like(self.mean), torch.ones_like(self.std)
        if not self.is_world_process_zero():
            return
        model.save_pretrained(folder)
        self.samples.processor.save_pretrained(folder)
        write_json(folder / "metrics.json", metrics)

    def _summed_loss(self, logits: torch.Tensor, batch: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """Return the sum of the losses of a batch, which is still to be divided by `count_items`."""
        labels = batch["labels"]
        if self.samples.multi_label:
            losses = nn.functional.binary_cross_entropy_with_logits(logits, labels, reduction="none")
            return losses.mean(1).sum()
        if self.is_regression:
            standardised = (labels - self.mean.to(labels.device)) / self.std.to(labels.device)
            return nn.functional.mse_loss(logits, standardised, reduction="none").mean(1).sum()
        weights = self.class_weights.to(logits.device)
        if not self.samples.dense:  # class numbers, or the probabilities that augmentation makes of them
            return nn.functional.cross_entropy(logits, labels, weights, reduction="none").sum()
        labels = counted_labels(batch, self.samples.processor.patch_size)
        return nn.functional.cross_entropy(logits, labels, weights, ignore_index=IGNORE_INDEX, reduction="sum")

    def _add_to_scores(self, prediction: EvalPrediction, compute_result: bool) -> dict[str, float]:
        # With `batch_eval_metrics` the Trainer hands over the tensors of one batch.
        self.scores.update(cast(torch.Tensor, prediction.predictions), *prediction.label_ids)
        return self.scores.compute() if compute_result else {}


def counted_labels(batch: Mapping[str, torch.Tensor], patch_size: int) -> torch.Tensor:
    """Return the maps (B, H, W) of a batch, without labels where no spectral group of a token has data at all dates."""
    mask = tokens_with_data(batch)
    counted = labelled_pixels(batch["labels"], IGNORE_INDEX, patch_size, None if mask is None else mask.flatten(1))
    return batch["labels"].masked_fill(~counted, IGNORE_INDEX)


def public_name(checkpoint: str | None) -> str | None:
    """Return a name on the Hub as it is, and only the last part of a folder's path, so that no path is published."""
    return Path(checkpoint).resolve().name if checkpoint and Path(checkpoint).exists() else checkpoint
