import errno
import os
import shutil
import signal
from pathlib import Path

import pytest
import torch
from accelerate import Accelerator

from spectralgpt_hf.training.checkpointing import CheckpointFolder, read_position, write_folder
from tests.forked import run_forked


@pytest.fixture
def accelerator():
    accelerator = Accelerator(cpu=True)
    accelerator.prepare(torch.nn.Linear(2, 2))
    yield accelerator
    accelerator.free_memory()


def test_the_newest_complete_checkpoint_is_found_and_old_ones_go(tmp_path, accelerator):
    folder = CheckpointFolder(tmp_path, total_limit=2)
    assert folder.latest() is None
    for step in (5, 10, 15):
        folder.save(accelerator, step, {"step": step})
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step-00000010", "step-00000015"]
    assert read_position(folder.latest()) == {"step": 15}


def test_a_checkpoint_that_was_being_written_is_never_picked_up(tmp_path, accelerator):
    folder = CheckpointFolder(tmp_path)
    complete = folder.save(accelerator, 5, {"step": 5})
    shutil.copytree(complete, tmp_path / ".writing-step-00000010")  # all but the last step, the renaming
    assert folder.latest() == complete
    folder.save(accelerator, 10, {"step": 10})
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


def test_a_full_disk_leaves_the_checkpoints_as_they_were(tmp_path, accelerator, monkeypatch):
    folder = CheckpointFolder(tmp_path)
    complete = folder.save(accelerator, 5, {"step": 5})

    def no_space(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(accelerator, "save_state", no_space)
    with pytest.raises(OSError, match=r"step-00000006: cannot be written \(No space left on device\)"):
        folder.save(accelerator, 6, {"step": 6})
    assert [path.name for path in tmp_path.iterdir()] == [complete.name]
    with pytest.raises(OSError, match="expected room for a checkpoint"):
        folder.check_space(10**18)


def test_a_kill_while_checkpoints_are_deleted_leaves_only_complete_ones(tmp_path, accelerator):
    """Newer checkpoints go when a run resumes from an older one, and old ones when there are too many."""
    folder = CheckpointFolder(tmp_path, total_limit=9)
    oldest, *_ = (folder.save(accelerator, step, {"step": step}) for step in (5, 10, 15))

    def rmtree(path, *_, **__):
        next(Path(path).glob("*.safetensors")).unlink()
        os.kill(os.getpid(), signal.SIGKILL)

    def discard_and_be_killed():
        shutil.rmtree = rmtree
        folder.discard_after(oldest)

    assert run_forked(discard_and_be_killed) == -signal.SIGKILL
    latest = folder.latest()
    assert latest.name == "step-00000010"
    assert all(list(path.glob("*.safetensors")) for path in tmp_path.glob("step-*"))
    folder.discard_after(oldest)
    assert [path.name for path in tmp_path.iterdir()] == [oldest.name]


def test_a_folder_is_replaced_as_a_whole(tmp_path, accelerator):
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "old").touch()
    write_folder(accelerator, tmp_path / "model", lambda folder: (folder / "new").touch())
    assert [path.name for path in (tmp_path / "model").iterdir()] == ["new"]
