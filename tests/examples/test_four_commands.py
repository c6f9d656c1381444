"""From raw BigEarthNet to a published checkpoint, with the commands of the README."""

import pytest
from typer.testing import CliRunner

from spectralgpt_cli import app
from spectralgpt_hf import SpectralGPTModel
from tests.commands.test_pretrain import OPTIONS, pretrain, pretrain_script  # noqa: F401
from tests.hub.test_publish import hub, quick  # noqa: F401


NAME = "org/spectralgpt-bigearthnet"


def run(*arguments) -> str:
    result = CliRunner().invoke(app, [*map(str, arguments)])
    assert result.exit_code == 0, result.output
    return result.output


@pytest.mark.usefixtures("hub", "quick")
def test_four_commands_lead_from_raw_bigearthnet_to_a_published_checkpoint(shared_data, pretrain, tmp_path):  # noqa: F811
    shards = tmp_path / "shards"
    source = (shared_data / "bigearthnet", shards, "--dataset", "bigearthnet-v1", "--splits", "all")
    assert "6 samples in train" in run("prepare", *source, "--num-workers", 1)
    pretrain("--data", shards, "--output_dir", tmp_path / "run", "--epochs", 3, "--batch_size", 3)
    checkpoint = tmp_path / "run" / "model"
    assert "SpectralGPTForPreTraining" in run("info", checkpoint)
    assert NAME in run("publish", checkpoint, NAME)
    assert SpectralGPTModel.from_pretrained(NAME, cache_dir=tmp_path / "cache").config.hidden_size == 48
