"""The name of each public dataset and its reader. `spectralgpt prepare` and the training scripts take these names."""

from collections.abc import Callable

from datasets import Dataset

from .bigearthnet import load_bigearthnet_v1, load_bigearthnet_v2
from .eurosat import load_eurosat
from .fmow import load_fmow_sentinel
from .oscd import load_oscd
from .segmunich import load_segmunich


READERS: dict[str, Callable[..., Dataset]] = {
    "bigearthnet-v1": load_bigearthnet_v1,
    "bigearthnet-v2": load_bigearthnet_v2,
    "eurosat": load_eurosat,
    "fmow": load_fmow_sentinel,
    "oscd": load_oscd,
    "segmunich": load_segmunich,
}
