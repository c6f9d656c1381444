"""Draw maps: classes with a legend and areas, and change laid over an image.

Maps are arrays (H, W) of class numbers. `valid` (H, W) is True where there is data, or None if there is data
everywhere. Pixels without data are transparent in every picture.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from ..modeling.bands import SENTINEL_2, Sensor
from ..modeling.post_processing import class_colours
from .pictures import TRUE_COLOUR, composite, to_image


if TYPE_CHECKING:
    from affine import Affine
    from rasterio.crs import CRS


MAP_NODATA = 255
"""Value of pixels without data in maps of classes and of change, which are stored in 8 bits."""

CHANGE_COLOUR = (255, 0, 170)
"""Magenta, a colour that no ground has in true or false colour."""

COMPARISON_COLOURS = {"found": (255, 255, 255), "false alarm": (255, 60, 0), "missed": (0, 200, 255)}
"""Colours of predicted change compared with the truth."""


@dataclass(frozen=True)
class ClassArea:
    """The area of a class in a map.

    Attributes:
        name: Name of the class.
        pixels: Number of its valid pixels.
        share: Share of all valid pixels, 0 to 1.
        hectares: Area on the ground; None if the map has no georeference.
    """

    name: str
    pixels: int
    share: float
    hectares: float | None

    @property
    def text(self) -> str:
        """The area in m² below a hectare, in km² from 100 hectares, else in hectares; px if not georeferenced."""
        if self.hectares is None:
            return f"{self.pixels:,} px"
        if self.hectares < 1:
            return f"{10_000 * self.hectares:,.0f} m²"
        value, unit = (self.hectares, "ha") if self.hectares < 100 else (self.hectares / 100, "km²")
        return f"{value:,.{max(0, 2 - int(np.log10(value)))}f} {unit}"


def class_map(
    labels: np.ndarray, colours: np.ndarray | None = None, valid: np.ndarray | None = None, opacity: float = 1.0
) -> Image.Image:
    """Colour a map of classes.

    Args:
        labels: (H, W), numbers of classes. Numbers without a colour, such as `MAP_NODATA`, stay transparent.
        colours: (K, 3) uint8; by default `class_colours` of classes without names.
        valid: (H, W).
        opacity: 0 to 1, to lay the map over a composite with `Image.alpha_composite`.

    Returns:
        An RGBA picture of the map's size.
    """
    if colours is None:
        colours = class_colours([""] * (int(labels[labels != MAP_NODATA].max(initial=0)) + 1))
    coloured = (labels >= 0) & (labels < len(colours))
    if valid is not None:
        coloured &= valid
    picture = np.zeros((*labels.shape, 4), np.uint8)
    picture[coloured, :3] = colours[labels[coloured]]
    picture[coloured, 3] = round(255 * opacity)
    return Image.fromarray(picture)


def class_areas(
    labels: np.ndarray,
    names: Sequence[str],
    crs: "CRS | None" = None,
    transform: "Affine | None" = None,
    valid: np.ndarray | None = None,
) -> list[ClassArea]:
    """Measure the area of each class on the ground, for a grid in any units.

    Pixels are measured in an equal-area projection around the map's centre, because the area of a pixel shrinks towards
    the poles on grids in degrees, grows in Web Mercator, and is off by up to 0.2 % in UTM.

    Args:
        labels: (H, W), numbers of classes. Numbers beyond those of `names` count as no data.
        names: Names of the classes 0, 1, 2, ...
        crs: Coordinate reference system, or None.
        transform: Affine transform from pixel to map coordinates, or None.
        valid: (H, W).

    Returns:
        One `ClassArea` for each class, including those that do not occur.
    """
    counted = (labels >= 0) & (labels < len(names))
    if valid is not None:
        counted &= valid
    rows, columns = _cell_edges(labels.shape)
    cells = _pixel_hectares(crs, transform, rows, columns) if crs and transform else np.zeros((16, 16))
    pixels, hectares = np.zeros(len(names), int), np.zeros(len(names))
    for i, (top, bottom) in enumerate(pairwise(rows)):
        for j, (left, right) in enumerate(pairwise(columns)):
            cell = np.s_[top:bottom, left:right]
            counts = np.bincount(labels[cell][counted[cell]], minlength=len(names))
            pixels, hectares = pixels + counts, hectares + counts * cells[i, j]
    total = max(1, pixels.sum())
    return [
        ClassArea(name, int(number), float(number / total), float(area) if crs and transform else None)
        for name, number, area in zip(names, pixels, hectares)
    ]


def ground_hectares(crs: "CRS | None", transform: "Affine | None", shape: tuple[int, int]) -> float:
    """Return the area on the ground of a grid of (height, width) pixels, in hectares; 0 without a georeference."""
    if not crs or not transform:
        return 0.0
    rows, columns = _cell_edges(shape)
    hectares = _pixel_hectares(crs, transform, rows, columns)
    return float((hectares * np.outer(np.diff(rows), np.diff(columns))).sum())


def class_legend(areas: Sequence[ClassArea], colours: np.ndarray | None = None, font_size: int = 16) -> Image.Image:
    """Draw the classes that occur with their colours, shares and areas, the largest first.

    Args:
        areas: Result of `class_areas`, in the order of the class numbers.
        colours: (K, 3) uint8; by default `class_colours`.
        font_size: Font size, in pixels.
    """
    colours = class_colours([area.name for area in areas]) if colours is None else colours
    font, line = ImageFont.load_default(font_size), round(1.6 * font_size)
    present = sorted((number for number, area in enumerate(areas) if area.pixels), key=lambda n: -areas[n].pixels)
    columns = [[areas[n].name, f"{areas[n].share:.1%}", areas[n].text] for n in present]
    widths = [max([0.0, *(font.getlength(texts[column]) for texts in columns)]) for column in range(3)]
    size = (round(sum(widths) + 2 * line + 4 * font_size), line * max(1, len(present)) + font_size)
    picture = Image.new("RGB", size, "white")
    draw = ImageDraw.Draw(picture)
    for row, (number, texts) in enumerate(zip(present, columns)):
        top = font_size / 2 + row * line
        colour = tuple(colours[number].tolist())
        draw.rectangle((font_size, top + 2, font_size + line, top + line - 4), fill=colour, outline="black")
        left = 1.5 * font_size + line
        for column, (text, column_width) in enumerate(zip(texts, widths)):
            right_aligned = column_width - font.getlength(text) if column else 0
            draw.text((left + right_aligned, top + line / 2), text, fill="black", font=font, anchor="lm")
            left += column_width + font_size
    return picture


def class_map_with_legend(
    labels: np.ndarray,
    names: Sequence[str],
    colours: np.ndarray | None = None,
    crs: "CRS | None" = None,
    transform: "Affine | None" = None,
    valid: np.ndarray | None = None,
) -> Image.Image:
    """Draw a map of classes, and beside it a legend with the area of each class.

    Arguments are those of `class_map` and `class_areas`. The map is magnified by a whole number, to 512 px or more.
    """
    colours = class_colours(names) if colours is None else colours
    legend = class_legend(class_areas(labels, names, crs, transform, valid), colours)
    picture = class_map(labels, colours, valid)
    scale = max(1, -(-512 // max(picture.size)))
    picture = picture.resize((picture.width * scale, picture.height * scale), Image.Resampling.NEAREST)
    sheet = Image.new("RGB", (picture.width + legend.width, max(picture.height, legend.height)), "white")
    sheet.paste(picture, (0, 0), picture)
    sheet.paste(legend, (picture.width, 0))
    return sheet


def change_overlay(
    pixels: np.ndarray,
    band_names: Sequence[str],
    changed: np.ndarray,
    truth: np.ndarray | None = None,
    channels: Sequence[str] = TRUE_COLOUR,
    limits: np.ndarray | None = None,
    valid: np.ndarray | None = None,
    opacity: float = 0.5,
    sensor: Sensor = SENTINEL_2,
) -> Image.Image:
    """Lay change over a composite of the second date, as a transparent tint with an outline.

    Args:
        pixels: (C, H, W), in any unit.
        band_names: Names of the C bands.
        changed: (H, W), non-zero where change was found.
        truth: (H, W), 1 for change, 0 for no change, other values for unknown. If given, colours show which change was
            found, false or missed (`COMPARISON_COLOURS`).
        channels, limits: As in `composite`.
        valid: (H, W).
        opacity: Opacity of the tint, 0 to 1.
        sensor: Sensor of the bands.

    Returns:
        An RGBA picture.
    """
    changed = np.asarray(changed) != 0
    layers = [(changed, CHANGE_COLOUR)]
    if truth is not None:
        cases = (changed & (truth == 1), changed & (truth == 0), ~changed & (truth == 1))
        layers = list(zip(cases, COMPARISON_COLOURS.values()))
    picture = composite(pixels, band_names, channels, limits, valid, sensor)
    for where, colour in layers:
        weight = np.maximum(where * opacity, where & ~_eroded(where))[..., None]
        picture = picture * (1 - weight) + np.array(colour) / 255 * weight
    return to_image(picture, valid)


def _eroded(where: np.ndarray) -> np.ndarray:
    """Return the pixels whose four neighbours are True too. Pixels beyond the border count as True."""
    padded = np.pad(where, 1, constant_values=True)
    return padded[:-2, 1:-1] & padded[2:, 1:-1] & padded[1:-1, :-2] & padded[1:-1, 2:] & where


def _cell_edges(shape: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    """Return the edges, in rows and columns, of the cells in which the size of a pixel is taken as constant."""
    rows, columns = (np.unique(np.linspace(0, size, 17).round().astype(int)) for size in shape)
    return rows, columns


def _pixel_hectares(crs: "CRS", transform: "Affine", rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """Return the area of a pixel in each cell between the lines `rows` and `columns`, (rows - 1, columns - 1)."""
    from rasterio.crs import CRS
    from rasterio.warp import transform as reproject

    def project(crs: CRS, target: CRS, x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        moved = reproject(crs, target, x.ravel(), y.ravel())
        return np.reshape(moved[0], x.shape), np.reshape(moved[1], x.shape)

    across, down = np.meshgrid(columns, rows)
    # Written out, because old releases of affine multiply with `*` and new ones with `@`.
    x, y = (a * across + b * down + c for a, b, c in (transform[:3], transform[3:6]))
    longitude, latitude = project(crs, CRS.from_epsg(4326), *(np.array([[axis.mean()]]) for axis in (x, y)))
    around = CRS.from_proj4(f"+proj=laea +datum=WGS84 +lat_0={latitude.item()} +lon_0={longitude.item()}")
    x, y = project(crs, around, x, y)
    # Half the cross product of a quadrilateral's diagonals.
    diagonals = [(axis[1:, 1:] - axis[:-1, :-1], axis[1:, :-1] - axis[:-1, 1:]) for axis in (x, y)]
    (first_x, second_x), (first_y, second_y) = diagonals
    areas = np.abs(first_x * second_y - first_y * second_x) / 2
    return areas / 10_000 / np.outer(np.diff(rows), np.diff(columns))
