"""The texts of a fine-tuning run: a summary of its data before it starts, and warnings about its result at the end."""

import math
from collections.abc import Mapping, Sequence

from .measuring import value_statistics
from .metrics import ScoredSplit, SplitScores
from .samples import Samples, label_shares


COUNTED = 5000
"""Largest training split whose classes are counted for the summary, because counting reads all maps."""

COMPARED, LEAST_FALL = 4, 0.02
"""The loss has to fall by this share between the first and the last of so many parts of the training."""
LEAST_SHARE = 0.01
"""Share of a class below which a model may never predict it."""


def describe_data(samples: Mapping[str, Samples]) -> str:
    """Describe the samples of each split: number, bands, size, radiometry, and classes with their shares."""
    train = samples["train"]
    row = train.row(0)
    image = train.dataset.features["pixels"]
    processor = train.processor
    lines = [
        f"{name}: {len(part)} samples of {len(set(part.scenes))} images, such as {part.scenes[0]}"
        for name, part in samples.items()
    ]
    lines.append(f"bands of the files: {' '.join(row['bands'])}; of the model: {' '.join(processor.bands)}")
    shape = "x".join(map(str, row["pixels"].shape[1:]))
    lines.append(f"first sample: {row['id']}, {shape} px, values {row['pixels'].min():g} to {row['pixels'].max():g}")
    for name in ("offset", "nodata"):
        given = getattr(image, name, None)
        lines.append(f"{name}: {'as each file or the table states' if given is None else f'{given:g} for all files'}")
    scope = "of each image" if processor.statistics_scope == "image" else "measured once for a scene or given"
    lines.append(f"normalisation: {processor.normalization}, limits {scope}")
    if train.problem_type == "regression":
        mean, std = value_statistics(train.dataset)
        pairs = zip(train.class_names, mean.tolist(), std.tolist())
        lines.append("mean and deviation of the training split: " + ", ".join(f"{n} {m:g}, {s:g}" for n, m, s in pairs))
    elif not train.multi_label and len(train) <= COUNTED:
        shares = zip(train.class_names, label_shares(train))
        lines.append("classes of the training split: " + ", ".join(f"{name} {share:.1%}" for name, share in shares))
    return "\n".join(lines)


def find_problems(
    scores: Mapping[ScoredSplit, SplitScores], losses: Sequence[float], solved_start: bool = False
) -> list[str]:
    """Return the signs that a model has not learnt, as whole sentences; an empty list if there are none.

    Args:
        scores: Scores of each split, from `FineTuner.score`.
        losses: Logged losses of the training.
        solved_start: Whether the head was solved before training (`probe_first`). Its loss need not fall any more.
    """
    problems = []
    if not all(map(math.isfinite, [*losses, *(found["loss"] for found in scores.values())])):
        problems.append("A loss is not finite: lower the learning rate, and check the data for extreme values.")
    elif len(losses) >= COMPARED and not solved_start:
        part = max(1, len(losses) // COMPARED)
        first, last = (sum(some) / part for some in (losses[:part], losses[-part:]))
        if last > (1 - LEAST_FALL) * first:
            problems.append(
                f"The loss of the training did not fall: {first:.4g} at the beginning, {last:.4g} at the end. Train "
                "longer, or try another learning rate."
            )
    for split, found in scores.items():
        matrix = found.get("confusion_matrix", [])
        predicted = [name for name, column in zip(found.get("class_names", []), zip(*matrix)) if sum(column)]
        counts = [sum(row) for row in matrix]
        present = sum(count >= LEAST_SHARE * sum(counts) for count in counts if count)
        if len(predicted) == 1 and present > 1:
            problems.append(
                f"All predictions on the {split} split are {predicted[0]!r}, although it holds {present} classes: the "
                "model has not learnt. Train longer, lower the learning rate, or set `class_weights` to balanced."
            )
    return problems


def describe_scores(scores: Mapping[ScoredSplit, SplitScores]) -> str:
    """Return the scores of each split with their intervals, a line per score, then those of the classes."""
    lines = []
    for split, found in scores.items():
        lines.append(f"{split}: {found['samples']} samples, {found['units']} images")
        for name, value in found["scores"].items():
            interval = found["intervals_95"].get(name)
            between = "" if interval is None else "  (95 % interval {:.3f} to {:.3f})".format(*interval)
            lines.append(f"  {name:28} {value:.3f}{between}")
    return "\n".join(lines)
