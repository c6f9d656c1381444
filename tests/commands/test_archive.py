"""Archives on Ray: hostile scenes, killed workers, repetition, another checkpoint."""

import json
import os
import signal
import sys
import threading
import time
from pathlib import Path

import geopandas
import psutil
import pyarrow.parquet as pq
import pytest

from spectralgpt_hf import SpectralGPTImageProcessor
from spectralgpt_hf.commands.archive import COLLECTION, MOSAIC, SUMMARY, run_archive
from spectralgpt_hf.inference.archive_run import KILLED, SceneWorker
from tests.inference.scenes import encoder, segmenter, write_scene
from tests.stac import problems


HOSTILE = ("scene03", "scene11", "scene27")  # truncated, raises in the model, kills its worker


class Hostile(SceneWorker):
    """Notes every scene that it computes, raises at one of them, and dies at another."""

    def work(self, source, destination):
        if source.stem == HOSTILE[2]:
            os.kill(os.getpid(), signal.SIGKILL)
        status = super().work(source, destination)
        if status[0] == "done":
            with Path(destination.parent.parent / "computed.txt").open("a") as notes:
                notes.write(f"{source.stem}\n")
        return status

    def __call__(self, row):
        if row["name"].endswith(f"{HOSTILE[1]}.tif"):
            model, _ = self.load()
            hook = model.register_forward_hook(lambda *_: 1 / 0)
            try:
                return super().__call__(row)
            finally:
                hook.remove()
        return super().__call__(row)


def write_archive(folder, count, **options):
    (folder / "scenes").mkdir()
    for number in range(count):
        write_scene(folder / "scenes" / f"scene{number:02}.tif", left=5 * number, **options)
    segmenter().save_pretrained(folder / "checkpoint")
    SpectralGPTImageProcessor().save_pretrained(folder / "checkpoint")


@pytest.fixture
def on_ray(monkeypatch):
    monkeypatch.setenv("RAY_worker_niceness", "0")  # else a busy machine leaves the workers no time


def run(folder, kind="embed", **options):
    return run_archive(kind, str(folder / "checkpoint"), folder / "scenes", folder / "out", **options)


def computed(folder):
    notes = folder / "computed.txt"
    return notes.read_text().split() if notes.exists() else []


def kill_one_worker(folder):
    """Kill a worker once there are a few results."""
    while len(list((folder / "out").glob("*.parquet"))) < 4:
        time.sleep(0.05)
    workers = [p for p in psutil.process_iter(["cmdline"]) if "SceneWorker" in " ".join(p.info["cmdline"] or [])]
    workers = workers or [p for p in psutil.process_iter(["name", "cmdline"]) if "Hostile" in str(p.info)]
    mine = [p for p in workers if os.getpid() in {parent.pid for parent in p.parents()}]
    if mine:
        mine[0].send_signal(signal.SIGKILL)
        (folder / "killed").touch()


@pytest.mark.slow
def test_forty_scenes_on_two_workers_three_of_them_hostile_and_one_worker_killed(tmp_path, on_ray, capsys):
    write_archive(tmp_path, 40, width=64, height=64)
    bad = tmp_path / "scenes" / f"{HOSTILE[0]}.tif"
    bad.write_bytes(bad.read_bytes()[:3000])
    killer = threading.Thread(target=kill_one_worker, args=(tmp_path,), daemon=True)
    killer.start()
    started = time.monotonic()
    results = run(tmp_path, suffix=".parquet", workers=2, worker=Hostile)
    assert time.monotonic() - started < 900
    assert (tmp_path / "killed").exists()
    summary = pq.read_table(tmp_path / "out" / SUMMARY).to_pylist()
    assert len(summary) == len(results) == 40
    failed = {Path(row["source"]).stem: row for row in summary if row["status"] == "failed"}
    assert sorted(failed) == sorted(HOSTILE)
    assert {row["attempts"] for row in failed.values()} == {3}
    assert HOSTILE[0] in failed[HOSTILE[0]]["reason"]
    assert failed[HOSTILE[1]]["reason"] == "ZeroDivisionError: division by zero"
    assert failed[HOSTILE[2]]["reason"] == KILLED
    tables = sorted((tmp_path / "out").glob("scene*.parquet"))
    assert len(tables) == 37
    assert sum(len(geopandas.read_parquet(table)) for table in tables) == 37 * 4
    assert problems(json.loads((tmp_path / "out" / COLLECTION).read_text()), "embeddings") == []

    times = {table: table.stat().st_mtime_ns for table in tables}
    (tmp_path / "computed.txt").unlink()
    again = run(tmp_path, suffix=".parquet", workers=2, worker=Hostile)
    assert sum(row["status"] == "there already" for row in again) == 37
    assert computed(tmp_path) == []
    assert {table: table.stat().st_mtime_ns for table in tables} == times

    encoder(seed=1).save_pretrained(tmp_path / "checkpoint")
    last = run(tmp_path, suffix=".parquet", workers=2, worker=Hostile)
    assert sum(row["status"] == "done" for row in last) == len(computed(tmp_path)) == 37
    weights = {pq.read_schema(table).metadata[b"weights"] for table in tables}
    assert len(weights) == 1


@pytest.mark.slow
def test_throughput_of_two_workers_against_one_is_printed(tmp_path, on_ray, capsys):
    write_archive(tmp_path, 8, width=256, height=256)
    rates = {}
    for workers in (1, 2):
        folder = tmp_path / f"out{workers}"
        started = time.monotonic()
        results = run_archive(
            "embed", str(tmp_path / "checkpoint"), tmp_path / "scenes", folder, suffix=".parquet", workers=workers
        )
        assert {row["status"] for row in results} == {"done"}
        rates[workers] = sum(row["km2"] for row in results) / (time.monotonic() - started)
    with capsys.disabled():
        sys.stdout.write(
            f"\n{rates[1]:.2f} km2/s with one worker, {rates[2]:.2f} with two: x {rates[2] / rates[1]:.2f}\n"
        )
    assert rates[2] > 0


@pytest.mark.slow
def test_maps_of_an_archive_become_a_mosaic(tmp_path, on_ray):
    write_archive(tmp_path, 3, width=64, height=64)
    results = run(tmp_path, "predict", workers=2, grid="EPSG:3857", resolution=20)
    assert {row["status"] for row in results} == {"done"}
    assert (tmp_path / "out" / MOSAIC).is_file()
    collection = json.loads((tmp_path / "out" / COLLECTION).read_text())
    assert [link["href"] for link in collection["links"] if link["rel"] == "item"] == [
        f"./scene{number:02}.tif.stac.json" for number in range(3)
    ]


def test_what_cannot_be_run_is_said_before_ray_starts(tmp_path):
    write_archive(tmp_path, 1)
    with pytest.raises(ValueError, match="expected both or neither"):
        run(tmp_path, grid="EPSG:3857")
    with pytest.raises(ValueError, match="not tables"):
        run(tmp_path, suffix=".parquet", grid="EPSG:3857", resolution=10)
    with pytest.raises(ValueError, match="EPSG:3857, got 'nonsense'"):
        run(tmp_path, grid="nonsense", resolution=10)
    with pytest.raises(ValueError, match=r"`gpus`: expected at most the .* got 99"):
        run(tmp_path, gpus=99)
    with pytest.raises(FileNotFoundError, match="found none"):
        run_archive("embed", str(tmp_path / "checkpoint"), tmp_path / "nothing", tmp_path / "out")
    with pytest.raises((FileNotFoundError, ValueError), match="checkpoint"):
        run_archive("embed", str(tmp_path / "chekpoint"), tmp_path / "scenes", tmp_path / "out")
