"""The site: its pages name what is there. `make docs` builds it, executes its notebooks and checks its links."""

import importlib
import re
from pathlib import Path

import pytest


DOCS = Path("docs")
REFERENCE = "\n".join(path.read_text() for path in (DOCS / "reference").glob("*.md"))
PACKAGES = ("spectralgpt_hf", "spectralgpt_hf.data", "spectralgpt_hf.inference", "spectralgpt_hf.conversion")


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
    pages = {path.relative_to(DOCS).with_suffix("").as_posix() for path in DOCS.rglob("*.md")}
    hidden = {page for page in pages if page.startswith(("_build", "reference/generated"))} | {"index"}
    assert {page for page in pages - hidden if page not in contents} == set()
