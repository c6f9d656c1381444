"""How the demo looks: its style, and the small pieces of HTML and pictures between the components of Gradio."""

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from ..inference.maps import ClassArea, class_colours
from .tasks import Models, Result
from .uploads import MAX_SIDE, Upload


COMPOSITES = {
    "True colour": ("B4", "B3", "B2"),
    "False colour: vegetation red": ("B8", "B4", "B3"),
    "Short-wave infrared": ("B12", "B8A", "B4"),
    "Moisture": ("B8A", "B11", "B12"),
    "Red edge": ("B7", "B6", "B5"),
}
MASKINGS = {"Tokens": "random", "Positions": "spatial", "Bands": "spectral"}

INK, HIDDEN = (15, 30, 38), (226, 232, 234)
# From alike to unlike the chosen pixel; lightness rises steadily, so that it also reads without colour.
SIMILARITY = np.array([[16, 32, 66], [33, 97, 140], [64, 163, 153], [179, 216, 131], [252, 246, 196]], float)

CSS = """
.gradio-container { max-width: 1360px !important; margin: 0 auto !important; padding: 26px 26px 10px !important; }
#title { padding: 0 2px 4px; }
#title h1 { font-size: 26px; font-weight: 650; letter-spacing: -0.02em; margin: 0 0 4px; }
#title p { color: var(--body-text-color-subdued); font-size: 15px; margin: 0; }
#foot { color: var(--body-text-color-subdued); font-size: 12.5px; padding: 4px 2px 0; }
footer { display: none !important; }
#scene, #work { background: var(--background-fill-primary); border: 1px solid var(--border-color-primary);
  border-radius: 14px; gap: 14px; padding: 20px; }
#work .tab-wrapper { padding-bottom: 4px; }
#scene .form, #work .form { background: none; gap: 22px; }
.wrap:has(> .error) { display: none !important; }  /* the message says it */
.figure { gap: 6px !important; }
.picture { border-radius: 8px !important; }
.picture img { border-radius: 8px; image-rendering: pixelated; width: 100%; }
.picture:not(#spectra) img { cursor: crosshair; }
#spectra img { image-rendering: auto; }
.caption { color: var(--body-text-color-subdued); font-size: 13px; line-height: 1.5; }
.caption b { color: var(--body-text-color); font-weight: 600; }
.notice { background: #fff7e6; border-radius: 8px; color: #7a5410; font-size: 13px; line-height: 1.5; margin-top: 8px;
  padding: 8px 12px; }
table.scores { border: 0 !important; border-collapse: collapse; font-size: 13.5px; margin: 0; width: 100%; }
table.scores tr, table.scores tbody, table.scores thead { border: 0 !important; }
table.scores th, table.scores td { background: none; border: 0 !important;
  border-bottom: 1px solid var(--border-color-primary) !important;
  color: var(--body-text-color); padding: 8px 6px; text-align: right; font-variant-numeric: tabular-nums; white-space:
  nowrap; }
table.scores th { color: var(--body-text-color-subdued); font-size: 12.5px; font-weight: 500; }
table.scores th:first-child, table.scores td:first-child { text-align: left; white-space: normal; }
table.scores tr.ours td { background: #0d948822; }
table.scores td.best { font-weight: 650; }
.legend { color: var(--body-text-color); display: grid; font-size: 13.5px; gap: 7px; }
.legend div { align-items: center; display: grid; gap: 10px; grid-template-columns: 16px 1fr auto 90px; }
.legend i { border-radius: 4px; height: 14px; width: 14px; }
.legend span { color: var(--body-text-color-subdued); font-variant-numeric: tabular-nums; text-align: right; }
.ramp { border-radius: 5px; height: 9px; margin: 3px 0 2px; }
.dark .notice { background: #3a2d10; color: #f3d9a0; }
#about { color: var(--body-text-color-subdued); font-size: 13.5px; line-height: 1.6; max-width: 900px; padding: 4px
  2px 0; }
#about a { margin: 0; padding: 0; }
@media (max-width: 640px) {
  .gradio-container, .gradio-container > main { padding: 6px !important; }
  #scene, #work { min-width: 100% !important; padding: 14px; }
  .legend div { grid-template-columns: 16px 1fr auto; }
  .legend div span:last-child { grid-column: 2 / -1; text-align: left; }
}
.ends { display: flex; justify-content: space-between; }
"""

TITLE = """<h1>SpectralGPT</h1>
<p>A foundation model that reads all bands of a Sentinel-2 image. Mask most of an image and see how the model
reconstructs
it, or click on a pixel and see what resembles it.</p>"""

ABOUT = """<p>The model cuts an image into <b>tokens</b>: 8 × 8 pixels (80 × 80 m) of three neighbouring bands. An
image of
128 × 128 px and 12 bands has 16 × 16 positions with four tokens each, 1,024 in all. In pretraining most tokens are
masked, and
the model learns to reconstruct them from the others. Read more in
<a href="https://doi.org/10.1109/TPAMI.2024.3362475" target="_blank" rel="noopener noreferrer">the paper</a>
(<a href="https://arxiv.org/abs/2311.07113" target="_blank" rel="noopener noreferrer">preprint</a>){card}.</p>"""

