"""Read a scene as a stream of prepared tiles, ahead of the model and in bounded memory."""

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
from rasterio.crs import CRS

from ..modeling.bands import Sensor
from ..modeling.chips import Chip, chip_of, open_image, read_decimated
from ..modeling.dates import Date
from ..modeling.image_processing_spectralgpt import SpectralGPTImageProcessor
from ..modeling.matching import Matching
from ..modeling.notices import collected_warnings, warn_of_new
from ..modeling.pixel_statistics import Statistics
from ..modeling.products import Offset
from ..modeling.radiometry import STATISTICS_SIDE, settle
from ..modeling.raster_files import Source
from ..modeling.rasters import Raster, RasterReader
from ..modeling.series import Series, open_series
from ..modeling.tiled import PreparedTile, cut_tile, prepare_tile
from ..modeling.tiling import Strip, Tile, TileGrid
from .areas import Area, SceneArea, locate_area
from .threads import Item, Result, ordered_map, restored_threads


CHUNK_ROWS = 512
"""Number of rows of a read. Nearly all files have blocks of at most this height, so that none is decoded twice."""

CHECKED_SIDE = 512
"""Height and width in pixels of the middle of a scene whose values are checked if no statistics are measured."""


class Scene:
    """One date, a pair or a series on the grid of the first date, normalised alike. Use it in a `with` statement.

    Each file of a source is opened once. GDAL does not allow threads to share an open file, so each further thread that
    reads at the same time opens the source again.

    Args:
        sources: One or two, or a `Series` of any number, as in `open_raster`.
        processor: Processor of the checkpoint. It is not changed.
        band_names: Names of the bands in the files, if the files do not state them.
        offset, nodata, masks: As in `open_raster`; there is a mask for each source.
        area, area_crs: As in `locate_area`.
        statistics_scope: `"scene"` measures the statistics once for all tiles and dates, `"tile"` on each tile.
        resize: Whether tiles are resized as the processor is set to.
        sensor, match: As in `SpectralGPTImageProcessor.preprocess`.

    Attributes:
        readers: A reader of each date.
        reader: The reader of the first date.
        area: The area of interest.
        statistics: Statistics of the scene; None if they are not needed.
        is_per_tile: Whether statistics are measured on each tile instead.
        cores: Number of threads that torch was set to use. On a CPU, this number of tiles is computed at the same time.
        processor: A copy of the processor with the settings above.
        is_series: Whether the dates are a series, in which a pixel has data if any date has data.
        days: Dates of a series in days since 1 January 1970; None if one is unknown.
    """

    def __init__(
        self,
        sources: Sequence[Source] | Series,
        processor: SpectralGPTImageProcessor,
        *,
        band_names: Sequence[str] | None = None,
        offset: Offset | None = None,
        nodata: float | None = None,
        masks: Sequence[Source | None] = (None, None),
        area: Area | None = None,
        area_crs: CRS | str | int | None = None,
        statistics_scope: str = "scene",
        resize: bool = False,
        sensor: Sensor | str | None = None,
        match: str | None = None,
    ) -> None:
        if statistics_scope not in ("scene", "tile"):
            raise ValueError(f"`statistics_scope` must be 'scene' or 'tile', got {statistics_scope!r}.")
        self.is_series = isinstance(sources, Series)
        images: Sequence[Source] = sources.images if isinstance(sources, Series) else sources
        self.processor = copy.deepcopy(processor.for_match(match))
        self.processor.do_resize = processor.do_resize and resize
        self.processor.do_center_crop = processor.do_center_crop and resize
        self._local, self._lock, self._opened = local(), Lock(), ExitStack()
        matching = Matching.of(processor.expected, sensor, match)
        image = (processor.bands, matching, band_names, nodata, offset)
        self._open = [partial(open_image, source, *image, mask) for source, mask in zip(images, masks)]
        self._warned: set[str] = set()
        with ExitStack() as stack:
            self.cores = stack.enter_context(restored_threads())
            opened = self._warn_once(_with_warnings(self._open_all)(stack))
            self.readers = self._select(opened)
            self.reader = self.readers[0]
            tags = [reader.tags for reader in self.readers]
            self.days = sources.days(tags) if isinstance(sources, Series) else None
            self.area: SceneArea = locate_area(area, area_crs, self.reader)
            self.statistics: Statistics | None = None
            self.is_per_tile = statistics_scope == "tile"
            if self.is_per_tile:
                self.processor.statistics_scope = "image"
                self.processor.statistics = None
            elif self.processor.measures_pixels:
                (measured,) = ordered_map(_with_warnings(self._measure), [opened], 1, 1)
                self.statistics = self._warn_once(measured)
            if self.statistics is None:
                (checked,) = ordered_map(_with_warnings(self._check_values), [opened], 1, 1)
                self._warn_once(checked)
            self._opened = stack.pop_all()
        self._idle = [self.readers]

    def __enter__(self) -> "Scene":
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is not KeyboardInterrupt:  # a thread may still read
            self._opened.close()

    @property
    def identity(self) -> list[tuple[str, str]]:
        """The files that are read, and a state of each that changes with its content, as in `RasterReader.identity`."""
        return [pair for reader in self.readers for pair in reader.identity()]

    @property
    def bytes_per_pixel(self) -> int:
        """Memory of all bands and dates of a pixel, with their valid masks."""
        return sum(reader.read((0, 0, 1, 1)).pixels.nbytes + 1 for reader in self.readers)

    def tiles(
        self, grid: TileGrid, strips: list[Strip], workers: int, valid_of: Callable[..., np.ndarray]
    ) -> Iterator[PreparedTile]:
        """Yield the tiles that overlap strips of one panel, row by row. Threads read and prepare them ahead.

        Args:
            grid: Grid of the tiles.
            strips: Neighbouring strips of one panel.
            workers: Number of threads that read, and number of threads that prepare.
            valid_of: As in `prepare_tile`.
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

    def _open_all(self, stack: ExitStack) -> list[RasterReader]:
        """Open all dates on their own grids."""
        return [stack.enter_context(opener()) for opener in self._open]

    def _select(self, opened: list[RasterReader]) -> list[RasterReader]:
        """Return readers of the bands that the processor uses, or of all bands without names, on the first grid."""
        return [reader.select(reader.band_names and self.processor.bands, like=opened[0]) for reader in opened]

    def _measure(self, opened: list[RasterReader]) -> Statistics:
        """Measure the statistics of all dates together on decimated reads."""
        return self.processor.measure_statistics(
            [self._chip(read_decimated(reader, STATISTICS_SIDE), reader) for reader in opened]
        )

    def _check_values(self, opened: list[RasterReader]) -> None:
        """Warn if values in the middle of a date look wrong. Measuring statistics would include this check."""
        for reader in opened:
            sides = [min(CHECKED_SIDE, side) for side in (reader.width, reader.height)]
            corner = [(whole - side) // 2 for whole, side in zip((reader.width, reader.height), sides)]
            raster = reader.read((*corner, *sides))
            if raster.valid.any():
                own = self.processor
                settle(self._chip(raster, reader), own.bands, own.missing_bands, sensor=own.expected)

    def _chip(self, raster: Raster, reader: RasterReader) -> Chip:
        return chip_of(raster, reader.name, self.processor.bands, self.processor.expected)

    def _warn_once(self, outcome: "tuple[Result, list[str]]") -> Result:
        """Raise the warnings of a call that were not raised before, and return its result."""
        result, texts = outcome
        warn_of_new(texts, self._warned)
        return result

    def _read(self, window: tuple[int, int, int, int]) -> list[Raster]:
        """Read a window of each date, with readers that no other thread uses meanwhile."""
        if not hasattr(self._local, "environment"):
            # In an environment of the thread, datasets do not create their own, which only this thread could close.
            self._local.environment = rasterio.Env().__enter__()
        with self._lock:
            readers = self._idle.pop() if self._idle else None
            if readers is None:
                readers = self._select(_without_warnings(self._open_all)(self._opened))
        try:
            return [_without_warnings(reader.read)(window) for reader in readers]
        finally:
            self._idle.append(readers)

    def _cut(
        self,
        chunks: Iterator[list[Raster]],
        grid: TileGrid,
        rows: list[int],
        columns: list[int],
        corner: tuple[int, int],
    ) -> Iterator[tuple[Tile, list[Raster]]]:
        """Cut chunks into tiles. Pixels of a tile beyond the scene have no data."""
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
        if self.is_per_tile and (self.processor.mean is not None or self.is_series) and with_data:
            # Limits of zscore and sigma_clip are known, but those of the tile replace them. All dates share them.
            statistics = _without_warnings(self.processor.measure_statistics)(with_data)
        # The values of the scene were checked when it was opened.
        dates = (self.is_series, self.days)
        return prepare_tile(*item, self.processor, valid_of, *dates, statistics=statistics, warn=False)


def find_sources(source: Source | None, sources: Any, dates: Sequence[Date] | None) -> Series | None:
    """Return the series to map, or None for one scene or a pair.

    Args:
        source: A scene, or None.
        sources, dates: A series and its dates as in `open_series`, or None.

    Raises:
        ValueError: If not exactly one of both is given, or dates without a series.
    """
    if (source is None) == (sources is None):
        raise ValueError("Expected either `source`, a scene, or `sources`, a series of several dates.")
    if sources is None and dates is not None:
        raise ValueError("`dates` are those of `sources`: pass these, or leave the dates out.")
    return None if sources is None else open_series(sources, dates)


def _with_warnings(function: Callable[[Item], Result]) -> Callable[[Item], tuple[Result, list[str]]]:
    """Return a function that returns the texts of its warnings beside its result."""

    def collecting(item: Item) -> tuple[Result, list[str]]:
        with collected_warnings() as texts:
            return function(item), texts

    return collecting


def _without_warnings(function: Callable[[Item], Result]) -> Callable[[Item], Result]:
    """Return a function that raises no warnings."""
    return lambda item: _with_warnings(function)(item)[0]
