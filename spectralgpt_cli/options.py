"""Arguments and options that several commands share."""

import inspect
import sys
from collections.abc import Callable
from dataclasses import MISSING, dataclass, fields
from functools import wraps
from typing import Annotated, Any, get_type_hints

import typer


NAMES = (
    "a folder, a name on the Hub (namespace/name), or one that comes with the package: `tiny`, `tiny-zscore`, "
    "`tiny-eurosat`, `tiny-landcover` or `tiny-change`"
)

Checkpoint = Annotated[str, typer.Argument(help=f"Checkpoint: {NAMES}.")]
Revision = Annotated[str, typer.Option(help="Branch, tag or commit of a checkpoint on the Hub.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Show what would change on the Hub, and change nothing.")]
Private = Annotated[
    bool, typer.Option("--private", help="Make a new repository private. An existing public one is refused.")
]
Force = Annotated[
    bool,
    typer.Option("--force", help="Publish into a repository whose files were not published with this package."),
]
Yes = Annotated[
    bool,
    typer.Option(
        "--yes", help="Delete stale files, and replace files that were edited on the Hub, without asking first."
    ),
]


def _task(name: str) -> typer.models.OptionInfo:
    return typer.Option(help=f"Checkpoint of {name}. Default: the one that comes with the package.")


def _revision(name: str) -> typer.models.OptionInfo:
    return typer.Option(help=f"Branch, tag or commit of that {name} on the Hub. Default: main.")


@dataclass(frozen=True)
class PageOptions:
    """The checkpoints that the page shows."""

    classification: Annotated[str | None, _task("an image classifier, for the tab Classify")] = None
    segmentation: Annotated[str | None, _task("a segmentation model, for the tab Segment")] = None
    change: Annotated[str | None, _task("a change detection model, for the tab Change")] = None
    revision: Revision = "main"
    classification_revision: Annotated[str | None, _revision("classifier")] = None
    segmentation_revision: Annotated[str | None, _revision("segmentation model")] = None
    change_revision: Annotated[str | None, _revision("change detection model")] = None

    @property
    def models(self) -> dict[str, Any]:
        """Checkpoints by task, and the revisions that were given, by argument.

        Raises:
            ValueError: If a revision is given without its checkpoint.
        """
        tasks = {name: getattr(self, name) for name in ("classification", "segmentation", "change")}
        revisions = {"checkpoint": self.revision}
        for name, source in tasks.items():
            revision = getattr(self, f"{name}_revision")
            if revision and not source:
                raise ValueError(f"`{name}_revision` has no effect without `{name}`: pass both.")
            revisions |= {name: revision} if revision else {}
        return {**tasks, "revisions": revisions}


def confirmation(yes: bool) -> bool | Callable[[str], bool]:
    """Return True, a function that asks in the terminal, or False if there is no terminal to ask in."""
    return yes or (typer.confirm if sys.stdin.isatty() else False)


def expand_options(command: Callable[..., None]) -> Callable[..., None]:
    """Make the fields of a dataclass options of a command.

    So several commands share options that are defined once. The dataclass is the type of the command's parameter
    `options`, in which the command gets an instance of it.
    """
    group = get_type_hints(command)["options"]
    hints = get_type_hints(group, include_extras=True)
    own = [parameter for name, parameter in inspect.signature(command).parameters.items() if name != "options"]
    shared = [
        inspect.Parameter(
            field.name,
            inspect.Parameter.KEYWORD_ONLY,
            default=inspect.Parameter.empty if field.default is MISSING else field.default,
            annotation=hints[field.name],
        )
        for field in fields(group)
    ]

    @wraps(command)
    def run(**given: object) -> None:
        options = group(**{parameter.name: given.pop(parameter.name) for parameter in shared})
        command(**given, options=options)

    # Typer reads the parameters of a command from its signature.
    run.__signature__ = inspect.Signature([*own, *shared])  # type: ignore[attr-defined]
    run.__annotations__ = {parameter.name: parameter.annotation for parameter in (*own, *shared)}
    return run
