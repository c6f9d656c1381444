from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import pytest
import yaml

from spectralgpt_hf.training.arguments import JsonMapping, convert_options, option, parse_options, read_options
from spectralgpt_hf.training.options import FineTuningOptions
from spectralgpt_hf.training.stages import PretrainingOptions


@dataclass
class Options:
    scenes: list[str] = field(metadata={"help": "required"})
    rate: float = field(default=1.0)
    steps: int = field(default=10)
    flag: bool = field(default=False)
    precision: Literal["bf16", "no"] = field(default="bf16")
    names: list[str] = field(default_factory=list)
    loud: bool = field(default=True)
    repository: str | None = field(default=None)
    config_overrides: JsonMapping = option(JsonMapping(), "A mapping.")


def test_the_command_line_wins_over_the_file_wherever_it_stands(tmp_path):
    file = tmp_path / "options.yaml"
    file.write_text("scenes: [a.tif, b.tif]\nrate: 2.0e-4\nsteps: 5\nflag: true\n")
    expected = Options(["a.tif", "b.tif"], rate=2e-4, steps=7, flag=True)
    assert parse_options(Options, ["--config", str(file), "--steps", "7"]) == expected
    assert parse_options(Options, ["--steps", "7", "--config", str(file)]) == expected
    assert parse_options(Options, [f"--config={file}", "--steps", "7"]) == expected


def test_an_unknown_key_is_named_with_the_known_ones(tmp_path):
    file = tmp_path / "options.yaml"
    file.write_text("scenes: [a.tif]\nstep: 5\n")
    with pytest.raises(ValueError, match=r"unknown options \['step'\]: expected some of config_overrides, flag,"):
        parse_options(Options, ["--config", str(file)])


def test_a_missing_file_is_named():
    with pytest.raises(FileNotFoundError, match=r"nowhere\.yaml"):
        parse_options(Options, ["--config", "nowhere.yaml"])


def test_no_is_what_yaml_makes_of_it_and_null_means_not_set(tmp_path):
    file = tmp_path / "options.yaml"
    file.write_text("scenes: [a.tif]\nprecision: no\nnames: []\nrate: null\n")
    assert parse_options(Options, ["--config", str(file)]) == Options(["a.tif"], precision="no")
    assert "rate" not in read_options(Options, ["--config", str(file)])[0]


def test_options_that_the_command_line_sets_are_told_from_defaults(tmp_path):
    file = tmp_path / "options.yaml"
    file.write_text("scenes: [a.tif]\nsteps: 5\n")
    argv = ["--config", str(file), "--rate", "1.0", "--flag", "--no-loud"]
    assert read_options(Options, argv) == (
        {"scenes": ["a.tif"], "steps": 5},
        {"rate": 1.0, "flag": True, "loud": False},
        str(file),
    )


def test_false_never_becomes_the_text_false():
    found = convert_options({"repository": False, "flag": False, "loud": "no", "precision": False}, Options, "file")
    assert found == {"repository": None, "flag": False, "loud": False, "precision": "no"}
    with pytest.raises(ValueError, match="file: repository: expected text, got true"):
        convert_options({"repository": True}, Options, "file")


def test_hyphens_and_underscores_name_the_same_option(tmp_path):
    file = tmp_path / "options.yaml"
    file.write_text("scenes: [a.tif]\nconfig-overrides: {depth: 2}\n")
    by_file = parse_options(Options, ["--config", str(file)])
    for flag in ("--config_overrides", "--config-overrides"):
        assert parse_options(Options, ["--scenes", "a.tif", flag, '{"depth": 2}']) == by_file
    assert by_file.config_overrides == {"depth": 2}
    with pytest.raises(ValueError, match="file: an option is given twice"):
        convert_options({"config-overrides": {}, "config_overrides": {}}, Options, "file")


def test_mappings_get_the_types_of_the_options_and_errors_name_the_key():
    # YAML reads 1e-4 as text.
    found = convert_options({"rate": "1e-4", "steps": 3, "scenes": "a", "names": [1, "b"]}, Options, "stage 2")
    assert found == {"rate": 1e-4, "steps": 3, "scenes": ["a"], "names": ["1", "b"]}
    for wrong, reason in {
        "step": r"stage 2: unknown options \['step'\]",
        "precision": "stage 2: precision: expected one of bf16, no, got 'fp8'",
        "steps": "stage 2: steps: .*'fp8'",
        "flag": "stage 2: flag: .*fp8",
        "config_overrides": "stage 2: config_overrides: ",
    }.items():
        with pytest.raises(ValueError, match=reason):
            convert_options({wrong: "fp8"}, Options, "stage 2")
    with pytest.raises(ValueError, match="stage 2: rate: expected a number, got True"):
        convert_options({"rate": True}, Options, "stage 2")
    with pytest.raises(ValueError, match="stage 2: rate: expected one value, got"):
        convert_options({"rate": [1.0]}, Options, "stage 2")
    with pytest.raises(ValueError, match="stage 2: expected a mapping of options"):
        convert_options(["rate"], Options, "stage 2")


def test_a_required_option_that_is_missing_is_named():
    with pytest.raises(ValueError, match="Missing options: --scenes"):
        parse_options(Options, [])


@pytest.mark.parametrize("path", sorted(Path("examples/configs").glob("*.yaml")), ids=lambda path: path.stem)
def test_every_recipe_is_read(path):
    kind = PretrainingOptions if "pretrain" in path.stem else FineTuningOptions
    file, command_line, _ = read_options(kind, ["--config", str(path)])
    assert set(file) == {key.replace("-", "_") for key in yaml.safe_load(path.read_text())}
    assert command_line == {}
