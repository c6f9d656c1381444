"""What the site has beside its files: pages that follow from the code, and links to the notebooks of tutorials."""

import contextlib
import io
import os
import re
import runpy
import subprocess
import sys
from dataclasses import MISSING, Field, fields
from fnmatch import fnmatch
from pathlib import Path
from unittest import mock

import numpy as np
from transformers import TrainingArguments

from spectralgpt_hf.commands.probe import ProbeOptions
from spectralgpt_hf.training.options import FineTuningOptions
from spectralgpt_hf.training.stages import PretrainingOptions, RuntimeOptions, StageOptions


ROOT = Path(__file__).parents[1]
CARDS = ROOT / "spectralgpt_hf" / "hub" / "model_cards"

OPTIONS = """# Options of training and of the example scripts

Options are written with `-` or with `_`. They come from the command line or from a YAML file (`--config FILE`); where
both set an option, the command line decides. This page is made from the dataclasses that hold the options.

"""
FINE_TUNING = """## Fine-tuning

Of `spectralgpt train classify`, `segment` and `change`, and of `examples/finetune_classification.py`,
`examples/finetune_segmentation.py` and `examples/finetune_change_detection.py`. Every option of
[`transformers.TrainingArguments`](https://huggingface.co/docs/transformers/main_classes/trainer) is an option too:
`output_dir`, `num_train_epochs`, `per_device_train_batch_size`, `learning_rate`, `report_to` and the rest.

"""
PROBE = """## Probes

Of `examples/probe.py`, beside all options of fine-tuning:

"""
PRETRAINING = """## Pretraining

Of `spectralgpt train pretrain` and `examples/pretrain.py`. The options of the first table may differ from stage to
stage (`stages` in a YAML file):

"""
# Scripts whose options are those of the dataclasses above; the others print theirs.
OF_DATACLASSES = ("finetune_*", "pretrain", "probe")


def write_pages(folder: Path) -> None:
    """Write the pages and the demo's picture to a folder."""
    folder.mkdir(exist_ok=True)
    (folder / "command.md").write_text(command_page())
    (folder / "options.md").write_text(options_page())
    (folder / "demo.md").write_text(f"```text\n{demo_output(folder / 'demo.png')}```\n")
    for card in sorted(CARDS.glob("spectralgpt-tiny*.md")):
        (folder / card.name).write_text(card_page(card))


def offer_notebook(app: object, page: str, source: list[str]) -> None:
    """Offer a tutorial as a notebook, below its heading. The link exists on the site only, not in the file."""
    if page.startswith("tutorials/"):
        link = f"Download this page as a notebook: {{nb-download}}`{page.rpartition('/')[2]}.ipynb`."
        source[0] = re.sub(r"^(# .*\n)", rf"\1\n{link}\n", source[0], count=1, flags=re.MULTILINE)


def command_page() -> str:
    """Return the reference of the `spectralgpt` command, from Typer."""
    typer = [sys.executable, "-m", "typer", "spectralgpt_cli", "utils", "docs", "--name", "spectralgpt"]
    return subprocess.run(typer, capture_output=True, text=True, check=True, cwd=ROOT).stdout


def options_page() -> str:
    """Return the reference of the options of training and of the scripts."""
    stage, run = ({entry.name for entry in fields(kind)} for kind in (StageOptions, RuntimeOptions))
    of_trainer = {entry.name for entry in fields(TrainingArguments)}
    pretraining = fields(PretrainingOptions)
    scripts = sorted(path.stem for path in (ROOT / "examples").glob("*.py"))
    scripts = [name for name in scripts if not any(fnmatch(name, pattern) for pattern in OF_DATACLASSES)]
    parts = [
        OPTIONS,
        FINE_TUNING,
        _table([entry for entry in fields(FineTuningOptions) if entry.name not in of_trainer]),
        PROBE,
        _table([entry for entry in fields(ProbeOptions) if entry.name in ProbeOptions.__annotations__]),
        PRETRAINING,
        _table([entry for entry in pretraining if entry.name in stage]),
        "\nThese hold for the whole run:\n\n",
        _table([entry for entry in pretraining if entry.name not in stage | run]),
        "\nThese may change when a run is resumed:\n\n",
        _table([entry for entry in pretraining if entry.name in run]),
        *(f"\n## `examples/{name}.py`\n\n```text\n{_output(name, '--help')}```\n" for name in scripts),
    ]
    return "".join(parts)


def demo_output(picture: Path) -> str:
    """Draw the demo's picture, and return what the demo prints."""
    return re.sub(r"Picture: .*\n\n", "", _output("demo", "--output", str(picture)))


def card_page(card: Path) -> str:
    """Return a model card without the Hub's metadata, with one heading at the top."""
    text = re.sub(r"\A---\n.*?^---\n", "", card.read_text(), flags=re.DOTALL | re.MULTILINE)
    return text.lstrip()


def _table(entries: list[Field]) -> str:
    lines = ["| option | default | meaning |", "|---|---|---|"]
    for entry in entries:
        text = str(entry.metadata["help"]).replace("|", "\\|")
        lines.append(f"| `--{entry.name}` | {_default(entry)} | {text} |")
    return "\n".join(lines) + "\n"


def _default(entry: Field) -> str:
    value = entry.default if entry.default_factory is MISSING else entry.default_factory()
    return "" if value is None or value in ([], {}) else f"`{str(value).lower() if isinstance(value, bool) else value}`"


def _output(script: str, *arguments: str) -> str:
    """Return what an example script prints."""
    output = io.StringIO()
    with (
        mock.patch.object(sys, "argv", [f"{script}.py", *arguments]),
        mock.patch.dict(os.environ, COLUMNS="110"),
        np.errstate(),
        contextlib.redirect_stdout(output),
        contextlib.suppress(SystemExit),
    ):
        runpy.run_path(str(ROOT / "examples" / f"{script}.py"), run_name="__main__")
    return output.getvalue()
