"""Scenes as a stream of tiles ready for a model: normalised alike, read ahead in little memory."""

import copy
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from functools import partial
from itertools import pairwise
from threading import Lock, local
from typing import Any

import numpy as np
import rasterio

from ..modeling.bands import SENTINEL_2, Sensor
from ..modeling.chips import open_chips
from ..modeling.image_processing_spectralgpt import SpectralGPTImageProcessor
from ..modeling.matching import Matching
from ..modeling.notices import collected_warnings, warn_of_new
from ..modeling.radiometry import settle
from ..modeling.raster_files import Source
from ..modeling.rasters import Raster, RasterReader, open_raster
from ..modeling.tiled import PreparedTile, cut_tile, prepare_tile
from ..modeling.tiling import Strip, Tile, TileGrid
from .areas import Area, SceneArea, locate_area
from .threads import Item, Result, ordered_map, restored_threads


CHUNK_ROWS = 512
"""Rows that are read at once: whole blocks of nearly all files, so that none is decoded twice."""


LOOK_SIDE = 512
"""Pixels on a side of the middle of a scene that is looked at where its limits are known beforehand."""


class Scene:
    """One date, or two on the grid of the first, with one radiometry. Use it in a `with` statement.

    Args:
        sources: One or two, as in `open_raster`.
        processor: Of the checkpoint. It is not changed.
        band_names: Of the bands in the files, where these do not say them.
        offset, nodata, masks: As in `open_raster`; a mask for each source.
        area, area_crs: As in `locate_area`.
        statistics_scope: `"scene"`: statistics measured once for all tiles and dates; `"tile"`: on each tile.
        resize: Whether tiles are resized as the processor says.
        sensor, match: As in `SpectralGPTImageProcessor.preprocess`.

    Attributes:
        reader: The first date.
        area: What is worked on.
        statistics: Of the scene; None where they are not needed.
        is_per_tile: Whether they are measured on each tile instead.
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
        nodata: float | None = None,
        masks: Sequence[Any] = (None, None),
        area: Area | None = None,
        area_crs: Any = None,
        statistics_scope: str = "scene",
        resize: bool = False,
        sensor: Sensor | str | None = None,
        match: str | None = None,
    ) -> None:
        if statistics_scope not in ("scene", "tile"):
            raise ValueError(f"`statistics_scope` must be 'scene' or 'tile', got {statistics_scope!r}.")
        self.processor = copy.deepcopy(processor.for_match(match))
        self.processor.do_resize = processor.do_resize and resize
        self.processor.do_center_crop = processor.do_center_crop and resize
        self._local, self._lock, self._opened = local(), Lock(), ExitStack()
        self._open: list[partial[RasterReader]] = []
        expected = processor.expected
        reading: dict[str, Any] = {"offset": offset, "nodata": nodata, "band_names": band_names}
        reading |= {"sensor": sensor, "match": match}
        opening = {**reading, "expected": expected, "resolution": expected.resolution}
        with ExitStack() as stack:
            self.cores = stack.enter_context(restored_threads())
            told: set[str] = set()
            for source, mask in zip(sources, masks):
                given = {"mask": mask, **opening}
                with collected_warnings() as heard, open_raster(source, **given) as reader:
                    bands = [band for band in reader.bands or () if band in processor.bands] or None
                    if bands is None and reader.bands is not None:
                        held, wanted = " ".join(reader.bands), " ".join(processor.bands)
                        raise ValueError(f"{reader.name}: expected some of the bands {wanted}, found {held}.")
                warn_of_new(heard, told)
                self._open.append(partial(open_raster, source, bands, **given))
            with collected_warnings() as heard:
                self.readers = self._open_all(stack)
            warn_of_new(heard, told)
            self.reader = self.readers[0]
            self.area: SceneArea = locate_area(area, area_crs, self.reader)
            self.statistics: dict[str, Any] | None = None
            self.is_per_tile = statistics_scope == "tile"
            if self.is_per_tile:
                self.processor.statistics_scope = "image"
                self.processor.statistics = None
            elif self.processor.measures_pixels:
                measure = partial(self.processor.measure_statistics, mask=[*masks][: len(sources)], **reading)
                ((self.statistics, heard),) = ordered_map(_listening(measure), [list(sources)], 1, 1)
                warn_of_new(heard, told)
            if self.statistics is None:
                ((_, heard),) = ordered_map(_listening(self._look), [0], 1, 1)
                warn_of_new(heard, told)
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

    def _look(self, _: int) -> None:
        """Look at the middle of each date for values that seem wrong, where no statistics are measured."""
        matching = Matching(self.processor.expected)
        cirrus = ["B10"] if matching.expected.name == SENTINEL_2.name else []
        for opener in self._open:
            with opener(beside=cirrus * (opener.args[1] is not None)) as reader:
                sides = [min(LOOK_SIDE, side) for side in (reader.width, reader.height)]
                corner = [(whole - side) // 2 for whole, side in zip((reader.width, reader.height), sides)]
                raster = reader.read((*corner, *sides))
            if raster.valid.any():  # otherwise there is nothing to look at
                (chip,) = open_chips(raster, self.processor.bands, matching=matching)
                chip.name = reader.name
                settle(chip, self.processor.bands, self.processor.missing_bands, sensor=matching.expected)

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
                self._local.readers = _quietly(self._open_all)(self._opened)
        return [_quietly(reader.read)(window) for reader in self._local.readers]

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
                window = np.s_[first - top : last - top], np.s_[x : x + grid.size]
                yield Tile(row, column), [cut_tile(date, *window, grid.size) for date in zip(*held)]

    def _prepare(self, item: tuple[Tile, list[Raster]], valid_of: Callable[..., np.ndarray]) -> PreparedTile:
        statistics = self.statistics
        with_data = [date for date in item[1] if date.valid.any()]
        if self.is_per_tile and self.processor.mean is not None and with_data:
            # zscore and sigma_clip have limits that are known, which those of the tile replace.
            statistics = _quietly(self.processor.measure_statistics)(with_data)
        # The scene as a whole has been looked at before.
        return prepare_tile(*item, self.processor, valid_of, statistics=statistics, warn=False)


def _listening(function: Callable[[Item], Result]) -> Callable[[Item], tuple[Result, list[str]]]:
    """Return a function that also returns what it would warn of."""

    def listening(item: Item) -> tuple[Result, list[str]]:
        with collected_warnings() as heard:
            return function(item), heard

    return listening


def _quietly(function: Callable[[Item], Result]) -> Callable[[Item], Result]:
    """Return a function without its warnings."""
    return lambda item: _listening(function)(item)[0]
