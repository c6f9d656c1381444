"""Compare a converted checkpoint with the original's mathematics on random input."""

from os import PathLike

import torch

from ..inference.checkpoints import without_weight_bars
from ..modeling.configuration_spectralgpt import SpectralGPTConfig
from . import reference
from .architecture import saved_architecture
from .original_checkpoint import fetch, read_original


TOLERANCE = 1e-4


@torch.no_grad()
@without_weight_bars()
def verify_conversion(source: str | PathLike[str], checkpoint: str | PathLike[str], seed: int = 0) -> float:
    """Run a converted checkpoint and the functions of `reference` on the same random image.

    Both compute in float32, from weights rounded to the dtype of the converted ones.

    Args:
        source: Path or URL of the original checkpoint.
        checkpoint: The converted folder.
        seed: Seed of the image and the masking noise.

    Returns:
        The largest difference of the outputs, relative to the largest absolute value. It is below `TOLERANCE` if the
        conversion is right.
    """
    config = SpectralGPTConfig.from_pretrained(checkpoint)
    architecture = saved_architecture(config)
    model = architecture.from_pretrained(checkpoint, dtype=torch.float32).eval()
    state = {name: tensor.to(config.dtype).float() for name, tensor in read_original(fetch(source)).state_dict.items()}

    generator = torch.Generator().manual_seed(seed)
    shape = (1, config.num_channels, config.image_size, config.image_size)
    image, other = (torch.rand(shape, generator=generator) for _ in range(2))
    heads = config.num_attention_heads
    match architecture.__name__:
        case "SpectralGPTForPreTraining":
            num_tokens = state["pos_embed_spatial"].shape[1] * state["pos_embed_temporal"].shape[1]
            noise = torch.rand(1, num_tokens, generator=generator)
            decoder_heads = config.decoder_num_attention_heads
            _, expected = reference.pretrain(state, image, noise, heads, decoder_heads, config.mask_ratio)
            found = model(image, noise=noise).logits
        case "SpectralGPTModel":
            expected = reference.layer_norm(state, "norm", reference.encode(state, image, heads))
            found = model(image).last_hidden_state
        case "SpectralGPTForSemanticSegmentation":
            expected = reference.segment(state, image, heads)
            found = model(image).logits
        case _:
            expected = reference.detect_change(state, image, other, heads)
            found = model(image, other).logits.log_softmax(dim=1)
    return ((found - expected).abs().max() / expected.abs().max()).item()
