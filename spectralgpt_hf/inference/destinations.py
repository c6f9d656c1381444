"""Check destinations: results must not replace their inputs, and replace other files only if that is allowed."""

import errno
import os
from collections.abc import Sequence
from pathlib import Path


def check_destination(destination: str | os.PathLike[str] | None, suffixes: Sequence[str]) -> Path:
    """Return the path of a file that can be written.

    Raises:
        FileNotFoundError: If its folder does not exist.
        ValueError: If there is none, it is a folder, or its name ends with none of `suffixes`.
    """
    if destination is None:
        raise ValueError("Expected `destination`, the file to write.")
    path = Path(destination)
    if path.suffix.lower() not in suffixes:
        raise ValueError(f"{path}: expected a name that ends with {' or '.join(suffixes)}.")
    if path.is_dir():
        raise ValueError(f"{path}: expected a file to write, found a folder.")
    if not path.absolute().parent.is_dir():
        raise FileNotFoundError(f"{path.parent}: no such folder to write to.")
    return path


def check_outputs(paths: Sequence[Path], inputs: Sequence[str], overwrite: bool) -> None:
    """Check that files to write are no inputs, and do not exist unless they may be replaced.

    Args:
        paths: Files to write.
        inputs: Files that are read, including those behind links, zips and virtual rasters.
        overwrite: Whether existing files may be replaced.

    Raises:
        ValueError: If a file to write is an input.
        FileExistsError: If a file exists and `overwrite` is False.
    """
    for path in paths:
        if not path.exists():
            continue
        if any(os.path.exists(name) and path.samefile(name) for name in inputs):
            raise ValueError(f"{path}: is an input, and writing would destroy it. Choose another destination.")
        if not overwrite:
            raise FileExistsError(errno.EEXIST, f"{path}: exists. Choose another name, or replace it with `overwrite`.")
