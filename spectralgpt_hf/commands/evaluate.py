"""Evaluate pretrained checkpoints: reconstruction and land use on chips, and EuroSAT with few labels.

EuroSAT: simple classifiers on frozen features are compared with those on features of the same network untrained, on
statistics of the pixels, on their principal components and on features of other image models, and with a small network
trained from random weights. `index.csv` beside the class folders may state the part of each image. Features are
compared by cross-validation on the training part. Classifiers trained on it are scored on the test part, with
intervals, paired differences and few-shot curves.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TypeAlias

import numpy as np
import torch
from torch import nn
from tqdm.auto import tqdm

from .. import SpectralGPTForImageClassification, SpectralGPTImageProcessor, SpectralGPTModel
from ..assets import find_checkpoint
from ..data.readers.eurosat import EUROSAT_CLASSES
from ..files import write_json
from ..hub.finetuned_cards import save_hub_score
from ..inference.checkpoints import without_weight_bars
from ..modeling.bands import EUROSAT_FILE_BANDS
from ..training.few_labels import (
    FOLDS,
    Contest,
    Difference,
    LabelledImages,
    MeanStd,
    baseline_features,
    compare,
    image_model_features,
    network_features,
    read_labelled,
    score_features,
)
from ..training.few_labels_report import contest_table, draw_contest
from ..training.few_shot import FewShotRecipe, accuracy, finetune_few_shot, train_resnet
from ..training.options import check_hub_dataset
from ..training.probing import bootstrap_interval, draw_shots, fold_numbers
from .evaluate_chips import score_chips


SHOTS = (1, 2, 5, 10)
# A network from random weights takes more steps to learn, and its steps cost less.
RESNET_STEPS = 5
# Trains a classifier on images (M, C, H, W), their classes (M,) and a seed.
Learner: TypeAlias = Callable[[torch.Tensor, torch.Tensor, int], nn.Module]
WAYS = ("checkpoint", "lora", "random", "resnet")


@dataclass
class EvaluationOptions:
    """The checkpoints and the data of an evaluation.

    Attributes:
        checkpoints: Folders, names on the Hub, or names of checkpoints that come with the package.
        chips: Folder of labelled chips, as `commands/evaluate_chips.py` describes it.
        eurosat: An ancestor of EuroSAT's class folders.
        train_part: Part of EuroSAT for training and all choices.
        test_part: Part of EuroSAT that is scored at the end; None for none.
        read_outs: Features of the checkpoints: pooled, groups, mean and std, ..., layer 3, ...
        image_models: Other image models of transformers, which get the true colour of the images.
        finetune_seeds: Number of runs of few-shot training in each way; 0 for none. Without a test part, each run is
            scored on a fold of the training part, from which it takes no image.
        finetune_ways: Ways of few-shot training: of all weights from each checkpoint ("checkpoint"), by LoRA ("lora"),
            of all weights from random ones ("random"), and of a small network from scratch ("resnet").
        finetune_steps: Steps of each run.
        lora_rank: Rank of the runs by LoRA.
        with_offset: Names of the chips whose values have an offset of +1000 that their files do not state.
        seeds: Number of seeds of masks and of untrained networks.
        output: JSON file for the scores, beside which a picture is written; None for none.
        hub_dataset: EuroSAT on the Hub: namespace/name, or namespace/name/task. The test accuracy of the linear
            classifier is written to `.eval_results` in a folder of each checkpoint's name, beside `output`.
        revision: Branch, tag or commit of checkpoints on the Hub.
    """

    checkpoints: Sequence[str]
    chips: Path | None = None
    eurosat: Path | None = None
    train_part: str = "all"
    test_part: str | None = None
    read_outs: Sequence[str] = ("pooled",)
    image_models: Sequence[str] = ()
    finetune_seeds: int = 0
    finetune_ways: Sequence[str] = WAYS
    finetune_steps: int = FewShotRecipe.steps
    lora_rank: int = 8
    with_offset: Sequence[str] = ()
    seeds: int = 5
    output: Path | None = None
    hub_dataset: str | None = None
    revision: str = "main"


@without_weight_bars()
def evaluate(options: EvaluationOptions) -> dict[str, object]:
    """Score checkpoints, print tables, and write the scores to `output`.

    Raises:
        ValueError: If neither chips nor EuroSAT is given, or a part, a read-out or a way to fine-tune is unknown; or if
            a score for `hub_dataset` would not be one of a test.
        FileNotFoundError: If there is no such checkpoint or folder.
    """
    if options.chips is None and options.eurosat is None:
        raise ValueError("Expected `chips`, `eurosat` or both: the data to evaluate on.")
    if unknown := sorted(set(options.finetune_ways) - set(WAYS)):
        raise ValueError(f"Expected ways of few-shot training among {', '.join(WAYS)}, got {', '.join(unknown)}.")
    check_hub_dataset(options.hub_dataset)
    if options.hub_dataset:
        check_test(options)
    scores: dict[str, object] = {"seeds": options.seeds}
    if options.eurosat is not None:
        scores["eurosat"] = score_eurosat(options, options.eurosat)
    if options.chips is not None:
        scores |= score_chips(
            options.checkpoints,
            options.chips,
            with_offset=options.with_offset,
            seeds=options.seeds,
            revision=options.revision,
        )
    if options.output:
        write_json(options.output, scores)
    return scores


def check_test(options: EvaluationOptions) -> None:
    """Raise a `ValueError` if a score for the Hub would not be one of a test, or replace that of another checkpoint."""
    if options.eurosat is None or options.test_part is None or options.output is None:
        raise ValueError("`hub_dataset` is for scores of a test part: pass `eurosat`, `test_part` and `output` too.")
    if options.test_part == options.train_part or "all" in (options.train_part, options.test_part):
        raise ValueError(f"`hub_dataset`: {options.test_part} is scored, of which {options.train_part} has images.")
    names = [Path(checkpoint).name for checkpoint in options.checkpoints]
    if len(set(names)) < len(names):
        raise ValueError(f"`hub_dataset` writes to folders with the names of the checkpoints: {', '.join(names)}.")


def score_eurosat(options: EvaluationOptions, folder: Path) -> Contest:
    """Score checkpoints, untrained networks and statistics with few labels on EuroSAT, and print tables."""
    images = read_labelled(folder)
    train = images.of(options.train_part)
    test = None if options.test_part is None else images.of(options.test_part)
    features: dict[str, torch.Tensor] = {}
    untrained: dict[str, list[torch.Tensor]] = {}
    for checkpoint in options.checkpoints:
        found = find_checkpoint(checkpoint, options.revision)
        model = SpectralGPTModel.from_pretrained(found, dtype=torch.float32, revision=options.revision)
        processor = SpectralGPTImageProcessor.from_pretrained(found, revision=options.revision)
        for name in options.read_outs:
            features[f"{checkpoint}, {name}"] = network_features(model, processor, images, name)
        for seed in range(options.seeds):
            torch.manual_seed(seed)
            model = SpectralGPTModel(model.config)
            untrained.setdefault(checkpoint, []).append(
                network_features(model, processor, images, options.read_outs[0])
            )
        features |= {
            f"{name} of {checkpoint}" if "input" in name else name: values
            for name, values in baseline_features(processor, images, train).items()
        }
    features |= {name: image_model_features(name, images) for name in options.image_models}
    contestants = {name: score_features(values, images, train, test) for name, values in features.items()}
    seeds = {c: [score_features(values, images, train, test) for values in of] for c, of in untrained.items()}
    for checkpoint, results in seeds.items():
        contestants[f"{checkpoint} untrained, median of the seeds"] = sorted(
            results, key=lambda result: result["folds"]["spatial"]["linear"]
        )[len(results) // 2]
    scores: Contest = {
        "train_part": options.train_part,
        "test_part": options.test_part,
        "contestants": contestants,
        "differences": {},
    }
    if test is not None:
        for checkpoint in options.checkpoints:
            first = f"{checkpoint}, {options.read_outs[0]}"
            others = {name: [contestants[name]] for name in contestants if name != first and "untrained" not in name}
            others["untrained, mean of the seeds"] = seeds[checkpoint]
            scores["differences"][first] = {name: compare(contestants[first], of) for name, of in others.items()}
    if options.finetune_seeds:
        scores["fine_tuning"] = finetune_checkpoints(options, images, train, test)
        scores["fine_tuning_differences"] = compare_runs(scores["fine_tuning"])
    print(contest_table(scores))
    if test is not None and options.output:
        options.output.parent.mkdir(parents=True, exist_ok=True)
        draw_contest(scores, options.output.with_suffix(".png"))
        if options.hub_dataset:
            read_out = options.read_outs[0]
            name = f"accuracy of a linear classifier of frozen features ({read_out})"
            for checkpoint in options.checkpoints:
                linear = contestants[f"{checkpoint}, {read_out}"]["test"]["linear"]
                own = options.output.parent / Path(checkpoint).name
                save_hub_score(own, options.hub_dataset, name, linear["accuracy"])
    return scores


def finetune_checkpoints(
    options: EvaluationOptions, images: LabelledImages, train: torch.Tensor, test: torch.Tensor | None
) -> dict[str, dict[str, MeanStd]]:
    """Return the accuracies of each way to train with few labels, by the number of training images per class."""
    results: dict[str, dict[str, MeanStd]] = {}
    draws = [(shots, seed) for shots in SHOTS for seed in range(options.finetune_seeds)]
    # Number of the fold of each image of the training part; -1 elsewhere.
    folds = torch.full_like(images.labels, -1)
    folds[train] = fold_numbers(images.labels[train], None, FOLDS, seed=0)
    for checkpoint in options.checkpoints:
        found = find_checkpoint(checkpoint, options.revision)
        processor = SpectralGPTImageProcessor.from_pretrained(found, revision=options.revision)
        inputs = processor.preprocess(list(images.pixels), band_names=EUROSAT_FILE_BANDS)["pixel_values"]
        for name, learn in _ways_to_learn(checkpoint, options).items():
            runs: dict[str, list[float]] = {}
            for shots, seed in tqdm(draws, desc=f"Fine-tuning, {name}", disable=None):
                scored = folds == seed % FOLDS if test is None else test
                known = (train & ~scored).nonzero()[:, 0]
                chosen = known[draw_shots(images.labels[known], shots, seed)]
                classifier = learn(inputs[chosen], images.labels[chosen], seed)
                runs.setdefault(str(shots), []).append(accuracy(classifier, inputs[scored], images.labels[scored]))
            results[name] = {
                shots: {"mean": float(np.mean(values)), "std": float(np.std(values)), "runs": values}
                for shots, values in runs.items()
            }
    return results


def compare_runs(results: Mapping[str, Mapping[str, MeanStd]]) -> dict[str, dict[str, Difference]]:
    """Return by how much the first way of `finetune_checkpoints` is better than each other, by images per class.

    Runs are paired: those of one seed see the same images. The interval is of the mean over the seeds.
    """
    first, *others = results
    differences: dict[str, dict[str, Difference]] = {}
    for other in others:
        differences[f"{first} minus {other}"] = by_shots = {}
        for shots, scores in results[other].items():
            paired = torch.tensor(results[first][shots]["runs"]) - torch.tensor(scores["runs"])
            by_shots[shots] = {"difference": paired.mean().item(), "interval_95": bootstrap_interval(paired)}
    return differences


def _ways_to_learn(checkpoint: str, options: EvaluationOptions) -> dict[str, Learner]:
    """Return functions by name."""
    pretrained = SpectralGPTForImageClassification.from_pretrained(
        find_checkpoint(checkpoint, options.revision),
        dtype=torch.float32,
        num_labels=len(EUROSAT_CLASSES),
        revision=options.revision,
    )

    def finetune(trained: bool, rank: int, images: torch.Tensor, labels: torch.Tensor, seed: int) -> nn.Module:
        torch.manual_seed(seed)
        model = SpectralGPTForImageClassification(pretrained.config)
        if trained:
            model.load_state_dict(pretrained.state_dict())
        recipe = FewShotRecipe(steps=options.finetune_steps, lora_rank=rank)
        return finetune_few_shot(model, images, labels, recipe, seed)

    def from_scratch(images: torch.Tensor, labels: torch.Tensor, seed: int) -> nn.Module:
        return train_resnet(images, labels, len(EUROSAT_CLASSES), RESNET_STEPS * options.finetune_steps, seed)

    ways: dict[str, tuple[str, Learner]] = {
        "checkpoint": (checkpoint, partial(finetune, True, 0)),
        "lora": (f"{checkpoint}, LoRA of rank {options.lora_rank}", partial(finetune, True, options.lora_rank)),
        "random": (f"random weights like {checkpoint}", partial(finetune, False, 0)),
        "resnet": (f"random weights of a small ResNet, input of {checkpoint}", from_scratch),
    }
    return dict(ways[way] for way in options.finetune_ways)
