"""Download and read original checkpoints. Only this module of the package opens pickles."""

import argparse
import hashlib
import logging
import re
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from os import PathLike
from pathlib import Path, PurePosixPath
from urllib.parse import unquote, urldefrag, urlsplit

import torch
from huggingface_hub import cached_assets_path
from huggingface_hub.file_download import http_get
from huggingface_hub.utils import hf_raise_for_status, http_stream_backoff
from safetensors.torch import load_file
from torch.serialization import get_unsafe_globals_in_checkpoint, safe_globals

from ..files import digest, locked, move_into_place


logger = logging.getLogger(__name__)

# Keys under which files store the state dict, and prefixes that wrappers add to all its names: those of training on
# several GPUs and of `torch.compile`.
_KEYS = ("model", "state_dict")
_WRAPPERS = ("module.", "_orig_mod.")
# The prefix of the encoder in frameworks that add a head of their own.
_ENCODER = "encoder."
_UNCOMPRESSED = {"Accept-Encoding": "identity"}  # sizes and ranges then count the bytes of the file


@dataclass(frozen=True)
class OriginalCheckpoint:
    """The content of an original file.

    Attributes:
        name: Name of the file.
        state_dict: Tensors by original name, without the prefix; memory-mapped.
        prefix: Prefix of all names of tensors in the file: "module.", "_orig_mod.", "encoder.", or "".
        nested: Whether the state dict was stored under the key "model" or "state_dict".
        others: The other keys of the file ("optimizer", "epoch", ...), which are not converted.
    """

    name: str
    state_dict: dict[str, torch.Tensor]
    prefix: str
    nested: bool
    others: tuple[str, ...]


def is_url(source: str | PathLike[str]) -> bool:
    return str(source).startswith(("https://", "http://"))


def fetch(source: str | PathLike[str]) -> Path:
    """Return the local path of a checkpoint, downloading it first if `source` is a URL.

    An interrupted download resumes where it stopped, at the next call too. Its size is checked, and so are the
    checksum that the server states (the ETag of a Zenodo record) and one at the end of the URL (`#sha256=...` or
    `#md5=...`).

    Args:
        source: Path, or http(s) URL.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the URL does not end with a file name, or the checksum differs.
        ConnectionError: If the download fails.
    """
    if not is_url(source):
        path = Path(source)
        if not path.is_file():
            found = "a folder" if path.is_dir() else "nothing"
            raise FileNotFoundError(f"Expected the file of an original checkpoint at {path}, found {found}.")
        return path

    url, fragment = urldefrag(str(source))
    name = PurePosixPath(unquote(urlsplit(url).path)).name
    if name in ("", ".", ".."):
        raise ValueError(f"Expected a URL that ends with the name of a file, got {url}.")
    try:
        with http_stream_backoff("GET", url, headers=_UNCOMPRESSED) as response:  # some servers do not answer HEAD
            hf_raise_for_status(response)
            etag = response.headers.get("ETag", "")
            length = response.headers.get("Content-Length")
    except Exception as error:
        raise _download_error(url, error) from error
    # The folder depends on the version, so that a file that has changed on the server is not appended to an old part.
    version = hashlib.sha256(f"{url} {etag} {length}".encode()).hexdigest()[:16]
    path = cached_assets_path("spectralgpt-hf", "checkpoints", version) / name
    with locked(path):
        if path.exists():
            return path
        part = path.with_name(f"{name}.part")  # kept after a failure, so that the next call resumes it
        try:
            with part.open("ab") as file:
                size = int(length) if length else None
                http_get(url, file, resume_size=part.stat().st_size, expected_size=size, headers=_UNCOMPRESSED)
        except Exception as error:
            raise _download_error(url, error) from error
        for algorithm, expected in re.findall(r"\b(sha256|md5)[=:]([0-9a-fA-F]+)", f"{etag} {fragment}"):
            found = digest(part, algorithm)
            if found != expected.lower():
                part.unlink()
                raise ValueError(f"{url}: expected the {algorithm} {expected}, got {found}; the download was removed.")
        move_into_place(part, path)
    return path


