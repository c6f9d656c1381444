"""A table of the files that a checkpoint may hold and what each must contain. Any other file is refused."""

import json
import re
import stat
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import yaml
from huggingface_hub import get_token
from PIL import Image
from safetensors import SafetensorError, safe_open

from ..modeling import modeling_spectralgpt
from .endpoint import ENDPOINT_FILES


CODE = {path.name: path for path in Path(modeling_spectralgpt.__file__).parent.glob("*.py") if path.stem != "__init__"}
# `publish` writes this list of the files that it uploaded into the repository.
MANIFEST = "spectralgpt-hf.json"
SHARD = r"model(-\d{5}-of-\d{5})?\.safetensors"
INDEX = "model.safetensors.index.json"
PICKLES = (".bin", ".ckpt", ".joblib", ".npy", ".npz", ".pickle", ".pkl", ".pt", ".pth")

SECRETS = {
    "a Hugging Face token": r"\bhf_[A-Za-z0-9]{30,}",
    "a GitHub token": r"\b(?:gh[pousr]_[A-Za-z0-9]{36,}|github_pat_\w{22,})",
    "an AWS key": r"\b(?:AKIA|ASIA)[A-Z0-9]{16}\b",
    "a Google key": r"\bAIza[\w-]{35}",
    "a Slack token": r"\bxox[abprs]-[\w-]{10,}",
    "an API key": r"\b(?:sk|wandb)[-_][A-Za-z0-9_-]{20,}",
    "a private key": r"-----BEGIN [A-Z ]*PRIVATE KEY-----",
    "a password in a URL": r"\b[a-z][a-z+]*://[^\s/:@\"']+:[^\s/@\"']+@",
    "a password": r"(?i)\b(?:api_?key|password|passwd|secret|access_?token)[\"']?\s*[:=]\s*[\"'][^\"'\s]{8,}[\"']",
}
LOCAL_PATH = (
    r"(?:file://[^\s\"']+|\b[A-Za-z]:\\+[\w\\. -]+"
    r"|(?<![\w.:/~-])/(?:Users|content|data|home|media|mnt|opt|private|root|scratch|srv|tmp|var|work|workspace)/[^\s\"']+)"
)


def problems_of(path: Path, name: str) -> Iterator[str]:
    """Yield the reasons why a file must not be published.

    Args:
        path: Path of the file. Only a regular file is opened.
        name: Its path in the checkpoint, with `/`.
    """
    if path.is_symlink():
        yield "is a link, expected the file itself"
    elif not stat.S_ISREG(path.stat().st_mode):
        yield "is not a regular file"
    elif path.suffix in PICKLES or zipfile.is_zipfile(path):
        yield "may be a pickle, which can run code when it is loaded; save weights as safetensors"
    else:
        allowed = next((file for file in ALLOWED_FILES if re.fullmatch(file.pattern, name)), None)
        if allowed is None:
            yield "is not a file of a checkpoint; move it out of the folder"
        else:
            yield from allowed.problems(path)


def read_object(path: Path) -> dict[str, Any]:
    """Return the object in a JSON file; `ValueError` if it holds anything else (NaN and infinity are not JSON)."""

    def refuse(constant: str) -> None:
        raise ValueError(f"{constant} is not a JSON number")

    try:
        content = json.loads(path.read_bytes().decode("utf-8"), parse_constant=refuse)
    except (ValueError, RecursionError) as error:  # errors of decoding and of parsing are ValueErrors
        raise ValueError(f"expected JSON: {error}") from error
    if not isinstance(content, dict):
        raise ValueError(f"expected a JSON object, found a {type(content).__name__}")
    return content


def _is_ours(path: Path) -> Iterator[str]:
    ours = CODE[path.name].read_bytes() if path.name in CODE else ENDPOINT_FILES[path.name]
    if path.read_bytes() != ours:
        yield "differs from the file of this package; save the model again with the version that publishes it"


def _is_weights(path: Path) -> Iterator[str]:
    try:
        with safe_open(path, "pt") as file:
            yield from _private_matters(json.dumps(file.metadata() or {}))
    except SafetensorError as error:
        yield f"expected safetensors: {error}"


def _is_text(path: Path) -> Iterator[str]:
    try:
        text = path.read_bytes().decode("utf-8")
    except UnicodeDecodeError as error:
        yield f"expected text: {error}"
    else:
        yield from _private_matters(text)


def _is_json(path: Path) -> Iterator[str]:
    try:
        read_object(path)
    except ValueError as error:
        yield str(error)
    else:
        yield from _is_text(path)


def _is_stac_item(path: Path) -> Iterator[str]:
    yield from (problems := list(_is_json(path)))
    if not problems:
        item = read_object(path)
        if item.get("type") != "Feature" or "stac_version" not in item:
            yield "expected a STAC item"


def _is_scores(path: Path) -> Iterator[str]:
    yield from (problems := list(_is_text(path)))
    if not problems:
        try:
            entries = yaml.safe_load(path.read_text(encoding="utf-8"))
        except yaml.YAMLError as error:
            yield f"expected YAML: {' '.join(str(error).split())}"
        else:
            if not isinstance(entries, list) or not all(
                isinstance(e, dict) and {"dataset", "value"} <= e.keys() for e in entries
            ):
                yield "expected a list of results, each with `dataset` and `value`"


def _is_picture(path: Path) -> Iterator[str]:
    try:
        with Image.open(path) as picture:
            picture.verify()
    except Exception as error:  # each decoder raises other errors
        yield f"expected a picture: {error}"
    yield from _private_matters(path.read_bytes().decode("latin-1"))  # metadata are plain text in every format


class AllowedFile(NamedTuple):
    """A row of the table: a pattern of paths in a checkpoint, and the function that finds problems in such a file."""

    pattern: str
    problems: Callable[[Path], Iterator[str]]


ALLOWED_FILES = (
    AllowedFile(r"(preprocessor_)?config\.json", _is_json),  # `check_checkpoint` also checks their entries
    AllowedFile("|".join(map(re.escape, (*CODE, *ENDPOINT_FILES))), _is_ours),
    AllowedFile(SHARD, _is_weights),
    AllowedFile(re.escape(INDEX), _is_json),
    AllowedFile(rf"(conversion|metrics|{re.escape(MANIFEST.removesuffix('.json'))})\.json", _is_json),
    AllowedFile(r"stac_item\.json", _is_stac_item),
    AllowedFile(r"\.eval_results/[\w.+-]+\.yaml", _is_scores),
    AllowedFile(r"[\w.+-]+\.md|LICENSE|NOTICE|CITATION\.cff|\.gitattributes", _is_text),
    AllowedFile(r"[\w.+-]+\.(jpe?g|png|webp)", _is_picture),
)


def _private_matters(text: str) -> Iterator[str]:
    token = get_token()
    if token and token in text:
        yield "holds your own Hugging Face token"
    for what, pattern in SECRETS.items():
        if found := re.search(pattern, text):
            yield f"holds what looks like {what}: {found[0][:8]}..."
    if found := re.search(LOCAL_PATH, text):
        yield f"holds a path of a machine: {found[0]}"
    elif str(Path.home()) != "/" and str(Path.home()) in text:
        yield f"holds a path of a machine: {Path.home()}"
