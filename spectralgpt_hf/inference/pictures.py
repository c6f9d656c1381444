"""Draw composites, spectra, features and reconstructions. Pictures with axes need matplotlib."""

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from ..modeling.bands import SENTINEL_2, Sensor
from ..modeling.matching import nearest_band


if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    from .reconstruction import Reconstruction


TRUE_COLOUR = ("B4", "B3", "B2")
FALSE_COLOUR = ("B8", "B4", "B3")
COLOUR_TOLERANCE = 0.06  # as `matching.TOLERANCE`, but wider: blue of MODIS (469 nm) looks like that of Sentinel-2
GAMMA = 1.4  # brightens true colour, whose reflectances are mostly low


def sensor_channels(
    channels: Sequence[str], band_names: Sequence[str], sensor: Sensor = SENTINEL_2
) -> tuple[str, ...] | None:
    """Return the bands of a sensor that match these bands of Sentinel-2, or None if one is missing."""
    if sensor.name == SENTINEL_2.name:
        return tuple(channels) if set(channels) <= set(band_names) else None
    real = [band for band in band_names if sensor.band(band).wavelength is not None]
    found = [nearest_band(centre or 0, sensor, real, COLOUR_TOLERANCE) for centre in SENTINEL_2.wavelengths(channels)]
    return None if None in found else tuple(map(str, found))


def composite(
    pixels: np.ndarray,
    band_names: Sequence[str],
    channels: Sequence[str] = TRUE_COLOUR,
    limits: np.ndarray | None = None,
    valid: np.ndarray | None = None,
    sensor: Sensor = SENTINEL_2,
) -> np.ndarray:
    """Stretch three bands to a colour image.

    Args:
        pixels: (C, H, W), in any unit.
        band_names: Names of the C bands.
        channels: The bands to show as red, green and blue.
        limits: (3, 2), the values shown as black and as full brightness; by default `composite_limits` of the image.
        valid: (H, W), True where a pixel has data. Other pixels are black.
        sensor: Sensor of the bands.

    Returns:
        (H, W, 3) float in [0, 1].

    Raises:
        ValueError: If a channel is not among the bands.
    """
    if limits is None:
        limits = composite_limits(pixels, band_names, channels, valid, sensor)
    image = _select(pixels, band_names, channels).astype(np.float32)
    low, high = limits[:, 0, None, None], limits[:, 1, None, None]
    image = np.clip((image - low) / np.maximum(high - low, 1e-6), 0, 1)
    if _is_true_colour(channels, band_names, sensor):
        image **= 1 / GAMMA
    return (image if valid is None else np.where(valid, image, 0)).transpose(1, 2, 0)


def composite_limits(
    pixels: np.ndarray,
    band_names: Sequence[str],
    channels: Sequence[str] = TRUE_COLOUR,
    valid: np.ndarray | None = None,
    sensor: Sensor = SENTINEL_2,
) -> np.ndarray:
    """Return the 2nd and 98th percentiles (3, 2) of the bands of a composite, over the pixels with data.

    In true colour the three bands share the widest of their ranges. Each starts at its own lower percentile, which is
    mostly haze. A separate range for each band would make fields neon green.

    Raises:
        ValueError: If a channel is not among the bands.
    """
    image = _select(pixels, band_names, channels).reshape(len(channels), -1)
    if valid is not None and valid.any():
        image = image[:, valid.ravel()]
    limits = np.percentile(image, (2, 98), axis=1).T
    if _is_true_colour(channels, band_names, sensor):
        limits[:, 1] = limits[:, 0] + np.ptp(limits, axis=1).max()
    return limits


def to_image(colours: np.ndarray, valid: np.ndarray | None = None) -> Image.Image:
    """Convert colours (H, W, 3) in [0, 1] to an RGB picture, or with `valid` to RGBA, transparent where it is False."""
    values = np.round(np.clip(colours, 0, 1) * 255).astype(np.uint8)
    if valid is not None:
        values = np.dstack([values, np.where(valid, 255, 0).astype(np.uint8)])
    return Image.fromarray(values)


def feature_colours(features: np.ndarray, valid: np.ndarray | None = None) -> np.ndarray:
    """Show features as colours: their three strongest principal components as red, green and blue.

    A component's sign is chosen such that its largest weight is positive, so that the same features always give the
    same colours.

    Args:
        features: (D, h, w), D >= 3, as `SpectralGPTModel.feature_map` returns them.
        valid: (h, w), True where there is data. Other patch positions are black and do not affect the colours.

    Returns:
        (h, w, 3) float in [0, 1], each component from its 2nd to its 98th percentile.

    Raises:
        ValueError: If there are fewer than three features, or no patch position has data.
    """
    if features.ndim != 3 or len(features) < 3:
        raise ValueError(f"Expected features of shape (D, h, w) with D of 3 or more, got {features.shape}.")
    where = np.ones(features.shape[1:], bool) if valid is None else valid
    if not where.any():
        raise ValueError("Expected at least one patch position with data, found none.")
    samples = features[:, where].T.astype(np.float64)  # (patch positions, D)
    samples -= samples.mean(axis=0)
    _, directions = np.linalg.eigh(samples.T @ samples)
    directions = directions[:, :-4:-1]  # (D, 3), the strongest first
    largest = np.abs(directions).argmax(axis=0)
    scores = samples @ (directions * np.sign(directions[largest, range(3)]))
    low, high = np.percentile(scores, (2, 98), axis=0)
    colours = np.zeros((*where.shape, 3))
    colours[where] = np.clip((scores - low) / np.maximum(high - low, 1e-12), 0, 1)
    return colours


