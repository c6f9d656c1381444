"""The choice of the attention: by a trial in bfloat16 on CPUs, fused everywhere else."""

import pytest
import torch

from spectralgpt_hf import SpectralGPTForPreTraining
from spectralgpt_hf.training import attention
from spectralgpt_hf.training.attention import fastest_attention, trial
from tests import parity


CPU = torch.device("cpu")


@pytest.fixture
def trials(monkeypatch):
    """Set the seconds of each attention on a processor with bfloat16, and return the trials that were made."""
    made = []

    def set_seconds(eager: float, sdpa: float) -> list:
        def recorded(config, tokens, dtype, name):
            made.append((config.hidden_size, tokens, name))
            return {"eager": eager, "sdpa": sdpa}[name]

        monkeypatch.setattr(attention, "computes_in_bfloat16", lambda: True)
        monkeypatch.setattr(attention, "trial", recorded)
        return made

    return set_seconds


@pytest.mark.parametrize(("eager", "sdpa", "expected"), [(1.0, 2.0, "eager"), (2.0, 1.0, "sdpa"), (0.95, 1.0, "sdpa")])
def test_the_faster_attention_is_taken_if_the_difference_is_clear(trials, eager, sdpa, expected):
    trials(eager, sdpa)
    assert fastest_attention(parity.config("toy"), 2, torch.bfloat16, CPU) == expected


@pytest.mark.parametrize(("dtype", "device"), [(torch.float32, CPU), (torch.bfloat16, torch.device("cuda"))])
def test_fused_attention_needs_no_trial_in_float32_or_on_a_gpu(trials, dtype, device):
    made = trials(1.0, 2.0)
    assert fastest_attention(parity.config("toy"), 2, dtype, device) == "sdpa"
    assert not made


def test_a_processor_that_emulates_bfloat16_is_not_tried(trials, monkeypatch):
    made = trials(1.0, 2.0)
    monkeypatch.setattr(attention, "computes_in_bfloat16", lambda: False)
    assert fastest_attention(parity.config("toy"), 2, torch.bfloat16, CPU) == "sdpa"
    assert not made


def test_weights_that_would_fill_the_memory_exclude_eager_attention(trials, monkeypatch):
    trials(1.0, 2.0)
    config = parity.config("toy")
    tokens = config.num_groups * (config.image_size // config.patch_size) ** 2
    needed = 2 * config.num_hidden_layers * config.num_attention_heads * tokens**2 * attention.BYTES_PER_PAIR
    free = type("Memory", (), {"available": needed / attention.MEMORY_SHARE})
    monkeypatch.setattr(attention.psutil, "virtual_memory", lambda: free)
    assert fastest_attention(config, 2, torch.bfloat16, CPU) == "eager"
    assert fastest_attention(config, 3, torch.bfloat16, CPU) == "sdpa"


def test_the_bytes_of_a_pair_are_those_that_eager_attention_keeps():
    config = parity.config("toy")
    config._attn_implementation = "eager"
    layer, tokens = attention.SpectralGPTAttention(config).bfloat16(), 64
    kept = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        if tensor.shape[-2:] == (tokens, tokens):
            kept[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    hidden_states = torch.randn(1, tokens, config.hidden_size, dtype=torch.bfloat16, requires_grad=True)
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        layer(hidden_states)[0].sum().backward()
    found = sum(tensor.nbytes for tensor in kept.values()) / (config.num_attention_heads * tokens**2)
    assert found <= attention.BYTES_PER_PAIR < 2 * found


def test_pretraining_tries_the_layers_of_the_decoder_with_the_tokens_that_it_decodes(trials):
    made = trials(1.0, 2.0)
    config = parity.config("toy", decode_ratio=0.5)
    fastest_attention(config, 2, torch.bfloat16, CPU, pretraining=True)
    positions = (config.image_size // config.patch_size) ** 2
    size, tokens, _ = made[0]
    assert (size, tokens) == (config.decoder_hidden_size, config.num_groups * (positions // 2))


@pytest.mark.parametrize("name", ["eager", "sdpa"])
def test_a_trial_times_a_layer_and_changes_neither_the_configuration_nor_random_numbers(name):
    config = parity.config("toy")
    before = config._attn_implementation
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    assert 0 < trial(config, 16, torch.float32, name) < 60
    torch.testing.assert_close(torch.rand(3), expected, rtol=0, atol=0)
    assert config._attn_implementation == before


def test_a_model_takes_either_attention_for_encoder_and_decoder():
    model = SpectralGPTForPreTraining(parity.config("toy"))
    for name in ("eager", "sdpa"):
        model.set_attn_implementation(name)
        kinds = {
            module.config._attn_implementation
            for module in model.modules()
            if isinstance(module, attention.SpectralGPTAttention)
        }
        assert kinds == {name}
