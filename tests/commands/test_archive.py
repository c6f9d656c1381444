import os
import signal
from pathlib import Path

import geopandas
import pytest

from spectralgpt_hf import SpectralGPTImageProcessor
from tests.inference.scenes import encoder, write_scene


@pytest.fixture
def archive(tmp_path):
    for number in range(6):
        write_scene(tmp_path / f"scene{number}.tif", left=20 * number, width=64, height=40)
    encoder().save_pretrained(tmp_path / "checkpoint")
    SpectralGPTImageProcessor().save_pretrained(tmp_path / "checkpoint")
    (tmp_path / "vectors").mkdir()
    return tmp_path


def test_only_scenes_without_a_result_are_left(archive):
    from spectralgpt_hf.commands.archive import find_scenes, plan

    scenes = find_scenes([str(archive / "*.tif"), str(archive / "scene3.tif")])
    assert len(scenes) == 6
    (archive / "vectors" / "scene2.parquet").touch()
    rows = plan(scenes, archive / "vectors", ".parquet")
    assert [Path(row["source"]).stem for row in rows] == [f"scene{number}" for number in (0, 1, 3, 4, 5)]


def test_scenes_of_one_name_are_refused(archive):
    from spectralgpt_hf.commands.archive import plan

    with pytest.raises(ValueError, match="Several scenes would be written to"):
        plan(["a/scene.tif", "b/scene.tif"], archive, ".tif")


def test_a_damaged_scene_is_reported_and_the_others_are_embedded(archive):
    from spectralgpt_hf.commands.archive import Embedder

    worker = Embedder(str(archive / "checkpoint"), "cpu", {})
    (archive / "bad.tif").write_bytes(b"no image")
    rows = [
        {"source": str(archive / name), "destination": str(archive / f"{name}.parquet")}
        for name in ("bad.tif", "scene1.tif")
    ]
    statuses = [worker(row)["status"] for row in rows]
    assert statuses[0].startswith("failed: ")
    assert "bad.tif" in statuses[0]
    assert statuses[1] == "embedded"
    assert len(geopandas.read_parquet(rows[1]["destination"])) == 4
    assert worker(rows[1])["status"] == "there already"


@pytest.mark.slow
def test_two_workers_embed_all_scenes_though_one_of_them_is_killed(archive):
    import ray

    from spectralgpt_hf.commands.archive import Embedder, embed_archive, plan

    class Mortal(Embedder):
        """Its process is killed at one scene, the first time."""

        def __call__(self, row):
            mark = archive / "killed"
            if row["source"].endswith("scene3.tif") and not mark.exists():
                mark.touch()
                os.kill(os.getpid(), signal.SIGKILL)
            return super().__call__(row)

    scenes = [str(archive / f"scene{number}.tif") for number in range(6)]
    rows = plan(scenes, archive / "vectors", ".parquet")
    ray.init(num_cpus=2, include_dashboard=False, logging_level="error")
    try:
        statuses = embed_archive(rows, str(archive / "checkpoint"), 2, 0, {}, worker=Mortal)
    finally:
        ray.shutdown()
    assert (archive / "killed").exists()
    assert statuses == dict.fromkeys(scenes, "embedded")
    for number in range(6):
        assert len(geopandas.read_parquet(archive / "vectors" / f"scene{number}.parquet")) == 4
