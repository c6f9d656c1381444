"""Export a checkpoint to ONNX, and compare its outputs with PyTorch's before the file is written."""

import importlib.util
import logging
import math
import warnings
from os import PathLike
from pathlib import Path
from typing import NamedTuple, cast

import numpy as np
import torch
from torch import nn

from ..assets import find_checkpoint
from ..files import atomic_path, locked
from ..inference.checkpoints import reading
from ..modeling.configuration_spectralgpt import SpectralGPTConfig
from ..modeling.modeling_spectralgpt import SpectralGPTForImageClassification, SpectralGPTModel


# Largest accepted difference from PyTorch.
TOLERANCE = 1e-4
# Protocol buffers limit a file to 2 GiB.
LARGEST_FILE = 2**31
CLASSIFIER, ENCODER = ("logits",), ("last_hidden_state", "pooler_output")


class OnnxExport(NamedTuple):
    """The result of an export.

    Attributes:
        architecture: The class that was exported.
        image_size: Height and width of its images.
        difference: Largest absolute difference between the outputs of ONNX Runtime and of PyTorch.
    """

    architecture: str
    image_size: int
    difference: float


def export_onnx(
    checkpoint: str | PathLike[str],
    output_file: str | PathLike[str],
    *,
    image_size: int | None = None,
    revision: str = "main",
) -> OnnxExport:
    """Write a checkpoint as one ONNX file, for images of one size and batches of any size.

    Inputs are `pixel_values` (B, C, S, S), float32, as the processor makes them, and `attention_mask` (B, N), int64, 1
    where a token has data. The outputs of a classification checkpoint are `logits` (B, classes). Of any other
    checkpoint the encoder is exported, whose outputs are `last_hidden_state` (B, N, D) and `pooler_output` (B, D). The
    file's metadata hold the names of the bands.

    Args:
        checkpoint: Folder, name on the Hub, or alias of an embedded one, as in `assets.find_checkpoint`.
        output_file: `.onnx` file. An existing one is replaced after the new one was compared with PyTorch.
        image_size: Height and width S in pixels, a multiple of the patch size; that of the checkpoint by default.
        revision: Branch, tag or commit on the Hub.

    Returns:
        The exported class, its image size, and the largest difference from PyTorch.

    Raises:
        FileNotFoundError: If there is no such checkpoint.
        ImportError: If the extra `export` is not installed.
        ValueError: If the size is not a multiple of the patch size, the weights do not fit in one file, or the outputs
            differ from PyTorch's.
    """
    missing = [name for name in ("onnx", "onnxruntime", "onnxscript") if importlib.util.find_spec(name) is None]
    if missing:
        raise ImportError(f"Export needs {', '.join(missing)}: `pip install spectralgpt-hf[export]`.")
    output_file = Path(output_file)
    if output_file.suffix != ".onnx":
        raise ValueError(f"Expected a file ending with .onnx, got {output_file}.")
    checkpoint = find_checkpoint(checkpoint, revision)
    with reading(checkpoint):
        config = SpectralGPTConfig.from_pretrained(checkpoint, revision=revision)
    size = config.image_size if image_size is None else image_size
    if size <= 0 or size % config.patch_size:
        raise ValueError(f"`image_size` must be a multiple of {config.patch_size} px (`patch_size`), got {size}.")
    is_classifier = config.architectures == [SpectralGPTForImageClassification.__name__]
    architecture = SpectralGPTForImageClassification if is_classifier else SpectralGPTModel
    with reading(checkpoint):
        model = architecture.from_pretrained(checkpoint, revision=revision, dtype=torch.float32).eval()
    if 4 * model.num_parameters() > LARGEST_FILE:
        raise ValueError(
            f"{checkpoint}: expected weights of at most 2 GiB, the limit of an ONNX file, found "
            f"{model.num_parameters():,} in float32."
        )
    graph = _Graph(model, CLASSIFIER if is_classifier else ENCODER).eval()

    with locked(output_file), atomic_path(output_file) as part:
        program = _trace(graph, _example(config, size, 2))
        program.model.metadata_props.update(bands=",".join(config.bands or ()), image_size=str(size))
        program.save(part, external_data=False)
        difference = max(_difference(part, graph, _example(config, size, batch)) for batch in (1, 3))
        if not difference <= TOLERANCE:
            raise ValueError(
                f"{checkpoint}: expected outputs within {TOLERANCE} of PyTorch's, found a difference of "
                f"{difference:.1e}. Nothing was written."
            )
    return OnnxExport(architecture.__name__, size, difference)


class _Graph(nn.Module):
    """A model with its two inputs by position and only the named outputs."""

    def __init__(self, model: nn.Module, outputs: tuple[str, ...]):
        super().__init__()
        self.model, self.outputs = model, outputs

    def forward(self, pixel_values: torch.Tensor, attention_mask: torch.Tensor) -> tuple[torch.Tensor, ...]:
        results = self.model(pixel_values, attention_mask=attention_mask)
        return tuple(results[name] for name in self.outputs)


def _example(config: SpectralGPTConfig, size: int, batch: int) -> dict[str, torch.Tensor]:
    """Return random inputs, some of whose tokens have no data."""
    noise = torch.Generator().manual_seed(batch)
    tokens = math.prod((config.num_groups, *[size // config.patch_size] * 2))
    mask = (torch.rand(batch, tokens, generator=noise) < 0.9).long()
    mask[:, 0] = 1
    return {
        "pixel_values": torch.rand(batch, config.num_channels, size, size, generator=noise),
        "attention_mask": mask,
    }


def _trace(graph: _Graph, example: dict[str, torch.Tensor]) -> torch.onnx.ONNXProgram:
    batch = torch.export.Dim("batch", min=1)
    registration = logging.getLogger("torch.onnx._internal.exporter._registration")
    level = registration.level
    registration.setLevel(logging.ERROR)  # it warns that torchvision is not installed
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the exporter warns about its own code
            program = torch.onnx.export(
                graph,
                kwargs=example,
                dynamo=True,
                input_names=list(example),
                output_names=list(graph.outputs),
                dynamic_shapes={name: {0: batch} for name in example},
                verbose=False,
            )
            return cast(torch.onnx.ONNXProgram, program)  # with `dynamo=True` and no file, the program is returned
    finally:
        registration.setLevel(level)


@torch.no_grad()
def _difference(file: Path, graph: _Graph, example: dict[str, torch.Tensor]) -> float:
    """Return the largest difference between the outputs of a file and of PyTorch."""
    import onnxruntime

    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    found = session.run(list(graph.outputs), {name: tensor.numpy() for name, tensor in example.items()})
    return max(float(np.abs(one - other.numpy()).max()) for one, other in zip(found, graph(**example)))
