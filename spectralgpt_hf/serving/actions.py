"""What a click on the demo's page does: from the state of a visitor's page to its new contents.

The arguments of a method are the contents of components, and its results are their new contents. `None` is an empty
component or state.
"""

import tempfile
import threading
import warnings
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import gradio as gr
import numpy as np
from PIL import Image

from ..inference.maps import CHANGE_COLOUR, MAP_NODATA, change_overlay, class_map
from ..inference.pictures import composite, composite_limits, feature_colours, to_image
from ..inference.similarity import similarity_map
from ..modeling.band_plan import plan_bands
from ..modeling.post_processing import class_colours
from . import page
from .composites import labelled
from .gallery import EXAMPLES, FIRST, examples_by_digest
from .spectrum import draw_spectrum
from .tasks import Models, Result
from .uploads import Upload, deadline, geotiff, read_upload


T = TypeVar("T")
WARNING = threading.Lock()
Pixel = tuple[int, int]
NOTHING_YET = "Upload a GeoTIFF, or take an example, first."
MOST_RECALLED = 2 * len(EXAMPLES)


class Loaded(NamedTuple):
    """What the page holds of a file: the window, the chosen pixel, facts, the composites it allows, and an overview."""

    upload: Upload | None
    pixel: Pixel | None
    facts: str
    composites: object
    overview: Image.Image | None


class Looked(NamedTuple):
    """What the page shows of a file: its picture, and the row and the column of the chosen pixel."""

    picture: Image.Image | None
    row: int | None
    column: int | None


