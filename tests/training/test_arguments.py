from dataclasses import dataclass, field

import pytest

from spectralgpt_hf.training.arguments import parse_options


@dataclass
class Options:
    scenes: list[str] = field(metadata={"help": "required"})
    rate: float = field(default=1.0)
    steps: int = field(default=10)
    flag: bool = field(default=False)


def test_the_command_line_wins_over_the_file_wherever_it_stands(tmp_path):
    file = tmp_path / "options.yaml"
    file.write_text("scenes: [a.tif, b.tif]\nrate: 2.0e-4\nsteps: 5\nflag: true\n")
    expected = Options(["a.tif", "b.tif"], rate=2e-4, steps=7, flag=True)
    assert parse_options(Options, ["--config", str(file), "--steps", "7"]) == expected
    assert parse_options(Options, ["--steps", "7", "--config", str(file)]) == expected


def test_an_unknown_key_is_named_with_the_known_ones(tmp_path):
    file = tmp_path / "options.yaml"
    file.write_text("scenes: [a.tif]\nstep: 5\n")
    with pytest.raises(ValueError, match=r"unknown options \['step'\]: expected some of flag, rate, scenes, steps"):
        parse_options(Options, ["--config", str(file)])


def test_a_missing_file_is_named():
    with pytest.raises(FileNotFoundError, match=r"nowhere\.yaml"):
        parse_options(Options, ["--config", "nowhere.yaml"])
