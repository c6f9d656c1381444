"""SpectralGPT in the real TerraTorch, where that is installed (the extra `terratorch`)."""

import sys

import pytest
import torch
from torch import nn

from spectralgpt_hf import SpectralGPTBackbone, SpectralGPTModel
from tests.inference.scenes import build


@pytest.fixture
def checkpoint(tmp_path):
    build(SpectralGPTModel, num_hidden_layers=4).save_pretrained(tmp_path / "checkpoint")
    return str(tmp_path / "checkpoint")


def terratorch():
    pytest.importorskip("terratorch", reason="TerraTorch is not installed (extra `terratorch`)")
    from spectralgpt_hf.integrations import terratorch_backbone

    return terratorch_backbone


def build_backbone(checkpoint, **options):
    terratorch()
    from terratorch.registry import BACKBONE_REGISTRY

    return BACKBONE_REGISTRY.build("terratorch_spectralgpt", checkpoint=checkpoint, **options)


def test_without_terratorch_the_message_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "terratorch", None)
    monkeypatch.delitem(sys.modules, "spectralgpt_hf.integrations.terratorch_backbone", raising=False)
    monkeypatch.setitem(sys.modules, "terratorch.registry", None)
    with pytest.raises(ImportError, match=r"spectralgpt-hf\[terratorch\]"):
        import spectralgpt_hf.integrations.terratorch_backbone  # noqa: F401


def test_features_are_ours_and_come_as_a_list(checkpoint):
    backbone = build_backbone(checkpoint, out_indices=[1, 2, 3, 4]).eval()
    assert backbone.out_channels == [32] * 4
    ours = SpectralGPTBackbone.from_pretrained(checkpoint, out_indices=[1, 2, 3, 4]).eval()
    images = torch.rand(2, 12, 32, 48)
    with torch.no_grad():
        found, expected = backbone(images), ours(images).feature_maps
    assert isinstance(found, list)
    for one, other in zip(found, expected, strict=True):
        assert one.shape == (2, 32, 4, 6)
        torch.testing.assert_close(one, other, rtol=0, atol=1e-6)


def test_the_factory_builds_it_with_upernet_and_it_trains_two_steps(checkpoint):
    terratorch()
    from terratorch.registry import MODEL_FACTORY_REGISTRY

    torch.manual_seed(0)
    model = MODEL_FACTORY_REGISTRY.build("EncoderDecoderFactory").build_model(
        task="segmentation",
        backbone="terratorch_spectralgpt",
        backbone_checkpoint=checkpoint,
        backbone_out_indices=[1, 2, 3, 4],
        necks=[{"name": "LearnedInterpolateToPyramidal"}],
        decoder="UperNetDecoder",
        decoder_channels=16,
        num_classes=3,
    )
    optimizer = torch.optim.AdamW(model.parameters(), 1e-3)
    images, labels, losses = torch.rand(2, 12, 32, 32), torch.randint(0, 3, (2, 32, 32)), []
    weight = model.encoder.backbone.spectralgpt.embeddings.patch_embeddings.weight
    before = weight.detach().clone()
    for _ in range(3):
        logits = model(images).output
        assert logits.shape == (2, 3, 32, 32)
        loss = nn.functional.cross_entropy(logits, labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[2] < losses[0]
    assert (weight != before).any()


def test_bands_must_be_those_of_the_checkpoint(checkpoint):
    module = terratorch()
    names = ["B01", "B02", "B03", "B04", "B05", "B06", "B07", "B08", "B8A", "B09", "B11", "B12"]
    assert module.spectralgpt(checkpoint, bands=names)
    with pytest.raises(ValueError, match="in this order, got B12 B11"):
        module.spectralgpt(checkpoint, bands=names[::-1])
    for folder in (checkpoint, "tiny"):
        with pytest.raises(ValueError, match="only checkpoints on the Hub have revisions"):
            module.spectralgpt(folder, revision="v1")
    with pytest.raises(ValueError, match="expected a `backbone_checkpoint`"):
        module.spectralgpt()
    assert module.spectralgpt(pretrained=False, preset="tiny").out_channels == [192]
