"""Tables and a picture of the comparison with few labels."""

from collections.abc import Iterable
from pathlib import Path

from .few_labels import FOLD_COLUMNS, Contest
from .probing import METHODS


def _header(columns: Iterable[tuple[str, str]]) -> str:
    return "".join(f"{' '.join(column):>20}" for column in columns)


FOLD_HEADER = _header(FOLD_COLUMNS)


def fold_cells(scores: Iterable[float], errors: Iterable[float] | None = None) -> str:
    """Return the cells below a header such as `FOLD_HEADER`: accuracies, each with its error if there are errors."""
    cells = [f"{score:.3f}" for score in scores]
    if errors is not None:
        cells = [f"{cell} ± {error:.3f}" for cell, error in zip(cells, errors)]
    return "".join(f"{cell:>20}" for cell in cells)


def contest_table(scores: Contest) -> str:
    """Return tables of accuracies by contestant and of paired differences."""
    contestants = scores["contestants"]
    width = max(map(len, contestants))
    columns = [(kind, method) for kind in ("spatial", "random") for method in METHODS]
    lines = [f"EuroSAT, accuracy in cross-validation of the part {scores['train_part']}"]
    lines.append(" " * width + _header(columns))
    for name, result in contestants.items():
        values = (result["folds"][kind][method] for kind, method in columns)
        lines.append(f"{name:{width}}{fold_cells(values)}")
    if scores["test_part"] is not None:
        lines += _test_lines(scores, width)
    for name, curve in scores.get("fine_tuning", {}).items():
        cells = (f"{shots} per class {value['mean']:.3f} ± {value['std']:.3f}" for shots, value in curve.items())
        lines.append(f"fine-tuned from {name}: " + ", ".join(cells))
    for name, by_shots in scores.get("fine_tuning_differences", {}).items():
        cells = (
            f"{shots} per class {_with_interval(value['difference'], value['interval_95'])}"
            for shots, value in by_shots.items()
        )
        lines.append(f"fine-tuned, {name}: " + ", ".join(cells))
    return "\n".join(lines)


def _test_lines(scores: Contest, width: int) -> list[str]:
    def row(name: str, cells: Iterable[str]) -> str:
        return f"{name:{width}}" + "".join(f"{cell:>26}" for cell in cells)

    lines = ["", f"EuroSAT, trained on {scores['train_part']}: accuracy on {scores['test_part']} and its 95 % interval"]
    lines.append(row("", METHODS))
    for name, result in scores["contestants"].items():
        accuracies = [result["test"][method] for method in METHODS]
        lines.append(row(name, (_with_interval(cell["accuracy"], cell["interval_95"]) for cell in accuracies)))
    for name, against in scores["differences"].items():
        lines += ["", f"{name} minus the other, paired by image"]
        for other, by_method in against.items():
            differences = [by_method[method] for method in METHODS]
            lines.append(row(other, (_with_interval(cell["difference"], cell["interval_95"]) for cell in differences)))
    return lines


def draw_contest(scores: Contest, path: Path) -> None:
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


def _with_interval(value: float, interval: tuple[float, float]) -> str:
    return f"{value:.3f} ({interval[0]:.3f} to {interval[1]:.3f})"
