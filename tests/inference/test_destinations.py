import os
import resource
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import rasterio

from spectralgpt_hf.files import locked
from spectralgpt_hf.inference import embed_scene, predict_scene, threads

from .scenes import classifier, encoder, processor, read, segmenter, write_scene


@pytest.fixture
def scene(tmp_path):
    return write_scene(tmp_path / "scene.tif")


def predict(source, path, **options):
    return predict_scene(segmenter(), processor(), source, path, progress=False, **options)


def embed(source, path, **options):
    return embed_scene(encoder(), processor(), source, path, progress=False, **options)


@pytest.mark.parametrize("run", [predict, embed])
def test_an_input_is_never_overwritten(scene, run):
    content, link = scene.read_bytes(), scene.with_name("link.tif")
    link.symlink_to(scene)
    for destination in (scene, link):
        with pytest.raises(ValueError, match=f"{destination.name}: is an input"):
            run(scene, destination, overwrite=True)
    virtual = scene.with_name("virtual.vrt")
    subprocess.run([sys.executable, "-c", VRT, str(scene), str(virtual)], check=True)
    with pytest.raises(ValueError, match=r"scene\.tif: is an input"):
        run(virtual, scene, overwrite=True)
    assert scene.read_bytes() == content
    assert not list(scene.parent.glob("*.parts"))


VRT = "import sys, rasterio.shutil; rasterio.shutil.copy(*sys.argv[1:], driver='VRT')"


def test_a_layer_does_not_overwrite_an_input_either(scene):
    source = scene.rename(scene.with_name("map_confidence.tif"))
    content = source.read_bytes()
    with pytest.raises(ValueError, match=r"map_confidence\.tif: is an input"):
        predict(source, scene.with_name("map.tif"), layers=["confidence"], overwrite=True)
    assert source.read_bytes() == content


@pytest.mark.parametrize(("run", "name"), [(predict, "map.tif"), (embed, "features.tif"), (embed, "chips.parquet")])
def test_existing_files_are_replaced_only_when_asked(scene, run, name):
    path = scene.with_name(name)
    path.write_text("mine")
    with pytest.raises(FileExistsError, match=f"{name}: exists"):
        run(scene, path)
    assert path.read_text() == "mine"
    run(scene, path, overwrite=True)
    assert path.stat().st_size > 1000


@pytest.mark.parametrize(("run", "name"), [(predict, "map.tif"), (embed, "features.tif")])
def test_one_process_writes_a_destination(scene, run, name):
    path = scene.with_name(name)
    with locked(path), pytest.raises(BlockingIOError, match=f"{name}: process {os.getpid()} on"):
        run(scene, path)
    assert run(scene, path).is_file()
    assert not list(scene.parent.glob(".*"))


def content(path):
    """Return the values of a map, as bytes, or the bytes of another file."""
    return read(path).tobytes() if path.suffix == ".tif" else path.read_bytes()


@pytest.mark.parametrize(("run", "name"), [(predict, "map.tif"), (embed, "features.tif"), (embed, "chips.parquet")])
def test_a_full_disk_leaves_the_old_file_and_the_finished_strips(tmp_path, run, name):
    scene, path = write_scene(tmp_path / "scene.tif", width=150, height=150), tmp_path / name
    expected = content(run(scene, tmp_path / f"expected_{name}"))
    path.write_text("old")
    size = {"map.tif": 4_000, "features.tif": 20_000, "chips.parquet": 3_500}[name]
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        with pytest.raises(OSError, match=f"{name}.*cannot be written.*[Ff]ree space"):
            run(scene, path, overwrite=True)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert path.read_text() == "old"
    assert not list(tmp_path.glob(".*"))
    assert list((tmp_path / f"{name}.parts").rglob("*.npz"))
    assert content(run(scene, path)) == expected  # goes on, and needs no further word to replace the old file


def test_a_source_that_changed_behind_a_virtual_raster_is_not_resumed(tmp_path, monkeypatch):
    scene, path = write_scene(tmp_path / "scene.tif"), tmp_path / "map.tif"
    virtual = tmp_path / "virtual.vrt"
    subprocess.run([sys.executable, "-c", VRT, str(scene), str(virtual)], check=True)
    monkeypatch.setattr("spectralgpt_hf.inference.prediction.write_layer", lambda *_: os.listdir(tmp_path / "none"))
    with pytest.raises(FileNotFoundError):
        predict(virtual, path)
    monkeypatch.undo()
    write_scene(scene, left=0, top=0)
    np.testing.assert_array_equal(read(predict(virtual, path)), read(predict(scene, tmp_path / "other.tif")))


@pytest.mark.parametrize(("run", "name"), [(predict, "map.tif"), (embed, "features.tif"), (embed, "chips.parquet")])
def test_an_area_without_data_is_an_error(tmp_path, run, name):
    def lose_corner(pixels):
        pixels[:, :64, :64] = 0

    scene = write_scene(tmp_path / "scene.tif", change=lose_corner)
    with rasterio.open(scene) as dataset:
        left, top = dataset.transform.c, dataset.transform.f
    area = (left, top - 300, left + 300, top)
    with pytest.raises(ValueError, match=f"{name}: nothing to write"):
        run(scene, tmp_path / name, area=area)
    assert not (tmp_path / name).exists()
    assert not (tmp_path / f"{name}.parts").exists()


