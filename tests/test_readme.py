import re
from pathlib import Path


README = Path("README.md").read_text()


def test_every_python_example_runs_and_prints_what_the_readme_says(capsys):
    namespace: dict = {}
    outputs = []
    for block in re.findall(r"```python\n(.*?)```", README, re.DOTALL):
        exec(compile(block, "README.md", "exec"), namespace)
        outputs.append(capsys.readouterr().out)
    stated = re.findall(r"```text\n(.*?)```", README, re.DOTALL)
    assert outputs[0] == stated[0]


def test_every_file_that_is_linked_or_named_exists():
    for link in re.findall(r"\]\((?!https?:)([^)#]+)\)", README):
        assert Path(link).exists(), link
    for script in re.findall(r"(?:examples|benchmarks)/\w+\.py", README):
        assert Path(script).exists(), script
