"""Checkpoints of a run: complete or absent, whatever kills the process that writes them."""

import errno
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from accelerate import Accelerator
from safetensors import SafetensorError

from ..files import move_into_place, writing_error


POSITION = "position.json"
WRITING, DISCARDED = ".writing-", ".discarded-"


class CheckpointFolder:
    """Folders `step-00001234` with the state of Accelerate and a `position.json`, the newest few of them.

    A folder is written under another name, and takes its own once everything is in it.

    Args:
        folder: Where they are.
        total_limit: How many are kept.
    """

    def __init__(self, folder: str | os.PathLike[str], total_limit: int = 3) -> None:
        self.folder, self.total_limit = Path(folder), max(1, total_limit)

    def latest(self) -> Path | None:
        """Return the newest complete checkpoint, if there is one."""
        complete = self._complete()
        return complete[-1] if complete else None

    def save(self, accelerator: Accelerator, step: int, position: dict[str, Any]) -> Path:
        """Write the state of a run; every process takes part.

        Args:
            accelerator: Of the run.
            step: How many steps were taken.
            position: What is needed to go on, besides model, optimizer and schedule; JSON.

        Raises:
            OSError: If it cannot be written, such as on a full disk. Earlier checkpoints are as they were.
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
        """Delete the checkpoints here that are newer than one here, from which the run continues; the newest first."""
        if path.resolve().parent == self.folder.resolve():
            for newer in reversed([other for other in self._complete() if other.name > path.name]):
                discard(newer)

    def check_space(self, size: int) -> None:
        """Raise an `OSError` if there is no room for a checkpoint of `size` bytes beside those that are kept."""
        existing = next(folder for folder in (self.folder, *self.folder.absolute().parents) if folder.exists())
        free = shutil.disk_usage(existing).free
        if free < size:
            raise OSError(
                errno.ENOSPC, f"{self.folder}: expected room for a checkpoint of {size:,} bytes, found {free:,} bytes."
            )

    def load(self, accelerator: Accelerator, path: Path) -> None:
        """Restore what `save` wrote, into what was prepared."""
        accelerator.load_state(str(path))

    def _complete(self) -> list[Path]:
        return sorted(file.parent for file in self.folder.glob(f"step-*/{POSITION}"))


def read_position(path: Path) -> dict[str, Any]:
    """Return what `CheckpointFolder.save` was told beside the state."""
    return json.loads((path / POSITION).read_text())


def discard(path: Path) -> None:
    """Delete a folder so that a process that is killed meanwhile leaves all of it or nothing under its name."""
    shutil.rmtree(_hide(path))


def write_folder(accelerator: Accelerator, path: Path, write: Callable[[Path], None]) -> None:
    """Write a folder under a temporary name beside it, then give it its own, in place of what was there.

    Args:
        accelerator: Of the run. Every process calls this.
        path: The folder.
        write: Called by every process with the temporary name.

    Raises:
        OSError: If it cannot be written; what was there before still is.
    """
    temporary = path.with_name(WRITING + path.name)
    if accelerator.is_main_process:
        shutil.rmtree(temporary, ignore_errors=True)  # of a process that was killed
        temporary.mkdir(parents=True)
    accelerator.wait_for_everyone()
    try:
        write(temporary)
    except (OSError, RuntimeError, SafetensorError) as error:  # torch reports a full disk as RuntimeError
        shutil.rmtree(temporary, ignore_errors=True)
        raise writing_error(path, error) from error
    accelerator.wait_for_everyone()
    if accelerator.is_main_process:
        old = _hide(path) if path.exists() else None
        move_into_place(temporary, path)
        if old:
            shutil.rmtree(old)
    accelerator.wait_for_everyone()


def _hide(path: Path) -> Path:
    """Rename a folder that is to be deleted, and delete what killed processes have left of others."""
    for stale in path.parent.glob(f"{DISCARDED}*"):
        shutil.rmtree(stale)
    return path.rename(path.with_name(DISCARDED + path.name))
