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
"""Find series of several dates in lists, folders, `xarray` and STAC item collections, and prepare them as input."""

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from numbers import Real
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import torch
from transformers.image_processing_base import BatchFeature

from .chips import Chip, ImageInput, Mask, NoDataError, one_each, open_chips
from .configuration_spectralgpt import IGNORE_INDEX
from .dates import Date, date_in_name, days_since_1970
from .geometry import Labels, PreprocessingReport, common_size, count_tokens, fit_labels
from .matching import Matching
from .normalization import Statistics
from .stac_links import link_assets


if TYPE_CHECKING:
    from .image_processing_spectralgpt import SpectralGPTImageProcessor


# Arguments of the processor for reading an image, and those that replace its attributes.
READING = ("band_names", "nodata", "offset", "mask", "sensor", "match")
SETTINGS = ("do_resize", "do_center_crop", "size", "crop_size", "missing_bands")

Dates: TypeAlias = Sequence[Date | None]
# `Dates` of one series, a list of them for several, or None. No static type tells the first two apart.
SeriesDates: TypeAlias = Any

# Names of the dimension of the dates in several libraries.
TIME_DIMENSIONS = ("time", "t", "date")


@dataclass(frozen=True, eq=False)
class Series:
    """Images of one site at several dates, in any order.

    Attributes:
        images: One image for each date, on one grid; each as in `SpectralGPTImageProcessor.preprocess`.
        dates: Date of each image, given as text in ISO 8601, a moment, or days since 1 January 1970, and kept as such
            days; None if only the image may state it, in the name of its file or its metadata.

    Raises:
        ValueError: If there is no image, the numbers of images and dates differ, or a date is invalid.
    """

    images: Sequence[ImageInput]
    dates: Dates | None = None

    def __post_init__(self) -> None:
        if len(self.images) == 0:
            raise ValueError("Expected a series of one image or more, found none.")
        dates = [None] * len(self.images) if self.dates is None else self.dates
        if len(dates) != len(self.images):
            raise ValueError(f"`dates`: expected one for each of the {len(self.images)} images, found {len(dates)}.")
        days = tuple(None if date is None else days_since_1970(date) for date in dates)
        object.__setattr__(self, "dates", days)

    def days(self, tags: Sequence[Mapping[str, str]]) -> list[int] | None:
        """Return the days since 1 January 1970 of all images; None if one of them is unknown.

        Args:
            tags: Metadata of each image. Its "date" is used if no date was given.
        """
        dates = [entry.get("date") if date is None else date for date, entry in zip(self.dates or (), tags)]
        known = [days_since_1970(date) for date in dates if date is not None]
        return known if len(known) == len(dates) else None


def open_series(source: ImageInput, dates: Dates | None = None) -> Series:
    """Return the series in a source.

    Args:
        source: A list of images, one for each date; a folder, whose files and folders with a date in their names are
            the dates (others and side files are left out); an `xarray.DataArray` or `xarray.Dataset` with a dimension
            `time`; a STAC item collection: parsed JSON, a JSON file or a `pystac.ItemCollection`; an array or tensor
            (T, C, H, W). A `Series` is returned as it is.
        dates: Date of each image, instead of the dates that the source states.

    Raises:
        FileNotFoundError: If there is no such folder or file.
        ValueError: If the source holds no series, or the dates do not fit.
    """
    if is_series(source):
        return source if dates is None else Series(source.images, dates)
    if isinstance(source, str | os.PathLike):
        return Series(*_of_path(Path(source), dates))
    if _time_dimension(source):
        return Series(*_of_xarray(source, dates))
    if _is_item_collection(source):
        return Series(_items(source), dates)
    if isinstance(source, list | tuple) or getattr(source, "ndim", 0) == 4:
        return Series(list(source), dates)
    raise ValueError(
        "Expected a series: a list of images, a folder of dated files, xarray with a dimension `time`, or a STAC item "
        f"collection, found {type(source).__name__}."
    )


