"""Apply models to images: maps and embeddings of whole scenes, reconstructions, and pictures of results.

May import `assets`, `files` and `modeling`.
"""

import importlib
from typing import TYPE_CHECKING


if TYPE_CHECKING:
    from .embedding import embed_scene
    from .prediction import predict_scene

__all__ = ["embed_scene", "predict_scene"]

_MODULES = {"embed_scene": "embedding", "predict_scene": "prediction"}


def __getattr__(name: str) -> object:
    """Import a function when it is first used, because tables and maps need libraries that reading models does not."""
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f".{_MODULES[name]}", __name__), name)
