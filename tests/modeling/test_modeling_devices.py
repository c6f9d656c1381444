"""Every tensor follows its input's device, and nothing waits for the host: shown with fake tensors, on two devices.

The device "meta" stands for an accelerator: fake CUDA tensors need a torch that is built for CUDA.
"""

import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map
from transformers import masking_utils
from transformers.initialization import no_init_weights

from spectralgpt_hf import (
    SpectralGPTBackbone,
    SpectralGPTForChangeDetection,
    SpectralGPTForImageClassification,
    SpectralGPTForPreTraining,
    SpectralGPTForSemanticSegmentation,
    SpectralGPTModel,
)
from tests import parity


CLASSES = [
    SpectralGPTModel,
    SpectralGPTForPreTraining,
    SpectralGPTForImageClassification,
    SpectralGPTForSemanticSegmentation,
    SpectralGPTForChangeDetection,
    SpectralGPTBackbone,
]


class NoCPUTensors(TorchDispatchMode):
    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        tensors = [leaf for leaf in tree_leaves((args, kwargs, result)) if isinstance(leaf, torch.Tensor)]
        assert all(tensor.device.type == "meta" for tensor in tensors), f"{function} on a tensor of the host"
        return result


def fake_model(cls, **options):
    """A model without values in training mode on the accelerator. Reading a value, as `.item()` does, raises."""
    with no_init_weights(), torch.device("meta"):
        sizes = {"num_hidden_layers": 2, "decoder_num_hidden_layers": 1, "decode_hidden_size": 16}
        settings = {"decode_ratio": 0.5, "num_labels": 2, "class_weights": [1, 2]}
        return cls(parity.config("toy", **sizes, **settings, **options)).train()


def arguments(cls, masked):
    pixel_values = torch.empty(2, 12, 32, 32, device="meta")
    inputs = {"pixel_values": pixel_values}
    if masked:
        inputs["attention_mask"] = torch.ones(2, 64, dtype=torch.long, device="meta")
    if cls is SpectralGPTForChangeDetection:
        inputs["pixel_values_after"] = pixel_values
    if cls in (SpectralGPTForSemanticSegmentation, SpectralGPTForChangeDetection):
        inputs["labels"] = torch.zeros(2, 32, 32, dtype=torch.long, device="meta")
    if cls is SpectralGPTForImageClassification:
        inputs["labels"] = torch.zeros(2, dtype=torch.long, device="meta")
    return inputs


def run(cls, model, inputs):
    output = model(**inputs)
    if cls is SpectralGPTModel:
        return model.feature_map(output.last_hidden_state, 32, 32, inputs.get("attention_mask")).sum()
    return output.feature_maps[0].sum() if cls is SpectralGPTBackbone else output.loss


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("cls", CLASSES)
def test_forward_and_backward_make_no_tensor_on_the_host_and_read_no_value(cls, masked, monkeypatch):
    # Transformers spares fake tensors the questions that it asks of real ones.
    monkeypatch.setattr(masking_utils, "is_tracing", lambda tensor=None: False)
    with FakeTensorMode():
        model, inputs = fake_model(cls), arguments(cls, masked)
        with NoCPUTensors():
            run(cls, model, inputs).backward()
            if cls is SpectralGPTForPreTraining:
                assert model.reconstruct(inputs["pixel_values"]).device.type == "meta"


@pytest.mark.parametrize(
    ("cls", "fusion", "masked"),  # every pair of two of them
    [
        (SpectralGPTForImageClassification, "mean", False),
        (SpectralGPTForImageClassification, "attention", True),
        (SpectralGPTForSemanticSegmentation, "mean", True),
        (SpectralGPTForSemanticSegmentation, "attention", False),
    ],
)
def test_series_make_no_tensor_on_the_host_and_read_no_value(cls, fusion, masked, monkeypatch):
    monkeypatch.setattr(masking_utils, "is_tracing", lambda tensor=None: False)
    with FakeTensorMode():
        model, inputs = fake_model(cls, temporal_fusion=fusion), arguments(cls, masked)
        inputs["dates"] = torch.empty(2, 3, device="meta")
        for name in ("pixel_values", "attention_mask"):
            if name in inputs:
                inputs[name] = inputs[name][:, None].expand(-1, 3, *[-1] * (inputs[name].ndim - 1))
        with NoCPUTensors():
            run(cls, model, inputs).backward()


def unsplit_blocks(module, names):
    """Yield what `device_map="auto"` keeps on one device: modules named in `names`, and those without children."""
    if type(module).__name__ in names or not list(module.children()):
        yield module
    else:
        for child in module.children():
            yield from unsplit_blocks(child, names)


def spread(model):
    """Put each block on the next device and move its input there, as accelerate's hooks do, and nothing else."""
    for i, block in enumerate(unsplit_blocks(model, model._no_split_modules)):
        device = ("meta", "cpu")[i % 2]
        for module in block.modules():
            for name, parameter in module._parameters.items():
                module._parameters[name] = None if parameter is None else nn.Parameter(parameter.to(device))
            for name, buffer in module._buffers.items():
                module._buffers[name] = buffer.to(device)

        def move(_, args, kwargs, device=device):
            return tree_map(lambda leaf: leaf.to(device) if isinstance(leaf, torch.Tensor) else leaf, (args, kwargs))

        block.register_forward_pre_hook(move, with_kwargs=True)
    assert {parameter.device.type for parameter in model.parameters()} == {"meta", "cpu"}


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("cls", CLASSES)
def test_no_operation_crosses_devices_when_the_layers_are_spread(cls, masked):
    """`device_map="auto"` at its worst: each block is on another device than the one before it."""
    with FakeTensorMode():
        model, inputs = fake_model(cls), arguments(cls, masked)
        spread(model)
        run(cls, model, inputs)
