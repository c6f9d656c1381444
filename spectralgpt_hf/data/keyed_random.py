"""Random numbers as pure functions of (seed, epoch, sample), so that no generator state must be saved and restored."""

import torch


def keyed_uniform(seed: int, epoch: int, sample_ids: torch.Tensor, count: int, stream: int = 0) -> torch.Tensor:
    """Draw random numbers that depend only on the arguments (SplitMix64, a counter-based generator).

    Args:
        seed: Seed of the run.
        epoch: Number of the pass over the data.
        sample_ids: (B,), integers that identify the samples.
        count: Number of random numbers per sample.
        stream: Number of the purpose, so that for example the crop and the mask of one sample are independent.

    Returns:
        (B, `count`) float32 in [0, 1), on the device of `sample_ids`.
    """
    key = torch.tensor(0, dtype=torch.int64, device=sample_ids.device)
    for part in (seed, epoch, stream):
        key = _mix(key + part)
    counter = torch.arange(count, device=sample_ids.device)
    bits = _mix(_mix(key + sample_ids.long())[:, None] + counter)
    return _shift_right(bits, 40).float() * 2**-24


def _shift_right(bits: torch.Tensor, count: int) -> torch.Tensor:
    """Shift to the right and fill with zeros, as for unsigned numbers."""
    return (bits >> count) & ((1 << (64 - count)) - 1)


def _mix(bits: torch.Tensor) -> torch.Tensor:
    """Apply the finaliser of SplitMix64 (Steele et al., 2014) to int64 that wraps around; its constants are signed."""
    bits = bits + -7046029254386353131
    bits = (bits ^ _shift_right(bits, 30)) * -4658895280553007687
    bits = (bits ^ _shift_right(bits, 27)) * -7723592293110705685
    return bits ^ _shift_right(bits, 31)
