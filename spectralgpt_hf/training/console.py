"""Print the progress of training: losses, scores, learning rate and time left, one line per log entry."""

import time
from collections.abc import Mapping
from typing import Any

from torch.optim import Optimizer
from tqdm.auto import tqdm
from transformers import (
    PrinterCallback,
    ProgressCallback,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)


class ConsoleLog(TrainerCallback):
    """Prints each record of the Trainer as a line of text. Lines pass above progress bars, where these are shown.

    Args:
        main: Name of the score that chooses the checkpoint.
    """

    replaces = (PrinterCallback, ProgressCallback)

    def __init__(self, main: str) -> None:
        self.main = main

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: object
    ) -> None:
        self.started, self.first = time.monotonic(), state.global_step
        if state.is_world_process_zero:
            tqdm.write(f"training: {state.max_steps} steps in {state.num_train_epochs} epochs")

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: Mapping[str, float] | None = None,
        optimizer: Optimizer | None = None,
        **_: object,
    ) -> None:
        if state.is_world_process_zero and logs and "loss" in logs:
            rates = [group["lr"] for group in optimizer.param_groups] if optimizer is not None else [0.0]
            tqdm.write(self.describe_step(args, state, float(logs["loss"]), max(rates)))

    def on_evaluate(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        metrics: Mapping[str, float] | None = None,
        **_: object,
    ) -> None:
        found = {name.removeprefix("eval_"): value for name, value in (metrics or {}).items() if name[:5] == "eval_"}
        if not state.is_world_process_zero or self.main not in found:
            return
        line = f"epoch {state.epoch or 0:.1f}  validation loss {found['loss']:.4f}  {self.main} {found[self.main]:.3f}"
        best = state.best_metric
        tqdm.write(line if best is None else f"{line}  (best {max(best, found[self.main]):.3f})")

    def describe_step(self, args: TrainingArguments, state: TrainerState, loss: float, rate: float) -> str:
        """Return the line for a record of training; `rate` is the learning rate of the head, the largest of all."""
        steps = state.global_step - self.first
        elapsed = max(time.monotonic() - self.started, 1e-9)
        images = args.train_batch_size * args.gradient_accumulation_steps * args.world_size
        left = elapsed / max(steps, 1) * (state.max_steps - state.global_step)
        return (
            f"epoch {state.epoch or 0:.1f}  step {state.global_step}/{state.max_steps}  loss {loss:.4f}  "
            f"learning rate {rate:.1e}  {steps * images / elapsed:.1f} images/s  {describe_seconds(left)} left"
        )


def describe_pretraining_step(step: int, steps: int, batch: int, record: Mapping[str, Any]) -> str:
    """Return the line for a record of pretraining.

    Args:
        step: Steps of the stage that are done.
        steps: Steps of the stage.
        batch: Images of a step.
        record: Record, as `log.jsonl` holds it.
    """
    rate = record["samples_per_second"]
    return (
        f"epoch {record['epoch']:.1f}  step {step}/{steps}  loss {record['loss']:.4f}  "
        f"learning rate {record['learning_rate']:.1e}  {rate:.1f} images/s  "
        f"{describe_seconds((steps - step) * batch / max(rate, 1e-9))} left"
    )


def describe_seconds(seconds: float) -> str:
    """Return a duration in the unit that suits it."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"
