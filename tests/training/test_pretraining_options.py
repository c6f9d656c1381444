"""Every option of pretraining changes what is learnt and is recorded, or is listed as operational with the reason.

The test goes through the fields of the dataclass: a new option fails it until it is listed below.
"""

import hashlib
import json
import signal
from dataclasses import fields

import numpy as np
import pytest
import yaml
from accelerate.state import AcceleratorState, GradientState, PartialState
from safetensors.numpy import load_file

from spectralgpt_hf import SpectralGPTConfig, SpectralGPTForPreTraining, SpectralGPTImageProcessor
from spectralgpt_hf.commands.pretrain import pretrain
from spectralgpt_hf.data.shards.format import ShardRow, write_shards
from spectralgpt_hf.files import write_json
from spectralgpt_hf.modeling.bands import L2A_BANDS
from spectralgpt_hf.modeling.image_processing_spectralgpt import measure_statistics
from spectralgpt_hf.training.arguments import JsonMapping
from spectralgpt_hf.training.stages import (
    RUNTIME_OPTIONS,
    PretrainingOptions,
    parse_pretraining_options,
    split_stages,
)


SMALL = {
    "hidden_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "decoder_hidden_size": 32,
    "decoder_num_hidden_layers": 1,
    "decoder_num_attention_heads": 2,
    "decoder_intermediate_size": 32,
}
ZSCORE = {"normalization": "zscore"}
PRETRAINED = {"config_overrides": JsonMapping(), "preset": None}

# For each option what it needs beside it, and a value that changes what is learnt.
EXAMPLES = {
    "data": ({}, "other"),
    "image_size": ({}, 24),
    "bands": ({}, list(L2A_BANDS[::-1])),
    "mask_ratio": ({}, 0.5),
    "masking": ({}, "spectral"),
    "epochs": ({"steps": 0}, 2.0),
    "steps": ({}, 3),
    "schedule_epochs": ({}, 5.0),
    "warmup_ratio": ({}, 0.9),
    "batch_size": ({}, 2),
    "gradient_accumulation_steps": ({}, 2),
    "base_learning_rate": ({}, 1e-2),
    "config_overrides": ({}, JsonMapping(SMALL | {"norm_pix_loss": True})),
    "positions": (PRETRAINED | {"model_name_or_path": "pretrained", "image_size": 24}, "reinitialise"),
    "symmetries": ({}, True),
    "stretch": ({}, 0.5),
    "crop_scale": ({}, 0.9),
    "normalization": ({}, "zscore"),
    "atmosphere": (ZSCORE, 1.0),
    "contrast_weight": ({}, 1.0),
    "contrast_temperature": ({"contrast_weight": 1.0}, 1.0),
    "statistics_weight": ({}, 1.0),
    "save_dtype": ({}, "bfloat16"),
    "stages": ({}, [JsonMapping({"mask_ratio": 0.5})]),
    "preset": ({"config_overrides": JsonMapping({"num_hidden_layers": 1})}, "base"),
    "model_name_or_path": (PRETRAINED | {"model_name_or_path": "pretrained"}, "other_pretrained"),
    "weight_decay": ({"base_learning_rate": 10.0}, 0.5),
    "max_grad_norm": ({"base_learning_rate": 10.0}, 1e-4),
    "mixed_precision": ({}, "bf16"),
    "seed": ({}, 1),
}
ELSEWHERE = {name: "tested on Landsat in commands/test_other_sensor_runs.py" for name in ("sensor", "wavelengths")}
OPERATIONAL = {
    "compile": "computes the same faster",
    "num_workers": "reads ahead with more threads",
    "output_dir": "says where to write",
    "resume": "goes on with a run",
    "save_every": "says how often to write",
    "total_limit": "says how many checkpoints to keep",
    "time_limit": "stops early, to go on later",
    "eval_every": "says how often to look",
    "log_every": "says how often to log",
    "report_to": "says where else to log",
    "push_to_hub": "publishes the result",
    "gradient_checkpointing": "computes the same in less memory",
    "max_nonfinite_steps": "ends a run that has failed",
}


