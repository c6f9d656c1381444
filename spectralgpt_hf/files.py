"""Write files under a scratch name and rename them when complete, so that none is seen half written; digests, locks."""

import errno
import glob
import hashlib
import json
import os
import shutil
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout


_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


@contextmanager
def atomic_path(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield a scratch name beside `path`, for a file or a folder, and rename it to `path` if no error occurred.

    The name contains the id of the process. The content is synced before the renaming, so that after a power cut `path`
    holds either its earlier content or the complete new one. An existing file is replaced, a folder only if it is
    empty.

    Raises:
        OSError: If the disk is full, or the scratch name cannot be written. It is removed, and `path` is unchanged.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    scratch = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        yield scratch
        move_into_place(scratch, path)
    except Exception as error:  # libraries report a full disk with exceptions of their own
        if _errno(error) in _FULL or (isinstance(error, OSError) and str(scratch) in str(error)):
            raise writing_error(path, error) from error
        raise
    finally:
        remove(scratch)


def move_into_place(scratch: Path, path: Path) -> None:
    """Sync a file or folder, rename it to `path` in the same folder, and sync that."""
    for file in (scratch, *(scratch.rglob("*") if scratch.is_dir() else ())):
        _sync(file)
    scratch.replace(path)
    _sync(path.parent)


def writing_error(path: str | os.PathLike[str], error: Exception) -> OSError:
    """Return an error whose message says that `path` cannot be written, why, and what to do."""
    number = _errno(error)
    reason = os.strerror(number) if number else str(error)
    remedy = "" if number else " The disk may be full: free space there, or write elsewhere."
    remedy = " Free space there, or write elsewhere." if number in _FULL else remedy
    return OSError(number or errno.EIO, f"{os.fspath(path)}: cannot be written ({reason}).{remedy}")


def remove(path: Path) -> None:
    """Remove a file, or a folder with its content. Nothing happens if there is none."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def write_text(path: str | os.PathLike[str], text: str) -> None:
    """Write a text file as UTF-8, through `atomic_path`."""
    with atomic_path(path) as scratch:
        scratch.write_text(text, encoding="utf-8")


def write_json(path: str | os.PathLike[str], content: object) -> None:
    """Write an indented JSON file, through `atomic_path`."""
    write_text(path, json.dumps(content, indent=2) + "\n")


@contextmanager
def locked(path: str | os.PathLike[str]) -> Iterator[None]:
    """Hold the exclusive right to write `path`, a file or a folder, during the `with` statement.

    The lock is the file `.<name>.lock` beside `path`. The operating system releases it when the process ends, even if
    it is killed. Scratch files of `path` that killed processes left behind are removed.

    Raises:
        BlockingIOError: If another process holds the lock; the message names it.
        OSError: If the lock file cannot be written.
    """
    path = Path(os.path.abspath(path))
    path.parent.mkdir(parents=True, exist_ok=True)
    name = path.with_name(f".{path.name}.lock")
    owner = name.with_suffix(".owner")
    lock = FileLock(name, blocking=False)
    try:
        lock.acquire()
    except Timeout as error:
        found = owner.read_text() if owner.exists() else "another process"
        raise BlockingIOError(
            errno.EAGAIN, f"{path}: {found} writes it already. Wait until it ends, or choose another destination."
        ) from error
    try:
        for stale in path.parent.glob(f".{glob.escape(path.name)}.*.part"):
            remove(stale)
        owner.write_text(f"process {os.getpid()} on {socket.gethostname()}")
        yield
    finally:
        # The file is removed while the lock is held. A process that has the old file open notices, and creates another.
        owner.unlink(missing_ok=True)
        with suppress(PermissionError):  # Windows cannot remove an open file
            name.unlink(missing_ok=True)
        lock.release()


def digest(path: Path, algorithm: str = "sha256") -> str:
    """Return the hexadecimal digest of a file's content."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, algorithm).hexdigest()


def _sync(path: Path) -> None:
    if path.is_dir() and os.name != "posix":  # other systems cannot open a folder
        return
    handle = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _errno(error: Exception) -> int | None:
    """Return the error number, which for a full disk may have to be found from the message of a library's error."""
    stated = error.errno if isinstance(error, OSError) else None
    return stated or next((number for number in _FULL if os.strerror(number) in str(error)), None)
