"""Publishing with the unmodified client to a Hub on loopback, and loading from there."""

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from huggingface_hub import constants
from safetensors.torch import load_file
from typer.testing import CliRunner

from spectralgpt_cli import app
from spectralgpt_hf import SpectralGPTForPreTraining, SpectralGPTImageProcessor, SpectralGPTModel
from spectralgpt_hf.conversion import convert_checkpoint
from spectralgpt_hf.hub import checks, isolation, publish, publishing
from spectralgpt_hf.hub.allowed_files import MANIFEST
from spectralgpt_hf.hub.model_items import describe_model
from spectralgpt_hf.hub.publishing import Upload
from spectralgpt_hf.modeling import modeling_spectralgpt
from tests.conversion.originals import TOY, TOY_HEADS
from tests.hub_server import TOKEN, HubServer, Repository, Trouble, sha256


NAME = "org/spectralgpt-tiny"
WRITES = ["POST .*/create", "POST .*/preupload/", "POST .*/batch", "PUT /objects/", "POST .*/verify", "POST .*/commit/"]
READS = ["POST .*/validate-yaml", "GET .*/revision/", "GET .*/tree/", "GET /objects/", "GET .*/resolve/.*config.json"]

# Run in a process of its own: `spectralgpt_hf` cannot be imported, and there is no cache.
CONSUMER = """
import sys
sys.modules["spectralgpt_hf"] = None
import torch
from safetensors.torch import save_file
from transformers import AutoModel, pipeline

name, inputs, outputs = sys.argv[1:]
image = torch.load(inputs)
model = AutoModel.from_pretrained(name, trust_remote_code=True)
extract = pipeline("multispectral-feature-extraction", model=name, trust_remote_code=True)
save_file({"weight": model.layernorm.weight.detach(), "features": extract(image)}, outputs)
"""


@pytest.fixture
def hub(monkeypatch):
    """A local server instead of the Hub, without waiting times between attempts."""
    with HubServer() as server:
        monkeypatch.setattr(constants, "ENDPOINT", server.url)
        template = server.url + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        monkeypatch.setattr(time, "sleep", lambda seconds: None)
        yield server


@pytest.fixture
def quick(monkeypatch):
    """Loads with this package instead of starting a process."""

    def forward(checkpoint, architecture, **source):
        model_class = getattr(modeling_spectralgpt, architecture)
        model = model_class.from_pretrained(checkpoint, dtype=torch.float32, **source).eval()
        return isolation.forward(model, SpectralGPTImageProcessor.from_pretrained(checkpoint, **source))

    for module in (checks, publishing):
        monkeypatch.setattr(module, "forward_in_isolation", forward)


@pytest.fixture(scope="module")
def converted(tmp_path_factory):
    return convert_checkpoint(TOY, tmp_path_factory.mktemp("publish") / "toy", **TOY_HEADS)


@pytest.fixture
def folder(converted, tmp_path):
    return Path(shutil.copytree(converted, tmp_path / "checkpoint"))


def files_in(folder: Path) -> dict[str, bytes]:
    """Return what a repository should hold."""
    files = {path.name: path.read_bytes() for path in folder.iterdir()}
    files["README.md"] = files["README.md"].replace(b"path/to/this/folder", NAME.encode())
    files["stac_item.json"] = (json.dumps(describe_model(folder, NAME.split("/")[1]), indent=2) + "\n").encode()
    files |= {MANIFEST: Upload.of({name: content for name, content in files.items()}).contents[MANIFEST]}
    return files | {".gitattributes": b"*.safetensors filter=lfs\n"}


def shard(folder: Path) -> None:
    model = SpectralGPTForPreTraining.from_pretrained(folder)
    (folder / "model.safetensors").unlink()
    model.save_pretrained(folder, max_shard_size="300KB")
    assert len(list(folder.glob("model-*.safetensors"))) == 2


