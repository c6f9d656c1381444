from dataclasses import dataclass, field
from typing import Literal

import pytest

from spectralgpt_hf.training.arguments import convert_options, parse_options


@dataclass
class Options:
    scenes: list[str] = field(metadata={"help": "required"})
    rate: float = field(default=1.0)
    steps: int = field(default=10)
    flag: bool = field(default=False)
    precision: Literal["bf16", "no"] = field(default="bf16")
    names: list[str] = field(default_factory=list)


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
    with pytest.raises(
        ValueError, match=r"unknown options \['step'\]: expected some of flag, names, precision, rate, scenes, steps"
    ):
        parse_options(Options, ["--config", str(file)])


def test_a_missing_file_is_named():
    with pytest.raises(FileNotFoundError, match=r"nowhere\.yaml"):
        parse_options(Options, ["--config", "nowhere.yaml"])


def test_no_and_nothing_are_what_yaml_makes_of_them(tmp_path):
    file = tmp_path / "options.yaml"
    file.write_text("scenes: [a.tif]\nprecision: no\nnames: []\n")
    assert parse_options(Options, ["--config", str(file)]) == Options(["a.tif"], precision="no")


def test_mappings_get_the_types_of_the_options(capsys):
    # YAML reads 1e-4 as text.
    found = convert_options({"rate": "1e-4", "steps": 3, "scenes": ["a"]}, Options, "stage 2")
    assert found == {"rate": 1e-4, "steps": 3, "scenes": ["a"]}
    with pytest.raises(ValueError, match=r"stage 2: unknown options \['step'\]"):
        convert_options({"step": 3}, Options, "stage 2")
    with pytest.raises(SystemExit):
        convert_options({"precision": "fp8", "scenes": ["a"]}, Options, "stage 2")
    assert "stage 2: error: argument --precision: invalid choice: 'fp8'" in capsys.readouterr().err
