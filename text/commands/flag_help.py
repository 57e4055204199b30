"""Format the ``--help`` text of a command: description, flags in groups, and examples."""

from __future__ import annotations

import ast
import dataclasses
import inspect
import shutil
import textwrap
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Any

from text.commands.flag_fields import get_default, get_flag_fields, get_flag_groups, get_flag_types, is_required
from text.commands.flag_kinds import get_item_kind, is_list, is_mapping, is_switch, is_text, list_choices, remove_null

_INDENT = 24
_EXAMPLES = "\nExamples::\n"
"""Heading in the docstring of a flags class. The command lines below it are shown at the end of the help."""
_GENERAL = {
    "-h, --help": "Show this help and exit.",
    "--config PATH": "YAML file with any of these flags. Flags on the command line override it.",
    "--print_config": "Print all flags as a YAML file for --config and exit.",
    "--debug": "Show the full traceback of an error.",
}
_PATHS = (
    "bm25_index collection delete embeddings encoder exclude frozen_passages fuse_with fused_run model "
    "other_embeddings other_model other_run picture positives qrels questions rerank resume reuse rows run runs seen "
    "suite teacher teacher_passages teacher_questions test_questions tokenizer train_files upsert valid_questions"
).split()
"""Flags that take a path. Flags whose name ends in file, dir, path or output need not be listed."""


def format_help(flags_class: type, program: str | None) -> str:
    """Return the help of a command.

    Args:
        flags_class: Dataclass of the command's flags. Its docstring is the description, and the docstring below a
            field is the help of the flag.
        program: Program name in the usage line.
    """
    description, _, examples = (inspect.getdoc(flags_class) or "").replace("``", "").partition(_EXAMPLES)
    fields = get_flag_fields(flags_class)
    places = [field.metadata["positional"] for field in fields.values() if "positional" in field.metadata]
    usage = " ".join([f"usage: {program or ''}".rstrip(), *(f"{place} [{place} ...]" for place in places)])
    paragraphs = (_wrap(" ".join(each.split())) for each in description.strip().split("\n\n"))
    parts = [f"{usage} [--flag=value ...]", *paragraphs, *_format_groups(flags_class)]
    general = [_format_entry(flag, text) for flag, text in _GENERAL.items()]
    parts.append("\n".join(["general:", *general]))
    if lines := textwrap.dedent(examples).strip("\n"):
        parts.append("\n".join(["examples:", textwrap.indent(lines, "  ")]))
    return "\n\n".join(parts)


def _format_groups(flags_class: type) -> Iterator[str]:
    """Yield the help of each group: required flags, optional flags, and the named groups."""
    own = [field for field in dataclasses.fields(flags_class) if field.name in get_flag_fields(flags_class)]
    required = [field.name for field in own if is_required(field)]
    optional = [field.name for field in own if not is_required(field)]
    groups = [("required", flags_class, required), ("flags", flags_class, optional)]
    groups += [(name, group, list(get_flag_fields(group))) for name, group in get_flag_groups(flags_class).items()]
    for heading, group, names in groups:
        if names:
            yield "\n".join([f"{heading}:", *_format_flags(group, names)])


def _format_flags(flags_class: type, names: Sequence[str]) -> Iterator[str]:
    fields, kinds, docstrings = get_flag_fields(flags_class), get_flag_types(flags_class), _read_docstrings(flags_class)
    for name in names:
        field = fields[name]
        flag = field.metadata.get("positional") or f"--{name}{_describe_values(name, field, kinds[name])}"
        yield _format_entry(flag, docstrings.get(name, "") + _describe_default(field))


def _format_entry(flag: str, text: str) -> str:
    first = f"  {flag}"
    lines = _wrap(text, indent=" " * _INDENT)
    if len(first) + 2 > _INDENT or not text:
        return f"{first}\n{lines}".rstrip("\n")
    return first + lines[len(first) :]


def _wrap(text: str, indent: str = "") -> str:
    width = max(_INDENT + 20, shutil.get_terminal_size().columns - 2)
    return textwrap.fill(text, width, initial_indent=indent, subsequent_indent=indent, break_on_hyphens=False)


def _describe_values(name: str, field: dataclasses.Field, kind: Any) -> str:
    """Return the placeholder after a flag: `` N``, `` PATH``, ``={true,false}`` for a switch, or nothing."""
    if is_switch(kind):
        return "" if field.default is False else "[={true,false}]" if "bare" in field.metadata else "={true,false}"
    if "bare" in field.metadata:
        return f"[={_describe_value(name, kind)}]"
    if is_list(kind):
        item = _describe_value(name, get_item_kind(kind))
        return f" {item} [{item} ...]"
    return f" {_describe_value(name, kind)}"


def _describe_value(name: str, kind: Any) -> str:
    if choices := list_choices(kind):
        return f"{{{','.join(map(str, choices))}}}"
    if is_mapping(kind):
        return "{NAME: VALUE}"
    if not is_text(kind):
        return "N" if remove_null(kind) is int else "NUMBER"
    return "PATH" if name in _PATHS or name.rpartition("_")[2] in ("file", "dir", "path", "output") else "TEXT"


def _describe_default(field: dataclasses.Field) -> str:
    """Return the default value of a flag as it is written on a command line. An empty default is not shown."""
    if is_required(field):
        return ""
    default = get_default(field)
    if isinstance(default, list | tuple):
        is_plain = not any(isinstance(each, dict) for each in default)
        default = " ".join(map(str, default)) if is_plain else ""
    if default is None or default is False or default in ("", {}):
        return ""
    return f" (default: {'true' if default is True else default})"


def _read_docstrings(flags_class: type) -> dict[str, str]:
    """Return the docstrings below the fields of a dataclass and its base classes."""
    found = {}
    for each in reversed(flags_class.__mro__[:-1]):
        [definition] = ast.parse(textwrap.dedent(inspect.getsource(each))).body
        for field, following in pairwise(getattr(definition, "body", [])):
            if isinstance(field, ast.AnnAssign) and isinstance(following, ast.Expr):
                found[ast.unparse(field.target)] = " ".join(str(ast.literal_eval(following.value)).split())
    return found
