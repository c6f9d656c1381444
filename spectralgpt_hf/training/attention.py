"""The attention that training computes with: the fastest one, by a short trial on the machine itself."""

import copy
import math
import time

import psutil
import torch

from ..modeling.configuration_spectralgpt import SpectralGPTConfig
from ..modeling.modeling_spectralgpt import SpectralGPTAttention
from .optimization import computes_in_bfloat16


# Eager attention keeps the weight of each pair of tokens for the backward pass, in float32 and in 16 bits.
BYTES_PER_PAIR = 8
# Share of the free memory that these weights may take.
MEMORY_SHARE = 0.5
# Fused attention, which needs less memory, is only left for one that is faster beyond the noise of a trial.
CLEARLY_FASTER = 0.9
REPEATS = 3


def fastest_attention(
    config: SpectralGPTConfig, batch_size: int, dtype: torch.dtype, device: torch.device, pretraining: bool = False
) -> str:
    """Return the attention that trains a model the fastest: `"sdpa"` or `"eager"`.

    Fused attention (`"sdpa"`) is the fastest on accelerators and in float32. In bfloat16 on a CPU, the matrix products
    of eager attention may use instructions that the fused kernel does not, so both are timed for one image. Eager
    attention is left out if its weights need too much memory.

    Args:
        config: Configuration of the model.
        batch_size: Images of a forward pass.
        dtype: Type of the arithmetic.
        device: Device of the model.
        pretraining: Whether the decoder counts, which has most of the tokens of pretraining, instead of the encoder.
    """
    if device.type != "cpu" or dtype != torch.bfloat16 or not computes_in_bfloat16():
        return "sdpa"
    positions = (config.image_size // config.patch_size) ** 2
    if pretraining:
        layers, positions = config.decoder_config(), max(1, int(positions * config.decode_ratio))
    else:
        layers = config
    tokens = config.num_groups * positions
    pairs = batch_size * layers.num_hidden_layers * layers.num_attention_heads * tokens**2
    if pairs * BYTES_PER_PAIR > MEMORY_SHARE * psutil.virtual_memory().available:
        return "sdpa"
    eager, fused = (trial(layers, tokens, dtype, attention) for attention in ("eager", "sdpa"))
    return "eager" if eager < CLEARLY_FASTER * fused else "sdpa"


def trial(config: SpectralGPTConfig, tokens: int, dtype: torch.dtype, attention: str) -> float:
    """Return the seconds that one layer's attention takes on a CPU for an image, forward and backward."""
    config = copy.deepcopy(config)
    config._attn_implementation = attention
    with torch.random.fork_rng(devices=[]):  # a trial must not change what a seed gives
        layer = SpectralGPTAttention(config).to(dtype)
        hidden_states = torch.randn(1, tokens, config.hidden_size, dtype=dtype, requires_grad=True)
    seconds = math.inf
    for _ in range(REPEATS + 1):  # the first run may prepare kernels
        start = time.perf_counter()
        layer(hidden_states)[0].sum().backward()
        seconds = min(seconds, time.perf_counter() - start)
    return seconds