@pytest.mark.slow
def test_a_checkpoint_is_published_from_the_command_line_and_loads_everywhere(hub, folder, tmp_path):
    result = CliRunner().invoke(app, ["publish", str(folder), NAME])
    assert result.exit_code == 0, result.output
    repo = hub.repositories[NAME]
    assert repo.files == files_in(folder)
    assert len(repo.commits) == 2  # the one that made the repository, and ours
    commit = repo.branches["main"]
    assert f"The checkpoint loads from {NAME} at {commit}" in result.stdout
    assert result.stdout.splitlines()[-1] == f"{hub.url}/{NAME}/commit/{commit}"
    assert "add    model.safetensors" in result.stdout

    weight = load_file(folder / "model.safetensors")["spectralgpt.layernorm.weight"]
    model = SpectralGPTModel.from_pretrained(NAME, cache_dir=tmp_path / "cache").eval()
    processor = SpectralGPTImageProcessor.from_pretrained(NAME, cache_dir=tmp_path / "cache")
    image = torch.arange(12 * 32 * 32).reshape(12, 32, 32) % 4093
    with torch.no_grad():
        pooled = model(**processor(image, band_names=processor.bands, return_tensors="pt")).pooler_output[0]

    torch.save(image, tmp_path / "image.pt")
    settings = {"HF_ENDPOINT": hub.url, "HF_HUB_DISABLE_XET": "1", "HF_HUB_OFFLINE": "0", "HF_HOME": str(tmp_path)}
    arguments = [sys.executable, "-W", "ignore", "-c", CONSUMER, NAME, "image.pt", "outputs.safetensors"]
    process = subprocess.run(arguments, env=os.environ | settings, cwd=tmp_path, capture_output=True, text=True)
    assert process.returncode == 0, process.stderr
    outputs = load_file(tmp_path / "outputs.safetensors")
    assert torch.equal(outputs["weight"], weight)
    torch.testing.assert_close(outputs["features"], pooled, rtol=0, atol=1e-6)


def test_a_dry_run_shows_what_would_change_and_changes_nothing(hub, quick, folder):
    lines: list[str] = []
    assert publish(folder, NAME, dry_run=True, report=lines.append) == f"{hub.url}/{NAME}"
    assert "add    config.json" in lines
    assert hub.repositories == {}
    assert hub.count("POST|PUT") == 0


def test_publishing_again_sends_what_changed_removes_stale_weights_and_leaves_the_rest(hub, quick, folder):
    shard(folder)
    publish(folder, NAME)
    repo = hub.repositories[NAME]
    repo.files["picture.png"] = b"added on the website"
    (folder / "extra.md").write_text("More.")
    model = SpectralGPTForPreTraining.from_pretrained(folder)
    for file in folder.glob("model*"):
        if file.suffix != ".py" or not file.stem.startswith("modeling"):
            file.unlink()
    model.save_pretrained(folder)
    lines: list[str] = []
    publish(folder, NAME, confirm=True, report=lines.append)
    assert [line for line in lines if line.startswith(("add", "change", "delete"))] == [
        "add    extra.md",
        "delete model-00001-of-00002.safetensors",
        "delete model-00002-of-00002.safetensors",
        "add    model.safetensors",
        "delete model.safetensors.index.json",
        f"change {MANIFEST}",
        "change stac_item.json",  # which lists the files of weights
    ]
    assert repo.files == files_in(folder) | {"picture.png": b"added on the website"}
    commits = len(repo.commits)
    assert publish(folder, NAME, report=lines.append) == f"{hub.url}/{NAME}/commit/{repo.branches['main']}"
    assert "The repository is up to date: nothing was uploaded." in lines
    assert len(repo.commits) == commits


def test_files_of_others_stay_and_their_repository_is_refused_without_force(hub, quick, folder):
    theirs = {".gitattributes": b"", "README.md": b"Theirs.", "vae/model.safetensors": b"x", "train.py": b"x = 1"}
    hub.objects[sha256(b"x")] = b"x"
    repo = hub.repositories[NAME] = Repository(private=False)
    repo.branches["main"] = repo.add(theirs)
    with pytest.raises(ValueError, match=f"{NAME} holds 4 files that were not published with this package"):
        publish(folder, NAME)
    with pytest.raises(ValueError, match=r"would lose README\.md"):
        publish(folder, NAME, force=True)
    assert repo.files == theirs
    publish(folder, NAME, force=True, confirm=True)
    kept = {name: theirs[name] for name in ("vae/model.safetensors", "train.py", ".gitattributes")}
    assert repo.files == files_in(folder) | kept


