"""Scenes as a stream of tiles ready for a model: opened once, normalised alike, read ahead in little memory."""

import copy
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from threading import Lock, local
from typing import Any

import numpy as np
import rasterio
import torch
from affine import Affine

from ..modeling.geometry import token_validity
from ..modeling.image_processing_spectralgpt import SpectralGPTImageProcessor
from ..modeling.raster_files import Source
from ..modeling.rasters import Raster, RasterReader, open_raster
from ..modeling.tiling import Strip, Tile, TileGrid
from .areas import Area, SceneArea, locate_area
from .threads import ordered_map, restored_threads


CHUNK_ROWS = 512
"""Rows that are read at once: whole blocks of nearly all files, so that none is decoded twice."""


@dataclass(eq=False)
class PreparedTile:
    """A tile as the model takes it.

    Attributes:
        tile: Its place in the grid.
        inputs: Arguments of the model, for one image; none where no result is wanted.
        valid: (cells, cells), where the result has a meaning.
    """

    tile: Tile
    inputs: dict[str, torch.Tensor]
    valid: np.ndarray


class Scene:
    """One date, or two on the grid of the first, with one radiometry. Use it in a `with` statement.

    Args:
        sources: One or two, as in `open_raster`.
        processor: Of the checkpoint. It is not changed.
        band_names: Of the bands in the files, where these do not say them.
        offset, masks: As in `open_raster`; a mask for each source.
        area, area_crs: As in `locate_area`.
        statistics_scope: `"scene"`: statistics measured once for all tiles and dates; `"tile"`: on each tile.
        resize: Whether tiles are resized as the processor says.

    Attributes:
        reader: The first date.
        area: What is worked on.
        statistics: Of the scene; None where they are not needed.
        cores: Threads that torch was to use, which are as many tiles as a CPU computes at once.
        processor: With what was said above.
    """

    def __init__(
        self,
        sources: Sequence[Source],
        processor: SpectralGPTImageProcessor,
        *,
        band_names: Sequence[str] | None = None,
        offset: Any = None,
        masks: Sequence[Any] = (None, None),
        area: Area | None = None,
        area_crs: Any = None,
        statistics_scope: str = "scene",
        resize: bool = False,
    ) -> None:
        if statistics_scope not in ("scene", "tile"):
            raise ValueError(f"`statistics_scope` must be 'scene' or 'tile', got {statistics_scope!r}.")
        self.processor = copy.deepcopy(processor)
        self.processor.do_resize = processor.do_resize and resize
        self.processor.do_center_crop = processor.do_center_crop and resize
        self._local, self._lock, self._opened = local(), Lock(), ExitStack()
        self._open: list[Callable[..., RasterReader]] = []
        with ExitStack() as stack:
            self.cores = stack.enter_context(restored_threads())
            for source, mask in zip(sources, masks):
                with open_raster(source, mask=mask, offset=offset, band_names=band_names) as reader:
                    bands = [band for band in reader.bands or () if band in processor.bands] or None
                    if bands is None and reader.bands is not None:
                        held, wanted = " ".join(reader.bands), " ".join(processor.bands)
                        raise ValueError(f"{reader.name}: expected bands of {wanted}, found {held}.")
                self._open.append(partial(open_raster, source, bands, mask=mask, offset=offset, band_names=band_names))
            self.readers = self._open_all(stack)
            self.reader = self.readers[0]
            self.area: SceneArea = locate_area(area, area_crs, self.reader)
            self.statistics: dict[str, Any] | None = None
            if statistics_scope == "tile":
                self.processor.statistics_scope = "image"
                self.processor.statistics = self.processor.mean = self.processor.std = None
            elif self.processor.measures_pixels:
                measure = partial(
                    self.processor.measure_statistics,
                    band_names=band_names,
                    offset=offset,
                    mask=[*masks][: len(sources)],
                )
                (self.statistics,) = ordered_map(measure, [list(sources)], 1, 1)
            self._opened = stack.pop_all()

    def __enter__(self) -> "Scene":
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is not KeyboardInterrupt:  # a thread may still read
            self._opened.close()

    @property
    def identity(self) -> list[tuple[str, str]]:
        """The files that are read, and what changes when their content does; as in `RasterReader.identity`."""
        return [pair for reader in self.readers for pair in reader.identity()]

    @property
    def bytes_per_pixel(self) -> int:
        """What all bands and dates of a pixel, and their valid masks, take once read."""
        return sum(reader.read((0, 0, 1, 1)).pixels.nbytes + 1 for reader in self.readers)

    def tiles(
        self, grid: TileGrid, strips: list[Strip], workers: int, valid_of: Callable[..., np.ndarray]
    ) -> Iterator[PreparedTile]:
        """Yield the tiles that reach into strips of one panel, row by row, read and prepared ahead by threads.

        Args:
            grid: Of the tiles.
            strips: That follow each other.
            workers: Number of threads that read, and of threads that prepare.
            valid_of: Gives the valid mask of the cells from that of the pixels and the inputs.
        """
        rows, columns = grid.rows_of(strips), grid.columns_of(strips[0])
        left = grid.lefts[columns[0]]
        right = min(grid.lefts[columns[-1]] + grid.size, grid.width)
        top, bottom = grid.tops[rows[0]], min(grid.tops[rows[-1]] + grid.size, grid.height)
        edges = [top, *range(top - top % CHUNK_ROWS + CHUNK_ROWS, bottom, CHUNK_ROWS), bottom]
        windows = [(left, first, right - left, last - first) for first, last in pairwise(edges)]
        chunks = ordered_map(self._read, windows, workers, workers + 1)
        cut = self._cut(chunks, grid, rows, columns, (left, top))
        yield from ordered_map(partial(self._prepare, valid_of=valid_of), cut, workers, 4 * workers + 4)

    @property
    def _token_size(self) -> int | None:
        """Pixels of a tile on a side of a token; None where it is resized, so that they may be any number."""
        resized = self.processor.do_resize and self.processor.size is not None
        return None if resized else self.processor.patch_size

    def _open_all(self, stack: ExitStack) -> list[RasterReader]:
        """Open all dates; all come onto the grid of the first."""
        first = stack.enter_context(self._open[0]())
        return [first, *(stack.enter_context(opener(like=first)) for opener in self._open[1:])]

    def _read(self, window: tuple[int, int, int, int]) -> list[Raster]:
        """Read a window of each date. Datasets must not be shared by threads: each has its own."""
        if not hasattr(self._local, "readers"):
            # Without one, a dataset makes its own, and could be closed by this thread alone.
            rasterio.Env().__enter__()
            with self._lock:
                self._local.readers = self._open_all(self._opened)
        return [reader.read(window) for reader in self._local.readers]

    def _cut(
        self,
        chunks: Iterator[list[Raster]],
        grid: TileGrid,
        rows: list[int],
        columns: list[int],
        corner: tuple[int, int],
    ) -> Iterator[tuple[Tile, list[Raster]]]:
        """Cut chunks into tiles; beyond the scene there is no data."""
        left, top = corner
        held: deque[list[Raster]] = deque()
        for row in rows:
            first, last = grid.tops[row], min(grid.tops[row] + grid.size, grid.height)
            while top + sum(chunk[0].valid.shape[0] for chunk in held) < last:
                held.append(next(chunks))
            while top + held[0][0].valid.shape[0] <= first:
                top += held.popleft()[0].valid.shape[0]
            for column in columns:
                x = grid.lefts[column] - left
                across, down = np.s_[x : x + grid.size], np.s_[first - top : last - top]
                yield Tile(row, column), [_cut_date(date, across, down, grid.size) for date in zip(*held)]

    def _prepare(self, item: tuple[Tile, list[Raster]], valid_of: Callable[..., np.ndarray]) -> PreparedTile:
        """Normalise a tile by itself, so that nothing depends on which others are at hand."""
        tile, dates = item
        valid = np.logical_and.reduce([date.valid for date in dates])
        inputs: dict[str, torch.Tensor] = {}
        if valid.any():
            for date, suffix in zip(dates, ("", "_after")):
                # Measuring the statistics of the scene has raised the warnings.
                batch = self.processor.preprocess(
                    _with_tokens(date, self._token_size), statistics=self.statistics, warn=self.statistics is None
                )
                inputs.update({f"{name}{suffix}": tensor for name, tensor in batch.items()})
        return PreparedTile(tile, inputs, valid_of(valid, inputs))


