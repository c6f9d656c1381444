"""SpectralGPT in the real torchgeo-bench, where that is installed, with the bands that its datasets describe."""

import sys

import pytest
import torch

from spectralgpt_hf import SpectralGPTImageProcessor, SpectralGPTModel
from tests.inference.scenes import build


@pytest.fixture
def checkpoint(tmp_path):
    build(SpectralGPTModel).save_pretrained(tmp_path / "checkpoint")
    SpectralGPTImageProcessor().save_pretrained(tmp_path / "checkpoint")
    return str(tmp_path / "checkpoint")


@pytest.fixture
def bench():
    pytest.importorskip("torchgeo_bench", reason="torchgeo-bench is not installed (it needs Python 3.12)")
    from spectralgpt_hf.integrations.torchgeo_bench_model import SpectralGPTBench

    return SpectralGPTBench


def test_without_torchgeo_bench_the_message_names_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "torchgeo_bench.models.interface", None)
    monkeypatch.delitem(sys.modules, "spectralgpt_hf.integrations.torchgeo_bench_model", raising=False)
    with pytest.raises(ImportError, match="pip install torchgeo-bench"):
        import spectralgpt_hf.integrations.torchgeo_bench_model  # noqa: F401


@pytest.mark.parametrize("name", ["EuroSAT", "MEurosat"])
def test_features_are_ours_for_the_bands_of_its_datasets(bench, checkpoint, name):
    from torchgeo_bench import datasets

    specs = getattr(datasets, name).bands
    model = bench(bands=specs, checkpoint=checkpoint)
    assert sorted(model.band_names) == sorted(f"B{number}" for number in (*range(1, 13), "8A"))
    images = torch.randint(200, 4000, (2, 13, 64, 64), generator=torch.Generator().manual_seed(0)).float()
    inputs = model.processor(list(images), band_names=model.band_names, return_tensors="pt")
    with torch.no_grad():
        expected = SpectralGPTModel.from_pretrained(checkpoint).eval()(**inputs).pooler_output
    torch.testing.assert_close(model(images), expected, rtol=0, atol=1e-6)
    assert model.backbone.training is False


def test_reflectance_becomes_digital_numbers_and_other_sensors_are_refused(bench, checkpoint):
    from dataclasses import replace

    from torchgeo_bench.datasets import EuroSAT

    reflectance = [replace(spec, max=2.8) for spec in EuroSAT.bands]
    images = torch.rand(1, 13, 64, 64, generator=torch.Generator().manual_seed(0))
    found = bench(bands=reflectance, checkpoint=checkpoint)(images)
    torch.testing.assert_close(found, bench(bands=EuroSAT.bands, checkpoint=checkpoint)(images * 10_000))
    for folder in (checkpoint, "tiny"):
        with pytest.raises(ValueError, match="only checkpoints on the Hub have revisions"):
            bench(bands=EuroSAT.bands, checkpoint=folder, revision="v1")
    with pytest.raises(ValueError, match="found red of landsat"):
        bench(bands=[replace(EuroSAT.bands[3], sensor="landsat")], checkpoint=checkpoint)