def test_only_what_an_earlier_publish_listed_is_deleted_and_only_when_confirmed(hub, quick, folder):
    (folder / "notes.md").write_text("Ours.")
    publish(folder, NAME)
    repo = hub.repositories[NAME]
    repo.files["theirs.md"] = b"added on the website"
    (folder / "notes.md").unlink()
    before, questions = repo.branches["main"], []
    with pytest.raises(ValueError, match=r"would lose notes\.md"):
        publish(folder, NAME)
    with pytest.raises(ValueError, match="Nothing was published"):
        publish(folder, NAME, confirm=lambda question: bool(questions.append(question)))
    assert questions == [f"Delete or replace notes.md in {NAME}?"]
    assert repo.branches["main"] == before
    publish(folder, NAME, confirm=lambda question: True)
    assert repo.files == files_in(folder) | {"theirs.md": b"added on the website"}


def test_a_card_edited_on_the_hub_is_not_overwritten_without_a_word(hub, quick, folder):
    publish(folder, NAME)
    repo = hub.repositories[NAME]
    edited = repo.files["README.md"] + b"A sentence of theirs."
    repo.branches["main"] = repo.add(repo.files | {"README.md": edited})
    lines: list[str] = []
    with pytest.raises(ValueError, match=r"would lose README\.md"):
        publish(folder, NAME, report=lines.append)
    assert "change README.md (edited on the Hub since)" in lines
    assert repo.files["README.md"] == edited
    publish(folder, NAME, confirm=True)
    assert repo.files == files_in(folder)


def test_a_card_changed_here_replaces_an_unchanged_one_without_questions(hub, quick, folder):
    publish(folder, NAME)
    with (folder / "README.md").open("a") as card:
        card.write("More.")
    publish(folder, NAME)
    assert hub.repositories[NAME].files == files_in(folder)


def test_the_command_line_refuses_deletions_without_a_terminal_unless_told(hub, quick, folder):
    (folder / "notes.md").write_text("Ours.")
    publish(folder, NAME)
    (folder / "notes.md").unlink()
    result = CliRunner().invoke(app, ["publish", str(folder), NAME])
    assert result.exit_code == 1
    assert "confirm with `--yes`" in result.stderr
    assert CliRunner().invoke(app, ["publish", str(folder), NAME, "--yes"]).exit_code == 0
    assert hub.repositories[NAME].files == files_in(folder)


def test_a_pull_request_leaves_the_branch_as_it_is(hub, quick, folder):
    publish(folder, NAME)
    before = dict(hub.repositories[NAME].branches)
    (folder / "notes.md").write_text("More.")
    assert publish(folder, NAME, create_pr=True) == f"{hub.url}/{NAME}/discussions/1"
    repo = hub.repositories[NAME]
    assert repo.branches == before
    assert repo.commits[repo.pull_requests[0]] == files_in(folder)


def test_a_revision_becomes_a_branch_and_a_private_repository_is_private(hub, quick, folder):
    publish(folder, NAME, revision="v2", private=True)
    repo = hub.repositories[NAME]
    assert repo.private
    assert repo.commits[repo.branches["v2"]] == files_in(folder)
    assert repo.files.keys() == {".gitattributes"}


def test_what_is_public_is_not_taken_for_private(hub, quick, folder):
    publish(folder, NAME)
    (folder / "notes.md").write_text("More.")
    with pytest.raises(ValueError, match="is public"):
        publish(folder, NAME, private=True)
    assert "notes.md" not in hub.repositories[NAME].files


@pytest.mark.parametrize("what", ["drop", 500, 429, "lose"])
def test_passing_troubles_with_any_request_are_overcome(hub, quick, folder, what):
    hub.troubles += [Trouble(request, what) for request in (WRITES if what == "lose" else WRITES + READS)]
    publish(folder, NAME)
    assert [trouble for trouble in hub.troubles if trouble.times] == []
    repo = hub.repositories[NAME]
    assert repo.files == files_in(folder)
    assert len(repo.commits) == 2


def test_a_lost_answer_makes_no_second_pull_request(hub, quick, folder):
    hub.troubles.append(Trouble("POST .*/commit/", "lose"))
    assert publish(folder, NAME, create_pr=True) == f"{hub.url}/{NAME}/discussions/1"
    assert len(hub.repositories[NAME].pull_requests) == 1


