import numpy as np

from spectralgpt_hf import SpectralGPTImageProcessor
from spectralgpt_hf.data.readers.folders import load_image_masks
from spectralgpt_hf.modeling.bands import L2A_BANDS
from spectralgpt_hf.training.samples import Samples
from spectralgpt_hf.training.summary import describe_data, describe_scores, find_problems
from tests.data.files import write_image


def test_the_summary_states_files_bands_classes_and_their_shares(tmp_path):
    labels = np.full((16, 16), 2, np.uint8)
    labels[:4] = 5
    write_image(tmp_path / "images" / "a.tif", np.full((12, 16, 16), 700, np.uint16))
    write_image(tmp_path / "masks" / "a.png", labels)
    rows = load_image_masks(tmp_path, "all", band_names=L2A_BANDS)
    text = describe_data({"train": Samples(rows, SpectralGPTImageProcessor(normalization="percentile"))})
    assert "train: 1 samples of 1 images" in text
    assert "values 700 to 700" in text
    assert "2 75.0%, 5 25.0%" in text


def test_predictions_of_one_class_and_losses_that_are_not_finite_are_said():
    scores = {"loss": 1.0, "class_names": ["water", "land"], "confusion_matrix": [[4, 0], [6, 0]]}
    (problem,) = find_problems({"test": scores}, [1.0])
    assert problem.startswith("All predictions on the test split are 'water', although it holds 2 classes")
    assert find_problems({"test": scores | {"confusion_matrix": [[4, 0], [5, 1]]}}, [1.0]) == []
    assert find_problems({"test": scores | {"confusion_matrix": [[4, 0], [0, 0]]}}, [1.0]) == []
    assert "not finite" in find_problems({}, [float("nan")])[0]


def test_a_loss_that_does_not_fall_is_said():
    losses = [1.0, 1.1, 0.9, 1.0, 1.05, 1.0, 1.04, 1.06]
    (problem,) = find_problems({}, losses)
    assert problem.startswith("The loss of the training did not fall: 1.05 at the beginning, 1.05 at the end")
    assert find_problems({}, losses, solved_start=True) == []
    assert "not finite" in find_problems({}, [*losses, float("nan")], solved_start=True)[0]
    assert find_problems({}, [1.0, 0.9, 0.8, 0.7]) == []
    assert find_problems({}, [1.0, 1.0]) == []  # too few epochs for a warning


def test_scores_are_printed_with_their_intervals():
    scores = {"samples": 12, "units": 2, "scores": {"oa": 0.51234, "miou": 0.25}, "intervals_95": {"oa": (0.4, 0.6)}}
    lines = describe_scores({"test": scores}).splitlines()
    assert lines[0] == "test: 12 samples, 2 images"
    assert lines[1].split() == ["oa", "0.512", "(95", "%", "interval", "0.400", "to", "0.600)"]
    assert lines[2].split() == ["miou", "0.250"]


def test_a_class_of_a_few_pixels_may_never_be_predicted():
    scores = {"loss": 0.1, "class_names": ["water", "open"], "confusion_matrix": [[16382, 0], [2, 0]]}
    assert find_problems({"validation": scores}, []) == []
    (problem,) = find_problems({"validation": scores | {"confusion_matrix": [[900, 0], [100, 0]]}}, [])
    assert "All predictions on the validation split are 'water', although it holds 2 classes" in problem
