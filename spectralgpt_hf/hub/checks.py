"""Check a checkpoint folder before it is published: complete, loadable, trained, and free of harmful content.

Users who load it must not receive pickles, foreign code or weights that are not finite. Publishers must not leak keys
or paths of their machine. `allowed_files` checks each file by itself, this module checks the folder as a whole.
"""

import re
from collections.abc import Iterator
from os import PathLike
from pathlib import Path

import torch
from safetensors import safe_open
from transformers.initialization import no_init_weights

from ..inference.checkpoints import without_weight_bars
from ..modeling import modeling_spectralgpt
from ..modeling.configuration_spectralgpt import AUTO_MAP, CUSTOM_PIPELINES, SpectralGPTConfig
from ..modeling.image_processing_spectralgpt import SpectralGPTImageProcessor
from .allowed_files import CODE, INDEX, SHARD, problems_of, read_object
from .cards import check_card
from .isolation import forward, forward_in_isolation


REQUIRED = ("README.md", "config.json", "preprocessor_config.json", *sorted(CODE))
PROCESSOR = "AutoImageProcessor"
WEIGHTS = "model.safetensors"
# Largest accepted difference between the outputs of two loads of one checkpoint, relative to the largest value.
TOLERANCE = 1e-4


@without_weight_bars()
def check_checkpoint(folder: str | PathLike[str]) -> dict[str, torch.Tensor]:
    """Refuse a folder that should not be published.

    The check cannot see whether weights were trained *well*. It refuses a part of the network (encoder, decoder, head)
    that was never trained: its biases are all 0 and its normalisation scales all 1, as after initialisation.

    Args:
        folder: A folder with what `save_pretrained` of model and processor wrote, and a README.md.

    Returns:
        The outputs of this package for one image. The code saved in the checkpoint computes the same.

    Raises:
        FileNotFoundError: If there is no such folder, or a file is missing.
        ValueError: If the folder holds something that must not be published; the message names it.
    """
    folder = Path(folder).absolute()
    if not folder.is_dir():
        raise FileNotFoundError(f"Expected a checkpoint folder, found none at {folder}.")
    _refuse(folder, _file_problems(folder))
    missing = [name for name in REQUIRED if not (folder / name).is_file()]
    if missing:
        raise FileNotFoundError(
            f"{folder} is not a complete checkpoint: {', '.join(missing)} not found. `save_pretrained` of model and "
            "processor writes all files but README.md; `spectralgpt_hf.hub.card_for` drafts that."
        )
    check_card((folder / "README.md").read_text(encoding="utf-8"))
    _refuse(folder, _setting_problems(folder))
    config = SpectralGPTConfig.from_pretrained(folder)
    architecture = getattr(modeling_spectralgpt, (config.architectures or [""])[0])
    with torch.device("meta"), no_init_weights():
        expected = {name: tuple(tensor.shape) for name, tensor in architecture(config).state_dict().items()}
    _refuse(folder, _weight_problems(folder, expected))

    model = architecture.from_pretrained(folder, dtype=torch.float32).eval()
    outputs = forward(model, SpectralGPTImageProcessor.from_pretrained(folder))
    del model
    check_outputs(forward_in_isolation(folder, architecture.__name__), outputs, f"{folder}, loaded by its own code,")
    return outputs


def check_outputs(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor], what: str) -> None:
    """Raise a `ValueError` unless two loads of one checkpoint gave the same finite outputs; `what` names the second."""
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
    """Yield problems with the kind and the content of every file."""
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.is_symlink() or not path.is_dir():
            yield from (f"{name}: {problem}" for problem in problems_of(path, name))


def _setting_problems(folder: Path) -> Iterator[str]:
    """Yield problems with both configurations: unknown entries, impossible values, and contradictions."""
    settings, processing = (read_object(folder / name) for name in ("config.json", "preprocessor_config.json"))
    known = SpectralGPTConfig().to_dict()
    unknown = [name for name in settings if name not in known]
    if unknown:
        yield f"config.json: unknown entries {', '.join(unknown)}"
    if settings.get("model_type") != SpectralGPTConfig.model_type:
        yield f"config.json: `model_type` must be 'spectralgpt', found {settings.get('model_type')!r}"
    for entry, found, expected in (
        ("config.json: `auto_map`", settings.get("auto_map"), AUTO_MAP),
        ("config.json: `custom_pipelines`", settings.get("custom_pipelines"), CUSTOM_PIPELINES),
        ("preprocessor_config.json: `auto_map`", processing.get("auto_map"), {PROCESSOR: AUTO_MAP[PROCESSOR]}),
    ):
        if found != expected:
            yield f"{entry} must point to the code in this folder, as `save_pretrained` writes it"
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
    except Exception as error:  # the StrictDataclassError of huggingface_hub is not a ValueError
        yield f"{name}: {error}"
        return
    for name in ("sensor", "bands", "patch_size", "spectral_patch_size"):
        if getattr(config, name) != getattr(processor, name):
            yield (
                f"`{name}` is {getattr(config, name)} in config.json, but {getattr(processor, name)} in "
                "preprocessor_config.json"
            )


def _weight_problems(folder: Path, expected: dict[str, tuple[int, ...]]) -> Iterator[str]:
    """Yield problems with the weights. One tensor at a time is in memory."""
    weight_map: object = dict.fromkeys(expected, WEIGHTS)
    if (folder / INDEX).is_file():
        weight_map = read_object(folder / INDEX).get("weight_map")
    if not isinstance(weight_map, dict) or not all(re.fullmatch(SHARD, str(shard)) for shard in weight_map.values()):
        yield f"{INDEX}: expected a `weight_map` from tensors to files in this folder"
        return
    present = {path.relative_to(folder).as_posix() for path in folder.rglob("*.safetensors")}
    shards = set(weight_map.values())
    if present != shards:
        yield f"weights: expected {', '.join(sorted(shards))}, found {', '.join(sorted(present)) or 'none'}"
        return

    found: dict[str, str] = {}
    trained: dict[str, bool] = {}  # by part of the network
    for shard in sorted(shards):
        with safe_open(folder / shard, "pt") as file:
            for name in file.keys():  # noqa: SIM118  the file object cannot be iterated
                found[name] = shard
                tensor = file.get_tensor(name)
                if name not in expected:
                    yield f"{name}: unexpected, the architecture has no such tensor"
                elif tuple(tensor.shape) != expected[name]:
                    yield f"{name}: expected shape {expected[name]}, found {tuple(tensor.shape)}"
                elif not tensor.is_floating_point() or not tensor.isfinite().all():
                    yield f"{name}: expected finite floats, found {tensor.dtype} with NaN or infinity"
                elif tensor.ndim == 1:  # a bias or a scale
                    part = name.split(".")[0]
                    initial = 0 if name.endswith("bias") else 1
                    trained[part] = trained.get(part, False) or bool((tensor != initial).any())
    yield from (f"{name}: missing, expected {expected[name]}" for name in expected if name not in found)
    if found != weight_map and found.keys() == expected.keys():
        yield f"{INDEX}: names other files for the tensors than those that hold them"
    for part in (part for part, is_trained in trained.items() if not is_trained):
        yield f"`{part}` was never trained: all its biases are 0 and all its scales 1, as after initialisation"