def _cut_date(chunks: tuple[Raster, ...], across: slice, down: slice, size: int) -> Raster:
    """Cut a tile from chunks that lie above each other, and pad it to its size."""
    pixels = np.zeros((len(chunks[0].pixels), size, size), chunks[0].pixels.dtype)
    valid = np.zeros((size, size), bool)
    row, top = 0, 0
    for chunk in chunks:
        part = np.s_[max(down.start - top, 0) : max(down.stop - top, 0), across]
        found = chunk.valid[part]
        target = np.s_[row : row + found.shape[0], : found.shape[1]]
        valid[target] = found
        pixels[(np.s_[:], *target)] = chunk.pixels[(np.s_[:], *part)]
        row, top = row + found.shape[0], top + chunk.valid.shape[0]
    first = chunks[0]
    return Raster(pixels, first.bands, valid, None, Affine.identity(), {}, first.offsets)


def _with_tokens(tile: Raster, token_size: int | None) -> Raster:
    """Let tokens with any data count where none has data in half of its pixels, which the processor wants.

    Between clouds, single pixels are clear. They have no result without a token.

    Args:
        tile: With or without data.
        token_size: In pixels; None takes the whole tile for one token.
    """
    patch_size = token_size or len(tile.valid)
    shape = (tile.valid.shape[0] // patch_size, patch_size, tile.valid.shape[1] // patch_size, patch_size)
    share = tile.valid.reshape(shape).mean((1, 3))
    if token_validity(torch.from_numpy(tile.valid), patch_size).any() or not share.any():
        return tile
    counted = np.kron(share > 0, np.ones((patch_size, patch_size), bool))
    pixels = tile.pixels.copy()
    for band in pixels:
        band[counted & ~tile.valid] = band[tile.valid].astype(np.float64).mean()
    return Raster(pixels, tile.bands, counted, tile.crs, tile.transform, tile.tags, tile.offsets)
