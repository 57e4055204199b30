"""Compare a value of a checkpoint with an example: the value that the run itself would save.

A checkpoint can come from elsewhere, so nothing in it is used before its form is known: keys, types, and the shapes of
tensors.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

_MAX_DEPTH = 16
_MAX_VALUES = 1_000_000
_PLAIN = (str, int, float, bool, type(None), Tensor)


class StateError(ValueError):
    """A value of a checkpoint that the run cannot use. The message begins with the key of the value."""


def check_plain(value: Any, key: str = "") -> None:
    """Check that a value is made of dicts, lists, plain values and tensors, and is not too large to walk through.

    Raises:
        StateError: It is not.
    """
    for count, (place, each, depth) in enumerate(_walk(value, key, 0)):
        if depth > _MAX_DEPTH or count > _MAX_VALUES:
            raise StateError(f"{place[:200]}: nested too deeply, or too large.")
        if isinstance(each, Mapping):
            if any(type(name) not in (str, int) for name in each):
                raise StateError(f"{place}: a key is no text and no whole number.")
        elif type(each) not in (*_PLAIN, list, tuple):
            raise StateError(f"{place}: a {type(each).__name__}. It must be a plain value or a tensor.")


def check_like(value: Any, example: Any, key: str) -> None:
    """Check that a value has the form of an example: keys, types, lengths and shapes. Whole numbers are 0 or more.

    Raises:
        StateError: It has another form; with the key.
    """
    if isinstance(example, Tensor):
        check_tensor(value, example.shape, key)
        if value.dtype != example.dtype:
            raise StateError(f"{key}: numbers of type {value.dtype}. They must be {example.dtype}.")
    elif isinstance(example, Mapping):
        check_keys(value, example, key)
        for name, each in example.items():
            check_like(value[name], each, f"{key}.{name}")
    elif type(value) is not type(example):
        raise StateError(f"{key}: {_describe(value)}. It must be {_NAMES[type(example)]}.")
    elif isinstance(example, list | tuple):
        if len(value) != len(example):
            raise StateError(f"{key}: {len(value)} values. In the run there are {len(example)}.")
        for number, (each, other) in enumerate(zip(value, example, strict=True)):
            check_like(each, other, f"{key}[{number}]")
    elif type(value) is int and value < 0:
        raise StateError(f"{key}: {value}. It must be 0 or more.")


def check_keys(value: Any, names: Iterable[Any], key: str, *, exact: bool = True) -> None:
    """Check that a value is a dict with these keys, and with no others if ``exact``.

    Raises:
        StateError: It is not.
    """
    found, expected = check_dict(value, key), list(names)
    if missing := [name for name in expected if name not in found]:
        raise StateError(f"{key}.{missing[0]}: missing.")
    if exact and (unknown := [name for name in found if name not in expected]):
        raise StateError(f"{key}.{unknown[0]}: not known in the run.")


def check_dict(value: Any, key: str) -> Mapping[Any, Any]:
    """Return a value that must be a dict.

    Raises:
        StateError: It is not.
    """
    if not isinstance(value, Mapping):
        raise StateError(f"{key}: {_describe(value)}. It must be a dict.")
    return value


def find_state(states: Mapping[str, Any], name: str) -> tuple[Any, str]:
    """Return the state of a callback among those in a checkpoint, and its key.

    Raises:
        StateError: It is missing.
    """
    if name not in states:
        raise StateError(f"callbacks.{name}: missing.")
    return states[name], f"callbacks.{name}"


def check_length(value: Any, length: int, key: str) -> None:
    """Check that a value is a list of a length.

    Raises:
        StateError: It is not.
    """
    if type(value) is not list or len(value) != length:
        raise StateError(f"{key}: {_describe(value)}. It must be a list of {length}.")


def check_equal(value: Any, ours: Any, key: str) -> None:
    """Check that a value without tensors is the one of the run.

    Raises:
        StateError: It is not.
    """
    check_like(value, ours, key)
    if value != ours:
        raise StateError(f"{key}: {_describe(value)}. In the run it is {_describe(ours)}.")


def check_tensor(value: Any, shape: tuple[int, ...], key: str, *, is_float: bool = False) -> None:
    """Check that a value is a tensor of a shape. No two of its numbers have one place in memory.

    Args:
        value: The value.
        shape: The shape.
        key: The key of the value, for the error.
        is_float: The numbers must be finite floating-point numbers.

    Raises:
        StateError: It is not.
    """
    if type(value) is not Tensor or value.layout is not torch.strided or value.device.type != "cpu":
        raise StateError(f"{key}: {_describe(value)}. It must be a dense tensor on the CPU.")
    if value.shape != shape:
        raise StateError(f"{key}: its shape is {tuple(value.shape)}. In the run it is {tuple(shape)}.")
    if not _is_dense(value):
        raise StateError(f"{key}: its numbers overlap in memory.")
    if is_float and not (value.is_floating_point() and bool(value.isfinite().all())):
        raise StateError(f"{key}: its numbers must be finite floating-point numbers.")


def _describe(value: Any) -> str:
    """Return a few words for a value."""
    if isinstance(value, str | int | float | bool | None):
        return repr(value)[:100]
    return "a tensor" if isinstance(value, Tensor) else f"a {type(value).__name__}"


_NAMES = {
    str: "a text",
    int: "a whole number",
    float: "a number",
    bool: "True or False",
    type(None): "None",
    list: "a list",
    tuple: "a tuple",
}


def _walk(value: Any, key: str, depth: int) -> Iterator[tuple[str, Any, int]]:
    """Yield a value and the values in it, each with its key and its depth. The caller stops at a depth."""
    yield key, value, depth
    inner = value.items() if isinstance(value, Mapping) else enumerate(value) if isinstance(value, list | tuple) else ()
    for name, each in inner:
        yield from _walk(each, f"{key}.{name}" if key else str(name), depth + 1)


def _is_dense(tensor: Tensor) -> bool:
    expected = 1
    for stride, size in sorted(zip(tensor.stride(), tensor.shape, strict=True)):
        if size > 1:
            if stride != expected:
                return False
            expected *= size
    return True
