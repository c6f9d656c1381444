import json

import pytest
import torch
from typer.testing import CliRunner

from spectralgpt_cli import app
from spectralgpt_hf import SpectralGPTImageProcessor
from spectralgpt_hf.assets import SAMPLE
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


def test_missing_bands_are_filled_in_on_request(tmp_path):
    segmenter().save_pretrained(tmp_path / "checkpoint")
    SpectralGPTImageProcessor().save_pretrained(tmp_path / "checkpoint")
    ten = [band for band in L2A_BANDS if band not in ("B1", "B9")]
    chip = read_raster(SAMPLE, ten, window=(100, 100, 64, 48))
    write_raster(tmp_path / "ten.tif", chip.pixels, crs=chip.crs, transform=chip.transform, bands=ten)
    for command, name in (("predict", "map.tif"), ("embed", "features.tif")):
        arguments = [command, tmp_path / "checkpoint", tmp_path / "ten.tif", tmp_path / name, "--device", "cpu"]
        assert "missing: B1 B9" in run(*arguments, expect=1)
        assert str(tmp_path / name) in run(*arguments, "--missing-bands", "nearest").replace("\n", "")
        assert (tmp_path / name).exists()
