import gc
import os
import subprocess
import sys
from pathlib import Path

import pytest


# Trainings in this process do not change its allocator (`keep_freed_memory`): thousands of other tests follow.
os.environ.setdefault("MALLOC_TRIM_THRESHOLD_", str(2**17))
# Tests have their own Hub on loopback. Without a network, asking the real one is tried again for half a minute.
os.environ.setdefault("HF_HUB_OFFLINE", "1")


def pytest_collection_finish() -> None:
    """Leave what the imports have made, a million objects, out of every later collection of garbage."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Real Sentinel-2 samples that are too large, or not ours, to be committed."""
    folder = Path(__file__).parents[2] / "shared" / "data"
    if not folder.is_dir():
        pytest.skip("needs the real samples in ../shared/data")
    return folder


@pytest.fixture
def file_server(tmp_path, monkeypatch):
    """Address of a web server of `tmp_path`."""
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    command = [sys.executable, str(Path(__file__).with_name("range_server.py")), str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        yield process.stdout.readline().strip()
        process.kill()