def find_series(images: ImageInput, dates: SeriesDates = None) -> list[Series] | None:
    """Return the series in an input, or None if it consists of single images.

    Args:
        images: One series or a list of them, as in `open_series`. Without `dates`, a list of lists of images is a list
            of series, and a list of images is a list of single images. A folder is a series only if it comes with
            `dates` or as a `Series`.
        dates: Dates of the images of one series, or a list of these for several series.

    Raises:
        ValueError: If series and single images are mixed, or the dates do not fit.
    """
    if dates is not None:
        if not isinstance(images, list | tuple) or not all(map(_means_series, images)):
            return [open_series(images, dates)]
        if len(dates) != len(images):
            raise ValueError(f"`dates`: expected a list for each of the {len(images)} series, found {len(dates)}.")
        return [open_series(image, its) for image, its in zip(images, dates)]
    if not isinstance(images, list | tuple):
        return [open_series(images)] if _means_series(images) else None
    found = [image for image in images if _means_series(image)]
    if found and len(found) < len(images):
        raise ValueError(f"Expected series or single images, found {len(found)} series among {len(images)} inputs.")
    return [open_series(image) for image in images] if found else None


def is_series(source: object) -> bool:
    """Return whether an object is a `Series`, also one of another copy of this module."""
    return hasattr(source, "images") and hasattr(source, "dates")


def preprocess_series(
    processor: "SpectralGPTImageProcessor",
    series: Sequence[Series],
    *,
    mask: Mask | Sequence[Mask] = None,
    statistics: Statistics | Sequence[Statistics | None] | None = None,
    segmentation_maps: Labels | Sequence[Labels] | None = None,
    return_tensors: str | None = None,
    report: bool = False,
    ignore_index: int = IGNORE_INDEX,
    **options: Any,
) -> Any:
    """Convert series to the input of the model.

    All dates of a series are normalised alike. Limits are measured on all of its dates together, because separate
    limits of each date would invent change. A date without data, or without a token that has data in half of its
    pixels, is masked. Shorter series are filled up with masked dates to the length of the longest.

    Args:
        processor: Processor of the checkpoint.
        series: B series, each of up to T dates.
        mask: Mask as in `SpectralGPTImageProcessor.preprocess` for all dates, or a list with one for each date of the
            first series, then of the second and so on.
        statistics: Statistics as in `preprocess` for all series, or a list with one for each series.
        segmentation_maps: Labels (H, W) of each series, or their paths.
        return_tensors, report, ignore_index: As in `preprocess`.
        options: Further arguments of `preprocess`, which apply to all dates.

    Returns:
        `BatchFeature` with `pixel_values` (B, T, C, H, W), float32; `dates` (B, T), int64, in days since 1 January
        1970, only if all dates are known; `attention_mask` (B, T, N), int64, only if a token of a date has no data;
        `labels` (B, H, W), int64, if maps are given. With `report`, also a list of one `PreprocessingReport` per
        series, in which pixels and tokens have data if they have data at any date.

    Raises:
        FileNotFoundError: If a path does not exist.
        ValueError: As in `preprocess`; if the dates of a series are not on one grid, or none of them has data.
    """
    settings = {name: options.pop(name) for name in SETTINGS if name in options}
    reading = {name: options.pop(name) for name in READING if name in options}
    warn = options.pop("warn", True)
    own = processor.for_match(reading.get("match")).with_settings(**settings)
    masks = iter(one_each(mask, sum(len(entry.images) for entry in series), "mask"))
    longest = max(len(entry.images) for entry in series)
    rows: list[dict[str, torch.Tensor]] = []
    reports: list[PreprocessingReport] = []
    for entry, given in zip(series, one_each(statistics, len(series), "statistics")):
        reading["mask"] = [next(masks) for _ in entry.images]
        chips = open_dates(own, entry.images, reading)
        limits = shared_statistics(own, entry.images, reading, given)
        days = entry.days([chip.tags for chip in chips])
        # Measuring has raised the warnings.
        row, joined = prepare_dates(own, chips, days, limits, longest, warn=warn and limits is given, **options)
        rows.append(row)
        reports.append(joined)
    common_size([joined.source for joined in reports], [joined.sizes for joined in reports])
    data = _join_series(rows)
    if segmentation_maps is not None:
        maps = one_each(segmentation_maps, len(series), "segmentation_maps")
        labels = [fit_labels(labels, r.source, r.sizes, r.valid, ignore_index) for labels, r in zip(maps, reports)]
        data["labels"] = torch.stack(labels).to(data["pixel_values"].device)
    batch = BatchFeature(data, tensor_type=return_tensors)
    return (batch, reports) if report else batch


