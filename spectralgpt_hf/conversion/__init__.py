"""From the original's checkpoints to ones that the world can load, and back; and from a folder to the Hub."""

from .cards import card_for
from .checks import check_checkpoint
from .convert import convert_checkpoint, restore_checkpoint
from .info import CheckpointInfo, describe_checkpoint
from .publishing import publish
from .verification import verify_conversion


__all__ = [
    "CheckpointInfo",
    "card_for",
    "check_checkpoint",
    "convert_checkpoint",
    "describe_checkpoint",
    "publish",
    "restore_checkpoint",
    "verify_conversion",
]
