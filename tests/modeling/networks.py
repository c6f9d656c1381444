"""Small networks and inputs that the tests of the model share."""

import torch

from spectralgpt_hf import SpectralGPTConfig, SpectralGPTModel
from tests import parity


def small_config(**overrides) -> SpectralGPTConfig:
    """A network of the right kind that runs in milliseconds: 4 x 4 patch positions of 4 spectral groups."""
    return parity.config("toy", **overrides)


def small_model(cls=SpectralGPTModel, **overrides):
    torch.manual_seed(0)
    return cls(small_config(**overrides)).eval()


def images(batch_size: int = 2, size: int = 32, num_channels: int = 12, seed: int = 0) -> torch.Tensor:
    return torch.rand(batch_size, num_channels, size, size, generator=torch.Generator().manual_seed(seed))


def half_masked(batch_size: int = 2, num_tokens: int = 64) -> torch.Tensor:
    """An attention mask of a 4 x 4 grid of patch positions whose right half has no data."""
    positions = torch.tensor([1, 1, 0, 0]).repeat(num_tokens // 4)
    return positions.expand(batch_size, -1)
