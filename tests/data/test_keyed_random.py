import torch

from spectralgpt_hf.data.keyed_random import keyed_uniform


def test_random_numbers_depend_on_their_key_alone():
    ids = torch.tensor([3, 1, 7])
    numbers = keyed_uniform(5, 2, ids, 100)
    assert torch.equal(keyed_uniform(5, 2, ids.flip(0), 100).flip(0), numbers)
    assert torch.equal(keyed_uniform(5, 2, ids, 10), numbers[:, :10])
    assert not torch.equal(keyed_uniform(6, 2, ids, 100), numbers)
    assert not torch.equal(keyed_uniform(5, 3, ids, 100), numbers)
    assert not torch.equal(keyed_uniform(5, 2, ids, 100, stream=1), numbers)


def test_random_numbers_are_uniform_and_uncorrelated():
    numbers = keyed_uniform(0, 0, torch.arange(400), 500).double()
    assert numbers.min() >= 0
    assert numbers.max() < 1
    histogram = torch.histc(numbers, bins=20, min=0, max=1) / numbers.numel()
    torch.testing.assert_close(histogram, torch.full_like(histogram, 0.05), rtol=0, atol=2e-3)
    correlation = torch.corrcoef(numbers[:50])
    assert (correlation - torch.eye(50)).abs().max() < 0.25  # 5 sigma of 500 independent draws
    assert torch.corrcoef(numbers[:, :50].T).sub(torch.eye(50)).abs().max() < 0.25
