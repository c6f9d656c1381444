import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from multiprocessing import get_context
from threading import RLock

import numpy as np
import pytest
import rasterio
from affine import Affine
from tqdm.auto import tqdm

from spectralgpt_hf.assets import SAMPLE
from spectralgpt_hf.data import load_shards, prepare_shards
from spectralgpt_hf.data.readers.bigearthnet import BIGEARTHNET_19_CLASSES
from spectralgpt_hf.data.shards import prepare
from spectralgpt_hf.modeling.bands import BANDS, BIGEARTHNET_BANDS, EUROSAT_FILE_BANDS, L1C_BANDS, L2A_BANDS
from spectralgpt_hf.modeling.rasters import read_raster

from ..files import UTM, numbered_bands, write_image
from ..readers.test_bigearthnet import V1_PATCHES, version_1, version_2  # noqa: F401, fixtures
from ..readers.test_eurosat import eurosat  # noqa: F401
from ..readers.test_fmow import fmow  # noqa: F401


def write_scene(path, pixels, bands=("B2", "B3", "B4"), **profile):
    """Write a GeoTIFF whose bands have names."""
    write_image(path, pixels, **{**UTM, **profile})
    with rasterio.open(path, "r+") as file:
        file.descriptions = bands
    return path


def report_of(folder):
    return json.loads((folder / "report.json").read_text())


def digests(folder):
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted((folder / "data").iterdir())}


def pixels_of(folder, split="train"):
    return {row["id"]: row["pixels"] for row in load_shards(folder, split)}


def test_scenes_become_chips_where_they_lie(tmp_path):
    folder = prepare_shards(SAMPLE, tmp_path / "shards", size=192, num_workers=1)
    dataset = load_shards(folder)
    assert dataset["id"][:] == [f"sample_{top}_{left}" for top in (0, 192, 320) for left in (0, 192, 320)]
    row, window = dataset[5], read_raster(SAMPLE, window=(320, 192, 192, 192))
    assert (row["pixels"] == window.pixels).all()
    assert (tuple(row["bands"]), row["crs"], row["offset"]) == (L1C_BANDS, "EPSG:32618", None)
    assert row["transform"] == list(window.transform)[:6]


def test_chips_without_data_are_left_out_and_counted(tmp_path):
    pixels = numbered_bands(3, 64, 160)
    pixels[:, :, :90] = 0
    scene = write_scene(tmp_path / "scene.tif", pixels)
    folder = prepare_shards(scene, tmp_path / "shards", size=64, stride=48, num_workers=1)
    assert report_of(folder)["left_out"] == [{"id": "scene_0_0", "valid": 0.0}, {"id": "scene_0_48", "valid": 0.3438}]
    assert list(pixels_of(folder)) == ["scene_0_96"]
    folder = prepare_shards(scene, tmp_path / "more", size=64, stride=48, min_valid=0.3, num_workers=1)
    assert (pixels_of(folder)["scene_0_48"] == pixels[:, :, 48:112]).all()
    assert report_of(folder)["rows"] == {"train": 2}


def test_a_scene_smaller_than_a_chip_gives_one_of_its_own_size(tmp_path):
    scene = write_scene(tmp_path / "scene.tif", numbered_bands(3, 50, 60))
    folder = prepare_shards(scene, tmp_path / "shards", bands=["B4", "blue"], num_workers=1)
    (row,) = load_shards(folder)
    assert (row["pixels"].shape, row["bands"]) == ((2, 50, 60), ["B4", "B2"])


def test_stated_offsets_are_kept_beside_the_stored_pixels(tmp_path):
    scene = write_scene(tmp_path / "scene_2023-05-06.tif", numbered_bands(3, 8))
    with rasterio.open(scene, "r+") as file:
        file.scales, file.offsets = (1e-4,) * 3, (-0.1,) * 3
    (row,) = load_shards(prepare_shards(scene, tmp_path / "shards", num_workers=1))
    assert (row["pixels"] == numbered_bands(3, 8)).all()
    assert (row["offset"], row["date"]) == ([-1000.0] * 3, "2023-05-06")


