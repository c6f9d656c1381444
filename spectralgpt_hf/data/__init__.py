"""Images for training: readers that return a `datasets.Dataset` and open its files lazily, and Parquet shards.

May import `assets`, `files` and `modeling`.
"""

import importlib
from typing import TYPE_CHECKING


if TYPE_CHECKING:
    from .readers.bigearthnet import load_bigearthnet_v1, load_bigearthnet_v2
    from .readers.columns import MultispectralImage, SegmentationMap
    from .readers.eurosat import load_eurosat
    from .readers.fmow import load_fmow_sentinel
    from .readers.folders import load_change_pairs, load_image_folder, load_image_masks
    from .readers.oscd import load_oscd
    from .readers.segmunich import load_segmunich
    from .shards.dataset import load_shards
    from .shards.prepare import prepare_shards

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
    "MultispectralImage": "readers.columns",
    "SegmentationMap": "readers.columns",
    "load_bigearthnet_v1": "readers.bigearthnet",
    "load_bigearthnet_v2": "readers.bigearthnet",
    "load_change_pairs": "readers.folders",
    "load_eurosat": "readers.eurosat",
    "load_fmow_sentinel": "readers.fmow",
    "load_image_folder": "readers.folders",
    "load_image_masks": "readers.folders",
    "load_oscd": "readers.oscd",
    "load_segmunich": "readers.segmunich",
    "load_shards": "shards.dataset",
    "prepare_shards": "shards.prepare",
}


def __getattr__(name: str) -> object:
    """Import a reader when it is first used, because `datasets` takes a second and cutting chips does not need it."""
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f".{_MODULES[name]}", __name__), name)
