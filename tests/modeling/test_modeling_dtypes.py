"""Every class in every dtype, quantised and under autocast: finite, and near the answer in float32."""

from pathlib import Path

import pytest
import torch
from torch import nn

from spectralgpt_hf import (
    SpectralGPTBackbone,
    SpectralGPTConfig,
    SpectralGPTForChangeDetection,
    SpectralGPTForImageClassification,
    SpectralGPTForPreTraining,
    SpectralGPTForSemanticSegmentation,
    SpectralGPTModel,
)
from spectralgpt_hf.modeling.modeling_spectralgpt import masked_mean
from tests import parity


CHECKPOINTS = sorted(path.parent for path in Path("spectralgpt_hf/assets").glob("*/config.json"))
CHECKPOINT = CHECKPOINTS[0]
DENSE = [SpectralGPTForSemanticSegmentation, SpectralGPTForChangeDetection]
CLASSES = [
    SpectralGPTModel,
    SpectralGPTForPreTraining,
    SpectralGPTForImageClassification,
    SpectralGPTBackbone,
    *DENSE,
]
# Of the largest value. A fresh head on the difference of two images of noise magnifies rounding the most.
TOLERANCE = {torch.float32: 1e-4, torch.bfloat16: 0.2, torch.float16: 0.04}


def loaded(cls, dtype=torch.float32):
    torch.manual_seed(0)  # of the heads, which the checkpoint lacks
    return cls.from_pretrained(CHECKPOINT).to(dtype).eval()


