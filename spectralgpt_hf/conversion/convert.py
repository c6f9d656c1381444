"""Convert an original checkpoint into a folder that `from_pretrained` loads, and back."""

import json
import logging
from dataclasses import replace
from os import PathLike
from pathlib import Path
from typing import TypedDict
from urllib.parse import urlsplit

import torch
from safetensors.torch import save_file
from transformers.initialization import no_init_weights

from ..assets import find_checkpoint
from ..files import atomic_path, digest, locked
from ..hub.cards import Record, card_for
from ..hub.endpoint import ENDPOINT_FILES
from ..hub.model_items import write_model_item
from ..inference.checkpoints import without_weight_bars
from ..modeling.configuration_spectralgpt import SpectralGPTConfig
from ..modeling.image_processing_spectralgpt import SpectralGPTImageProcessor
from ..modeling.modeling_spectralgpt import SpectralGPTForChangeDetection, SpectralGPTModel
from .architecture import check_tensors, infer_architecture, saved_architecture
from .original_checkpoint import OriginalCheckpoint, fetch, is_url, read_original
from .state_dict import ENCODER, our_name, to_original, to_ours


logger = logging.getLogger(__name__)

DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
MAX_SHARD_SIZE = "5GB"
CAST_PARTS = 8
RECORD = "conversion.json"


class Layout(TypedDict):
    """How an original file stores its state dict; see `OriginalCheckpoint`."""

    nested: bool
    prefix: str


class Dtypes(TypedDict):
    """The dtype of the weights in the source and in the converted folder."""

    source: str
    written: str


class TensorRecord(TypedDict):
    """Both names of a converted tensor, and its shape in the original."""

    original: str
    ours: str
    shape: list[int]


class ConversionRecord(Record):
    """The content of `conversion.json`.

    `left_behind` lists the keys beside the state dict, `left_over` the tensors that do not belong to the architecture.
    """

    layout: Layout
    dtype: Dtypes
    left_behind: list[str]
    left_over: list[str]
    tensors: list[TensorRecord]


@without_weight_bars()
def convert_checkpoint(
    source: str | PathLike[str],
    output_dir: str | PathLike[str],
    *,
    dtype: str | torch.dtype | None = None,
    **config_overrides: object,
) -> Path:
    """Convert a checkpoint of the original code into a folder for `from_pretrained`.

    The folder holds the configuration, safetensors, the processor with the bands and normalisation of this checkpoint,
    the model's code, `handler.py` for Inference Endpoints, its card (README.md), its STAC item (`stac_item.json`), and
    `conversion.json`: the source's SHA-256, and for each tensor both names and the shape.

    Args:
        source: Path or URL of a `.pth` file, or of a `.safetensors` file with the original's names. It may hold a
            network for pretraining, segmentation or change detection, or an encoder. An encoder becomes a
            `SpectralGPTModel`, and other tensors beside it are not converted. A URL may end with `#sha256=...`, which
            the download is then checked against.
        output_dir: The folder to write. It must not exist, or be empty; if the conversion fails, it is not written.
        dtype: "float32", "float16" or "bfloat16"; by default that of the checkpoint.
        config_overrides: Attributes of `SpectralGPTConfig` that cannot be inferred from the tensors:
            `num_attention_heads` and `decoder_num_attention_heads` where no preset has the width, `bands` where they
            are not the 12 of Sentinel-2 L2A, with their `sensor` and `wavelengths`,
            `architectures=["SpectralGPTForSemanticSegmentation"]` for two classes in a bare state dict,
            `architectures=["SpectralGPTModel"]` to convert only the encoder of a file.

    Returns:
        `output_dir`.

    Raises:
        ValueError: If the file is not an original checkpoint; if a tensor is missing, unexpected, of another shape or
            not finite; if an override is unknown; or if the folder is not empty.
        FileNotFoundError: If there is no `source`.
        ConnectionError: If the download fails.
        OSError: If the folder cannot be written, or another process writes it.
    """
    output_dir = Path(output_dir)
    target_dtype = _resolve_dtype(dtype)
    _expect_new(output_dir)
    path = fetch(source)
    original = read_original(path)
    architecture, config = infer_architecture(original, config_overrides)
    with torch.device("meta"), no_init_weights():
        model = architecture(config)  # names and shapes only
    left_over: list[str] = []
    if architecture is SpectralGPTModel:
        expected = to_original(model.state_dict(), config)
        left_over = [name for name in original.state_dict if name not in expected]
        original = replace(original, state_dict={n: t for n, t in original.state_dict.items() if n in expected})
    check_tensors(original, model)
    drop = ENCODER if architecture is SpectralGPTModel else ""
    record = _describe(source, path, original, architecture.__name__, target_dtype, left_over, drop)
    if target_dtype is None:
        tensors = original.state_dict  # still memory-mapped
        _check_dtype(original)
    else:
        names = list(original.state_dict)
        del original
        tensors = _cast(path, names, target_dtype)
    ours = to_ours(_without_aliases(tensors))
    model.load_state_dict({name.removeprefix(drop): tensor for name, tensor in ours.items()}, assign=True)
    processor = SpectralGPTImageProcessor(**config.band_settings())

    with locked(output_dir), atomic_path(output_dir) as folder:
        _expect_new(output_dir)  # another process may have written it meanwhile
        folder.mkdir()
        model.save_pretrained(folder, max_shard_size=MAX_SHARD_SIZE)
        processor.save_pretrained(folder)
        (folder / RECORD).write_text(json.dumps(record, indent=1) + "\n")
        (folder / "README.md").write_text(card_for(model.config, record), encoding="utf-8")
        for name, content in ENDPOINT_FILES.items():
            (folder / name).write_bytes(content)
        write_model_item(folder, output_dir.resolve().name)
    if left_over:
        logger.warning(
            "%s: %d tensors do not belong to the encoder and were not converted; %s lists them.",
            path,
            len(left_over),
            RECORD,
        )
    logger.info("%s: %d tensors converted, written to %s", path, len(record["tensors"]), output_dir)
    return output_dir


