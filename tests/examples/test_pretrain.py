import json
import os
import subprocess
import sys

import pytest
import torch

from spectralgpt_hf import SpectralGPTForPreTraining, SpectralGPTImageProcessor
from spectralgpt_hf.assets import SAMPLE


def pretrain(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "accelerate.commands.launch", "examples/pretrain.py", *arguments]
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "ACCELERATE_USE_CPU": "true"}
    return subprocess.run(command, capture_output=True, text=True, env=environment)


def test_a_scene_is_learnt_from_and_the_checkpoint_loads_at_the_next_stages_size(tmp_path):
    options = ["--scenes", str(SAMPLE), "--chip_size", "128", "--chip_stride", "64", "--batch_size", "8"]
    options += ["--image_size", "64", "--base_learning_rate", "3e-2", "--log_every", "5"]
    result = pretrain(*options, "--output_dir", str(tmp_path / "stage1"), "--steps", "20")
    assert result.returncode == 0, result.stderr

    log = [json.loads(line) for line in (tmp_path / "stage1" / "log.jsonl").read_text().splitlines()]
    assert [record["step"] for record in log] == [5, 10, 15, 20]
    assert log[-1]["loss"] < 0.25 * log[0]["loss"]
    assert log[-1]["loss"] == pytest.approx(log[-1]["token_loss"] + log[-1]["spectral_loss"], rel=1e-4)

    model = SpectralGPTForPreTraining.from_pretrained(tmp_path / "stage1")
    processor = SpectralGPTImageProcessor.from_pretrained(tmp_path / "stage1")
    assert processor.bands == model.config.bands
    assert torch.isfinite(model(**processor(SAMPLE)).loss)

    stage2 = ["--model_name_or_path", str(tmp_path / "stage1"), "--output_dir", str(tmp_path / "stage2")]
    result = pretrain(*options, *stage2, "--image_size", "96", "--steps", "2", "--save_dtype", "float16")
    assert result.returncode == 0, result.stderr
    model = SpectralGPTForPreTraining.from_pretrained(tmp_path / "stage2")
    assert (model.config.image_size, model.dtype) == (96, torch.float16)


def test_too_few_images_for_a_batch_is_an_error_before_training(tmp_path):
    result = pretrain("--scenes", str(SAMPLE), "--output_dir", str(tmp_path), "--chip_size", "512")
    assert result.returncode != 0
    assert "1 images do not fill a batch of 32 on 1 processes" in result.stderr
