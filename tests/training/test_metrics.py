import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn import metrics as sklearn_metrics

from spectralgpt_hf.training.metrics import (
    ClassificationScores,
    DenseScores,
    MultiLabelScores,
    RegressionScores,
    bootstrap_intervals,
)


NAMES = ["water", "trees", "crops", "built", "bare"]


def feed(scores, logits, labels, batch_size=8, order=None):
    """Feed samples in batches of which the last is short and, like a padded one, repeats the first samples."""
    order = torch.arange(len(logits)) if order is None else order
    order = torch.cat([order, order[:3]])
    for ids in order.split(batch_size):
        scores.update(logits[ids], labels[ids], ids)
    return scores


def test_scores_of_values_agree_with_scikit_learn():
    generator = torch.Generator().manual_seed(0)
    labels = 300 + 40 * torch.randn(37, 2, generator=generator)
    predictions = labels + 10 * torch.randn(37, 2, generator=generator)
    scores = feed(RegressionScores(37, ["height", "biomass"]), predictions, labels)
    found, pair = scores.compute(), (labels.numpy(), predictions.numpy())
    assert found["mae"] == pytest.approx(sklearn_metrics.mean_absolute_error(*pair), rel=1e-5)
    assert found["rmse"] == pytest.approx(sklearn_metrics.root_mean_squared_error(*pair), rel=1e-5)
    assert found["r2"] == pytest.approx(sklearn_metrics.r2_score(*pair), rel=1e-5)
    by_value = sklearn_metrics.r2_score(*pair, multioutput="raw_values")
    assert scores.details()["r2_by_value"] == pytest.approx(dict(zip(["height", "biomass"], by_value)), rel=1e-5)
    assert not scores.greater_is_better
    low, high = bootstrap_intervals(scores)["rmse"]
    assert low < found["rmse"] < high
    constant = feed(RegressionScores(9, ["x"]), torch.rand(9, 1), torch.ones(9, 1))
    assert np.isnan(constant.compute()["r2"])
    assert constant.details()["r2_by_value"] == {"x": None}


def test_single_label_scores_agree_with_scikit_learn():
    generator = torch.Generator().manual_seed(0)
    logits, labels = torch.randn(53, 5, generator=generator), torch.randint(5, (53,), generator=generator)
    scores = feed(ClassificationScores(53, NAMES), logits, labels)
    computed, predictions = scores.compute(), logits.argmax(1)
    assert computed["accuracy"] == pytest.approx(sklearn_metrics.accuracy_score(labels, predictions), abs=1e-6)
    balanced = sklearn_metrics.balanced_accuracy_score(labels, predictions)
    assert computed["mean_class_accuracy"] == pytest.approx(balanced, abs=1e-6)
    expected = sklearn_metrics.confusion_matrix(labels, predictions)
    assert scores.details()["confusion_matrix"] == expected.tolist()


def test_multi_label_scores_agree_with_scikit_learn_over_the_classes_that_occur():
    generator = torch.Generator().manual_seed(0)
    logits = 40 * torch.randn(53, 5, generator=generator)  # many round to a probability of 1 in float32
    labels = (torch.rand(53, 5, generator=generator) < 0.3).float()
    labels[:, 4] = 0
    scores = feed(MultiLabelScores(53, NAMES), logits, labels).compute()
    present = (labels[:, :4].numpy(), logits[:, :4].numpy())
    expected = sklearn_metrics.average_precision_score(*present, average="macro")
    assert scores["macro_map"] == pytest.approx(expected, abs=1e-6)
    micro = sklearn_metrics.average_precision_score(labels.numpy(), logits.numpy(), average="micro")
    assert scores["micro_map"] == pytest.approx(micro, abs=1e-6)
    expected = sklearn_metrics.f1_score(present[0], present[1] > 0, average="macro")
    assert scores["macro_f1"] == pytest.approx(expected, abs=1e-6)
    micro = sklearn_metrics.f1_score(labels.numpy(), logits.numpy() > 0, average="micro")
    assert scores["micro_f1"] == pytest.approx(micro, abs=1e-6)