@without_weight_bars()
def restore_checkpoint(
    checkpoint: str | PathLike[str], output_file: str | PathLike[str], *, revision: str = "main"
) -> Path:
    """Write a converted checkpoint in the original's layout, with the original's names, shapes and exact values.

    Args:
        checkpoint: Folder, or name on the Hub, of a pretraining, segmentation or change-detection checkpoint.
        output_file: `.pth` or `.safetensors` file to write; it must not exist. The layout (`{"model": ...}` or bare,
            with or without "module.") is that of the source if `conversion.json` records it, else that of the task.
        revision: Branch, tag or commit on the Hub.

    Returns:
        `output_file`.

    Raises:
        ValueError: If the file exists, or the original has no such network.
    """
    output_file = Path(output_file)
    if output_file.exists() or output_file.suffix not in (".pth", ".safetensors"):
        raise ValueError(f"Expected a new file ending with .pth or .safetensors, got {output_file}.")
    checkpoint = find_checkpoint(checkpoint, revision)
    config = SpectralGPTConfig.from_pretrained(checkpoint, revision=revision)
    architecture = saved_architecture(config)
    model = architecture.from_pretrained(checkpoint, revision=revision, dtype="auto")

    record_file = Path(checkpoint) / RECORD
    layout: Layout = {"nested": architecture is not SpectralGPTForChangeDetection, "prefix": ""}
    if record_file.is_file():
        record: ConversionRecord = json.loads(record_file.read_text())
        layout, dtypes = record["layout"], record["dtype"]
        if dtypes["source"] != dtypes["written"]:
            logger.warning(
                "The checkpoint was converted from %s to %s, so its values are rounded.",
                dtypes["source"],
                dtypes["written"],
            )
    tensors = to_original(model.state_dict(), config)
    tensors = {f"{layout['prefix']}{name}": tensor.contiguous() for name, tensor in tensors.items()}
    with locked(output_file), atomic_path(output_file) as part:
        if output_file.suffix == ".safetensors":
            save_file(tensors, part)
        else:
            with part.open("wb") as file:  # given a path, torch writes the name of the scratch file into the archive
                torch.save({"model": tensors} if layout["nested"] else tensors, file)
    return output_file


def _expect_new(folder: Path) -> None:
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ValueError(f"Expected a new or an empty folder to write to, found files in {folder}.")


def _resolve_dtype(dtype: str | torch.dtype | None) -> torch.dtype | None:
    if dtype is None:
        return None
    name = str(dtype).removeprefix("torch.")
    if name not in DTYPES:
        raise ValueError(f"`dtype` must be one of {', '.join(DTYPES)}, got {dtype!r}.")
    return DTYPES[name]


def _check_dtype(original: OriginalCheckpoint) -> None:
    found = sorted({_dtype_name(tensor.dtype) for tensor in original.state_dict.values()})
    if len(found) > 1:
        raise ValueError(f"{original.name} mixes {', '.join(found)}: choose one with `dtype`.")


def _without_aliases(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Copy tensors that are views or share memory with another one, because safetensors refuses to save those."""
    seen: set[int] = set()
    separate: dict[str, torch.Tensor] = {}
    for name, tensor in tensors.items():
        storage = tensor.untyped_storage()
        if storage.data_ptr() in seen or not tensor.is_contiguous():
            tensor = tensor.clone(memory_format=torch.contiguous_format)
        seen.add(storage.data_ptr())
        separate[name] = tensor
    return separate


def _cast(path: Path, names: list[str], dtype: torch.dtype) -> dict[str, torch.Tensor]:
    """Return the named tensors of a checkpoint in `dtype`; `ValueError` if it cannot hold a value."""
    tensors: dict[str, torch.Tensor] = {}
    for part in range(CAST_PARTS):
        # The file is opened again for each part: pages that were read count as memory until it is closed.
        mapped = read_original(path).state_dict
        for name in names[part::CAST_PARTS]:
            tensors[name] = mapped[name].to(dtype)
            if not tensors[name].isfinite().all():
                raise ValueError(
                    f"{path.name}: {our_name(name)} holds values beyond the range of {dtype}. Use bfloat16 or float32."
                )
    return tensors


def _describe(
    source: str | PathLike[str],
    path: Path,
    original: OriginalCheckpoint,
    architecture: str,
    dtype: torch.dtype | None,
    left_over: list[str],
    drop: str,
) -> ConversionRecord:
    """Return the content of `conversion.json`.

    Of a local source it holds only the file name, because the folder may be published. The prefix `drop` is removed
    from our names: in `SpectralGPTModel` the names of the encoder have none.
    """
    url = urlsplit(str(source))
    source_dtype = next(iter(original.state_dict.values())).dtype
    return {
        "source": {
            "file": path.name,
            "url": f"{url.scheme}://{url.hostname}{url.path}" if is_url(source) else None,
            "bytes": path.stat().st_size,
            "sha256": digest(path),
        },
        "architecture": architecture,
        "layout": {"nested": original.nested, "prefix": original.prefix},
        "dtype": {"source": _dtype_name(source_dtype), "written": _dtype_name(dtype or source_dtype)},
        "left_behind": list(original.others),
        "left_over": left_over,
        "tensors": [
            {
                "original": f"{original.prefix}{name}",
                "ours": our_name(name).removeprefix(drop),
                "shape": list(tensor.shape),
            }
            for name, tensor in original.state_dict.items()
        ],
    }


def _dtype_name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
