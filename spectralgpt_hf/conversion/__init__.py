"""From the original's checkpoints to ones that the world can load, and back."""

from .convert import convert_checkpoint, restore_checkpoint
from .info import CheckpointInfo, describe_checkpoint
from .verification import verify_conversion


__all__ = ["CheckpointInfo", "convert_checkpoint", "describe_checkpoint", "restore_checkpoint", "verify_conversion"]
