"""Pictures for people: composites and reconstructions."""

import os
from collections.abc import Sequence

import numpy as np

from ..modeling.bands import BANDS
from .reconstruction import Reconstruction


TRUE_COLOUR = ("B4", "B3", "B2")
FALSE_COLOUR = ("B8", "B4", "B3")


def composite(
    pixels: np.ndarray,
    bands: Sequence[str],
    channels: Sequence[str] = TRUE_COLOUR,
    limits: np.ndarray | None = None,
) -> np.ndarray:
    """Stretch three bands to a colour image.

    Args:
        pixels: (C, H, W), in any unit.
        bands: Names of the C bands.
        channels: The bands to show as red, green and blue.
        limits: (3, 2), the values shown as black and full; by default the 2nd and 98th percentiles of each band.

    Returns:
        (H, W, 3) float in [0, 1].

    Raises:
        ValueError: If a channel is not among the bands.
    """
    missing = [name for name in channels if name not in bands]
    if missing:
        raise ValueError(f"A composite of {', '.join(channels)} needs {', '.join(missing)}, got {', '.join(bands)}.")
    image = pixels[[list(bands).index(name) for name in channels]].astype(np.float32)
    if limits is None:
        limits = composite_limits(pixels, bands, channels)
    low, high = limits[:, 0, None, None], limits[:, 1, None, None]
    return np.clip((image - low) / np.maximum(high - low, 1e-6), 0, 1).transpose(1, 2, 0)


def composite_limits(pixels: np.ndarray, bands: Sequence[str], channels: Sequence[str]) -> np.ndarray:
    """Return the 2nd and 98th percentiles (3, 2) of the bands of a composite."""
    image = pixels[[list(bands).index(name) for name in channels]]
    return np.percentile(image, (2, 98), axis=(1, 2)).T


def reconstruction_panel(
    reconstruction: Reconstruction,
    reflectance: tuple[np.ndarray, np.ndarray],
    bands: Sequence[str],
    marks: Sequence[tuple[str, int, int]],
    path: str | os.PathLike,
    title: str = "",
) -> None:
    """Draw original, visible part and reconstruction in true and false colour, with the spectra of marked pixels.

    Args:
        reconstruction: Normalised images and what was hidden.
        reflectance: The original and the rebuilt image as reflectance, (C, H, W) each.
        bands: Names of the C bands.
        marks: Name, row and column of the pixels whose spectra are drawn.
        path: File to write.
        title: Above the picture.
    """
    from matplotlib.figure import Figure

    original, rebuilt = reflectance
    figure = Figure(figsize=(15, 8.2), layout="constrained")
    figure.suptitle(title)
    grid = figure.add_gridspec(6, 4, width_ratios=[1, 1, 1, 1.05])
    for row, (name, channels) in enumerate((("True colour", TRUE_COLOUR), ("False colour", FALSE_COLOUR))):
        limits = composite_limits(original, bands, channels)
        visible = composite(original, bands, channels, limits)
        channel_hidden = reconstruction.hidden[[list(bands).index(channel) for channel in channels]].transpose(1, 2, 0)
        visible = np.where(channel_hidden, 0.12, visible)
        images = (composite(original, bands, channels, limits), visible, composite(rebuilt, bands, channels, limits))
        for column, (image, label) in enumerate(zip(images, ("original", "visible to the model", "rebuilt"))):
            axes = figure.add_subplot(grid[3 * row : 3 * row + 3, column])
            axes.imshow(image, interpolation="nearest")
            axes.set_title(f"{name}: {label}" if column == 0 else label, fontsize=10)
            axes.set_axis_off()
            if column == 0:
                for number, (_, y, x) in enumerate(marks):
                    axes.plot(x, y, "o", color=f"C{number}", markersize=7, markeredgecolor="white")
    order = sorted(range(len(bands)), key=lambda index: BANDS[bands[index]].wavelength_s2a)
    wavelengths = [BANDS[bands[index]].wavelength_s2a for index in order]
    for number, (name, y, x) in enumerate(marks):
        axes = figure.add_subplot(grid[2 * number : 2 * number + 2, 3])
        hidden = reconstruction.hidden[order, y, x]
        axes.plot(wavelengths, original[order, y, x], "-", color=f"C{number}", label="original")
        axes.plot(wavelengths, rebuilt[order, y, x], "--", color="0.35", label="rebuilt")
        shown = np.array(wavelengths)[~hidden]
        axes.plot(shown, original[order, y, x][~hidden], "o", color=f"C{number}", label="visible to the model")
        axes.set_title(f"{name} (row {y}, column {x})", fontsize=10)
        axes.set_ylabel("reflectance")
        axes.set_ylim(bottom=0)
        axes.legend(fontsize=8, frameon=False)
    axes.set_xlabel("wavelength (nm)")
    figure.savefig(path, dpi=100)
