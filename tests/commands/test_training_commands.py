import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from spectralgpt_cli import app
from spectralgpt_hf.assets import SAMPLE
from spectralgpt_hf.commands.training_commands import RECIPES, TASKS, describe_options, find_recipe, prepared
from spectralgpt_hf.data import prepare_shards
from spectralgpt_hf.modeling.post_processing import class_colours
from spectralgpt_hf.modeling.rasters import read_raster, write_raster
from tests.commands.labelled import write_classes, write_maps, write_pair, write_values
from tests.data.files import write_image


# A model of two narrow layers: what is tested here is all around it.
TOY = "hidden_size=32,num_hidden_layers=2,num_attention_heads=2,intermediate_size=32,decode_hidden_size=16"


def train(*arguments: object, expect: int = 0) -> str:
    result = CliRunner().invoke(app, ["train", *map(str, arguments)])
    assert result.exit_code == expect, result.output
    return result.stderr if expect else result.stdout


@pytest.fixture
def recipe(tmp_path) -> Path:
    path = tmp_path / "recipe.yaml"
    path.write_text(
        f"config_name: tiny\nconfig_overrides: {TOY}\nimage_size: 32\nnum_train_epochs: 2\nlogging_steps: 1\n"
        "per_device_train_batch_size: 4\nbootstrap_resamples: 5\nholdout: auto\nuse_cpu: true\nin_memory: true\n"
    )
    return path


def test_maps_are_learnt_from_a_folder_of_ones_own_and_the_command_says_how_it_goes(recipe, tmp_path):
    write_maps(tmp_path / "data", [(128, 0), (256, 256), (300, 40), (40, 300)], 64)
    output = train(
        "segment", tmp_path / "data", "--output", tmp_path / "run", "--config", recipe, "--epochs", 3,
        "--classes", "0=water,1=vegetation,2=open ground", "--weight_decay", "0.1", "--symmetries",
    )  # fmt: skip
    assert "classes of the training split: water" in output
    assert "  loss " in output
    assert " left" in output
    assert "validation loss" in output
    assert f"in {tmp_path / 'run' / 'model'}" in output
    drawn = np.asarray(Image.open(tmp_path / "run" / "samples.png").convert("RGB")).reshape(-1, 3)
    for colour in class_colours(["water", "vegetation", "open ground"]):  # those of maps
        assert (drawn == colour).all(1).mean() > 0.002
    config = json.loads((tmp_path / "run" / "model" / "config.json").read_text())
    assert config["class_codes"] == [0, 1, 2]
    metrics = json.loads((tmp_path / "run" / "model" / "metrics.json").read_text())
    assert (metrics["settings"]["num_train_epochs"], metrics["settings"]["weight_decay"]) == (3.0, 0.1)
    assert f"{metrics['test']['scores']['miou']:.3f}" in output
    card = (tmp_path / "run" / "model" / "README.md").read_text()
    assert 'model="path/to/this/folder"' in card
    assert "No licence is stated yet" in card
    assert metrics["test"]["intervals_95"] == {}  # of one image
    assert "\n| score | value |\n" in card
    assert "interval |" not in card


def test_the_default_recipe_leaves_out_what_has_no_effect_on_values(tmp_path):
    write_values(tmp_path / "data", [(left, top) for top in (0, 128, 256) for left in range(0, 512, 128)], 32)
    arguments = ("classify", tmp_path / "data", "--output", tmp_path / "run", "--image-size", 16, "--epochs", 1)
    output = train(*arguments)
    assert "because it has no effect on these labels: probe_first, class_weights, label_smoothing" in output
    metrics = json.loads((tmp_path / "run" / "model" / "metrics.json").read_text())
    assert "rmse" in metrics["test"]["scores"]
    assert metrics["settings"]["class_weights"] == "none"
    assert "probe_first" not in metrics["settings"]
    assert "`--label-smoothing` is for" in train(*arguments, "--label-smoothing", "0.2", expect=1)


@pytest.mark.slow
def test_other_tasks_take_the_same_way(recipe, tmp_path):
    write_pair(tmp_path / "pairs", (128, 64), 128)
    train("change", tmp_path / "pairs", "--output", tmp_path / "change", "--config", recipe, "--epochs", 1)
    write_classes(tmp_path / "classes", [(left, top) for top in range(0, 512, 128) for left in range(0, 512, 64)], 32)
    classify = tmp_path / "classify.yaml"
    classify.write_text(recipe.read_text().replace("holdout: auto\n", ""))
    train("classify", tmp_path / "classes", "--output", tmp_path / "classify", "--config", classify, "--epochs", 1)
    for name, task in (("change", "change-detection"), ("classify", "classification")):
        assert json.loads((tmp_path / name / "model" / "metrics.json").read_text())["task"] == task


