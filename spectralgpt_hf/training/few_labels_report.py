"""Tables and a picture of the contest with few labels."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .probing import METHODS


def contest_table(scores: Mapping[str, Any]) -> str:
    """Return tables of accuracies by contestant and of paired differences.

    Args:
        scores: `train_part`, `test_part`, `contestants` (from `score_features`), `differences` (from `compare`) and,
            if there was any, `fine_tuning`.
    """
    contestants = scores["contestants"]
    width = max(map(len, contestants))
    columns = [(kind, method) for kind in ("spatial", "random") for method in METHODS]
    lines = [f"EuroSAT, accuracy in cross-validation of the part {scores['train_part']}"]
    lines.append(" " * width + "".join(f"{f'{kind} {method}':>20}" for kind, method in columns))
    for name, result in contestants.items():
        values = (result["folds"][kind][method] for kind, method in columns)
        lines.append(f"{name:{width}}" + "".join(f"{value:20.3f}" for value in values))
    if scores["test_part"] is None:
        return "\n".join(lines)

    def row(name: str, results: Mapping[str, Any], key: str) -> str:
        return f"{name:{width}}" + "".join(f"{_with_interval(results[method], key):>26}" for method in METHODS)

    lines += [
        "",
        f"EuroSAT, trained on {scores['train_part']}: accuracy on {scores['test_part']} and its 95 % interval",
    ]
    lines.append(" " * width + "".join(f"{method:>26}" for method in METHODS))
    lines += [row(name, result["test"], "accuracy") for name, result in contestants.items()]
    for name, against in scores["differences"].items():
        lines += ["", f"{name} minus the other, paired by image"]
        lines += [row(other, result, "difference") for other, result in against.items()]
    for name, curve in scores.get("fine_tuning", {}).items():
        cells = (f"{shots} per class {value['mean']:.3f} ± {value['std']:.3f}" for shots, value in curve.items())
        lines.append(f"fine-tuned from {name}: " + ", ".join(cells))
    return "\n".join(lines)


def draw_contest(scores: Mapping[str, Any], path: Path) -> None:
    """Draw the accuracy of each contestant against the number of training images of each class."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4.5 * len(METHODS), 4.2), layout="constrained")
    for axes, method in zip(figure.subplots(1, len(METHODS), sharey=True), METHODS):
        shots: list[int] = []
        for name, result in scores["contestants"].items():
            curve = result["few_shot"][method]
            shots, means = [int(count) for count in curve], [value["mean"] for value in curve.values()]
            axes.errorbar(shots, means, [value["std"] for value in curve.values()], marker="o", capsize=2, label=name)
        axes.set(title=method, xlabel="training images of each class", xscale="log")
        axes.set_xticks(shots, shots)
        axes.grid(alpha=0.3)
    figure.axes[0].set_ylabel(f"accuracy on {scores['test_part']}")
    figure.axes[0].legend(fontsize=7)
    figure.savefig(path, dpi=120)


def _with_interval(result: Mapping[str, Any], key: str) -> str:
    low, high = result["interval_95"]
    return f"{result[key]:.3f} ({low:.3f} to {high:.3f})"
