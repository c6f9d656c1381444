"""Publishing: cards, checks, the Hub, Spaces, endpoint files. May import all but `conversion` and `commands`."""

from .cards import card_for
from .checks import check_checkpoint
from .info import CheckpointInfo, describe_checkpoint
from .publishing import publish


__all__ = ["CheckpointInfo", "card_for", "check_checkpoint", "describe_checkpoint", "publish"]
