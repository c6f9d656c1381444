"""Options of a script, from a YAML file and the command line."""

import json
import sys
from collections.abc import Sequence
from dataclasses import field, fields
from pathlib import Path
from typing import Any, TypeVar

import yaml
from transformers import HfArgumentParser


Options = TypeVar("Options")


def option(default: Any, text: str) -> Any:
    """Return a dataclass field with a help text."""
    if isinstance(default, list):
        return field(default_factory=lambda: list(default), metadata={"help": text})
    return field(default=default, metadata={"help": text})


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


def check_names(found: Any, dataclass_type: Any, source: object) -> dict[str, Any]:
    """Return a mapping of options, or raise a `ValueError` that names the source and the keys that are none."""
    names = {field.name for field in fields(dataclass_type) if field.init}
    if not isinstance(found, dict) or set(found) - names:
        unknown = sorted(set(found) - names) if isinstance(found, dict) else found
        raise ValueError(f"{source}: unknown options {unknown}: expected some of {', '.join(sorted(names))}.")
    return found


def _flags(file: Path, dataclass_type: Any) -> list[str]:
    """Write the options of a YAML file as a command line; mappings, such as stages, as JSON."""
    if not file.is_file():
        raise FileNotFoundError(f"`--config` must name a YAML file, got '{file}'.")
    options = check_names(yaml.safe_load(file.read_text()) or {}, dataclass_type, file)
    flags: list[str] = []
    for name, value in options.items():
        if value is None:
            continue
        values = value if isinstance(value, list) else [value]
        flags += [f"--{name}", *(json.dumps(entry) if isinstance(entry, dict) else str(entry) for entry in values)]
    return flags
