"""Options that several commands share."""

from typing import Annotated

import typer


DryRun = Annotated[bool, typer.Option("--dry-run", help="Show what would change.")]
Private = Annotated[bool, typer.Option("--private", help="Make a new repository private.")]
Classification = Annotated[str | None, typer.Option(help="Checkpoint for the tab Classify.")]
Segmentation = Annotated[str | None, typer.Option(help="Checkpoint for the tab Segment.")]
Change = Annotated[str | None, typer.Option(help="Checkpoint for the tab Change.")]
