"""Checkpoints load where this package is not installed, from the code saved beside the weights."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from spectralgpt_hf import (
    SpectralGPTBackbone,
    SpectralGPTForImageClassification,
    SpectralGPTForPreTraining,
    SpectralGPTImageProcessor,
    SpectralGPTModel,
)
from tests import parity


CODE = {path.name for path in Path("spectralgpt_hf/modeling").glob("*.py")} - {"__init__.py"}

# Run in a process of its own: `spectralgpt_hf` cannot be imported, and the module cache is empty.
SCRIPT = """
import sys
sys.modules["spectralgpt_hf"] = None
import torch
from safetensors.torch import save_file
from transformers import AutoConfig, AutoModel, AutoModelForImageClassification, AutoModelForPreTraining
from transformers.models.auto.image_processing_auto import AutoImageProcessor

folder, saved_again, results = sys.argv[1:]
pixels = torch.load(results + "/input.pt")
outputs = {}
for source, prefix in ((folder, "first"), (saved_again, "again")):
    processor = AutoImageProcessor.from_pretrained(source, trust_remote_code=True)
    inputs = processor(pixels, band_names=processor.bands, return_tensors="pt")
    model = AutoModel.from_pretrained(source, trust_remote_code=True).eval()
    pretraining = AutoModelForPreTraining.from_pretrained(source, trust_remote_code=True).eval()
    classifier = AutoModelForImageClassification.from_pretrained(source, trust_remote_code=True).eval()
    noise = torch.linspace(0, 1, 64)[None].contiguous()
    with torch.no_grad():
        outputs[prefix + ".pooler_output"] = model(**inputs).pooler_output
        outputs[prefix + ".logits"] = pretraining(**inputs, noise=noise).logits
        assert classifier(**inputs).logits.shape == (1, 2)
    for part in (model, pretraining, classifier, processor):
        assert type(part).__module__.startswith("transformers_modules."), type(part)
    if prefix == "first":
        pretraining.save_pretrained(saved_again)
        processor.save_pretrained(saved_again)
save_file(outputs, results + "/output.safetensors")
"""


def run_without_the_package(tmp_path: Path, *arguments: str) -> None:
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "HF_MODULES_CACHE": str(tmp_path / "modules")}
    result = subprocess.run(
        [sys.executable, "-c", SCRIPT, *arguments], env=environment, cwd=tmp_path, capture_output=True, text=True
    )
    assert result.returncode == 0, result.stderr


def code_in(folder: Path) -> set[str]:
    return {path.name for path in folder.glob("*.py")}


@pytest.mark.parametrize(
    "cls", [SpectralGPTModel, SpectralGPTForPreTraining, SpectralGPTForImageClassification, SpectralGPTBackbone]
)
def test_every_class_saves_all_the_code_and_the_whole_auto_map(cls, tmp_path):
    cls(parity.config("toy")).save_pretrained(tmp_path)
    assert code_in(tmp_path) == CODE
    saved = json.loads((tmp_path / "config.json").read_text())
    assert {"AutoConfig", "AutoModel", "AutoModelForPreTraining", "AutoBackbone"} <= set(saved["auto_map"])


def test_the_processor_saves_all_the_code(tmp_path):
    SpectralGPTImageProcessor().save_pretrained(tmp_path)
    assert code_in(tmp_path) == CODE


def test_a_checkpoint_loads_where_the_package_is_not_installed_and_again_after_being_saved_there(tmp_path):
    torch.manual_seed(0)
    folder, again = tmp_path / "checkpoint", tmp_path / "again"
    model = SpectralGPTForPreTraining(parity.config("toy")).eval()
    model.save_pretrained(folder)
    processor = SpectralGPTImageProcessor(bands=model.config.bands)
    processor.save_pretrained(folder)
    pixels = torch.randint(0, 3000, (12, 32, 32))
    torch.save(pixels, tmp_path / "input.pt")

    run_without_the_package(tmp_path, str(folder), str(again), str(tmp_path))

    assert code_in(again) == CODE
    inputs = processor(pixels, band_names=processor.bands, return_tensors="pt")
    outputs = load_file(tmp_path / "output.safetensors")
    with torch.no_grad():
        pooled = model.spectralgpt(**inputs).pooler_output
        logits = model(**inputs, noise=torch.linspace(0, 1, 64)[None]).logits
    for prefix in ("first", "again"):
        torch.testing.assert_close(outputs[f"{prefix}.pooler_output"], pooled, rtol=0, atol=1e-6)
        torch.testing.assert_close(outputs[f"{prefix}.logits"], logits, rtol=0, atol=1e-6)
