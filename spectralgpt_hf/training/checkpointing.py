"""Checkpoints of a run, which are complete or absent even if the process that writes them is killed."""

import errno
import json
import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from accelerate import Accelerator
from safetensors import SafetensorError

from ..files import move_into_place, writing_error


POSITION = "position.json"
WRITING, DISCARDED = ".writing-", ".discarded-"


class CheckpointFolder:
    """Folders `step-00001234` with the state of Accelerate and a `position.json`, the newest few of them.

    A folder is written under a temporary name and renamed when it is complete.

    Args:
        folder: Parent of the checkpoints.
        total_limit: Number of checkpoints that are kept.
    """

    def __init__(self, folder: str | os.PathLike[str], total_limit: int = 3) -> None:
        self.folder, self.total_limit = Path(folder), max(1, total_limit)

    def latest(self) -> Path | None:
        """Return the newest complete checkpoint, if there is one."""
        complete = self._complete()
        return complete[-1] if complete else None

    def save(self, accelerator: Accelerator, step: int, position: Mapping[str, object]) -> Path:
        """Write the state of a run. Every process must call this.

        Args:
            accelerator: Accelerator of the run.
            step: Number of steps so far.
            position: The state of the run apart from that of the accelerator, as values that JSON can hold.

        Raises:
            OSError: If it cannot be written, for example on a full disk. Earlier checkpoints are not changed.
        """
        path = self.folder / f"step-{step:08d}"

        def write(temporary: Path) -> None:
            accelerator.save_state(str(temporary))
            if accelerator.is_main_process:
                (temporary / POSITION).write_text(json.dumps(position))

        write_folder(accelerator, path, write)
        if accelerator.is_main_process:
            for old in self._complete()[: -self.total_limit]:
                discard(old)
        return path

    def discard_after(self, path: Path) -> None:
        """Delete the checkpoints that are newer than `path`, if that is in this folder; the newest first."""
        if path.resolve().parent == self.folder.resolve():
            for newer in reversed([other for other in self._complete() if other.name > path.name]):
                discard(newer)

    def check_space(self, size: int) -> None:
        """Raise an `OSError` if the disk has less free space than a checkpoint of `size` bytes needs."""
        existing = next(folder for folder in (self.folder, *self.folder.absolute().parents) if folder.exists())
        free = shutil.disk_usage(existing).free
        if free < size:
            raise OSError(
                errno.ENOSPC, f"{self.folder}: expected room for a checkpoint of {size:,} bytes, found {free:,} bytes."
            )

    def load(self, accelerator: Accelerator, path: Path) -> None:
        """Restore the state that `save` wrote into the objects that the accelerator has prepared."""
        accelerator.load_state(str(path))

    def _complete(self) -> list[Path]:
        return sorted(file.parent for file in self.folder.glob(f"step-*/{POSITION}"))


def read_position(path: Path) -> dict[str, Any]:
    """Return the argument `position` of `CheckpointFolder.save`."""
    return json.loads((path / POSITION).read_text())


def discard(path: Path) -> None:
    """Delete a folder. If the process is killed meanwhile, the folder is complete or gone, never in between."""
    shutil.rmtree(_rename_to_discard(path))


def write_folder(accelerator: Accelerator, path: Path, write: Callable[[Path], None]) -> None:
    """Write a folder under a temporary name beside it, then rename it. An existing folder is replaced.

    Args:
        accelerator: Accelerator of the run. Every process must call this.
        path: The folder.
        write: Called by every process with the temporary name.

    Raises:
        OSError: If it cannot be written. An existing folder is then kept.
    """
    temporary = path.with_name(WRITING + path.name)
    if accelerator.is_main_process:
        shutil.rmtree(temporary, ignore_errors=True)  # a process that was killed may have left it
        temporary.mkdir(parents=True)
    accelerator.wait_for_everyone()
    try:
        write(temporary)
    except (OSError, RuntimeError, SafetensorError) as error:  # torch reports a full disk as RuntimeError
        shutil.rmtree(temporary, ignore_errors=True)
        raise writing_error(path, error) from error
    accelerator.wait_for_everyone()
    if accelerator.is_main_process:
        old = _rename_to_discard(path) if path.exists() else None
        move_into_place(temporary, path)
        if old:
            shutil.rmtree(old)
    accelerator.wait_for_everyone()


def _rename_to_discard(path: Path) -> Path:
    """Rename a folder that is to be deleted, and delete such folders that killed processes left behind."""
    for stale in path.parent.glob(f"{DISCARDED}*"):
        shutil.rmtree(stale)
    return path.rename(path.with_name(DISCARDED + path.name))
