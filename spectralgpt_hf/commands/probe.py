"""Score the frozen features of a checkpoint on a labelled dataset, by k nearest neighbours and by a linear probe.

    python examples/probe.py --dataset eurosat --data_dir EuroSAT --model_name_or_path spectralgpt-base-plus

It accepts the datasets of finetune_classification.py, with one or several classes per image. The weight decay of the
linear probe is chosen on the validation split; the test split is scored once. With `--config_name tiny` instead of
`--model_name_or_path`, an encoder with random weights is scored. Scores are printed and written to
`<output_dir>/probe.json`.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import set_seed

from ..files import write_json
from ..training.arguments import option, parse_options
from ..training.metrics import ClassificationScores, MultiLabelScores, bootstrap_intervals
from ..training.models import build_model, build_processor
from ..training.options import FineTuningOptions
from ..training.probing import (
    LinearProbe,
    choose_weight_decay,
    extract_features,
    nearest_neighbours,
    targets_of,
)
from ..training.samples import load_samples


@dataclass
class ProbeOptions(FineTuningOptions):
    """Options of the probes, and those of fine-tuning that apply to them."""

    neighbours: int = option(20, "Number of nearest neighbours that vote.")
    weight_decay: float = option(1e-2, "Weight decay of the linear probe, where no validation split chooses it.")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.test_split == "none":
            raise ValueError("A probe is scored on a `test_split`, got none.")


def main() -> None:
    """Score the features with the options of the command line."""
    options = parse_options(ProbeOptions)
    set_seed(options.seed)

    samples = load_samples("classification", options, build_processor(options))
    train, test = samples["train"], samples["test"]
    if train.problem_type == "regression":
        raise ValueError("A probe separates classes, but these labels are values: fine-tune a model for regression.")
    model = build_model("classification", options, train.class_names)
    encoder: Any = model.base_model.to(options.device)  # of SpectralGPT, or of a baseline
    features = {
        split: extract_features(encoder, part, options.per_device_eval_batch_size, options.dataloader_num_workers)
        for split, part in samples.items()
    }

    number = len(train.class_names)
    decay = options.weight_decay
    if "validation" in features:
        decay = choose_weight_decay(features["train"], features["validation"], number)
    probe = LinearProbe(*features["train"], number, decay)
    targets = targets_of(features["train"][1], number)
    votes = nearest_neighbours(features["test"][0], features["train"][0], targets, options.neighbours)

    results: dict[str, object] = {"dataset": options.dataset, "samples": len(test), "weight_decay": decay}
    # Votes are shares between 0 and 1. Half of the votes marks the decision, as a logit of 0 does.
    for name, logits in (("nearest neighbours", votes - 0.5), ("linear probe", probe(features["test"][0]))):
        scores = (MultiLabelScores if test.multi_label else ClassificationScores)(len(test), test.class_names)
        scores.update(logits, features["test"][1], torch.arange(len(test)))
        intervals = bootstrap_intervals(scores, options.bootstrap_resamples, options.seed)
        results[name] = {"scores": scores.compute(), "intervals_95": intervals}
        for score, value in scores.compute().items():
            low, high = intervals.get(score, (float("nan"), float("nan")))
            print(f"{name:20} {score:20} {value:.4f}  ({low:.4f} to {high:.4f})")
    write_json(Path(options.output_dir or ".") / "probe.json", results)
