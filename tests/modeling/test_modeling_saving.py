"""Saving and loading: Auto classes, outputs, messages and the values of what a checkpoint lacks."""

import logging

import pytest
import torch
from transformers import (
    AutoBackbone,
    AutoConfig,
    AutoModel,
    AutoModelForImageClassification,
    AutoModelForPreTraining,
)

from spectralgpt_hf import (
    SpectralGPTBackbone,
    SpectralGPTConfig,
    SpectralGPTForImageClassification,
    SpectralGPTForPreTraining,
    SpectralGPTModel,
)
from tests.modeling.networks import images, small_config, small_model


def test_auto_classes_know_the_model(tmp_path):
    small_model(SpectralGPTForPreTraining).save_pretrained(tmp_path)
    assert type(AutoConfig.from_pretrained(tmp_path)) is SpectralGPTConfig
    assert type(AutoModel.from_pretrained(tmp_path)) is SpectralGPTModel
    assert type(AutoModelForPreTraining.from_pretrained(tmp_path)) is SpectralGPTForPreTraining
    assert type(AutoModelForImageClassification.from_pretrained(tmp_path)) is SpectralGPTForImageClassification
    assert type(AutoBackbone.from_config(small_config())) is SpectralGPTBackbone


@pytest.mark.parametrize(
    "cls", [SpectralGPTModel, SpectralGPTForPreTraining, SpectralGPTForImageClassification, SpectralGPTBackbone]
)
def test_a_saved_model_gives_the_same_output(cls, tmp_path):
    model = small_model(cls)
    model.save_pretrained(tmp_path)
    reloaded = cls.from_pretrained(tmp_path)
    arguments = {"noise": torch.rand(2, 64)} if cls is SpectralGPTForPreTraining else {}
    before, after = model(images(), **arguments), reloaded(images(), **arguments)
    for first, second in zip(before.to_tuple(), after.to_tuple()):
        first, second = (first, second) if torch.is_tensor(first) else (first[0], second[0])
        torch.testing.assert_close(first, second, rtol=0, atol=1e-6)


def loading_messages(load, caplog) -> str:
    logger = logging.getLogger("transformers")
    logger.addHandler(caplog.handler)
    try:
        with caplog.at_level(logging.WARNING):
            load()
    finally:
        logger.removeHandler(caplog.handler)
    return caplog.text


def test_an_encoder_from_a_pretraining_checkpoint_loads_without_a_warning(tmp_path, caplog):
    pretrained = small_model(SpectralGPTForPreTraining)
    pretrained.save_pretrained(tmp_path)
    assert loading_messages(lambda: SpectralGPTModel.from_pretrained(tmp_path), caplog) == ""
    encoder = SpectralGPTModel.from_pretrained(tmp_path)
    expected = pretrained.spectralgpt(images()).pooler_output
    torch.testing.assert_close(encoder(images()).pooler_output, expected, rtol=0, atol=1e-6)


def test_missing_and_unexpected_keys_are_named(tmp_path, caplog):
    pretrained = small_model(SpectralGPTForPreTraining)
    weights = pretrained.state_dict()
    weights["spectralgpt.layers.0.mlp.fc9.weight"] = weights.pop("spectralgpt.layers.0.mlp.fc1.weight")
    pretrained.save_pretrained(tmp_path, state_dict=weights)
    messages = loading_messages(lambda: SpectralGPTModel.from_pretrained(tmp_path), caplog)
    assert "layers.0.mlp.fc1.weight" in messages
    assert "layers.0.mlp.fc9.weight" in messages
    assert "decoder" not in messages


def test_loading_leaves_no_value_uninitialised(tmp_path):
    """`from_pretrained` builds on the meta device, and `_init_weights` must initialise what the checkpoint lacks."""
    small_model().save_pretrained(tmp_path)
    model = SpectralGPTForPreTraining.from_pretrained(tmp_path)
    for name, parameter in model.decoder.named_parameters():
        assert parameter.device.type == "cpu"
        if name.endswith("layernorm.weight") or ("layernorm_" in name and name.endswith("weight")):
            assert (parameter == 1).all(), name
        elif name.endswith("bias"):
            assert (parameter == 0).all(), name
        elif name == "mask_token":
            assert 0.005 < parameter.std() < 0.04, name
        elif "position" in name:
            assert 0.5 < parameter.square().mean().sqrt() < 0.9, name
        else:
            bound = (6 / sum(parameter.shape)) ** 0.5
            assert 0.4 * bound < parameter.std() < 0.8 * bound, name
            assert parameter.abs().max() <= bound, name
