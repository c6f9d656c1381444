"""A thousand damaged files and requests: no hang, no crash, little memory, clear refusals, nothing else read."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import rasterio.shutil

from spectralgpt_hf.hub.endpoint import ENDPOINT_FILES
from tests.modeling.test_pipelines import image, write
from tests.modeling.test_untrusted import canary  # noqa: F401 (a fixture)
from tests.serving.checkpoints import save_checkpoint


CASES = 1000


@pytest.mark.slow
def test_damaged_requests_are_answered_or_refused_in_bounded_time_and_memory(tmp_path, canary):  # noqa: F811
    pytest.importorskip("psutil")
    checkpoint = save_checkpoint("features", tmp_path / "features")
    for name, content in ENDPOINT_FILES.items():
        (checkpoint / name).write_bytes(content)
    path = write(tmp_path / "a.tif", image(40, 36))
    with rasterio.open(path, "r+") as dataset:
        # Damage may turn this harmless item into one that GDAL follows.
        dataset.update_tags(ns="PVERVIEWS", OVERVIEW_FILE=f"/vsicurl/{canary.url}", OTHER=str(canary.path))
    with rasterio.open(path) as dataset:
        rasterio.shutil.copy(dataset, tmp_path / "a.jp2", driver="JP2OpenJPEG", QUALITY=100, REVERSIBLE="YES")
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
