import json
import subprocess
import sys

import pytest
from transformers import ViTConfig, ViTImageProcessorPil, ViTModel
from typer.testing import CliRunner

from spectralgpt_cli import app
from spectralgpt_hf.assets import CHECKPOINT
from tests.training.test_few_labels import write_eurosat


def small_vit(folder):
    """Write another image model, with its image processor, and return where."""
    settings = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    ViTModel(ViTConfig(image_size=32, patch_size=16, **settings)).save_pretrained(folder)
    ViTImageProcessorPil(size={"height": 32, "width": 32}).save_pretrained(folder)
    return folder


def test_without_data_the_command_says_what_it_needs():
    result = CliRunner().invoke(app, ["evaluate", "tiny"])
    assert result.exit_code == 1
    assert "spectralgpt: Expected `--chips`, `--eurosat` or both" in result.stderr


@pytest.mark.slow
def test_checkpoints_contend_on_eurosat_and_are_finetuned(tmp_path):
    command = [
        sys.executable,
        "examples/evaluate_pretraining.py",
        CHECKPOINT,
        "--eurosat",
        write_eurosat(tmp_path / "eurosat"),
    ]
    command += ["--train_part", "choice", "--test_part", "report", "--seeds", "1"]
    command += [
        "--read_out",
        "pooled",
        "--read_out",
        "groups",
        "--image-model",
        small_vit(tmp_path / "vit"),
        "--finetune_seeds",
        "1",
        "--finetune_steps",
        "1",
        "--output",
        tmp_path / "scores.json",
    ]
    text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    scores = json.loads((tmp_path / "scores.json").read_text())["eurosat"]
    assert len(scores["contestants"]) == 7
    pooled = scores["contestants"][f"{CHECKPOINT}, pooled"]
    assert 0 < pooled["test"]["linear"]["accuracy"] <= 1
    differences = scores["differences"][f"{CHECKPOINT}, pooled"]
    assert differences["mean and std of digital numbers"]["linear"]["interval_95"][1] < 0  # brightness is all there is
    assert set(scores["fine_tuning"][str(CHECKPOINT)]) == {"1", "2", "5", "10"}
    for way in (", LoRA of rank 8", "random weights like", "random weights of a small ResNet"):
        (name,) = [name for name in scores["fine_tuning"] if way in name]
        assert len(scores["fine_tuning"][name]["5"]["runs"]) == 1
    assert "fine-tuned from random weights" in text
    assert (tmp_path / "scores.png").exists()