def test_every_option_is_listed():
    names = {entry.name for entry in fields(PretrainingOptions)}
    assert set(EXAMPLES) | set(OPERATIONAL) | set(ELSEWHERE) == names
    assert not set(EXAMPLES) & set(OPERATIONAL)
    assert names & RUNTIME_OPTIONS <= set(OPERATIONAL) | {"save_dtype"}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    root = tmp_path_factory.mktemp("data")
    for seed, name in enumerate(("shards", "other")):
        generator = np.random.default_rng(seed)
        images = [generator.integers(1, 3000, (12, 32, 32), dtype=np.uint16) for _ in range(8)]
        write_shards([ShardRow(str(i), image, L2A_BANDS) for i, image in enumerate(images)], root / name)
        measured = measure_statistics(images, band_names=L2A_BANDS)
        measured |= {"percentile_5": measured["percentile_1"], "percentile_95": measured["percentile_99"]}
        write_json(root / name / "statistics.json", {"train": measured})
        folder = root / ("pretrained" if seed == 0 else "other_pretrained")
        SpectralGPTForPreTraining(SpectralGPTConfig(**SMALL, image_size=16)).save_pretrained(folder)
        SpectralGPTImageProcessor().save_pretrained(folder)
    return root


def build_options(data, /, **changes) -> PretrainingOptions:
    settings = {
        "data": "shards",
        "image_size": 16,
        "steps": 2,
        "batch_size": 4,
        "base_learning_rate": 1.0,
        "config_overrides": JsonMapping(SMALL),
        "mixed_precision": "no",
        "log_every": 1,
        "total_limit": 1,
        **changes,
    }
    for name in ("data", "model_name_or_path"):
        if settings.get(name):
            settings[name] = str(data / settings[name])
    return PretrainingOptions(**settings)


def learn(data, folder, /, **changes) -> tuple[str, dict]:
    """Run pretraining, and return what was learnt as text, and the recorded settings of its stages."""
    for state in (AcceleratorState, GradientState):
        state._reset_state()
    PartialState._reset_state()
    handler = signal.getsignal(signal.SIGTERM)
    try:
        pretrain(build_options(data, output_dir=str(folder), **changes))
    finally:
        signal.signal(signal.SIGTERM, handler)
    weights = load_file(folder / "model" / "model.safetensors") if changes.get("save_dtype") is None else {}
    digest = hashlib.sha256(b"".join(weights[name].tobytes() for name in sorted(weights))).hexdigest()
    records = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    losses = [(record["step"], record.get("loss"), record.get("learning_rate")) for record in records]
    (position,) = folder.glob("checkpoints/*/position.json")
    return repr([digest, losses]), json.loads(position.read_text())["settings"]["stages"][0]


@pytest.mark.slow
@pytest.mark.parametrize("name", EXAMPLES)
def test_an_option_changes_what_is_learnt_and_is_recorded(name, data, tmp_path):
    base, value = EXAMPLES[name]
    before, _ = learn(data, tmp_path / "before", **base)
    after, recorded = learn(data, tmp_path / "after", **base | {name: value})
    assert after != before
    expected = str(data / value) if name in ("data", "model_name_or_path") else value
    assert recorded["mask_ratio" if name == "stages" else name] == (0.5 if name == "stages" else expected)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"contrast_temperature": 1.0}, "`contrast_temperature` has no effect without"),
        ({"atmosphere": 1.0}, "`atmosphere` needs"),
        ({"normalization": "zscore", "stretch": 1.0}, "`stretch` needs"),
        ({"config_overrides": JsonMapping({"mask_ratio": 0.5})}, "must not hold mask_ratio: the options decide it"),
        ({"schedule_epochs": 0}, "`schedule_epochs` must be above 0"),
        ({"preset": "base", "model_name_or_path": "x"}, "Set one of them"),
    ],
)
def test_an_option_without_effect_is_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        split_stages(PretrainingOptions(**changes))
    used_later = [JsonMapping({"contrast_weight": 1.0})]
    split_stages(PretrainingOptions(contrast_temperature=1.0, stages=used_later))


def as_arguments(name: str, value: object) -> list[str]:
    if isinstance(value, list):
        return [f"--{name}", *(json.dumps(entry) if isinstance(entry, dict) else str(entry) for entry in value)]
    return [f"--{name}", json.dumps(value) if isinstance(value, dict) else str(value)]


@pytest.mark.parametrize("name", EXAMPLES)
def test_the_command_line_is_the_file_is_python(name, tmp_path):
    base, value = EXAMPLES[name]
    given = {key: found for key, found in {**base, name: value}.items() if found is not None}
    file = tmp_path / "options.yaml"
    plain = {key: json.loads(json.dumps(found)) for key, found in given.items()}
    file.write_text(yaml.safe_dump(plain))
    arguments = [text for pair in given.items() for text in as_arguments(*pair)]
    expected = PretrainingOptions(**given)
    assert parse_pretraining_options(arguments) == expected
    assert parse_pretraining_options(["--config", str(file)]) == expected
    assert getattr(expected, name) == value
