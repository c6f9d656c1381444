"""Commands for training: train classify, segment, change, pretrain."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from .app import App, Command, app
from .options import expand_options


DATA, MODEL, OPTIMISATION, OUTPUT = "Data", "Model", "Optimisation", "Output"

# Any other option of the training code may follow; it is checked there.
PASS_ON = {
    "allow_extra_args": True,
    "ignore_unknown_options": True,
    "token_normalize_func": lambda name: name.replace("_", "-"),
}


class TrainCommand(Command):
    """A command that passes options on that it does not list itself."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        rest = super().parse_args(ctx, args)
        data = ctx.params.get("data_dir", ctx.params.get("data"))
        if data is not None and str(data).startswith("-"):
            raise typer.BadParameter(f"Name the folder of the data before options such as {data}.", ctx)
        return rest

    def option_names(self) -> dict[str, str]:
        from spectralgpt_hf.commands.training_commands import option_names

        every = option_names(self.name or "")
        return {name: f"--{name.replace('_', '-')}" for name in every} | super().option_names()


train = App(no_args_is_help=True, help="Train a model on your own data, or on a public dataset.")
app.add_typer(train, name="train")


def _show_all(context: typer.Context, wanted: bool) -> None:
    if wanted:
        from spectralgpt_hf.commands.training_commands import describe_options

        typer.echo(describe_options(context.info_name or ""))
        raise typer.Exit


Data = Annotated[
    Path,
    typer.Argument(
        metavar="DATA",
        help="Folder of the data. Images and maps, class folders or pairs of dates are found by their names, with or "
        "without folders train, val and test.",
    ),
]
Shards = Annotated[
    Path,
    typer.Argument(
        metavar="DATA", help="Folder of shards from `spectralgpt prepare`, or of images, which are prepared first."
    ),
]


# Options, under the names that the training code has for them. Python lists the fields of the last base first.
@dataclass(frozen=True, kw_only=True)
class DataOptions:
    band_names: Annotated[
        str | None,
        typer.Option(
            rich_help_panel=DATA,
            help="Names of the files' bands, in order, with commas. Default: the names that the files state.",
        ),
    ] = None
    offset: Annotated[
        float | None,
        typer.Option(
            rich_help_panel=DATA,
            help="Number added to all digital numbers, such as -1000; 0 for none. Default: what files or table.csv "
            "say.",
        ),
    ] = None
    dry_run: Annotated[
        bool,
        typer.Option(
            "--dry-run", rich_help_panel=DATA, help="Stop after the summary of the data and a picture of samples."
        ),
    ] = False


@dataclass(frozen=True, kw_only=True)
class MapDataOptions(DataOptions):
    classes: Annotated[
        str | None,
        typer.Option(
            rich_help_panel=DATA,
            help="Codes and names of the classes: 1=water,2=trees or a YAML file. Default: the codes found in the "
            "maps.",
        ),
    ] = None
    holdout: Annotated[
        str | None,
        typer.Option(
            rich_help_panel=DATA,
            help="What is held out where there are no folders of splits: whole files (file), square blocks of the "
            "images (spatial), or blocks where there are few files and else whole files (auto). Default: the recipe's, "
            "auto.",
        ),
    ] = None


@dataclass(frozen=True, kw_only=True)
class ModelOptions:
    model_name_or_path: Annotated[
        str | None,
        typer.Option(
            "--checkpoint",
            rich_help_panel=MODEL,
            help="Model to start from: a folder, a name on the Hub (namespace/name), or one that comes with the "
            "package. Default: the recipe's, tiny-zscore.",
        ),
    ] = None
    image_size: Annotated[
        int | None,
        typer.Option(
            rich_help_panel=MODEL, help="Height and width of the model's input in pixels. Default: the recipe's."
        ),
    ] = None


@dataclass(frozen=True, kw_only=True)
class FineTuningOptions:
    num_train_epochs: Annotated[
        float | None,
        typer.Option(
            "--epochs", rich_help_panel=OPTIMISATION, help="Passes over the training data. Default: the recipe's."
        ),
    ] = None
    learning_rate: Annotated[
        float | None,
        typer.Option(
            rich_help_panel=OPTIMISATION, help="Largest learning rate, that of the head. Default: the recipe's."
        ),
    ] = None
    per_device_train_batch_size: Annotated[
        int | None,
        typer.Option("--batch-size", rich_help_panel=OPTIMISATION, help="Images of a step. Default: the recipe's."),
    ] = None


