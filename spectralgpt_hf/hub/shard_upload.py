"""Publish prepared shards as a dataset on the Hub, by the same rules as checkpoints (see `publishing`)."""

import logging
from collections.abc import Callable
from os import PathLike
from pathlib import Path

from huggingface_hub import HfApi

from ..data.shards.prepare import PROGRESS
from .publishing import Target, Upload


logger = logging.getLogger(__name__)


def push_shards(
    folder: str | PathLike[str],
    repo_id: str,
    *,
    private: bool = False,
    token: str | None = None,
    force: bool = False,
    confirm: bool | Callable[[str], bool] = False,
    report: Callable[[str], object] = logger.info,
) -> str:
    """Publish prepared shards as a dataset on the Hub, in one commit. Repeat the call to resume an interrupted upload.

    Args:
        folder: Folder that `prepare_shards` wrote.
        repo_id: `namespace/name` on the Hub; created if it does not exist.
        private: Whether a new repository is private. An existing public one is refused.
        token: A token with the right to write; by default `HF_TOKEN`, or what `hf auth login` saved.
        force: Whether to publish into a repository whose files were not published with this package.
        confirm: Whether files may be deleted, and files that were edited on the Hub may be replaced; or a function that
            takes the question and returns the answer.
        report: Called with a line for each file that changes.

    Returns:
        The URL of the commit or, if nothing changes, of the dataset.

    Raises:
        ValueError: If the shards are not complete, if the repository holds foreign files and `force` is not set, or if
            a deletion or replacement was not confirmed.
        OSError: If the Hub refuses the upload or cannot be reached.
    """
    target = Target(HfApi(token=token), repo_id, "main", "dataset")
    folder = Path(folder)
    if not (folder / "report.json").is_file() or (folder / PROGRESS).exists():
        raise ValueError(f"{folder}: expected complete shards. Repeat `spectralgpt prepare` to finish them.")
    files = (path for path in sorted(folder.rglob("*")) if path.is_file())
    upload = Upload.of({path.relative_to(folder).as_posix(): path for path in files})
    return target.update(upload, private=private, force=force, confirm=confirm, dry_run=False, report=report)
