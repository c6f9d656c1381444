"""Arguments and options that several commands share."""

import sys
from collections.abc import Callable
from typing import Annotated

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


def revisions_of(
    checkpoint: str, classification: str | None, segmentation: str | None, change: str | None
) -> dict[str, str]:
    """Return the revisions that were given, by the name of the argument whose checkpoint each is of."""
    given = {
        "checkpoint": checkpoint,
        "classification": classification,
        "segmentation": segmentation,
        "change": change,
    }
    return {name: revision for name, revision in given.items() if revision}


def confirmation(yes: bool) -> bool | Callable[[str], bool]:
    """Return True, a function that asks in the terminal, or False if there is no terminal to ask in."""
    return yes or (typer.confirm if sys.stdin.isatty() else False)
