import pytest
import torch

from spectralgpt_hf import SpectralGPTConfig, SpectralGPTForPreTraining, SpectralGPTImageProcessor, SpectralGPTModel
from spectralgpt_hf.conversion import convert_checkpoint
from spectralgpt_hf.hub import describe_checkpoint
from tests.conversion.originals import TOY, TOY_HEADS


def preset(folder, name: str, architecture: str):
    """Write what a checkpoint has beside its weights."""
    SpectralGPTConfig.from_preset(name, architectures=[architecture]).save_pretrained(folder)
    SpectralGPTImageProcessor().save_pretrained(folder)
    return folder


def test_what_a_checkpoint_is(tmp_path):
    info = describe_checkpoint(convert_checkpoint(TOY, tmp_path / "toy", dtype="float16", **TOY_HEADS))
    parameters = SpectralGPTForPreTraining.from_pretrained(tmp_path / "toy").num_parameters()
    assert info.architecture == "SpectralGPTForPreTraining"
    assert info.num_parameters == parameters
    assert (info.dtype, info.weight_bytes) == ("float16", 2 * parameters)
    assert info.training_bytes == 16 * parameters
    assert info.processor.bands == info.config.bands
    assert info.revision is None


def test_the_operations_of_base_pretraining_are_a_third_of_a_training_step(tmp_path):
    info = describe_checkpoint(preset(tmp_path, "base", "SpectralGPTForPreTraining"))
    assert info.num_parameters == 98_640_320
    assert 3 * info.flops == pytest.approx(157e9, rel=0.01)  # a step is 157 GFLOP a sample


def test_the_operations_of_an_encoder_are_those_of_its_matrix_products(tmp_path):
    info = describe_checkpoint(preset(tmp_path, "tiny", "SpectralGPTModel"))
    tokens, width, layers = 1024, 192, 12
    layer = 2 * tokens * (4 * width**2 + 2 * width * 4 * width) + 2 * 2 * tokens**2 * width
    assert info.flops == layers * layer + 2 * tokens * 192 * width


def test_the_activations_are_those_that_a_training_step_on_the_cpu_keeps(tmp_path):
    info = describe_checkpoint(preset(tmp_path, "tiny", "SpectralGPTModel"))
    torch.manual_seed(0)
    model = SpectralGPTModel(SpectralGPTConfig.from_preset("tiny"))
    weights = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    kept: dict[int, torch.Tensor] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        output = model(torch.randn(1, 12, 128, 128)).pooler_output
    size = sum(tensor.untyped_storage().nbytes() for address, tensor in kept.items() if address not in weights)
    assert output.requires_grad
    assert info.activation_bytes == size


def test_change_detection_is_measured_on_its_two_images(tmp_path):
    segmentation = describe_checkpoint(preset(tmp_path / "a", "tiny", "SpectralGPTForSemanticSegmentation"))
    change = describe_checkpoint(preset(tmp_path / "b", "tiny", "SpectralGPTForChangeDetection"))
    encoder = describe_checkpoint(preset(tmp_path / "c", "tiny", "SpectralGPTModel"))
    assert change.flops - segmentation.flops == pytest.approx(encoder.flops, rel=0.01)


def test_operations_are_measured_only_where_they_are_asked_for(tmp_path, monkeypatch):
    calls = []
    monkeypatch.setattr("spectralgpt_hf.hub.info._measure", lambda *_: calls.append(0) or (3, 5))
    info = describe_checkpoint(preset(tmp_path, "tiny", "SpectralGPTModel"))
    assert calls == []
    assert (info.flops, info.activation_bytes, len(calls)) == (3, 5, 1)


def test_counting_leaves_the_configuration_as_it_is(tmp_path):
    info = describe_checkpoint(preset(tmp_path, "tiny", "SpectralGPTModel"))
    before = info.config._attn_implementation
    assert info.flops > 0
    assert info.config._attn_implementation == before


def test_another_model_is_refused(tmp_path):
    with pytest.raises(ValueError, match="holds a ViTModel, expected one of SpectralGPT"):
        describe_checkpoint(preset(tmp_path, "tiny", "ViTModel"))
