"""Inspection of the type of a flag, such as ``list[int] | None``."""

from __future__ import annotations

import types
from functools import reduce
from operator import or_
from typing import Any, Literal, Union, get_args, get_origin


def list_alternatives(kind: Any) -> tuple[Any, ...]:
    """Return the member types of a union, or the type itself."""
    return get_args(kind) if get_origin(kind) in (Union, types.UnionType) else (kind,)


def list_choices(kind: Any) -> list[Any]:
    """Return the values of a ``Literal``, which may be a member of a union."""
    if get_origin(kind) is Literal:
        return list(get_args(kind))
    return [choice for each in list_alternatives(kind) if each is not kind for choice in list_choices(each)]


def is_nullable(kind: Any) -> bool:
    """Return whether a flag may be null."""
    return type(None) in list_alternatives(kind)


def remove_null(kind: Any) -> Any:
    """Return the type without None."""
    return reduce(or_, (each for each in list_alternatives(kind) if each is not type(None)))


def is_list(kind: Any) -> bool:
    """Return whether a flag takes a list."""
    return any(get_origin(each) in (list, tuple) for each in list_alternatives(kind))


def is_mapping(kind: Any) -> bool:
    """Return whether a flag takes a mapping of names to values."""
    return get_origin(remove_null(kind)) is dict


def is_switch(kind: Any) -> bool:
    """Return whether a flag is true or false."""
    return remove_null(kind) is bool


def is_text(kind: Any) -> bool:
    """Return whether a flag takes free text or one of several texts."""
    return all(each in (str, type(None)) or bool(list_choices(each)) for each in list_alternatives(kind))


def get_item_kind(kind: Any) -> Any:
    """Return the type of the items of a list."""
    return get_args(remove_null(kind))[0]


def format_list_example(name: str, kind: Any) -> str:
    """Return an example of a list with two items on a command line."""
    if choices := list_choices(get_item_kind(kind)):
        return f"{name}={','.join(choices[:2])}"
    return f"{name}='[a, b]'" if is_text(get_item_kind(kind)) or is_mapping(get_item_kind(kind)) else f"{name}=1,2"
