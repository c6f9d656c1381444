"""Models at work on images: whole scenes to maps and embeddings, reconstruction, and pictures of them."""

from .embedding import embed_scene
from .prediction import predict_scene


__all__ = ["embed_scene", "predict_scene"]