def field(scene, size):
    with rasterio.open(scene) as dataset:
        left, top, crs = dataset.transform.c + 333, dataset.transform.f - 333, dataset.crs.to_string()
    ring = [(left, top), (left + size, top), (left + size, top - size), (left, top - size), (left, top)]
    return {"type": "Polygon", "coordinates": [ring]}, crs


@pytest.mark.parametrize("name", ["chips.tif", "chips.parquet"])
def test_a_field_smaller_than_a_cell_gives_the_cell_that_holds_it(scene, name):
    area, crs = field(scene, 20)
    path = scene.with_name(name)
    if name == "chips.tif":
        predict_scene(classifier(), processor(do_resize=False), scene, path, area=area, area_crs=crs, progress=False)
        assert (read(path) != 255).sum() == 1
    else:
        from pyarrow.parquet import read_table

        embed(scene, path, area=area, area_crs=crs)
        assert len(read_table(path)) == 1


def test_features_beyond_half_precision_end_at_its_largest_number_with_a_warning(scene):
    model = encoder()
    model.layernorm.weight.data *= 1e5
    with pytest.warns(UserWarning, match="65,504"):
        path = embed_scene(model, processor(), scene, scene.with_name("features.tif"), progress=False)
    features = read(path)
    assert np.nanmax(np.abs(features)) == 65504
    whole = read(embed_scene(model, processor(), scene, scene.with_name("whole.tif"), dtype="float32", progress=False))
    assert np.nanmax(np.abs(whole)) > 65504
    np.testing.assert_allclose(features, np.clip(whole, -65504, 65504), rtol=1e-3)


def test_a_model_of_one_class_maps_where_its_probability_reaches_the_threshold(scene):
    model = segmenter(num_labels=1)
    options = {"layers": ["probabilities"], "progress": False}
    path = predict_scene(model, processor(), scene, scene.with_name("map.tif"), **options)
    below, above = read(scene.with_name("map_probabilities.tif"))
    np.testing.assert_allclose(below + above, 1, atol=1e-3)
    clear = abs(above - 0.5) > 1e-3
    np.testing.assert_array_equal(read(path)[0][clear], (above >= 0.5)[clear])
    threshold = float(np.median(above))
    path = predict_scene(model, processor(), scene, scene.with_name("half.tif"), threshold=threshold, progress=False)
    assert 0.3 < read(path).mean() < 0.7
    with pytest.raises(ValueError, match="threshold"):
        predict_scene(segmenter(), processor(), scene, scene.with_name("other.tif"), threshold=0.5)


@pytest.mark.parametrize("run", [predict, embed])
def test_bands_in_another_order_than_the_weights_expect_are_refused(scene, run):
    own = processor(bands=list(reversed(processor().bands)))
    model = {predict: segmenter, embed: encoder}[run]()
    scene_of = {predict: predict_scene, embed: embed_scene}[run]
    with pytest.raises(ValueError, match="in the same order"):
        scene_of(model, own, scene, scene.with_name("map.tif"), progress=False)


def test_statistics_of_each_tile_are_measured_though_the_processor_has_some_saved(scene):
    saved = processor().measure_statistics(scene)
    own = processor(statistics=saved, statistics_scope="given")
    options = {"statistics_scope": "tile", "layers": ["probabilities"], "progress": False}
    maps = []
    for number, each in enumerate((processor(), own)):
        path = scene.with_name(f"map{number}.tif")
        with pytest.warns(UserWarning, match="seams"):
            predict_scene(segmenter(), each, scene, path, **options)
        maps.append(read(path.with_name(f"map{number}_probabilities.tif")))
    np.testing.assert_array_equal(*maps)


def test_a_raster_whose_rows_run_up_has_counter_clockwise_footprints(scene):
    from pyarrow.parquet import read_table

    with rasterio.open(scene) as dataset:
        pixels, profile, names = dataset.read(), dataset.profile, dataset.descriptions
    a, b, c, d, e, f = tuple(profile["transform"])[:6]
    profile |= {"transform": type(profile["transform"])(a, b, c, d, -e, f + e * profile["height"])}
    upside = scene.with_name("upside.tif")
    with rasterio.open(upside, "w", **profile) as dataset:
        dataset.write(pixels[:, ::-1])
        dataset.descriptions = names
    embed(upside, scene.with_name("chips.parquet"))
    ring = np.frombuffer(read_table(scene.with_name("chips.parquet"))["geometry"][0].as_py()[13:]).reshape(5, 2)
    (x, y), (next_x, next_y) = ring[:-1].T, ring[1:].T
    assert (x * next_y - next_x * y).sum() > 0


def test_the_threads_of_a_stalled_read_do_not_hold_up_ctrl_c(tmp_path):
    script = """
import os, signal, threading, time
from threads import ordered_map
# A shell may have started the tests with this signal ignored, which children inherit.
signal.signal(signal.SIGINT, signal.default_int_handler)
threading.Timer(0.5, os.kill, (os.getpid(), signal.SIGINT)).start()
list(ordered_map(lambda _: time.sleep(60), range(2), 2, 2))
"""
    # The module stands alone, and importing it so costs no transformers.
    folder = Path(threads.__file__).parent
    result = subprocess.run([sys.executable, "-c", script], cwd=folder, capture_output=True, text=True, timeout=50)
    assert "KeyboardInterrupt" in result.stderr
