"""Publishing: model cards, checks of a checkpoint folder, uploads to the Hub, Spaces and files for Inference Endpoints.

May import all but `conversion`, `commands` and `integrations`.
"""

import importlib
from typing import TYPE_CHECKING


if TYPE_CHECKING:
    from .cards import card_for
    from .checks import check_checkpoint
    from .info import CheckpointInfo, describe_checkpoint
    from .publishing import publish

__all__ = ["CheckpointInfo", "card_for", "check_checkpoint", "describe_checkpoint", "publish"]

_MODULES = {
    "CheckpointInfo": "info",
    "card_for": "cards",
    "check_checkpoint": "checks",
    "describe_checkpoint": "info",
    "publish": "publishing",
}


def __getattr__(name: str) -> object:
    """Import a function when it is first used, because to describe a checkpoint takes less than to publish it."""
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f".{_MODULES[name]}", __name__), name)
