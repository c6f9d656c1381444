"""Run a model over a whole scene: tiles in, strips of blended results out. Finished strips are kept on disk.

Results do not depend on how the work is divided, to the last bit. Every tile is normalised by itself, passes through
the model in a batch of always the same shape, and is added up in the order of the grid. Batches of other shapes, or
operations on another number of cores, round differently, which could change the class of a pixel.
"""

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import TypeAlias

import numpy as np
import rasterio
import torch
from tqdm.auto import tqdm

from ..files import locked
from ..modeling.notices import warn
from ..modeling.tiled import TILES_PER_PASS, PreparedTile, blend_strips, score_tiles
from ..modeling.tiling import Box, Strip, TileGrid, runs
from .destinations import check_outputs
from .resuming import FinishedStrips, fingerprint, hash_weights
from .scenes import CHUNK_ROWS, Scene
from .threads import ordered_map


Scored: TypeAlias = tuple[PreparedTile, np.ndarray | None]
"""A tile and its values (K, cells, cells), which are None for a tile without data."""

Parts: TypeAlias = Iterator[tuple[Box, np.ndarray]]
"""Boxes of the result, in cells, and the values in each (C, height, width)."""


@dataclass(frozen=True, eq=False)
class Task:
    """The computation on each tile of a scene.

    Attributes:
        model: Model in evaluation mode, on its device.
        score: Returns values (B, K, cells, cells) for the model's inputs.
        channels: Number K of values.
        valid_of: Returns the valid mask (cells, cells) of a tile for that of its pixels (size, size) and the inputs.
        finish: Turns blended values (K, rows, columns) and their valid mask into the layers that are kept.
    """

    model: torch.nn.Module
    score: Callable[[dict[str, torch.Tensor]], torch.Tensor]
    channels: int
    valid_of: Callable[[np.ndarray, dict[str, torch.Tensor]], np.ndarray]
    finish: Callable[[np.ndarray, np.ndarray], Mapping[str, np.ndarray]]