def test_values_that_do_not_fit_are_rounded_clipped_and_counted(tmp_path):
    pixels = np.full((3, 4, 4), 1000, np.float32)
    pixels[:, 0, 0] = np.nan
    pixels[:, 1, 0] = 99.5, 100.5, 100.51
    pixels[:, 2, 0] = -20, 70000, 5
    pixels[:, 3, 0] = -3, 0.2, 0  # data, though nothing is left of it
    folder = prepare_shards(write_scene(tmp_path / "scene.tif", pixels), tmp_path / "shards", num_workers=1)
    (read,) = pixels_of(folder).values()
    assert read[:, :, 0].T.tolist() == [[0, 0, 0], [100, 100, 101], [0, 65535, 5], [1, 0, 0]]
    assert report_of(folder)["clipped_values"] == 3


def test_reflectances_are_not_rounded_to_nothing(tmp_path):
    pixels = np.random.default_rng(0).random((3, 8, 8), np.float32)
    scene = write_scene(tmp_path / "scene.tif", pixels)
    with pytest.raises(ValueError, match=r"no samples to write\. 1 files could not be read.*pass `scale=10000`"):
        prepare_shards(scene, tmp_path / "shards", num_workers=1)
    (read,) = pixels_of(prepare_shards(scene, tmp_path / "shards", scale=10000, num_workers=1)).values()
    np.testing.assert_allclose(read, pixels * 10000, atol=0.51)


