"""Comparison of a value in a checkpoint with an example, which is the value that the run itself would save.

A checkpoint may be untrusted, so its keys, types and tensor shapes are checked before any value is used.
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
    """Invalid value in a checkpoint. The message begins with the key of the value."""


def check_plain(value: Any, key: str = "") -> None:
    """Check that a value consists of dicts, lists, plain values and tensors, and is not too large or too deep.

    Raises:
        StateError: The value is invalid.
    """
    for count, (place, each, depth) in enumerate(_walk(value, key, 0)):
        if depth > _MAX_DEPTH or count > _MAX_VALUES:
            raise StateError(f"{place[:200]}: too large, or nested too deeply.")
        if isinstance(each, Mapping):
            if any(type(name) not in (str, int) for name in each):
                raise StateError(f"{place}: a key is neither a string nor an integer.")
        elif type(each) not in (*_PLAIN, list, tuple):
            raise StateError(f"{place}: expected a plain value or a tensor, found a {type(each).__name__}.")


def check_like(value: Any, example: Any, key: str) -> None:
    """Check that a value has the keys, types, lengths and shapes of an example, and no negative integer.

    Raises:
        StateError: The value differs. The message names the key.
    """
    if isinstance(example, Tensor):
        check_tensor(value, example.shape, key)
        if value.dtype != example.dtype:
            raise StateError(f"{key}: expected numbers of type {example.dtype}, found {value.dtype}.")
    elif isinstance(example, Mapping):
        check_keys(value, example, key)
        for name, each in example.items():
            check_like(value[name], each, f"{key}.{name}")
    elif type(value) is not type(example):
        raise StateError(f"{key}: expected {_TYPE_NAMES[type(example)]}, found {_describe(value)}.")
    elif isinstance(example, list | tuple):
        if len(value) != len(example):
            raise StateError(f"{key}: {len(value)} values, but the run has {len(example)}.")
        for number, (each, other) in enumerate(zip(value, example, strict=True)):
            check_like(each, other, f"{key}[{number}]")
    elif type(value) is int and value < 0:
        raise StateError(f"{key}: {value} is negative.")


def check_keys(value: Any, names: Iterable[Any], key: str, *, exact: bool = True) -> None:
    """Check that a value is a dict with these keys, and with no other keys if ``exact``.

    Raises:
        StateError: The value is not a dict, a key is missing, or a key is unknown.
    """
    found, expected = check_dict(value, key), list(names)
    if missing := [name for name in expected if name not in found]:
        raise StateError(f"{key}.{missing[0]}: missing.")
    if exact and (unknown := [name for name in found if name not in expected]):
        raise StateError(f"{key}.{unknown[0]}: unknown key.")


def check_dict(value: Any, key: str) -> Mapping[Any, Any]:
    """Check that a value is a dict, and return it.

    Raises:
        StateError: The value is not a dict.
    """
    if not isinstance(value, Mapping):
        raise StateError(f"{key}: expected a dict, found {_describe(value)}.")
    return value


def find_state(states: Mapping[str, Any], name: str) -> tuple[Any, str]:
    """Return the state of a callback in a checkpoint, and the key of that state.

    Raises:
        StateError: The state is missing.
    """
    if name not in states:
        raise StateError(f"callbacks.{name}: missing.")
    return states[name], f"callbacks.{name}"


def check_length(value: Any, length: int, key: str) -> None:
    """Check that a value is a list with a given length.

    Raises:
        StateError: The value is not a list, or has another length.
    """
    if type(value) is not list or len(value) != length:
        raise StateError(f"{key}: expected a list of length {length}, found {_describe(value)}.")


def check_equal(value: Any, ours: Any, key: str) -> None:
    """Check that a value without tensors equals the value of the run.

    Raises:
        StateError: The values differ.
    """
    check_like(value, ours, key)
    if value != ours:
        raise StateError(f"{key}: {_describe(value)}, but the run has {_describe(ours)}.")


def check_tensor(value: Any, shape: tuple[int, ...], key: str, *, is_float: bool = False) -> None:
    """Check that a value is a dense CPU tensor with a given shape, whose elements do not overlap in memory.

    Args:
        value: The value.
        shape: The shape.
        key: The key of the value, for the error message.
        is_float: True if the elements must be finite floating-point numbers.

    Raises:
        StateError: The value is not such a tensor.
    """
    if type(value) is not Tensor or value.layout is not torch.strided or value.device.type != "cpu":
        raise StateError(f"{key}: expected a dense tensor on the CPU, found {_describe(value)}.")
    if value.shape != shape:
        raise StateError(f"{key}: has shape {tuple(value.shape)}, but the run has {tuple(shape)}.")
    if not _is_dense(value):
        raise StateError(f"{key}: elements overlap in memory.")
    if is_float and not (value.is_floating_point() and bool(value.isfinite().all())):
        raise StateError(f"{key}: expected finite floating-point numbers.")


def _describe(value: Any) -> str:
    """Return a short description of a value."""
    if isinstance(value, str | int | float | bool | None):
        return repr(value)[:100]
    return "a tensor" if isinstance(value, Tensor) else f"a {type(value).__name__}"


_TYPE_NAMES = {
    str: "a string",
    int: "an integer",
    float: "a number",
    bool: "True or False",
    type(None): "None",
    list: "a list",
    tuple: "a tuple",
}


def _walk(value: Any, key: str, depth: int) -> Iterator[tuple[str, Any, int]]:
    """Yield a value and its nested values, each with its key and depth. The caller limits the depth."""
    yield key, value, depth
    inner = value.items() if isinstance(value, Mapping) else enumerate(value) if isinstance(value, list | tuple) else ()
    for name, each in inner:
        yield from _walk(each, f"{key}.{name}" if key else str(name), depth + 1)


def _is_dense(tensor: Tensor) -> bool:
    """Return whether the elements fill a contiguous block of memory, in any order of dimensions."""
    expected = 1
    for stride, size in sorted(zip(tensor.stride(), tensor.shape, strict=True)):
        if size > 1:
            if stride != expected:
                return False
            expected *= size
    return True
