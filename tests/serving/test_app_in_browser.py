"""The demo in a real browser: what a person does, from the upload to the file on disk."""

import re
import shutil
import time
from io import BytesIO

import numpy as np
import pytest
import rasterio
from PIL import Image

from spectralgpt_hf.assets import GALLERY
from spectralgpt_hf.serving.gallery import EXAMPLES, FIRST


demo_page = pytest.importorskip("benchmarks.demo_page", reason="needs playwright")
CHROMIUM = shutil.which("chromium")
pytestmark = [pytest.mark.slow, pytest.mark.skipif(CHROMIUM is None, reason="needs chromium on the path")]
TIMEOUT = 90_000  # a busy machine draws slowly


@pytest.fixture(scope="module")
def browser():
    playwright = pytest.importorskip("playwright.sync_api", reason="needs playwright")
    with playwright.sync_playwright() as running:
        chromium = running.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield chromium
        chromium.close()


@pytest.fixture
def page(request, browser, demo_url):
    """The page with the first example loaded; it may ask no other server, and must be silent in the console.

    Its parameter is the theme.
    """
    page = browser.new_page(viewport={"width": 1440, "height": 1100}, accept_downloads=True)
    page.set_default_timeout(TIMEOUT)
    asked, errors = [], []
    page.on("request", lambda request: asked.append(request.url))
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.on("console", lambda message: errors.append(f"{message.type}: {message.text}"))
    page.goto(f"{demo_url}?__theme={getattr(request, 'param', 'light')}")
    page.locator("#facts").get_by_text(FIRST.path.name).wait_for()
    page.locator("#save-reconstruction:not([disabled])").wait_for()
    yield page
    page.close()
    assert [url for url in asked if not url.startswith((demo_url, "data:", "blob:"))] == []
    assert errors == []


def changed(page, name, action):
    """Do something, and wait until a picture, the second one of a slider, is another one; return it."""
    picture = page.locator(f"#{name} img").last
    before = picture.get_attribute("src") if picture.count() else ""
    action()
    page.wait_for_function(
        "([name, before]) => { const image = [...document.querySelectorAll(`#${name} img`)].at(-1);"
        " return image && image.complete && image.getAttribute('src') !== before }",
        arg=[name, before],
    )
    return picture


def click(place, across, down):
    box = place.bounding_box()
    place.click(position={"x": box["width"] * across, "y": box["height"] * down})


def upload(page, path):
    clear = page.locator("#file .top-panel button[aria-label=Clear]")
    if clear.count():
        clear.click()
    page.locator("#file input[type=file]").set_input_files(path)


def download(page, name, folder):
    button = page.locator(f"#{name}:not([disabled])")
    button.wait_for()
    with page.expect_download() as started:
        button.click()
    started.value.save_as(folder / started.value.suggested_filename)
    return folder / started.value.suggested_filename


