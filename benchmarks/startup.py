"""Rows of the start: importing the package, and the commands that do little else."""

import subprocess
import sys
from collections.abc import Callable
from functools import partial

from spectralgpt_hf.assets import CHECKPOINT

from .measuring import Part, Setting, Work


AUTO_CLASSES = """
from transformers.models.auto.configuration_auto import AutoConfig
from transformers.models.auto.image_processing_auto import AutoImageProcessor
from transformers.models.auto.modeling_auto import AutoModel
"""
PACKAGE = "import spectralgpt_hf"
COMMAND = "import sys\nfrom spectralgpt_cli import app\nsys.argv[0] = 'spectralgpt'\napp()"


def python(program: str, *arguments: str, environment: dict[str, str] | None = None) -> Callable[[], object]:
    """Return a run of a program in a process of its own. It must not fail."""
    command = [sys.executable, "-c", program, *arguments]
    return partial(subprocess.run, command, env=environment, check=True, capture_output=True)


def package_import(setting: Setting) -> Work:
    """The import, whose limit is that of the auto classes of transformers."""
    return Work(
        "`import spectralgpt_hf`; limit: the auto classes of transformers",
        python(PACKAGE),
        [Part(python(AUTO_CLASSES))],
        aim="91 %",
    )


def help_texts(setting: Setting) -> Work:
    """`spectralgpt --help`, whose limit is Typer itself."""
    run = python(COMMAND, "--help")
    return Work("`spectralgpt --help`; limit: importing Typer", run, [Part(python(IMPORT_TYPER))], aim="under 0.5 s")


def completion(setting: Setting) -> Work:
    """The completion of a command by the shell."""
    import os

    asked = {"_SPECTRALGPT_COMPLETE": "complete_bash", "COMP_WORDS": "spectralgpt emb", "COMP_CWORD": "1"}
    run = python(COMMAND, environment={**os.environ, **asked})
    text = "completion of `spectralgpt emb`; limit: importing Typer"
    return Work(text, run, [Part(python(IMPORT_TYPER))], aim="under 0.5 s")


IMPORT_TYPER = "import typer, typer.core, typer.main, typer.completion, rich.console"


def info(setting: Setting) -> Work:
    """`spectralgpt info`, whose limit is the import of the package."""
    return Work(
        "`spectralgpt info tiny`; limit: `import spectralgpt_hf`",
        python(COMMAND, "info", str(CHECKPOINT)),
        [Part(python(PACKAGE))],
        aim="limit + 0.5 s",
    )


ROWS: dict[str, Callable[[Setting], Work]] = {
    "import": package_import,
    "help": help_texts,
    "completion": completion,
    "info": info,
}
