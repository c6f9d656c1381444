"""Apply models to images: maps and embeddings of whole scenes, reconstructions, and pictures of results.

May import `assets`, `files` and `modeling`.
"""

from .embedding import embed_scene
from .prediction import predict_scene


__all__ = ["embed_scene", "predict_scene"]