def _download_error(url: str, error: Exception) -> ConnectionError:
    return ConnectionError(f"Could not download {url}: {error} Run again to resume where it stopped.")


def read_original(path: Path) -> OriginalCheckpoint:
    """Read a checkpoint that the original code or `restore_checkpoint` wrote.

    Args:
        path: `.pth` file, or `.safetensors` file with the original's names.

    Raises:
        ValueError: If the file is not a checkpoint, or holds anything but tensors and plain values.
    """
    content = _read_safetensors(path) if path.suffix == ".safetensors" else _read_pickle(path)
    outer = content if isinstance(content, Mapping) else {}
    key = next((key for key in _KEYS if key in outer), None)
    state_dict: object = outer[key] if key else content
    if not isinstance(state_dict, Mapping) or not state_dict:
        raise ValueError(
            f'{path}: expected a state dict, bare or under "model" or "state_dict", found {_describe(state_dict)}.'
        )
    for name, tensor in state_dict.items():
        if not isinstance(name, str) or not isinstance(tensor, torch.Tensor):
            raise ValueError(f"{path}: expected tensors by name, found {_describe(tensor)} under {name!r}.")
    prefix = ""
    while wrapper := next((w for w in _WRAPPERS if all(name.startswith(prefix + w) for name in state_dict)), None):
        prefix += wrapper
    if f"{prefix}{_ENCODER}patch_embed.proj.weight" in state_dict:
        prefix += _ENCODER
    return OriginalCheckpoint(
        name=path.name,
        # Names without the prefix belong to the head of another framework, and stay as they are.
        state_dict={name.removeprefix(prefix): tensor for name, tensor in state_dict.items()},
        prefix=prefix,
        nested=key is not None,
        others=tuple(str(other) for other in outer if other != key) if key else (),
    )


def _read_safetensors(path: Path) -> dict[str, torch.Tensor]:
    try:
        return load_file(path)
    except Exception as error:
        raise ValueError(f"{path} is not a safetensors file: {error}") from error


def _read_pickle(path: Path) -> object:
    """Read a zip of `torch.save` without running code: beside tensors, only `argparse.Namespace` is allowed."""
    _check_archive(path)
    try:
        with safe_globals([argparse.Namespace]):
            foreign = get_unsafe_globals_in_checkpoint(path)
            content = None if foreign else torch.load(path, map_location="cpu", mmap=True, weights_only=True)
    except Exception as error:  # a damaged pickle can raise any exception
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ValueError(f"{path} is damaged, or holds more than tensors: {reason}") from error
    if foreign:
        raise ValueError(
            f"{path} is refused: its pickle asks for {', '.join(sorted(foreign))}, which may run code and which no "
            "checkpoint needs. No code was run."
        )
    return content


def _check_archive(path: Path) -> None:
    """Refuse what `torch.save` does not write: other formats, compressed entries (zip bombs), several folders."""
    if not zipfile.is_zipfile(path):
        raise ValueError(f"{path} is not a checkpoint: expected a zip written by `torch.save` (1.6 or later).")
    with zipfile.ZipFile(path) as archive:
        entries = archive.infolist()
    folders = {PurePosixPath(entry.filename).parts[0] for entry in entries if entry.filename}
    for entry in entries:
        parts = PurePosixPath(entry.filename).parts
        if entry.compress_type != zipfile.ZIP_STORED or ".." in parts or len(parts) < 2 or len(folders) != 1:
            raise ValueError(
                f"{path} is not a checkpoint: expected the uncompressed entries of one folder, as `torch.save` writes "
                f"them, found {entry.filename!r}."
            )
    if not any(PurePosixPath(entry.filename).parts[1:] == ("data.pkl",) for entry in entries):
        raise ValueError(f"{path} is not a checkpoint: expected a `data.pkl` in the zip, found none.")


def _describe(value: object) -> str:
    return "an empty one" if isinstance(value, Mapping) else f"a {type(value).__name__}"
