"""Counts what work costs: lines of the package that run, numbers that torch makes, and files and pixels that are read.

Counts, unlike times, are the same on every machine and in every run.
"""

import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass
from types import FrameType
from typing import Any
from unittest import mock

import numpy as np
import rasterio
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from spectralgpt_hf.modeling import grids, raster_files, rasters


@dataclass
class Cost:
    """What was counted.

    Attributes:
        lines: Lines of the package that were executed, in all threads; each turn of a loop counts.
        numbers: Elements of all tensors that operations of torch in this thread returned.
        opened: Files that were opened.
        pixels: Values that were read from files.
    """

    lines: int = 0
    numbers: int = 0
    opened: int = 0
    pixels: int = 0

    def at_most_doubled_by(self, other: "Cost", spare: float = 0.0) -> None:
        """Assert that twice the work costs at most twice as much, and `spare` of this cost on top."""
        for name, before in vars(self).items():
            after = getattr(other, name)
            assert after <= (2 + spare) * before, f"{name}: {before} became {after}"


class _Numbers(TorchDispatchMode):
    def __init__(self, cost: Cost) -> None:
        super().__init__()
        self.cost = cost

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        outputs = result if isinstance(result, tuple | list) else [result]
        self.cost.numbers += sum(output.numel() for output in outputs if isinstance(output, torch.Tensor))
        return result


def count(work: Callable[[], object]) -> Cost:
    """Run work, and return its cost."""
    cost, lock = Cost(), threading.Lock()

    def trace(frame: FrameType, event: str, argument: Any) -> Any:
        if "/spectralgpt_hf/" not in frame.f_code.co_filename:
            return None
        if event == "line":
            cost.lines += 1
        return trace

    def reading(*args: Any, **kwargs: Any) -> Any:
        found = read_part(*args, **kwargs)
        with lock:
            cost.pixels += int(np.size(found[0]))
        return found

    def opening(*args: Any, **kwargs: Any) -> Any:
        with lock:
            cost.opened += 1
        return open_file(*args, **kwargs)

    read_part, open_file = grids.read_part, rasterio.open
    before, of_threads = sys.gettrace(), threading.gettrace()
    with (
        mock.patch.object(rasters, "read_part", reading),
        mock.patch.object(raster_files.rasterio, "open", opening),
        _Numbers(cost),
    ):
        threading.settrace(trace)
        sys.settrace(trace)
        try:
            work()
        finally:
            sys.settrace(before)
            threading.settrace(of_threads)
    return cost