@pytest.mark.parametrize("what", ["drop", 500, 429])
def test_an_upload_that_cannot_be_finished_changes_nothing_and_resumes(hub, quick, folder, what):
    shard(folder)
    first, second = (sha256(file.read_bytes()) for file in sorted(folder.glob("model-*.safetensors")))
    hub.troubles.append(Trouble(f"PUT /objects/{second}", what, times=1000))
    with pytest.raises(ConnectionError, match=f"{NAME} could not be published(.|\n)*Repeat the command"):
        publish(folder, NAME)
    assert hub.repositories[NAME].files.keys() == {".gitattributes"}
    assert set(hub.objects) == {first}

    hub.troubles.clear()
    hub.requests.clear()
    publish(folder, NAME)
    assert hub.repositories[NAME].files == files_in(folder)
    assert hub.count(f"PUT /objects/{first}") == 0
    assert hub.count(f"PUT /objects/{second}") > 0


def test_a_hub_that_stays_down_is_reported_and_left_as_it_is(hub, quick, folder):
    hub.troubles.append(Trouble("POST .*/commit/", 503, times=1000))
    with pytest.raises(ConnectionError, match="could not be published: The Hub failed 5 times"):
        publish(folder, NAME)
    assert hub.repositories[NAME].files.keys() == {".gitattributes"}


def test_a_commit_of_somebody_else_meanwhile_is_not_overwritten(hub, quick, folder):
    publish(folder, NAME)
    repo = hub.repositories[NAME]
    (folder / "notes.md").write_text("Ours.")

    def interfere(line: str) -> None:
        if line == "add    notes.md":
            repo.branches["main"] = repo.add(repo.files | {"notes.md": b"Theirs."})

    with pytest.raises(ConnectionError, match=r"could not be published(.|\n)*A commit has happened since"):
        publish(folder, NAME, report=interfere)
    assert repo.files["notes.md"] == b"Theirs."


def test_a_repository_needs_a_namespace(folder):
    with pytest.raises(ValueError, match="namespace/name, got 'tiny'"):
        publish(folder, "tiny")


def test_a_refusal_of_the_hub_is_passed_on_at_once(hub, quick, folder, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_wrong")
    with pytest.raises(OSError, match="Invalid credentials"):
        publish(folder, NAME)
    assert hub.count("POST") == 1
    assert hub.repositories == {}


def test_metadata_that_the_hub_refuses_end_in_its_reason(hub, quick, folder, monkeypatch):
    monkeypatch.setattr(checks, "check_card", lambda card: None)
    (folder / "README.md").write_text("No metadata.")
    with pytest.raises(ValueError, match="must be one of the list"):
        publish(folder, NAME)
    assert hub.objects == {}


def test_a_checkpoint_that_does_not_load_back_is_reported_with_its_commit(hub, quick, folder, monkeypatch):
    forward = publishing.forward_in_isolation
    wrong = lambda *args, **source: {name: 2 * tensor for name, tensor in forward(*args, **source).items()}  # noqa: E731
    monkeypatch.setattr(publishing, "forward_in_isolation", wrong)
    with pytest.raises(ValueError, match=r"Published as http.*/commit/.*could not be loaded back.*differs"):
        publish(folder, NAME)


def test_remote_code_that_cannot_be_loaded_is_refused(folder, monkeypatch):
    (folder / "bands.py").write_text("raise ImportError('broken')")
    monkeypatch.setitem(checks.CODE, "bands.py", folder / "bands.py")
    with pytest.raises(ValueError, match=r"does not load where this package is not installed(.|\n)*broken"):
        checks.check_checkpoint(folder)


@pytest.mark.parametrize("what", ["drop", 429])
def test_a_download_goes_on_where_it_was_interrupted(hub, quick, folder, tmp_path, monkeypatch, what):
    monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", 1000)  # what is kept of an interrupted one is whole chunks
    publish(folder, NAME)
    hub.troubles.append(Trouble("GET /objects/", what))
    hub.ranges.clear()
    loaded = SpectralGPTForPreTraining.from_pretrained(NAME, cache_dir=tmp_path / "cache")
    expected = load_file(folder / "model.safetensors")
    assert all(torch.equal(tensor, expected[name]) for name, tensor in loaded.state_dict().items())
    assert len(hub.ranges) == (what == "drop")


def test_a_download_that_fails_ends_in_a_message_and_leaves_nothing_half(hub, quick, folder, tmp_path):
    publish(folder, NAME)
    hub.troubles.append(Trouble("GET /objects/", 500, times=1000))
    with pytest.raises(OSError, match="500"):
        SpectralGPTModel.from_pretrained(NAME, cache_dir=tmp_path / "cache")
    hub.troubles.clear()
    SpectralGPTModel.from_pretrained(NAME, cache_dir=tmp_path / "cache")
