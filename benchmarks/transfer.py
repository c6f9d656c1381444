"""Measure whether the embedded checkpoint learns a new task in fewer steps than random weights.

    python benchmarks/transfer.py CHIPS [--seeds 0 1 2] [--steps 160]

CHIPS holds `L2A/*.tif` (12 bands without names, in the usual order) and `LULC/*.tif` of the same names. The checkpoint
must not have seen them. Each chip is cut into windows with gaps between them, which are used for training and held out
alternately, and normalised with the statistics of their chip. The benchmark prints the held-out pixel accuracy after
every few steps, as mean and range over the seeds, and the number of steps that each start needs to reach the best score
of the worse one. Both see the same batches.
"""

import argparse
import tempfile
from pathlib import Path

import numpy as np
import torch
from transformers import set_seed
from transformers.trainer_utils import IntervalStrategy
from transformers.utils import logging

from spectralgpt_hf.assets import CHECKPOINT
from spectralgpt_hf.data.readers.folders import load_image_masks
from spectralgpt_hf.modeling.bands import L2A_BANDS
from spectralgpt_hf.training.console import ConsoleLog
from spectralgpt_hf.training.finetuning import FineTuner
from spectralgpt_hf.training.measuring import measure_by_scene
from spectralgpt_hf.training.models import build_model, build_processor
from spectralgpt_hf.training.options import FineTuningOptions
from spectralgpt_hf.training.samples import Samples


CLASSES = {1: "water", 2: "trees", 3: "flooded", 4: "crops", 5: "built", 6: "bare", 7: "snow", 9: "rangeland"}


def curve(options: argparse.Namespace, pretrained: bool, seed: int) -> dict[int, float]:
    """Return the held-out accuracy by number of steps."""
    with tempfile.TemporaryDirectory() as output_dir:
        settings = FineTuningOptions(
            output_dir=output_dir,
            model_name_or_path=str(CHECKPOINT) if pretrained else None,
            config_name=None if pretrained else "tiny",
            config_overrides="decode_hidden_size=32,decode_dropout=0.0",
            image_size=options.size,
            statistics_scope="given",
            validation_split="none",
            in_memory=True,
            symmetries=True,
            max_steps=options.steps,
            learning_rate=options.learning_rate,
            lr_scheduler_type="constant_with_warmup",
            warmup_steps=5,
            weight_decay=0.05,
            per_device_train_batch_size=4,
            per_device_eval_batch_size=40,
            eval_steps=options.every,
            use_cpu=True,
            disable_tqdm=True,
            seed=seed,
        )
        settings.eval_strategy, settings.save_strategy = IntervalStrategy.STEPS, IntervalStrategy("no")  # type: ignore[assignment]
        settings.logging_strategy = IntervalStrategy("no")  # type: ignore[assignment]
        set_seed(seed)
        processor = build_processor(settings, "segmentation")
        rows = load_image_masks(
            options.chips,
            "all",
            images="L2A",
            masks="LULC",
            classes=CLASSES,
            ignore=(0, 8),
            band_names=L2A_BANDS,
            size=options.size,
            stride=options.size + options.gap,
        )
        statistics = measure_by_scene(rows, processor)
        samples = [Samples(rows.select(range(i, len(rows), 2)), processor, statistics, in_memory=True) for i in (0, 1)]
        model = build_model("segmentation", settings, samples[0].class_names)
        tuner = FineTuner(model, settings, samples[0], samples[1])
        tuner.remove_callback(ConsoleLog)
        tuner.train()
        return {int(log["step"]): log["eval_oa"] for log in tuner.state.log_history if "eval_oa" in log}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("chips", type=Path)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--steps", type=int, default=160)
    parser.add_argument("--every", type=int, default=20)
    parser.add_argument("--size", type=int, default=64, help="Height and width of a window, in pixels.")
    parser.add_argument("--gap", type=int, default=16, help="Distance between windows, in pixels.")
    parser.add_argument("--learning_rate", type=float, default=5e-4)
    options = parser.parse_args()
    logging.set_verbosity_error()
    curves: dict[str, list[dict[int, float]]] = {"embedded": [], "random": []}
    for seed in options.seeds:
        for start in curves:
            curves[start].append(curve(options, start == "embedded", seed))
            accuracies = " ".join(f"{value:.3f}" for value in curves[start][-1].values())
            print(f"seed {seed}, {start:8}: {accuracies}", flush=True)
    values = {start: np.array([list(run.values()) for run in runs]) for start, runs in curves.items()}
    steps = list(curves["random"][0])
    print(f"\nheld-out pixel accuracy over {len(options.seeds)} seeds, {torch.get_num_threads()} threads")
    print(f"{'steps':>5}  {'embedded: mean (range)':24}  random: mean (range)")
    for column, step in enumerate(steps):
        texts = [
            f"{v[:, column].mean():.3f} ({v[:, column].min():.3f}-{v[:, column].max():.3f})" for v in values.values()
        ]
        print(f"{step:5}  {texts[0]:24}  {texts[1]}")
    target = min(value.mean(0).max() for value in values.values())
    for start, value in values.items():
        print(f"{start}: {steps[int(np.argmax(value.mean(0) >= target))]} steps to {target:.3f}")


if __name__ == "__main__":
    main()
