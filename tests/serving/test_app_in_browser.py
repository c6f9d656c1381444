"""The demo in a real browser: what a person does, from the upload to the file on disk."""

import re
import shutil
import time

import numpy as np
import pytest
import rasterio
from PIL import Image


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
def page(browser, demo_url):
    """The page with the sample loaded; it may ask no other server, and must not fail in any script."""
    page = browser.new_page(viewport={"width": 1440, "height": 1100}, accept_downloads=True)
    page.set_default_timeout(TIMEOUT)
    asked, errors = [], []
    page.on("request", lambda request: asked.append(request.url))
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.goto(demo_url)
    page.get_by_text("sample.tif").first.wait_for()
    page.locator("#save-reconstruction:not([disabled])").wait_for()
    yield page
    page.close()
    assert [url for url in asked if not url.startswith((demo_url, "data:", "blob:"))] == []
    assert errors == []


def changed(page, name, action):
    """Do something, and wait until a picture is another one; return it."""
    picture = page.locator(f"#{name} img")
    before = picture.get_attribute("src") if picture.count() else ""
    action()
    page.wait_for_function(
        "([name, before]) => { const image = document.querySelector(`#${name} img`);"
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

    page.locator("#save-reconstruction:not([disabled])").wait_for()
    changed(page, "spectra", lambda: click(page.locator("#image img"), 0.75, 0.25))

    file = download(page, "save-reconstruction", tmp_path)
    assert file.name == "crop_0_reconstructed.tif"
    with rasterio.open(file) as reconstructed, rasterio.open(crops[0]) as source:
        assert (reconstructed.count, reconstructed.bounds, reconstructed.crs) == (12, source.bounds, source.crs)
        assert np.isfinite(reconstructed.read()).all()

    page.get_by_role("tab", name="Classify").click()
    changed(page, "chip", page.locator("#classify").click)
    page.locator("#labels").get_by_text("%").first.wait_for()

    page.get_by_role("tab", name="Segment").click()
    changed(page, "classes", page.locator("#segment").click)
    assert page.locator("#legend").get_by_text(re.compile("ha$")).count()
    with rasterio.open(download(page, "save-classes", tmp_path)) as classes:
        assert classes.count == 1

    page.get_by_role("tab", name="Change").click()
    changed(
        page,
        "change",
        lambda: page.locator("#second-file input[type=file]").set_input_files(second_date(crops[0], tmp_path)),
    )
    changed(page, "change", page.locator("#compare").click)
    page.locator("#change-summary").get_by_text("%").first.wait_for()
    with rasterio.open(download(page, "save-change", tmp_path)) as change, rasterio.open(crops[0]) as source:
        assert (change.count, change.shape, change.bounds) == (1, source.shape, source.bounds)

    page.get_by_role("tab", name="Embeddings").click()
    changed(page, "similar", lambda: click(page.locator("#image img"), 0.5, 0.5))
    changed(page, "similar", lambda: click(page.locator("#components img"), 0.1, 0.9))
    with rasterio.open(download(page, "save-features", tmp_path)) as features:
        assert (features.count, features.shape) == (48, (8, 8))


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
    changed(page, "reconstructed", lambda: page.locator("#sample").click())
