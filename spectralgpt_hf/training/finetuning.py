"""Fine-tuning with `transformers.Trainer`: its loop, checkpoints and logging; our augmentation, rates and scores."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import EarlyStoppingCallback, Trainer

from ..files import write_json
from ..modeling.geometry import IGNORE_INDEX
from .augmentation import Augmentation
from .metrics import ClassificationScores, DenseScores, MultiLabelScores, Scores, bootstrap_intervals
from .models import finished, is_spectralgpt
from .optimization import exponential_schedule, parameter_groups
from .options import FineTuningOptions
from .samples import Samples, collate


class FineTuner(Trainer):
    """Trains a model on `Samples`, chooses the checkpoint that scores best on validation samples, and scores it.

    Args:
        model: Of `build_model`.
        options: Of the run.
        train: Samples to learn from.
        validation: Samples to choose by and to stop early by, if any.
        class_weights: Of the loss, where the model does not weigh itself.
        background: Class that a second mean of IoU leaves out.

    Raises:
        ValueError: If a baseline is to be published.
    """

    def __init__(
        self,
        model: Any,
        options: FineTuningOptions,
        train: Samples,
        validation: Samples | None = None,
        class_weights: list[float] | None = None,
        background: int | None = None,
    ) -> None:
        self.model: Any  # a PreTrainedModel, or PEFT's around it
        self.options, self.samples, self.background = options, train, background
        self.is_spectralgpt = is_spectralgpt(model.config)
        if options.publish and not self.is_spectralgpt:
            raise ValueError(
                f"`push_to_hub` checks and publishes SpectralGPT models, not {model.config.model_type}: leave it out, "
                "and upload the finished folder with `hf upload`."
            )
        self.class_weights = None if class_weights is None else torch.tensor(class_weights)
        self.scores: Scores = self.new_scores(train)
        options.metric_for_best_model, options.greater_is_better = f"eval_{self.scores.main}", True
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
        vars(self.model.config).pop("use_cache", None)  # the Trainer sets it, for models of language
        single = not train.dense and not train.multi_label
        self.augmentation = Augmentation(options, len(train.class_names) if single else None)
        self.model_accepts_loss_kwargs = False  # our losses are means, which accumulation must average

    def new_scores(self, samples: Samples) -> Scores:
        """Return empty scores for samples."""
        if not samples.dense:
            kind = MultiLabelScores if samples.multi_label else ClassificationScores
            return kind(len(samples), samples.class_names)
        change = "pixels_after" in samples.dataset.features
        return DenseScores(samples.class_names, samples.scenes, samples.windows, change, self.background)

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
            self.optimizer = torch.optim.AdamW(groups, options.learning_rate, betas, options.adam_epsilon)
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

    def compute_loss(
        self,
        model: Any,
        inputs: Mapping[str, torch.Tensor],
        return_outputs: bool = False,
        num_items_in_batch: torch.Tensor | int | None = None,
    ) -> Any:
        """Return the mean loss of a batch of `collate`, augmented in training, and on demand the outputs."""
        batch = dict(inputs)
        if model.training:
            batch = self.augmentation(batch, int(self.state.epoch or 0))
        labels = batch.pop("labels")
        pixels = {name: value for name, value in batch.items() if name.startswith("pixel_values")}
        if not self.is_spectralgpt:
            outputs = model(torch.cat([*pixels.values()], 1))
        else:
            masks = {name: batch[name].flatten(1) for name in batch if name.startswith("attention_mask")}
            outputs = model(**pixels, **masks, labels=labels if self.samples.dense else None)
        if labels.ndim == 3 and outputs.logits.shape[-2:] != labels.shape[-2:]:
            # Some heads stop at a quarter of the resolution.
            outputs.logits = nn.functional.interpolate(outputs.logits, labels.shape[-2:], mode="bilinear")
        loss = outputs.loss if outputs.loss is not None else self._loss(outputs.logits.float(), labels)
        return (loss, {"logits": outputs.logits}) if return_outputs else loss

    def evaluation_loop(self, dataloader: Any, *args: Any, **kwargs: Any) -> Any:
        """Score all samples of a loader."""
        self.scores = self.new_scores(dataloader.dataset)
        return super().evaluation_loop(dataloader, *args, **kwargs)

    def score(self, samples: Samples) -> dict[str, Any]:
        """Return all scores of the model on samples, with intervals and by class, JSON-able."""
        loss = self.evaluate(samples, metric_key_prefix="test")["test_loss"]
        return {
            "samples": len(samples),
            "units": self.scores.units,
            "loss": loss,
            "scores": self.scores.compute(),
            "intervals_95": bootstrap_intervals(self.scores, self.options.bootstrap_resamples, self.options.seed),
            **self.scores.details(),
        }

    def save_finished(self, folder: Path, **metrics: Any) -> None:
        """Write the model, LoRA merged (the adapter goes beside it), its processor and `metrics.json`."""
        model = self.accelerator.unwrap_model(self.model)
        if hasattr(model, "merge_and_unload") and self.is_world_process_zero():
            base = model.get_base_model()
            base.name_or_path = base.config.name_or_path = public_name(self.options.model_name_or_path) or ""
            model.peft_config["default"].base_model_name_or_path = base.name_or_path
            model.save_pretrained(folder.with_name("lora"))
        model = finished(model)
        if not self.is_world_process_zero():
            return
        model.save_pretrained(folder)
        self.samples.processor.save_pretrained(folder)
        write_json(folder / "metrics.json", metrics)

    def _loss(self, logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        if self.samples.multi_label:
            return nn.functional.binary_cross_entropy_with_logits(logits, labels)
        weights = None if self.class_weights is None else self.class_weights.to(logits.device)
        ignored = IGNORE_INDEX if self.samples.dense else -100  # soft targets take no other
        return nn.functional.cross_entropy(logits, labels, weights, ignore_index=ignored)

    def _add_to_scores(self, prediction: Any, compute_result: bool) -> dict[str, float]:
        self.scores.update(prediction.predictions, *prediction.label_ids)
        return self.scores.compute() if compute_result else {}


def public_name(checkpoint: str | None) -> str | None:
    """Return a name on the Hub as it is, and of a folder the last part: its path is nobody's business."""
    return Path(checkpoint).resolve().name if checkpoint and Path(checkpoint).exists() else checkpoint
