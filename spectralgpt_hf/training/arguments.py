"""Options of a script, from a YAML file and the command line."""

import json
from argparse import ArgumentParser
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
    first = ArgumentParser(add_help=False, allow_abbrev=False)
    first.add_argument("--config", metavar="FILE", help="YAML file of options; the command line wins.")
    given, argv = first.parse_known_args(argv)
    if given.config is not None:
        if not Path(given.config).is_file():
            raise FileNotFoundError(f"`--config` must name a YAML file, got '{given.config}'.")
        found = yaml.safe_load(Path(given.config).read_text()) or {}
        argv = _flags(check_names(found, dataclass_type, given.config), dataclass_type) + argv
    parser = HfArgumentParser(dataclass_type, parents=[first])  # type: ignore[arg-type]
    return parser.parse_args_into_dataclasses(argv)[0]


def convert_options(found: Any, dataclass_type: Any, source: str) -> dict[str, Any]:
    """Give a mapping of some options the types that they have on the command line.

    Args:
        found: Of JSON or YAML, such as a stage.
        dataclass_type: Of the options.
        source: Where the mapping is from, for messages.

    Raises:
        ValueError: If a key is no option.
        SystemExit: If a value cannot be one of its option: the message is that of the command line.
    """
    parser = HfArgumentParser(dataclass_type, prog=source)
    (options,) = parser.parse_args_into_dataclasses(_flags(check_names(found, dataclass_type, source), dataclass_type))
    return {name: getattr(options, name) for name in found}


def check_names(found: Any, dataclass_type: Any, source: object) -> dict[str, Any]:
    """Return a mapping of options, or raise a `ValueError` that names the source and the keys that are none."""
    names = {field.name for field in fields(dataclass_type) if field.init}
    if not isinstance(found, dict) or set(found) - names:
        unknown = sorted(set(found) - names) if isinstance(found, dict) else found
        raise ValueError(f"{source}: unknown options {unknown}: expected some of {', '.join(sorted(names))}.")
    return found


def _flags(options: dict[str, Any], dataclass_type: Any) -> list[str]:
    """Write a mapping of options as a command line; mappings in it, such as stages, as JSON."""
    texts = {field.name for field in fields(dataclass_type) if isinstance(field.default, str)}
    flags: list[str] = []
    for name, value in options.items():
        if value is None or value == []:
            continue
        if isinstance(value, bool) and name in texts:
            value = "yes" if value else "no"  # what YAML made of it
        values = value if isinstance(value, list) else [value]
        flags += [f"--{name}", *(json.dumps(entry) if isinstance(entry, dict) else str(entry) for entry in values)]
    return flags
