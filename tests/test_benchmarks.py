"""The suite of `python -m benchmarks`: what it counts as work, how contestants alternate, and that rows run."""

import argparse
import json
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import pytest
import torch
import yaml
from torch.utils.flop_counter import FlopCounterMode

from benchmarks import measuring, recipe_search
from benchmarks.__main__ import line, main
from benchmarks.measuring import NotMeasurableError, Part, Product, Products, Setting, Work
from benchmarks.rows import ROWS
from benchmarks.training import make_step
from spectralgpt_hf import SpectralGPTConfig, SpectralGPTForPreTraining, SpectralGPTForSemanticSegmentation
from spectralgpt_hf.training.stages import check_model, parse_pretraining_options, split_stages
from tests import parity


ROOT = Path(__file__).parents[1]


def small_config(**options) -> SpectralGPTConfig:
    return parity.config("toy", decode_hidden_size=16, num_labels=2, **options)


def test_the_products_of_a_step_are_those_that_torch_counts():
    step = make_step(small_config(), 2, torch.float32, "sdpa")
    with FlopCounterMode(display=False) as counter:
        step()
    with Products() as products:
        step()
    attention = sum(
        counter.get_flop_counts()["Global"].get(getattr(torch.ops.aten, name), 0)
        for name in (
            "_scaled_dot_product_flash_attention_for_cpu",
            "_scaled_dot_product_flash_attention_for_cpu_backward",
        )
    )
    eager = make_step(small_config(), 2, torch.float32, "eager")
    with FlopCounterMode(display=False) as materialised:
        eager()
    assert counter.get_total_flops() - attention < products.flop  # attention counts, too
    assert products.flop == materialised.get_total_flops()


def test_the_products_of_convolutions_are_those_that_torch_counts():
    model = SpectralGPTForSemanticSegmentation(small_config())
    model.set_attn_implementation("eager")
    pixel_values = torch.rand(2, 12, 32, 32)
    with FlopCounterMode(display=False) as counter:
        model(pixel_values).logits.sum().backward()
    with Products() as products:
        model(pixel_values).logits.sum().backward()
    assert products.flop == counter.get_total_flops()


def test_the_limit_repeats_each_product_as_often_as_it_was_found():
    runs = []

    def bmm(left, right, out):
        runs.append((len(left), left.stride(-1) != 1, right.stride(-1) != 1))
        return out

    product = Product(1000, 100, 1000, False, True, torch.float32)  # 2e8 operations
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch, "bmm", bmm)
        parts = measuring.product_parts({product: 6, Product(10, 10, 10, False, False, torch.float32): 1})
        for part in parts:
            part.run()
    assert runs == [(1, False, True), (1, False, False)]
    assert [part.count for part in parts] == [6, 1]


@pytest.mark.parametrize("overlaps", [False, True])
def test_contestants_alternate_and_ratios_are_medians_over_the_rounds(overlaps, monkeypatch):
    order = []
    # Seconds of ours, of the literal way, and of both parts of the limit. The first round warms up.
    rounds = [(99, 99, 99, 99), (4, 8, 1, 1), (4, 4, 2, 0.5), (40, 20, 10, 5)]
    times = iter([seconds for each in rounds for seconds in each])

    def time_of(run):
        run()
        seconds = float(next(times))
        return measuring.Seconds(wall=seconds, processor=2 * seconds)

    monkeypatch.setattr(measuring, "time_of", time_of)
    parts = [Part(lambda: order.append("a"), 2.0), Part(lambda: order.append("b"))]
    given = {"amounts": {"chips": 8.0}, "overlaps": overlaps, "aim": "90 %"}
    work = Work("work", lambda: order.append("ours"), parts, lambda: order.append("literal"), **given)
    result = measuring.measure(work, 3)
    assert order == ["ours", *["ours", "literal", "a", "b"] * 4]
    assert result["wall"]["reached"] == 4
    assert result["wall"]["ratio"] == 1.0  # of 0.5, 1 and 2
    assert result["wall"]["chips/s"] == 2.0
    # Of 3 / 4, 4.5 / 4 and 25 / 40, or of the longest part.
    assert result["wall"]["share"] == (0.5 if overlaps else 0.75)
    assert result["processor"]["share"] == 0.75  # no part hides another one's work
    cells = line({"row": "name", **result})
    assert cells[1:7] == ["9 s", "8 s", "75%", "50%" if overlaps else "75%", "90 %", "1.00 x"]


