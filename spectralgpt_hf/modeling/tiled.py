# Copyright 2026 The SpectralGPT-HF authors.
#
# Licensed under the Apache License, Version 2.0 (the "License");
# you may not use this file except in compliance with the License.
# You may obtain a copy of the License at
#
#     http://www.apache.org/licenses/LICENSE-2.0
#
# Unless required by applicable law or agreed to in writing, software
# distributed under the License is distributed on an "AS IS" BASIS,
# WITHOUT WARRANTIES OR CONDITIONS OF ANY KIND, either express or implied.
# See the License for the specific language governing permissions and
# limitations under the License.
"""Apply a model to an image larger than its image size, in overlapping tiles whose results are blended.

Pipelines hold such an image in memory, `predict_scene` and `embed_scene` stream it from its file. Both use the
functions below, and their results are the same.
"""

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn

from .geometry import PreprocessingReport, Sizes, token_validity
from .pixel_statistics import Statistics
from .rasters import Raster
from .series import join_dates
from .tiling import Blend, Box, Strip, Tile, TileGrid


if TYPE_CHECKING:
    from .image_processing_spectralgpt import SpectralGPTImageProcessor


TILES_PER_PASS = 8
"""Number of images in a batch on an accelerator. Shorter batches are filled up. On a CPU a batch is one image."""

OVERLAP = 0.5
"""Share of a tile that the next one covers too."""


@dataclass(eq=False)
class PreparedTile:
    """A tile as input of the model.

    Attributes:
        tile: Its position in the grid.
        inputs: Arguments of the model for one image; empty if the tile has no data.
        valid: (cells, cells), True where the result is valid.
        report: Report of the first date; None if the tile has no data.
    """

    tile: Tile
    inputs: dict[str, torch.Tensor]
    valid: np.ndarray
    report: PreprocessingReport | None = None


@dataclass(eq=False)
class LargeImage:
    """An image, a pair or a series of dates on one grid, that is larger than the model's image size.

    Attributes:
        name: Name of the source in messages.
        dates: Rasters in digital numbers.
        processor: The processor of the checkpoint, which does not resize.
        statistics: Statistics of all tiles and dates together; None if the processor holds its limits.
        options: Further arguments of `processor.preprocess`.
        is_series: Whether the dates are a series, where pixels have data that have it at any date; those of a pair must
            have it at both.
        days: Dates of a series in days since 1 January 1970; None where one is unknown.
    """

    name: str
    dates: Sequence[Raster]
    processor: "SpectralGPTImageProcessor"
    statistics: Statistics | None
    options: Mapping[str, Any]
    is_series: bool = False
    days: Sequence[int] | None = None

    def score(
        self,
        score: Callable[[dict[str, torch.Tensor]], torch.Tensor],
        valid_of: Callable[[np.ndarray, dict[str, torch.Tensor]], np.ndarray],
        channels: int,
        size: int,
        cell: int,
        device: torch.device,
        deadline: float | None = None,
    ) -> tuple[np.ndarray, np.ndarray, PreprocessingReport]:
        """Apply a model tile by tile and blend its results.

        Args:
            score: Returns values (B, K, cells, cells) for the model's inputs.
            valid_of: As in `prepare_tile`.
            channels: Number K of values.
            size: Height and width of a tile, in pixels.
            cell: Height and width of a cell of the result, in pixels.
            device: Device of the model.
            deadline: As in `check_deadline`, which is called before each batch of tiles.

        Returns:
            Values (K, rows, columns), 0 where there is no data; their valid mask (rows, columns); and the report of the
            whole image.

        Raises:
            ValueError: If the deadline passes, or no pixel has data.
        """
        height, width = self.dates[0].valid.shape
        grid = TileGrid.cover(height, width, size, OVERLAP, cell, self.processor.patch_size)
        rows, columns = grid.shape
        strips = grid.strips(Box(0, 0, columns, rows), columns)
        reports: list[PreprocessingReport] = []

        def scored() -> Iterator[tuple[PreparedTile, np.ndarray | None]]:
            tiles = self._tiles(grid, valid_of)
            while batch := list(islice(tiles, 1 if device.type == "cpu" else TILES_PER_PASS)):
                check_deadline(deadline, self.name)
                reports.extend(tile.report for tile in batch[: 1 - len(reports)] if tile.report is not None)
                yield from score_tiles(batch, score, device)

        parts = [part for _, *part in blend_strips(scored(), grid, strips, channels)]
        if not reports:
            raise ValueError(f"{self.name}: no pixel has data in {'any date' if self.is_series else 'both dates'}.")
        values, valid = (np.concatenate(arrays, -2) for arrays in zip(*parts))
        with_data = torch.from_numpy(valid_pixels(self.dates, self.is_series))
        shape = (height, width)
        whole = replace(
            reports[0],
            source=self.name,
            valid=None if with_data.all() else with_data,
            tokens=None,
            sizes=Sizes(shape, shape, shape, shape),
        )
        return values, valid, whole

    def _tiles(self, grid: TileGrid, valid_of: Callable[..., np.ndarray]) -> Iterator[PreparedTile]:
        for row, top in enumerate(grid.tops):
            for column, left in enumerate(grid.lefts):
                window = np.s_[top : top + grid.size], np.s_[left : left + grid.size]
                dates = [cut_tile([date], *window, grid.size) for date in self.dates]
                yield prepare_tile(
                    Tile(row, column),
                    dates,
                    self.processor,
                    valid_of,
                    self.is_series,
                    self.days,
                    statistics=self.statistics,
                    warn=False,
                    **self.options,
                )