def open_dates(
    processor: "SpectralGPTImageProcessor", images: Sequence[ImageInput], reading: Mapping[str, Any]
) -> list[Chip]:
    """Open the dates of a series or of a pair, which must be on one grid.

    Args:
        processor: Processor of the checkpoint.
        images: One image for each date.
        reading: The given arguments of `SpectralGPTImageProcessor.preprocess` that are in `READING`.
    """
    given = {name: value for name, value in reading.items() if name not in ("sensor", "match")}
    matching = Matching.of(processor.expected, reading.get("sensor"), reading.get("match"))
    chips = open_chips(list(images), processor.bands, **given, matching=matching)
    check_one_grid(chips)
    return chips


def prepare_dates(
    processor: "SpectralGPTImageProcessor",
    chips: Sequence[Chip],
    days: Sequence[int] | None,
    statistics: Statistics | None,
    length: int = 0,
    **options: Any,
) -> tuple[dict[str, torch.Tensor], PreprocessingReport]:
    """Return the dates of one series as input of the model (1, T, ...), and the report of the series.

    Args:
        processor: Processor of the checkpoint.
        chips: One chip for each date.
        days: Date of each chip, in days since 1 January 1970; None if one is unknown.
        statistics: Statistics for all dates.
        length: Number T of dates to which the series is filled up with dates without data.
        options: Further arguments of `SpectralGPTImageProcessor.preprocess`.

    Raises:
        NoDataError: If no date has data.
    """
    batches: list[Mapping[str, torch.Tensor] | None] = []
    reports = []
    for chip in chips:
        try:
            batch, found = processor.preprocess(chip, statistics=statistics, report=True, **options)
        except NoDataError:
            batches.append(None)
        else:
            batches.append(batch)
            reports += found
    if not reports:
        raise NoDataError(f"{chips[0].name} and the other dates of its series: no date has data.")
    missing = max(0, length - len(batches))
    days = None if days is None else [*days, *[0] * missing]
    return join_dates([*batches, *[None] * missing], days, processor), _join_reports(reports)


def join_dates(
    batches: Sequence[Mapping[str, torch.Tensor] | None],
    days: Sequence[int] | None,
    processor: "SpectralGPTImageProcessor",
) -> dict[str, torch.Tensor]:
    """Join the inputs of single dates to the input of one series.

    Args:
        batches: `pixel_values` (1, C, H, W) and maybe `attention_mask` (1, N) of each date; None for a date without
            data.
        days: Date of each, in days since 1 January 1970; None if one is unknown.
        processor: Processor of the checkpoint.

    Returns:
        `pixel_values` (1, T, C, H, W); `attention_mask` (1, T, N) if a token of a date has no data; `dates` (1, T).
    """
    pixels = [None if batch is None else batch["pixel_values"] for batch in batches]
    some = next(values for values in pixels if values is not None)
    inputs = {"pixel_values": torch.stack([torch.zeros_like(some) if v is None else v for v in pixels], dim=1)}
    if any(batch is None or "attention_mask" in batch for batch in batches):
        number = count_tokens(some, processor.patch_size, processor.spectral_patch_size)
        everywhere = torch.ones(1, number, dtype=torch.int64, device=some.device)
        masks = [0 * everywhere if b is None else b.get("attention_mask", everywhere) for b in batches]
        inputs["attention_mask"] = torch.stack(masks, dim=1)
    if days is not None:
        inputs["dates"] = torch.tensor([days], device=some.device)
    return inputs


def shared_statistics(
    processor: "SpectralGPTImageProcessor",
    images: Sequence[ImageInput],
    reading: Mapping[str, Any],
    given: Statistics | None,
) -> Statistics | None:
    """Return the given statistics, or those of all dates together; None if the processor holds the limits."""
    if given is not None or len(images) == 1 or not processor.measures_pixels:
        return given
    return processor.measure_statistics(list(images), **reading)


def check_one_grid(chips: Sequence[Chip]) -> None:
    """Refuse dates that differ in size, reference system or transform.

    Raises:
        ValueError: If two dates differ. The message names them.
    """
    first = chips[0]
    for chip in chips[1:]:
        sizes = first.pixels.shape[1:], chip.pixels.shape[1:]
        if sizes[0] != sizes[1] or (first.crs, first.transform) != (chip.crs, chip.transform):
            raise ValueError(
                f"{first.name} and {chip.name} are not on one grid: expected the same size, reference system and "
                "transform. Warp one onto the other before (rasterio's WarpedVRT does)."
            )