def second_date(path, folder):
    """Write the image again, with another half."""
    with rasterio.open(path) as source:
        pixels, profile, names = source.read(), source.profile, source.descriptions
    pixels[:, :, : pixels.shape[2] // 2] += 2000
    with rasterio.open(folder / "after.tif", "w", **profile) as after:
        after.write(pixels)
        after.descriptions = names
    return folder / "after.tif"


def test_a_person_uploads_slides_clicks_and_downloads(page, crops, tmp_path):
    changed(page, "reconstructed", lambda: upload(page, crops[0]))
    page.locator("#facts").get_by_text("crop_0.tif").wait_for()
    page.locator("#scores").get_by_text("90.6% of the tokens are masked").wait_for()

    changed(page, "reconstructed", lambda: click(page.locator("#masked input[type=range]"), 0.5, 0.5))
    page.locator("#scores").get_by_text(re.compile(r"^5\d\.\d% of the tokens are masked")).wait_for()
    for masking, share in (("Positions", "5"), ("Bands", "50.0")):
        page.locator("#masking").get_by_text(masking).click()
        page.locator("#scores").get_by_text(re.compile(rf"^{share}.*% of the tokens are masked")).wait_for()

    page.locator("#save-reconstruction:not([disabled])").wait_for()
    click(page.locator("#image img"), 0.76, 0.26)
    page.locator("#spectrum svg[aria-label*='row 16, column 48']").wait_for()
    page.locator("#pixel input").first.fill("5")
    page.locator("#pixel input").first.press("Enter")
    page.locator("#spectrum svg[aria-label*='row 5, column 48']").wait_for()

    file = download(page, "save-reconstruction", tmp_path)
    assert file.name == "crop_0_reconstructed.tif"
    with rasterio.open(file) as reconstructed, rasterio.open(crops[0]) as source:
        assert (reconstructed.count, reconstructed.bounds, reconstructed.crs) == (12, source.bounds, source.crs)
        assert np.isfinite(reconstructed.read()).all()

    page.get_by_role("tab", name="Classify").click()
    page.locator("#labels").get_by_text("%").first.wait_for()
    changed(page, "chip", lambda: click(page.locator("#image img"), 0.2, 0.2))

    page.get_by_role("tab", name="Segment").click()
    page.locator("#legend").get_by_text(re.compile("ha$")).first.wait_for()
    with rasterio.open(download(page, "save-classes", tmp_path)) as classes:
        assert classes.count == 1

    page.get_by_role("tab", name="Change").click()
    page.locator("#change-hint").get_by_text("Two dates").wait_for()  # also after an image was loaded
    changed(
        page,
        "change",
        lambda: page.locator("#second-file input[type=file]").set_input_files(second_date(crops[0], tmp_path)),
    )
    page.locator("#change-summary").get_by_text("%").first.wait_for()
    page.locator("#change-hint").wait_for(state="hidden")
    with rasterio.open(download(page, "save-change", tmp_path)) as change, rasterio.open(crops[0]) as source:
        assert (change.count, change.shape, change.bounds) == (1, source.shape, source.bounds)

    page.get_by_role("tab", name="Embeddings").click()
    page.locator("#components img").wait_for()
    changed(page, "similar", lambda: click(page.locator("#image img"), 0.5, 0.5))
    changed(page, "similar", lambda: click(page.locator("#components img"), 0.1, 0.9))
    with rasterio.open(download(page, "save-features", tmp_path)) as features:
        assert (features.count, features.shape) == (48, (8, 8))


def test_every_example_opens_and_the_pair_of_dates_is_compared(page):
    for example in EXAMPLES[1:]:
        page.locator(f"#example-{example.name}").click()
        page.locator("#save-reconstruction[disabled]").wait_for()  # until there is a result of this image
        page.locator("#facts").get_by_text(example.path.name).wait_for()
        page.locator("#save-reconstruction:not([disabled])").wait_for()
        if example.path == GALLERY / "fields.tif":
            page.locator("#facts").get_by_text("offset -1000 stated in the file, applied").wait_for()
        if example.path == GALLERY / "edge.tif":
            page.locator("#facts").get_by_text("% with data").wait_for()
        if example.after:
            page.get_by_role("tab", name="Change").click()
            page.locator("#second-facts").get_by_text(example.after.name).wait_for()
            page.locator("#change-summary").get_by_text("%").first.wait_for()
            page.get_by_role("tab", name="Reconstruct").click()


def test_a_slider_between_pictures_moves_by_keyboard_and_pictures_have_texts(page):
    handle = page.locator("#reconstructed [role=slider]")
    handle.wait_for()
    place = "document.querySelector('#reconstructed [role=slider]').getBoundingClientRect().x"
    before = page.evaluate(place)
    handle.press("ArrowRight")
    page.wait_for_function(f"{place} > {before} + 2")
    texts = page.evaluate("[...document.querySelectorAll('.picture img')].map((image) => image.alt)")
    assert len(texts) >= 4
    assert all(texts)


@pytest.mark.parametrize(("page", "dark"), [("light", False), ("dark", True)], indirect=["page"])
@pytest.mark.parametrize("width", [390, 1280])
def test_every_tab_is_as_wide_as_the_screen_in_both_themes(page, width, dark):
    page.set_viewport_size({"width": width, "height": 900})
    page.wait_for_timeout(500)  # the page is drawn anew for its width
    with Image.open(BytesIO(page.screenshot())) as drawn:
        ground = drawn.convert("L").getpixel((2, 2))
    assert (ground < 128) == dark
    for name in (*list(demo_page.TABS)[1:], "Reconstruct"):
        demo_page.open_tab(page, name)
        if name == "Classify":
            page.locator("#labels h2").wait_for()
            page.evaluate("document.querySelector('#labels h2').textContent = 'HerbaceousVegetationOfDryLand'")
        if name == "Embeddings":  # the ends of the scale are not broken into lines
            page.locator("#similar-legend .ends").wait_for()
            assert page.locator("#similar-legend .ends span").first.bounding_box()["height"] < 25
        page.wait_for_function("(width) => document.documentElement.scrollWidth <= width", arg=width)
    # Buttons over a picture need a ground of their own to be seen.
    grounds = page.locator(".picture .icon-button-wrapper:visible").evaluate_all(
        "(all) => all.map((element) => getComputedStyle(element).backgroundColor)"
    )
    assert grounds
    assert "rgba(0, 0, 0, 0)" not in grounds
    label, clear = (page.locator(f"#file {part}").bounding_box() for part in ("label", "[aria-label=Clear]"))
    assert label["x"] + label["width"] <= clear["x"] or label["y"] + label["height"] <= clear["y"]


def test_wrong_files_end_in_a_message_and_the_page_goes_on(page, crops, tmp_path):
    (tmp_path / "notes.tif").write_text("not an image")
    Image.new("RGB", (64, 64)).save(tmp_path / "photo.jpg")
    (tmp_path / "large.tif").write_bytes(bytes(2**20 + 1))
    for name, message in (
        ("notes.tif", "expected the bytes of a TIFF"),
        ("photo.jpg", "expected the bytes of a TIFF"),
        ("large.tif", "exceed the maximum allowed size"),
    ):
        upload(page, tmp_path / name)
        page.get_by_text(message).first.wait_for()
        for close in page.locator(".toast-close").all():
            close.click()
            time.sleep(0.1)
    changed(page, "reconstructed", page.locator("#example-town").click)
