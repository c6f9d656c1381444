"""The demo published as a Space on the loopback Hub, and started from what is there."""

import json
import os
import subprocess
import sys
import urllib.request

import pytest
import yaml
from typer.testing import CliRunner

from spectralgpt_cli import app
from spectralgpt_hf import (
    SpectralGPTForChangeDetection,
    SpectralGPTForImageClassification,
    SpectralGPTForSemanticSegmentation,
)
from spectralgpt_hf.assets import CHECKPOINT, TASK_CHECKPOINTS
from spectralgpt_hf.hub.space import publish_space, space_files
from tests.hub.test_publish import hub  # noqa: F401
from tests.hub_server import TOKEN
from tests.serving.checkpoints import save_checkpoint
from tests.serving.conftest import free_port


NAME = "org/spectralgpt-demo"

# The folder of the Space comes before the package that is installed.
START = """
import runpy, spectralgpt_hf.serving.app as app
assert app.__file__.startswith({folder!r}), app.__file__
runpy.run_path("app.py")
"""


def test_the_space_is_one_commit_and_publishing_again_changes_nothing(hub, tmp_path):  # noqa: F811
    classifier = save_checkpoint("classification", tmp_path / "classifier")
    arguments = ["publish-space", str(CHECKPOINT), NAME, "--classification", str(classifier)]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    repo = hub.repositories[NAME]
    assert repo.sdk == "gradio"
    assert len(repo.commits) == 2  # the one that made the repository, and ours
    assert result.stdout.splitlines()[-1] == f"{hub.url}/spaces/{NAME}/commit/{repo.branches['main']}"
    card = yaml.safe_load(repo.files["README.md"].decode().split("---")[1])
    assert (card["sdk"], card["app_file"]) == ("gradio", "app.py")
    assert b"torch==" in repo.files["requirements.txt"]
    assert not any(b"+cpu" in line for line in repo.files["requirements.txt"].splitlines())
    assert not any(name.endswith((".pyc", ".pth")) or "/cli" in name for name in repo.files)

    result = CliRunner().invoke(app, arguments)
    assert result.stdout.splitlines() == [f"{hub.url}/spaces/{NAME}"]
    assert len(repo.commits) == 2


@pytest.mark.slow
def test_the_space_starts_from_its_own_files(tmp_path):
    folder = tmp_path / "space"
    for name, content in space_files({"checkpoint": CHECKPOINT}).items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content if isinstance(content, bytes) else content.read_bytes())
    environment = os.environ | {"GRADIO_SERVER_PORT": str(free_port()), "PYTHONUNBUFFERED": "1"}
    command = [sys.executable, "-c", START.format(folder=str(folder))]
    with subprocess.Popen(command, cwd=folder, env=environment, stdout=subprocess.PIPE, text=True) as process:
        try:
            url = next(line for line in process.stdout if line.startswith("http"))
            with urllib.request.urlopen(url.strip()) as page:
                assert "SpectralGPT" in page.read().decode()
        finally:
            process.terminate()


def test_a_dry_run_shows_the_files_and_a_private_space_is_private(hub, monkeypatch):  # noqa: F811
    lines: list[str] = []
    publish_space(NAME, "org/spectralgpt-base", private=True, dry_run=True, report=lines.append)
    assert "add    app.py" in lines
    assert hub.repositories == {}
    publish_space(NAME, "org/spectralgpt-base", private=True)
    repo = hub.repositories[NAME]
    assert repo.private
    assert b'run(checkpoint="org/spectralgpt-base", report=print)' in repo.files["app.py"]
    assert yaml.safe_load(repo.files["README.md"].decode().split("---")[1])["models"] == ["org/spectralgpt-base"]
    assert TOKEN.encode() not in b"".join(repo.files.values())


def test_a_space_holds_the_embedded_checkpoints_of_tasks_with_their_encoder(tmp_path):
    for name, content in space_files({"checkpoint": "org/spectralgpt-base"}).items():
        if "/assets/" in name:
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).write_bytes(content if isinstance(content, bytes) else content.read_bytes())
    classes = {
        "classification": SpectralGPTForImageClassification,
        "segmentation": SpectralGPTForSemanticSegmentation,
        "change": SpectralGPTForChangeDetection,
    }
    assert set(classes) == set(TASK_CHECKPOINTS)
    for task, model_class in classes.items():
        folder = tmp_path / "spectralgpt_hf" / "assets" / TASK_CHECKPOINTS[task].name
        _, report = model_class.from_pretrained(folder, output_loading_info=True)
        assert not any(report.values()), task


@pytest.mark.parametrize("source", ["tiny-eurosat", TASK_CHECKPOINTS["classification"]])
def test_a_space_takes_an_embedded_checkpoint_of_a_task_from_the_package(source):
    files = space_files({"checkpoint": "org/spectralgpt-base", "classification": source})
    assert b'classification="spectralgpt-tiny-eurosat"' in files["app.py"]
    assert not [name for name in files if name.startswith("checkpoints/")]
    assert yaml.safe_load(files["README.md"].decode().split("---")[1])["models"] == ["org/spectralgpt-base"]


def test_a_space_loads_checkpoints_of_the_hub_at_their_revisions():
    sources = {"checkpoint": CHECKPOINT, "classification": "org/a", "segmentation": "org/b"}
    revisions = {"checkpoint": "main", "classification": "v2", "segmentation": "main", "change": "v3"}
    app = space_files(sources, revisions=revisions)["app.py"].decode()
    assert """segmentation="org/b", revisions={"classification": "v2"}, report=print)""" in app
    compile(app, "app.py", "exec")
    with pytest.raises(ValueError, match="only checkpoints on the Hub have revisions"):
        space_files(sources, revisions={"checkpoint": "v1"})


def test_what_is_no_checkpoint_and_what_gives_something_away_is_not_published(hub, tmp_path):  # noqa: F811
    with pytest.raises(FileNotFoundError, match=r"There is no checkpoint .*nowhere"):
        publish_space(NAME, tmp_path / "nowhere")
    with pytest.raises(ValueError, match="folder without a checkpoint"):
        publish_space(NAME, tmp_path)
    folder = save_checkpoint("features", tmp_path / "checkpoint")
    settings = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(settings | {"token": "hf_" + "a" * 34}))
    with pytest.raises(ValueError, match="a Hugging Face token"):
        publish_space(NAME, folder)
    with pytest.raises(ValueError, match="namespace/name"):
        publish_space("demo", CHECKPOINT)
    assert hub.repositories == {}