class Actions:
    """The actions of the page. One object serves all visitors.

    Args:
        models: The models, loaded once.
    """

    def __init__(self, models: Models) -> None:
        self._models = models
        self._recent: OrderedDict[tuple[Any, ...], Any] = OrderedDict()
        self._lock = threading.Lock()

    def warm(self, percent_masked: float, masking: str, seed: int) -> None:
        """Compute what every visit begins with: the first example's features and its reconstruction."""
        with suppress(ValueError):  # on a busy machine the deadline may pass: the first visitor then waits
            upload = self._read(str(FIRST.path))
            self.reconstruct(upload, percent_masked, masking, seed)
            self.embed(upload)

    def _recall(self, key: tuple[object, ...], compute: Callable[[], T]) -> T:
        """Compute an answer, or return that of an earlier visit: all begin with the same few examples."""
        if key[0] not in examples_by_digest():
            return compute()
        with self._lock:
            known = self._recent.pop(key, None)
        value = compute() if known is None else known
        with self._lock:
            self._recent[key] = value
            if len(self._recent) > MOST_RECALLED:
                self._recent.popitem(last=False)
        return value

    def load(self, path: str | None, by_wavelength: bool = False, corner: Pixel | None = None) -> Loaded:
        """Read a file, or a window of a large one: the window, the pixel first looked at, and what is known of it.

        With `by_wavelength`, the bands of another sensor than the model's are matched to the model's by wavelength.
        """
        if path is None:
            return Loaded(None, None, "", gr.skip(), None)
        upload = self._read(path, corner, "wavelength" if by_wavelength else None)
        plan = plan_bands(upload.name, upload.band_names, self._models.bands, "nearest", upload.sensor)
        composites = labelled(upload.composites)
        pixel = _nearest_with_data(upload.raster.valid, upload.shape[0] // 7, upload.shape[1] // 8)
        facts = page.describe(upload, plan.filled)
        return Loaded(upload, pixel, facts, gr.Dropdown(composites, value=composites[0][1]), page.overview(upload))

    def move(self, path: str | None, upload: Upload | None, event: gr.SelectData) -> Loaded:
        """Read the window of a large file whose centre was clicked in the overview."""
        upload = _there(upload)
        if upload.overview is None:
            raise ValueError(f"{upload.name} has no other window: all of it is used.")
        row, column = _position(event, (upload.overview.height, upload.overview.width))
        scale = upload.size[0] / upload.overview.height
        height, width = upload.shape
        corner = round(scale * row) - height // 2, round(scale * column) - width // 2
        return self.load(path, upload.match is not None, corner)

    def move_to(self, path: str | None, row: float | None, column: float | None, by_wavelength: bool = False) -> Loaded:
        """Read the window of a large file that begins at a pixel, or as near to it as the file allows."""
        corner = int(number("the row", row, 0, 2**24)), int(number("the column", column, 0, 2**24))
        return self.load(path, by_wavelength, corner)

    def load_second(
        self, path: str | None, before: Upload | None, composite_name: str
    ) -> tuple[Upload, str, tuple[Image.Image, Image.Image] | None]:
        """Read the second date, in the window of the first, and show both."""
        if path is None:
            raise ValueError("Upload the second date first: a GeoTIFF of the same ground as the first.")
        before = _there(before)
        upload = self._read(path, before.corner, before.match)
        return upload, page.describe(upload, {}), self.look_at_both(before, upload, composite_name)

    def look_at_both(
        self, before: Upload | None, after: Upload | None, composite_name: str
    ) -> tuple[Image.Image, Image.Image] | None:
        """Show two dates, each with its own stretch: the atmosphere differs between them."""
        if before is None or after is None:
            return None
        self._models.check_grid(before, after)
        return page.mark(_shown(before, composite_name)), page.mark(_shown(after, composite_name))

    def _read(self, path: str, corner: Pixel | None = None, match: str | None = None) -> Upload:
        """Read a file, and keep what the reader and the processor warn of."""
        # Python's record of warnings belongs to the whole process: one file at a time.
        with WARNING, warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            upload = read_upload(path, corner, deadline(), self._models.bands, self._models.sensor, match)
            self._models.normalise(upload)
        heard = [str(item.message) for item in caught if issubclass(item.category, UserWarning)]
        return replace(upload, warnings=tuple(dict.fromkeys(heard)))

    def look(self, upload: Upload | None, pixel: Pixel | None, composite_name: str) -> Looked:
        """Show a file in a composite, with a ring around the chosen pixel, and where that is."""
        if upload is None or pixel is None:
            return Looked(None, None, None)
        return Looked(page.mark(_shown(upload, composite_name), pixel), *pixel)

    def choose(self, upload: Upload | None, event: gr.SelectData) -> Pixel:
        """Return the row and the column of a click."""
        return _position(event, _there(upload).shape)

    def choose_at(self, upload: Upload | None, row: float | None, column: float | None) -> Pixel:
        """Return the row and the column that were typed."""
        height, width = _there(upload).shape
        return int(number("the row", row, 0, height - 1)), int(number("the column", column, 0, width - 1))

    def reconstruct(
        self, upload: Upload | None, percent_masked: float, masking: str, seed: float | None
    ) -> tuple[Result | None, str]:
        """Mask and reconstruct the image, and return the result with a table of its scores."""
        share = number("the share to mask, in percent,", percent_masked, 10, 95) / 100
        seed = int(number("the seed", seed or 0, 0, 2**31))
        kind = choice("a masking", masking, page.MASKINGS)
        if upload is None:
            return None, ""
        reconstructed = self._recall(
            (upload.digest, upload.corner, share, kind, seed),
            lambda: self._models.reconstruct(upload, share, kind, seed, deadline()),
        )
        return reconstructed, page.score_table(reconstructed)

    def look_at_reconstruction(
        self, upload: Upload | None, reconstructed: Result | None, composite_name: str
    ) -> tuple[Image.Image | None, tuple[Image.Image, Image.Image] | None]:
        """Show what the model saw, and the original beside what it made of that."""
        # A reconstruction may end after another file has been loaded.
        if upload is None or reconstructed is None or reconstructed.original.shape[1:] != upload.shape:
            return None, None
        channels, bands = choice("a composite", composite_name, upload.composites), reconstructed.bands
        valid = upload.raster.valid
        limits = composite_limits(reconstructed.original, bands, channels, valid, upload.sensor)
        first, last = (
            composite(image, bands, channels, limits, valid, upload.sensor)
            for image in (reconstructed.original, reconstructed.reconstructed)
        )
        unseen = np.stack([reconstructed.masked[bands.index(channel)] for channel in channels], -1)
        seen = np.where(unseen, np.array(page.HIDDEN) / 255, first)
        return page.mark(to_image(seen)), (page.mark(to_image(first)), page.mark(to_image(last)))

    def spectrum(self, upload: Upload | None, reconstructed: Result | None, pixel: Pixel | None) -> str:
        """Draw both spectra of a pixel."""
        if upload is None or reconstructed is None or pixel is None or reconstructed.original.shape[1:] != upload.shape:
            return ""
        row, column = pixel
        return draw_spectrum(
            reconstructed.original[:, row, column],
            reconstructed.reconstructed[:, row, column],
            ~reconstructed.masked[:, row, column],
            reconstructed.bands,
            f"row {row}, column {column}",
            upload.sensor,
        )

    def save_reconstruction(self, upload: Upload | None, reconstructed: Result | None) -> Iterator[object]:
        """Offer the reconstructed image, in digital numbers."""
        if upload and reconstructed:
            pixels = np.round(reconstructed.reconstructed * 10_000).astype(np.float32)
            pixels[:, ~upload.raster.valid] = np.nan
            yield from _offer(
                upload, "reconstructed", geotiff(pixels, upload.raster, reconstructed.bands, nodata=np.nan)
            )

    def classify(
        self, upload: Upload | None, pixel: Pixel | None, composite_name: str
    ) -> tuple[dict[str, float], Image.Image]:
        """Classify the chip around the chosen pixel, and outline the chip in the image."""
        upload, pixel = _there(upload), pixel or (0, 0)
        labels, window = self._models.classify(upload, *pixel)
        return labels, page.mark(_shown(upload, composite_name), pixel, window)

    def segment(
        self, upload: Upload | None, composite_name: str
    ) -> tuple[np.ndarray, tuple[Image.Image, Image.Image] | None, str]:
        """Map classes: the map, the image beside it, and its legend."""
        upload = _there(upload)
        classes, areas = self._models.segment(upload, deadline())
        pictures = self.look_at_classes(upload, classes, composite_name)
        return classes, pictures, page.class_legend_html(areas)

    def look_at_classes(
        self, upload: Upload | None, classes: np.ndarray | None, composite_name: str
    ) -> tuple[Image.Image, Image.Image] | None:
        """Show the image, and the map of its classes."""
        if upload is None or classes is None:
            return None
        colours = class_colours(self._models.class_names)
        shown = _shown(upload, composite_name)
        over = shown.convert("RGBA")
        over.alpha_composite(class_map(classes, colours, upload.raster.valid, opacity=0.8))
        return page.mark(shown), page.mark(over.convert("RGB"))

    def save_classes(self, upload: Upload | None, classes: np.ndarray | None) -> Iterator[object]:
        """Offer the map of classes, which holds their codes, with its colours and their names."""
        if upload and classes is not None:
            names, codes = self._models.class_names, self._models.class_codes
            colours = {code: tuple(map(int, colour)) for code, colour in zip(codes, class_colours(names))}
            tags = {f"class_{code}": name for code, name in zip(codes, names)}
            values = np.full(MAP_NODATA + 1, MAP_NODATA, np.uint8)
            values[: len(codes)] = codes
            content = geotiff(values[classes], upload.raster, ["class"], nodata=MAP_NODATA, colormap=colours, tags=tags)
            yield from _offer(upload, "classes", content)

    def compare(
        self, before: Upload | None, after: Upload | None, threshold: float, composite_name: str
    ) -> tuple[np.ndarray, Image.Image, str]:
        """Map change between two dates. Return the map, the map over the second date, and a summary."""
        if after is None:
            raise ValueError("Upload the second date first: a GeoTIFF of the same ground as the first.")
        before = _there(before)
        threshold = number("the threshold", threshold, 0, 1)
        changed, areas = self._models.compare(before, after, threshold, deadline())
        raster = after.raster
        picture = change_overlay(
            raster.pixels,
            after.band_names,
            changed == 1,
            channels=choice("a composite", composite_name, after.composites),
            valid=raster.valid & before.raster.valid,
            sensor=after.sensor,
        )
        return changed, page.mark(picture), page.change_summary(areas, CHANGE_COLOUR)

    def save_change(self, before: Upload | None, changed: np.ndarray | None) -> Iterator[object]:
        """Offer the map of change."""
        if before and changed is not None:
            colours = {0: (235, 238, 240), 1: CHANGE_COLOUR}
            content = geotiff(changed, before.raster, ["change"], nodata=MAP_NODATA, colormap=colours)
            yield from _offer(before, "change", content)

    def embed(self, upload: Upload | None) -> tuple[np.ndarray | None, Image.Image | None]:
        """Compute features, and show their principal components as colours."""
        if upload is None:
            return None, None
        features = self._recall((upload.digest, upload.corner), lambda: self._models.embed(upload, deadline()))
        known = np.isfinite(features[0])
        colours = np.where(
            known[..., None], feature_colours(np.nan_to_num(features), known), np.array(page.HIDDEN) / 255
        )
        return features, page.mark(page.spread(to_image(colours), self._models.cell, upload.shape))

    def look_for_similar(
        self, upload: Upload | None, features: np.ndarray | None, pixel: Pixel | None
    ) -> tuple[Image.Image | None, str]:
        """Show the similarity of every patch to that of the chosen pixel."""
        if upload is None or features is None or pixel is None:
            return None, ""
        cell = self._models.cell
        similarity = similarity_map(features, pixel[0] // cell, pixel[1] // cell)
        if not np.isfinite(similarity).any():
            return None, "There is no data at this pixel: click elsewhere."
        picture, low = page.similarity_picture(similarity, cell, upload.shape)
        return page.mark(picture, pixel), page.similarity_legend(low)

    def save_features(self, upload: Upload | None, features: np.ndarray | None) -> Iterator[object]:
        """Offer the features for download: a band for each dimension."""
        if upload and features is not None:
            names = [f"feature_{i}" for i in range(len(features))]
            content = geotiff(features, upload.raster, names, nodata=np.nan, cell=self._models.cell)
            yield from _offer(upload, "features", content)


def number(name: str, value: object, least: float, most: float) -> float:
    """Return a number from `least` to `most`. Programs can send the page any JSON.

    Raises:
        ValueError: If the value is no such number.
    """
    if isinstance(value, bool) or not isinstance(value, int | float) or not least <= value <= most:
        raise ValueError(f"Expected {name} as a number from {least} to {most}, found {value!r:.100}.")
    return value


def choice(name: str, value: object, choices: Mapping[str, T]) -> T:
    """Return the choice with this name.

    Raises:
        ValueError: If no choice has this name.
    """
    if not isinstance(value, str) or value not in choices:
        raise ValueError(f"Expected {name} among {', '.join(choices)}, found {value!r:.100}.")
    return choices[value]


def _position(event: gr.SelectData, shape: tuple[int, int]) -> Pixel:
    """Return the row and the column of a click on what `page.mark` has enlarged from (height, width)."""
    times, index = page.zoom(shape), event.index
    # Programs may send any JSON as the position of a click.
    if not isinstance(index, list | tuple) or len(index) != 2 or not all(isinstance(i, int) for i in index):
        raise ValueError(f"Expected a click at [column, row] in whole pixels, found {index!r:.100}.")
    row, column = (position // times for position in reversed(index))
    if not (0 <= row < shape[0] and 0 <= column < shape[1]):
        raise ValueError(f"Expected a click inside the image, found row {row}, column {column}.")
    return row, column


def _nearest_with_data(valid: np.ndarray, row: int, column: int) -> Pixel:
    """Return the pixel with data that is nearest to a row and a column."""
    pixels = np.argwhere(valid)
    nearest = pixels[np.square(pixels - (row, column)).sum(axis=1).argmin()]
    return int(nearest[0]), int(nearest[1])


def _there(upload: Upload | None) -> Upload:
    if upload is None:
        raise ValueError(NOTHING_YET)
    return upload


def _shown(upload: Upload, composite_name: str) -> Image.Image:
    raster, channels = upload.raster, choice("a composite", composite_name, upload.composites)
    return to_image(composite(raster.pixels, upload.band_names, channels, valid=raster.valid, sensor=upload.sensor))


def _offer(upload: Upload, what: str, content: bytes) -> Iterator[object]:
    """Give a file to a download button. Gradio copies it and deletes the copy later; this one is deleted at once."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / f"{Path(upload.name).stem}_{what}.tif"
        file.write_bytes(content)
        yield gr.DownloadButton(value=file, interactive=True)
