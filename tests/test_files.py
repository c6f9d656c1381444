import errno
import json
import os
import resource
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from spectralgpt_hf.files import atomic_path, digest, locked, write_json, write_text


HOLD = """
import sys, time
from spectralgpt_hf.files import locked
with locked(sys.argv[1]):
    print("held", flush=True)
    time.sleep(60)
"""


def hold(path: Path) -> subprocess.Popen[str]:
    process = subprocess.Popen([sys.executable, "-c", HOLD, str(path)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    return process


@pytest.fixture
def file_size_limit():
    """Let no file of this process grow beyond 64 KiB, as a full disk would."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2**16, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_file_and_a_folder_appear_whole(tmp_path):
    with atomic_path(tmp_path / "new" / "file.txt") as scratch:
        scratch.write_text("all of it")
        assert str(os.getpid()) in scratch.name
        assert not (tmp_path / "new" / "file.txt").exists()
    with atomic_path(tmp_path / "folder") as scratch:
        (scratch / "inner").mkdir(parents=True)
        (scratch / "inner" / "file.txt").write_text("inside")
    assert (tmp_path / "new" / "file.txt").read_text() == "all of it"
    assert (tmp_path / "folder" / "inner" / "file.txt").read_text() == "inside"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["folder", "new"]


@pytest.mark.parametrize("error", [KeyboardInterrupt(), ValueError("wrong"), FileNotFoundError(errno.ENOENT, "source")])
def test_a_failure_leaves_what_was_there_and_keeps_its_error(tmp_path, error):
    path = tmp_path / "file.txt"
    path.write_text("before")

    def fail() -> None:
        with atomic_path(path) as scratch:
            scratch.write_text("half of")
            raise error

    with pytest.raises(type(error)) as raised:
        fail()
    assert raised.value is error
    assert path.read_text() == "before"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("write", [write_text, lambda path, text: save_file({"text": torch.zeros(len(text))}, path)])
def test_a_full_disk_is_an_error_that_names_the_file_and_the_remedy(tmp_path, file_size_limit, write):
    path = tmp_path / "file"
    path.write_text("before")
    match = r"file: cannot be written \(File too large\)\. Free space"
    with pytest.raises(OSError, match=match) as error, atomic_path(path) as scratch:
        write(scratch, "x" * 2**17)
    assert error.value.errno == errno.EFBIG
    assert path.read_text() == "before"
    assert list(tmp_path.iterdir()) == [path]


def test_a_folder_that_cannot_be_written_is_named_instead_of_the_scratch_file(tmp_path):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").touch()
    with pytest.raises(OSError, match="full: cannot be written") as error, atomic_path(tmp_path / "full") as scratch:
        scratch.mkdir()
    assert ".part" not in str(error.value)
    assert [path.name for path in tmp_path.iterdir()] == ["full"]


def test_json_is_indented_and_digested(tmp_path):
    write_json(tmp_path / "a.json", {"é": [1]})
    assert json.loads((tmp_path / "a.json").read_text()) == {"é": [1]}
    write_text(tmp_path / "a.txt", "abc")
    assert digest(tmp_path / "a.txt").startswith("ba7816bf")


def test_a_locked_path_refuses_other_processes_and_says_who_holds_it(tmp_path):
    holder = hold(tmp_path / "map.tif")
    try:
        match = f"map.tif: process {holder.pid} on .* writes it already"
        with pytest.raises(BlockingIOError, match=match), locked(tmp_path / "map.tif"):
            raise AssertionError
        with locked(tmp_path / "other.tif"):
            pass
    finally:
        holder.kill()
        holder.wait()


@pytest.mark.slow
def test_a_lock_dies_with_its_process_and_the_next_holder_cleans_up(tmp_path):
    (tmp_path / ".map.tif.1.part").touch()
    (tmp_path / ".other.tif.1.part").touch()
    holder = hold(tmp_path / "map.tif")
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    with locked(tmp_path / "map.tif"):
        assert not (tmp_path / ".map.tif.1.part").exists()
    assert [path.name for path in tmp_path.iterdir()] == [".other.tif.1.part"]


def test_a_path_can_be_locked_again_after_a_failure(tmp_path):
    with pytest.raises(ValueError, match="inside"), locked(tmp_path / "a"):
        raise ValueError("inside")
    with locked(tmp_path / "a"), pytest.raises(BlockingIOError, match=f"process {os.getpid()}"), locked(tmp_path / "a"):
        raise AssertionError
    assert not list(tmp_path.iterdir())
