import runpy
import shutil
import sys

import pytest
import torch
from safetensors.torch import load_file

from spectralgpt_hf import SpectralGPTForImageClassification, SpectralGPTForPreTraining, SpectralGPTImageProcessor
from tests.parity import config


@pytest.fixture
def folders(tmp_path):
    """A pretrained checkpoint in half precision, and a classifier on its encoder."""
    torch.manual_seed(0)
    base, classifier = tmp_path / "base", tmp_path / "classifier"
    SpectralGPTForPreTraining(config("toy")).half().save_pretrained(base)
    model = SpectralGPTForImageClassification.from_pretrained(base, num_labels=3, dtype=torch.float32)
    model.save_pretrained(classifier)
    SpectralGPTImageProcessor().save_pretrained(classifier)
    return base, classifier


@pytest.fixture
def embed(monkeypatch):
    """Run the script in this process."""

    def run(classifier, output, base):
        monkeypatch.setattr(sys, "argv", ["embed_head.py", str(classifier), str(output), "--base", str(base)])
        runpy.run_path("examples/embed_head.py", run_name="__main__")

    return run


def test_an_embedded_head_loads_with_the_encoder_of_its_base(embed, folders, tmp_path):
    base, classifier = folders
    embed(classifier, tmp_path / "head", base)
    assert set(load_file(tmp_path / "head" / "head.safetensors")) == {"classifier.weight", "classifier.bias"}
    expected = SpectralGPTForImageClassification.from_pretrained(classifier)
    found, report = SpectralGPTForImageClassification.from_pretrained(tmp_path / "head", output_loading_info=True)
    assert not any(report.values())
    for (name, first), second in zip(expected.state_dict().items(), found.state_dict().values()):
        torch.testing.assert_close(second.float(), first.float(), rtol=1e-3, atol=1e-6, msg=name)


def test_an_encoder_that_was_trained_is_refused(embed, folders, tmp_path):
    base, classifier = folders
    model = SpectralGPTForImageClassification.from_pretrained(classifier, dtype=torch.float32)
    with torch.no_grad():
        model.spectralgpt.layernorm.bias += 0.1
    shutil.rmtree(classifier)
    model.save_pretrained(classifier)
    with pytest.raises(ValueError, match=r"layernorm\.bias .*--freeze_encoder"):
        embed(classifier, tmp_path / "head", base)
    assert not (tmp_path / "head").exists()
