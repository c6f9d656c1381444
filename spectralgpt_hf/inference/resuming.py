"""What is finished of a long run, on disk: a run that was killed goes on where it stopped."""

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
    """Finished strips in a folder beside the destination, `<destination>.parts`.

    They count only for the run with the same fingerprint; those of another run are removed.

    Args:
        destination: What the strips will become.
        fingerprint: Of everything that the result depends on.
        clean: Whether to remove the strips of another run, which one process does for all.

    Attributes:
        folder: Where they are; files that live as long may be put there too.
    """

    def __init__(self, destination: Path, fingerprint: str, clean: bool = False) -> None:
        root = Path(f"{destination}.parts")
        self.folder = root / fingerprint
        if clean and root.is_dir() and not self.folder.is_dir():
            shutil.rmtree(root)
        self.folder.mkdir(parents=True, exist_ok=True)

    @staticmethod
    def exist(destination: Path, fingerprint: str) -> bool:
        """Return whether a run with this fingerprint was stopped."""
        return (Path(f"{destination}.parts") / fingerprint).is_dir()

    def __contains__(self, name: str) -> bool:
        return self._path(name).is_file()

    def save(self, name: str, layers: Mapping[str, np.ndarray]) -> None:
        """Write the layers of a strip, all or nothing."""
        with atomic_path(self._path(name)) as scratch, scratch.open("wb") as file:
            np.savez(file, **cast(dict[str, Any], layers))

    def load(self, name: str, layer: str) -> np.ndarray:
        """Return one layer of a strip."""
        with np.load(self._path(name)) as layers:
            return layers[layer]

    def remove(self) -> None:
        """Remove the folder, once the destination is complete."""
        shutil.rmtree(self.folder.parent)

    def _path(self, name: str) -> Path:
        return self.folder / f"{name}.npz"


def fingerprint(**inputs: Any) -> str:
    """Return a short hash of what JSON can hold, and of whatever `str` says of the rest."""
    text = json.dumps(inputs, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def hash_weights(model: torch.nn.Module) -> str:
    """Return the hash of a model's weights."""
    digest = hashlib.sha256()
    for name, tensor in model.state_dict().items():
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
