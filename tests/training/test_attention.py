"""The choice of the attention: by a trial in bfloat16 on CPUs, fused everywhere else."""

from functools import partial

import pytest
import torch

from spectralgpt_hf import SpectralGPTForPreTraining
from spectralgpt_hf.commands.pretrain import loss_of_noise
from spectralgpt_hf.training import attention
from spectralgpt_hf.training.attention import fastest_attention, trial
from tests import parity


CPU = torch.device("cpu")
MIB = 2**20


@pytest.fixture
def choose(monkeypatch):
    """Choose for a small model on a processor with bfloat16, with these seconds of a trial and bytes of an image."""

    def chosen(seconds, kept=MIB, images=2, dtype=torch.bfloat16, device=CPU, free=1000 * MIB):
        model = SpectralGPTForPreTraining(parity.config("toy"))
        tried = []

        def recorded(compute, count, dtype):
            tried.append(model.config._attn_implementation)
            weights = 50 * MIB
            return seconds[tried[-1]], weights + count * kept

        monkeypatch.setattr(attention, "trial", recorded)
        monkeypatch.setattr(attention, "computes_in_bfloat16", lambda: True)
        memory = type("Memory", (), {"available": free})
        monkeypatch.setattr(attention.psutil, "virtual_memory", lambda: memory)
        return fastest_attention(model, partial(loss_of_noise, model), images, dtype, device), set(tried)

    return chosen


@pytest.mark.parametrize(("eager", "sdpa", "expected"), [(1.0, 2.0, "eager"), (2.0, 1.0, "sdpa"), (0.95, 1.0, "sdpa")])
def test_the_faster_attention_is_taken_if_the_difference_is_clear(eager, sdpa, expected, choose):
    assert choose({"eager": eager, "sdpa": sdpa}) == (expected, {"eager", "sdpa"})


@pytest.mark.parametrize(("dtype", "device"), [(torch.float32, CPU), (torch.bfloat16, torch.device("cuda"))])
def test_fused_attention_needs_no_trial_in_float32_or_on_a_gpu(dtype, device, choose):
    assert choose({"eager": 1.0, "sdpa": 2.0}, dtype=dtype, device=device) == ("sdpa", set())


def test_a_processor_that_emulates_bfloat16_is_not_tried(monkeypatch):
    monkeypatch.setattr(attention, "computes_in_bfloat16", lambda: False)
    monkeypatch.setattr(attention, "trial", None)
    model = SpectralGPTForPreTraining(parity.config("toy"))
    assert fastest_attention(model, partial(loss_of_noise, model), 2, torch.bfloat16, CPU) == "sdpa"


def test_activations_that_would_fill_the_memory_exclude_eager_attention(choose):
    seconds = {"eager": 1.0, "sdpa": 2.0}
    assert choose(seconds, kept=250 * MIB, images=2)[0] == "eager"
    assert choose(seconds, kept=250 * MIB, images=3)[0] == "sdpa"


@pytest.mark.parametrize("ratio", [1.0, 0.25])
def test_a_trial_finds_the_attention_weights_of_all_layers(ratio):
    config = parity.config("toy", decode_ratio=ratio)
    model = SpectralGPTForPreTraining(config)
    pairs = []

    def count(module, inputs, output):
        pairs.append(module.config.num_attention_heads * inputs[0].shape[1] ** 2)

    for module in model.modules():
        if type(module).__name__ == "SpectralGPTAttention":
            module.register_forward_hook(count)
    kept = {}
    for name in ("eager", "sdpa"):
        model.set_attn_implementation(name)
        kept[name] = [trial(partial(loss_of_noise, model), images, torch.bfloat16)[1] for images in (1, 2)]
    of_an_image = {name: two - one for name, (one, two) in kept.items()}
    assert len(pairs) == 4 * (config.num_hidden_layers + config.decoder_num_hidden_layers)
    weights = sum(pairs[: len(pairs) // 4])  # kept in float32 and in bfloat16
    assert of_an_image["eager"] - of_an_image["sdpa"] == pytest.approx(6 * weights, rel=0.1)


def test_a_trial_changes_no_random_numbers_and_leaves_no_gradients(monkeypatch):
    monkeypatch.setattr(attention, "computes_in_bfloat16", lambda: True)
    model = SpectralGPTForPreTraining(parity.config("toy", attention_probs_dropout_prob=0.1))
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    assert fastest_attention(model, partial(loss_of_noise, model), 1, torch.bfloat16, CPU) in ("eager", "sdpa")
    torch.testing.assert_close(torch.rand(3), expected, rtol=0, atol=0)
    assert all(weight.grad is None for weight in model.parameters())


def test_a_trial_of_frozen_weights_is_a_pass_forward():
    model = SpectralGPTForPreTraining(parity.config("toy")).requires_grad_(False)
    seconds, kept = trial(partial(loss_of_noise, model), 1, torch.bfloat16)
    assert seconds > 0
    assert kept == 0
