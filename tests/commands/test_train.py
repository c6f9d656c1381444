import json
import os
import runpy
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from huggingface_hub import ModelCard, hf_hub_download, parse_eval_result_entries
from PIL import Image
from transformers import pipeline

from spectralgpt_hf import (
    SpectralGPTConfig,
    SpectralGPTForChangeDetection,
    SpectralGPTForImageClassification,
    SpectralGPTForPreTraining,
    SpectralGPTForSemanticSegmentation,
    SpectralGPTImageProcessor,
)
from spectralgpt_hf.assets import CHECKPOINT
from spectralgpt_hf.inference.checkpoints import load_model
from spectralgpt_hf.inference.prediction import predict_scene
from spectralgpt_hf.modeling.rasters import read_raster
from spectralgpt_hf.training.arguments import parse_options
from spectralgpt_hf.training.finetuning import FineTuner
from spectralgpt_hf.training.models import SPECTRALGPT
from spectralgpt_hf.training.options import FineTuningOptions
from tests.commands.labelled import CLASSES, write_classes, write_maps, write_pair, write_values
from tests.hub.test_publish import hub  # noqa: F401
from tests.sizes import SMALL


# A model of two narrow layers: what is tested here is all around it.
TOY = "hidden_size=32,num_hidden_layers=2,num_attention_heads=2,intermediate_size=32,decode_hidden_size=16"
CORNERS = [(left, top) for top in range(0, 512, 128) for left in range(0, 512, 128)]


def run(task: str, output_dir: Path, data_dir: Path, processes: int = 1, **options: object) -> dict:
    """Run a script, in this process if it takes one, and return its metrics.json."""
    defaults = {
        "config_name": "tiny",
        "config_overrides": TOY,
        "image_size": 32,
        "num_train_epochs": 2,
        "per_device_train_batch_size": 4,
        "learning_rate": 1e-3,
        "in_memory": True,
        "use_cpu": True,
        "disable_tqdm": True,
        "seed": 0,
        "train_split": "all",
        "validation_split": "none",
        "test_split": "all",
    }
    options = {**defaults, "output_dir": output_dir, "data_dir": data_dir, **options}
    argv = [f"examples/finetune_{task}.py"]
    for name, value in options.items():
        if value is not None:
            argv += [f"--{name}", *map(str, value if isinstance(value, tuple | list) else [value])]
    if processes > 1:
        command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={processes}"]
        subprocess.run(command + argv, env=os.environ | {"OMP_NUM_THREADS": "1"}, check=True)
    else:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(sys, "argv", argv)
            runpy.run_path(argv[0], run_name="__main__")
    return json.loads((output_dir / "model" / "metrics.json").read_text())