@pytest.mark.slow
def test_pretraining_prepares_images_first(tmp_path):
    raster = read_raster(SAMPLE, window=(0, 0, 192, 192))
    (tmp_path / "images").mkdir()
    write_raster(
        tmp_path / "images" / "a.tif",
        raster.pixels,
        crs=raster.crs,
        transform=raster.transform,
        band_names=raster.band_names,
    )
    config = tmp_path / "pretrain.yaml"
    config.write_text(
        f"config_overrides: {{{TOY.replace('=', ': ').replace(',decode_hidden_size: 16', '')}}}\nsteps: 1\n"
    )
    # In a process of its own: Accelerate keeps the precision of a process's first run.
    options = ["--output", tmp_path / "run", "--config", config, "--image-size", "32", "--batch-size", "4"]
    command = [sys.executable, "-c", "from spectralgpt_cli import app; app()", "train", "pretrain", tmp_path / "images"]
    process = subprocess.run([*map(str, [*command, *options])], capture_output=True, text=True)
    assert process.returncode == 0, process.stderr
    assert "holds no shards: preparing its images" in process.stdout
    assert "`spectralgpt prepare" in process.stdout
    assert (tmp_path / "run" / "model" / "model.safetensors").is_file()


def test_pretraining_takes_shards_as_prepare_has_written_them(tmp_path):
    shards = prepare_shards([SAMPLE], tmp_path / "shards", size=256, num_workers=1)
    assert prepared(shards, tmp_path / "run") == shards
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["segment", "nowhere"], "nowhere: no such folder"),
        (["segment", "data", "--recipe", "segmnt"], "there is no recipe 'segmnt'; expected one of bigearthnet_10,"),
        (["segment", "data", "--weight_decy", "1"], "There is no option --weight_decy. Do you mean --weight_decay?"),
        (["segment", "data", "--checkpoint", "missing"], "There is no checkpoint missing"),
        (["segment", "data", "--classes", "1:a"], "`--classes`: expected `1=water,2=trees` or a YAML file"),
        (["segment", "data", "--learning-rate", "-1"], "`--learning-rate` must be above 0, got -1.0"),
        (["segment", "data", "--holdout", "blocks"], "argument --holdout: invalid choice: 'blocks'"),
        (["classify", "nowhere"], "nowhere: no such folder"),
        (["change", "data"], "expected before/"),
        (["pretrain", "nowhere"], "nowhere"),
    ],
    ids=lambda value: " ".join(value[:1] + value[-1:]) if isinstance(value, list) else None,
)
def test_mistakes_end_in_one_line(arguments, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_maps(tmp_path / "data", [(128, 0)], 64)
    command, *rest = arguments
    output = train(command, *rest, "--output", "run", expect=1)
    assert message in output
    assert "Traceback" not in output
    assert output.splitlines()[-1].startswith("spectralgpt: ")


def test_the_folder_of_the_data_comes_before_options_that_are_passed_on(tmp_path):
    output = train("segment", "--weight_decay", "0.1", tmp_path, "--output", tmp_path / "run", expect=2)
    words = " ".join(output.replace("│", " ").split())
    assert "Name the folder of the data before options such as --weight_decay" in words


def test_files_whose_offset_looks_unstated_stop_the_training(tmp_path):
    values = np.full((13, 64, 64), 1500, np.uint16)
    for name in "abc":
        write_image(tmp_path / "data" / "images" / f"{name}.tif", values)
        write_image(tmp_path / "data" / "masks" / f"{name}.png", np.eye(64, dtype=np.uint8))
    arguments = ["segment", tmp_path / "data", "--output", tmp_path / "run", "--dry-run"]
    output = train(*arguments, expect=1)
    assert "3 files look as if" in output
    assert "pass `--offset -1000` where all files do" in output
    assert "picture of some training samples" in train(*arguments, "--offset", "-1000")


def test_all_options_are_listed_in_groups():
    output = train("segment", "--help-all")
    assert output.strip() == describe_options("segment")
    positions = [output.index(f"\n{group}:") for group in ("Model", "Optimisation", "Regularisation")]
    assert positions == sorted(positions)
    assert output.startswith("Data:")
    assert "  --layer-decay (default 0.65)" in output  # of the recipe
    assert "  --holdout (default auto)" in output
    assert "weight-decay" in output.split("TrainingArguments")[1]
    assert "\nAll stages:" in train("pretrain", "--help-all")


def test_there_is_a_default_recipe_for_each_command_and_recipes_ship_with_the_package():
    assert all(find_recipe(f"default_{command}").is_file() for command in (*TASKS, "pretrain"))
    assert RECIPES.parent.name == "spectralgpt_hf"
    assert Path("examples/configs").resolve() == RECIPES


def test_help_is_grouped_and_does_without_torch():
    program = (
        "import sys\nfrom spectralgpt_cli import app\n"
        "try:\n    app()\nexcept SystemExit as end:\n    assert not end.code\n"
        "sys.exit(', '.join({'torch', 'transformers'} & set(sys.modules)) or None)"
    )
    command = [sys.executable, "-c", program, "train", "segment", "--help"]
    process = subprocess.run(command, capture_output=True, text=True)
    assert process.returncode == 0, process.stderr
    panels = [process.stdout.index(name) for name in ("─ Data ", "─ Model ", "─ Optimisation ", "─ Output ")]
    assert panels == sorted(panels)
