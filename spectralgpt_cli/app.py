"""The application of all commands: its general options, and the format of errors and warnings."""

import os
import re
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Annotated, Any

import typer
from typer.core import TyperCommand


# Environment variables that turn off the progress bars of each library.
WITHOUT_BARS = {"TQDM_DISABLE": "1", "HF_HUB_DISABLE_PROGRESS_BARS": "1", "HF_DATASETS_DISABLE_PROGRESS_BARS": "1"}
# Errors of the input. The name of any other error is shown, because it may be a defect of the program.
EXPECTED = (ValueError, OSError, ImportError)


class Command(TyperCommand):
    """A command that reports errors as messages without traceback, with the names of options instead of arguments."""

    def invoke(self, ctx: Any) -> object:
        shown: set[str] = set()

        def show(message: Warning | str, *_: object, **__: object) -> None:
            text = self._with_options(str(message))
            if text not in shown:  # Python itself forgets what it has shown when a library changes its filters
                typer.echo(f"spectralgpt: warning: {text}", err=True)
            shown.add(text)

        if ctx.find_root().params.get("debug"):
            return super().invoke(ctx)
        try:
            with warnings.catch_warnings():
                warnings.showwarning = show
                return super().invoke(ctx)
        except (typer.Exit, typer.Abort):
            raise
        except KeyboardInterrupt:
            typer.echo("spectralgpt: interrupted", err=True)
            raise typer.Exit(130) from None
        except Exception as error:
            typer.echo(f"spectralgpt: {self._describe(error, ctx.params)}", err=True)
            raise typer.Exit(1) from error

    def _describe(self, error: Exception, given: dict[str, object]) -> str:
        message = str(error)
        if isinstance(error, OSError) and error.strerror:  # without the number that Python puts before it
            message = error.strerror if error.filename is None else f"{error.filename}: {error.strerror}"
        message = self._with_options(message)
        if isinstance(error, OSError) and "couldn't connect to" in message and "checkpoint" in given:
            return f"there is no folder {given['checkpoint']}, and the Hub cannot be reached"
        if isinstance(error, EXPECTED):
            return message
        return f"{type(error).__name__}: {' '.join(message.split())} (`spectralgpt --debug ...` shows where)"

    def option_names(self) -> dict[str, str]:
        """Return the options of this command by the names of the arguments that they set."""
        return {str(entry.name): entry.opts[0] for entry in self.params if entry.opts[0].startswith("--")}

    def _with_options(self, message: str) -> str:
        """Replace `argument` by `--option`, if the command has that option."""
        options = self.option_names()
        return re.sub(
            r"`(\w+)(?:=([^`]*))?`",
            lambda found: (
                f"`{' '.join(filter(None, (options[found[1]], found[2])))}`" if found[1] in options else found[0]
            ),
            message,
        )


class App(typer.Typer):
    """Typer with commands of the class `Command`."""

    def command(self, *args: Any, **options: Any) -> Callable[..., Any]:
        """Return a decorator that adds a command."""
        return super().command(*args, **{"cls": Command, **options})


app = App(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    # Options may be written with `-` or with `_`, as the options of the training scripts are.
    context_settings={"token_normalize_func": lambda name: name.replace("_", "-")},
    help="SpectralGPT, a foundation model for Sentinel-2: train, evaluate, map, embed, convert, publish.",
)


def _print_version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version  # which help and completion do without

        typer.echo(f"spectralgpt-hf {version('spectralgpt-hf')}")
        raise typer.Exit


@app.callback()
def main(
    context: typer.Context,
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version, then exit.")
    ] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
    quiet: Annotated[
        bool,
        typer.Option(
            "--quiet", help="Show no progress bars. Without this option they are shown if standard error is a terminal."
        ),
    ] = False,
) -> None:
    if quiet or not sys.stderr.isatty():
        context.with_resource(_environment(WITHOUT_BARS))


@contextmanager
def _environment(variables: dict[str, str]) -> Iterator[None]:
    """Set environment variables, which libraries read on import and worker processes inherit."""
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name)
            os.environ.update({name: value} if value is not None else {})


def shows_progress() -> bool:
    """Return whether progress bars are shown: not with `--quiet`, and only if standard error is a terminal."""
    return "TQDM_DISABLE" not in os.environ


def names(text: str | None) -> list[str] | None:
    """Return the names between commas; None for an option that was not given."""
    return [name.strip() for name in text.split(",")] if text else None