def test_files_that_cannot_be_read_are_listed_and_the_others_kept(tmp_path):
    images = tmp_path / "images"
    for name in ("a/one", "b/one", "b/two"):
        write_scene(images / f"{name}.tif", numbered_bands(3, 40))
    good = (images / "b/two.tif").read_bytes()
    (images / "b/truncated.tiff").write_bytes(good[: len(good) // 2])
    write_image(images / "nameless.tif", numbered_bands(3, 8), **UTM)
    with pytest.warns(UserWarning, match=r"2 files could not be read, 0 samples hold too little data: .*report\.json"):
        folder = prepare_shards(images, tmp_path / "shards", "folder", num_workers=1)
    assert set(pixels_of(folder)) == {"a/one", "b/one", "b/two"}
    unreadable = {entry["file"]: entry for entry in report_of(folder)["unreadable"]}
    assert set(unreadable) == {"b/truncated.tiff", "nameless.tif"}
    assert unreadable["nameless.tif"]["samples"] == ["nameless"]
    assert "expected bands with names, found none" in unreadable["nameless.tif"]["reason"]
    assert str(tmp_path) not in (folder / "report.json").read_text() + (folder / "README.md").read_text()


def test_nothing_readable_is_an_error(tmp_path):
    (tmp_path / "scene.tif").write_bytes(b"no raster")
    with pytest.raises(ValueError, match=r"no samples to write. 1 files .*scene\.tif: cannot be read"):
        prepare_shards(tmp_path / "scene.tif", tmp_path / "shards")
    with pytest.raises(FileNotFoundError, match="expected a folder with GeoTIFFs"):
        prepare_shards(tmp_path / "nowhere", tmp_path / "shards", "folder")


def test_scenes_are_held_out_whole_and_one_large_scene_never_stands_for_a_share(tmp_path):
    scenes = [write_scene(tmp_path / f"small{i}.tif", numbered_bands(3, 16)) for i in range(9)]
    scenes.append(write_scene(tmp_path / "large.tif", numbered_bands(3, 64)))
    for seed in range(3):
        folder = prepare_shards(
            scenes, tmp_path / str(seed), size=16, validation_share=0.2, seed=seed, num_workers=1, stride=8
        )
        train, validation = (set(pixels_of(folder, split)) for split in ("train", "validation"))
        of_train, of_validation = ({name.split("_")[0] for name in names} for names in (train, validation))
        assert not of_train & of_validation
        assert "large" in of_train
        assert len(of_validation) == 2


@pytest.mark.parametrize(
    ("name", "options", "bands", "ids"),
    [
        ("version_1", {"dataset": "bigearthnet-v1", "splits": ["train", "val"]}, BIGEARTHNET_BANDS, [1, 2]),
        ("version_1", {"dataset": "bigearthnet-v1", "splits": ["all"]}, BIGEARTHNET_BANDS, [3]),
        ("version_2", {"dataset": "bigearthnet-v2", "splits": ["train", "validation"]}, BIGEARTHNET_BANDS, [2, 1]),
        ("eurosat", {"dataset": "eurosat", "splits": ["train", "validation"]}, EUROSAT_FILE_BANDS, [2, 1]),
        ("fmow", {"dataset": "fmow", "splits": ["train", "test"]}, L1C_BANDS, [2, 1]),
    ],
)
@pytest.mark.filterwarnings("ignore:1 files could not be read")
def test_datasets_keep_their_splits_labels_and_bands(request, tmp_path, name, options, bands, ids):
    folder = prepare_shards(request.getfixturevalue(name), tmp_path / "shards", num_workers=1, **options)
    rows = report_of(folder)["rows"]
    assert list(rows.values()) == ids
    assert set(rows) <= {"train", "validation", "test"}
    for split in rows:
        dataset = load_shards(folder, split)
        assert all(tuple(found) == bands for found in dataset["bands"])
        assert {"label", "labels"} & set(dataset.features)


def test_bigearthnet_rows_hold_what_the_reader_gives(tmp_path, shared_data):
    names = sorted(path.name for path in (shared_data / "bigearthnet").iterdir())
    folder = prepare_shards(
        shared_data / "bigearthnet", tmp_path / "shards", "bigearthnet-v1", splits=["all"], num_workers=1
    )
    dataset = load_shards(folder)
    assert sorted(dataset["id"]) == names
    assert dataset.features["labels"].feature.names == list(BIGEARTHNET_19_CLASSES)
    row = next(row for row in dataset if row["id"] == V1_PATCHES[0])
    direct = read_raster(shared_data / "bigearthnet" / V1_PATCHES[0], BIGEARTHNET_BANDS)
    assert (row["pixels"][[1, 2, 3, 7]] == direct.pixels[[1, 2, 3, 7]]).all()  # 10 m: as stored
    assert np.abs(row["pixels"] - direct.pixels).max() <= 0.5
    assert (row["date"], row["crs"]) == ("2017-06-13", "EPSG:32633")


def test_dates_of_fmow_come_from_its_table(tmp_path, fmow):  # noqa: F811
    with pytest.warns(UserWarning, match="1 files could not be read"):
        folder = prepare_shards(fmow, tmp_path / "shards", "fmow", splits=["train"], num_workers=1)
    assert sorted(load_shards(folder)["date"]) == ["2016-01-06T08:13:42Z", "2018-07-01T10:00:00Z"]
    (missing,) = report_of(folder)["unreadable"]
    assert missing["file"].endswith("multi-unit_residential_3/multi-unit_residential_3_1.tif")


def test_the_order_of_dataset_rows_is_random_and_always_the_same(tmp_path):
    for i in range(20):
        write_scene(tmp_path / f"images/{i:02}.tif", numbered_bands(3, 8) + i)
    first, second = (prepare_shards(tmp_path / "images", tmp_path / name, "folder", num_workers=1) for name in "ab")
    assert list(pixels_of(first)) != sorted(pixels_of(first))
    assert digests(first) == digests(second)


@pytest.fixture(scope="module")
def scenes(tmp_path_factory):
    """Several scenes, enough for a dozen shards."""
    folder = tmp_path_factory.mktemp("scenes")
    generator = np.random.default_rng(0)
    for i in range(12):
        write_scene(folder / f"scene{i:02}.tif", generator.integers(1, 9999, (3, 256, 256), dtype=np.uint16))
    return sorted(folder.iterdir())


def kill_when_a_shard_is_finished(folder, process_id):
    """Kill a run with other shards left to make; return how many are finished."""
    while not list(folder.glob(".progress/*.npz")):
        time.sleep(0.005)
    os.kill(process_id, signal.SIGKILL)
    finished = len(list(folder.glob(".progress/*.npz")))
    assert 0 < finished < 12
    assert not (folder / "data").exists()
    return finished


def prepare_alone(*arguments, **options):
    """Prepare shards in a fork, with a lock of its own for progress bars: killed, it would keep the common one."""
    tqdm.set_lock(RLock())
    prepare_shards(*arguments, **options)


def assert_same_content(folder, other):
    assert digests(folder) == digests(other)
    for name in ("statistics.json", "report.json"):
        assert (folder / name).read_text() == (other / name).read_text()
    assert sorted(path.name for path in folder.iterdir()) == ["README.md", "data", "report.json", "statistics.json"]


def test_a_killed_run_goes_on_and_ends_as_one_that_was_not(scenes, tmp_path):
    options = {"size": 64, "stride": 32, "rows_per_shard": 49, "num_workers": 1}
    whole = prepare_shards(scenes, tmp_path / "whole", **options)
    folder = tmp_path / "killed"
    process = get_context("fork").Process(target=prepare_alone, args=(scenes, folder), kwargs=options)
    process.start()
    finished = kill_when_a_shard_is_finished(folder, process.pid)
    process.join()
    assert process.exitcode == -signal.SIGKILL
    (folder / ".progress" / ".train-00011.parquet.1.part").write_bytes(b"half of it")
    prepare_shards(scenes, folder, **options)
    assert_same_content(folder, whole)
    assert finished < len(digests(folder)) == 12


@pytest.mark.slow  # new processes import everything
def test_killed_workers_end_and_their_number_does_not_matter(scenes, tmp_path):
    options = {"size": 64, "stride": 32, "rows_per_shard": 49, "validation_share": 0.2}
    whole = prepare_shards(scenes, tmp_path / "whole", num_workers=1, **options)
    folder = tmp_path / "killed"
    arguments = ["prepare", *map(str, scenes), str(folder), "--size", "64", "--stride", "32", "--rows_per_shard", "49"]
    arguments += ["--validation_share", "0.2", "--num_workers"]
    command = [sys.executable, "-c", "from spectralgpt_cli import app; app()", *arguments]
    process = subprocess.Popen([*command, "3"], stderr=subprocess.DEVNULL)
    kill_when_a_shard_is_finished(folder, process.pid)
    process.wait()
    output = subprocess.run([*command, "2"], check=True, capture_output=True, text=True).stdout
    assert "98 samples in validation" in output
    assert_same_content(folder, whole)


# Run in the child: its files cannot grow beyond 100 kB, as on a full disk.
FULL = (
    "import resource, signal; resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000)); "
    "signal.signal(signal.SIGXFSZ, signal.SIG_IGN); from spectralgpt_cli import app; app()"
)


@pytest.mark.slow  # new processes import everything
def test_a_full_disk_ends_the_command_with_the_path_and_the_remedy(scenes, tmp_path):
    folder = tmp_path / "shards"
    arguments = ["prepare", *map(str, scenes[:2]), str(folder), "--size", "128", "--num_workers", "1"]
    process = subprocess.run([sys.executable, "-c", FULL, *arguments], capture_output=True, text=True)
    assert process.returncode == 1
    assert "Traceback" not in process.stderr
    message = process.stderr.splitlines()[-1]
    assert re.search(
        r"shards/\.progress/train-00000\.parquet: cannot be written \(File too large\).* Free space", message
    )
    assert sorted(path.name for path in folder.rglob("*")) == [".progress", "plan.json"]
    command = [sys.executable, "-c", "from spectralgpt_cli import app; app()", *arguments]
    subprocess.run(command, check=True, capture_output=True)
    assert len(load_shards(folder)) == 8


@pytest.mark.slow  # new processes import everything
def test_the_second_of_two_commands_is_told_who_writes(scenes, tmp_path):
    folder = tmp_path / "shards"
    arguments = ["prepare", *map(str, scenes), str(folder), "--size", "64", "--stride", "8", "--num_workers", "1"]
    command = [sys.executable, "-c", "from spectralgpt_cli import app; app()", *arguments]
    first = subprocess.Popen(command, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    while not (folder / ".progress" / "plan.json").exists():
        assert first.poll() is None
        time.sleep(0.005)
    with pytest.raises(BlockingIOError, match=rf"shards: process {first.pid} on .* writes it already. Wait until"):
        prepare_shards(scenes, folder, size=64, stride=8, num_workers=1)
    first.kill()
    first.wait()
    assert not (folder / "data").exists()


def test_finished_shards_are_not_made_again(scenes, tmp_path, monkeypatch):
    count, write = [], prepare.write_shard

    def stop_after_two(*arguments):
        if len(count) == 2:
            raise OSError(28, "No space left on device")
        count.append(arguments)
        return write(*arguments)

    options = {"size": 128, "rows_per_shard": 4, "num_workers": 1}
    with monkeypatch.context() as patch:
        patch.setattr(prepare, "write_shard", stop_after_two)
        with pytest.raises(OSError, match="No space left"):
            prepare_shards(scenes[:4], tmp_path / "shards", **options)
    monkeypatch.setattr(prepare, "write_shard", lambda *arguments: count.append(arguments) or write(*arguments))
    folder = prepare_shards(scenes[:4], tmp_path / "shards", **options)
    assert len(count) == 4
    prepare_shards(scenes[:4], tmp_path / "shards", **options)
    assert len(count) == 4
    assert len(load_shards(folder)) == 16


def test_a_folder_of_something_else_is_left_alone(scenes, tmp_path):
    folder = prepare_shards(scenes[0], tmp_path / "shards", size=128, num_workers=1)
    with pytest.raises(ValueError, match="holds shards of other sources or options"):
        prepare_shards(scenes[0], folder, size=64, num_workers=1)
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "notes.txt").write_text("mine")
    with pytest.raises(ValueError, match="expected an empty or a new folder"):
        prepare_shards(scenes[0], tmp_path / "notes", num_workers=1)
    shutil.move(folder, tmp_path / "moved")
    assert prepare_shards(scenes[0], tmp_path / "moved", size=128) == tmp_path / "moved"


def test_statistics_lie_beside_the_shards(tmp_path):
    folder = prepare_shards(SAMPLE, tmp_path / "shards", size=256, num_workers=1)
    measured = json.loads((folder / "statistics.json").read_text())["train"]
    pixels = read_raster(SAMPLE)
    values = pixels.pixels[:, pixels.valid]
    assert measured["bands"] == list(L1C_BANDS)
    np.testing.assert_allclose(measured["mean"], values.mean(1, dtype=float), rtol=1e-9)
    np.testing.assert_allclose(measured["percentile_99"], np.percentile(values, 99, axis=1))


def test_a_folder_of_one_file_per_band_is_one_image(tmp_path, shared_data):
    folder = prepare_shards(shared_data / "ssl4eo_s12" / "s2a", tmp_path / "shards", "folder", num_workers=1)
    dataset, dates = load_shards(folder), sorted((shared_data / "ssl4eo_s12" / "s2a" / "0000200").iterdir())
    assert sorted(dataset["id"]) == [f"0000200/{date.name}" for date in dates]
    row = next(row for row in dataset if row["id"].endswith(dates[0].name))
    assert (tuple(row["bands"]), row["pixels"].shape) == (tuple(read_raster(dates[0]).band_names), (12, 264, 264))
    # One such folder is a scene, and the folder of all dates is cut scene by scene.
    chips = prepare_shards(shared_data / "ssl4eo_s12", tmp_path / "chips", size=264, bands=["B4"], num_workers=1)
    assert len(load_shards(chips)) == len(list((shared_data / "ssl4eo_s12").glob("*/*/*")))
    assert len(load_shards(prepare_shards(dates[0], tmp_path / "one", size=264, num_workers=1))) == 1


def test_scenes_below_a_folder_are_found(tmp_path):
    for name in ("a", "deeper/b"):
        write_scene(tmp_path / "scenes" / f"{name}.tif", numbered_bands(3, 16))
    folder = prepare_shards(tmp_path / "scenes", tmp_path / "shards", size=16, num_workers=1)
    assert set(pixels_of(folder)) == {"a_0_0", "b_0_0"}


def test_arrays_are_images_where_their_bands_are_named(tmp_path):
    (tmp_path / "arrays").mkdir()
    np.save(tmp_path / "arrays" / "a.npy", numbered_bands(3, 16))
    with pytest.raises(FileNotFoundError, match=r"a\.npy, pass `band_names`"):
        prepare_shards(tmp_path / "arrays", tmp_path / "shards", "folder", num_workers=1)
    names = ["B2", "B3", "B4"]
    folder = prepare_shards(tmp_path / "arrays", tmp_path / "shards", "folder", band_names=names, num_workers=1)
    assert (pixels_of(folder)["a"] == numbered_bands(3, 16)).all()


def test_of_sen12ms_the_optical_images_are_taken(tmp_path):
    for kind, count in {"s1": 2, "s2": 13, "lc": 4}.items():
        path = tmp_path / "sen12ms" / "ROIs1158_spring" / f"{kind}_1" / f"ROIs1158_spring_{kind}_1_p30.tif"
        write_image(path, numbered_bands(count, 16), **UTM)
    folder = prepare_shards(tmp_path / "sen12ms", tmp_path / "shards", "folder", band_names=L1C_BANDS, num_workers=1)
    assert list(pixels_of(folder)) == ["ROIs1158_spring/s2_1/ROIs1158_spring_s2_1_p30"]
    assert report_of(folder)["unreadable"] == []


def test_patches_of_seasonet_are_read_by_their_groups_of_bands(tmp_path):
    groups = {"10m_RGB": "B4 B3 B2", "10m_IR": "B8", "20m": "B5 B6 B7 B8A B11 B12", "60m": "B1 B9"}
    sides = {"10m_RGB": 120, "10m_IR": 120, "20m": 60, "60m": 20}
    for number in range(2):
        name = f"32UND_20180505T103021_52_996058_9_08023{number}"
        folder = tmp_path / "SeasoNet" / "spring" / "grid1" / name
        for group, bands in groups.items():
            values = [1000 + 10 * L1C_BANDS.index(band) + number for band in bands.split()]
            pixels = np.broadcast_to(np.array(values, np.uint16)[:, None, None], (len(values), *[sides[group]] * 2))
            step = 1200 / sides[group]
            write_image(folder / f"{name}_{group}.tif", pixels, **UTM | {"transform": Affine(step, 0, 0, 0, -step, 0)})
        for extra in ("labels", "clouds", "snow"):
            write_image(folder / f"{name}_{extra}.tif", np.full((120, 120), 23, np.uint8), **UTM)
    shards = prepare_shards(tmp_path / "SeasoNet", tmp_path / "shards", "folder", num_workers=1)
    found = pixels_of(shards)
    assert len(found) == 2
    for name, pixels in found.items():
        expected = [1000 + 10 * L1C_BANDS.index(band) + int(name[-1]) for band in L2A_BANDS]
        assert pixels.shape == (12, 120, 120)
        assert pixels[:, 60, 60].tolist() == expected
    assert report_of(shards)["unreadable"] == []


def test_samples_of_major_tom_are_folders_without_their_cloud_mask(tmp_path):
    product = tmp_path / "Core-S2L2A" / "L2A" / "922D" / "922D_249R" / "S2B_MSIL2A_20200223T033739_R061_T48TXR"
    for band in L2A_BANDS:
        step = BANDS[band].resolution
        side = 2640 // step
        pixels = np.full((1, side, side), 1000 + L2A_BANDS.index(band), np.uint16)
        name = f"B{band[1:]:0>2}"
        write_image(product / f"{name}.tif", pixels, **UTM | {"transform": Affine(step, 0, 0, 0, -step, 0)})
    write_image(product / "cloud_mask.tif", np.ones((264, 264), np.uint8), **UTM)
    write_image(product / "thumbnail.png", np.ones((20, 20), np.uint8))
    shards = prepare_shards(tmp_path / "Core-S2L2A", tmp_path / "shards", "folder", num_workers=1)
    ((name, pixels),) = pixels_of(shards).items()
    assert name.endswith("922D_249R/S2B_MSIL2A_20200223T033739_R061_T48TXR")
    assert pixels[:, 100, 100].tolist() == [1000 + number for number in range(12)]


@pytest.mark.parametrize("dataset", ["folder", "scenes"])
def test_hdf5_files_are_refused_with_advice(tmp_path, dataset):
    (tmp_path / "mmearth").mkdir()
    (tmp_path / "mmearth" / "data_1M.h5").write_bytes(b"\x89HDF\r\n\x1a\n")
    with pytest.raises(ValueError, match=r"data_1M\.h5: HDF5 files.* cannot be read, .* Convert each image"):
        prepare_shards(tmp_path / "mmearth", tmp_path / "shards", dataset)
    with pytest.raises(ValueError, match=r"data_1M\.h5: HDF5 files"):
        prepare_shards(tmp_path / "mmearth" / "data_1M.h5", tmp_path / "shards")


def test_wrong_options_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"`dataset` among fmow, .*; got 'landsat'"):
        prepare_shards(SAMPLE, tmp_path / "shards", "landsat")
    with pytest.raises(ValueError, match="eurosat: expected one root, and no band names, size"):
        prepare_shards(SAMPLE, tmp_path / "shards", "eurosat", size=64)
    with pytest.raises(ValueError, match="some that are given twice"):
        prepare_shards([SAMPLE, SAMPLE], tmp_path / "shards")
