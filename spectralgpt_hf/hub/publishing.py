"""Publishing a checkpoint folder on the Hub: one commit, which is then loaded back from there.

What a publish uploads is listed in a manifest beside it. A later publish deletes only files that the manifest lists,
and knows from its hashes which ones were edited on the Hub since.
"""

import hashlib
import io
import json
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

from ..modeling.configuration_spectralgpt import SpectralGPTConfig
from .allowed_files import MANIFEST, read_object
from .cards import name_repository
from .checks import check_checkpoint, check_outputs
from .endpoint import ENDPOINT_FILES
from .isolation import forward_in_isolation


logger = logging.getLogger(__name__)
T = TypeVar("T")

CARD = "README.md"
# What the Hub itself puts into a new repository.
FRESH = {".gitattributes", CARD}
ATTEMPTS = 5


def publish(
    folder: str | PathLike[str],
    repo_id: str,
    *,
    private: bool = False,
    create_pr: bool = False,
    revision: str | None = None,
    token: str | None = None,
    force: bool = False,
    confirm: bool | Callable[[str], bool] = False,
    dry_run: bool = False,
    report: Callable[[str], object] = logger.info,
) -> str:
    """Publish a checkpoint as one commit, and load it back from there.

    Files that are on the Hub already are not sent again, so that repeating the call resumes an interrupted upload. In
    README.md, `org/<name>` becomes `repo_id`. `handler.py` for Inference Endpoints is added where the folder lacks it.

    Args:
        folder: The checkpoint; `check_checkpoint` says what is refused.
        repo_id: `namespace/name` on the Hub; made if there is none.
        private: Whether a new repository is private. An existing public one is refused.
        create_pr: Whether to open a pull request, which leaves the branch as it is.
        revision: The branch, "main" by default; made from "main" if there is none.
        token: A token with the right to write; by default `HF_TOKEN`, or what `hf auth login` saved.
        force: Whether to publish into a repository that holds files, but none that an earlier publish has put there.
            Files of other names stay.
        confirm: Whether files may be deleted, and files that were edited on the Hub replaced; or a function that is
            asked so, with the question.
        dry_run: Whether to check and compare only, and change nothing.
        report: Called with a line for each step, and for each file that changes.

    Returns:
        The URL of the pull request, or else of the commit; with `dry_run` of the repository.

    Raises:
        ValueError: If the checkpoint must not be published or does not load back, if the repository is not one of ours
            (`force`), or if a deletion or replacement was not confirmed.
        OSError: If there is no such folder, or the Hub refuses or cannot be reached.
    """
    if repo_id.count("/") != 1:
        raise ValueError(f"`repo_id` must be namespace/name, got {repo_id!r}.")
    folder = Path(folder).absolute()
    outputs = check_checkpoint(folder)
    report("Loads with this package and without it, to the same outputs.")

    target = Target(HfApi(token=token), repo_id, revision or "main")
    seen = target.look()
    contents: dict[str, Path | bytes] = ENDPOINT_FILES | {
        path.relative_to(folder).as_posix(): path for path in sorted(folder.rglob("*")) if path.is_file()
    }
    contents[CARD] = name_repository((folder / CARD).read_text(encoding="utf-8"), repo_id).encode()
    upload = Upload.of(contents)
    changes = target.review(upload, seen, private=private, force=force, confirm=dry_run or confirm, report=report)
    if dry_run:
        return target.url
    if seen and seen.exists and not changes:
        report("Nothing changes.")
        commit, url = seen.head, target.url_of(seen.head)
    else:
        commit, url = target.commit(upload, seen, private, create_pr)
    try:
        check_outputs(target.load(commit, folder), outputs, f"{repo_id} at {commit}")
    except (ValueError, OSError) as error:
        kind = ValueError if isinstance(error, ValueError) else ConnectionError
        raise kind(f"Published as {url}, but that could not be loaded back: {error}") from error
    report(f"Loads from {repo_id} at {commit}.")
    return url


class Hashes(NamedTuple):
    """The two hashes by which the Hub knows a file: of large files the SHA-256, of others that of git."""

    sha256: str
    git: str

    @classmethod
    def of(cls, content: Path | bytes) -> "Hashes":
        size = content.stat().st_size if isinstance(content, Path) else len(content)
        sha256, git = hashlib.sha256(), hashlib.sha1(b"blob %d\0" % size)
        with content.open("rb") if isinstance(content, Path) else io.BytesIO(content) as file:
            while chunk := file.read(2**20):
                sha256.update(chunk)
                git.update(chunk)
        return cls(sha256.hexdigest(), git.hexdigest())

    def fits(self, there: RepoFile) -> bool:
        return self.sha256 == there.lfs.sha256 if there.lfs else self.git == there.blob_id


class Upload(NamedTuple):
    """What a branch should hold: contents and hashes by name, the manifest among them."""

    contents: dict[str, Path | bytes]
    hashes: dict[str, Hashes]

    @classmethod
    def of(cls, contents: dict[str, Path | bytes]) -> "Upload":
        hashes = {name: Hashes.of(content) for name, content in contents.items() if name != MANIFEST}
        listed = {name: found._asdict() for name, found in sorted(hashes.items())}
        manifest = (json.dumps({"published_with": "spectralgpt-hf", "files": listed}, indent=1) + "\n").encode()
        return cls({**contents, MANIFEST: manifest}, {**hashes, MANIFEST: Hashes.of(manifest)})