FOOT = (
    "Model: {name}, {parameters:.1f} M parameters, tiles of {tile} × {tile} px. Uploads: at most {limit} MiB, deleted "
    "after an hour. Sample: coast of Virginia, contains modified Copernicus Sentinel data 2015–2016."
)


def caption(text: str) -> str:
    """Return a line above a picture."""
    return f'<div class="caption">{escape(text)}</div>'


def about(models: Models) -> str:
    """Return what a token is, with links to the paper and, where there is one, the checkpoint's card on the Hub."""
    link = f'<a href="{escape(models.card_url)}" target="_blank" rel="noopener noreferrer">model card</a>'
    return ABOUT.format(card=f", or in the {link}" if models.card_url else "")


def foot(models: Models, limit: int) -> str:
    """Return the page's last line."""
    return FOOT.format(
        limit=limit, name=escape(models.name), parameters=models.num_parameters / 1e6, tile=models.tile_size
    )


def describe(upload: Upload, filled: Mapping[str, str]) -> str:
    """Return what is known of a file, and what was assumed."""
    raster = upload.raster
    height, width = upload.shape
    facts = [f"<b>{escape(upload.name)}</b>", f"{height} × {width} px"]
    facts.append(escape(raster.crs.to_string()) if raster.crs else "no reference system")
    facts.append(f"{len(upload.bands)} bands")
    if not raster.valid.all():
        facts.append(f"{raster.valid.mean():.0%} with data")
    if raster.offsets is None:
        facts.append("no offset stated, none applied")
    else:
        facts.append("offset " + ", ".join(f"{value:g}" for value in sorted(set(raster.offsets))) + " applied")
    notices = [*filter(None, [upload.notice]), *upload.warnings]
    if filled:
        stand_ins = ", ".join(f"{band} by {other}" for band, other in filled.items())
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
    masked = reconstructed.reconstruction.masked.mean()
    return (
        '<table class="scores"><thead><tr><th>Reconstructed by</th><th>PSNR, dB ↑</th><th>Angle, ° ↓</th></tr>'
        f'</thead><tbody>{"".join(rows)}</tbody></table><div class="caption" style="margin-top:8px">{masked:.1%} '
        "of the tokens are masked: the nearest share that whole positions, tokens or groups of bands allow. PSNR: the "
        "peak is each band's range. Angle: between true and reconstructed spectra, over the masked bands. The last "
        "three rows are simple baselines without a network.</div>"
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


def change_summary(share: float, colour: Sequence[int]) -> str:
    """Return how much changed, and in which colour that is shown."""
    swatch = f'<i style="background:rgb({",".join(map(str, colour))})"></i>'
    return f'<div class="legend"><div>{swatch}changed<span></span><span>{share:.1%}</span></div></div>'


def similarity_legend(low: float) -> str:
    """Return the colours of similarity, from `low` to 1."""
    stops = ", ".join(f"rgb({r:.0f},{g:.0f},{b:.0f})" for r, g, b in SIMILARITY)
    return (
        f'<div class="ramp" style="background:linear-gradient(90deg, {stops})"></div>'
        f'<div class="caption ends"><span>{low:.2f}</span><span>cosine similarity to the chosen pixel, features '
        "centred on the image's mean</span><span>1</span></div>"
    )


def similarity_picture(values: np.ndarray, shape: tuple[int, int]) -> tuple[Image.Image, float]:
    """Return similarities (h, w), NaN without data, as a picture of `shape`, and the value shown darkest."""
    low = float(np.nanpercentile(values, 2))
    position = np.nan_to_num(np.clip((values - low) / max(1 - low, 1e-6), 0, 1)) * (len(SIMILARITY) - 1)
    channels = [np.interp(position, range(len(SIMILARITY)), channel) for channel in SIMILARITY.T]
    picture = np.where(np.isnan(values)[..., None], HIDDEN, np.stack(channels, -1))
    return enlarge(Image.fromarray(picture.astype(np.uint8)), shape), low


def enlarge(picture: Image.Image, shape: tuple[int, int]) -> Image.Image:
    """Return a picture at the size of its image, (height, width), every value a square."""
    return picture.resize((shape[1], shape[0]), Image.Resampling.NEAREST)


def zoom(shape: tuple[int, int]) -> int:
    """Return how many times an image (height, width) is enlarged: Gradio places clicks on what is shown as it is."""
    return max(1, MAX_SIDE // max(shape))


def mark(
    picture: Image.Image, pixel: tuple[int, int] | None = None, window: tuple[int, int, int, int] | None = None
) -> Image.Image:
    """Return a picture enlarged, with a ring around a pixel (row, column) and the outline of a window (and h, w)."""
    times = zoom((picture.height, picture.width))
    picture = enlarge(picture, (picture.height * times, picture.width * times))
    if pixel is None:
        return picture
    picture = picture.convert("RGB")
    draw: Any = ImageDraw.Draw(picture)
    row, column = ((position + 0.5) * times for position in pixel)
    radius = max(3, max(picture.size) // 55)
    for width, colour in ((4, INK), (2, (255, 255, 255))):
        if window:
            top, left, height, across = (times * position for position in window)
            draw.rectangle((left, top, left + across - 1, top + height - 1), outline=colour, width=width)
        box = (column - radius, row - radius, column + radius, row + radius)
        draw.ellipse(box, outline=colour, width=width)
    return picture
