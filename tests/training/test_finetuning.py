import os
import subprocess
import sys

import pytest
import torch

from spectralgpt_hf import SpectralGPTConfig, SpectralGPTImageProcessor
from spectralgpt_hf.training import finetuning
from spectralgpt_hf.training.finetuning import FineTuner, counted_labels
from spectralgpt_hf.training.models import build_model
from spectralgpt_hf.training.options import FineTuningOptions
from spectralgpt_hf.training.samples import Samples
from tests.training import gradients_in_processes as script


def gradient(data, folder, processes: int, batch: int, accumulated: int) -> torch.Tensor:
    folder.mkdir()
    if processes == 1:
        script.main(data, batch, accumulated, folder / "gradient.pt")
    else:
        command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={processes}"]
        command += ["-m", "tests.training.gradients_in_processes"]
        subprocess.run(
            [*command, str(data), str(batch), str(accumulated), str(folder / "gradient.pt")],
            env=os.environ | {"OMP_NUM_THREADS": "1"},
            check=True,
        )
    return torch.load(folder / "gradient.pt", weights_only=True)


@pytest.mark.slow
def test_the_gradient_of_a_step_does_not_depend_on_how_batches_and_processes_share_it(tmp_path):
    script.write_data(tmp_path / "data")
    whole = gradient(tmp_path / "data", tmp_path / "whole", 1, batch=4, accumulated=1)
    assert whole.abs().max() > 1e-3
    accumulated = gradient(tmp_path / "data", tmp_path / "accumulated", 1, batch=1, accumulated=4)
    shared = gradient(tmp_path / "data", tmp_path / "shared", 2, batch=2, accumulated=1)
    torch.testing.assert_close(accumulated, whole, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(shared, whole, rtol=1e-5, atol=1e-5)


def test_pixels_count_only_where_some_group_has_data_at_all_dates():
    before = torch.ones(1, 2, 2, 2, dtype=torch.long)
    after = before.clone()
    before[0, 0, 0, 0] = after[0, 1, 0, 0] = 0  # no group has both dates
    after[0, 0, 1, 1] = 0  # the other group has
    batch = {"labels": torch.zeros(1, 4, 4).long(), "attention_mask": before, "attention_mask_after": after}
    counted = counted_labels(batch, patch_size=2)[0] == 0
    assert not counted[:2, :2].any()
    assert counted.sum() == 12


def test_a_model_and_a_processor_of_other_bands_are_refused(tmp_path):
    script.write_data(tmp_path)
    options = FineTuningOptions(output_dir=str(tmp_path), config_name="tiny", validation_split="none", use_cpu=True)
    rows = script.load_image_masks(tmp_path, "all", classes=["a", "b"], band_names=script.L2A_BANDS)
    processor = SpectralGPTImageProcessor(bands=SpectralGPTConfig().bands[::-1])
    model = build_model("segmentation", options, ["a", "b"])
    with pytest.raises(ValueError, match="must give the bands that the model expects"):
        FineTuner(model, options, Samples(rows, processor))


@pytest.mark.parametrize("lora_rank", [0, 4])
def test_training_computes_with_the_attention_that_is_the_fastest(lora_rank, tmp_path, monkeypatch):
    asked = []

    def fastest(model, compute, images, dtype, device):
        asked.append((images, dtype, device.type))
        assert compute(1).requires_grad
        return "eager"

    monkeypatch.setattr(finetuning, "fastest_attention", fastest)
    script.write_data(tmp_path)
    options = FineTuningOptions(
        output_dir=str(tmp_path),
        config_name="tiny",
        validation_split="none",
        use_cpu=True,
        bf16=True,
        per_device_train_batch_size=3,
        lora_rank=lora_rank,
    )
    rows = script.load_image_masks(tmp_path, "all", classes=["a", "b"], band_names=script.L2A_BANDS)
    trainer = FineTuner(
        build_model("segmentation", options, ["a", "b"]), options, Samples(rows, SpectralGPTImageProcessor())
    )
    assert trainer.model.config._attn_implementation == "eager"
    assert asked == [(3, torch.bfloat16, "cpu")]