def keeps_pixels(processor: "SpectralGPTImageProcessor") -> bool:
    """Return whether a processor neither resizes nor crops images, which it may pad."""
    return not (processor.do_center_crop or (processor.do_resize and processor.size is not None))


def check_deadline(deadline: float | None, name: str) -> None:
    """Raise a `ValueError` if a deadline has passed.

    Args:
        deadline: Deadline on the clock of `time.monotonic`, or None.
        name: Name of the source in the message.
    """
    if deadline is not None and time.monotonic() > deadline:
        raise ValueError(f"{name}: this took longer than its time limit (`deadline`): pass a smaller image.")


def cut_tile(chunks: Sequence[Raster], rows: slice, columns: slice, size: int) -> Raster:
    """Cut a tile from chunks that follow each other downwards. It keeps their georeference; beyond them is no data."""
    pixels = np.zeros((len(chunks[0].pixels), size, size), chunks[0].pixels.dtype)
    valid = np.zeros((size, size), bool)
    row, top = 0, 0
    for chunk in chunks:
        part = np.s_[max(rows.start - top, 0) : max(rows.stop - top, 0), columns]
        found = chunk.valid[part]
        target = np.s_[row : row + found.shape[0], : found.shape[1]]
        valid[target] = found
        pixels[(np.s_[:], *target)] = chunk.pixels[(np.s_[:], *part)]
        row, top = row + found.shape[0], top + chunk.valid.shape[0]
    return replace(chunks[0], pixels=pixels, valid=valid, saturated=None)


def prepare_tile(
    tile: Tile,
    dates: Sequence[Raster],
    processor: "SpectralGPTImageProcessor",
    valid_of: Callable[[np.ndarray, dict[str, torch.Tensor]], np.ndarray],
    is_series: bool = False,
    days: Sequence[int] | None = None,
    **options: Any,
) -> PreparedTile:
    """Normalise a tile by itself, so that the result does not depend on other tiles.

    Args:
        tile: Its position in the grid.
        dates: Rasters of the tile: one, a pair, or those of a series.
        processor: Processor of the checkpoint.
        valid_of: Returns the valid mask (cells, cells) for that of the pixels (size, size) and the model's inputs.
        is_series, days: As in `LargeImage`.
        options: Arguments of `processor.preprocess`.
    """
    resized = processor.do_resize and processor.size is not None
    valid = valid_pixels(dates, is_series)
    inputs: dict[str, torch.Tensor] = {}
    reports: list[PreprocessingReport] = []
    if valid.any():
        batches: list[Mapping[str, torch.Tensor] | None] = []
        for date in dates:
            if not date.valid.any():  # of a series
                batches.append(None)
                continue
            counted = with_tokens(date, None if resized else processor.patch_size)
            batch, (report,) = processor.preprocess(counted, report=True, **options)
            batches.append(batch)
            reports.append(report)
        if is_series:
            inputs = join_dates(batches, days, processor)
        else:
            for found, suffix in zip(batches, ("", "_after")):
                inputs |= {f"{name}{suffix}": tensor for name, tensor in (found or {}).items()}
    return PreparedTile(tile, inputs, valid_of(valid, inputs), reports[0] if reports else None)


