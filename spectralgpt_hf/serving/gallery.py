"""The example gallery: the sample and the crops of `assets/gallery`, and their thumbnails."""

import base64
import functools
import io
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

from PIL import ImageOps

from ..assets import GALLERY, SAMPLE
from ..inference.pictures import composite, to_image
from ..modeling.rasters import read_raster


THUMBNAIL = (176, 104)


@dataclass(frozen=True)
class Example:
    """An image of the gallery.

    Attributes:
        name: Name of its button in the code of the page.
        label: Text of the button: a title, and a line about the image.
        path: The file.
        after: File of the second date of a pair, or None.
    """

    name: str
    label: str
    path: Path
    after: Path | None = None


EXAMPLES = (
    Example("hills", "Hills and fields\nTunisia", GALLERY / "hills.tif"),
    Example("river", "River in flood\nIndia", GALLERY / "river.tif"),
    Example("town", "Town\nSpain", GALLERY / "town.tif"),
    Example("forest", "Two dates\nforest, Slovenia", GALLERY / "forest-before.tif", GALLERY / "forest-after.tif"),
    Example("fields", "Stated offset\nfields, Brazil", GALLERY / "fields.tif"),
    Example("edge", "Edge of the data\nlake, Germany", GALLERY / "edge.tif"),
    Example("coast", "Coast, 512 px\nVirginia", SAMPLE),
)
FIRST = EXAMPLES[0]
"""The image that is shown first. It is small, so that visitors do not wait."""


@functools.cache
def examples_by_digest() -> dict[str, Example]:
    """Return the examples by the SHA-256 of their files."""
    return {sha256(example.path.read_bytes()).hexdigest(): example for example in EXAMPLES}


@functools.cache
def thumbnail_css() -> str:
    """Return rules that show each example above the text of its button."""
    rules = []
    for example in EXAMPLES:
        raster = read_raster(example.path)
        picture = to_image(composite(raster.pixels, raster.band_names or (), valid=raster.valid))
        file = io.BytesIO()
        ImageOps.fit(picture, THUMBNAIL).save(file, "webp", quality=80)
        content = base64.b64encode(file.getvalue()).decode()
        rules.append(
            f'#example-{example.name}::before {{ background-image: url("data:image/webp;base64,{content}"); }}'
        )
    return "\n".join(rules)
