"""Images larger than a model's own size: the pipelines give what `predict_scene` and `embed_scene` write."""

import time

import numpy as np
import pytest
import torch
from transformers import pipeline

from spectralgpt_hf.inference import embed_scene, predict_scene
from spectralgpt_hf.modeling.bands import L2A_BANDS
from spectralgpt_hf.modeling.rasters import read_raster
from tests.inference.scenes import change_detector, cut_corner, encoder, processor, read, segmenter, write_scene
from tests.modeling.test_pipelines import CHANGE, CLASSIFICATION, FEATURES, SEGMENTATION, image, make_pipeline


def run(task, model, **settings):
    return pipeline(task, model=model, image_processor=processor(**settings), device="cpu")


def with_empty_corner(pixels):
    cut_corner(pixels)
    pixels[:, :5, :9] = 0


@pytest.mark.parametrize("settings", [{}, {"normalization": "percentile"}, {"missing_bands": "mask"}])
def test_a_large_segmentation_is_that_of_predict_scene(tmp_path, settings):
    model = segmenter()
    path = write_scene(tmp_path / "scene.tif", width=96, height=81, change=with_empty_corner)
    expected = read(predict_scene(model, processor(**settings), path, tmp_path / "map.tif", progress=False))[0]
    assert len(np.unique(expected)) > 2
    segment = run(SEGMENTATION, model, **settings)
    with_mask = read_raster(path)
    for source in (path, path.read_bytes(), with_mask):
        result = segment(source)["map"]
        np.testing.assert_array_equal(np.where(result.valid, result.pixels[0], 255), expected)
    assert (result.crs, result.transform) == (with_mask.crs, with_mask.transform)


def test_the_pixels_of_an_array_give_the_map_of_their_file(tmp_path):
    segment, path = run(SEGMENTATION, segmenter()), write_scene(tmp_path / "scene.tif", change=with_empty_corner)
    expected, raster = segment(path), read_raster(path)
    for pixels in (raster.pixels, torch.from_numpy(raster.pixels.astype(np.int32))):
        result = segment(pixels, band_names=raster.band_names)
        np.testing.assert_array_equal(result["map"].pixels, expected["map"].pixels)
        np.testing.assert_array_equal(result["map"].valid, expected["map"].valid)
        assert result["labels"] == expected["labels"]
    shifted = segment(
        raster.pixels.astype(np.int32) + 1000 * (raster.pixels > 0), offset=-1000, band_names=raster.band_names
    )
    np.testing.assert_array_equal(shifted["map"].pixels, expected["map"].pixels)


def test_large_change_is_that_of_predict_scene(tmp_path):
    model = change_detector()
    before = write_scene(tmp_path / "before.tif", change=with_empty_corner)
    after = write_scene(tmp_path / "after.tif", change=lambda pixels: np.floor_divide(pixels, 2, out=pixels))
    expected = read(predict_scene(model, processor(), before, tmp_path / "map.tif", after=after, progress=False))[0]
    assert {*np.unique(expected)} == {0, 1, 255}
    result = run(CHANGE, model)((before, after))
    np.testing.assert_array_equal(np.where(result["map"].valid, result["map"].pixels[0], 255), expected)
    assert result["share"] == pytest.approx(expected[expected < 255].mean())


def test_large_features_are_those_of_embed_scene(tmp_path):
    model = encoder()
    path = write_scene(tmp_path / "scene.tif", width=96, height=81, change=with_empty_corner)
    expected = read(embed_scene(model, processor(), path, tmp_path / "features.tif", progress=False))
    features = run(FEATURES, model)(path, output="map").numpy()
    assert features.shape == expected.shape == (32, 11, 12)
    missing = np.isnan(expected)
    assert missing.any()
    np.testing.assert_array_equal(features.astype(np.float16)[~missing], expected[~missing])
    assert (features[missing] == 0).all()


def test_pooled_features_of_a_large_image_with_data_in_one_tile_are_those_of_the_tile():
    extract, pixels = make_pipeline(FEATURES), image(32, 40)
    pixels[:, :, 8:] = 0  # the second tile starts there
    statistics = extract.image_processor.measure_statistics(pixels)
    tile = extract(pixels[:, :, :32], statistics=statistics)
    torch.testing.assert_close(extract(pixels, statistics=statistics), tile)
    torch.testing.assert_close(extract(pixels), tile)


def test_only_tiles_of_the_models_size_go_through_it(monkeypatch):
    segment, shapes = make_pipeline(SEGMENTATION), []
    forward = segment.model.forward

    def spy(pixel_values, **kwargs):
        shapes.append(tuple(pixel_values.shape[-2:]))
        return forward(pixel_values, **kwargs)

    monkeypatch.setattr(segment.model, "forward", spy)
    results = list(segment(iter([image(70, 40), image(32, 24), image(24, 32)]), batch_size=4))
    assert [result["map"].pixels.shape[1:] for result in results] == [(70, 40), (32, 24), (24, 32)]
    assert sorted(set(shapes)) == [(24, 32), (32, 24), (32, 32)]
    shapes.clear()
    segment(image(64, 64), size=32)
    assert shapes == [(32, 32)]


def test_classes_of_a_scene_and_tokens_come_from_one_pass():
    classify, extract = make_pipeline(CLASSIFICATION), make_pipeline(FEATURES)
    assert len(classify(image(64, 64))) == 4
    assert extract(image(64, 64), output="tokens").shape == (4 * 64, 48)


@pytest.mark.parametrize("task", [CLASSIFICATION, SEGMENTATION, CHANGE, FEATURES])
@pytest.mark.parametrize("side", [32, 80])
def test_a_deadline_that_has_passed_stops_between_tiles(task, side):
    call, pixels = make_pipeline(task), image(side, side)
    inputs = (pixels, pixels[::-1].copy()) if task == CHANGE else pixels
    with pytest.raises(ValueError, match=r"image 0: this took longer than its time limit \(`deadline`\)"):
        call(inputs, deadline=time.monotonic() - 1)
    call(inputs, deadline=time.monotonic() + 600)


def test_a_deadline_is_looked_at_before_each_tile(monkeypatch):
    segment, count = make_pipeline(SEGMENTATION), []
    forward = segment.model.forward

    def slow(pixel_values, **kwargs):
        count.append(1)
        time.sleep(0.2)
        return forward(pixel_values, **kwargs)

    monkeypatch.setattr(segment.model, "forward", slow)
    with pytest.raises(ValueError, match="time limit"):
        segment(image(96, 96), deadline=time.monotonic() + 0.3)
    assert len(count) < 5


def test_images_without_data_or_without_bands_are_refused_as_small_ones_are():
    segment, detect = make_pipeline(SEGMENTATION), make_pipeline(CHANGE)
    for side in (32, 64):
        with pytest.raises(ValueError, match="no pixel of this image has data"):
            segment(np.zeros((12, side, side), np.uint16))
        with pytest.raises(ValueError, match="missing: B1 "):
            segment(image(side, side)[3:], band_names=L2A_BANDS[3:])
        with pytest.raises(TypeError, match="unknown"):
            segment(image(side, side), unknown=1)
        before, after = image(side, side), image(side, side)
        before[:, : side // 2] = after[:, side // 2 :] = 0
        with pytest.raises(ValueError, match="no pixel has data in both dates"):
            detect((before, after))
