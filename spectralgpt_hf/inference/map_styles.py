"""Styles of maps for QGIS, which looks for a file of the map's name that ends with `.qml` when it opens the map."""

from collections.abc import Mapping
from pathlib import Path
from xml.etree import ElementTree as xml

import numpy as np

from ..files import write_text


def style_path(destination: Path) -> Path:
    """Return the path of the style of a map."""
    return destination.with_suffix(".qml")


def write_style(destination: Path, names: Mapping[int, str], colours: np.ndarray) -> Path:
    """Write the style of a map of classes: a colour and a name for each value.

    A GeoTIFF holds colours, and has no entry for the names of classes that QGIS reads.

    Args:
        destination: Path of the map.
        names: Names of the classes by their values in the map.
        colours: (K, 3) uint8.

    Returns:
        The path of the style.

    Raises:
        OSError: If the file cannot be written.
    """
    root = xml.Element("qgis", version="3.28", styleCategories="Symbology")
    renderer = xml.SubElement(
        xml.SubElement(root, "pipe"), "rasterrenderer", type="paletted", band="1", opacity="1", alphaBand="-1"
    )
    palette = xml.SubElement(renderer, "colorPalette")
    for (code, name), (red, green, blue) in zip(names.items(), colours.tolist(), strict=True):
        colour = f"#{red:02x}{green:02x}{blue:02x}"
        xml.SubElement(palette, "paletteEntry", value=str(code), label=name, color=colour, alpha="255")
    xml.indent(root)
    path = style_path(destination)
    write_text(path, xml.tostring(root, encoding="unicode", xml_declaration=False) + "\n")
    return path
