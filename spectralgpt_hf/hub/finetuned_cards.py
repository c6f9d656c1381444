"""Write the files beside a fine-tuned checkpoint: scores, pictures, and a model card with the Hub's metadata."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypedDict

import yaml
from huggingface_hub import EvalResult, EvalResultEntry, ModelCard, eval_result_entries_to_yaml
from transformers import PreTrainedConfig

from ..files import write_text
from ..modeling.configuration_spectralgpt import SpectralGPTConfig
from ..training.finetuning import FineTuner, public_name
from ..training.metrics import ScoredSplit, SplitScores
from ..training.samples import Samples
from ..training.score_pictures import draw_confusion_matrix, draw_predictions
from .cards import UNKNOWN, card_for, front_matter
from .model_items import write_model_item
from .publishing import publish


HUB_TASKS = {"classification": "image-classification", "segmentation": "image-segmentation"}

SCORED_SPLITS: tuple[ScoredSplit, ScoredSplit] = ("validation", "test")


class Metrics(TypedDict, total=False):
    """The content of `metrics.json`: the run, and the scores of each split that was scored."""

    task: str
    dataset: str
    base_model: str | None
    settings: dict[str, object]
    problems: list[str]
    validation: SplitScores
    test: SplitScores


def finish(
    tuner: FineTuner,
    task: str,
    samples: Mapping[str, Samples],
    scores: Mapping[ScoredSplit, SplitScores],
    problems: Sequence[str] = (),
) -> None:
    """Write `<output_dir>/model`: the checkpoint, `metrics.json`, pictures and a card; publish it if asked to.

    Args:
        tuner: Tuner after training.
        task: Name of the task.
        samples: Samples of each split.
        scores: Scores of each split that was scored, from `tuner.score`. They get the entry `trained_on_too`.
        problems: Signs that the model has not learnt, as whole sentences (`find_problems`).
    """
    options, folder = tuner.options, tuner.options.model_dir
    metrics: Metrics = {
        "task": task,
        "dataset": options.dataset,
        "base_model": public_name(options.model_name_or_path),
        "settings": options.recorded(),
        "problems": list(problems),
    }
    for split, found in scores.items():
        found["trained_on_too"] = getattr(options, f"{split}_split") in (options.train_split, "all")
        metrics[split] = found
    tuner.save_finished(folder, metrics)
    if not tuner.is_world_process_zero():
        return
    drawn = next((split for split in reversed(SCORED_SPLITS) if split in scores), None)
    draw_predictions(tuner, samples[drawn or "train"], folder / "predictions.png")
    if drawn and "confusion_matrix" in scores[drawn]:
        names = samples[drawn].class_names
        draw_confusion_matrix(scores[drawn]["confusion_matrix"], names, folder / "confusion_matrix.png")
    save_score_card(folder, tuner.model.config, metrics)
    if isinstance(tuner.model.config, SpectralGPTConfig):
        write_model_item(folder, folder.resolve().parent.name)
    if options.hub_dataset and "test" in metrics:
        main = tuner.scores.main
        # Nothing is claimed of samples that the model was trained on.
        if not metrics["test"]["trained_on_too"]:
            save_hub_score(folder, options.hub_dataset, main, metrics["test"]["scores"][main])
    if options.publish:
        publish(folder, options.hub_model_id or "", private=bool(options.hub_private_repo), token=options.hub_token)


def save_hub_score(folder: Path, dataset: str, name: str, value: float) -> None:
    """Write a test score to `.eval_results/<dataset>.yaml`, which the Hub shows with the model and with a benchmark.

    Args:
        folder: Folder of the checkpoint.
        dataset: Dataset on the Hub, namespace/name or namespace/name/task. Without a task, it is "default".
        name: Name of the score.
        value: The score.
    """
    namespace, repository, *task = dataset.split("/")
    task_id = task[0] if task else "default"
    entry = EvalResultEntry(f"{namespace}/{repository}", task_id, round(value, 6), notes=name)
    write_text(folder / ".eval_results" / f"{repository}.yaml", yaml.safe_dump(eval_result_entries_to_yaml([entry])))


def save_score_card(folder: Path, config: PreTrainedConfig, metrics: Metrics) -> None:
    """Write README.md with the scores of `metrics.json`: a table, and the Hub's `model-index`.

    By the Hub's documentation (docs/hub/model-cards and docs/hub/eval-results), the Hub parses `model-index` and shows
    it on the page of the model, for scores on any data. It shows `.eval_results` only for data sets that are registered
    as benchmarks. A score of a benchmark is therefore in both, and all other scores are in `model-index` alone. Scores
    on samples that the model was trained on are in neither.

    Args:
        folder: Folder of the checkpoint, which already holds the pictures.
        config: Configuration of the model. The card of a baseline does not describe SpectralGPT.
        metrics: The run and its scores.
    """
    if isinstance(config, SpectralGPTConfig):
        text = card_for(config)
    else:
        text = front_matter() + BASELINE.format(config=config)
    text = text.replace(UNKNOWN, _training(metrics)) + _results(folder, metrics)
    card = ModelCard(text)
    data: Any = card.data  # the class of the client sets its attributes from keyword arguments
    data.model_name = folder.resolve().parent.name
    data.eval_results = [
        EvalResult(
            task_type=HUB_TASKS.get(metrics["task"], "image-segmentation"),
            dataset_type=metrics["dataset"],
            dataset_name=metrics["dataset"],
            dataset_split=split,
            metric_type=name,
            metric_name=name,
            metric_value=round(value, 6),
        )
        for split in SCORED_SPLITS
        if split in metrics and not metrics[split].get("trained_on_too", False)
        for name, value in metrics[split]["scores"].items()
        if not math.isnan(value)
    ]
    if "/" in (metrics["base_model"] or ""):
        data.base_model = metrics["base_model"]
    if not data.eval_results:
        data.eval_results = None
    card.save(folder / "README.md")


def _training(metrics: Metrics) -> str:
    start = f"from `{metrics['base_model']}`" if metrics["base_model"] else "from random weights"
    settings = ", ".join(f"`{name}` {value}" for name, value in metrics["settings"].items())
    return f"Fine-tuned {start} on {metrics['dataset']} ({metrics['task']}): {settings}.\n\n{LICENCE}"


def _results(folder: Path, metrics: Metrics) -> str:
    lines = ["", "## Scores", "", *(f"**{problem}**\n" for problem in metrics.get("problems", ()))]
    for split in SCORED_SPLITS:
        if split not in metrics:
            continue
        found = metrics[split]
        intervals = found["intervals_95"]
        if intervals:
            how = f"95 % intervals by resampling {found['units']} images"
        else:
            how = "no intervals, which are measured by resampling two images or more"
        lines += [
            f"On {found['samples']} {split} samples; {how}.",
            *["**The model was trained on these samples too, so the scores say nothing about other data.**"]
            * found.get("trained_on_too", False),
            "",
            "| score | value | 95 % interval |" if intervals else "| score | value |",
            "|---|---|---|" if intervals else "|---|---|",
        ]
        for name, value in found["scores"].items():
            between = " {:.4f} to {:.4f} |".format(*intervals[name]) if intervals else ""
            lines.append(f"| {name} | {value:.4f} |{between}")
        lines.append("")
    titles = {"predictions.png": "Predictions beside the truth", "confusion_matrix.png": "Confusion matrix"}
    for file, title in titles.items():
        if (folder / file).is_file():
            lines += [f"![{title}]({file})", ""]
    return "\n".join(lines)


LICENCE = (
    "No licence is stated yet (`license: unknown` at the top of this file): choose one, which the weights that the "
    "training started from and the data allow, before you share the model."
)
BASELINE = (
    """# {config.model_type}, a baseline for SpectralGPT

Trained on the same data and normalised pixels as SpectralGPT, with {config.num_channels} channels.

## Provenance and licence

"""
    + UNKNOWN
    + "\n"
)
