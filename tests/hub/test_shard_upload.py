"""Prepared shards on a Hub on loopback, by the unmodified client."""

import pytest
from datasets import load_dataset
from huggingface_hub import DatasetCard, constants
from typer.testing import CliRunner

from spectralgpt_cli import app
from spectralgpt_hf.assets import SAMPLE
from spectralgpt_hf.data import prepare_shards
from spectralgpt_hf.hub.allowed_files import MANIFEST
from spectralgpt_hf.hub.shard_upload import push_shards
from tests.hub_server import Repository

from .test_publish import hub  # noqa: F401


SHARDS = {
    "README.md",
    "data/train-00000-of-00001.parquet",
    "report.json",
    "statistics.json",
}


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    return prepare_shards(SAMPLE, tmp_path_factory.mktemp("push") / "shards", size=256, num_workers=1, license="mit")


def test_the_folder_is_a_dataset_for_the_hub(hub, shards, tmp_path, monkeypatch):  # noqa: F811
    arguments = ["prepare", str(SAMPLE), str(shards), "--size", "256", "--license", "mit", "--num-workers", "1"]
    result = CliRunner().invoke(app, [*arguments, "--push-to-hub", "org/scenes"])
    assert result.exit_code == 0, result.output
    files = hub.repositories["org/scenes"].files
    assert {name for name in files if not name.startswith(".")} == SHARDS | {MANIFEST}
    data = DatasetCard(files["README.md"].decode()).data
    assert (data.license, data.size_categories) == ("mit", ["n<1K"])
    commits = len(hub.repositories["org/scenes"].commits)
    assert push_shards(shards, "org/scenes").endswith("/datasets/org/scenes")  # nothing changes
    assert len(hub.repositories["org/scenes"].commits) == commits
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    loaded = load_dataset(str(shards), cache_dir=str(tmp_path / "cache"))
    assert {split: len(rows) for split, rows in loaded.items()} == {"train": 4}


def test_a_dataset_of_somebody_else_is_left_alone(hub, shards):  # noqa: F811
    other = hub.repositories["org/other"] = Repository(False)
    theirs = {"README.md": b"theirs", "data/train-00000-of-00001.parquet": b"theirs"}
    other.branches["main"] = other.add(theirs)
    with pytest.raises(ValueError, match="org/other holds 2 files that were not published with this package"):
        push_shards(shards, "org/other")
    with pytest.raises(ValueError, match=r"org/other would lose README\.md, data/train"):
        push_shards(shards, "org/other", force=True)
    assert other.files == theirs
    push_shards(shards, "org/other", force=True, confirm=True)
    assert set(other.files) == SHARDS | {MANIFEST}


def test_shards_that_are_not_complete_are_refused(tmp_path):
    with pytest.raises(ValueError, match="expected complete shards"):
        push_shards(tmp_path, "org/scenes")
