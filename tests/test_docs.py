"""The site and the README name what is there. `make docs` builds the site, executes its notebooks and checks links."""

import functools
import importlib
import re
import shlex
from dataclasses import fields
from pathlib import Path

import pytest
import typer

from spectralgpt_cli import app
from spectralgpt_hf.training.options import FineTuningOptions
from spectralgpt_hf.training.stages import PretrainingOptions


DOCS = Path("docs")
PAGES = [page for page in sorted(DOCS.rglob("*.md")) if not {"_build", "generated"} & set(page.parts)]
WITH_EXAMPLES = [*PAGES, Path("README.md"), Path("CONTRIBUTING.md")]
REFERENCE = "\n".join(path.read_text() for path in (DOCS / "reference").glob("*.md"))
PACKAGES = ("spectralgpt_hf", "spectralgpt_hf.data", "spectralgpt_hf.inference", "spectralgpt_hf.conversion")
OPTIONS = {entry.name for kind in (FineTuningOptions, PretrainingOptions) for entry in fields(kind)} | {"config"}


@pytest.mark.parametrize("package", [*PACKAGES, "spectralgpt_hf.hub"])
def test_every_public_name_is_in_the_reference(package):
    names = set(importlib.import_module(package).__all__)
    missing = sorted(name for name in names if not re.search(rf"::.*\b{name}\b", REFERENCE))
    assert not missing


def test_the_walks_of_the_architecture_name_files_that_exist():
    text = (DOCS / "architecture.md").read_text()
    for folder, name in re.findall(r"`(\w+)/(\w+\.py)`", text):
        assert (Path("spectralgpt_hf") / folder / name).exists(), f"{folder}/{name}"


def test_every_page_is_in_the_table_of_contents():
    contents = (DOCS / "index.md").read_text()
    pages = {page.relative_to(DOCS).with_suffix("").as_posix() for page in PAGES} - {"index"}
    assert {page for page in pages if not re.search(rf"^{page}$", contents, re.MULTILINE)} == set()


def test_every_python_block_of_the_site_is_executed_when_it_is_built():
    assert [page.name for page in PAGES if re.search(r"^```python", page.read_text(), re.MULTILINE)] == []


@pytest.mark.parametrize("page", sorted((DOCS / "tutorials").glob("*.md")), ids=lambda page: page.stem)
def test_every_tutorial_can_be_downloaded_as_a_notebook_and_says_what_it_needs(page, monkeypatch):
    text = page.read_text()
    assert "{nb-download}" not in text  # which only the site understands
    assert re.search(r"`pip install '?spectralgpt-hf(\[[\w,]+\])?'?`", text)
    monkeypatch.syspath_prepend(str(DOCS))
    source = [text]
    importlib.import_module("generate").offer_notebook(None, f"tutorials/{page.stem}", source)
    assert re.search(rf"^# .*\n\nDownload .* {{nb-download}}`{page.stem}\.ipynb`\.\n", source[0], re.MULTILINE)


def commands(page: Path) -> list[list[str]]:
    """Return the words of each command of a page that begins with `spectralgpt` or starts an example script."""
    blocks = re.findall(r"```(?:bash|\{code-cell\} python)\n(.*?)```", page.read_text(), re.DOTALL)
    lines = "\n".join(blocks).replace("\\\n", " ").splitlines()
    found = (
        re.search(r"^!?(?:accelerate launch .*?|python )?((?:spectralgpt|examples/\w+\.py) .*)", line) for line in lines
    )
    return [shlex.split(match[1].replace("...", ""), comments=True) for match in found if match]


@functools.cache
def command_line() -> typer.core.TyperGroup:
    return typer.main.get_command(app)


@pytest.mark.parametrize("page", WITH_EXAMPLES, ids=lambda page: page.stem)
def test_every_command_of_a_page_exists_with_its_options(page):
    for words in commands(page):
        if words[0].startswith("examples/"):
            assert Path(words[0]).is_file()
            continue
        command = command_line()
        context = command.make_context("spectralgpt", [], resilient_parsing=True)
        rest = words[1:]
        while hasattr(command, "resolve_command") and not rest[0].startswith("-"):
            name, command, rest = command.resolve_command(context, rest)
            context = command.make_context(name, [], parent=context, resilient_parsing=True)
        known = {option.replace("_", "-") for parameter in command.params for option in parameter.opts}
        if "train" in words[:2]:
            known |= {f"--{name}".replace("_", "-") for name in OPTIONS}
        named = [word.partition("=")[0] for word in rest if word.startswith("--")]
        unknown = [word for word in named if word.replace("_", "-") not in {*known, "--help"}]
        assert unknown == [], shlex.join(words)


@functools.cache
def code_of_the_package() -> str:
    code = "".join(path.read_text() for path in Path("spectralgpt_hf").rglob("*.py"))
    return re.sub(r'"\s*\n\s*f?"', "", code)  # literals that are continued on the next line


@pytest.mark.parametrize(
    "message", re.findall(r"^\| `([^`]+)` \|", (DOCS / "reference/errors.md").read_text(), re.MULTILINE)
)
def test_every_message_of_the_reference_is_in_the_code(message):
    assert message in code_of_the_package()


def test_the_generated_reference_lists_every_option(monkeypatch):
    monkeypatch.syspath_prepend(str(DOCS))
    page = importlib.import_module("generate").options_page()
    of_trainer = {entry.name for entry in fields(FineTuningOptions.__base__)}
    missing = [name for name in OPTIONS - of_trainer - {"config"} if f"| `--{name}` |" not in page]
    assert missing == []
    assert [script.name for script in Path("examples").glob("*.py") if f"`examples/{script.name}`" not in page] == []


def test_the_readme_is_short():
    assert len(Path("README.md").read_text().splitlines()) <= 120
