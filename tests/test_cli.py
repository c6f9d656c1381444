import json
import os
import shutil
import subprocess
import sys
import warnings
from importlib.metadata import version

import pytest
import torch
import typer
from transformers.utils import logging
from typer.testing import CliRunner

import spectralgpt_hf
from spectralgpt_cli import app
from spectralgpt_hf import SpectralGPTImageProcessor, SpectralGPTModel, hub
from spectralgpt_hf.assets import CHECKPOINT, SAMPLE
from spectralgpt_hf.inference.checkpoints import without_weight_bars
from spectralgpt_hf.modeling.bands import L2A_BANDS
from spectralgpt_hf.modeling.rasters import read_raster, write_raster
from tests.conversion.originals import TOY, toy_tensors
from tests.inference.scenes import segmenter


HEADS = ["--num-attention-heads", "4", "--decoder-num-attention-heads", "4"]


def run(*arguments: object, expect: int = 0) -> str:
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert result.exit_code == expect, result.output
    return result.stderr if expect else result.stdout


@pytest.fixture(scope="module")
def toy(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cli") / "toy"
    run("convert", TOY, folder, *HEADS)
    return folder


def test_convert_reports_each_tensor_and_that_none_is_left_over(tmp_path):
    lines = run("convert", TOY, tmp_path / "out", *HEADS, "--verify").splitlines()
    assert "patch_embed.proj.weight -> spectralgpt.embeddings.patch_embeddings.weight (48, 1, 3, 8, 8)" in lines
    assert sum(" -> " in line for line in lines) == len(toy_tensors())
    assert any(line.startswith("95 tensors of SpectralGPTForPreTraining, 0 left over") for line in lines)
    difference = next(line for line in lines if line.startswith("Largest difference")).split(": ")[1].split()[0]
    assert float(difference) < 1e-5


def test_convert_takes_dtype_and_bands(tmp_path):
    bands = "B1,B2,B3,B4,B5,B6,B7,B8,B8A,B9,mean,mean"
    run("convert", TOY, tmp_path / "out", *HEADS, "--dtype", "bfloat16", "--bands", bands)
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert (config["dtype"], ",".join(config["bands"])) == ("bfloat16", bands)


def test_convert_goes_back_to_the_original(toy, tmp_path):
    run("convert", toy, tmp_path / "back.pth", "--to-original")
    restored = torch.load(tmp_path / "back.pth", weights_only=True)["model"]
    assert all(torch.equal(restored[name], tensor) for name, tensor in toy_tensors().items())


def test_info_says_what_a_checkpoint_is(toy):
    output = run("info", toy)
    for expected in (
        "SpectralGPTForPreTraining, 3 layers, 48 wide, 4 heads",
        "129,184",
        "B8A B9 B11 B12",
        "minmax",
        "GFLOP",
    ):
        assert expected in output


def test_wrong_input_ends_in_a_message_and_not_in_a_traceback(tmp_path):
    output = run("convert", tmp_path / "nowhere.pth", tmp_path / "out", expect=1)
    assert "found nothing" in output
    assert "Traceback" not in output
    assert "nowhere" in run("info", tmp_path / "nowhere", expect=1)


def edit(folder, **entries):
    settings = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(settings | entries))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["info", "CHECKPOINT"], "num_hidden_layers` must be at most 512"),
        (["info", "missing/checkpoint/folder"], "There is no checkpoint missing/checkpoint/folder"),
        (["info", "org/missing"], "there is no folder org/missing, and the Hub cannot be reached"),
        (["embed", "tiny", SAMPLE, "x.tif", "--device", "foo"], "`--device` 'foo' cannot be used here"),
        (["embed", "tiny", SAMPLE, "x.tif", "--weights-dtype", "int8"], "float32, bfloat16 or float16"),
        (["embed", "tiny", SAMPLE, "x.tif", "--dtype", "int4"], "`--dtype`: expected one of float32, float16, int8"),
        (["embed", "tiny", SAMPLE, "x.tif", "--area", "empty.geojson"], "coordinates"),
        (["embed", "tiny", SAMPLE, "x.tif", "--area", "0,95,1,96", "--area-crs", "EPSG:4326"], "spectralgpt: "),
        (["embed", "tiny", "broken.tif", "x.tif"], "broken.tif"),
        (["embed", "tiny", SAMPLE, "x.tif", "--stride", "0"], "Expected a positive `--stride`"),
        (["export", "onnx", "tiny", "x.onnx", "--image-size", "7"], "`--image-size` must be a multiple of 8 px"),
    ],
    ids=lambda value: " ".join(map(str, value[:2])) if isinstance(value, list) else None,
)
def test_the_mistakes_of_users_end_in_one_message(tmp_path, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(CHECKPOINT, tmp_path / "CHECKPOINT")
    edit(tmp_path / "CHECKPOINT", num_hidden_layers=10**7)
    (tmp_path / "empty.geojson").write_text('{"type": "Polygon"}')
    (tmp_path / "broken.tif").write_bytes(b"II*\0broken")
    output = run(*arguments, expect=1)
    assert message in output
    assert "Traceback" not in output
    assert output.splitlines()[-1].startswith("spectralgpt: ")  # after bars of libraries that this process has imported


@pytest.mark.parametrize("content", ["{", "[]", '{"model_type": "spectralgpt", "hidden_size": "wide"}'])
def test_a_damaged_configuration_ends_in_one_message(tmp_path, content):
    (tmp_path / "config.json").write_text(content)
    assert run("info", tmp_path, expect=1).startswith("spectralgpt: ")


def test_errors_of_unexpected_kinds_and_interruptions_end_in_one_line(monkeypatch):
    def fail(error):
        def describe(*_):
            raise error

        monkeypatch.setattr(hub, "describe_checkpoint", describe)
        result = CliRunner().invoke(app, ["info", "tiny"])
        return result.exit_code, result.stderr

    assert fail(KeyError("shape")) == (1, "spectralgpt: KeyError: 'shape' (`spectralgpt --debug ...` shows where)\n")
    assert fail(RuntimeError("two\nlines"))[1].startswith("spectralgpt: RuntimeError: two lines (")
    assert fail(KeyboardInterrupt()) == (130, "spectralgpt: interrupted\n")


def test_debug_shows_the_traceback(tmp_path):
    result = CliRunner().invoke(app, ["--debug", "info", str(tmp_path)])
    assert isinstance(result.exception, ValueError)


def test_warnings_name_options_too(monkeypatch):
    def describe(*_):
        warnings.warn("pass `revision=v2`, not `other`", stacklevel=2)
        raise ValueError("stop")

    monkeypatch.setattr(hub, "describe_checkpoint", describe)
    assert "spectralgpt: warning: pass `--revision v2`, not `other`\n" in run("info", "tiny", expect=1)


def test_version_is_that_of_the_package():
    assert run("--version") == f"spectralgpt-hf {version('spectralgpt-hf')}\n"
    assert spectralgpt_hf.__version__ == version("spectralgpt-hf")


def test_every_help_text_is_made_of_sentences():
    def parameters(command):
        yield from command.params
        for inner in getattr(command, "commands", {}).values():
            assert inner.help, inner.name
            assert inner.help[0].isupper(), inner.help
            yield from parameters(inner)

    helps = [parameter.help for parameter in parameters(typer.main.get_command(app))]
    assert [text for text in helps if not text or not text.endswith(".") or len(text.split()) < 4] == []


def test_weights_are_read_and_written_without_bars(tmp_path, capfd):
    logging.enable_progress_bar()
    with without_weight_bars():
        SpectralGPTModel.from_pretrained(CHECKPOINT).save_pretrained(tmp_path)
        assert capfd.readouterr().err == ""
    SpectralGPTModel.from_pretrained(CHECKPOINT)
    assert "Loading weights" in capfd.readouterr().err  # elsewhere they are the reader's own choice


@pytest.mark.slow
def test_no_bars_are_shown_where_standard_error_is_no_terminal(tmp_path):
    code = "from spectralgpt_cli import app; app()"
    command = [sys.executable, "-c", code, "embed", "tiny", str(SAMPLE), "x.tif", "--device", "cpu"]
    process = subprocess.run(command, cwd=tmp_path, env=os.environ, capture_output=True, text=True)
    assert process.returncode == 0, process.stderr
    assert (tmp_path / "x.tif").is_file()
    assert "%|" not in process.stderr
    assert "it/s" not in process.stderr


def test_a_checkpoint_has_a_revision_wherever_one_is_named():
    commands = typer.main.get_command(app).commands
    for command in ("predict", "embed", "info", "convert"):
        assert "revision" in {parameter.name for parameter in commands[command].params}
    assert "revision" in {parameter.name for parameter in commands["export"].commands["onnx"].params}


def test_missing_bands_are_filled_in_on_request(tmp_path):
    segmenter().save_pretrained(tmp_path / "checkpoint")
    SpectralGPTImageProcessor().save_pretrained(tmp_path / "checkpoint")
    ten = [band for band in L2A_BANDS if band not in ("B1", "B9")]
    chip = read_raster(SAMPLE, ten, window=(100, 100, 64, 48))
    write_raster(tmp_path / "ten.tif", chip.pixels, crs=chip.crs, transform=chip.transform, band_names=ten)
    for command, name in (("predict", "map.tif"), ("embed", "features.tif")):
        arguments = [command, tmp_path / "checkpoint", tmp_path / "ten.tif", tmp_path / name, "--device", "cpu"]
        assert "missing: B1 B9" in run(*arguments, expect=1)
        run(*arguments, "--missing-bands", "nearest")
        assert (tmp_path / name).exists()


def test_predict_and_embed_name_every_file_that_they_write(tmp_path):
    model, folder = segmenter(), tmp_path / "results"
    model.save_pretrained(tmp_path / "checkpoint")
    SpectralGPTImageProcessor().save_pretrained(tmp_path / "checkpoint")
    chip = read_raster(SAMPLE, window=(100, 100, 64, 48))
    write_raster(tmp_path / "a.tif", chip.pixels, crs=chip.crs, transform=chip.transform, band_names=chip.band_names)
    for arguments in (["predict", "--confidence", "--entropy"], ["embed"]):
        folder.mkdir()
        command, *options = arguments
        output = run(command, tmp_path / "checkpoint", tmp_path / "a.tif", folder / "x.tif", *options)
        assert output.splitlines()[0] == str(folder / "x.tif")
        assert {*output.splitlines()} == {str(path) for path in folder.iterdir()}
        shutil.rmtree(folder)


@pytest.mark.parametrize("command", ["demo", "publish-space", "predict", "embed", "info", "convert", "export onnx"])
def test_commands_that_name_a_checkpoint_take_its_revision(command):
    options = CliRunner().invoke(app, [*command.split(), "--help"], env={"COLUMNS": "200"}).output
    others = ("classification", "segmentation", "change") if command in ("demo", "publish-space") else ()
    assert all(f"--{name}revision" in options for name in ("", *(f"{other}-" for other in others)))


def test_the_demo_and_the_space_pass_revisions_on(monkeypatch):
    calls = []
    monkeypatch.setattr("spectralgpt_hf.serving.app.run", lambda *_, **options: calls.append(options))
    monkeypatch.setattr("spectralgpt_hf.hub.space.publish_space", lambda *_, **options: calls.append(options) or "url")
    given = ["--revision", "v1", "--segmentation", "org/b", "--segmentation-revision", "v2"]
    run("demo", "org/a", *given)
    run("publish-space", "org/a", "org/space", *given)
    assert [call["revisions"] for call in calls] == [{"checkpoint": "v1", "segmentation": "v2"}] * 2


def change_json(file, change):
    values = json.loads(file.read_text())
    change(values)
    file.write_text(json.dumps(values))


DAMAGE = {
    "weights cut short": lambda folder: os.truncate(folder / "model.safetensors", 5000),
    "weights of another size": lambda folder: change_json(
        folder / "config.json", lambda config: config.update(intermediate_size=64)
    ),
    "a size without a number": lambda folder: change_json(
        folder / "config.json", lambda config: config.update(hidden_size=None)
    ),
    "a configuration that is a list": lambda folder: (folder / "config.json").write_text("[]"),
    "a processor that is a text": lambda folder: (folder / "preprocessor_config.json").write_text('"zscore"'),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_checkpoint_is_named_in_one_line(toy, tmp_path, damage):
    folder = shutil.copytree(toy, tmp_path / "damaged")
    DAMAGE[damage](folder)
    message = run("embed", folder, SAMPLE, tmp_path / "features.tif", expect=1)
    assert str(folder) in message
    assert "Error" not in message.split(str(folder))[0]
    assert "--debug" not in message
    assert not (tmp_path / "features.tif").exists()


def test_a_device_that_is_not_there_is_named(toy, tmp_path):
    for device in ("xla", "gpu"):
        message = run("embed", toy, SAMPLE, tmp_path / "features.tif", "--device", device, expect=1)
        assert f"`--device` '{device}' cannot be used here: " in message


def test_sizes_without_sense_are_refused_and_existing_files_named(toy, tmp_path):
    destination = tmp_path / "features.tif"
    assert "multiple of 8 px" in run("embed", toy, SAMPLE, destination, "--tile-size", 0, expect=1)
    assert "--memory-limit" in run("embed", toy, SAMPLE, destination, "--memory-limit", -5, expect=2)
    for path in (destination, destination.with_name("features.tif.stac.json")):
        path.write_bytes(b"older")
    message = run("embed", toy, SAMPLE, destination, expect=1)
    assert f"spectralgpt: {destination}: exists. Choose another name, or replace it with `--overwrite`.\n" in message
