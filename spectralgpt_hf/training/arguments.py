"""Read the options of a script from a YAML file and the command line."""

import json
import re
from argparse import Action, ArgumentParser, ArgumentTypeError, Namespace
from collections.abc import Mapping, Sequence
from copy import copy
from dataclasses import MISSING, field, fields
from difflib import get_close_matches
from inspect import isfunction
from pathlib import Path
from typing import Any, NoReturn, TypeVar

import yaml
from transformers import HfArgumentParser
from transformers.hf_argparser import string_to_bool


Options = TypeVar("Options")


class JsonMapping(dict[str, Any]):
    """Type of an option that holds a mapping: JSON on the command line, a mapping in YAML and Python."""

    def __init__(self, content: str | Mapping[str, Any] = "{}") -> None:
        found = json.loads(content) if isinstance(content, str) else dict(content)
        if not isinstance(found, dict):
            raise ValueError(f"Expected a mapping, got {content!r}.")
        super().__init__(found)


def option(default: Any, text: str) -> Any:
    """Return a dataclass field with a help text."""
    if isinstance(default, list | JsonMapping):
        return field(default_factory=lambda: copy(default), metadata={"help": text})
    return field(default=default, metadata={"help": text})


def parse_options(dataclass_type: type[Options], argv: Sequence[str] | None = None) -> Options:
    """Read options from `--config FILE.yaml`, if given, and from the command line, which wins.

    Args:
        dataclass_type: Dataclass of the options, with defaults and `metadata={"help": ...}`.
        argv: Command line without the program's name; that of the process by default.

    Raises:
        ValueError: If the file has a key that is not an option, or a value that its option does not accept.
        FileNotFoundError: If there is no such file.
    """
    file, command_line, _ = read_options(dataclass_type, argv)
    return build_options(dataclass_type, file | command_line)


def read_options(
    dataclass_type: type[Options], argv: Sequence[str] | None = None
) -> tuple[dict[str, Any], dict[str, Any], str]:
    """Return the options that the YAML file sets, those that the command line sets, and the name of the file.

    Options that neither sets are absent. The name is "the command line" if there is no file.

    Arguments and errors are those of `parse_options`.
    """
    parser = _parser(dataclass_type)
    parser.add_argument("--config", metavar="FILE", help="YAML file of options. The command line wins over it.")
    for action in parser._actions:
        action.required = False
    # argparse sets no default for an attribute that exists, so those that keep the sentinel were not given.
    given = Namespace(**{action.dest: _NOT_GIVEN for action in parser._actions})
    parser.parse_args(argv, given)
    command_line = {name: value for name, value in vars(given).items() if value is not _NOT_GIVEN}
    config = command_line.pop("config", None)
    if config is None:
        return {}, command_line, "the command line"
    if not Path(config).is_file():
        raise FileNotFoundError(f"`--config` must name a YAML file, got '{config}'.")
    try:
        content = yaml.safe_load(Path(config).read_text())
    except yaml.YAMLError as error:
        raise ValueError(f"{config}: expected YAML: {error}") from error
    return convert_options({} if content is None else content, dataclass_type, config), command_line, config


def build_options(dataclass_type: type[Options], given: Mapping[str, Any]) -> Options:
    """Build a dataclass of options; a `ValueError` names required options that are missing."""
    missing = [
        entry.name
        for entry in fields(dataclass_type)  # type: ignore[arg-type]
        if entry.init and entry.default is MISSING and entry.default_factory is MISSING and entry.name not in given
    ]
    if missing:
        raise ValueError(f"Missing options: {', '.join(f'--{name}' for name in missing)}.")
    return dataclass_type(**given)


def convert_options(found: object, dataclass_type: Any, source: str) -> dict[str, Any]:
    """Give the values of a mapping the types that the options have on the command line.

    Args:
        found: Mapping of option names, with `_` or `-`, to values of JSON or YAML. A value of None means that the
            option is not set, and is left out.
        dataclass_type: Dataclass of the options.
        source: Origin of the mapping, for messages.

    Raises:
        ValueError: If a key is not an option, or a value cannot be converted; the message names the source and the key.
    """
    names = {entry.name for entry in fields(dataclass_type) if entry.init}
    if not isinstance(found, Mapping):
        raise ValueError(f"{source}: expected a mapping of options to values, found {found!r}.")
    given = {str(name).replace("-", "_"): value for name, value in found.items()}
    if len(given) < len(found):
        raise ValueError(f"{source}: an option is given twice, with `-` and with `_`.")
    if set(given) - names:
        unknown = sorted(set(given) - names)
        raise ValueError(f"{source}: unknown options {unknown}: expected some of {', '.join(sorted(names))}.")
    actions = _parser(dataclass_type)._option_string_actions
    converted = {}
    for name, value in given.items():
        if value is None:
            continue
        try:
            converted[name] = _convert(value, actions[f"--{name}"])
        except (ValueError, TypeError, ArgumentTypeError) as error:
            raise ValueError(f"{source}: {name}: {error}") from error
    return converted


_NOT_GIVEN = object()


class _Parser(HfArgumentParser):
    """A parser whose mistakes are exceptions, as those of files are."""

    def error(self, message: str) -> NoReturn:
        unknown = re.fullmatch("unrecognized arguments: (.*)", message)
        if unknown is None:
            raise ValueError(f"The command line: {message}.")
        known = [name for name in self._option_string_actions if name.startswith("--")]
        first = unknown[1].split()[0]
        near = get_close_matches(first.split("=")[0], known, n=1)
        hint = f" Do you mean {near[0]}?" if near else ""
        raise ValueError(f"There is no option {first}.{hint}")


def _parser(dataclass_type: Any) -> ArgumentParser:
    # Options may not be abbreviated: `--step` would otherwise set `steps` on the command line and fail in a file.
    return _Parser(dataclass_type, allow_abbrev=False)


def _convert(value: object, action: Action) -> object:
    """Convert a value as argparse converts text. A value that has the type of the option already is kept."""
    if action.nargs == "+":
        if not isinstance(value, list):
            value = [value]
        return [_convert_one(entry, action) for entry in value]
    return _convert_one(value, action)


def _convert_one(value: Any, action: Action) -> object:
    kind = action.type
    if not isfunction(kind) and not isinstance(kind, type):
        return value  # a union, such as that of the Trainer's `fsdp`
    if isinstance(value, list | dict) and kind is not JsonMapping:
        if isinstance(value, list) or kind is not str:
            raise ValueError(f"expected one value, got {value!r}.")
        return json.dumps(value)  # an option of text that holds JSON
    if kind is JsonMapping:
        return JsonMapping(value)
    if isinstance(value, bool) and kind in (int, float):
        raise ValueError(f"expected a number, got {value}.")
    if isinstance(value, bool) and kind is str and action.default is None:
        if value:
            raise ValueError("expected text, got true.")
        return None  # `push_to_hub: false`
    if isinstance(value, bool) and kind is not string_to_bool:
        value = "yes" if value else "no"  # YAML reads `no` as false
    if not (isinstance(kind, type) and isinstance(value, kind)):
        value = kind(value if kind is float else str(value))
    if action.choices is not None and value not in action.choices:
        raise ValueError(f"expected one of {', '.join(map(str, action.choices))}, got {value!r}.")
    return value
