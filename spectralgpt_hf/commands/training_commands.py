"""`spectralgpt train`: the code that `examples/` calls too, with a recipe of the package under the options given."""

from collections.abc import Mapping, Sequence
from dataclasses import Field, fields
from pathlib import Path
from typing import Any

import yaml
from transformers import logging

from ..data.shards.format import find_shards
from ..data.shards.prepare import prepare_shards
from ..training.options import FineTuningOptions, Task
from ..training.stages import PretrainingOptions
from . import pretrain, train


RECIPES = Path(__file__).parents[1] / "recipes"
CHIP_SIZE = 96  # of images that are prepared on the way: crops of 64 px fit in, and few images give many chips
TASKS: dict[str, Task] = {"classify": "classification", "segment": "segmentation", "change": "change-detection"}

# The first option of each group, in the order of the classes that hold them.
GROUPS = {
    "dataset": "Data",
    "model_name_or_path": "Model",
    "base_learning_rate": "Optimisation",
    "crop_scale": "Regularisation",
    "eval_resize": "Scores and output",
}
PRETRAINING_GROUPS = {
    "compile": "Output and run",
    "data": "Data, model and optimisation of a stage",
    "stages": "All stages",
}


def find_recipe(name: str) -> Path:
    """Return the file of a recipe that comes with the package.

    Raises:
        ValueError: If there is none of this name; the message lists them.
    """
    path = RECIPES / f"{name.removesuffix('.yaml')}.yaml"
    if path not in RECIPES.glob("*.yaml"):
        known = ", ".join(sorted(file.stem for file in RECIPES.glob("*.yaml")))
        raise ValueError(
            f"`recipe`: there is no recipe {name!r}; expected one of {known}. A file is named with `config`."
        )
    return path


def run(
    command: str,
    given: Mapping[str, Any],
    rest: Sequence[str] = (),
    recipe: str | None = None,
    config: Path | None = None,
) -> None:
    """Train with the options of the command line.

    Args:
        command: "classify", "segment", "change" or "pretrain".
        given: Options by the names of `FineTuningOptions` or `PretrainingOptions`.
        rest: Further options as on the command line.
        recipe: Name of a recipe; `default_<command>` by default.
        config: YAML file instead of a recipe.

    Raises:
        ValueError, OSError: As the training code.
    """
    if recipe is not None and config is not None:
        raise ValueError("`recipe` and `config` exclude each other: both name a file of options.")
    options = dict(given)
    if command == "pretrain":
        options["data"] = prepared(Path(options["data"]), Path(options["output_dir"]))
    argv = ["--config", str(config or find_recipe(recipe or f"default_{command}"))]
    for name, value in options.items():
        argv += [f"--{name}", *value.split(",")] if name in LISTS else [f"--{name}={value}"]
    # A head starts anew in every run: that its weights are missing from the checkpoint is no news.
    verbosity = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        if command == "pretrain":
            pretrain.main([*argv, *rest])
        else:
            train.main(TASKS[command], [*argv, *rest], has_recipe=config is None)
    except ModuleNotFoundError as error:
        raise ImportError(f"Training needs {error.name}: pip install 'spectralgpt-hf[train]'.") from error
    finally:
        logging.set_verbosity(verbosity)


def prepared(data: Path, output: Path) -> Path:
    """Return a folder of shards: `data` itself, or `output`/shards, made of the images below `data`."""
    try:
        find_shards(data)
        return data
    except FileNotFoundError:
        if not data.is_dir():
            raise
    shards = output / "shards"
    print(f"{data} holds no shards: preparing its images in {shards}")
    print(f"`spectralgpt prepare {data} {shards}` does so with options of your own, such as `--band-names`")
    prepare_shards([data], shards, size=CHIP_SIZE, stride=CHIP_SIZE // 2)
    return shards


def option_names(command: str) -> list[str]:
    """Return the names of all options of a command."""
    return [entry.name for entry in fields(_options(command)) if entry.init]


def describe_options(command: str) -> str:
    """Return the help of all options of a command, in groups, with the defaults of its default recipe."""
    kind = _options(command)
    recipe = yaml.safe_load(find_recipe(f"default_{command}").read_text())
    groups = PRETRAINING_GROUPS if kind is PretrainingOptions else GROUPS
    inherited = {
        entry.name
        for base in kind.__mro__[1:2]
        if base.__module__.startswith("transformers.")
        for entry in fields(base)
    }
    lines = []
    for entry in (entry for entry in fields(kind) if entry.init and entry.name not in inherited):
        if entry.name in groups:
            lines += ["", f"{groups[entry.name]}:"]
        lines.append(
            f"  --{entry.name.replace('_', '-')}{_default(entry, recipe)}\n      {entry.metadata.get('help', '')}"
        )
    if inherited:
        names = ", ".join(sorted(name.replace("_", "-") for name in inherited))
        lines += ["", "Of transformers.TrainingArguments, whose documentation describes them:", f"  {names}"]
    return "\n".join(lines).strip()


# Options that take several values, which a command joins by commas.
LISTS = {"band_names"}


def _options(command: str) -> Any:
    return PretrainingOptions if command == "pretrain" else FineTuningOptions


def _default(entry: Field[object], recipe: Mapping[str, object]) -> str:
    default = recipe.get(entry.name, entry.default)
    return f" (default {default})" if isinstance(default, str | int | float) and default is not False else ""
