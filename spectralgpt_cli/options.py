"""Arguments and options that several commands share."""

import inspect
import sys
from collections.abc import Callable
from dataclasses import MISSING, fields
from functools import wraps
from typing import Annotated, Any, get_type_hints

import typer


NAMES = "a folder, a name on the Hub (namespace/name), or `tiny` for the one that comes with the package"

Checkpoint = Annotated[str, typer.Argument(help=f"Checkpoint: {NAMES}.")]
Revision = Annotated[str, typer.Option(help="Branch, tag or commit of a checkpoint on the Hub.")]
ClassificationRevision = Annotated[
    str | None, typer.Option(help="Branch, tag or commit of that classifier on the Hub. Default: main.")
]
SegmentationRevision = Annotated[
    str | None, typer.Option(help="Branch, tag or commit of that segmentation model on the Hub. Default: main.")
]
ChangeRevision = Annotated[
    str | None, typer.Option(help="Branch, tag or commit of that change detection model on the Hub. Default: main.")
]
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
Classification = Annotated[
    str | None, typer.Option(help="Checkpoint of an image classifier, for the tab Classify. Default: none.")
]
Segmentation = Annotated[
    str | None, typer.Option(help="Checkpoint of a segmentation model, for the tab Segment. Default: none.")
]
Change = Annotated[
    str | None, typer.Option(help="Checkpoint of a change detection model, for the tab Change. Default: none.")
]


def revisions_of(checkpoint: str, **tasks: tuple[str | None, str | None]) -> dict[str, str]:
    """Return the revisions that were given, by argument; each task has its checkpoint and its revision."""
    for name, (source, revision) in tasks.items():
        if revision and not source:
            raise ValueError(f"`{name}_revision` has no effect without `{name}`: pass both.")
    return {"checkpoint": checkpoint} | {name: revision for name, (_, revision) in tasks.items() if revision}


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
    def run(**given: Any) -> None:
        options = group(**{parameter.name: given.pop(parameter.name) for parameter in shared})
        command(**given, options=options)

    # Typer reads the parameters of a command from its signature.
    run.__signature__ = inspect.Signature([*own, *shared])  # type: ignore[attr-defined]
    run.__annotations__ = {parameter.name: parameter.annotation for parameter in (*own, *shared)}
    return run
