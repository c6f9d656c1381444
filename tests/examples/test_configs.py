from pathlib import Path

import pytest

from spectralgpt_hf import SpectralGPTImageProcessor
from spectralgpt_hf.training.arguments import parse_options
from spectralgpt_hf.training.models import build_processor
from spectralgpt_hf.training.options import FineTuningOptions


CONFIGS = [path for path in sorted(Path("examples/configs").glob("*.yaml")) if "pretrain" not in path.name]


def read(name: str, *arguments: str) -> FineTuningOptions:
    start = [] if name.endswith("_small") or name.startswith("default_") else ["--config_name", "tiny"]
    argv = ["--config", f"examples/configs/{name}.yaml", "--use_cpu", "True", "--bf16", "False", *start, *arguments]
    return parse_options(FineTuningOptions, argv)


@pytest.mark.parametrize("name", [path.stem for path in CONFIGS])
def test_every_recipe_is_read_and_gives_a_processor(name):
    assert isinstance(build_processor(read(name)), SpectralGPTImageProcessor)


def test_recipes_state_what_the_authors_ran():
    eurosat = read("eurosat")
    assert (eurosat.learning_rate, eurosat.layer_decay, eurosat.drop_path_rate) == (2e-4, 0.75, 0.2)
    assert eurosat.get_warmup_steps(150 * 64) == pytest.approx(20 * 64, abs=8)
    assert read("eurosat", "--per_device_train_batch_size", "64").learning_rate == pytest.approx(5e-5)
    processor = build_processor(eurosat)
    assert processor.std["B8A"] == 1439.31
    segmunich = read("segmunich")
    assert (segmunich.lr_scheduler_type, segmunich.lr_scheduler_kwargs["power"]) == ("polynomial", 0.9)
    assert build_processor(segmunich).bands[-2:] == ["mean", "mean"]
    assert (read("oscd").epoch_decay, read("oscd").crop_stride) == (0.95, 63)


@pytest.mark.parametrize("name", ["segmunich", "oscd"])
def test_recipes_for_maps_measure_their_radiometry_once(name):
    assert build_processor(read(name)).statistics_scope == "given"
