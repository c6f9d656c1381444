"""Choose the attention that training computes with by a short trial on the machine itself."""

import time
from collections.abc import Callable

import psutil
import torch
from transformers import PreTrainedModel

from .optimization import computes_in_bfloat16


MEMORY_SHARE = 0.5  # of the free memory, which the activations of eager attention may take
CLEARLY_FASTER = 0.9  # Fused attention, which needs less memory, is left only for a gain beyond the noise of a trial.
REPEATS = 2


def fastest_attention(
    model: PreTrainedModel,
    compute: Callable[[int], torch.Tensor],
    images: int,
    dtype: torch.dtype,
    device: torch.device,
) -> str:
    """Return the attention with which a model trains the fastest: `"sdpa"` or `"eager"`.

    Fused attention (`"sdpa"`) is the fastest on accelerators and in float32. In bfloat16 on a CPU, the matrix products
    of eager attention may use instructions that the fused kernel does not, so both are timed, forward and backward.
    Eager attention is left out if it needs too much memory.

    Args:
        model: Model on the CPU, in training mode. Gradients and the kind of attention are changed.
        compute: Returns a number to differentiate, computed by the model from so many images.
        images: Images that this machine computes at the same time, in all processes.
        dtype: Type of the arithmetic.
        device: Device that the model will be trained on.
    """
    if device.type != "cpu" or dtype != torch.bfloat16 or not computes_in_bfloat16():
        return "sdpa"
    seconds, bytes_per_image = {}, {}
    with torch.random.fork_rng(devices=[]):  # a trial must not change what a seed gives
        for name in ("sdpa", "eager"):
            model.set_attn_implementation(name)
            (_, one), *rounds = (trial(compute, count, dtype) for count in (1, *[2] * REPEATS))
            seconds[name] = min(duration for duration, _ in rounds)
            bytes_per_image[name] = rounds[0][1] - one  # weights are kept once for all images
    model.zero_grad()
    fits = images * bytes_per_image["eager"] <= MEMORY_SHARE * psutil.virtual_memory().available
    return "eager" if fits and seconds["eager"] < CLEARLY_FASTER * seconds["sdpa"] else "sdpa"


def trial(compute: Callable[[int], torch.Tensor], images: int, dtype: torch.dtype) -> tuple[float, int]:
    """Return the seconds of a pass forward and backward on a CPU, and the bytes that the first keeps for the second."""
    kept: dict[int, int] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    start = time.perf_counter()
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor), torch.autocast("cpu", dtype):
        value = compute(images)
    if value.requires_grad:  # unless all weights are frozen
        value.backward()
    return time.perf_counter() - start, sum(kept.values())
