"""Options of a script, from a YAML file and the command line."""

import sys
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any, TypeVar

import yaml
from transformers import HfArgumentParser


Options = TypeVar("Options")


def parse_options(dataclass_type: type[Options], argv: Sequence[str] | None = None) -> Options:
    """Read options from `--config FILE.yaml`, if given, and from the command line, which wins.

    Args:
        dataclass_type: Dataclass of the options, with defaults and `metadata={"help": ...}`.
        argv: Command line without the program's name; that of the process by default.

    Raises:
        ValueError: If the file has a key that is no option.
        FileNotFoundError: If there is no such file.
    """
    argv = list(sys.argv[1:] if argv is None else argv)
    if "--config" in argv:
        index = argv.index("--config")
        file = "".join(argv[index + 1 : index + 2])
        argv = _flags(Path(file), dataclass_type) + argv[:index] + argv[index + 2 :]
    parser = HfArgumentParser(dataclass_type)  # type: ignore[arg-type]
    parser.add_argument("--config", metavar="FILE", help="YAML file of options; the command line wins.")
    options, _ = parser.parse_args_into_dataclasses(argv)
    return options


def _flags(file: Path, dataclass_type: Any) -> list[str]:
    """Write the options of a YAML file as a command line."""
    if not file.is_file():
        raise FileNotFoundError(f"`--config` must name a YAML file, got '{file}'.")
    options = yaml.safe_load(file.read_text()) or {}
    names = {field.name for field in fields(dataclass_type)}
    if not isinstance(options, dict) or set(options) - names:
        unknown = sorted(set(options) - names) if isinstance(options, dict) else options
        raise ValueError(f"{file}: unknown options {unknown}: expected some of {', '.join(sorted(names))}.")
    flags: list[str] = []
    for name, value in options.items():
        values = value if isinstance(value, list) else [value]
        flags += [f"--{name}", *map(str, values)]
    return flags
