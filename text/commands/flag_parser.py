"""Find the texts of flags on a command line, and write ``--help``. ``flag_values`` reads the texts."""

from __future__ import annotations

import argparse
import ast
import dataclasses
import inspect
import json
import textwrap
from collections.abc import Sequence
from functools import cache
from itertools import pairwise
from typing import Any, get_args

from text.artifacts import dump_yaml
from text.commands.flag_fields import flag_fields, flag_groups, flag_types, is_required
from text.commands.flag_values import list_choices
from text.errors import UsageError


class _Parser(argparse.ArgumentParser):
    """A parser that finds the texts of flags and knows nothing about their types."""

    def error(self, message: str) -> Any:
        raise UsageError(message)


class _StoreOnce(argparse.Action):
    """Keep the text of a flag, which may be given once."""

    def __call__(self, parser: argparse.ArgumentParser, namespace: Any, values: Any, option: str | None = None) -> None:
        if option is not None and hasattr(namespace, self.dest):
            raise UsageError(f"{option} is given twice. Give it once.")
        setattr(namespace, self.dest, values)


@cache
def build_parser(flags_class: type, program: str | None) -> argparse.ArgumentParser:
    """Return the parser of a command. It gives the text of each flag, and only flags that are given."""
    fields = flag_fields(flags_class)
    metavars = [field.metadata["positional"] for field in fields.values() if "positional" in field.metadata]
    usage = " ".join(["%(prog)s", *(f"{metavar} [{metavar} ...]" for metavar in metavars), "[--flag=value ...]"])
    parser = _Parser(
        prog=program,
        usage=usage,
        description=inspect.getdoc(flags_class),
        argument_default=argparse.SUPPRESS,
        allow_abbrev=False,
        add_help=False,
    )
    parser.add_argument("-h", "--help", action="store_true", help="Show this help message and exit.")
    parser.add_argument("--config", action=_StoreOnce, help="YAML file with any of these flags.")
    parser.add_argument("--print_config", action="store_true", help="Print all flags as such a file and exit.")
    parser.add_argument("--debug", action="store_true", help="Show the traceback of an error.")
    _add_flags(parser, flags_class, [each.name for each in dataclasses.fields(flags_class) if each.name in fields])
    for name, group in flag_groups(flags_class).items():
        _add_flags(parser.add_argument_group(name), group, list(flag_fields(group)))
    return parser


def _add_flags(parser: Any, flags_class: type, names: Sequence[str]) -> None:
    """Add flags of a dataclass. The help of a flag is the docstring below its field."""
    fields, kinds, docstrings = flag_fields(flags_class), flag_types(flags_class), _read_docstrings(flags_class)
    for name in names:
        field, choices = fields[name], list_choices(kinds[name])
        text = docstrings.get(name, "").replace("%", "%%")
        if "positional" in field.metadata:
            parser.add_argument(name, nargs="*", action=_StoreOnce, metavar=field.metadata["positional"], help=text)
            continue
        bare = field.metadata.get("bare", "true" if isinstance(field.default, bool) else None)
        if bool in (kinds[name], *get_args(kinds[name])):
            choices = ["true", "false"]
        parser.add_argument(
            f"--{name}",
            action=_StoreOnce,
            nargs=None if bare is None else "?",
            const=bare,
            metavar=f"{{{','.join(choices)}}}" if choices else "[ITEM,...]" if "list[" in str(kinds[name]) else None,
            help=f"{text} ({_describe_value(field)})",
        )


def _describe_value(field: dataclasses.Field) -> str:
    """Return the type and the default value of a flag, for its help."""
    if is_required(field):
        return f"required, type: {field.type}"
    default = field.default if field.default is not dataclasses.MISSING else field.default_factory()  # type: ignore
    if isinstance(default, list | tuple | dict):
        shown = f"default: {json.dumps(default)}"  # JSON is YAML in one line.
    else:
        [shown] = dump_yaml({"default": default}).splitlines()
    return f"type: {field.type}, {shown}".replace("%", "%%")


def _read_docstrings(flags_class: type) -> dict[str, str]:
    """Return the docstrings below the fields of a dataclass, its base classes included."""
    found = {}
    for each in reversed(flags_class.__mro__[:-1]):
        [definition] = ast.parse(textwrap.dedent(inspect.getsource(each))).body
        for field, following in pairwise(getattr(definition, "body", [])):
            if isinstance(field, ast.AnnAssign) and isinstance(following, ast.Expr):
                found[ast.unparse(field.target)] = " ".join(str(ast.literal_eval(following.value)).split())
    return found
