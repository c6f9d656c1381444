"""Random numbers as pure functions of (seed, epoch, sample): no generator state to save or to restore."""

import torch


def keyed_uniform(seed: int, epoch: int, sample_ids: torch.Tensor, count: int, stream: int = 0) -> torch.Tensor:
    """Draw random numbers that depend on their key alone (SplitMix64, a counter-based generator).

    Args:
        seed: Seed of the run.
        epoch: Number of the pass over the data.
        sample_ids: (B,), integers that name the samples.
        count: How many numbers a sample needs.
        stream: What they are for, so that a crop and a mask of one sample are independent.

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
    """Shift without the sign."""
    return (bits >> count) & ((1 << (64 - count)) - 1)


def _mix(bits: torch.Tensor) -> torch.Tensor:
    """The finaliser of SplitMix64 (Steele et al., 2014), on int64 that wraps around; constants as signed numbers."""
    bits = bits + -7046029254386353131
    bits = (bits ^ _shift_right(bits, 30)) * -4658895280553007687
    bits = (bits ^ _shift_right(bits, 27)) * -7723592293110705685
    return bits ^ _shift_right(bits, 31)
