"""Maps of series of several dates."""

import json

import numpy as np
import pyarrow.parquet as parquet
import pytest
import rasterio
import torch
from typer.testing import CliRunner

from spectralgpt_cli import app
from spectralgpt_hf.inference import embed_scene, predict_scene
from spectralgpt_hf.modeling.pipeline_spectralgpt import MultispectralImageSegmentationPipeline

from .scenes import cut_corner, processor, read, segmenter, write_scene


def write_series(folder, **options):
    """Write three dates of a scene, of which the second lacks its upper half and the third its left third."""

    def upper(pixels):
        pixels[:, :40] = 0

    def left(pixels):
        pixels[:, :, :30] = 0

    folder.mkdir(exist_ok=True)
    changes = {"20150711": None, "20150731": upper, "20150820": left}
    return [
        write_scene(folder / f"scene_{date}.tif", left=100 + 4 * number, change=change, **options)
        for number, (date, change) in enumerate(changes.items())
    ]


def test_a_series_is_mapped_as_the_pipeline_maps_it(tmp_path):
    def turned(pixels):
        pixels[:] = pixels[:, ::-1].copy()

    changes = {"20150711": None, "20150731": turned, "20150820": cut_corner}
    same = [write_scene(tmp_path / f"scene_{date}.tif", change=change) for date, change in changes.items()]
    model = segmenter(temporal_fusion="attention")
    destination = predict_scene(
        model, processor(), destination=tmp_path / "map.tif", sources=same, workers=1, progress=False
    )
    run = MultispectralImageSegmentationPipeline(model=model, image_processor=processor())
    expected = run([same])[0]["map"].pixels
    assert len(np.unique(expected)) > 1
    assert (read(destination) == expected).mean() > 0.999
    with rasterio.open(destination) as file:
        tags = file.tags()
    assert json.loads(tags["dates"]) == ["2015-07-11", "2015-07-31", "2015-08-20"]
    assert json.loads(tags["sources"]) == [path.name for path in same]
    assert not any(name.startswith("after_") for name in tags)


def test_a_pixel_of_a_series_has_a_class_where_any_date_has_data_on_the_first_grid(tmp_path):
    files = write_series(tmp_path / "series")
    options = {"workers": 1, "progress": False}
    folder = predict_scene(
        segmenter(), processor(), destination=tmp_path / "a.tif", sources=tmp_path / "series", **options
    )
    assert (read(folder) != 255).all()
    later = predict_scene(segmenter(), processor(), destination=tmp_path / "b.tif", sources=files[1:], **options)
    empty = read(later)[0] == 255
    assert empty[:40, :26].all()
    assert not empty[40:].any()
    alone = predict_scene(segmenter(), processor(), files[0], tmp_path / "c.tif", **options)
    one = predict_scene(segmenter(), processor(), destination=tmp_path / "d.tif", sources=files[:1], **options)
    assert np.array_equal(read(one), read(alone))


def test_masks_and_dates_of_a_series_go_to_their_dates(tmp_path):
    files = write_series(tmp_path / "series")
    clear, cloudy = (tmp_path / name for name in ("clear.tif", "cloudy.tif"))
    with rasterio.open(files[0]) as file:
        profile = file.profile | {"count": 1, "dtype": "uint8"}
    for path, value in ((clear, 1), (cloudy, 0)):
        with rasterio.open(path, "w", **profile) as file:
            file.write(np.full((1, 75, 90), value, np.uint8))
    model, options = segmenter(temporal_fusion="attention"), {"workers": 1, "progress": False}
    masked = predict_scene(
        model,
        processor(),
        destination=tmp_path / "a.tif",
        sources=files[:2],
        mask=[clear, cloudy],
        dates=["2020-01-01", "2020-06-01"],
        **options,
    )
    single = predict_scene(model, processor(), destination=tmp_path / "b.tif", sources=files[:1], **options)
    assert (read(masked) == read(single)).mean() > 0.99
    with rasterio.open(masked) as file:
        assert json.loads(file.tags()["dates"]) == ["2020-01-01", "2020-06-01"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"destination": "map.tif"}, "either `source`, a scene, or `sources`"),
        ({"source": "a.tif", "sources": ["b.tif"], "destination": "map.tif"}, "either `source`, a scene, or `sources`"),
        ({"source": "a.tif"}, "Expected `destination`"),
        ({"source": "a.tif", "destination": "map.tif", "dates": ["2020-01-01"]}, "`dates` are those of `sources`"),
        ({"sources": ["a.tif"], "destination": "map.tif", "after": "b.tif"}, "`after` is the second date of a pair"),
    ],
)
def test_a_scene_and_a_series_are_told_apart(arguments, message):
    with pytest.raises(ValueError, match=message):
        predict_scene(segmenter(), processor(), **arguments)


