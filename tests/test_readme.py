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