class Change(NamedTuple):
    """What happens to a file ("add", "change" or "delete"), and whether it was edited on the Hub since we sent it."""

    kind: str
    edited: bool = False


class _Branch(NamedTuple):
    """What is on the Hub: the commit that the branch is at or, if it does not exist yet, will be made from."""

    head: str
    exists: bool
    is_private: bool


@dataclass(frozen=True)
class Target:
    """A branch of a repository, there or to be made: of a model, a dataset or a Gradio Space."""

    api: HfApi
    repo_id: str
    branch: str
    repo_type: str = "model"

    @property
    def url(self) -> str:
        return f"{self.api.endpoint}/{'' if self.repo_type == 'model' else f'{self.repo_type}s/'}{self.repo_id}"

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

    def review(
        self,
        upload: Upload,
        seen: _Branch | None,
        *,
        private: bool,
        force: bool,
        confirm: bool | Callable[[str], bool],
        report: Callable[[str], object],
    ) -> dict[str, Change]:
        """Report what an upload changes, and refuse what should not happen unasked; arguments as in `publish`.

        Raises:
            ValueError: If the repository is public and should not be, is not ours, or a loss is not confirmed.
        """
        if private and seen and not seen.is_private:
            raise ValueError(
                f"{self.repo_id} is public: make it private in its settings, or publish under another name."
            )
        there = self._files(seen.head) if seen else {}
        if seen and not force and there.keys() - FRESH and MANIFEST not in there:
            raise ValueError(
                f"{self.repo_id} holds {len(there)} files that were not published with this program (it has no "
                f"{MANIFEST}). Check the name; `force=True` publishes there nevertheless."
            )
        changes = self.compare(upload, seen and seen.head)
        for name, change in changes.items():
            report(f"{change.kind:7}{name}{' (edited on the Hub since)' if change.edited else ''}")
        lost = [name for name, change in changes.items() if change.edited or change.kind == "delete"]
        question = f"Delete or replace {', '.join(lost)} in {self.repo_id}?"
        if lost and not (confirm(question) if callable(confirm) else confirm):
            raise ValueError(
                f"Nothing was published: {self.repo_id} would lose {', '.join(lost)}, which the folder no longer "
                "holds or which was edited on the Hub. Fetch what you want to keep, then confirm with `--yes` (in "
                "Python, `confirm=True`)."
            )
        return changes

    def compare(self, upload: Upload, commit: str | None) -> dict[str, Change]:
        """Return what an upload on top of a commit adds, changes and deletes."""
        there = self._files(commit) if commit else {}
        listed = self._listed(commit) if commit and MANIFEST in there else {}

        def edited(name: str) -> bool:
            return name != MANIFEST and not (name in listed and listed[name].fits(there[name]))

        changes = {name: Change("add") for name in upload.hashes if name not in there}
        for name, found in there.items():
            if name not in upload.hashes and name in listed:
                changes[name] = Change("delete", edited(name))
            elif name in upload.hashes and not upload.hashes[name].fits(found):
                changes[name] = Change("change", edited(name))
        return dict(sorted(changes.items()))

    def commit(self, upload: Upload, seen: _Branch | None, private: bool, create_pr: bool) -> tuple[str, str]:
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
            CommitOperationDelete(name) if change.kind == "delete" else CommitOperationAdd(name, upload.contents[name])
            for name, change in self.compare(upload, parent).items()
        ]

        def find() -> tuple[str, str] | None:
            """Look for our commit: a lost answer does not mean a lost commit."""
            if create_pr:
                heads = self._pull_requests()
            else:
                now = self.look()
                heads = {now.head: self.url_of(now.head)} if now else {}
            new = {head: url for head, url in heads.items() if head not in earlier}
            return next(((head, url) for head, url in new.items() if not self.compare(upload, head)), None)

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

    def _files(self, commit: str) -> dict[str, RepoFile]:
        options: dict[str, Any] = {"recursive": True, "revision": commit, "repo_type": self.repo_type}
        tree = _insist(lambda: list(self.api.list_repo_tree(self.repo_id, **options)))
        return {entry.path: entry for entry in tree if isinstance(entry, RepoFile)}

    def _listed(self, commit: str) -> dict[str, Hashes]:
        """Return the files that the manifest of a commit lists."""
        source: dict[str, Any] = {"revision": commit, "repo_type": self.repo_type}
        with tempfile.TemporaryDirectory() as cache:
            path = _insist(lambda: self.api.hf_hub_download(self.repo_id, MANIFEST, cache_dir=cache, **source))
            try:
                return {name: Hashes(**found) for name, found in read_object(Path(path))["files"].items()}
            except (ValueError, TypeError, KeyError, AttributeError) as error:
                raise ValueError(
                    f"{self.repo_id}: {MANIFEST} is damaged; delete it there, then use `--force`."
                ) from error

    def _pull_requests(self) -> dict[str, str]:
        """Return the commit and the URL of each pull request."""
        refs = _insist(lambda: self.api.list_repo_refs(self.repo_id, include_pull_requests=True))
        return {
            ref.target_commit: f"{self.url}/discussions/{ref.ref.split('/')[-1]}" for ref in refs.pull_requests or ()
        }


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
