"""The composites in which the page shows an image: three bands as red, green and blue, chosen by wavelength."""

from collections.abc import Mapping, Sequence

from ..inference.pictures import sensor_channels
from ..modeling.bands import SENTINEL_2, Sensor


# By the bands of Sentinel-2. Those of other sensors are the nearest in wavelength.
COMPOSITES = {
    "True colour": ("B4", "B3", "B2"),
    "False colour: vegetation red": ("B8", "B4", "B3"),
    "Short-wave infrared": ("B12", "B8A", "B4"),
    "Moisture": ("B8A", "B11", "B12"),
    "Red edge": ("B7", "B6", "B5"),
}
WHOLE_SPECTRUM = "Longest, middle and shortest wavelength"


def find_composites(band_names: Sequence[str], sensor: Sensor = SENTINEL_2) -> dict[str, tuple[str, ...]]:
    """Return the composites that an image allows, and their bands as red, green and blue.

    Args:
        band_names: Names of the bands of the image, at least one.
        sensor: Sensor of the bands.

    Returns:
        The bands by the name of the composite. An image that lacks the bands of all of `COMPOSITES` has one of three
        bands across its spectrum.
    """
    found = {name: sensor_channels(channels, band_names, sensor) for name, channels in COMPOSITES.items()}
    possible = {name: channels for name, channels in found.items() if channels and len({*channels}) == 3}
    if possible:
        return possible
    order = sorted(band_names, key=lambda band: sensor.band(band).wavelength or 0.0)
    return {WHOLE_SPECTRUM: (order[-1], order[len(order) // 2], order[0])}


def labelled(composites: Mapping[str, Sequence[str]]) -> list[tuple[str, str]]:
    """Return the label of each composite, which states its bands, and its name."""
    return [(f"{name} ({', '.join(channels)})", name) for name, channels in composites.items()]
