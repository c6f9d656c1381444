"""The example gallery: small files with named bands that the page reads, each with what it is there to show."""

import re

import numpy as np
import pytest
import rasterio

from spectralgpt_hf.assets import FOLDER, GALLERY
from spectralgpt_hf.serving.gallery import EXAMPLES, examples_by_digest, thumbnail_css
from spectralgpt_hf.serving.uploads import read_upload


FILES = sorted(GALLERY.glob("*.tif"))


def test_the_files_are_small_and_their_provenance_stands_beside_them():
    assert sum(path.stat().st_size for path in FILES) < 1.5e6
    text = (FOLDER / "README.md").read_text()
    for path in FILES:
        row = next(line for line in text.splitlines() if line.startswith("|") and f"`{path.name}`" in line)
        assert re.search(r"\| (MIT|CC-BY-4\.0) \|$", row)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_every_file_names_its_bands_and_is_compressed(path):
    with rasterio.open(path) as file:
        assert {"B2", "B3", "B4", "B8", "B12"} <= set(file.descriptions)
        assert file.compression.value == "DEFLATE"
        assert file.dtypes[0] == "uint16"
        assert ("MIT" in file.tags()["provenance"]) != ("CC-BY-4.0" in file.tags()["provenance"])
    assert read_upload(path).overview is None


def test_the_gallery_shows_every_file_and_a_second_date_on_the_same_grid():
    shown = {path for example in EXAMPLES for path in (example.path, example.after) if path}
    assert shown >= set(FILES)
    assert all(path.is_file() for path in shown)
    assert len(examples_by_digest()) == len(EXAMPLES)
    (pair,) = [example for example in EXAMPLES if example.after]
    before, after = read_upload(pair.path), read_upload(pair.after)
    assert (before.shape, before.raster.transform) == (after.shape, after.raster.transform)
    assert not np.array_equal(before.raster.pixels, after.raster.pixels)


def test_one_file_states_an_offset_and_one_has_an_edge_without_data():
    fields, edge = (read_upload(GALLERY / f"{name}.tif") for name in ("fields", "edge"))
    assert set(fields.raster.offsets) == {-1000.0}
    with rasterio.open(GALLERY / "fields.tif") as file:
        np.testing.assert_allclose(fields.raster.pixels, file.read() - 1000.0, atol=0.01)
    assert 0.5 < edge.raster.valid.mean() < 0.8
    assert not edge.raster.valid[0, -1]


def test_every_button_has_its_picture():
    css = thumbnail_css()
    for example in EXAMPLES:
        assert f"#example-{example.name}::before" in css
    assert len(css) < 100_000