def valid_pixels(dates: Sequence[Raster], is_series: bool) -> np.ndarray:
    """Return which pixels (H, W) have data: at any date of a series, at all dates otherwise."""
    joined = np.logical_or if is_series else np.logical_and
    return joined.reduce([date.valid for date in dates])


def with_tokens(tile: Raster, token_size: int | None) -> Raster:
    """Mark all tokens with any data as valid, if no token of the tile has data in half of its pixels.

    The processor requires one such token. Between clouds there may be only single clear pixels, which would otherwise
    have no result. The other pixels of the marked tokens are filled with the mean of each band.

    Args:
        tile: A tile.
        token_size: Height and width of a token, in pixels; None treats the whole tile as one token.
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
    return replace(tile, pixels=pixels, valid=counted)


@torch.inference_mode()
def score_tiles(
    tiles: Sequence[PreparedTile], score: Callable[[dict[str, torch.Tensor]], torch.Tensor], device: torch.device
) -> list[tuple[PreparedTile, np.ndarray | None]]:
    """Return each tile with its values (K, cells, cells), which are None for a tile without data.

    All passes of the model have the same number of images, and the images of a pass have the same arguments, because
    batches of other shapes round differently and masks use other kernels.
    """
    size = 1 if device.type == "cpu" else TILES_PER_PASS
    values: dict[Tile, np.ndarray] = {}
    kinds: dict[tuple[str, ...], list[PreparedTile]] = {}
    for tile in tiles:
        if tile.inputs:
            kinds.setdefault(tuple(tile.inputs), []).append(tile)
    for names, alike in kinds.items():
        for start in range(0, len(alike), size):
            part = alike[start : start + size]
            filled = part + part[:1] * (size - len(part))
            inputs = {name: torch.cat([tile.inputs[name] for tile in filled]) for name in names}
            scores = score({name: tensor.to(device) for name, tensor in inputs.items()})
            values.update(zip((tile.tile for tile in part), scores.float().cpu().numpy()))
    return [(tile, values.get(tile.tile)) for tile in tiles]


def blend_strips(
    scored: Iterable[tuple[PreparedTile, np.ndarray | None]], grid: TileGrid, strips: list[Strip], channels: int
) -> Iterator[tuple[Strip, np.ndarray, np.ndarray]]:
    """Blend tiles, and yield each strip with its values and valid mask when all its tiles are added.

    Args:
        scored: The tiles that overlap the strips, row by row, with their values.
        grid: Grid of the tiles.
        strips: Neighbouring strips of one panel.
        channels: Number K of values per cell.
    """
    blend = Blend(channels, grid.cells, strips[0].box)
    last_column = grid.columns_of(strips[0])[-1]
    by_row = {strip.row: strip for strip in strips}
    for prepared, values in scored:
        row, column = prepared.tile
        if values is not None:
            blend.add(values, prepared.valid, grid.tops[row] // grid.cell, grid.lefts[column] // grid.cell)
        if column == last_column and row in by_row:
            strip = by_row[row]
            yield strip, *blend.take(strip.box.bottom - strip.box.top)


def pixels_with_data(valid: np.ndarray, inputs: dict[str, torch.Tensor]) -> np.ndarray:
    """Return the valid mask of cells that are pixels, which is that of the pixels."""
    return valid


def positions_with_data(valid: np.ndarray, inputs: dict[str, torch.Tensor], patch_size: int, cells: int) -> np.ndarray:
    """Return whether each cell (cells, cells) has a token with data in any spectral group."""
    if not inputs or "attention_mask" not in inputs:
        return np.full((cells, cells), bool(inputs))
    height, width = inputs["pixel_values"].shape[-2:]
    groups = inputs["attention_mask"].view(1, -1, height // patch_size, width // patch_size)
    positions = groups.amax(1, keepdim=True).float()
    return (nn.functional.interpolate(positions, (cells, cells), mode="area")[0, 0] > 0).numpy()
