"""Complete copies of the checkpoints that come with the package, which store no code, no card and no weights twice."""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from os import PathLike
from pathlib import Path

from .. import assets
from ..files import write_text
from ..inference.checkpoints import load_model, without_weight_bars
from .cards import FOLDER


@contextmanager
def folder_to_publish(checkpoint: str | PathLike[str]) -> Iterator[Path]:
    """Give the folder of a checkpoint; of one that comes with the package, a complete copy that is deleted afterwards.

    Args:
        checkpoint: A folder, or the name of a checkpoint that comes with the package, as in `assets.find_checkpoint`.

    Raises:
        FileNotFoundError: If it is neither.
    """
    folder = Path(checkpoint).absolute()
    if not folder.is_dir() and not (folder := Path(assets.find_checkpoint(checkpoint))).is_dir():
        raise FileNotFoundError(
            f"Expected a checkpoint folder or the name of an embedded checkpoint, found none at {Path(checkpoint)}."
        )
    if folder.resolve().parent != assets.FOLDER.resolve():
        yield folder
        return
    with tempfile.TemporaryDirectory() as directory:
        write_complete(folder, copy := Path(directory, folder.name))
        yield copy


@without_weight_bars()
def write_complete(embedded: Path, folder: Path) -> None:
    """Write an embedded checkpoint as a folder that can be published.

    It holds all weights of the model in half precision, as they are embedded, its settings, code and card.

    Args:
        embedded: Folder in `assets`. A fine-tuned checkpoint there holds the weights of the head alone.
        folder: Folder to write.
    """
    model, processor = load_model(str(embedded), "cpu")
    model.save_pretrained(folder, state_dict={name: value.half() for name, value in model.state_dict().items()})
    processor.save_pretrained(folder)
    write_text(folder / "README.md", (FOLDER / f"{embedded.name}.md").read_text(encoding="utf-8"))
