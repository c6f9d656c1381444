"""Evaluate pretrained checkpoints: reconstruction and land use on chips, and EuroSAT with few labels.

EuroSAT: simple classifiers on frozen features are compared with those on features of the same network untrained, on
statistics of the pixels, on their principal components and on features of other image models, and with a small network
trained from random weights. `index.csv` beside the class folders may state the part of each image. Features are
compared by cross-validation on the training part. Classifiers trained on it are scored on the test part, with
intervals, paired differences and few-shot curves.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import nn
from tqdm.auto import tqdm

from .. import SpectralGPTForImageClassification, SpectralGPTImageProcessor, SpectralGPTModel
from ..assets import find_checkpoint
from ..data.readers.eurosat import EUROSAT_CLASSES
from ..files import write_json
from ..modeling.bands import EUROSAT_FILE_BANDS
from ..training.few_labels import (
    Contest,
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
from ..training.probing import draw_shots
from .evaluate_chips import score_chips


SHOTS = (1, 2, 5, 10)
# A network from random weights takes more steps to learn, and its steps cost less.
RESNET_STEPS = 5


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
        finetune_seeds: Number of runs of few-shot training: of all weights and by LoRA from each checkpoint, of all
            weights from random ones, and of a small network from scratch; 0 for none.
        finetune_steps: Steps of each run.
        lora_rank: Rank of the runs by LoRA.
        with_offset: Names of the chips whose values have an offset of +1000 that their files do not state.
        seeds: Number of seeds of masks and of untrained networks.
        output: JSON file for the scores, beside which a picture is written; None for none.
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
    finetune_steps: int = FewShotRecipe.steps
    lora_rank: int = 8
    with_offset: Sequence[str] = ()
    seeds: int = 5
    output: Path | None = None
    revision: str = "main"


def evaluate(options: EvaluationOptions) -> dict[str, object]:
    """Score checkpoints, print tables, and write the scores to `output`.

    Raises:
        ValueError: If neither chips nor EuroSAT is given, or a part or a read-out is unknown.
        FileNotFoundError: If there is no such checkpoint or folder.
    """
    if options.chips is None and options.eurosat is None:
        raise ValueError("Expected `chips`, `eurosat` or both: the data to evaluate on.")
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
    print(contest_table(scores))
    if test is not None and options.output:
        options.output.parent.mkdir(parents=True, exist_ok=True)
        draw_contest(scores, options.output.with_suffix(".png"))
    return scores


def finetune_checkpoints(
    options: EvaluationOptions, images: LabelledImages, train: torch.Tensor, test: torch.Tensor
) -> dict[str, dict[str, MeanStd]]:
    """Return the accuracies of each way to train with few labels, by the number of training images per class."""
    results: dict[str, dict[str, MeanStd]] = {}
    draws = [(shots, seed) for shots in SHOTS for seed in range(options.finetune_seeds)]
    for checkpoint in options.checkpoints:
        found = find_checkpoint(checkpoint, options.revision)
        processor = SpectralGPTImageProcessor.from_pretrained(found, revision=options.revision)
        inputs = processor.preprocess(list(images.pixels), band_names=EUROSAT_FILE_BANDS)["pixel_values"]
        for name, learn in _ways_to_learn(checkpoint, options).items():
            runs: dict[str, list[float]] = {}
            for shots, seed in tqdm(draws, desc=f"Fine-tuning, {name}", disable=None):
                chosen = train.nonzero()[:, 0][draw_shots(images.labels[train], shots, seed)]
                classifier = learn(inputs[chosen], images.labels[chosen], seed)
                runs.setdefault(str(shots), []).append(accuracy(classifier, inputs[test], images.labels[test]))
            results[name] = {
                shots: {"mean": float(np.mean(values)), "std": float(np.std(values)), "runs": values}
                for shots, values in runs.items()
            }
    return results


def _ways_to_learn(
    checkpoint: str, options: EvaluationOptions
) -> dict[str, Callable[[torch.Tensor, torch.Tensor, int], nn.Module]]:
    """Return functions by name that train a classifier on images (M, C, H, W), their classes (M,) and a seed."""
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

    return {
        checkpoint: partial(finetune, True, 0),
        f"{checkpoint}, LoRA of rank {options.lora_rank}": partial(finetune, True, options.lora_rank),
        f"random weights like {checkpoint}": partial(finetune, False, 0),
        f"random weights of a small ResNet, input of {checkpoint}": from_scratch,
    }
