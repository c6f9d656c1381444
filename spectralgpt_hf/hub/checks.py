"""What a checkpoint folder must be before it is published: complete, loadable, trained, and free of surprises.

Two kinds of surprises are meant: those for whoever loads it (pickles, code of others, numbers that are none) and those
for whoever publishes it (keys, paths of the own machine).
"""

import json
import re
import zipfile
from collections.abc import Iterator
from os import PathLike
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import get_token
from PIL import Image
from safetensors import SafetensorError, safe_open

from ..modeling import modeling_spectralgpt
from ..modeling.configuration_spectralgpt import AUTO_MAP, CUSTOM_PIPELINES, SpectralGPTConfig
from ..modeling.image_processing_spectralgpt import SpectralGPTImageProcessor
from .cards import check_card
from .endpoint import ENDPOINT_FILES
from .isolation import forward, forward_in_isolation


CODE = {path.name: path for path in Path(modeling_spectralgpt.__file__).parent.glob("*.py") if path.stem != "__init__"}
REQUIRED = ("README.md", "config.json", "preprocessor_config.json", *sorted(CODE))
TEXTS = (".json", ".jsonl", ".md", ".txt", ".yaml", ".cff")
NAMES = (".gitattributes", "LICENSE", "NOTICE")
PICTURES = (".jpeg", ".jpg", ".png", ".webp")
PROCESSOR = "AutoImageProcessor"
PICKLES = (".bin", ".ckpt", ".joblib", ".npy", ".npz", ".pickle", ".pkl", ".pt", ".pth")
WEIGHTS, INDEX, SHARD = "model.safetensors", "model.safetensors.index.json", r"[\w-]+\.safetensors"
# Largest difference between two loads of one checkpoint, relative to the largest value.
TOLERANCE = 1e-4

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


def check_checkpoint(folder: str | PathLike[str]) -> dict[str, torch.Tensor]:
    """Refuse a folder that should not be published.

    Whether weights were *well* trained no file tells. What is refused is a part of the network (encoder, decoder, head)
    all of whose biases are 0 and normalisation scales 1, as every initialisation leaves them and no step of training.

    Args:
        folder: As `save_pretrained` of model and processor write it, with a README.md.

    Returns:
        The outputs for one image, with this package: those without it are the same.

    Raises:
        FileNotFoundError: If it is no folder, or incomplete.
        ValueError: If something in it must not be published; the message names it.
    """
    folder = Path(folder).absolute()
    if not folder.is_dir():
        raise FileNotFoundError(f"Expected a checkpoint folder, found none at {folder}.")
    _refuse(folder, _file_problems(folder))
    missing = [name for name in REQUIRED if not (folder / name).is_file()]
    if missing:
        raise FileNotFoundError(
            f"{folder} is no complete checkpoint: {', '.join(missing)} not found. `save_pretrained` of model and "
            "processor writes all but README.md, and `spectralgpt_hf.hub.card_for` a beginning of that."
        )
    check_card((folder / "README.md").read_text(encoding="utf-8"))
    _refuse(folder, _setting_problems(folder))
    config = SpectralGPTConfig.from_pretrained(folder)
    architecture = getattr(modeling_spectralgpt, (config.architectures or [""])[0])
    with torch.device("meta"):
        expected = {name: tuple(tensor.shape) for name, tensor in architecture(config).state_dict().items()}
    _refuse(folder, _weight_problems(folder, expected))

    model = architecture.from_pretrained(folder, dtype=torch.float32).eval()
    outputs = forward(model, SpectralGPTImageProcessor.from_pretrained(folder))
    del model
    check_outputs(forward_in_isolation(folder, architecture.__name__), outputs, f"{folder}, loaded by its own code,")
    return outputs


def check_outputs(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor], what: str) -> None:
    """Raise a `ValueError` unless two loads of one checkpoint computed the same finite numbers."""
    for name, tensor in expected.items():
        if not tensor.isfinite().all():
            raise ValueError(f"{what} computes NaN or infinity in `{name}`.")
        difference = (found[name] - tensor).abs().max() if name in found else torch.tensor(torch.inf)
        if not difference <= TOLERANCE * tensor.abs().max():
            raise ValueError(f"{what} differs by {difference:.1e} in `{name}` from what this package computes.")


def _refuse(folder: Path, problems: Iterator[str]) -> None:
    found = list(problems)
    if found:
        more = [f"... and {len(found) - 20} more"] if len(found) > 20 else []
        raise ValueError(f"{folder} cannot be published:\n  " + "\n  ".join(found[:20] + more))


def _file_problems(folder: Path) -> Iterator[str]:
    """Look at the kind and the content of every file."""
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.is_symlink():
            yield f"{name}: a link; expected the file itself"
        elif not path.is_dir():
            yield from (f"{name}: {problem}" for problem in problems_of(path))


