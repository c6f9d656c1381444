import re
from pathlib import Path

import pytest


README = Path("README.md").read_text()
PAGES = (
    "README.md",
    "CONTRIBUTING.md",
    "SECURITY.md",
    "examples/README.md",
    "tests/README.md",
    "spectralgpt_hf/assets/README.md",
)


def test_every_python_example_runs_and_prints_what_the_readme_says(capsys):
    namespace: dict = {}
    outputs = []
    for block in re.findall(r"```python\n(.*?)```", README, re.DOTALL):
        exec(compile(block, "README.md", "exec"), namespace)
        outputs.append(capsys.readouterr().out)
    stated = re.findall(r"```text\n(.*?)```", README, re.DOTALL)
    assert outputs[0] == stated[0]


@pytest.mark.parametrize("page", PAGES)
def test_every_file_that_is_linked_exists(page):
    for link in re.findall(r"\]\((?!https?:|#)([^)#]+)", Path(page).read_text()):
        assert (Path(page).parent / link).exists(), link


def test_every_script_that_is_named_exists():
    for script in re.findall(r"(?:examples|benchmarks)/\w+\.py", README):
        assert Path(script).exists(), script


def test_every_score_of_an_embedded_checkpoint_stands_in_its_card():
    rows = re.findall(r"^\| `(tiny[\w-]*)` \| (.*\[card\]\(([^)]*)\).*)$", README, re.MULTILINE)
    assert {name for name, _, _ in rows} == {"tiny", "tiny-zscore", "tiny-eurosat", "tiny-landcover", "tiny-change"}
    for name, row, card in rows:
        assert Path(card).stem == f"spectralgpt-{name}"
        assert [score for score in re.findall(r"\d\.\d{3}", row) if score not in Path(card).read_text()] == []
