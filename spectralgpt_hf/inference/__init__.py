"""Models applied to images: whole scenes to maps and embeddings, reconstruction, and pictures of results.

May import `assets`, `files` and `modeling`.
"""

from .embedding import embed_scene
from .prediction import predict_scene


__all__ = ["embed_scene", "predict_scene"]
