"""The `spectralgpt` command, beside the package: one file per group of commands.

These files import only Typer. Importing anything of `spectralgpt_hf` registers its Auto classes, which imports torch
and transformers. Therefore a command imports the package when it runs, and `--help` is fast.
"""

from . import (
    agent_commands,
    archive_commands,
    checkpoint_commands,
    evaluation_commands,
    hub_commands,
    scene_commands,
    shard_commands,
    train_commands,
)
from .app import app


__all__ = [
    "agent_commands",
    "app",
    "archive_commands",
    "checkpoint_commands",
    "evaluation_commands",
    "hub_commands",
    "scene_commands",
    "shard_commands",
    "train_commands",
]
