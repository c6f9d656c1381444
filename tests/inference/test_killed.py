import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import rasterio

from spectralgpt_hf import SpectralGPTImageProcessor
from spectralgpt_hf.assets import SAMPLE

from .scenes import read, segmenter


COMMAND = [sys.executable, "-c", "from spectralgpt_cli import app; app()", "predict"]


@pytest.fixture
def checkpoint(tmp_path):
    segmenter().save_pretrained(tmp_path / "checkpoint")
    SpectralGPTImageProcessor().save_pretrained(tmp_path / "checkpoint")
    return tmp_path / "checkpoint"


@pytest.mark.slow
def test_the_command_killed_half_way_and_repeated_gives_the_same_file(checkpoint, tmp_path):
    whole, killed = tmp_path / "whole.tif", tmp_path / "killed.tif"
    options = ["--device", "cpu", "--confidence"]
    subprocess.run([*COMMAND, str(checkpoint), str(SAMPLE), str(whole), *options], check=True, capture_output=True)
    process = subprocess.Popen([*COMMAND, str(checkpoint), str(SAMPLE), str(killed), *options], stderr=subprocess.PIPE)
    while len(list(Path(f"{killed}.parts").rglob("*.npz"))) < 15:  # of 31
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.005)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert not killed.exists()
    subprocess.run([*COMMAND, str(checkpoint), str(SAMPLE), str(killed), *options], check=True, capture_output=True)
    for suffix in ("", "_confidence"):
        files = [path.with_name(f"{path.stem}{suffix}.tif") for path in (whole, killed)]
        assert files[0].read_bytes() == files[1].read_bytes()


@pytest.mark.slow
def test_two_processes_share_a_scene_and_give_the_same_file(checkpoint, tmp_path):
    alone, shared = tmp_path / "alone.tif", tmp_path / "shared.tif"
    subprocess.run([*COMMAND, str(checkpoint), str(SAMPLE), str(alone)], check=True, capture_output=True)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    group = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "ACCELERATE_USE_CPU": "1"}
    processes = [
        subprocess.Popen(
            [*COMMAND, str(checkpoint), str(SAMPLE), str(shared)],
            env=os.environ | group | {"RANK": str(rank), "LOCAL_RANK": str(rank)},
            stderr=subprocess.PIPE,
        )
        for rank in range(2)
    ]
    errors = [process.communicate()[1] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], errors
    assert alone.read_bytes() == shared.read_bytes()
    with rasterio.open(shared) as dataset:
        assert dataset.shape == (512, 512)
    assert (read(shared) != 255).all()
