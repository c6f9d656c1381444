"""What happens on a click: from the state of one person's page to what it shows next.

Arguments are what the components hold, results what they shall hold. `None` stands for a component or a state without
content.
"""

import tempfile
import threading
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import gradio as gr
import numpy as np
from PIL import Image

from ..inference.maps import CHANGE_COLOUR, change_overlay, class_colours, class_map
from ..inference.pictures import composite, composite_limits, feature_colours, spectra_chart, to_image
from ..modeling.band_plan import plan_bands
from . import page
from .tasks import NO_DATA, Models, Result
from .uploads import Upload, deadline, geotiff, read_upload


T = TypeVar("T")
WARNING = threading.Lock()
Pixel = tuple[int, int]
NOTHING_YET = "Upload a GeoTIFF, or take the sample, first."


class Actions:
    """The page's answers, computed with models that all share.

    Args:
        models: Loaded once.
    """

    def __init__(self, models: Models) -> None:
        self._models = models

    def load(self, path: str | None) -> tuple[Upload | None, Pixel | None, str, Any]:
        """Read a file: its window, the pixel first looked at, what is known of it, and the composites it allows."""
        if path is None:
            return None, None, "", gr.skip()
        upload = self._read(path)
        plan = plan_bands(upload.name, upload.bands, self._models.bands, "nearest")
        possible = [name for name, channels in page.COMPOSITES.items() if set(channels) <= set(upload.bands)]
        if not possible:
            raise ValueError(f"{upload.name}: no composite can be made of {', '.join(upload.bands)}.")
        pixel = (upload.shape[0] // 7, upload.shape[1] // 8)
        return upload, pixel, page.describe(upload, plan.filled), gr.Dropdown(possible, value=possible[0])

    def load_second(self, path: str | None, composite_name: str) -> tuple[Upload, str, Image.Image]:
        """Read the second date, and show it."""
        if path is None:
            raise ValueError("Upload the second date first: a GeoTIFF of the same ground as the first.")
        upload = self._read(path)
        return upload, page.describe(upload, {}), page.mark(_shown(upload, composite_name))

    def _read(self, path: str) -> Upload:
        """Read a file, and keep what the reader and the processor warn of."""
        # Python's record of warnings belongs to the whole process: one file at a time.
        with WARNING, warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            upload = read_upload(path, self._models.tile_size, until=deadline(), bands=self._models.bands)
            self._models.normalise(upload)
        heard = [str(item.message) for item in caught if issubclass(item.category, UserWarning)]
        return replace(upload, warnings=tuple(dict.fromkeys(heard)))

    def look(self, upload: Upload | None, pixel: Pixel | None, composite_name: str) -> Image.Image | None:
        """Show a file in a composite, with a ring around the chosen pixel."""
        if upload is None:
            return None
        return page.mark(_shown(upload, composite_name), pixel)

    def choose(self, upload: Upload | None, event: gr.SelectData) -> Pixel:
        """Return the row and the column of a click."""
        upload = _there(upload)
        times, index = page.zoom(upload.shape), event.index
        # Programs may send any JSON as the position of a click.
        if not isinstance(index, list | tuple) or len(index) != 2 or not all(isinstance(i, int) for i in index):
            raise ValueError(f"Expected a click at [column, row] in whole pixels, found {index!r:.100}.")
        row, column = (position // times for position in reversed(index))
        if not (0 <= row < upload.shape[0] and 0 <= column < upload.shape[1]):
            raise ValueError(f"Expected a click inside the image, found row {row}, column {column}.")
        return row, column

    def reconstruct(
        self, upload: Upload | None, percent_masked: float, masking: str, seed: float | None
    ) -> tuple[Result | None, str]:
        """Mask and reconstruct the image, and say how well that went."""
        share = number("the share to mask, in percent,", percent_masked, 10, 95) / 100
        seed = int(number("the seed", seed or 0, 0, 2**31))
        kind = choice("a masking", masking, page.MASKINGS)
        if upload is None:
            return None, ""
        reconstructed = self._models.reconstruct(upload, share, kind, seed, deadline())
        return reconstructed, page.score_table(reconstructed)

    def look_at_reconstruction(
        self, upload: Upload | None, reconstructed: Result | None, pixel: Pixel | None, composite_name: str
    ) -> tuple[Image.Image | None, Image.Image | None, Image.Image | None]:
        """Show what the model saw, what it made of it, and both spectra of a pixel."""
        # A reconstruction may end after another file has been loaded.
        if upload is None or reconstructed is None or pixel is None or reconstructed.original.shape[1:] != upload.shape:
            return None, None, None
        channels, bands = choice("a composite", composite_name, page.COMPOSITES), reconstructed.bands
        valid = upload.raster.valid
        limits = composite_limits(reconstructed.original, bands, channels, valid)
        first, last = (
            composite(image, bands, channels, limits, valid)
            for image in (reconstructed.original, reconstructed.reconstructed)
        )
        masked = reconstructed.reconstruction.masked
        unseen = np.stack([masked[bands.index(channel)] for channel in channels], -1)
        seen = np.where(unseen, np.array(page.HIDDEN) / 255, first)
        row, column = pixel
        name = f"row {row}, column {column}"
        spectra = spectra_chart(
            {
                name: reconstructed.original[:, row, column],
                f"{name} (reconstructed)": reconstructed.reconstructed[:, row, column],
            },
            bands,
            {name: ~masked[:, row, column]},
        )
        return page.mark(to_image(seen), pixel), page.mark(to_image(last), pixel), spectra

    def save_reconstruction(self, upload: Upload | None, reconstructed: Result | None) -> Iterator[Any]:
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
        """Name what the chip around the chosen pixel shows, and show which chip that is."""
        upload, pixel = _there(upload), pixel or (0, 0)
        labels, window = self._models.classify(upload, *pixel)
        return labels, page.mark(_shown(upload, composite_name), pixel, window)

    def segment(self, upload: Upload | None, composite_name: str) -> tuple[np.ndarray, Image.Image, Image.Image, str]:
        """Map classes: the map, as a picture and laid over the image, and its legend."""
        upload = _there(upload)
        classes, areas = self._models.segment(upload, deadline())
        colours = class_colours([area.name for area in areas])
        over = _shown(upload, composite_name).convert("RGBA")
        over.alpha_composite(class_map(classes, colours, upload.raster.valid, opacity=0.5))
        alone = class_map(classes, colours, upload.raster.valid)
        return classes, page.mark(alone), page.mark(over), page.class_legend_html(areas)

    def save_classes(self, upload: Upload | None, classes: np.ndarray | None) -> Iterator[Any]:
        """Offer the map of classes, with its colours and their names."""
        if upload and classes is not None:
            names = self._models.class_names
            colours = {i: tuple(map(int, colour)) for i, colour in enumerate(class_colours(names))}
            tags = {f"class_{i}": name for i, name in enumerate(names)}
            content = geotiff(classes, upload.raster, ["class"], nodata=NO_DATA, colormap=colours, tags=tags)
            yield from _offer(upload, "classes", content)

    def compare(
        self, before: Upload | None, after: Upload | None, threshold: float, composite_name: str
    ) -> tuple[np.ndarray, Image.Image, str]:
        """Map change between two dates, over the second, and say how much there is."""
        if after is None:
            raise ValueError("Upload the second date first: a GeoTIFF of the same ground as the first.")
        before = _there(before)
        threshold = number("the threshold", threshold, 0, 1)
        changed, share = self._models.compare(before, after, threshold, deadline())
        raster = after.raster
        picture = change_overlay(
            raster.pixels,
            after.bands,
            changed == 1,
            channels=choice("a composite", composite_name, page.COMPOSITES),
            valid=raster.valid & before.raster.valid,
        )
        return changed, page.mark(picture), page.change_summary(share, CHANGE_COLOUR)

    def save_change(self, before: Upload | None, changed: np.ndarray | None) -> Iterator[Any]:
        """Offer the map of change."""
        if before and changed is not None:
            colours = {0: (235, 238, 240), 1: CHANGE_COLOUR}
            content = geotiff(changed, before.raster, ["change"], nodata=NO_DATA, colormap=colours)
            yield from _offer(before, "change", content)

    def embed(self, upload: Upload | None) -> tuple[np.ndarray | None, Image.Image | None]:
        """Compute features, and show their principal components as colours."""
        if upload is None:
            return None, None
        features = self._models.embed(upload, deadline())
        known = np.isfinite(features[0])
        colours = np.where(
            known[..., None], feature_colours(np.nan_to_num(features), known), np.array(page.HIDDEN) / 255
        )
        return features, page.mark(page.enlarge(to_image(colours), upload.shape))

    def look_for_similar(
        self, upload: Upload | None, features: np.ndarray | None, pixel: Pixel | None
    ) -> tuple[Image.Image | None, str]:
        """Show how similar every position is to that of the chosen pixel."""
        if upload is None or features is None or pixel is None:
            return None, ""
        scale = upload.shape[0] // features.shape[1]
        centred = features - np.nanmean(features, axis=(1, 2), keepdims=True)
        centred = centred / np.maximum(np.linalg.norm(centred, axis=0), 1e-12)
        similarity = np.einsum("dhw,d->hw", centred, centred[:, pixel[0] // scale, pixel[1] // scale])
        if not np.isfinite(similarity).any():
            return None, "There is no data at this pixel: click elsewhere."
        picture, low = page.similarity_picture(similarity, upload.shape)
        return page.mark(picture, pixel), page.similarity_legend(low)

    def save_features(self, upload: Upload | None, features: np.ndarray | None) -> Iterator[Any]:
        """Offer the features, one band for each of their dimensions."""
        if upload and features is not None:
            names = [f"feature_{i}" for i in range(len(features))]
            yield from _offer(upload, "features", geotiff(features, upload.raster, names, nodata=np.nan))


def number(name: str, value: object, least: float, most: float) -> float:
    """Return an input that must be a number from `least` to `most`: programs may send anything.

    Raises:
        ValueError: If it is not.
    """
    if isinstance(value, bool) or not isinstance(value, int | float) or not least <= value <= most:
        raise ValueError(f"Expected {name} as a number from {least} to {most}, found {value!r:.100}.")
    return value


def choice(name: str, value: object, choices: Mapping[str, T]) -> T:
    """Return what an input chooses.

    Raises:
        ValueError: If it is none of the choices.
    """
    if not isinstance(value, str) or value not in choices:
        raise ValueError(f"Expected {name} among {', '.join(choices)}, found {value!r:.100}.")
    return choices[value]


def _there(upload: Upload | None) -> Upload:
    if upload is None:
        raise ValueError(NOTHING_YET)
    return upload


def _shown(upload: Upload, composite_name: str) -> Image.Image:
    raster, channels = upload.raster, choice("a composite", composite_name, page.COMPOSITES)
    return to_image(composite(raster.pixels, upload.bands, channels, valid=raster.valid))


def _offer(upload: Upload, what: str, content: bytes) -> Iterator[Any]:
    """Give a file to a download button. Gradio copies it, and deletes the copy in time; ours goes at once."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / f"{Path(upload.name).stem}_{what}.tif"
        file.write_bytes(content)
        yield gr.DownloadButton(value=file, interactive=True)
