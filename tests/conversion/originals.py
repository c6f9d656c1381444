"""Checkpoints as the original code writes them, small enough for tests."""

import argparse
import json
from pathlib import Path

import torch

from tests import parity
from tests.fixtures.parity.formula_weights import formula_parameter


TOY = parity.FOLDER / "toy_pretrain_original.pth"
TOY_HEADS = {"num_attention_heads": 4, "decoder_num_attention_heads": 4}


def toy_tensors() -> dict[str, torch.Tensor]:
    with torch.serialization.safe_globals([argparse.Namespace]):
        return dict(torch.load(TOY, weights_only=True)["model"])


def narrow_tensors(task: str, num_labels: int | None = None) -> dict[str, torch.Tensor]:
    """Return the formula-made Base checkpoint of a dense task, every large size divided by 16: 32 px, 48 wide."""
    shapes = json.loads((parity.FOLDER / "original_parameter_shapes.json").read_text())[f"{task}_base_128"]
    tensors = {}
    for name, shape in shapes.items():
        shape = [size // 16 if size >= 256 else size for size in shape]
        if num_labels and name.startswith("cls_seg"):
            shape[0] = num_labels
        tensors[name] = torch.from_numpy(formula_parameter(name, tuple(shape)))
    return tensors


def save(path: Path, content: object) -> Path:
    torch.save(content, path)
    return path


def several_gpus(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {f"module.{name}": tensor for name, tensor in tensors.items()}