def test_a_dtype_that_the_processor_emulates_is_not_measured(monkeypatch):
    monkeypatch.setattr(measuring, "square_rate", lambda dtype, *_: {torch.float32: 26e9, torch.bfloat16: 4e8}[dtype])
    measuring.check_dtype(torch.float32)
    with pytest.raises(NotMeasurableError, match=r"0.4 GFLOP/s in bfloat16 against 26.0 in float32"):
        measuring.check_dtype(torch.bfloat16)
    assert measuring.measure_row("x", lambda _: measuring.check_dtype(torch.bfloat16), 1, 1, True) == {
        "row": "x",
        "notes": "not measurable here: 0.4 GFLOP/s in bfloat16 against 26.0 in float32: the processor only emulates it",
    }


def test_the_contestants_of_a_step_have_their_own_kinds_of_attention():
    """One configuration, which holds the kind, was shared by both once."""
    config = small_config()
    sdpa, _ = make_step(config, 1, torch.float32, "sdpa"), make_step(config, 1, torch.float32, "literal")
    names = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.nn.functional, "softmax", lambda *args, **_: names.append("softmax") or args[0])
        sdpa()
    assert names == []


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("mode", ["literal", "eager", "flash", "sharded"])
def test_the_modes_of_a_step_compute_the_same(mode, dtype):
    def losses(mode: str) -> list[float]:
        found = []
        forward = SpectralGPTForPreTraining.forward

        def recorded(self, *arguments, **options):
            output = forward(self, *arguments, **options)
            found.append(output.loss)
            return output

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(SpectralGPTForPreTraining, "forward", recorded)
            step = make_step(small_config(), 2, dtype, mode)
            for _ in range(3):
                step()
        return [loss.item() for loss in found]

    try:
        assert losses(mode) == pytest.approx(losses("sdpa"), rel=1e-5 if dtype == torch.float32 else 1e-2)
    finally:
        if mode == "sharded":
            torch.distributed.destroy_process_group()


@pytest.mark.slow
@pytest.mark.parametrize("name", ROWS)
def test_every_row_runs(name, tmp_path):
    try:
        result = measuring.measure(ROWS[name](Setting(tmp_path, quick=True)), 1)
    except NotMeasurableError:
        return
    assert result["processor"]["reached"] > 0
    assert result["processor"]["share"] > 0


@pytest.mark.slow
def test_the_suite_prints_a_table_and_writes_json(tmp_path):
    command = [sys.executable, "-m", "benchmarks", "completion", "--quick", "--json", tmp_path / "a.json"]
    process = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert process.returncode == 0, process.stderr
    assert "MALLOC_MMAP_MAX_" in process.stdout
    assert "\ncompletion | " in process.stdout
    written = json.loads((tmp_path / "a.json").read_text())
    assert written["machine"]["allocator"]["MALLOC_MMAP_MAX_"] == "0"
    (row,) = written["rows"]
    assert row["processor"]["reached"] > 0


def test_unknown_rows_are_named_beside_those_that_there_are(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["benchmarks", "nothing", "step-*"])
    with pytest.raises(SystemExit):
        main()
    assert "there are no rows nothing. Rows: step-base-float32" in capsys.readouterr().err


@pytest.mark.parametrize("name", [name for name in recipe_search.RECIPES if name != "base"])
def test_a_recipe_of_the_search_differs_from_the_base_in_one_option(name, tmp_path):
    def options(recipe: str) -> dict:
        file = tmp_path / "recipe.yaml"
        file.write_text(yaml.safe_dump(recipe_search.recipe_options(recipe)))
        (stage,) = split_stages(parse_pretraining_options(["--config", str(file), "--steps", "1"]))
        check_model(stage, None)
        own = asdict(stage)
        return own | own.pop("config_overrides")

    base = options("base")

    def changes(recipe: str) -> dict:
        # An option of the network that the base does not name has the default there.
        return {key: value for key, value in options(recipe).items() if base.get(key) != value}

    assert len(changes(name)) == 1
    if name != "statistics term":
        assert changes(f"statistics term + {name}") == changes("statistics term") | changes(name)


def test_a_recipe_of_the_search_that_is_unknown_is_named_beside_those_that_there_are():
    assert recipe_search.recipe_name("statistics term + 6 bands a token") == "statistics term + 6 bands a token"
    with pytest.raises(argparse.ArgumentTypeError, match="unknown: nothing; choose from base, "):
        recipe_search.recipe_name("base + nothing")
