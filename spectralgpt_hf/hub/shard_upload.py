"""Publishing prepared shards as a dataset on the Hub, by the rules of `publishing`: only files of ours are replaced."""

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
        folder: What `prepare_shards` has written.
        repo_id: `namespace/name` on the Hub; made if there is none.
        private: Whether a new repository is private. An existing public one is refused.
        token: A token with the right to write; by default `HF_TOKEN`, or what `hf auth login` saved.
        force: Whether to publish into a repository that holds files, but none that an earlier publish has put there.
        confirm: Whether files may be deleted, and files that were edited on the Hub replaced; or a function that is
            asked so, with the question.
        report: Called with a line for each file that changes.

    Returns:
        The URL of the commit or, if nothing changes, of the dataset.

    Raises:
        ValueError: If the folder is not complete, the repository is not one of ours (`force`), or a deletion or
            replacement was not confirmed.
        OSError: If the Hub refuses or cannot be reached.
    """
    if repo_id.count("/") != 1:
        raise ValueError(f"`repo_id` must be namespace/name, got {repo_id!r}.")
    folder = Path(folder)
    if not (folder / "report.json").is_file() or (folder / PROGRESS).exists():
        raise ValueError(f"{folder}: expected complete shards. Repeat `spectralgpt prepare` to finish them.")
    files = (path for path in sorted(folder.rglob("*")) if path.is_file())
    upload = Upload.of({path.relative_to(folder).as_posix(): path for path in files})
    target = Target(HfApi(token=token), repo_id, "main", "dataset")
    seen = target.look()
    changes = target.review(upload, seen, private=private, force=force, confirm=confirm, report=report)
    return target.commit(upload, seen, private, create_pr=False)[1] if changes else target.url
