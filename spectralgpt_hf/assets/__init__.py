"""A small checkpoint and a real Sentinel-2 image, to try everything without a download; README.md has their sources.

May import nothing of the package.
"""

import re
from os import PathLike
from pathlib import Path
from typing import Any


FOLDER = Path(__file__).parent
CHECKPOINT = FOLDER / "spectralgpt-tiny"
SAMPLE = FOLDER / "sample.tif"
GALLERY = FOLDER / "gallery"


TASK_CHECKPOINTS = {
    "classification": FOLDER / "spectralgpt-tiny-eurosat",
    "segmentation": FOLDER / "spectralgpt-tiny-landcover",
    "change": FOLDER / "spectralgpt-tiny-change",
}


def find_task_checkpoints(**given: str | PathLike[str] | None) -> dict[str, Any]:
    """Return checkpoints that are fine-tuned to a task, by task: those given, else those that this package holds."""
    embedded = {task: folder for task, folder in TASK_CHECKPOINTS.items() if folder.is_dir()}
    return embedded | {task: source for task, source in given.items() if source is not None}


def find_checkpoint(checkpoint: str | PathLike[str], revision: str = "main") -> str:
    """Return what `from_pretrained` takes for a checkpoint that a user has named.

    Args:
        checkpoint: A folder, a name on the Hub (`namespace/name`), `"embedded"`, or the name of a checkpoint that comes
            with the package, with or without `spectralgpt-` (`"tiny"`).
        revision: Branch, tag or commit of a checkpoint on the Hub.

    Raises:
        FileNotFoundError: If it is none of these. A name like that of a folder, where checkpoints lie beside it, counts
            as a mistyped folder: the Hub would be asked for it in vain.
        ValueError: If it is a file, a folder that holds no checkpoint, or a folder for which a revision is given.
    """
    found = _find_checkpoint(checkpoint)
    if revision != "main" and Path(found).is_dir():
        raise ValueError(
            f"`revision` {revision!r}: only checkpoints on the Hub have revisions, but {checkpoint} is a folder on "
            "this computer. Leave the revision out, or name the checkpoint on the Hub (namespace/name)."
        )
    return found


def _find_checkpoint(checkpoint: str | PathLike[str]) -> str:
    name, path = str(checkpoint), Path(checkpoint).expanduser()
    embedded = {
        folder.parent.name.removeprefix("spectralgpt-"): folder.parent for folder in FOLDER.glob("*/config.json")
    }
    if path.is_dir():
        if not any((path / file).is_file() for file in ("config.json", "adapter_config.json")):
            hint = f" Do you mean {path / 'model'}?" if (path / "model" / "config.json").is_file() else ""
            raise ValueError(f"{path} is a folder without a checkpoint: expected a config.json in it.{hint}")
        return str(path)
    if path.is_file():
        raise ValueError(
            f"{path} is a file, expected the folder of a checkpoint. `spectralgpt convert` makes one from a file of "
            "the original code."
        )
    if name == "embedded":
        return str(CHECKPOINT)
    if (alias := name.removeprefix("spectralgpt-")) in embedded:
        return str(embedded[alias])
    neighbours = sorted(file.parent.name for file in path.parent.glob("*/config.json"))
    if not re.fullmatch(r"\w[\w.-]*/[\w.-]+", name) or neighbours:
        others = f" {path.parent} holds {', '.join(neighbours)}." if neighbours else ""
        raise FileNotFoundError(
            f"There is no checkpoint {name}: expected a folder, a name on the Hub (namespace/name), or one of "
            f"{', '.join(['embedded', *sorted(embedded)])}.{others}"
        )
    return name
