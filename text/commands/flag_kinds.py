"""Questions about the type of a flag, such as ``list[int] | None``."""

from __future__ import annotations

import types
from functools import reduce
from operator import or_
from typing import Any, Literal, Union, get_args, get_origin


def list_alternatives(kind: Any) -> tuple[Any, ...]:
    """Return the types of a union, or the type alone."""
    return get_args(kind) if get_origin(kind) in (Union, types.UnionType) else (kind,)


def list_choices(kind: Any) -> list[Any]:
    """Return the values of a ``Literal``, alone or in a union."""
    if get_origin(kind) is Literal:
        return list(get_args(kind))
    return [choice for each in list_alternatives(kind) if each is not kind for choice in list_choices(each)]


def allows_null(kind: Any) -> bool:
    """Return whether a flag may be null."""
    return type(None) in list_alternatives(kind)


def without_null(kind: Any) -> Any:
    """Return the type without None."""
    return reduce(or_, (each for each in list_alternatives(kind) if each is not type(None)))


def is_list(kind: Any) -> bool:
    """Return whether a flag takes a list."""
    return any(get_origin(each) in (list, tuple) for each in list_alternatives(kind))


def is_mapping(kind: Any) -> bool:
    """Return whether a flag takes names with values."""
    return get_origin(without_null(kind)) is dict


def is_switch(kind: Any) -> bool:
    """Return whether a flag is true or false."""
    return without_null(kind) is bool


def is_text(kind: Any) -> bool:
    """Return whether a flag takes a text, or one of several texts."""
    return all(each in (str, type(None)) or bool(list_choices(each)) for each in list_alternatives(kind))


def item_kind(kind: Any) -> Any:
    """Return the type of the items of a list."""
    return get_args(without_null(kind))[0]


def list_example(name: str, kind: Any) -> str:
    """Return how to write a list of several items on a command line."""
    return f"{name}='[a, b]'" if is_text(item_kind(kind)) or is_mapping(item_kind(kind)) else f"{name}=1,2"
