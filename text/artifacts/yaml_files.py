"""Reader and writer of YAML files. Words and numbers are read as in YAML 1.2 and JSON.

``yes`` is a string, ``010`` is ten and ``1e-5`` is a number. An empty value is null; only a type with None allows it.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar, TypeVar

import yaml

from text.artifacts.json_files import read_bytes
from text.artifacts.typed import check_type
from text.artifacts.writing import write_text
from text.errors import ArtifactError

T = TypeVar("T")
_MAX_BYTES = 1 << 17
_MAX_NODES = 100_000
"""Maximum number of values in a file, with all aliases expanded."""


def read_yaml(path: str | os.PathLike[str], kind: type[T], *, error: type[Exception] = ArtifactError) -> T:
    """Return the content of a YAML file, checked against a type.

    Arguments and errors are as in ``read_json``.
    """
    content = read_bytes(path, max_bytes=_MAX_BYTES, error=error)
    return check_type(parse_yaml(content, path, error=error), kind, path, error=error)


def parse_yaml(content: bytes, place: str | os.PathLike[str], *, error: type[Exception] = ArtifactError) -> Any:
    """Return the value of a YAML document, or None for an empty document.

    Args:
        content: The document, in UTF-8.
        place: File of the document, for error messages.
        error: As in ``read_json``.

    Raises:
        ArtifactError: The document is not YAML, repeats a key, or has recursive aliases. The message names the line.
            The class is ``error`` if given.
    """
    try:
        loader = _Loader(content.decode("utf-8"))
        root = loader.get_single_node()
        _check_nodes(root)
        return None if root is None else loader.construct_document(root)
    except (yaml.YAMLError, ValueError, OverflowError, RecursionError) as fault:
        mark = getattr(fault, "problem_mark", None)
        reason = getattr(fault, "problem", None) or " ".join(str(fault).split())
        reason = "more than one document" if reason == "but found another document" else reason
        reason = "nested too deeply" if isinstance(fault, RecursionError) else reason
        line = f":{mark.line + 1}" if mark is not None else ""
        raise error(f"{os.fspath(place)}{line}: not valid YAML: {reason}. Correct it.") from None


def locate_key(path: str | os.PathLike[str], keys: Sequence[str | int]) -> int | None:
    """Return the line number, counted from 1, of a value in a YAML file.

    Args:
        path: The file. ``read_yaml`` must accept it.
        keys: Path to the value: keys of objects and indexes of lists, from the outermost to the innermost.

    Returns:
        The line of the innermost key or item that is written in the file itself and not in an alias. None if there is
        none. Without keys, the first line of the content.
    """
    node = _Loader(read_bytes(path, max_bytes=_MAX_BYTES).decode("utf-8")).get_single_node()
    line = None if keys or node is None else node.start_mark.line + 1
    for name in keys:
        found = _find_child(node, name)
        if found is None:
            break
        line, node = found[0].start_mark.line + 1, found[1]
    return line


def _find_child(node: Any, name: str | int) -> tuple[Any, Any] | None:
    """Return the key and value nodes of a name. For the index of a list, both are the item."""
    if isinstance(name, int):
        items = node.value if isinstance(node, yaml.SequenceNode) else []
        return (items[name], items[name]) if name < len(items) else None
    pairs = node.value if isinstance(node, yaml.MappingNode) else []
    return next(((key, value) for key, value in pairs if key.value == name), None)


def write_yaml(path: str | os.PathLike[str], content: Mapping[str, Any]) -> None:
    """Write a small YAML file atomically. The keys keep their order."""
    write_text(path, dump_yaml(content))


def dump_yaml(content: Mapping[str, Any]) -> str:
    """Return a YAML document that ``parse_yaml`` can read. The keys keep their order."""
    return yaml.dump(dict(content), Dumper=_Dumper, sort_keys=False)


class _Loader(yaml.SafeLoader):
    """Loader that reads plain words and numbers as in YAML 1.2. Dates stay strings."""

    yaml_implicit_resolvers: ClassVar[dict] = {}  # pyright: ignore[reportIncompatibleVariableOverride]: as in PyYAML


class _Dumper(yaml.SafeDumper):
    """Dumper that quotes every string that YAML 1.1 or 1.2 would read as another type."""


for tag, pattern, first in (
    ("null", r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    ("bool", r"true|True|TRUE|false|False|FALSE", list("tTfF")),
    ("int", r"[-+]?[0-9]+", list("-+0123456789")),
    ("float", r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?", list("-+.0123456789")),
    ("merge", r"<<", ["<"]),
):
    for kind in (_Loader, _Dumper):
        kind.add_implicit_resolver(f"tag:yaml.org,2002:{tag}", re.compile(f"^(?:{pattern})$"), first)


def _construct_int(loader: yaml.SafeLoader, node: yaml.ScalarNode) -> int:
    number = int(loader.construct_scalar(node))  # int() reads 010 as ten; YAML 1.1 reads it as eight.
    if number.bit_length() > 63:
        raise yaml.MarkedYAMLError(problem="a number has more than 64 bits", problem_mark=node.start_mark)
    return number


def _construct_bool(loader: yaml.SafeLoader, node: yaml.ScalarNode) -> bool:
    word = loader.construct_scalar(node).lower()
    if word not in ("true", "false"):
        raise yaml.MarkedYAMLError(problem=f"{word} is neither true nor false", problem_mark=node.start_mark)
    return word == "true"


_Loader.add_constructor("tag:yaml.org,2002:int", _construct_int)
_Loader.add_constructor("tag:yaml.org,2002:bool", _construct_bool)
_KINDS = {f"tag:yaml.org,2002:{kind}" for kind in ("null", "bool", "int", "float", "str", "seq", "map", "merge")}
"""Tags of the values that JSON has too. Dates, sets and bytes are refused."""


def _check_nodes(root: Any) -> None:
    """Raise an error for repeated keys, recursive aliases and too many values."""
    sizes: dict[int, int] = {}

    def measure(node: Any, above: frozenset[int]) -> int:
        if id(node) in above:
            raise yaml.MarkedYAMLError(problem="an alias is inside its own anchor", problem_mark=node.start_mark)
        if id(node) not in sizes:
            inner = above | {id(node)}
            sizes[id(node)] = 1 + sum(measure(each, inner) for each in _check_children(node))
        return sizes[id(node)]

    if root is not None and measure(root, frozenset()) > _MAX_NODES:
        raise yaml.MarkedYAMLError(problem=f"more than {_MAX_NODES} values, with all aliases expanded")


def _check_children(node: Any) -> Iterator[Any]:
    """Yield the values inside a node after a check of its tag and keys."""
    if node.tag not in _KINDS:
        raise yaml.MarkedYAMLError(problem=f"the tag {node.tag} is not supported", problem_mark=node.start_mark)
    if isinstance(node, yaml.SequenceNode):
        yield from node.value
    elif isinstance(node, yaml.MappingNode):
        seen = set()
        for key, value in node.value:
            is_text = key.tag in ("tag:yaml.org,2002:str", "tag:yaml.org,2002:merge")
            if not (is_text and isinstance(key, yaml.ScalarNode)):
                raise yaml.MarkedYAMLError(problem="a key is not a string", problem_mark=key.start_mark)
            if key.value in seen:
                raise yaml.MarkedYAMLError(problem=f"{key.value} is given twice", problem_mark=key.start_mark)
            seen.add(key.value)
            yield value
