import numpy as np
import pytest
import torch

from examples import score_curve
from spectralgpt_hf.training.few_labels import fold_accuracies, read_labelled
from tests.training.test_few_labels import write_eurosat


def test_scores_that_grow_with_the_logarithm_are_extrapolated_exactly():
    counts = [1000, 10_000, 40_000, 100_000]
    scores = np.array([[0.2 + 0.1 * np.log10(count), 0.5] for count in counts])
    (rising, error), (constant, _) = score_curve.extrapolate(counts, scores, 1e6)
    assert rising == pytest.approx(0.8)
    assert error == pytest.approx(0, abs=1e-6)
    assert constant == pytest.approx(0.5)


def test_scores_that_scatter_are_extrapolated_with_an_interval_that_grows_with_the_distance():
    counts, scores = [1000, 2000, 4000, 8000], np.array([[0.60], [0.66], [0.62], [0.68]])
    ((_, near),), ((_, far),) = (list(score_curve.extrapolate(counts, scores, target)) for target in (8000, 1e6))
    assert 0 < near < far


def test_the_images_of_a_part_are_scored_alone(tmp_path):
    images = read_labelled(write_eurosat(tmp_path))
    chosen = score_curve.of_part(images, "choice")
    assert set(chosen.parts) == {"choice"}
    assert len(chosen.ids) == len(chosen.pixels) == len(chosen.labels) == len(chosen.blocks) == len(images.ids) // 2
    features, part = torch.from_numpy(images.pixels.astype(np.float32)).mean((2, 3)), images.of("choice")
    alone = fold_accuracies(features[part], chosen, repeats=1)
    assert alone.shape == (4,)
    assert (alone == fold_accuracies(features, images, part, repeats=1)).all()