def problems_of(path: Path) -> Iterator[str]:
    """Say why a file must not be published, by its kind and its content."""
    if path.suffix in PICKLES or zipfile.is_zipfile(path):
        yield "may be a pickle, which runs code when it is loaded; weights go into safetensors"
    elif not re.fullmatch(r"[\w.+-]+", path.name):
        yield "expected a name of letters, digits and . _ - +"
    elif path.suffix == ".py":
        ours = CODE[path.name].read_bytes() if path.name in CODE else ENDPOINT_FILES.get(path.name)
        if path.read_bytes() != ours:
            yield "code that is not this package's; save the model again with the version that publishes it"
    elif path.suffix == ".safetensors":
        try:
            with safe_open(path, "pt") as file:
                yield from _private_matters(json.dumps(file.metadata() or {}))
        except SafetensorError as error:
            yield f"no safetensors: {error}"
    elif path.suffix in PICTURES:
        try:
            Image.open(path).verify()
        except Exception as error:  # of each decoder another one
            yield f"no picture: {error}"
        yield from _private_matters(path.read_bytes().decode("latin-1"))  # metadata are plain text in every format
    elif path.suffix in TEXTS or path.name in NAMES:
        try:
            text = path.read_bytes().decode("utf-8")
            if path.suffix == ".json":
                json.loads(text)
        except (UnicodeDecodeError, json.JSONDecodeError, RecursionError) as error:
            yield f"not what its name says: {error}"
        else:
            yield from _private_matters(text)
    else:
        yield "not a file of a checkpoint; move it out of the folder"


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


def _setting_problems(folder: Path) -> Iterator[str]:
    """Look at both configurations: known entries only, of possible values, that agree with each other."""
    settings, processing = (_read_object(folder / name) for name in ("config.json", "preprocessor_config.json"))
    known = SpectralGPTConfig().to_dict()
    unknown = [name for name in settings if name not in known]
    if unknown:
        yield f"config.json: unknown entries {', '.join(unknown)}"
    for entry, found, expected in (
        ("config.json: `auto_map`", settings.get("auto_map"), AUTO_MAP),
        ("config.json: `custom_pipelines`", settings.get("custom_pipelines"), CUSTOM_PIPELINES),
        ("preprocessor_config.json: `auto_map`", processing.get("auto_map"), {PROCESSOR: AUTO_MAP[PROCESSOR]}),
    ):
        if found != expected:
            yield f"{entry} leads elsewhere than to the code in this folder"
    architectures = [name for name in modeling_spectralgpt.__all__ if name != "SpectralGPTPreTrainedModel"]
    if settings.get("architectures") not in [[name] for name in architectures]:
        yield (
            f"config.json: `architectures` must be one of {', '.join(architectures)}, found "
            f"{settings.get('architectures')}"
        )
    name = "config.json"
    try:
        config = SpectralGPTConfig.from_pretrained(folder)
        name = "preprocessor_config.json"
        processor = SpectralGPTImageProcessor.from_pretrained(folder)
    except Exception as error:  # the client's StrictDataclassError is no ValueError
        yield f"{name}: {error}"
        return
    for name in ("bands", "patch_size", "spectral_patch_size"):
        if getattr(config, name) != getattr(processor, name):
            yield (
                f"`{name}` is {getattr(config, name)} in config.json, but {getattr(processor, name)} in "
                "preprocessor_config.json"
            )


def _weight_problems(folder: Path, expected: dict[str, tuple[int, ...]]) -> Iterator[str]:
    """Look at every tensor, one in memory at a time."""
    weight_map: Any = dict.fromkeys(expected, WEIGHTS)
    if (folder / INDEX).is_file():
        weight_map = _read_object(folder / INDEX).get("weight_map")
    if not isinstance(weight_map, dict) or not all(re.fullmatch(SHARD, str(shard)) for shard in weight_map.values()):
        yield f"{INDEX}: expected a `weight_map` from tensors to files in this folder"
        return
    present = {path.relative_to(folder).as_posix() for path in folder.rglob("*.safetensors")}
    shards = set(weight_map.values())
    if present != shards:
        yield f"weights: expected {', '.join(sorted(shards))}, found {', '.join(sorted(present)) or 'none'}"
        return

    found: dict[str, str] = {}
    moved: dict[str, bool] = {}  # by part of the network
    for shard in sorted(shards):
        with safe_open(folder / shard, "pt") as file:
            for name in file.keys():  # noqa: SIM118  a file is no mapping
                found[name] = shard
                tensor = file.get_tensor(name)
                if name not in expected:
                    yield f"{name}: left over, no such tensor in this architecture"
                elif tuple(tensor.shape) != expected[name]:
                    yield f"{name}: expected shape {expected[name]}, found {tuple(tensor.shape)}"
                elif not tensor.is_floating_point() or not tensor.isfinite().all():
                    yield f"{name}: expected finite floats, found {tensor.dtype} with NaN or infinity"
                elif tensor.ndim == 1:  # a bias or a scale
                    part = name.split(".")[0]
                    initial = 0 if name.endswith("bias") else 1
                    moved[part] = moved.get(part, False) or bool((tensor != initial).any())
    yield from (f"{name}: missing, expected {expected[name]}" for name in expected if name not in found)
    if found != weight_map and found.keys() == expected.keys():
        yield f"{INDEX}: does not say where the tensors are"
    for part in (part for part, has_moved in moved.items() if not has_moved):
        yield f"`{part}` is as initialised: all biases 0, all scales 1. No training has changed it"


def _read_object(path: Path) -> dict[str, Any]:
    content = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(content, dict):
        raise ValueError(f"{path}: expected a JSON object, found a {type(content).__name__}.")
    return content