def _means_series(image: ImageInput) -> bool:
    """Return whether an item of a list of inputs is a series."""
    if isinstance(image, list | tuple):  # nested lists of numbers are an array
        return bool(image) and not isinstance(image[0], list | tuple | Real)
    return is_series(image) or bool(_time_dimension(image)) or _is_item_collection(image)


def _of_path(path: Path, dates: Dates | None) -> tuple[list[ImageInput], Dates | None]:
    if not path.exists():
        raise FileNotFoundError(f"{path}: no such file or folder.")
    if path.is_file():
        try:
            parsed = json.loads(path.read_bytes())
        except ValueError as error:
            raise ValueError(
                f"{path}: expected a folder of dated files, or a STAC item collection in JSON ({error})."
            ) from error
        if not _is_item_collection(parsed):
            raise ValueError(f"{path}: expected a STAC item collection (a GeoJSON FeatureCollection of items).")
        return _items(parsed, str(path.parent)), dates
    dated = {entry: date_in_name(entry.name) for entry in sorted(path.iterdir()) if _may_be_image(entry)}
    entries = sorted((date, entry) for entry, date in dated.items() if date)
    if not entries:
        raise ValueError(f"{path}: expected files or folders with a date in their names (YYYYMMDD), found none.")
    return [entry for _, entry in entries], [date for date, _ in entries] if dates is None else dates


def _may_be_image(entry: Path) -> bool:
    return entry.is_dir() or entry.suffix.lower() not in (".xml", ".txt", ".md", ".csv", ".png", ".jpg", ".ovr", ".hdr")


def _time_dimension(source: ImageInput) -> str | None:
    """Return the name of the dimension of the dates of `xarray` data; None for other types."""
    if not (hasattr(source, "dims") and hasattr(source, "coords")):
        return None
    return next((name for name in TIME_DIMENSIONS if name in source.dims), None)


def _of_xarray(source: ImageInput, dates: Dates | None) -> tuple[list[ImageInput], Dates | None]:
    dimension = _time_dimension(source)
    images = [source.isel({dimension: number}) for number in range(source.sizes[dimension])]
    if dates is None and dimension in source.coords:
        dates = list(source.coords[dimension].values)
    return images, dates


def _is_item_collection(source: ImageInput) -> bool:
    if isinstance(source, Mapping):
        return source.get("type") == "FeatureCollection"
    is_iterable = hasattr(source, "to_dict") and hasattr(source, "__iter__") and not hasattr(source, "dims")
    return is_iterable and all(hasattr(item, "assets") for item in source)


def _items(source: ImageInput, folder: str = "") -> list[ImageInput]:
    """Return the items of a collection. Relative links are relative to `folder`."""
    if not isinstance(source, Mapping):
        return list(source)
    items = [item for item in source.get("features") or () if isinstance(item, Mapping)]
    return [link_assets(item, folder) for item in items]


def _join_reports(reports: Sequence[PreprocessingReport]) -> PreprocessingReport:
    """Return the report of the first date with data, with the pixels and tokens that have data at any date."""
    valid = _any([report.valid for report in reports])
    return replace(reports[0], valid=valid, tokens=_any([report.tokens for report in reports]))


def _any(masks: Sequence[torch.Tensor | None]) -> torch.Tensor | None:
    """Return where one mask or more is not 0. A mask that is None holds no 0."""
    known = [mask for mask in masks if mask is not None]
    return torch.stack(known).amax(0) if len(known) == len(masks) else None


def _join_series(rows: Sequence[Mapping[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
    """Return series of one length as a batch; `dates` only where all series have them."""
    names = ["pixel_values", *["dates"] * all("dates" in row for row in rows)]
    batch = {name: torch.cat([row[name] for row in rows]) for name in names}
    masks = [row.get("attention_mask") for row in rows]
    some = next((mask for mask in masks if mask is not None), None)
    if some is not None:
        batch["attention_mask"] = torch.cat([torch.ones_like(some) if mask is None else mask for mask in masks])
    return batch
