import pytest
import torch
from transformers import ViTConfig, ViTForImageClassification

from spectralgpt_hf import (
    SpectralGPTConfig,
    SpectralGPTForImageClassification,
    SpectralGPTForPreTraining,
    SpectralGPTForSemanticSegmentation,
    SpectralGPTModel,
)
from spectralgpt_hf.training.models import with_lora
from spectralgpt_hf.training.optimization import exponential_schedule, parameter_groups
from spectralgpt_hf.training.stages import PretrainingOptions


CONFIG = SpectralGPTConfig.from_preset("tiny", num_hidden_layers=3)


def test_every_parameter_is_in_one_group_and_only_matrices_are_decayed():
    model = SpectralGPTForPreTraining(SpectralGPTConfig.from_preset("tiny"))
    decayed, free = parameter_groups(model, 0.05)
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    assert sorted(map(id, decayed["params"] + free["params"])) == sorted(names)
    assert (decayed["weight_decay"], free["weight_decay"]) == (0.05, 0.0)
    assert all(names[id(parameter)].endswith(".weight") for parameter in decayed["params"])
    free_names = {names[id(parameter)] for parameter in free["params"]}
    assert {"decoder.mask_token", "spectralgpt.layernorm.weight"} <= free_names
    assert sum(name.endswith("position_embeddings") for name in free_names) == 4


def expected_layer(name: str) -> int:
    """Return the layer number of a parameter, of a model with three layers, by its full name."""
    if "decoder" in name or "decode_head" in name or "classifier" in name:
        return 4
    if "patch_embeddings" in name or "position_embeddings" in name:
        return 0
    return next((i + 1 for i in range(3) if f"layers.{i}." in name), 4)


@pytest.mark.parametrize("kind", ["base", "pretraining", "classification", "segmentation", "lora", "lora segmentation"])
def test_rates_fall_by_layer_with_every_trainable_parameter_in_one_group(kind):
    classes = {
        "base": SpectralGPTModel,
        "pretraining": SpectralGPTForPreTraining,
        "segmentation": SpectralGPTForSemanticSegmentation,
        "lora segmentation": SpectralGPTForSemanticSegmentation,
    }
    model = classes.get(kind, SpectralGPTForImageClassification)(CONFIG)
    if kind.startswith("lora"):
        model = with_lora(model, 2)
    groups = parameter_groups(model, 0.05, learning_rate=1.0, layer_decay=0.5)
    placed = [(id(parameter), group) for group in groups for parameter in group["params"]]
    trainable = {id(parameter): name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert sorted(key for key, _ in placed) == sorted(trainable)
    for key, group in placed:
        name = trainable[key]
        assert group["lr"] == 0.5 ** (4 - expected_layer(name)), name
        free = name.endswith(("bias", "position_embeddings", "mask_token")) or "norm" in name or "conv.1." in name
        parameter = next(parameter for parameter in group["params"] if id(parameter) == key)
        assert group["weight_decay"] == (0.0 if free or parameter.ndim == 1 else 0.05), name
    if kind == "base":
        assert {group["lr"] for group in groups} == {1.0, 0.5, 0.25, 0.125, 0.0625}


def test_rates_by_layer_are_refused_for_other_architectures():
    model = ViTForImageClassification(ViTConfig(hidden_size=16, num_hidden_layers=1, num_attention_heads=2))
    with pytest.raises(ValueError, match="found vit: set it to 1"):
        parameter_groups(model, 0.05, learning_rate=1.0, layer_decay=0.75)
    assert len(parameter_groups(model, 0.05, learning_rate=1.0)) == 2


def test_the_rate_falls_by_a_factor_after_each_epoch():
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    schedule = exponential_schedule(optimizer, steps_per_epoch=2, factor=0.95)
    rates = []
    for _ in range(5):
        rates += schedule.get_last_lr()
        optimizer.step()
        schedule.step()
    assert rates == pytest.approx([1.0, 1.0, 0.95, 0.95, 0.95**2])


def test_bfloat16_is_chosen_where_the_machine_computes_in_it(monkeypatch):
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: False)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    for amx, expected in ((True, "bf16"), (False, "no")):
        monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)
        monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda amx=amx: amx)
        assert PretrainingOptions().mixed_precision == expected
        assert PretrainingOptions(mixed_precision="bf16").mixed_precision == "bf16"
