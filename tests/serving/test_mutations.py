"""A thousand damaged files and requests: no hang, no crash, little memory, clear refusals, nothing else read."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import rasterio.shutil

from spectralgpt_hf.hub.endpoint import ENDPOINT_FILES
from tests.modeling.test_pipelines import image, write
from tests.modeling.test_untrusted import canary  # noqa: F401 (a fixture)
from tests.serving.checkpoints import save_checkpoint
from tests.serving.page_mutations import Page


CASES = 1000
ALLOWANCE = 2**27  # of uploads to the page, in bytes


def damageable(folder, canary):  # noqa: F811
    """Write and return a sound TIFF and a sound JPEG 2000; damage to the first may make GDAL look for the canary."""
    path = write(folder / "a.tif", image(40, 36))
    with rasterio.open(path, "r+") as dataset:
        # Harmless as it is, but one bit away from an item that GDAL follows.
        dataset.update_tags(ns="PVERVIEWS", OVERVIEW_FILE=f"/vsicurl/{canary.url}", OTHER=str(canary.path))
    with rasterio.open(path) as dataset:
        rasterio.shutil.copy(dataset, folder / "a.jp2", driver="JP2OpenJPEG", QUALITY=100, REVERSIBLE="YES")
    return path, folder / "a.jp2"


@pytest.mark.slow
def test_damaged_requests_are_answered_or_refused_in_bounded_time_and_memory(tmp_path, canary):  # noqa: F811
    pytest.importorskip("psutil")
    checkpoint = save_checkpoint("features", tmp_path / "features")
    for name, content in ENDPOINT_FILES.items():
        (checkpoint / name).write_bytes(content)
    damageable(tmp_path, canary)
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "HF_MODULES_CACHE": str(tmp_path / "modules")}
    command = [sys.executable, Path(__file__).with_name("mutations.py"), checkpoint, tmp_path, str(CASES)]
    result = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=1800)
    assert result.returncode == 0, result.stderr[-2000:]
    found = json.loads(result.stdout)
    sys.stdout.write(f"{found}\n")
    assert found["unclear"] == []
    assert found["answered"] + found["refused"] == CASES
    assert min(found["answered"], found["refused"]) > CASES // 20
    assert found["longest"] < 30
    assert found["mebibytes"] < 1024
    assert not canary.touched()


@pytest.mark.slow
def test_the_page_answers_damaged_uploads_and_requests_in_bounded_time_and_memory(tmp_path, canary):  # noqa: F811
    psutil = pytest.importorskip("psutil")
    pytest.importorskip("gradio", reason="needs the extra `serve`")
    for task in ("features", "classification", "segmentation", "change"):
        save_checkpoint(task, tmp_path / "checkpoints" / task)
    sources = [path.read_bytes() for path in damageable(tmp_path, canary)]
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "TMPDIR": str(tmp_path)}
    command = [sys.executable, "-m", "tests.serving.page_server", tmp_path / "checkpoints", str(ALLOWANCE)]
    log = (tmp_path / "log").open("w")
    with subprocess.Popen(command, env=environment, stdin=-1, stdout=-1, stderr=log, text=True) as server:
        page = Page(server.stdout.readline().strip())
        for content in sources:
            page.try_file(content, "sound")
        assert page.counts["refused"] == 0, page.last
        process, peak, longest = psutil.Process(server.pid), 0, 0.0
        idle = process.memory_info().rss
        for number in range(CASES):
            started = time.monotonic()
            page.try_case(number, sources)
            longest = max(longest, time.monotonic() - started)
            peak = max(peak, process.memory_info().rss)
        found = {**page.counts, "longest": longest, "mebibytes": (peak - idle) / 2**20, "unclear": page.unclear}
        sys.stdout.write(f"{found}\n")
        assert server.poll() is None
        statuses = {page.upload(bytes(2**22))[0] for _ in range(ALLOWANCE // 2**22 + 1)}
        assert statuses == {200, 429}
        assert page.ask("info")[0] == 200
        server.stdin.close()
        assert server.wait(60) == 0
    log.close()
    assert found["unclear"] == []
    assert min(found["answered"], found["refused"]) > CASES // 20
    assert found["longest"] < 30
    assert found["mebibytes"] < 1024
    assert not canary.touched()
