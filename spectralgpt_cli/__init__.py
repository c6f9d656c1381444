"""The `spectralgpt` command, beside the package: one file per group of commands.

These files import Typer only. Importing anything of `spectralgpt_hf` registers its Auto classes, which costs torch and
transformers; a command therefore imports the package when it runs, and `--help` does without.
"""

from . import (
    checkpoint_commands,
    evaluation_commands,
    hub_commands,
    scene_commands,
    shard_commands,
    train_commands,
)
from .app import app


__all__ = [
    "app",
    "checkpoint_commands",
    "evaluation_commands",
    "hub_commands",
    "scene_commands",
    "shard_commands",
    "train_commands",
]
