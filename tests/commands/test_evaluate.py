import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import yaml
from transformers import ViTConfig, ViTImageProcessorPil, ViTModel
from typer.testing import CliRunner

from spectralgpt_cli import app
from spectralgpt_hf.assets import CHECKPOINT
from spectralgpt_hf.commands import evaluate
from spectralgpt_hf.commands.evaluate import EvaluationOptions, compare_runs, finetune_checkpoints
from spectralgpt_hf.training.few_labels import read_labelled
from tests.training.test_few_labels import write_eurosat


TO_HUB = {"hub_dataset": "org/eurosat", "train_part": "choice", "test_part": "report", "output": Path("scores.json")}


def small_vit(folder):
    """Write another image model, with its image processor, and return where."""
    settings = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    ViTModel(ViTConfig(image_size=32, patch_size=16, **settings)).save_pretrained(folder)
    ViTImageProcessorPil(size={"height": 32, "width": 32}).save_pretrained(folder)
    return folder


def test_without_data_the_command_says_what_it_needs():
    result = CliRunner().invoke(app, ["evaluate", "tiny"])
    assert result.exit_code == 1
    assert "spectralgpt: Expected `--chips`, `--eurosat` or both" in result.stderr


def test_an_unknown_way_of_few_shot_training_is_answered_with_the_known_ones():
    with pytest.raises(ValueError, match="among checkpoint, lora, random, resnet, got adapter"):
        evaluate.evaluate(EvaluationOptions(["tiny"], eurosat=Path("eurosat"), finetune_ways=["checkpoint", "adapter"]))


def test_without_a_test_part_few_shot_training_is_scored_on_folds_that_it_does_not_see(tmp_path, monkeypatch):
    images = read_labelled(write_eurosat(tmp_path))
    runs = []

    def learn(shown, labels, seed):
        seen = {image.numpy().tobytes() for image in shown}
        runs.append((len(shown), seed))

        def classify(batch):
            assert not any(image.numpy().tobytes() in seen for image in batch)
            return SimpleNamespace(logits=torch.eye(10)[torch.zeros(len(batch), dtype=torch.long)])

        return classify

    monkeypatch.setattr(evaluate, "_ways_to_learn", lambda checkpoint, options: {"way": learn})
    options = EvaluationOptions(["tiny"], finetune_seeds=2)
    scores = finetune_checkpoints(options, images, images.of("choice"), None)["way"]
    assert list(scores) == ["1", "2", "5", "10"]
    assert runs[:4] == [(10, 0), (10, 1), (runs[2][0], 0), (runs[3][0], 1)]
    assert all(10 <= number < 30 for number, _ in runs)  # of 30 images, a fold is left out
    # The class that is always predicted has a share of each fold.
    assert all(0 <= run < 0.4 for run in scores["1"]["runs"])


def test_few_shot_runs_are_compared_seed_by_seed():
    def way(*runs):
        return {"5": {"mean": 0.0, "std": 0.0, "runs": list(runs)}}

    (name,), (by_shots,) = zip(*compare_runs({"first": way(0.5, 0.7, 0.6), "other": way(0.4, 0.5, 0.6)}).items())
    assert name == "first minus other"
    assert by_shots["5"]["difference"] == pytest.approx(0.1)
    low, high = by_shots["5"]["interval_95"]
    assert 0 <= low < 0.05 < 0.15 < high <= 0.2 + 1e-6


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"hub_dataset": "eurosat"}, "expected namespace/name or namespace/name/task, got 'eurosat'"),
        ({"hub_dataset": "org/eurosat"}, "pass `eurosat`, `test_part` and `output` too"),
        ({**TO_HUB, "train_part": "all"}, "report is scored, of which all has images"),
        ({**TO_HUB, "checkpoints": ["a/model", "b/model"]}, "the names of the checkpoints: model, model"),
    ],
)
def test_a_score_for_the_hub_needs_a_data_set_and_a_test_part(options, message):
    with pytest.raises(ValueError, match=message):
        evaluate.evaluate(EvaluationOptions(**{"checkpoints": ["tiny"], "eurosat": Path("eurosat"), **options}))


@pytest.mark.slow
def test_checkpoints_contend_on_eurosat_and_are_finetuned(tmp_path):
    command = [
        sys.executable,
        "examples/evaluate_pretraining.py",
        CHECKPOINT,
        "--eurosat",
        write_eurosat(tmp_path / "eurosat"),
    ]
    command += ["--train_part", "choice", "--test_part", "report", "--seeds", "1"]
    command += [
        "--read_out",
        "pooled",
        "--read_out",
        "groups",
        "--image-model",
        small_vit(tmp_path / "vit"),
        "--finetune_seeds",
        "1",
        "--finetune_steps",
        "1",
        "--output",
        tmp_path / "scores.json",
        "--hub-dataset",
        "org/eurosat",
    ]
    text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    scores = json.loads((tmp_path / "scores.json").read_text())["eurosat"]
    assert len(scores["contestants"]) == 7
    pooled = scores["contestants"][f"{CHECKPOINT}, pooled"]
    assert 0 < pooled["test"]["linear"]["accuracy"] <= 1
    differences = scores["differences"][f"{CHECKPOINT}, pooled"]
    assert differences["mean and std of digital numbers"]["linear"]["interval_95"][1] < 0  # brightness is all there is
    assert set(scores["fine_tuning"][str(CHECKPOINT)]) == {"1", "2", "5", "10"}
    for way in (", LoRA of rank 8", "random weights like", "random weights of a small ResNet"):
        (name,) = [name for name in scores["fine_tuning"] if way in name]
        assert len(scores["fine_tuning"][name]["5"]["runs"]) == 1
    assert "fine-tuned from random weights" in text
    assert f"fine-tuned, {CHECKPOINT} minus random weights like {CHECKPOINT}: 1 per class" in text
    assert (tmp_path / "scores.png").exists()
    (entry,) = yaml.safe_load((tmp_path / CHECKPOINT.name / ".eval_results" / "eurosat.yaml").read_text())
    assert entry["dataset"] == {"id": "org/eurosat", "task_id": "default"}
    assert entry["value"] == pytest.approx(pooled["test"]["linear"]["accuracy"], abs=1e-6)
    assert "linear classifier of frozen features (pooled)" in entry["notes"]
