"""Publishing: model cards, checks of a checkpoint folder, uploads to the Hub, Spaces and files for Inference Endpoints.

May import all but `conversion`, `commands` and `integrations`.
"""

from .cards import card_for
from .checks import check_checkpoint
from .info import CheckpointInfo, describe_checkpoint
from .publishing import publish


__all__ = ["CheckpointInfo", "card_for", "check_checkpoint", "describe_checkpoint", "publish"]
