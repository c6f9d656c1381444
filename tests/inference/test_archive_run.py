"""Workers of archives, without Ray; `commands/test_archive.py` runs them on it."""

import json
import os
import shutil
from dataclasses import replace
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import rasterio
from rasterio.warp import transform_bounds

from spectralgpt_hf import SpectralGPTImageProcessor
from spectralgpt_hf.inference.archive_run import (
    TAG,
    Job,
    SceneWorker,
    identify,
    plan,
    refuse_other_checkpoints,
    remove_outdated,
    split_finished,
)
from spectralgpt_hf.inference.archive_sources import find_sources
from spectralgpt_hf.inference.stac_items import item_path
from tests.stac import problems

from .scenes import encoder, segmenter, write_scene


@pytest.fixture
def archive(tmp_path):
    (tmp_path / "scenes").mkdir()
    for number in range(3):
        write_scene(tmp_path / "scenes" / f"scene{number}.tif", left=20 * number, width=64, height=40)
    segmenter().save_pretrained(tmp_path / "checkpoint")
    SpectralGPTImageProcessor().save_pretrained(tmp_path / "checkpoint")
    (tmp_path / "out").mkdir()
    return tmp_path


def job_of(archive, kind="embed", **options):
    checkpoint, revision, identity = identify(str(archive / "checkpoint"))
    return Job(kind, checkpoint, revision, identity, "cpu", **options)


def rows_of(archive, suffix=".parquet"):
    return plan(find_sources(archive / "scenes"), archive / "out", suffix)


def statuses(results):
    return [result["status"] for result in results]


@pytest.mark.parametrize("suffix", [".parquet", ".tif"])
def test_the_fingerprint_in_a_file_says_that_it_is_finished(archive, suffix):
    job, rows = job_of(archive), rows_of(archive, suffix)
    assert split_finished(rows, job) == ([], rows)
    worker = SceneWorker(job)
    assert statuses(map(worker, rows[:2])) == ["done", "done"]
    finished, left = split_finished(rows, job)
    assert statuses(finished) == ["there already"] * 2
    assert left == rows[2:]
    assert worker(rows[0])["status"] == "there already"
    assert finished[0]["km2"] == pytest.approx(0.64 * 0.40, rel=0.01)


@pytest.mark.parametrize("change", ["checkpoint", "options", "processor", "source", "dtype"])
def test_another_checkpoint_option_or_source_is_done_anew(archive, change):
    rows = rows_of(archive)[:1]
    assert SceneWorker(job_of(archive))(rows[0])["status"] == "done"
    job = job_of(archive)
    if change == "checkpoint":
        encoder(seed=1).save_pretrained(archive / "checkpoint")
        job = job_of(archive)
    elif change == "source":
        write_scene(archive / "scenes" / "scene0.tif", left=7, width=64, height=40)
    else:
        values = {"options": {"stride": 16}, "processor": {"missing_bands": "mean"}, "dtype": {"dtype": "float16"}}
        name = "options" if change == "dtype" else change
        job = replace(job, **{name: values[change]})
    assert split_finished(rows, job) == ([], rows)
    before = Path(rows[0]["destination"]).read_bytes()
    assert SceneWorker(job)(rows[0])["status"] == "done"
    assert before != Path(rows[0]["destination"]).read_bytes()


@pytest.mark.parametrize("start", ["s3:/", "/vsis3", "http"])
def test_a_remote_source_is_done_anew_when_it_changes_and_not_for_another_signature(
    archive, file_server, monkeypatch, start
):
    settings = {"S3_ENDPOINT": file_server.removeprefix("http://"), "HTTPS": "NO", "VIRTUAL_HOSTING": "FALSE"}
    for name, value in {**settings, "NO_SIGN_REQUEST": "YES"}.items():
        monkeypatch.setenv(f"AWS_{name}", value)
    monkeypatch.setenv("CPL_VSIL_CURL_NON_CACHED", f"/vsis3/:/vsicurl/{file_server}")
    scene = archive / "scenes" / "scene0.tif"
    address = f"{file_server if start == 'http' else start}/scenes/scene0.tif"
    signed = [f"{address}?sig={number}" if start == "http" else address for number in range(2)]
    job, (row, again) = job_of(archive), (plan(find_sources(url), archive / "out", ".parquet")[0] for url in signed)
    result = SceneWorker(job)(row)
    assert result["status"] == "done", result["reason"]
    assert statuses(split_finished([again], job)[0]) == ["there already"]
    before = Path(row["destination"]).read_bytes()
    write_scene(scene, left=7, width=64, height=48)
    os.utime(scene, (1_000_000, 1_000_000))
    assert split_finished([row], job) == ([], [row])
    assert SceneWorker(job)(row)["status"] == "done"
    assert Path(row["destination"]).read_bytes() != before


def test_a_file_of_another_origin_is_replaced_only_when_asked(archive):
    row = rows_of(archive)[0]
    shutil.copy(archive / "scenes" / "scene0.tif", row["destination"])
    result = SceneWorker(job_of(archive))(row)
    assert result["status"] == "failed"
    assert "exists" in result["reason"]
    assert SceneWorker(job_of(archive, overwrite=True))(row)["status"] == "done"
    assert TAG.encode() in pq.read_schema(row["destination"]).metadata


