"""Draw the spectrum of a pixel as SVG that scales with the page, uses its colours, and has texts for screen readers."""

from collections.abc import Sequence
from html import escape

import numpy as np

from ..modeling.bands import SENTINEL_2, Sensor


WIDTH, HEIGHT = 640, 360
LEFT, RIGHT, TOP, BOTTOM = 46, 12, 34, 44
STEPS = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5)
MOST_LINES = 5
# Of bands that are drawn at equal distances with their names, and the width of a character of these.
MOST_NAMED, CHARACTER = 16, 7.5
# Distances of the ticks of an axis of wavelength, in nm.
TICKS, MOST_TICKS = (10, 20, 50, 100, 200, 250, 500, 1000), 8


def draw_spectrum(
    true: np.ndarray,
    reconstructed: np.ndarray,
    visible: np.ndarray,
    band_names: Sequence[str],
    name: str,
    sensor: Sensor = SENTINEL_2,
) -> str:
    """Draw a true and a reconstructed spectrum as SVG.

    Up to `MOST_NAMED` bands are drawn at equal distances in the order of their wavelengths, because half of the bands
    of Sentinel-2 would share a tenth of the width on an axis of wavelength. More bands are drawn on such an axis. Dots
    mark the bands that were visible to the model, rings the reconstructed ones.

    Args:
        true, reconstructed: (C,), reflectance.
        visible: (C,), True for the bands that were visible to the model.
        band_names: Names of the C bands. Bands without a wavelength are left out.
        name: Name of the pixel.
        sensor: Sensor of the bands.
    """
    lengths = [wavelength or 0.0 for wavelength in sensor.wavelengths(band_names)]
    order = sorted((i for i, length in enumerate(lengths) if length), key=lambda i: lengths[i])
    if not order:
        return ""
    values = np.concatenate([true[order], reconstructed[order]])
    values = values[np.isfinite(values)]
    low, high = min(0.0, float(values.min(initial=0))), max(0.01, float(values.max(initial=0)))
    step = next((step for step in STEPS if (high - low) / step <= MOST_LINES), STEPS[-1])
    bottom, top = np.floor(low / step) * step, np.ceil(high / step) * step

    def y_of(value: float) -> float:
        return TOP + (top - value) / (top - bottom) * (HEIGHT - TOP - BOTTOM)

    parts = []
    for line in np.arange(bottom, top + step / 2, step):
        y = y_of(line)
        parts.append(f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(
            f'<text x="{LEFT - 8}" y="{y + 4:.1f}" text-anchor="end">{line + 0.0:.{2 if step < 0.1 else 1}f}</text>'
        )
    if len(order) > MOST_NAMED:
        centres, axis = _wavelength_axis([lengths[i] for i in order])
    else:
        centres, axis = _band_axis([band_names[i] for i in order], [lengths[i] for i in order], visible[order])
    parts += axis
    radius = 4 if len(order) <= MOST_NAMED else 2
    for kind, spectrum in (("made", reconstructed), ("true", true)):
        points = [(x, y_of(float(spectrum[i])), i) for x, i in zip(centres, order) if np.isfinite(spectrum[i])]
        parts.append(f'<polyline class="{kind}" points="{" ".join(f"{x:.1f},{y:.1f}" for x, y, _ in points)}"/>')
        for x, y, i in points:
            if kind == "made" and visible[i]:
                continue
            state = "visible" if visible[i] else "masked"
            text = escape(f"{band_names[i]}: {spectrum[i]:.3f}, {'reconstructed' if kind == 'made' else state}")
            shape = f'class="{kind} {"dot" if visible[i] else "ring"}" cx="{x:.1f}" cy="{y:.1f}" r="{radius}"'
            parts.append(f"<circle {shape}><title>{text}</title></circle>")
    parts.append(_legend())
    seen = ", ".join(band_names[i] for i in order if visible[i]) or "none"
    text = f"Reflectance of {len(order)} bands at {name}, true and reconstructed. Visible to the model: {seen}."
    return (
        f'<svg class="spectrum" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(text)}">'
        f"{''.join(parts)}</svg>"
    )


def _band_axis(
    band_names: Sequence[str], lengths: Sequence[float], visible: Sequence[bool] | np.ndarray
) -> tuple[list[float], list[str]]:
    """Return the centres of bands at equal distances, and their names above their wavelengths if they fit."""
    across = (WIDTH - LEFT - RIGHT) / len(band_names)
    centres, parts = [LEFT + (number + 0.5) * across for number in range(len(band_names))], []
    for x, band, length, is_visible in zip(centres, band_names, lengths, visible):
        seen = ' class="seen"' if is_visible else ""
        upper = band if max(map(len, band_names)) * CHARACTER <= across else f"{length:.0f}"
        parts.append(f'<text{seen} x="{x:.1f}" y="{HEIGHT - 26}" text-anchor="middle">{escape(upper)}</text>')
        lower = f"{length:.0f}" if upper == band else "nm"
        parts.append(f'<text class="small" x="{x:.1f}" y="{HEIGHT - 11}" text-anchor="middle">{lower}</text>')
    return centres, parts


def _wavelength_axis(lengths: Sequence[float]) -> tuple[list[float], list[str]]:
    """Return the centres of bands on an axis of wavelength, and its ticks."""
    first, last = lengths[0], lengths[-1]
    step = next((step for step in TICKS if (last - first) / step <= MOST_TICKS), TICKS[-1])

    def x_of(length: float) -> float:
        return LEFT + (length - first) / max(last - first, 1.0) * (WIDTH - LEFT - RIGHT)

    parts = []
    for tick in np.arange(np.ceil(first / step) * step, last + 1, step):
        x, y = x_of(tick), HEIGHT - BOTTOM
        parts.append(f'<line class="grid" x1="{x:.1f}" x2="{x:.1f}" y1="{TOP}" y2="{y}"/>')
        parts.append(f'<text x="{x:.1f}" y="{y + 18}" text-anchor="middle">{tick:.0f}</text>')
    middle = (LEFT + WIDTH - RIGHT) / 2
    parts.append(f'<text class="small" x="{middle:.1f}" y="{HEIGHT - 6}" text-anchor="middle">wavelength, nm</text>')
    return [x_of(length) for length in lengths], parts


def _legend() -> str:
    entries = (
        (LEFT, '<line class="true" x1="0" x2="22" y1="0" y2="0"/>', "true"),
        (LEFT + 76, '<line class="made" x1="0" x2="22" y1="0" y2="0"/>', "reconstructed"),
        (LEFT + 216, '<circle class="true dot" cx="12" cy="0" r="4"/>', "visible to the model"),
        (LEFT + 388, '<circle class="true ring" cx="12" cy="0" r="4"/>', "masked"),
    )
    return "".join(
        f'<g transform="translate({x} 12)">{mark}<text x="28" y="4">{text}</text></g>' for x, mark, text in entries
    )
