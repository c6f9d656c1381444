import pytest
import torch

from spectralgpt_hf.conversion import reference
from tests import parity


def test_the_reference_computes_what_the_released_implementation_computes():
    expected = parity.expected("toy_pretrain")
    images, noise = parity.random_input(100, 2, 12, 32, 32), parity.random_input(101, 2, 64)

    loss, prediction = reference.pretrain(parity.original_checkpoint("toy"), images, noise, 4, 4)

    assert parity.relative_error(loss, expected["loss"].squeeze()) < 1e-5
    assert parity.relative_error(prediction, expected["pred"]) < 1e-5


@pytest.mark.slow
@torch.no_grad()
def test_the_reference_of_both_dense_tasks_computes_what_the_released_implementation_computes():
    first, second = (parity.random_input(seed, 1, 12, 128, 128) for seed in (400, 401))

    logits = reference.segment(
        parity.original_checkpoint("segmentation_base_128"), parity.random_input(300, 1, 12, 128, 128), 12
    )
    change = reference.detect_change(parity.original_checkpoint("change_detection_base_128"), first, second, 12)

    assert parity.relative_error(logits, parity.expected("segmentation_base_128")["logits"]) < 1e-5
    assert parity.relative_error(change, parity.expected("change_detection_base_128")["log_probabilities"]) < 1e-5
