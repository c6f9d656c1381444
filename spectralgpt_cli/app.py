"""The application that the commands join, and how a user's mistakes are reported."""

from typing import Any

import typer
from typer.core import TyperGroup


class Commands(TyperGroup):
    """Prints what was wrong with the input as a message, not as a traceback."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except (ValueError, OSError, ImportError) as error:
            typer.echo(f"spectralgpt: {error}", err=True)
            raise typer.Exit(1) from error


app = typer.Typer(
    cls=Commands,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    # Options may be written with `-` or with `_`, as the options of the training scripts are.
    context_settings={"token_normalize_func": lambda name: name.replace("_", "-")},
    help="SpectralGPT for Sentinel-2.",
)
