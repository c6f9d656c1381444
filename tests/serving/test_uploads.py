"""What of a file the page uses: all of it, and of a large one a window that can be moved."""

import numpy as np
import pytest
import rasterio
from gradio.processing_utils import save_pil_to_cache
from PIL import Image

from spectralgpt_hf.modeling.bands import BANDS
from spectralgpt_hf.serving import page
from spectralgpt_hf.serving.actions import Actions
from spectralgpt_hf.serving.tasks import Models
from spectralgpt_hf.serving.uploads import MAX_SIDE, read_upload
from tests.modeling.products import write_geotiff
from tests.serving.checkpoints import save_checkpoint


def scene(path, height, width):
    """Write an image whose pixels tell their row (B1) and their column (B2)."""
    pixels = np.random.default_rng(0).integers(500, 3000, (13, height, width)).astype(np.uint16)
    pixels[0], pixels[1] = np.mgrid[1 : height + 1, 1 : width + 1]
    return write_geotiff(path, pixels, names=list(BANDS))


def first_pixel(upload):
    return tuple(int(value) - 1 for value in upload.raster.pixels[:2, 0, 0])


def test_all_of_a_file_is_used_whatever_its_size(tmp_path):
    path = scene(tmp_path / "odd.tif", 43, 61)
    upload = read_upload(path)
    assert (upload.shape, upload.size, upload.corner, upload.overview) == ((43, 61), (43, 61), (0, 0), None)
    act = Actions(Models(save_checkpoint("features", tmp_path / "features")))
    reconstructed, _ = act.reconstruct(upload, 50, "Tokens", 0)
    assert reconstructed.reconstructed.shape == reconstructed.masked.shape == (12, 43, 61)
    seen, (original, made) = act.look_at_reconstruction(upload, reconstructed, "True colour")
    features, components = act.embed(upload)
    assert features.shape[1:] == (6, 8)
    similar, _ = act.look_for_similar(upload, features, (36, 60))
    assert {picture.size for picture in (seen, original, made, components, similar)} == {(488, 344)}  # eight times


def test_a_large_file_has_a_window_that_moves_and_stays_inside(tmp_path):
    path = scene(tmp_path / "large.tif", 600, 800)
    upload = read_upload(path)
    assert (upload.shape, upload.size, upload.corner) == ((MAX_SIDE, MAX_SIDE), (600, 800), (44, 144))
    assert first_pixel(upload) == upload.corner
    assert max(upload.overview.size) == MAX_SIDE
    for asked, corner in (((10, 20), (10, 20)), ((-5, 9999), (0, 288)), ((88, 288), (88, 288))):
        moved = read_upload(path, asked)
        assert (moved.corner, first_pixel(moved)) == (corner, corner)
    with rasterio.open(path) as file:
        assert moved.raster.transform == file.window_transform(((88, 600), (288, 800)))
    outlined = np.asarray(page.overview(moved)).astype(int)
    differs = np.argwhere((outlined != np.asarray(moved.overview)).any(axis=2))
    np.testing.assert_allclose(differs.min(axis=0), (88 * 0.64, 288 * 0.64), atol=3)


def test_a_click_into_the_overview_centres_the_window_there(tmp_path):
    path = scene(tmp_path / "large.tif", 600, 800)
    act = Actions(Models(save_checkpoint("features", tmp_path / "features")))
    upload = act.load(str(path)).upload

    class Click:
        index = (0.64 * 300, 0.64 * 280)

    Click.index = tuple(round(position) for position in Click.index)
    moved = act.move(str(path), upload, Click).upload
    np.testing.assert_allclose(moved.corner, (280 - 256, 300 - 256), atol=1)
    assert "window of 512 × 512 px at row" in page.describe(moved, {})
    assert act.move_to(str(path), 7, 9).upload.corner == (7, 9)
    with pytest.raises(ValueError, match="the row as a number"):
        act.move_to(str(path), None, 9)


def test_the_pixel_looked_at_first_has_data(tmp_path):
    act = Actions(Models(save_checkpoint("features", tmp_path / "features")))
    pixels = np.full((13, 64, 64), 1000, np.uint16)
    pixels[:, :, :40] = 0
    path = write_geotiff(tmp_path / "half.tif", pixels, names=list(BANDS), nodata=0)
    loaded = act.load(str(path))
    assert loaded.pixel == (9, 40)
    assert loaded.upload.raster.valid[loaded.pixel]


@pytest.mark.parametrize("pixel", [None, (1, 1)])
def test_visitors_who_see_the_same_picture_do_not_share_its_file(tmp_path, pixel):
    picture = Image.new("RGB", (2000, 8))
    files = {save_pil_to_cache(page.mark(picture, pixel), str(tmp_path), format="png") for _ in range(3)}
    assert len(files) == 3  # Gradio would write a shared one anew while it is read
    assert not picture.info