def test_dense_scores_agree_with_scikit_learn_and_leave_out_unlabelled_pixels():
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(11, 5, 16, 16, generator=generator)
    labels = torch.randint(5, (11, 16, 16), generator=generator)
    labels[torch.rand(labels.shape, generator=generator) < 0.2] = 255
    scenes = [str(i) for i in range(11)]
    scores = feed(DenseScores(NAMES, scenes, [None] * 11, background=0), logits, labels, batch_size=4)
    truth, predicted = labels[labels != 255], logits.argmax(1)[labels != 255]
    iou = sklearn_metrics.jaccard_score(truth, predicted, average=None)
    computed = scores.compute()
    assert computed["oa"] == pytest.approx(sklearn_metrics.accuracy_score(truth, predicted), abs=1e-6)
    assert computed["miou"] == pytest.approx(iou.mean(), abs=1e-6)
    assert computed["miou_without_background"] == pytest.approx(iou[1:].mean(), abs=1e-6)
    assert list(scores.details()["iou"].values()) == pytest.approx(iou.tolist(), abs=1e-6)


def test_change_is_scored_on_scenes_blended_from_overlapping_windows():
    generator = torch.Generator().manual_seed(0)
    truth = torch.randint(2, (2, 24, 32), generator=generator)
    scenes, windows, logits, labels = [], [], [], []
    total, sides = torch.zeros(2, 2, 24, 32), torch.hann_window(32)[1::2]  # a raised cosine at the pixels' centres
    for scene in range(2):
        for top in (0, 8):
            for left in (0, 8, 16):
                window = torch.randn(2, 16, 16, generator=generator)
                total[scene, :, top : top + 16, left : left + 16] += window * sides.outer(sides)
                scenes.append(f"city {scene}")
                windows.append((left, top, 16, 16))
                logits.append(window)
                labels.append(truth[scene, top : top + 16, left : left + 16])
    scores = DenseScores(["no change", "change"], scenes, windows, change=True)
    shuffled = torch.randperm(12, generator=generator)  # windows of a scene come in any order
    computed = feed(scores, torch.stack(logits), torch.stack(labels), batch_size=5, order=shuffled).compute()
    predicted = total.argmax(1).flatten()
    expected = sklearn_metrics.precision_recall_fscore_support(truth.flatten(), predicted, average="binary")
    assert [computed[name] for name in ("precision", "recall", "f1")] == pytest.approx(expected[:3], abs=1e-6)
    assert scores.units == 2


def test_scores_of_an_incomplete_set_are_refused():
    scores = ClassificationScores(3, NAMES)
    scores.update(torch.zeros(2, 5), torch.zeros(2, dtype=torch.long), torch.tensor([0, 2]))
    with pytest.raises(ValueError, match=r"all 3 samples .* got 2"):
        scores.compute()


def test_intervals_cover_the_score_shrink_with_the_set_and_repeat_with_the_seed():
    def accuracy_interval(number, seed=0):
        generator = torch.Generator().manual_seed(1)
        labels = torch.randint(5, (number,), generator=generator)
        noise = torch.rand(number, generator=generator) < 0.3
        logits = torch.nn.functional.one_hot(torch.where(noise, (labels + 1) % 5, labels), 5).float()
        scores = feed(ClassificationScores(number, NAMES), logits, labels)
        low, high = bootstrap_intervals(scores, 100, seed)["accuracy"]
        assert low <= scores.compute()["accuracy"] <= high
        return low, high

    small, large = accuracy_interval(40), accuracy_interval(1000)
    assert large[1] - large[0] < 0.5 * (small[1] - small[0])
    assert accuracy_interval(40) == small != accuracy_interval(40, seed=1)


WORKER = Path(__file__).with_name("score_in_two_processes.py")


@pytest.mark.slow
def test_two_processes_score_each_sample_once(tmp_path):
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", str(WORKER)]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parents[2])}
    result = subprocess.run([*command, str(tmp_path)], capture_output=True, text=True, env=environment)
    assert result.returncode == 0, result.stderr
    found = json.loads((tmp_path / "scores.json").read_text())
    assert found["world_size"] == 2
    logits, labels = (np.load(tmp_path / f"{name}.npy") for name in ("logits", "labels"))
    assert len(labels) == 21  # neither batches of 4 nor two processes divide it
    expected = sklearn_metrics.average_precision_score(labels, logits, average="macro")
    assert found["scores"]["macro_map"] == pytest.approx(expected, abs=1e-6)
    expected = sklearn_metrics.average_precision_score(labels, logits, average="micro")
    assert found["scores"]["micro_map"] == pytest.approx(expected, abs=1e-6)
