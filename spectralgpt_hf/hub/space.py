"""Publishing the demo as a Gradio Space: the page, this package, and checkpoints, as one commit."""

import json
from collections.abc import Callable, Mapping
from importlib.metadata import version
from os import PathLike
from pathlib import Path

from huggingface_hub import HfApi

from .checks import problems_of
from .publishing import Target, logger


PACKAGE = Path(__file__).parents[1]
# What of it the page needs.
PARTS = ("*.py", "assets/*.py", "assets/sample.tif", "modeling/*.py", "inference/*.py", "serving/*.py")
LEFT_OUT = ("cli.py", "endpoint_handler.py")
# At the versions of this machine: those it was tried with. Gradio's is in the card.
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
    "matplotlib",
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
short_description: Rebuild, map and compare Sentinel-2 images
{models}---

The demo of spectralgpt-hf: hide most of a multispectral image and see what SpectralGPT puts there; map classes, change
and similarity. Drop a GeoTIFF with the bands of Sentinel-2, or take the sample. It runs on a CPU.

The sample contains modified Copernicus Sentinel data 2015-2016. The code is Apache-2.0; checkpoints have licences of
their own.
"""
APP = '''"""The demo of spectralgpt-hf; the package lies beside this file."""

from spectralgpt_hf.serving.app import run


run({arguments}, report=print)
'''


def publish_space(
    repo_id: str,
    checkpoint: str | PathLike[str],
    *,
    classification: str | PathLike[str] | None = None,
    segmentation: str | PathLike[str] | None = None,
    change: str | PathLike[str] | None = None,
    title: str = "SpectralGPT",
    private: bool = False,
    token: str | None = None,
    dry_run: bool = False,
    report: Callable[[str], object] = logger.info,
) -> str:
    """Publish the demo as a Space, as one commit.

    Args:
        repo_id: `namespace/name` of the Space; made if there is none.
        checkpoint: Pretrained. Weights and settings of a folder go into the Space; a name on the Hub is loaded by it.
        classification, segmentation, change: Fine-tuned to these tasks, in the same way.
        title: Of the page on the Hub.
        private: Whether a new Space is private. An existing public one is refused.
        token: Of somebody who may write; by default `HF_TOKEN`, or what `hf auth login` saved.
        dry_run: Compare, change nothing.
        report: Called with a line for each file that changes.

    Returns:
        The URL of the commit; with `dry_run`, or if nothing changes, of the Space.

    Raises:
        ValueError: If a checkpoint is neither, or a file in one must not be published.
        OSError: If the Hub refuses or cannot be reached.
    """
    if repo_id.count("/") != 1:
        raise ValueError(f"`repo_id` must be namespace/name, got {repo_id!r}.")
    given = {
        "checkpoint": checkpoint,
        "classification": classification,
        "segmentation": segmentation,
        "change": change,
    }
    files = space_files({name: source for name, source in given.items() if source is not None}, title)
    target = Target(HfApi(token=token), repo_id, "main", "space")
    seen = target.look()
    if private and seen and not seen.is_private:
        raise ValueError(f"{repo_id} is public: make it private in its settings, or publish under another name.")
    changes = target.compare(files, seen and seen.head)
    for name, kind in changes.items():
        report(f"{kind:7}{name}")
    if dry_run or not changes:
        return target.url
    return target.commit(files, seen, private, create_pr=False)[1]


def space_files(checkpoints: Mapping[str, str | PathLike[str]], title: str = "SpectralGPT") -> dict[str, Path | bytes]:
    """Return the files of a Space, by name.

    Args:
        checkpoints: By argument of `serving.app.run`: folders, which go into the Space, or names on the Hub.
        title: Of the page on the Hub.

    Raises:
        ValueError: If a checkpoint is neither, or a file in one must not be published.
    """
    files: dict[str, Path | bytes] = {}
    for part in PARTS:
        paths = [path for path in sorted(PACKAGE.glob(part)) if path.name not in LEFT_OUT]
        files |= {f"spectralgpt_hf/{path.relative_to(PACKAGE).as_posix()}": path for path in paths}
    sources = {}
    for name, source in checkpoints.items():
        sources[name] = str(source)
        if Path(source).is_dir():
            sources[name] = f"checkpoints/{name}"
            files |= {f"checkpoints/{name}/{path.name}": path for path in _weights_and_settings(Path(source))}
        elif str(source).count("/") != 1 or str(source).startswith((".", "/")):
            raise ValueError(f"`{name}` must be a folder or namespace/name on the Hub, got {str(source)!r}.")
    models = [source for source in sources.values() if not source.startswith("checkpoints/")]
    listed = "".join(["models:\n", *(f"- {model}\n" for model in models)]) if models else ""
    packages = "".join(f"{package}=={version(package).partition('+')[0]}\n" for package in REQUIREMENTS)
    arguments = ", ".join(f"{name}={json.dumps(source)}" for name, source in sources.items())
    return files | {
        "app.py": APP.format(arguments=arguments).encode(),
        "requirements.txt": f"{CPU_BUILDS}{packages}".encode(),
        "README.md": CARD.format(title=json.dumps(title), gradio=version("gradio"), models=listed).encode(),
    }


def _weights_and_settings(folder: Path) -> list[Path]:
    """Return the files of a checkpoint that the page loads, none of which gives anything away."""
    paths = [path for path in sorted(folder.iterdir()) if path.suffix in (".safetensors", ".json")]
    if "config.json" not in [path.name for path in paths]:
        raise ValueError(f"{folder} is no checkpoint: it holds no config.json.")
    problems = [f"{path.name}: {problem}" for path in paths for problem in problems_of(path)]
    if problems:
        raise ValueError(f"{folder} cannot be published:\n  " + "\n  ".join(problems))
    return paths
