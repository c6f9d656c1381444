"""Publishing a checkpoint folder on the Hub: one commit that is seen to load, or none."""

import hashlib
import logging
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import torch
from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi
from huggingface_hub.errors import (
    HfHubHTTPError,
    HTTPError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.hf_api import RepoFile

from ..files import digest
from ..modeling.configuration_spectralgpt import SpectralGPTConfig
from .cards import name_repository
from .checks import check_checkpoint, check_outputs
from .endpoint import ENDPOINT_FILES
from .isolation import forward_in_isolation


logger = logging.getLogger(__name__)
T = TypeVar("T")

CARD = "README.md"
# What a checkpoint owns in its repository: files of these kinds that it has no longer are deleted.
OWNED = (".py", ".safetensors", ".safetensors.index.json")
ATTEMPTS = 5


def publish(
    folder: str | PathLike[str],
    repo_id: str,
    *,
    private: bool = False,
    create_pr: bool = False,
    revision: str | None = None,
    token: str | None = None,
    dry_run: bool = False,
    report: Callable[[str], object] = logger.info,
) -> str:
    """Publish a checkpoint as one commit, and load it back from there.

    Files that are on the Hub already are not sent again, so repeating the call resumes an interrupted upload. In
    README.md, `org/<name>` becomes `repo_id`. `handler.py` for Inference Endpoints is added where it is not there yet.

    Args:
        folder: The checkpoint; `check_checkpoint` says what is refused.
        repo_id: `namespace/name` on the Hub; made if there is none.
        private: Whether a new repository is private. An existing public one is refused.
        create_pr: Open a pull request, and leave the branch as it is.
        revision: The branch, "main" by default; made from "main" if there is none.
        token: Of somebody who may write; by default `HF_TOKEN`, or what `hf auth login` saved.
        dry_run: Check and compare, change nothing.
        report: Called with a line for each step, and for each file that changes.

    Returns:
        The URL of the pull request, or else of the commit; with `dry_run` of the repository.

    Raises:
        ValueError: If the checkpoint must not be published, or does not load back.
        OSError: If there is no such folder, or the Hub refuses or cannot be reached.
    """
    if repo_id.count("/") != 1:
        raise ValueError(f"`repo_id` must be namespace/name, got {repo_id!r}.")
    folder = Path(folder).absolute()
    outputs = check_checkpoint(folder)
    report("Loads with this package and without it, to the same outputs.")

    target = Target(HfApi(token=token), repo_id, revision or "main")
    seen = target.look()
    if private and seen and not seen.is_private:
        raise ValueError(f"{repo_id} is public: make it private in its settings, or publish under another name.")
    files: dict[str, Path | bytes] = ENDPOINT_FILES | {
        path.relative_to(folder).as_posix(): path for path in sorted(folder.rglob("*")) if path.is_file()
    }
    files[CARD] = name_repository((folder / CARD).read_text(encoding="utf-8"), repo_id).encode()
    changes = target.compare(files, seen and seen.head)
    for name, change in changes.items():
        report(f"{change:7}{name}")
    if dry_run:
        return target.url
    if seen and seen.exists and not changes:
        report("Nothing changes.")
        commit, url = seen.head, target.url_of(seen.head)
    else:
        commit, url = target.commit(files, seen, private, create_pr)
    try:
        check_outputs(target.load(commit, folder), outputs, f"{repo_id} at {commit}")
    except (ValueError, OSError) as error:
        kind = ValueError if isinstance(error, ValueError) else ConnectionError
        raise kind(f"Published as {url}, but that could not be loaded back: {error}") from error
    report(f"Loads from {repo_id} at {commit}.")
    return url


class _Branch(NamedTuple):
    """What is on the Hub: the commit that the branch is at or, if it does not exist yet, will be made from."""

    head: str
    exists: bool
    is_private: bool


@dataclass(frozen=True)
class Target:
    """A branch of a repository, there or to be made: of a model, or of a Gradio Space."""

    api: HfApi
    repo_id: str
    branch: str
    repo_type: str = "model"

    @property
    def url(self) -> str:
        return f"{self.api.endpoint}/{'spaces/' if self.repo_type == 'space' else ''}{self.repo_id}"

    def url_of(self, commit: str) -> str:
        return f"{self.url}/commit/{commit}"

    def look(self) -> _Branch | None:
        """Return what is there; None without a repository."""
        exists = True
        try:
            info = _insist(lambda: self.api.repo_info(self.repo_id, revision=self.branch, repo_type=self.repo_type))
        except RevisionNotFoundError:
            info, exists = _insist(lambda: self.api.repo_info(self.repo_id, repo_type=self.repo_type)), False
        except RepositoryNotFoundError:
            return None
        return _Branch(str(info.sha), exists, bool(info.private))

    def compare(self, files: dict[str, Path | bytes], commit: str | None) -> dict[str, str]:
        """Return which files of a commit publishing adds, changes or deletes."""
        there: dict[str, RepoFile] = {}
        if commit:
            options: dict[str, Any] = {"recursive": True, "revision": commit, "repo_type": self.repo_type}
            tree = _insist(lambda: list(self.api.list_repo_tree(self.repo_id, **options)))
            there = {entry.path: entry for entry in tree if isinstance(entry, RepoFile)}
        added = {name: "add" for name in files if name not in there}
        changed = {name: "change" for name in files if name in there and not _is_same(files[name], there[name])}
        deleted = {name: "delete" for name in there if name not in files and name.endswith(OWNED)}
        return dict(sorted((added | changed | deleted).items()))

    def commit(
        self, files: dict[str, Path | bytes], seen: _Branch | None, private: bool, create_pr: bool
    ) -> tuple[str, str]:
        """Make the repository and the branch if need be, send the files, and commit them on top of what was seen.

        Returns:
            The commit, and the URL of the pull request or of the commit.
        """
        api, repo_id, repo_type = self.api, self.repo_id, self.repo_type
        if seen is None:
            sdk = "gradio" if repo_type == "space" else None
            options: dict[str, Any] = {"repo_type": repo_type, "space_sdk": sdk}
            _insist(lambda: api.create_repo(repo_id, private=private, exist_ok=True, **options))
            seen = self.look()
        parent = seen.head if seen else None
        if not (seen and seen.exists) and not create_pr:
            branch: dict[str, Any] = {"branch": self.branch, "revision": parent, "repo_type": repo_type}
            _insist(lambda: api.create_branch(repo_id, **branch, exist_ok=True))
        earlier = {parent, *(self._pull_requests() if create_pr else ())}
        operations = [
            CommitOperationDelete(name) if change == "delete" else CommitOperationAdd(name, files[name])
            for name, change in self.compare(files, parent).items()
        ]

        def find() -> tuple[str, str] | None:
            """Look for our commit: a lost answer does not mean a lost commit."""
            if create_pr:
                heads = self._pull_requests()
            else:
                now = self.look()
                heads = {now.head: self.url_of(now.head)} if now else {}
            new = {head: url for head, url in heads.items() if head not in earlier}
            return next(((head, url) for head, url in new.items() if not self.compare(files, head)), None)

        def send() -> tuple[str, str]:
            try:
                made = api.create_commit(
                    repo_id,
                    operations,
                    commit_message="Publish with spectralgpt-hf",
                    repo_type=repo_type,
                    revision=self.branch,
                    create_pr=create_pr,
                    parent_commit=parent,
                )
            except (HTTPError, OSError):
                if found := find():
                    return found
                raise
            return made.oid, made.pr_url or made.commit_url

        try:
            return _insist(send)
        except (HTTPError, OSError, RuntimeError) as error:  # the last from an upload
            reason = error.__cause__ if isinstance(error, RuntimeError) else error
            raise ConnectionError(
                f"{repo_id} could not be published: {reason}\nRepeat the command to go on: what was sent is kept, and "
                "the files appear together or not at all."
            ) from error

    def load(self, commit: str, folder: Path) -> dict[str, torch.Tensor]:
        """Return what the published checkpoint computes, fetched into an empty cache."""
        architecture = (SpectralGPTConfig.from_pretrained(folder).architectures or [""])[0]
        with tempfile.TemporaryDirectory() as cache:
            _insist(lambda: self.api.snapshot_download(self.repo_id, revision=commit, cache_dir=cache))
            return forward_in_isolation(self.repo_id, architecture, revision=commit, cache_dir=cache)

    def _pull_requests(self) -> dict[str, str]:
        """Return the commit and the URL of each pull request."""
        refs = _insist(lambda: self.api.list_repo_refs(self.repo_id, include_pull_requests=True))
        return {
            ref.target_commit: f"{self.url}/discussions/{ref.ref.split('/')[-1]}" for ref in refs.pull_requests or ()
        }


def _is_same(content: Path | bytes, there: RepoFile) -> bool:
    """Compare a file with its counterpart on the Hub, by the hash that the Hub keeps of it."""
    if there.lfs:
        ours = digest(content) if isinstance(content, Path) else hashlib.sha256(content).hexdigest()
        return ours == there.lfs.sha256
    data = content.read_bytes() if isinstance(content, Path) else content
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest() == there.blob_id


def _insist(action: Callable[[], T]) -> T:
    """Repeat a request that failed for a reason that passes, as the client does for some of its requests only."""
    attempt = 0
    while True:
        try:
            return action()
        except (HTTPError, OSError) as error:
            attempt += 1
            response = error.response if isinstance(error, HfHubHTTPError) else None
            refused = response is not None and response.status_code < 500 and response.status_code not in (408, 429)
            if refused or isinstance(error, OfflineModeIsEnabled):
                raise
            if attempt == ATTEMPTS:
                raise ConnectionError(f"The Hub failed {ATTEMPTS} times, at last with: {error}") from error
            asked = response.headers.get("Retry-After", "") if response is not None else ""
            seconds = int(asked) if asked.isdigit() else 2 ** (attempt - 1)
            logger.warning("%s Again in %d s.", error, seconds)
            time.sleep(seconds)
