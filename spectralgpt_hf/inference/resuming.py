"""Keep the finished strips of a long run on disk, so that a run that was killed resumes where it stopped."""

import hashlib
import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch

from ..files import atomic_path


class FinishedStrips:
    """The finished strips of a run, in the folder `<destination>.parts`.

    Only a run with the same fingerprint uses them. Those of another run are removed.

    Args:
        destination: File to write from the strips.
        fingerprint: Hash of everything that the result depends on.
        clean: Whether to remove the strips of another run. One process must do so for all.

    Attributes:
        folder: Folder of the strips. Scratch files of the run may be put there too.
    """

    def __init__(self, destination: Path, fingerprint: str, clean: bool = False) -> None:
        root = Path(f"{destination}.parts")
        self.folder = root / fingerprint
        if clean and root.is_dir() and not self.folder.is_dir():
            shutil.rmtree(root)
        self.folder.mkdir(parents=True, exist_ok=True)

    @staticmethod
    def exist(destination: Path, fingerprint: str) -> bool:
        """Return whether there is an interrupted run with this fingerprint."""
        return (Path(f"{destination}.parts") / fingerprint).is_dir()

    def __contains__(self, name: str) -> bool:
        return self._path(name).is_file()

    def save(self, name: str, layers: Mapping[str, np.ndarray]) -> None:
        """Write all layers of a strip to one file, through `atomic_path`."""
        with atomic_path(self._path(name)) as scratch, scratch.open("wb") as file:
            np.savez(file, **cast(dict[str, Any], layers))

    def load(self, name: str, layer: str) -> np.ndarray:
        """Return one layer of a strip."""
        with np.load(self._path(name)) as layers:
            return layers[layer]

    def remove(self) -> None:
        """Remove the folder, when the destination is complete."""
        shutil.rmtree(self.folder.parent)

    def _path(self, name: str) -> Path:
        return self.folder / f"{name}.npz"


def fingerprint(**inputs: object) -> str:
    """Return a short hash of values, as JSON where possible and else by their `str`."""
    text = json.dumps(inputs, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def hash_weights(model: torch.nn.Module) -> str:
    """Return the hash of a model's weights."""
    digest = hashlib.sha256()
    for name, tensor in model.state_dict().items():
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
