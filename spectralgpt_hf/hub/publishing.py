"""Publish a checkpoint folder on the Hub as one commit, and load it back from there.

A manifest in the repository lists the uploaded files with their hashes. The next publish deletes only files of that
list, and recognises by the hashes which files were edited on the Hub in between.
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
from typing import NamedTuple, TypeVar

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

from ..inference.stac_items import MODEL_ITEM
from ..modeling.configuration_spectralgpt import SpectralGPTConfig
from .allowed_files import MANIFEST, read_object
from .cards import name_repository
from .checks import check_checkpoint, check_outputs
from .embedded import folder_to_publish
from .endpoint import ENDPOINT_FILES
from .isolation import forward_in_isolation
from .model_items import describe_model


logger = logging.getLogger(__name__)
T = TypeVar("T")

CARD = "README.md"
# Files that the Hub creates in a new repository.
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
    """Publish a checkpoint as one commit, and load it back from the Hub.

    Files that are already on the Hub are not uploaded again, so repeating the call resumes an interrupted upload. In
    README.md, `org/<name>` becomes `repo_id`. The STAC item, `stac_item.json`, is written with the name there, and
    `handler.py` for Inference Endpoints is added if the folder lacks it.

    Args:
        folder: Folder of the checkpoint, which `check_checkpoint` must accept, or the name of a checkpoint that comes
            with the package, such as "tiny-eurosat": it is published complete, with its own card.
        repo_id: `namespace/name` on the Hub; created if it does not exist.
        private: Whether a new repository is private. An existing public one is refused.
        create_pr: Whether to open a pull request instead of changing the branch.
        revision: The branch, "main" by default; created from "main" if it does not exist.
        token: A token with the right to write; by default `HF_TOKEN`, or what `hf auth login` saved.
        force: Whether to publish into a repository whose files were not published with this package. Files of other
            names stay there.
        confirm: Whether files may be deleted, and files that were edited on the Hub may be replaced; or a function that
            takes the question and returns the answer.
        dry_run: Whether to check the checkpoint and report the changes without making them.
        report: Called with a line for each step, and for each file that changes.

    Returns:
        The URL of the pull request or of the commit; with `dry_run`, of the repository.

    Raises:
        ValueError: If the checkpoint must not be published or does not load back, if the repository holds foreign files
            and `force` is not set, or if a deletion or replacement was not confirmed.
        OSError: If there is no such folder, or if the Hub refuses the upload or cannot be reached.
    """
    target = Target(HfApi(token=token), repo_id, revision or "main")
    with folder_to_publish(folder) as source:
        outputs = check_checkpoint(source)
        report("The checkpoint loads with this package and without it, and the outputs are the same.")

        seen = target.look()
        contents: dict[str, Path | bytes] = ENDPOINT_FILES | {
            path.relative_to(source).as_posix(): path for path in sorted(source.rglob("*")) if path.is_file()
        }
        contents[MODEL_ITEM] = (json.dumps(describe_model(source, repo_id.split("/")[1]), indent=2) + "\n").encode()
        contents[CARD] = name_repository((source / CARD).read_text(encoding="utf-8"), repo_id).encode()
        upload = Upload.of(contents)
        changes = target.review(upload, seen, private=private, force=force, confirm=dry_run or confirm, report=report)
        if dry_run:
            return target.url
        if seen and seen.exists and not changes:
            report("The repository is up to date: nothing was uploaded.")
            commit, url = seen.head, target.url_of(seen.head)
        else:
            commit, url = target.commit(upload, seen, private, create_pr)
        try:
            check_outputs(target.load(commit, source), outputs, f"{repo_id} at {commit}")
        except (ValueError, OSError) as error:
            kind = ValueError if isinstance(error, ValueError) else ConnectionError
            raise kind(f"Published as {url}, but that could not be loaded back: {error}") from error
        report(f"The checkpoint loads from {repo_id} at {commit}.")
        return url


class Hashes(NamedTuple):
    """The hashes by which the Hub identifies a file: the SHA-256 for a large file, that of git for any other."""

    sha256: str
    git: str

    @classmethod
    def of(cls, content: Path | bytes) -> "Hashes":
        """Hash the content of a file."""
        size = content.stat().st_size if isinstance(content, Path) else len(content)
        sha256, git = hashlib.sha256(), hashlib.sha1(b"blob %d\0" % size)
        with content.open("rb") if isinstance(content, Path) else io.BytesIO(content) as file:
            while chunk := file.read(2**20):
                sha256.update(chunk)
                git.update(chunk)
        return cls(sha256.hexdigest(), git.hexdigest())

    def fits(self, there: RepoFile) -> bool:
        """Return whether a file on the Hub has the same content."""
        return self.sha256 == there.lfs.sha256 if there.lfs else self.git == there.blob_id


class Upload(NamedTuple):
    """The files that a branch should hold, with the manifest: contents and hashes by name."""

    contents: dict[str, Path | bytes]
    hashes: dict[str, Hashes]

    @classmethod
    def of(cls, contents: dict[str, Path | bytes]) -> "Upload":
        """Add the manifest to the contents of files."""
        hashes = {name: Hashes.of(content) for name, content in contents.items() if name != MANIFEST}
        listed = {name: found._asdict() for name, found in sorted(hashes.items())}
        manifest = (json.dumps({"published_with": "spectralgpt-hf", "files": listed}, indent=1) + "\n").encode()
        return cls({**contents, MANIFEST: manifest}, {**hashes, MANIFEST: Hashes.of(manifest)})


class Change(NamedTuple):
    """A change of a file ("add", "change" or "delete"), and whether the file was edited on the Hub since its upload."""

    kind: str
    edited: bool = False


class _Branch(NamedTuple):
    """State of the Hub: the commit of the branch or, if it does not exist, the commit from which it will be created."""

    head: str
    exists: bool
    is_private: bool


@dataclass(frozen=True)
class Target:
    """A branch of a repository of a model, a dataset or a Gradio Space, which may not exist yet.

    Raises:
        ValueError: If `repo_id` is not `namespace/name`.
    """

    api: HfApi
    repo_id: str
    branch: str
    repo_type: str = "model"

    def __post_init__(self) -> None:
        if self.repo_id.count("/") != 1:
            raise ValueError(f"`repo_id` must be namespace/name, got {self.repo_id!r}.")

    @property
    def url(self) -> str:
        """Address of the repository."""
        return f"{self.api.endpoint}/{'' if self.repo_type == 'model' else f'{self.repo_type}s/'}{self.repo_id}"

    def url_of(self, commit: str) -> str:
        """Return the address of a commit."""
        return f"{self.url}/commit/{commit}"

    def update(
        self,
        upload: Upload,
        *,
        private: bool,
        force: bool,
        confirm: bool | Callable[[str], bool],
        dry_run: bool,
        report: Callable[[str], object],
    ) -> str:
        """Review an upload and commit it; arguments and errors as in `publish`.

        Returns:
            The URL of the commit; with `dry_run`, or if nothing changes, of the repository.
        """
        seen = self.look()
        changes = self.review(upload, seen, private=private, force=force, confirm=dry_run or confirm, report=report)
        return self.url if dry_run or not changes else self.commit(upload, seen, private, create_pr=False)[1]

    def look(self) -> _Branch | None:
        """Return the state of the branch; None if there is no repository."""
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
        """Report what an upload changes, and check that it may; arguments as in `publish`.

        Raises:
            ValueError: If the repository is public but should be private, if it holds foreign files, or if a deletion
                or replacement is not confirmed.
        """
        if private and seen and not seen.is_private:
            raise ValueError(
                f"{self.repo_id} is public: make it private in its settings, or publish under another name."
            )
        there = self._files(seen.head) if seen else {}
        if seen and not force and there.keys() - FRESH and MANIFEST not in there:
            raise ValueError(
                f"{self.repo_id} holds {len(there)} files that were not published with this package (it has no "
                f"{MANIFEST}). Check the name, or pass `force=True` to publish there nevertheless."
            )
        changes = self.compare(upload, seen and seen.head)
        for name, change in changes.items():
            report(f"{change.kind:7}{name}{' (edited on the Hub since)' if change.edited else ''}")
        lost = [name for name, change in changes.items() if change.edited or change.kind == "delete"]
        question = f"Delete or replace {', '.join(lost)} in {self.repo_id}?"
        if lost and not (confirm(question) if callable(confirm) else confirm):
            raise ValueError(
                f"Nothing was published: {self.repo_id} would lose {', '.join(lost)}, because the folder no longer "
                "holds it or because it was edited on the Hub. Download what you want to keep, then confirm with "
                "`--yes` (in Python, `confirm=True`)."
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
        """Create the repository and the branch if they do not exist, and commit the files on top of what was seen.

        Returns:
            The commit, and the URL of the pull request or of the commit.
        """
        api, repo_id, repo_type = self.api, self.repo_id, self.repo_type
        if seen is None:
            sdk = "gradio" if repo_type == "space" else None
            _insist(
                lambda: api.create_repo(repo_id, private=private, exist_ok=True, repo_type=repo_type, space_sdk=sdk)
            )
            seen = self.look()
        parent = seen.head if seen else None
        if not (seen and seen.exists) and not create_pr:
            _insist(
                lambda: api.create_branch(
                    repo_id, branch=self.branch, revision=parent, repo_type=repo_type, exist_ok=True
                )
            )
        earlier = {parent, *(self._pull_requests() if create_pr else ())}
        operations = [
            CommitOperationDelete(name) if change.kind == "delete" else CommitOperationAdd(name, upload.contents[name])
            for name, change in self.compare(upload, parent).items()
        ]

        def find() -> tuple[str, str] | None:
            """Return our commit if it exists: the answer to a request can be lost although the commit was made."""
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
        except (HTTPError, OSError, RuntimeError) as error:  # uploads raise RuntimeError
            reason = error.__cause__ if isinstance(error, RuntimeError) else error
            raise ConnectionError(
                f"{repo_id} could not be published: {reason}\nRepeat the command to resume: files that were uploaded "
                "are kept on the Hub, and become visible together in one commit."
            ) from error

    def load(self, commit: str, folder: Path) -> dict[str, torch.Tensor]:
        """Download the published checkpoint into an empty cache and return its outputs."""
        architecture = (SpectralGPTConfig.from_pretrained(folder).architectures or [""])[0]
        with tempfile.TemporaryDirectory() as cache:
            _insist(lambda: self.api.snapshot_download(self.repo_id, revision=commit, cache_dir=cache))
            return forward_in_isolation(self.repo_id, architecture, revision=commit, cache_dir=cache)

    def _files(self, commit: str) -> dict[str, RepoFile]:
        tree = _insist(
            lambda: list(
                self.api.list_repo_tree(self.repo_id, recursive=True, revision=commit, repo_type=self.repo_type)
            )
        )
        return {entry.path: entry for entry in tree if isinstance(entry, RepoFile)}

    def _listed(self, commit: str) -> dict[str, Hashes]:
        """Return the files that the manifest of a commit lists."""
        with tempfile.TemporaryDirectory() as cache:
            path = _insist(
                lambda: self.api.hf_hub_download(
                    self.repo_id, MANIFEST, revision=commit, repo_type=self.repo_type, cache_dir=cache
                )
            )
            try:
                return {name: Hashes(**found) for name, found in read_object(Path(path))["files"].items()}
            except (ValueError, TypeError, KeyError, AttributeError) as error:
                raise ValueError(
                    f"{self.repo_id}: {MANIFEST} is damaged. Delete it on the Hub, then publish with `--force`."
                ) from error

    def _pull_requests(self) -> dict[str, str]:
        """Return the commit and the URL of each pull request."""
        refs = _insist(lambda: self.api.list_repo_refs(self.repo_id, include_pull_requests=True))
        return {
            ref.target_commit: f"{self.url}/discussions/{ref.ref.split('/')[-1]}" for ref in refs.pull_requests or ()
        }


def _insist(action: Callable[[], T]) -> T:
    """Repeat a request that failed for a temporary reason; the Hub's client repeats only some of its requests."""
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
                raise ConnectionError(f"The Hub failed {ATTEMPTS} times, the last time with: {error}") from error
            asked = response.headers.get("Retry-After", "") if response is not None else ""
            seconds = int(asked) if asked.isdigit() else 2 ** (attempt - 1)
            logger.warning("%s Trying again in %d s.", error, seconds)
            time.sleep(seconds)
