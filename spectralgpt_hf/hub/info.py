"""Describe a checkpoint and its costs from its configuration, without reading the weights."""

from copy import deepcopy
from dataclasses import dataclass
from functools import cached_property
from os import PathLike
from pathlib import Path

import torch
from torch.autograd.graph import saved_tensors_hooks
from torch.utils.flop_counter import FlopCounterMode, sdpa_flop_count
from transformers import AttentionInterface, PreTrainedModel
from transformers.initialization import no_init_weights

from ..assets import find_checkpoint
from ..inference.checkpoints import reading
from ..modeling import modeling_spectralgpt
from ..modeling.configuration_spectralgpt import SpectralGPTConfig
from ..modeling.image_processing_spectralgpt import SpectralGPTImageProcessor


FUSED_ATTENTION = "spectralgpt_cost_of_fused_attention"  # the name under which transformers finds it


@dataclass(frozen=True)
class CheckpointInfo:
    """The network of a checkpoint, and the operations and memory that one image of its size needs.

    Attributes:
        architecture: The class that the checkpoint was saved from.
        config: The configuration of the model.
        processor: The image processor of the checkpoint.
        revision: The commit on the Hub; None for a folder.
        num_parameters: Number of parameters.
        dtype: Type of the stored weights.
        weight_bytes: Memory of the weights in `dtype`.
        training_bytes: Memory of weights, gradients and AdamW's two moments, in float32.
    """

    architecture: str
    config: SpectralGPTConfig
    processor: SpectralGPTImageProcessor
    revision: str | None
    num_parameters: int
    dtype: str
    weight_bytes: int
    training_bytes: int

    @property
    def flops(self) -> int:
        """Floating-point operations of a forward pass (a multiplication and an addition count as two)."""
        return self._costs[0]

    @property
    def activation_bytes(self) -> int:
        """Memory of the activations of one image that a training step in float32 keeps."""
        return self._costs[1]

    @cached_property
    def _costs(self) -> tuple[int, int]:
        """Operations and bytes, measured where they are asked for: most descriptions do without."""
        config = self.config
        shape = (1, config.num_channels, config.image_size, config.image_size)
        dates = 2 if self.architecture == "SpectralGPTForChangeDetection" else 1
        with torch.device("meta"), no_init_weights():  # tensors have shapes but no values
            model = getattr(modeling_spectralgpt, self.architecture)(deepcopy(config))
        return _measure(model, [torch.empty(shape, device="meta") for _ in range(dates)])


def describe_checkpoint(checkpoint: str | PathLike[str], revision: str = "main") -> CheckpointInfo:
    """Read the configuration and processor of a checkpoint, and build its network on the meta device.

    Args:
        checkpoint: Folder, name on the Hub, or alias of an embedded one, as in `assets.find_checkpoint`.
        revision: Branch, tag or commit on the Hub.

    Raises:
        ValueError: If it is not a checkpoint of SpectralGPT.
        OSError: If there is no such checkpoint.
    """
    checkpoint = find_checkpoint(checkpoint, revision)
    with reading(checkpoint):
        config = SpectralGPTConfig.from_pretrained(checkpoint, revision=revision)
        processor = SpectralGPTImageProcessor.from_pretrained(checkpoint, revision=revision)
    name = (config.architectures or ["SpectralGPTModel"])[0]
    architecture = getattr(modeling_spectralgpt, name, None)
    if name not in modeling_spectralgpt.__all__ or architecture is None:
        raise ValueError(f"{checkpoint} holds a {name}, expected one of {', '.join(modeling_spectralgpt.__all__)}.")

    with torch.device("meta"), no_init_weights():
        num_parameters = architecture(config).num_parameters()
    dtype = str(config.dtype or "float32").removeprefix("torch.")
    return CheckpointInfo(
        architecture=name,
        config=config,
        processor=processor,
        revision=None if Path(checkpoint).is_dir() else config._commit_hash,
        num_parameters=num_parameters,
        dtype=dtype,
        weight_bytes=num_parameters * getattr(torch, dtype).itemsize,
        training_bytes=num_parameters * 4 * 4,
    )


def _fused_attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float,
    **_: object,
) -> tuple[torch.Tensor, None]:
    """The fused attention that training uses on a CPU. On the meta device, sdpa would take another kernel."""
    if attention_mask is not None:
        raise ValueError("This attention only counts operations, and takes no mask.")
    output, _ = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(query, key, value, scale=scaling)
    return output.transpose(1, 2), None


def _measure(model: PreTrainedModel, images: list[torch.Tensor]) -> tuple[int, int]:
    """Return the operations of a forward pass and the bytes kept for the backward pass, without the parameters."""
    AttentionInterface.register(FUSED_ATTENTION, _fused_attention)
    model.set_attn_implementation(FUSED_ATTENTION)
    weights = {parameter.untyped_storage()._cdata for parameter in model.parameters()}
    kept: dict[int, torch.Tensor] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()._cdata
        if storage not in weights:  # nor a view of weights
            kept[storage] = tensor
        return tensor

    def attention_flops(query: torch.Size, key: torch.Size, value: torch.Size, *_: object, **__: object) -> int:
        return sdpa_flop_count(query, key, value)

    # The counter only knows the fused attention of GPUs.
    mapping = {torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: attention_flops}
    counter = FlopCounterMode(display=False, custom_mapping=mapping)
    with counter, saved_tensors_hooks(keep, lambda tensor: tensor):
        model(*images)
    return counter.get_total_flops(), sum(tensor.untyped_storage().nbytes() for tensor in kept.values())
