"""Commands for the Hub and for the page: publish, publish-space, demo."""

from pathlib import Path
from typing import Annotated

import typer

from .app import app
from .options import Change, Classification, DryRun, Private, Segmentation


@app.command("publish")
def publish_checkpoint(
    folder: Annotated[Path, typer.Argument(help="Checkpoint: what save_pretrained wrote, and a README.md.")],
    repo_id: Annotated[str, typer.Argument(help="namespace/name on the Hub; made if there is none.")],
    private: Private = False,
    create_pr: Annotated[bool, typer.Option("--create-pr", help="Open a pull request.")] = False,
    revision: Annotated[str | None, typer.Option(help="Branch; main by default, made if there is none.")] = None,
    dry_run: DryRun = False,
) -> None:
    """Check a checkpoint, upload it as one commit, and load it back. Repeat it to resume. Takes HF_TOKEN."""
    from spectralgpt_hf.hub import publish

    url = publish(
        folder,
        repo_id,
        private=private,
        create_pr=create_pr,
        revision=revision,
        dry_run=dry_run,
        report=typer.echo,
    )
    typer.echo(url)


@app.command("publish-space")
def publish_demo(
    checkpoint: Annotated[str, typer.Argument(help="Pretrained: folder, or name on the Hub.")],
    repo_id: Annotated[str, typer.Argument(help="namespace/name of the Space; made if there is none.")],
    classification: Classification = None,
    segmentation: Segmentation = None,
    change: Change = None,
    private: Private = False,
    dry_run: DryRun = False,
) -> None:
    """Upload the page of `demo` as a Gradio Space, as one commit. Takes HF_TOKEN."""
    from spectralgpt_hf.hub.space import publish_space

    url = publish_space(
        repo_id,
        checkpoint,
        classification=classification,
        segmentation=segmentation,
        change=change,
        private=private,
        dry_run=dry_run,
        report=typer.echo,
    )
    typer.echo(url)


@app.command()
def demo(
    checkpoint: Annotated[str, typer.Option(help="Pretrained: folder, or name on the Hub; the embedded one.")] = "",
    classification: Classification = None,
    segmentation: Segmentation = None,
    change: Change = None,
    host: Annotated[str | None, typer.Option(help="Address to listen on; 127.0.0.1.")] = None,
    port: Annotated[int | None, typer.Option(help="7860, or the next that is free.")] = None,
    open_browser: Annotated[bool, typer.Option("--open", help="Open the page in a browser.")] = False,
) -> None:
    """Serve a page that rebuilds, maps and compares images, for several people at once."""
    from spectralgpt_hf.assets import CHECKPOINT
    from spectralgpt_hf.serving.app import run

    run(
        checkpoint or CHECKPOINT,
        classification=classification,
        segmentation=segmentation,
        change=change,
        host=host,
        port=port,
        in_browser=open_browser,
        report=typer.echo,
    )