@dataclass(frozen=True)
class Resources:
    """The resources that a run may use. They do not change the result.

    Attributes:
        batch_size: Number of tiles that are sent to the device at once. By default 32, on a CPU one per core.
        workers: Number of threads that read, and number of threads that prepare tiles.
        memory_limit: Bytes for pixels, results and GDAL's cache, without those of the model.
        progress: Whether to show a progress bar.
    """

    batch_size: int | None = None
    workers: int = 2
    memory_limit: int = 2**30
    progress: bool = True

    def __post_init__(self) -> None:
        for name in ("batch_size", "workers", "memory_limit"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"`{name}` must be positive, got {value}.")

    @property
    def cache_bytes(self) -> int:
        """Bytes of GDAL's cache of decoded blocks."""
        return max(2**24, self.memory_limit // 8)


class Processes:
    """The processes of one `accelerate launch`, or only this one."""

    def __init__(self) -> None:
        self._state = None
        if int(os.environ.get("WORLD_SIZE", "1")) > 1:
            from accelerate import PartialState
            from accelerate.utils import parse_flag_from_env

            # `PartialState` finds GPUs, but does not read the option of `accelerate launch --cpu`.
            on_cpu = parse_flag_from_env("ACCELERATE_USE_CPU") or not torch.accelerator.is_available()
            self._state = PartialState(cpu=on_cpu)

    @property
    def device(self) -> torch.device:
        """The device that this process computes on."""
        if self._state is not None:
            return self._state.device
        accelerator = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
        return accelerator or torch.device("cpu")

    @property
    def is_main(self) -> bool:
        """Whether this process does the work that is done only once."""
        return self._state is None or self._state.is_main_process

    def share(self, strips: list[Strip]) -> list[Strip]:
        """Return the strips of this process. They are neighbours, because neighbours have tiles in common."""
        if self._state is None:
            return strips
        index, count = self._state.process_index, self._state.num_processes
        return strips[len(strips) * index // count : len(strips) * (index + 1) // count]

    def wait(self) -> None:
        """Wait until all processes have called this."""
        if self._state is not None:
            self._state.wait_for_everyone()


def tile_has_data(valid: np.ndarray, inputs: dict[str, torch.Tensor]) -> np.ndarray:
    """Return the valid mask (1, 1) of a tile that has one result: whether any of its pixels has data."""
    return np.array([[valid.any()]])


def warn_of_seams() -> None:
    """Warn the caller of `predict_scene` or `embed_scene` that statistics of tiles cause seams."""
    warn("statistics_scope='tile': each tile has its own limits, which causes seams in maps.")


def plan_strips(scene: Scene, grid: TileGrid, channels: int, resources: Resources) -> list[Strip]:
    """Cut the area of interest into strips, in panels that are narrow enough for the memory limit.

    Raises:
        ValueError: If the limit is too small for a panel of one tile.
    """
    chunks = CHUNK_ROWS * (resources.workers + 2) + grid.size
    per_column = scene.bytes_per_pixel * chunks * grid.cell + 4 * channels * grid.cells * 5
    available = resources.memory_limit - resources.cache_bytes
    width = available // per_column - 2 * grid.cells
    if width < 1:
        raise ValueError(
            f"`memory_limit` is {resources.memory_limit / 2**20:.0f} MiB: expected at least "
            f"{(per_column * (3 * grid.cells) + resources.cache_bytes) / 2**20:.0f} MiB for tiles of {grid.size} px "
            f"with {channels} values per cell. Fewer `workers` need less."
        )
    return grid.strips(grid.to_cells(scene.area.box), width)


def map_scene(
    scene: Scene,
    grid: TileGrid,
    task: Task,
    paths: Sequence[Path],
    overwrite: bool,
    write: Callable[[Callable[[str], Parts], Path], None],
    key: Mapping[str, object],
    resources: Resources,
) -> None:
    """Compute the strips of a scene that are not finished yet, and write the result.

    Args:
        scene: The open scene.
        grid: Grid of its tiles.
        task: The computation.
        paths: Files to write, that of the caller first. Finished strips are kept beside it.
        overwrite: Whether to replace files that exist. A run that resumes does not need it.
        write: Writes the result in the main process, from the parts of each layer by name, and a folder for scratch
            files. It raises a `ValueError` if there is nothing to write.
        key: All other values that the result depends on. Finished strips with another key are not used.
        resources: Resources that may be used.

    Raises:
        ValueError: If a file to write is an input, or the result is empty.
        FileExistsError: If a file exists and `overwrite` is not set.
        OSError: If another process writes the same destination, or a file cannot be written.
    """
    processes, destination = Processes(), paths[0]
    strips = plan_strips(scene, grid, task.channels, resources)
    from .. import __version__  # at module level, the import would be circular

    identity = scene.identity
    run_key = fingerprint(
        version=__version__,
        sources=identity,
        grid=repr(grid),
        area=repr(scene.area),
        strips=repr(strips),
        weights=hash_weights(task.model),
        device=next(task.model.parameters()).device.type,
        processor=scene.processor.to_dict(),
        **key,
    )
    with locked(destination) if processes.is_main else nullcontext():
        if processes.is_main:
            resumes = FinishedStrips.exist(destination, run_key)
            check_outputs(paths, [name for name, _ in identity], overwrite or resumes)
            FinishedStrips(destination, run_key, clean=True)
        processes.wait()
        finished = FinishedStrips(destination, run_key)
        left = [strip for strip in strips if strip.name not in finished]
        processes.wait()  # all processes must have listed the finished strips before one finishes another
        _compute(scene, grid, task, list(runs(processes.share(left))), finished, resources, processes)
        processes.wait()
        if processes.is_main:
            with rasterio.Env(GDAL_CACHEMAX=resources.cache_bytes):
                try:
                    write(partial(_parts, finished, strips), finished.folder)
                except ValueError:  # there is no data, and the finished strips are of no further use
                    finished.remove()
                    raise
            finished.remove()
        processes.wait()


def _compute(
    scene: Scene,
    grid: TileGrid,
    task: Task,
    mine: list[list[Strip]],
    finished: FinishedStrips,
    resources: Resources,
    processes: Processes,
) -> None:
    """Compute runs of strips. Reading, scoring and writing overlap in time."""
    total = sum(len(grid.rows_of(run)) * len(grid.columns_of(run[0])) for run in mine)
    shown = resources.progress and processes.is_main
    with (
        rasterio.Env(GDAL_CACHEMAX=resources.cache_bytes),
        ThreadPoolExecutor(1) as writer,
        tqdm(total=total, desc=scene.reader.tags["source"], unit="tile", disable=not shown) as bar,
    ):
        writing: Future[None] | None = None
        for run in mine:
            tiles = scene.tiles(grid, run, resources.workers, task.valid_of)
            scored = _score(tiles, task, resources.batch_size, scene.cores)
            for strip, values, valid in blend_strips(_shown(scored, bar), grid, run, task.channels):
                if writing is not None:
                    writing.result()
                writing = writer.submit(_keep, finished, strip, task, values, valid)
        if writing is not None:
            writing.result()


def _parts(finished: FinishedStrips, strips: list[Strip], layer: str) -> Parts:
    """Yield one layer of all strips, with the box of each in the result."""
    left, top = strips[0].box[:2]
    for strip in strips:
        box = strip.box
        yield Box(box.left - left, box.top - top, box.right - left, box.bottom - top), finished.load(strip.name, layer)


def _score(tiles: Iterator[PreparedTile], task: Task, batch_size: int | None, cores: int) -> Iterator[Scored]:
    """Yield each tile with its values (K, cells, cells), which are None for a tile without data."""
    device = next(task.model.parameters()).device
    if device.type == "cpu":
        # Tiles computed on one core each are as fast as a batch on all cores, and round alike for any number of cores.
        group, threads, ahead = 1, cores, max(2 * cores, batch_size or 0)
    else:
        group, threads, ahead = batch_size or 4 * TILES_PER_PASS, 1, 2
    batches = iter(lambda: list(islice(tiles, group)), [])
    score = partial(score_tiles, score=task.score, device=device)
    for batch in ordered_map(score, batches, threads, ahead):
        yield from batch


def _shown(scored: Iterable[Scored], bar: tqdm) -> Iterator[Scored]:
    """Yield the items, and advance the bar for each."""
    for item in scored:
        bar.update()
        yield item


def _keep(finished: FinishedStrips, strip: Strip, task: Task, values: np.ndarray, valid: np.ndarray) -> None:
    finished.save(strip.name, task.finish(values, valid))
