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


SPECTRALGPT = [sys.executable, "-c", "from spectralgpt_cli import app; app()"]
COMMAND = [*SPECTRALGPT, "predict"]
RUNS = [("predict", "map.tif", "--confidence"), ("embed", "features.tif"), ("embed", "vectors.parquet", "--stride=16")]


@pytest.fixture
def checkpoint(tmp_path):
    segmenter().save_pretrained(tmp_path / "checkpoint")
    SpectralGPTImageProcessor().save_pretrained(tmp_path / "checkpoint")
    return tmp_path / "checkpoint"


def finished_strips(destination: Path) -> int:
    return len(list(Path(f"{destination}.parts").rglob("*.npz")))


def start_and_wait_for_strips(command: list[str], destination: Path) -> subprocess.Popen:
    """Start a command, and return once it has finished some of its strips."""
    process = subprocess.Popen(command, stderr=subprocess.PIPE)
    while finished_strips(destination) < 2:
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.002)
    return process


@pytest.mark.slow
@pytest.mark.parametrize("run", RUNS, ids=lambda run: run[1])
def test_a_command_killed_half_way_and_repeated_gives_the_same_file(checkpoint, tmp_path, run):
    command, name, *options = run

    def command_for(destination: Path) -> list[str]:
        return [*SPECTRALGPT, command, str(checkpoint), str(SAMPLE), str(destination), "--device", "cpu", *options]

    (tmp_path / "whole").mkdir()
    (tmp_path / "killed").mkdir()
    whole, killed = tmp_path / "whole" / name, tmp_path / "killed" / name
    subprocess.run(command_for(whole), check=True, capture_output=True)
    process = start_and_wait_for_strips(command_for(killed), killed)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert not killed.exists()
    subprocess.run(command_for(killed), check=True, capture_output=True)
    files = {path.name for path in (tmp_path / "whole").iterdir()}
    assert {path.name for path in (tmp_path / "killed").iterdir()} == files
    for file in files:
        one, other = whole.parent / file, killed.parent / file
        if name == file == "features.tif":
            assert read(one).tobytes() == read(other).tobytes()
        else:
            assert one.read_bytes() == other.read_bytes()


@pytest.mark.slow
@pytest.mark.parametrize("run", RUNS, ids=lambda run: run[1])
def test_of_two_runs_on_one_destination_the_second_says_who_writes_and_the_first_ends_well(checkpoint, tmp_path, run):
    command, name, *options = run
    destination = tmp_path / name
    whole = [*SPECTRALGPT, command, str(checkpoint), str(SAMPLE), str(destination), "--device", "cpu", *options]
    first = start_and_wait_for_strips(whole, destination)
    first.send_signal(signal.SIGSTOP)  # works on it until the second has come and gone
    second = subprocess.run(whole, capture_output=True, text=True)
    first.send_signal(signal.SIGCONT)
    assert second.returncode == 1
    assert f"process {first.pid} on" in second.stderr
    assert "Traceback" not in second.stderr
    errors = first.communicate()[1]
    assert first.returncode == 0, errors
    assert destination.is_file()
    assert finished_strips(destination) == 0


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