@dataclass(frozen=True, kw_only=True)
class PretrainingOptions:
    epochs: Annotated[
        float | None,
        typer.Option(
            "--epochs", rich_help_panel=OPTIMISATION, help="Passes over the training data. Default: the recipe's."
        ),
    ] = None
    base_learning_rate: Annotated[
        float | None,
        typer.Option(
            "--learning-rate",
            rich_help_panel=OPTIMISATION,
            help="Largest learning rate for a batch of 256, scaled with the batch. Default: the recipe's.",
        ),
    ] = None
    batch_size: Annotated[
        int | None,
        typer.Option("--batch-size", rich_help_panel=OPTIMISATION, help="Images of a step. Default: the recipe's."),
    ] = None


@dataclass(frozen=True, kw_only=True)
class RunOptions:
    seed: Annotated[
        int | None,
        typer.Option(
            rich_help_panel=OPTIMISATION, help="Seed of new weights, order and augmentation. Default: the recipe's."
        ),
    ] = None
    output_dir: Annotated[
        Path,
        typer.Option(
            "--output",
            rich_help_panel=OUTPUT,
            help="Folder to write to. The finished model is written to its subfolder model.",
        ),
    ]
    recipe: Annotated[
        str | None,
        typer.Option(
            rich_help_panel=OUTPUT, help="Name of a recipe that comes with the package. Default: one for few images."
        ),
    ] = None
    config: Annotated[
        Path | None,
        typer.Option(
            rich_help_panel=OUTPUT,
            help="YAML file of options, instead of a recipe. Options on the command line override it.",
        ),
    ] = None
    help_all: Annotated[
        bool,
        typer.Option(
            "--help-all",
            is_eager=True,
            callback=_show_all,
            rich_help_panel=OUTPUT,
            help="List every option, then exit.",
        ),
    ] = False


@dataclass(frozen=True, kw_only=True)
class ClassifyOptions(RunOptions, FineTuningOptions, ModelOptions, DataOptions):
    """Options of `train classify`."""


@dataclass(frozen=True, kw_only=True)
class MapOptions(RunOptions, FineTuningOptions, ModelOptions, MapDataOptions):
    """Options of `train segment` and `train change`."""


@dataclass(frozen=True, kw_only=True)
class PretrainOptions(RunOptions, PretrainingOptions, ModelOptions):
    """Options of `train pretrain`."""


@train.command(cls=TrainCommand, context_settings=PASS_ON)
@expand_options
def segment(context: typer.Context, data_dir: Data, *, options: MapOptions) -> None:
    """Train a model that classifies every pixel, from images and maps of equal names.

    Further options follow those below; --help-all lists them.
    """
    _run("segment", context)


@train.command(cls=TrainCommand, context_settings=PASS_ON)
@expand_options
def classify(context: typer.Context, data_dir: Data, *, options: ClassifyOptions) -> None:
    """Train a model that classifies images, from one folder of images per class.

    Further options follow those below; --help-all lists them.
    """
    _run("classify", context)


@train.command(cls=TrainCommand, context_settings=PASS_ON)
@expand_options
def change(context: typer.Context, data_dir: Data, *, options: MapOptions) -> None:
    """Train a model that detects changes, from images before and after and maps of the change.

    Further options follow those below; --help-all lists them.
    """
    _run("change", context)


@train.command(cls=TrainCommand, context_settings=PASS_ON)
@expand_options
def pretrain(context: typer.Context, data: Shards, *, options: PretrainOptions) -> None:
    """Pretrain a model without labels, by masking and reconstructing images.

    Further options follow those below; --help-all lists them.
    """
    _run("pretrain", context)


def _run(command: str, context: typer.Context) -> None:
    from spectralgpt_hf.commands.training_commands import run

    params = context.params
    own = ("recipe", "config", "help_all")
    given = {name: value for name, value in params.items() if name not in own and value not in (None, False)}
    run(command, given, context.args, recipe=params["recipe"], config=params["config"])