def test_features_of_a_series_are_those_that_the_encoder_fuses(tmp_path):
    def turned(pixels):
        pixels[:] = pixels[:, ::-1].copy()

    (tmp_path / "series").mkdir()
    changes = {"20150711": None, "20150820": turned}
    paths = {tmp_path / "series" / f"scene_{date}.tif": change for date, change in changes.items()}
    files = [write_scene(path, width=32, height=32, change=change) for path, change in paths.items()]
    encoder, options = segmenter(temporal_fusion="attention").spectralgpt, {"workers": 1, "progress": False}
    table = embed_scene(encoder, processor(), destination=tmp_path / "a.parquet", sources=files, **options)
    (row,) = parquet.read_table(table).to_pylist()
    own = processor()
    inputs = own(files, dates=["2015-07-11", "2015-08-20"], statistics=own.measure_statistics(files))
    with torch.inference_mode():
        expected = encoder(**inputs).pooler_output[0].numpy()
    np.testing.assert_allclose(row["embedding"], expected, atol=1e-5)
    item = json.loads((tmp_path / "a.parquet.stac.json").read_text())
    assert item["properties"]["start_datetime"] == "2015-07-11T00:00:00Z"
    assert item["properties"]["end_datetime"] == "2015-08-20T00:00:00Z"
    assert [link["href"] for link in item["links"] if link["rel"] == "emb:source-data"] == [
        f"series/{path.name}" for path in files
    ]
    features = embed_scene(encoder, processor(), destination=tmp_path / "b.tif", sources=files, **options)
    alone = embed_scene(encoder, processor(), files[0], tmp_path / "c.tif", **options)
    one = embed_scene(encoder, processor(), destination=tmp_path / "d.tif", sources=files[:1], **options)
    assert np.isfinite(read(features)).all()
    assert np.array_equal(read(one), read(alone))
    assert not np.array_equal(read(one), read(features))


def test_the_command_embeds_a_folder_of_dated_files(tmp_path):
    write_series(tmp_path / "series")
    segmenter().save_pretrained(tmp_path / "checkpoint")
    processor().save_pretrained(tmp_path / "checkpoint")
    arguments = ["embed", tmp_path / "checkpoint", tmp_path / "series", tmp_path / "a.tif", "--series"]
    result = CliRunner().invoke(app, [*map(str, arguments), "--device", "cpu", "--workers", "1"])
    assert result.exit_code == 0, result.output
    with rasterio.open(tmp_path / "a.tif") as file:
        assert len(json.loads(file.tags()["sources"])) == 3


def test_the_command_maps_a_folder_of_dated_files(tmp_path):
    write_series(tmp_path / "series")
    model = segmenter()
    model.save_pretrained(tmp_path / "checkpoint")
    processor().save_pretrained(tmp_path / "checkpoint")
    arguments = ["predict", tmp_path / "checkpoint", tmp_path / "series", tmp_path / "map.tif", "--series"]
    result = CliRunner().invoke(app, [*map(str, arguments), "--device", "cpu", "--workers", "1"])
    assert result.exit_code == 0, result.output
    with rasterio.open(tmp_path / "map.tif") as file:
        assert json.loads(file.tags()["dates"]) == ["2015-07-11", "2015-07-31", "2015-08-20"]
