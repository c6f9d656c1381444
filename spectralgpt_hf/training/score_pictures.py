"""Pictures of a fine-tuned model: its confusion matrix, and predictions beside the truth."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
import torch

from ..data.readers.common import dates_of
from ..inference.maps import class_map
from ..inference.pictures import TRUE_COLOUR, composite, composite_limits, sensor_channels
from ..modeling.post_processing import class_colours
from .finetuning import FineTuner
from .samples import Samples


if TYPE_CHECKING:
    from matplotlib.figure import Figure


Panel: TypeAlias = tuple[str, np.ndarray]
"""Title and picture."""


def draw_confusion_matrix(matrix: Sequence[Sequence[int]], class_names: Sequence[str], path: Path) -> None:
    """Draw how the pixels or images of each class were classified, as shares of the class."""
    from matplotlib.figure import Figure

    counts = np.asarray(matrix, dtype=np.float64)
    shares = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    side = 2.5 + 0.45 * len(class_names)
    figure = Figure(figsize=(side + 1, side), layout="constrained")
    axes = figure.add_subplot()
    picture = axes.imshow(shares, vmin=0, vmax=1, cmap="Blues")
    axes.set_xticks(range(len(class_names)), class_names, rotation=90)
    axes.set_yticks(range(len(class_names)), class_names)
    axes.set_xlabel("predicted")
    axes.set_ylabel("truth")
    if len(class_names) <= 20:
        for (row, column), share in np.ndenumerate(shares):
            colour = "white" if share > 0.5 else "black"
            axes.text(column, row, f"{100 * share:.0f}", ha="center", va="center", color=colour, fontsize=8)
    figure.colorbar(picture, label="share of the class", shrink=0.8)
    figure.savefig(path, dpi=100)


@torch.no_grad()
def draw_predictions(tuner: FineTuner, samples: Samples, path: Path, count: int = 6) -> None:
    """Draw images beside their labels and predictions: as maps, or as names of classes.

    Args:
        tuner: Tuner that holds the model.
        samples: Samples, of which some at even distances are drawn.
        path: File to write.
        count: Largest number of images.
    """
    chosen = np.unique(np.linspace(0, len(samples) - 1, min(count, len(samples))).round().astype(int)).tolist()
    batch = tuner.data_collator([samples[index] for index in chosen])
    batch = {name: value.to(tuner.args.device) for name, value in batch.items()}
    tuner.model.eval()
    _, outputs = tuner.compute_loss(tuner.model, batch, return_outputs=True)
    logits, labels = outputs["logits"].float().cpu(), batch["labels"].cpu()
    rows = [_panels(samples, index, labels[i], logits[i]) for i, index in enumerate(chosen)]
    _draw_rows(samples, rows, path, "= found, - missed, + false alarm" if samples.multi_label else "")


def draw_samples(samples: Samples, path: Path, count: int = 8) -> None:
    """Draw images beside their labels, before anything is trained; arguments as of `draw_predictions`."""
    chosen = np.unique(np.linspace(0, len(samples) - 1, min(count, len(samples))).round().astype(int)).tolist()
    rows = [_panels(samples, index, _stored_labels(samples, index)) for index in chosen]
    _draw_rows(samples, rows, path)


def _stored_labels(samples: Samples, index: int) -> torch.Tensor:
    row = samples.row(index)
    return torch.as_tensor(row["segmentation_map"]) if samples.dense else samples.label_of(row)


def _draw_rows(samples: Samples, rows: list[list[Panel]], path: Path, title: str = "") -> None:
    from matplotlib.figure import Figure

    if not samples.dense:  # each image has one panel, so several go into a row
        rows = [[row[0] for row in rows[start : start + 4]] for start in range(0, len(rows), 4)]
    columns = max(map(len, rows))
    figure = Figure(figsize=(3.2 * columns, 3.4 * len(rows)), layout="constrained")
    for y, row in enumerate(rows):
        for x, (caption, image) in enumerate(row):
            axes = figure.add_subplot(len(rows), columns, y * columns + x + 1)
            axes.imshow(image, interpolation="nearest")
            axes.set_title(caption, fontsize=8, y=1)  # else looks for a free position above the ticks, which are off
            axes.set_axis_off()
    if samples.dense:
        _add_legend(figure, samples.class_names)
    if title:
        figure.suptitle(title, fontsize=9)
    figure.savefig(path, dpi=100)


def _panels(samples: Samples, index: int, labels: torch.Tensor, logits: torch.Tensor | None = None) -> list[Panel]:
    row = samples.row(index)
    names, sensor = row["bands"], samples.processor.expected
    channels = sensor_channels(TRUE_COLOUR, names, sensor) or tuple(names[:3])
    dates = [np.asarray(date) for date in dates_of(row)]
    limits = composite_limits(np.concatenate(dates, axis=2), names, channels, sensor=sensor)  # one for all dates
    images = [composite(date, names, channels, limits, sensor=sensor) for date in dates]
    if not samples.dense:
        return [(_caption(samples, labels, logits), images[0])]
    captions = row["dates"] if "dates" in row else ["before", "after"] if len(images) == 2 else [str(row["id"])]
    maps = {"truth": labels.numpy()}
    if logits is not None:
        maps["predicted"] = logits.argmax(0).numpy()
    colours = class_colours(samples.class_names)
    drawn = ((title, np.asarray(class_map(numbers, colours))) for title, numbers in maps.items())
    return [*zip(captions, images), *drawn]


def _caption(samples: Samples, labels: torch.Tensor, logits: torch.Tensor | None) -> str:
    names = samples.class_names
    if logits is None:
        if samples.problem_type == "regression":
            return "\n".join(f"{n}: {t:.4g}" for n, t in zip(names, labels.flatten().tolist()))
        numbers = labels.nonzero().flatten().tolist() if samples.multi_label else [int(labels)]
        return "\n".join(names[number][:40] for number in numbers)
    if samples.problem_type == "regression":
        return "\n".join(f"{n}: {t:.4g}, predicted {p:.4g}" for n, t, p in zip(names, labels.tolist(), logits.tolist()))
    if not samples.multi_label:
        return f"truth: {names[int(labels)]}\npredicted: {names[int(logits.argmax())]}"
    truth, predicted = labels > 0, logits > 0
    return "\n".join(
        f"{'=' if both else '-' if true else '+'} {names[i][:40]}"
        for i, (true, found) in enumerate(zip(truth.tolist(), predicted.tolist()))
        if (both := true and found) or true or found
    )


def _add_legend(figure: "Figure", names: Sequence[str]) -> None:
    from matplotlib.patches import Patch

    handles = [Patch(color=colour, label=name) for name, colour in zip(names, class_colours(names) / 255)]
    figure.legend(handles=handles, loc="outside lower center", ncols=4, fontsize=8, frameon=False)
