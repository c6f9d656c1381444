"""Draw the spectrum of a pixel as SVG that scales with the page, uses its colours, and has texts for screen readers."""

from collections.abc import Sequence
from html import escape

import numpy as np

from ..modeling.bands import BANDS


WIDTH, HEIGHT = 640, 360
LEFT, RIGHT, TOP, BOTTOM = 46, 12, 34, 44
STEPS = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5)
MOST_LINES = 5


def draw_spectrum(
    true: np.ndarray, reconstructed: np.ndarray, visible: np.ndarray, band_names: Sequence[str], name: str
) -> str:
    """Draw a true and a reconstructed spectrum as SVG.

    Bands are drawn at equal distances in the order of their wavelengths, because half of them would share a tenth of
    the width on an axis of wavelength. Dots mark the bands that were visible to the model, rings the reconstructed
    ones.

    Args:
        true, reconstructed: (C,), reflectance.
        visible: (C,), True for the bands that were visible to the model.
        band_names: Names of the C bands. Bands of other sensors than Sentinel-2 are left out.
        name: Name of the pixel.
    """
    order = sorted((i for i, band in enumerate(band_names) if band in BANDS), key=lambda i: _wavelength(band_names[i]))
    if not order:
        return ""
    values = np.concatenate([true[order], reconstructed[order]])
    values = values[np.isfinite(values)]
    low, high = min(0.0, float(values.min(initial=0))), max(0.01, float(values.max(initial=0)))
    step = next((step for step in STEPS if (high - low) / step <= MOST_LINES), STEPS[-1])
    bottom, top = np.floor(low / step) * step, np.ceil(high / step) * step
    across = (WIDTH - LEFT - RIGHT) / len(order)

    def y_of(value: float) -> float:
        return TOP + (top - value) / (top - bottom) * (HEIGHT - TOP - BOTTOM)

    parts = []
    for line in np.arange(bottom, top + step / 2, step):
        y = y_of(line)
        parts.append(f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(
            f'<text x="{LEFT - 8}" y="{y + 4:.1f}" text-anchor="end">{line + 0.0:.{2 if step < 0.1 else 1}f}</text>'
        )
    centres = [LEFT + (number + 0.5) * across for number in range(len(order))]
    for x, i in zip(centres, order):
        seen = ' class="seen"' if visible[i] else ""
        parts.append(f'<text{seen} x="{x:.1f}" y="{HEIGHT - 26}" text-anchor="middle">{escape(band_names[i])}</text>')
        nanometres = f"{_wavelength(band_names[i]):.0f}"
        parts.append(f'<text class="small" x="{x:.1f}" y="{HEIGHT - 11}" text-anchor="middle">{nanometres}</text>')
    for kind, spectrum in (("made", reconstructed), ("true", true)):
        points = [(x, y_of(float(spectrum[i])), i) for x, i in zip(centres, order) if np.isfinite(spectrum[i])]
        parts.append(f'<polyline class="{kind}" points="{" ".join(f"{x:.1f},{y:.1f}" for x, y, _ in points)}"/>')
        for x, y, i in points:
            if kind == "made" and visible[i]:
                continue
            state = "visible" if visible[i] else "masked"
            text = f"{band_names[i]}: {spectrum[i]:.3f}, {'reconstructed' if kind == 'made' else state}"
            dot = "dot" if visible[i] else "ring"
            parts.append(f'<circle class="{kind} {dot}" cx="{x:.1f}" cy="{y:.1f}" r="4"><title>{text}</title></circle>')
    parts.append(_legend())
    seen = ", ".join(band_names[i] for i in order if visible[i]) or "none"
    text = f"Reflectance of {len(order)} bands at {name}, true and reconstructed. Visible to the model: {seen}."
    return (
        f'<svg class="spectrum" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(text)}">'
        f"{''.join(parts)}</svg>"
    )


def _wavelength(band: str) -> float:
    return BANDS[band].wavelength_s2a


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
