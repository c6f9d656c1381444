"""The parity fixtures: checkpoints made by formula, inputs made from a seed, outputs of the released implementation."""

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from spectralgpt_hf import SpectralGPTConfig
from spectralgpt_hf.conversion.state_dict import to_ours
from tests.fixtures.parity.formula_weights import formula_input, formula_parameter


FOLDER = Path(__file__).parent / "fixtures" / "parity"
SIZES = {
    "toy": {
        "image_size": 32,
        "hidden_size": 48,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "intermediate_size": 192,
        "decoder_hidden_size": 32,
        "decoder_num_hidden_layers": 2,
        "decoder_num_attention_heads": 4,
        "decoder_intermediate_size": 128,
    },
    "base_96": {"image_size": 96},
    "base_128": {"image_size": 128},
}


def config(case: str, **overrides: Any) -> SpectralGPTConfig:
    return SpectralGPTConfig(**{**SIZES[case], **overrides})


def original_checkpoint(case: str) -> dict[str, torch.Tensor]:
    """Return the checkpoint of a case, with the original's names."""
    shapes = json.loads((FOLDER / "original_parameter_shapes.json").read_text())[case]
    return {name: torch.from_numpy(formula_parameter(name, tuple(shape))) for name, shape in shapes.items()}


def checkpoint(case: str) -> dict[str, torch.Tensor]:
    """Return the checkpoint of a case, with our names."""
    return to_ours(original_checkpoint(case))


def expected(file: str) -> dict[str, torch.Tensor]:
    return load_file(FOLDER / f"{file}_expected.safetensors")


def random_input(seed: int, *shape: int) -> torch.Tensor:
    return torch.from_numpy(formula_input(seed, shape))


def relative_error(actual: torch.Tensor, reference: torch.Tensor) -> float:
    """Largest absolute difference, relative to the largest absolute value."""
    return ((actual - reference).abs().max() / reference.abs().max()).item()