def reconstruction_panel(
    reconstruction: "Reconstruction",
    reflectance: tuple[np.ndarray, np.ndarray],
    band_names: Sequence[str],
    marks: Sequence[tuple[str, int, int]] = (),
    path: str | os.PathLike | None = None,
    title: str = "",
    sensor: Sensor = SENTINEL_2,
) -> Image.Image:
    """Draw original, visible part and reconstruction in true and false colour, with the spectra of marked pixels.

    Args:
        reconstruction: Normalised images and the mask.
        reflectance: The original and the reconstructed image as reflectance, (C, H, W) each.
        band_names: Names of the C bands.
        marks: Name, row and column of the pixels whose spectra are drawn, at most three.
        path: File to which the picture is also written.
        title: Title above the picture.
        sensor: Sensor of the bands.

    Raises:
        ValueError: If the bands do not show both composites.
    """
    original, reconstructed = reflectance
    canvas = _canvas(15 if marks else 11.2, 8.2)
    figure = canvas.figure
    figure.suptitle(title)
    grid = figure.add_gridspec(6, 4 if marks else 3, width_ratios=[1, 1, 1, 1.05][: 4 if marks else 3])
    for row, (name, shown_bands) in enumerate((("True colour", TRUE_COLOUR), ("False colour", FALSE_COLOUR))):
        channels = sensor_channels(shown_bands, band_names, sensor) or shown_bands
        limits = composite_limits(original, band_names, channels, None, sensor)
        images = (original, reconstructed)
        first, last = (composite(pixels, band_names, channels, limits, None, sensor) for pixels in images)
        visible = np.where(_select(reconstruction.masked, band_names, channels).transpose(1, 2, 0), 0.12, first)
        labels = (f"{name}: original", "visible to the model", "reconstructed")
        for column, (image, label) in enumerate(zip((first, visible, last), labels)):
            axes = figure.add_subplot(grid[3 * row : 3 * row + 3, column])
            axes.imshow(image, interpolation="nearest")
            axes.set_title(label, fontsize=10)
            axes.set_axis_off()
            if column == 0:
                for number, (_, y, x) in enumerate(marks):
                    axes.plot(x, y, "o", color=f"C{number}", markersize=7, markeredgecolor="white")
    for number, (name, y, x) in enumerate(marks):
        axes = figure.add_subplot(grid[2 * number : 2 * number + 2, 3])
        centres = sensor.wavelengths(band_names)
        shown, none = ~reconstruction.masked[:, y, x], np.zeros(len(band_names), bool)
        _draw_spectrum(axes, reconstructed[:, y, x], centres, none, "reconstructed", "0.35", "--")
        _draw_spectrum(axes, original[:, y, x], centres, shown, "original; dots: visible", f"C{number}")
        axes.set(title=f"{name} (row {y}, column {x})", ylabel="reflectance")
        axes.title.set_fontsize(10)
        axes.legend(fontsize=8, frameon=False)
        if number == len(marks) - 1:
            axes.set_xlabel("wavelength (nm)")
    picture = _rendered(canvas)
    if path is not None:
        picture.save(path)
    return picture


def _is_true_colour(channels: Sequence[str], band_names: Sequence[str], sensor: Sensor) -> bool:
    return set(channels) == set(sensor_channels(TRUE_COLOUR, band_names, sensor) or TRUE_COLOUR)


def _select(pixels: np.ndarray, band_names: Sequence[str], channels: Sequence[str]) -> np.ndarray:
    missing = [name for name in channels if name not in band_names]
    if missing:
        raise ValueError(
            f"A composite of {', '.join(channels)} needs {', '.join(missing)}, got {', '.join(band_names)}."
        )
    return pixels[[list(band_names).index(name) for name in channels]]


def _draw_spectrum(
    axes: "Axes",
    values: np.ndarray,
    centres: Sequence[float | None],
    visible: np.ndarray,
    label: str,
    colour: str,
    line: str = "-",
) -> None:
    """Draw values (C,) over wavelength, with dots for visible bands. Pseudo-bands are left out."""
    known = sorted((centre, index) for index, centre in enumerate(centres) if centre is not None)
    wavelengths, real = np.array([centre for centre, _ in known]), [index for _, index in known]
    values, visible = np.asarray(values)[real], np.asarray(visible)[real]
    axes.plot(wavelengths, values, label=label, color=colour, linestyle=line)
    axes.plot(wavelengths[visible], values[visible], "o", color=colour, markersize=5)
    axes.set_ylim(bottom=min(0.0, axes.get_ylim()[0]), auto=None)  # keeps automatic limits for the next spectrum


def _canvas(width: float, height: float) -> "FigureCanvasAgg":
    """Return the canvas of a figure of 100 * `width` by 100 * `height` pixels, without the global state of pyplot."""
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError("Charts need matplotlib: `pip install spectralgpt-hf[train]`.") from error
    return FigureCanvasAgg(Figure(figsize=(width, height), dpi=100, layout="constrained"))


def _rendered(canvas: "FigureCanvasAgg") -> Image.Image:
    canvas.draw()
    return Image.fromarray(np.asarray(canvas.buffer_rgba())[..., :3].copy())
