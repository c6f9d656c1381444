"""Commands for the Hub and for the demo page: publish, publish-space, demo."""

from pathlib import Path
from typing import Annotated

import typer

from .app import app
from .options import NAMES, DryRun, Force, PageOptions, Private, Yes, confirmation, expand_options


@app.command("publish")
def publish_checkpoint(
    folder: Annotated[
        Path,
        typer.Argument(
            help="Folder of the checkpoint, with what `save_pretrained` of model and processor wrote and a README.md, "
            "or the name of a checkpoint that comes with the package, such as `tiny-eurosat`."
        ),
    ],
    repo_id: Annotated[
        str, typer.Argument(help="Repository on the Hub (namespace/name). It is created if it does not exist.")
    ],
    private: Private = False,
    create_pr: Annotated[
        bool, typer.Option("--create-pr", help="Open a pull request instead of changing the branch.")
    ] = False,
    revision: Annotated[
        str | None, typer.Option(help="Branch to publish to, which is created if it does not exist. Default: main.")
    ] = None,
    force: Force = False,
    yes: Yes = False,
    dry_run: DryRun = False,
) -> None:
    """Check a checkpoint, upload it as one commit, and load it back from the Hub.

    The token comes from HF_TOKEN, or from `hf auth login`. Repeat an interrupted command to resume it.
    """
    from spectralgpt_hf.hub import publish

    url = publish(
        folder,
        repo_id,
        private=private,
        create_pr=create_pr,
        revision=revision,
        force=force,
        confirm=confirmation(yes),
        dry_run=dry_run,
        report=typer.echo,
    )
    typer.echo(url)


@app.command("publish-space")
@expand_options
def publish_demo(
    checkpoint: Annotated[str, typer.Argument(help=f"Checkpoint of a pretrained model: {NAMES}.")],
    repo_id: Annotated[
        str, typer.Argument(help="Space on the Hub (namespace/name). It is created if it does not exist.")
    ],
    private: Private = False,
    force: Force = False,
    yes: Yes = False,
    dry_run: DryRun = False,
    *,
    options: PageOptions,
) -> None:
    """Upload the page that `spectralgpt demo` serves as a Gradio Space, as one commit.

    The token comes from HF_TOKEN, or from `hf auth login`.
    """
    from spectralgpt_hf.hub.space import publish_space

    url = publish_space(
        repo_id,
        checkpoint,
        **options.models,
        private=private,
        force=force,
        confirm=confirmation(yes),
        dry_run=dry_run,
        report=typer.echo,
    )
    typer.echo(url)


@app.command()
@expand_options
def demo(
    checkpoint: Annotated[str, typer.Argument(help=f"Checkpoint of a pretrained model: {NAMES}.")] = "tiny",
    host: Annotated[str | None, typer.Option(help="Address to listen on. Default: 127.0.0.1.")] = None,
    port: Annotated[int | None, typer.Option(help="Port to listen on. Default: the first free port from 7860.")] = None,
    open_browser: Annotated[bool, typer.Option("--open", help="Open the page in a browser.")] = False,
    *,
    options: PageOptions,
) -> None:
    """Serve a page that reconstructs, maps and compares images."""
    from spectralgpt_hf.serving.app import run

    run(
        checkpoint,
        **options.models,
        host=host,
        port=port,
        in_browser=open_browser,
        report=typer.echo,
    )