def arguments(cls, masked, size):
    """Images of which the right quarter has no data, and one group lacks more."""
    pixel_values = torch.rand(2, 12, size, size, generator=torch.Generator().manual_seed(0))
    inputs = {"pixel_values": pixel_values}
    if cls is SpectralGPTForChangeDetection:
        inputs["pixel_values_after"] = pixel_values.flip(0)
    if cls is SpectralGPTForPreTraining:
        inputs["noise"] = parity.random_input(0, 2, 4 * (size // 8) ** 2)
    if masked:
        rows = pixel_values.shape[-1] // 8
        mask = torch.ones(2, 4, rows, rows, dtype=torch.long)
        mask[..., -rows // 4 :] = mask[:, 0, :2] = 0
        inputs["attention_mask"] = mask.flatten(1)
    return inputs


def answers(cls, model, inputs):
    if cls is SpectralGPTForImageClassification:
        inputs = {**inputs, "labels": torch.tensor([0, 1])}
    if cls in DENSE:
        inputs = {**inputs, "labels": torch.zeros(inputs["pixel_values"][:, 0].shape, dtype=torch.long)}
    with torch.no_grad():
        output = model(**inputs)
    if cls is SpectralGPTBackbone:
        return {"feature_map": output.feature_maps[0]}
    names = ("loss", "token_loss", "spectral_loss", "logits", "pooler_output", "last_hidden_state")
    return {name: output[name] for name in names if output.get(name) is not None}


@pytest.fixture(
    scope="module",
    params=[
        pytest.param((cls, masked, size), marks=[pytest.mark.slow] * (size == 128))
        for cls in CLASSES
        for masked in (False, True)
        for size in (32, 128)  # 128 gives the 1,024 tokens of training; half precision is slow on CPUs
        if size == 32 or cls not in DENSE
    ],
    ids=lambda case: f"{case[0].__name__}-{'masked' if case[1] else 'all'}-{case[2]}",
)
def in_float64(request):
    cls, masked, size = request.param
    inputs = arguments(cls, masked, size)
    return cls, inputs, answers(cls, loaded(cls, torch.float64), inputs)


@pytest.mark.parametrize("dtype", TOLERANCE)
def test_every_class_is_near_the_float64_answer_with_and_without_a_mask(in_float64, dtype):
    cls, inputs, expected = in_float64
    found = answers(cls, loaded(cls, dtype), inputs)  # float32 images: the model casts them
    assert found.keys() == expected.keys()
    for name, value in found.items():
        assert value.dtype == (torch.float32 if "loss" in name else dtype), name
        assert torch.isfinite(value).all(), name
        valid = ...
        if "attention_mask" in inputs and (name == "last_hidden_state" or cls is SpectralGPTForPreTraining):
            valid = inputs["attention_mask"].bool() if value.ndim == 3 else ...
        assert parity.relative_error(value[valid].double(), expected[name][valid].double()) < TOLERANCE[dtype], name


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("masked", [False, True])
def test_means_are_summed_in_float32(dtype, masked):
    values = torch.full((1, 4096, 2), 100.0, dtype=dtype)  # the sum, 409,600, overflows float16
    mask = torch.ones(1, 4096) if masked else None
    assert (masked_mean(values, mask) == 100).all()
    assert masked_mean(values, mask).dtype == dtype


def test_what_a_mean_leaves_out_may_be_anything():
    values = torch.tensor([[[1.0], [float("nan")], [3.0], [float("inf")]]], requires_grad=True)
    mean = masked_mean(values, torch.tensor([[1, 0, 1, 0]]))
    assert mean.item() == 2.0
    mean.sum().backward()
    assert torch.equal(values.grad.flatten(), torch.tensor([0.5, 0.0, 0.5, 0.0]))
    assert masked_mean(values, torch.zeros(1, 4)).item() == 0.0


@pytest.mark.parametrize("checkpoint", CHECKPOINTS, ids=lambda path: path.name)
def test_embedded_checkpoints_load_as_float32(checkpoint):
    assert SpectralGPTConfig.from_pretrained(checkpoint).dtype == torch.float32
    assert {parameter.dtype for parameter in SpectralGPTModel.from_pretrained(checkpoint).parameters()} == {
        torch.float32
    }


class Int8Linear(nn.Module):
    """Weight-only quantisation, one scale per output, as bitsandbytes and torchao do it."""

    def __init__(self, linear: nn.Linear):
        super().__init__()
        scale = linear.weight.detach().abs().amax(dim=1, keepdim=True) / 127
        self.register_buffer("scale", scale)
        self.weight = nn.Parameter((linear.weight / scale).round().to(torch.int8), requires_grad=False)
        self.bias = linear.bias

    def forward(self, values):
        return nn.functional.linear(values, self.weight.to(values.dtype) * self.scale.to(values.dtype), self.bias)


def weight_only_int8(model: nn.Module) -> nn.Module:
    for module in list(model.modules()):
        for name, child in list(module.named_children()):
            if isinstance(child, nn.Linear):
                setattr(module, name, Int8Linear(child))
    return model


def dynamic_int8(model: nn.Module) -> nn.Module:
    return torch.ao.quantization.quantize_dynamic(model, {nn.Linear}, dtype=torch.qint8)


@pytest.mark.parametrize(("quantise", "distance"), [(weight_only_int8, 0.05), (dynamic_int8, 0.2)])
@pytest.mark.parametrize("cls", [SpectralGPTModel, SpectralGPTForPreTraining])
def test_quantised_weights_see_the_image(cls, quantise, distance):
    first, second = arguments(cls, False, 64), arguments(cls, False, 64)
    second["pixel_values"] = second["pixel_values"] ** 2
    name = "pooler_output" if cls is SpectralGPTModel else "logits"
    expected = [answers(cls, loaded(cls), inputs)[name] for inputs in (first, second)]
    model = quantise(loaded(cls))
    found = [answers(cls, model, inputs)[name] for inputs in (first, second)]
    assert (found[0] - found[1]).norm() > 0.5 * (expected[0] - expected[1]).norm() > 0
    for value, reference in zip(found, expected):
        assert (value - reference).norm() < distance * reference.norm()


def test_four_bit_weights_see_the_image():
    pytest.importorskip("bitsandbytes")
    from transformers import BitsAndBytesConfig

    model = SpectralGPTModel.from_pretrained(CHECKPOINT, quantization_config=BitsAndBytesConfig(load_in_4bit=True))
    inputs = arguments(SpectralGPTModel, False, 64)
    expected = loaded(SpectralGPTModel)(**inputs).pooler_output
    found = model(**inputs).pooler_output.float()
    assert (found - expected).norm() < 0.3 * expected.norm()


@pytest.mark.parametrize("cls", DENSE)
def test_the_decode_head_computes_in_bfloat16_under_autocast(cls):
    torch.manual_seed(0)
    model = cls(parity.config("toy", decode_hidden_size=16)).eval()
    dtypes = {}
    for name, module in model.decode_head.named_modules():
        if "Enlargement" in type(module).__name__ or "GroupFusion" in type(module).__name__:
            module.register_forward_hook(lambda _, __, output, name=name: dtypes.update({name: output.dtype}))
    inputs = {"pixel_values": torch.rand(1, 12, 32, 32)}
    if cls is SpectralGPTForChangeDetection:
        inputs["pixel_values_after"] = torch.rand(1, 12, 32, 32)
    labels = torch.zeros(1, 32, 32, dtype=torch.long)
    expected = model(**inputs, labels=labels)
    with torch.autocast("cpu", torch.bfloat16):
        output = model(**inputs, labels=labels)
    output.loss.backward()
    assert len(dtypes) == 4
    assert set(dtypes.values()) == {torch.bfloat16}
    assert output.loss.dtype == torch.float32
    assert parity.relative_error(output.logits.float(), expected.logits) < 0.1
    assert all(torch.isfinite(parameter.grad).all() for parameter in model.parameters())
