"""Images for training: reading, cutting, augmenting. The readers give a `datasets.Dataset` that opens files lazily."""

import importlib
from typing import TYPE_CHECKING, Any


if TYPE_CHECKING:
    from .bigearthnet import load_bigearthnet_v1, load_bigearthnet_v2
    from .eurosat import load_eurosat
    from .features import MultispectralImage, SegmentationMap
    from .fmow import load_fmow_sentinel
    from .folders import load_change_pairs, load_image_folder, load_image_masks
    from .oscd import load_oscd
    from .prepare import prepare_shards
    from .segmunich import load_segmunich
    from .shard_dataset import load_shards

__all__ = [
    "MultispectralImage",
    "SegmentationMap",
    "load_bigearthnet_v1",
    "load_bigearthnet_v2",
    "load_change_pairs",
    "load_eurosat",
    "load_fmow_sentinel",
    "load_image_folder",
    "load_image_masks",
    "load_oscd",
    "load_segmunich",
    "load_shards",
    "prepare_shards",
]

_MODULES = {
    "MultispectralImage": "features",
    "SegmentationMap": "features",
    "load_bigearthnet_v1": "bigearthnet",
    "load_bigearthnet_v2": "bigearthnet",
    "load_change_pairs": "folders",
    "load_eurosat": "eurosat",
    "load_fmow_sentinel": "fmow",
    "load_image_folder": "folders",
    "load_image_masks": "folders",
    "load_oscd": "oscd",
    "load_segmunich": "segmunich",
    "load_shards": "shard_dataset",
    "prepare_shards": "prepare",
}


def __getattr__(name: str) -> Any:
    """Import a reader when it is first used: `datasets` takes a second, and cutting chips does not need it."""
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f".{_MODULES[name]}", __name__), name)