@pytest.fixture(scope="module")
def classes(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("classes")
    write_classes(folder, CORNERS, 32)
    return folder


@pytest.fixture(scope="module")
def pretrained(tmp_path_factory) -> Path:
    """A pretrained checkpoint whose images are larger than those of the runs."""
    folder = tmp_path_factory.mktemp("pretrained") / "toy"
    torch.manual_seed(0)
    SpectralGPTForPreTraining(SpectralGPTConfig(image_size=64, **SMALL)).save_pretrained(folder)
    SpectralGPTImageProcessor().save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def maps(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("maps")
    write_maps(folder, [(128, 0), (256, 256), (300, 40), (40, 300)], 48)
    return folder


@pytest.fixture(scope="module")
def pair(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("pair")
    write_pair(folder, (128, 64), 64)
    return folder


def test_a_classifier_is_trained_scored_described_and_works_in_the_pipeline(classes, tmp_path):
    regularised = {"mixup": 0.8, "cutmix": 1.0, "label_smoothing": 0.1, "random_erasing": 0.25, "crop_scale": 0.5}
    metrics = run(
        "classification",
        tmp_path,
        classes,
        train_split="train",
        validation_split="validation",
        early_stopping_patience=5,
        layer_decay=0.75,
        drop_path_rate=0.1,
        eval_resize=36,
        symmetries=True,
        hub_dataset="org/buildings/scenes",
        **regularised,
    )
    folder = tmp_path / "model"
    assert not (folder / ".eval_results").exists()  # the model was trained on some of the samples that were scored
    assert metrics["test"]["samples"] == 16
    assert 0 <= metrics["test"]["scores"]["accuracy"] <= 1
    low, high = metrics["test"]["intervals_95"]["accuracy"]
    assert low <= metrics["test"]["scores"]["accuracy"] <= high
    assert np.sum(metrics["test"]["confusion_matrix"]) == 16
    assert metrics["validation"]["samples"] < 16
    assert all(Image.open(folder / name).width > 100 for name in ("predictions.png", "confusion_matrix.png"))
    results = ModelCard.load(folder / "README.md").data.eval_results
    shown = {(result.dataset_split, result.metric_type) for result in results}
    assert ("validation", "accuracy") in shown
    assert "test" not in {split for split, _ in shown}  # for the same reason
    (image,) = list(classes.glob("*/0_0.tif"))
    labels = pipeline("multispectral-image-classification", model=str(folder))(str(image))
    assert {label["label"] for label in labels} == {"vegetation", "water"}


def test_a_probe_is_kept_where_training_does_not_improve_on_it(classes, tmp_path, capsys):
    everything = {"train_split": "all", "validation_split": "all", "test_split": "none"}
    options = {"probe_first": True, "learning_rate": 10.0, "lr_scheduler_type": "constant", "num_train_epochs": 2}
    metrics = run("classification", tmp_path, classes, **everything, **options)
    assert metrics["validation"]["scores"]["accuracy"] > 0.9
    assert "no epoch was clearly better than the head that was solved at the start" in capsys.readouterr().out


def test_a_map_starts_as_the_regression_of_its_pixels(maps, tmp_path, capsys):
    everything = {"train_split": "all", "validation_split": "all", "test_split": "none", "class_names": CLASSES}
    options = {"probe_first": True, "learning_rate": 10.0, "lr_scheduler_type": "constant", "num_train_epochs": 1}
    metrics = run("segmentation", tmp_path, maps, **everything, **options, config_overrides=f"{TOY},pixel_skip=true")
    assert metrics["validation"]["scores"]["miou"] > 0.65  # of four classes
    assert "no epoch was clearly better than the head that was solved at the start" in capsys.readouterr().out
    model = SpectralGPTForSemanticSegmentation.from_pretrained(tmp_path / "model")
    assert not model.decode_head.classifier.weight.any()


@pytest.mark.slow
@pytest.mark.parametrize("task", ["classification", "segmentation"])
def test_a_head_that_was_solved_and_kept_survives_lora(task, classes, maps, tmp_path, capsys):
    everything = {"train_split": "all", "validation_split": "all", "test_split": "none", "probe_first": True}
    options = {"lora_rank": 2, "learning_rate": 10.0, "lr_scheduler_type": "constant", "num_train_epochs": 1}
    own = {"class_names": CLASSES, "config_overrides": f"{TOY},pixel_skip=true"} if task == "segmentation" else {}
    metrics = run(task, tmp_path, classes if task == "classification" else maps, **everything, **options, **own)
    main = "miou" if task == "segmentation" else "accuracy"
    assert metrics["validation"]["scores"][main] > 0.65
    assert "no epoch was clearly better" in capsys.readouterr().out


def test_a_start_that_a_head_does_not_have_is_refused(maps, tmp_path):
    with pytest.raises(ValueError, match="`probe_first` is for SpectralGPT as a classifier"):
        run("segmentation", tmp_path, maps, probe_first=True, class_names=CLASSES)


@pytest.mark.slow
def test_two_processes_with_half_the_batch_train_the_same_model(classes, tmp_path):
    options = {"num_train_epochs": 3, "logging_steps": 1, "crop_scale": 0.5}
    one = run("classification", tmp_path / "1", classes, 1, per_device_train_batch_size=8, **options)
    two = run("classification", tmp_path / "2", classes, 2, per_device_train_batch_size=4, **options)
    losses = []
    for folder in ("1", "2"):
        state = json.loads(next((tmp_path / folder).glob("checkpoint-*/trainer_state.json")).read_text())
        losses.append([record["loss"] for record in state["log_history"] if "loss" in record])
    assert len(losses[0]) == 6  # three epochs of 16 samples; processes that each train alone take 12
    assert losses[1] == pytest.approx(losses[0], rel=1e-4)
    assert two["test"]["loss"] == pytest.approx(one["test"]["loss"], rel=1e-4)
    assert two["test"]["confusion_matrix"] == one["test"]["confusion_matrix"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("task", "score", "main"), [("classification", "accuracy", "accuracy"), ("segmentation", "oa", "miou")]
)
def test_the_finished_model_is_published_with_its_scores(task, score, main, classes, maps, tmp_path, hub):  # noqa: F811
    data, special = maps, {"class_names": CLASSES}
    if task == "classification":
        pretrained = {"model_name_or_path": str(CHECKPOINT), "config_name": None, "config_overrides": None}
        data, special = classes, pretrained | {"lora_rank": 2, "max_steps": 2}
    splits = {"train_split": "train", "test_split": "validation", "hub_dataset": "org/lakes/maps"}
    metrics = run(task, tmp_path, data, push_to_hub=True, hub_model_id="org/water", **splits, **special)
    scores = hf_hub_download("org/water", ".eval_results/lakes.yaml", cache_dir=tmp_path / "cache")
    (entry,) = parse_eval_result_entries(yaml.safe_load(Path(scores).read_text()))
    assert (entry.dataset_id, entry.task_id, entry.notes) == ("org/lakes", "maps", main)
    assert entry.value == pytest.approx(metrics["test"]["scores"][main], abs=1e-6)
    assert ModelCard.load("org/water").data.eval_results[0].metric_type == score
    architecture = SPECTRALGPT[task]
    model = architecture.from_pretrained("org/water", cache_dir=tmp_path / "cache")
    trained = architecture.from_pretrained(tmp_path / "model")
    assert all(torch.equal(weight, trained.state_dict()[name]) for name, weight in model.state_dict().items())


def test_a_baseline_is_not_published(classes, tmp_path):
    overrides = "patch_size=4,hidden_size=8,num_hidden_layers=1,num_attention_heads=1,intermediate_size=8"
    vit = {"config_name": "vit", "config_overrides": overrides}
    with pytest.raises(ValueError, match="publishes only models of SpectralGPT, not vit"):
        run("classification", tmp_path, classes, push_to_hub=True, hub_model_id="org/water", **vit)


def last_logits(monkeypatch) -> list[torch.Tensor]:
    """Take the outputs of the last evaluation."""
    logits: list[torch.Tensor] = []
    add = FineTuner._add_to_scores

    def recording(self, prediction, compute_result):
        logits[:] = [prediction.predictions.clone()]
        return add(self, prediction, compute_result)

    monkeypatch.setattr(FineTuner, "_add_to_scores", recording)
    return logits


@pytest.mark.slow
@pytest.mark.parametrize("lora", [False, True])
def test_a_table_of_values_trains_a_regression_that_the_pipeline_gives_in_their_unit(lora, tmp_path):
    values = write_values(tmp_path / "data", CORNERS, 32)
    zscore = {
        "normalization": "zscore",
        "mean": [1500] * 12,
        "std": [700] * 12,
    }  # keeps reflectance
    options = {"num_train_epochs": 12, "learning_rate": 3e-3, "config_overrides": f"{TOY},classifier_dropout=0.0"}
    if lora:
        pretrained = {"model_name_or_path": str(CHECKPOINT), "config_name": None, "config_overrides": None}
        options, zscore = options | pretrained | {"lora_rank": 2, "num_train_epochs": 8}, {}
    metrics = run("classification", tmp_path, tmp_path / "data", **options, **zscore)
    test = metrics["test"]
    assert set(test["scores"]) == {"mae", "rmse", "r2"}
    assert 0.3 < test["scores"]["r2"] <= 1
    folder = tmp_path / "model"
    assert json.loads((folder / "config.json").read_text())["problem_type"] == "regression"
    predict = pipeline("multispectral-image-classification", model=str(folder))
    found = {name: predict(str(tmp_path / "data" / name)) for name in values}
    assert {entry["label"] for entries in found.values() for entry in entries} == {"value"}
    errors = [found[name][0]["score"] - value for name, value in values.items()]
    assert np.sqrt(np.mean(np.square(errors))) == pytest.approx(test["scores"]["rmse"], rel=1e-3)
    assert np.mean(np.abs(errors)) == pytest.approx(test["scores"]["mae"], rel=1e-3)
    assert test["trained_on_too"]
    assert ModelCard.load(folder / "README.md").data.eval_results is None  # so nothing is claimed of it
    assert metrics["settings"]["learning_rate"] == 3e-3


def test_change_is_detected_on_one_radiometry_and_scored_on_the_whole_scene(pair, tmp_path):
    metrics = run("change_detection", tmp_path, pair, crop_stride=16, class_weights="change", epoch_decay=0.95)
    assert metrics["test"]["units"] == 1
    assert np.sum(metrics["test"]["confusion_matrix"]) == 64 * 64
    assert {"precision", "recall", "f1"} <= set(metrics["test"]["scores"])
    model = SpectralGPTForChangeDetection.from_pretrained(tmp_path / "model")
    unchanged, changed = model.config.class_weights  # 20 p and 2 (1 - p)
    assert 0.1 < unchanged / 20 < 0.3
    assert unchanged / 20 + changed / 2 == pytest.approx(1)
    detect = pipeline("multispectral-change-detection", model=str(tmp_path / "model"))
    result = detect((str(pair / "before" / "a.tif"), str(pair / "after" / "a.tif")))
    assert result["map"].pixels.shape == (1, 64, 64)
    processor = SpectralGPTImageProcessor.from_pretrained(tmp_path / "model")
    assert processor.statistics_scope == "given"


def test_statistics_of_the_training_set_go_with_the_checkpoint(tmp_path):
    data = tmp_path / "data"
    write_maps(data, [(128, 0), (256, 256), (300, 40), (40, 300)], 32)
    once = {"normalization": "percentile", "statistics_scope": "given", "statistics": "dataset"}
    metrics = run("segmentation", tmp_path, data, class_names=CLASSES, resume_from_checkpoint="last", **once)
    segment = pipeline("multispectral-image-segmentation", model=str(tmp_path / "model"))
    right = [
        segment(str(path))["map"].pixels[0] == np.array(Image.open(data / "masks" / f"{path.stem}.png"))
        for path in sorted((data / "images").iterdir())
    ]
    assert np.mean(right) == pytest.approx(metrics["test"]["scores"]["oa"], abs=1e-6)
    processor = SpectralGPTImageProcessor.from_pretrained(tmp_path / "model")
    assert len(processor.statistics["percentile_99"]) == 12
    by_image = {"statistics": "dataset", "statistics_scope": "image"}
    with pytest.raises(ValueError, match="pass `--statistics_scope given`"):
        run("segmentation", tmp_path / "other", data, class_names=CLASSES, **by_image)


class Interruption(Exception):
    pass


@pytest.mark.slow
def test_an_interrupted_and_resumed_run_ends_with_the_same_metrics(classes, tmp_path, monkeypatch):
    options = {
        "drop_path_rate": 0.2,
        "mixup": 0.8,
        "crop_scale": 0.5,
        "random_erasing": 0.25,
        "num_train_epochs": 3,
        "train_split": "train",
        "validation_split": "validation",
    }
    whole = run("classification", tmp_path / "whole", classes, **options)

    training_step = FineTuner.training_step

    def interrupted(self, *arguments, **keywords):
        if self.state.global_step == 5:
            raise Interruption
        return training_step(self, *arguments, **keywords)

    with monkeypatch.context() as patch:
        patch.setattr(FineTuner, "training_step", interrupted)
        with pytest.raises(Interruption):
            run("classification", tmp_path / "parts", classes, **options)
    parts = run("classification", tmp_path / "parts", classes, resume_from_checkpoint="last", **options)
    assert parts["test"] == whole["test"]
    assert parts["validation"] == whole["validation"]


def test_lora_weights_are_saved_loaded_and_merged(classes, pretrained, tmp_path, monkeypatch):
    from peft import PeftModel

    logits = last_logits(monkeypatch)
    run(
        "classification",
        tmp_path,
        classes,
        model_name_or_path=str(pretrained),
        config_name=None,
        config_overrides=None,
        lora_rank=2,
        max_steps=2,
        learning_rate=1e-2,
        per_device_eval_batch_size=16,
    )
    folder = tmp_path / "model"
    merged = SpectralGPTForImageClassification.from_pretrained(folder).eval()
    base = SpectralGPTForImageClassification.from_pretrained(pretrained, dtype=torch.float32, num_labels=2)
    base.resize_positions(32)
    assert "/" not in json.loads((tmp_path / "lora" / "adapter_config.json").read_text())["base_model_name_or_path"]
    assert str(pretrained.parent) not in (tmp_path / "lora" / "README.md").read_text()
    adapted = PeftModel.from_pretrained(base, tmp_path / "lora").eval()
    processor = SpectralGPTImageProcessor.from_pretrained(folder)
    paths = sorted(classes.glob("vegetation/*.tif"))[:2]
    inputs = processor([str(path) for path in paths])
    with torch.no_grad():
        expected = merged(**inputs).logits
        torch.testing.assert_close(adapted(**inputs).logits, expected, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(logits[0][:2], expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("task", "name", "overrides"),
    [
        ("classification", "vit", "hidden_size=32,num_hidden_layers=1,num_attention_heads=2,intermediate_size=32"),
        pytest.param(
            "classification",
            "resnet",
            "embedding_size=8,hidden_sizes=[8,16],depths=[1,1],layer_type=basic",
            marks=pytest.mark.slow,
        ),
        pytest.param(
            "classification",
            "swin",
            "embed_dim=8,depths=[1,1],num_heads=[1,2],window_size=4",
            marks=pytest.mark.slow,
        ),
        pytest.param(
            "segmentation",
            "segformer",
            "hidden_sizes=[8,8,8,8],depths=[1,1,1,1],decoder_hidden_size=8",
            marks=pytest.mark.slow,
        ),
        ("change_detection", "segformer", "hidden_sizes=[8,8,8,8],depths=[1,1,1,1],decoder_hidden_size=8"),
    ],
)
def test_baselines_train_on_the_same_pixels(task, name, overrides, classes, maps, pair, tmp_path):
    data = {"classification": classes, "segmentation": maps, "change_detection": pair}[task]
    overrides = "patch_size=4," + overrides if name in ("vit", "swin") else overrides
    names = {"class_names": CLASSES} if task == "segmentation" else {}
    metrics = run(task, tmp_path, data, config_name=name, config_overrides=overrides, num_train_epochs=1, **names)
    assert np.isfinite(metrics["test"]["loss"])
    config = json.loads((tmp_path / "model" / "config.json").read_text())
    assert config["num_channels"] == (24 if task == "change_detection" else 12)


def test_a_frozen_encoder_keeps_its_weights(classes, pretrained, tmp_path):
    start = {"model_name_or_path": str(pretrained), "config_name": None, "config_overrides": None}
    run("classification", tmp_path, classes, freeze_encoder=True, max_steps=1, **start)
    before = SpectralGPTForImageClassification.from_pretrained(pretrained, dtype=torch.float32, num_labels=2)
    before.resize_positions(32)
    after = SpectralGPTForImageClassification.from_pretrained(tmp_path / "model")
    for name, parameter in before.spectralgpt.named_parameters():
        assert torch.equal(parameter, after.get_parameter(f"spectralgpt.{name}"))


def test_a_dry_run_describes_own_folders_and_stops_before_training(maps, tmp_path, capsys):
    classes = ",".join(f"{code}={name}" for code, name in enumerate(CLASSES))
    with pytest.raises(FileNotFoundError, match=r"metrics\.json"):
        run("segmentation", tmp_path, maps, dry_run=True, classes=classes)
    printed = capsys.readouterr().out
    assert "bands of the files: B1 B2" in printed
    assert "water" in printed.split("classes of the training split")[1]


def test_options_are_accepted_with_dashes_too():
    argv = ["--config-name", "tiny", "--image-size", "64", "--output_dir", "x", "--use-cpu"]
    assert parse_options(FineTuningOptions, argv).image_size == 64


def test_options_that_exclude_each_other_are_named(classes, tmp_path):
    with pytest.raises(ValueError, match="either `model_name_or_path`"):
        run("classification", tmp_path, classes, model_name_or_path=str(CHECKPOINT))
    with pytest.raises(ValueError, match="`freeze_encoder` and `lora_rank` exclude each other"):
        run("classification", tmp_path, classes, freeze_encoder=True, lora_rank=2)
    with pytest.raises(ValueError, match="Early stopping needs"):
        run("classification", tmp_path, classes, early_stopping_patience=2)


@pytest.mark.slow
def test_one_chip_is_learnt_by_heart(tmp_path):
    write_maps(tmp_path / "data", [(128, 0)], 64)
    metrics = run(
        "segmentation",
        tmp_path,
        tmp_path / "data",
        model_name_or_path=str(CHECKPOINT),
        config_name=None,
        config_overrides="decode_hidden_size=32,decode_dropout=0.0",
        class_names=CLASSES,
        image_size=64,
        max_steps=120,
    )
    assert metrics["test"]["scores"]["oa"] > 0.95


@pytest.mark.slow
def test_genuine_patches_of_bigearthnet_run_end_to_end(shared_data, tmp_path):
    metrics = run(
        "classification",
        tmp_path,
        shared_data / "bigearthnet",
        dataset="bigearthnet-v1",
        model_name_or_path=str(CHECKPOINT),
        config_name=None,
        config_overrides=None,
        image_size=64,
        max_steps=30,
        lr_scheduler_type="constant",
    )
    assert metrics["test"]["samples"] == 6
    assert metrics["test"]["scores"]["macro_map"] > 0.9  # it was trained on them


def test_frozen_features_are_probed_with_neighbours_and_a_linear_map(classes, tmp_path, monkeypatch, capsys):
    options = ["--data_dir", str(classes), "--output_dir", str(tmp_path), "--model_name_or_path", str(CHECKPOINT)]
    options += ["--image_size", "32", "--use_cpu", "True", "--train_split", "all", "--test_split", "all"]
    options += ["--validation_split", "none", "--bootstrap_resamples", "20"]
    monkeypatch.setattr(sys, "argv", ["probe.py", *options, "--test_split", "none"])
    with pytest.raises(ValueError, match="scored on a `test_split`"):
        runpy.run_path("examples/probe.py", run_name="__main__")
    monkeypatch.setattr(sys, "argv", ["probe.py", *options])
    runpy.run_path("examples/probe.py", run_name="__main__")
    found = json.loads((tmp_path / "probe.json").read_text())
    assert found["linear probe"]["scores"]["accuracy"] > 0.9  # of what it was fitted to
    assert "nearest neighbours   accuracy" in capsys.readouterr().out


@pytest.mark.slow
def test_series_of_dated_files_are_learned_and_mapped(tmp_path):
    write_maps(tmp_path / "data", CORNERS[:4], 64)
    for image in sorted((tmp_path / "data" / "images").iterdir()):
        shutil.copy(image, image.with_stem(f"{image.stem}_20200301"))
        image.rename(image.with_stem(f"{image.stem}_20200103"))
    series = {"series": True, "config_overrides": TOY + ",temporal_fusion=attention", "symmetries": True}
    metrics = run("segmentation", tmp_path / "maps", tmp_path / "data", num_train_epochs=1, **series)
    assert (metrics["test"]["samples"], metrics["test"]["units"]) == (36, 4)  # overlapping tiles of four scenes
    model, processor = load_model(str(tmp_path / "maps" / "model"))
    assert model.config.temporal_fusion == "attention"
    files = sorted((tmp_path / "data" / "images").glob("0_0_*.tif"))
    written = predict_scene(model, processor, destination=tmp_path / "map.tif", sources=files, progress=False)
    assert read_raster(written, resolution=None).tags["dates"] == '["2020-01-03", "2020-03-01"]'

    write_classes(tmp_path / "classes", [(0, 0), (64, 0), (384, 384), (448, 448)], 32)
    for image in sorted((tmp_path / "classes").rglob("*.tif")):
        shutil.copy(image, image.with_stem(f"{image.stem}_20200301"))
        image.rename(image.with_stem(f"{image.stem}_20200103"))
    series |= {"crop_scale": 0.5, "mixup": 0.8, "probe_first": True}
    metrics = run("classification", tmp_path / "classifier", tmp_path / "classes", num_train_epochs=1, **series)
    assert metrics["test"]["samples"] == 4