class Broken(SceneWorker):
    """Raises in the model."""

    def load(self):
        model, processor = super().load()
        model.register_forward_hook(lambda *_: 1 / 0)
        return model, processor


def test_results_of_another_checkpoint_do_not_stay_beside_those_of_this_one(archive):
    rows, job = rows_of(archive), job_of(archive)
    assert statuses(map(SceneWorker(job), rows)) == ["done"] * 3
    scenes = archive / "scenes"
    (scenes / "scene0.tif").rename(archive / "away.tif")
    failed = [SceneWorker(job)(row) for row in rows[:1]]
    remove_outdated(failed, job)
    assert Path(rows[0]["destination"]).is_file()  # the source may be back tomorrow

    encoder(seed=1).save_pretrained(archive / "checkpoint")
    job = job_of(archive)
    results = [SceneWorker(job)(rows[0]), Broken(job)(rows[1]), SceneWorker(job)(rows[2])]
    assert statuses(results) == ["failed", "failed", "done"]
    (archive / "out" / "mine.txt").touch()
    remove_outdated(results, job)
    assert sorted(path.name for path in (archive / "out").glob("[!.]*") if path.is_file()) == [
        "mine.txt",
        "scene2.parquet",
        "scene2.parquet.stac.json",
    ]


def test_results_of_another_checkpoint_are_no_neighbours_of_those_of_this_one(archive):
    rows, job, output = (
        rows_of(archive, ".tif"),
        job_of(archive, "predict", options={"layers": ["entropy"]}),
        archive / "out",
    )
    assert statuses(map(SceneWorker(job), rows[:2])) == ["done"] * 2
    (output / "mine.tif").write_bytes((archive / "scenes" / "scene0.tif").read_bytes())
    refuse_other_checkpoints(output, ".tif", rows[2:], job)
    refuse_other_checkpoints(output, ".tif", rows[2:], job_of(archive, "predict"))  # another region, for example
    segmenter(seed=1).save_pretrained(archive / "checkpoint")
    job = job_of(archive, "predict")
    refuse_other_checkpoints(output, ".tif", rows, job)  # they will be done anew
    refuse_other_checkpoints(output, ".parquet", rows_of(archive), job)
    with pytest.raises(ValueError, match=r"found 2 of another one, such as scene1\.tif, whose scenes are not among"):
        refuse_other_checkpoints(output, ".tif", rows[::2], job)


def test_layers_of_an_earlier_run_do_not_stay_beside_a_map(archive):
    row = rows_of(archive, ".tif")[0]
    assert SceneWorker(job_of(archive, "predict", options={"layers": ["entropy"]}))(row)["status"] == "done"
    assert (archive / "out" / "scene0_entropy.tif").is_file()
    assert SceneWorker(job_of(archive, "predict"))(row)["status"] == "done"
    assert not (archive / "out" / "scene0_entropy.tif").exists()
    assert (archive / "out" / "scene0.qml").is_file()


def test_whatever_a_scene_raises_is_its_reason(archive):
    (archive / "scenes" / "scene0.tif").write_bytes(b"II*\0 truncated")
    worker = Broken(job_of(archive))
    results = [worker(row) for row in rows_of(archive)]
    assert statuses(results) == ["failed"] * 3
    assert "scene0.tif" in results[0]["reason"]
    assert results[1]["reason"] == "ZeroDivisionError: division by zero"
    assert not os.path.exists(results[1]["destination"])


def test_maps_carry_the_fingerprint_and_have_an_item(archive):
    row = rows_of(archive, ".tif")[0]
    result = SceneWorker(job_of(archive, "predict"))(row)
    assert result["status"] == "done", result["reason"]
    with rasterio.open(row["destination"]) as dataset:
        assert dataset.tags()[TAG]
    item = json.loads(item_path(archive / "out" / "scene0.tif").read_text())
    assert "classes" in item["assets"]
    del item["assets"]["classes"]
    item["assets"]["embeddings"] = {"href": "x"}
    item["stac_extensions"].append("https://stac-extensions.github.io/embeddings/v0.0.1/schema.json")
    assert problems(item, "embeddings") == []  # all but the asset's name is sound STAC


def test_the_item_of_a_map_of_a_region_has_its_extent(archive):
    with rasterio.open(archive / "scenes" / "scene0.tif") as scene:
        left, bottom, _, top = scene.bounds
        area = [left, bottom, left + 320, top]
        expected = transform_bounds(scene.crs, "EPSG:4326", *area)
    row = rows_of(archive, ".tif")[0]
    result = SceneWorker(job_of(archive, "predict", options={"area": area}))(row)
    assert result["status"] == "done", result["reason"]
    item = json.loads(item_path(Path(row["destination"])).read_text())
    assert item["bbox"] == pytest.approx(expected, abs=1e-7)


def test_a_map_without_its_item_is_not_finished(archive):
    job, row = job_of(archive, "predict"), rows_of(archive, ".tif")[0]
    item = item_path(Path(row["destination"]))
    assert SceneWorker(job)(row)["status"] == "done"
    item.unlink()  # as if the worker had been killed between the two
    assert split_finished([row], job) == ([], [row])
    assert SceneWorker(job)(row)["status"] == "done"
    assert item.is_file()
