import json

import pytest
import torch

from spectralgpt_hf import SpectralGPTConfig
from spectralgpt_hf.training.monitoring import JsonLinesLog, attainable_flops, step_flops


def test_a_log_goes_on_after_the_records_that_are_kept(tmp_path):
    path = tmp_path / "log.jsonl"
    path.write_text('{"step": 1}\n{"step": 2}\n{"step": 3}\n{"ste')  # killed while writing
    log = JsonLinesLog(path, lambda record: record["step"] <= 2)
    log.write({"step": 3, "loss": 0.5})
    assert [json.loads(line) for line in path.read_text().splitlines()] == [
        {"step": 1},
        {"step": 2},
        {"step": 3, "loss": 0.5},
    ]


def test_a_step_costs_what_its_matrix_products_cost():
    # Base at 128 px, from the shapes: 12 layers on 102 visible tokens, 4 decoder layers on 1024.
    flops = step_flops(SpectralGPTConfig.from_preset("base"))
    parameters = 2 * 3 * (85e6 * 102 + 12.6e6 * 1024)
    assert parameters < flops < 1.3 * parameters  # attention adds to it


def test_the_rate_of_this_machine_is_measured():
    assert attainable_flops(torch.device("cpu"), torch.float32) == pytest.approx(1e11, rel=10)
