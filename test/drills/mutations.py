"""Mutations of files, such as a broken copy, a bad disk, a typing error or an attacker may cause.

Every function takes its own seeded ``random.Random``, so that a failing drill can be repeated by its number.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Iterator
from random import Random
from typing import Any

VALUES: list[Any] = [
    None,
    True,
    False,
    0,
    -1,
    1,
    1.5,
    -0.0,
    1e308,
    10**30,
    "",
    "x",
    "Cosine",
    "../../etc/passwd",
    "/dev/zero",
    "a\x00b",
    "\x1b[2J",
    [],
    [1],
    [[]],
    {},
    {"x": 1},
    "9" * 5000,
]
"""Replacements for a value of a JSON document."""


def make_generators(seed: int, count: int) -> Iterator[Random]:
    """Yield a random generator for each of ``count`` drills. They are the same for the same seed."""
    for number in range(count):
        yield Random(f"{seed} {number}")


def mutate_bytes(content: bytes, random: Random) -> bytes:
    """Return the content of a file after one accident. It differs from the original unless that is empty."""
    changed = content
    while changed == content and content:
        changed = random.choice(_ACCIDENTS)(content, random)
    return changed


def mutate_json(document: Any, random: Random) -> Any:
    """Return a copy of a JSON document with one changed value or key."""
    found = copy.deepcopy(document)
    while json.dumps(found, sort_keys=True) == json.dumps(document, sort_keys=True):
        places = list(_list_places(found))
        if not places:
            return random.choice(VALUES[-6:])
        container, key = random.choice(places)
        _change(container, key, random)
    return found


def _change(container: Any, key: Any, random: Random) -> None:
    kind = random.randrange(6)
    if kind == 0:
        del container[key]
    elif kind == 1 and isinstance(container, dict):
        container[random.choice(["", "x", f"{key} ", str(key).upper(), "__class__"])] = container.pop(key)
    elif kind == 2 and isinstance(container[key], int | float) and not isinstance(container[key], bool):
        container[key] = container[key] + random.choice([-1, 1, 1000, -(10**9)])
    elif kind == 3 and isinstance(container[key], str) and container[key]:
        container[key] = mutate_bytes(container[key].encode(), random).decode("utf-8", "replace")
    else:
        container[key] = copy.deepcopy(random.choice(VALUES))


def _list_places(value: Any) -> Iterator[tuple[Any, Any]]:
    """Yield every container of a document with each of its keys."""
    keys = list(value) if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else []
    for key in keys:
        yield value, key
        yield from _list_places(value[key])


def _cut(content: bytes, random: Random) -> bytes:
    return content[: random.randrange(len(content))]


def _flip(content: bytes, random: Random) -> bytes:
    place = random.randrange(len(content))
    return content[:place] + bytes([content[place] ^ (1 << random.randrange(8))]) + content[place + 1 :]


def _zero(content: bytes, random: Random) -> bytes:
    start, end = _span(content, random)
    return content[:start] + bytes(end - start) + content[end:]


def _remove(content: bytes, random: Random) -> bytes:
    start, end = _span(content, random)
    return content[:start] + content[end:]


def _repeat(content: bytes, random: Random) -> bytes:
    start, end = _span(content, random)
    return content[:end] + content[start:end] + content[end:]


def _insert(content: bytes, random: Random) -> bytes:
    place = random.randrange(len(content) + 1)
    return content[:place] + random.randbytes(random.randrange(1, 20)) + content[place:]


def _append(content: bytes, random: Random) -> bytes:
    return content + random.choice([b"\0", b"\n", b"}", b"x" * 100, content])


def _swap_lines(content: bytes, random: Random) -> bytes:
    lines = content.splitlines(keepends=True)
    first, second = random.randrange(len(lines)), random.randrange(len(lines))
    lines[first], lines[second] = lines[second], lines[first]
    return b"".join(lines)


def _span(content: bytes, random: Random) -> tuple[int, int]:
    start = random.randrange(len(content))
    return start, min(len(content), start + 1 + random.randrange(max(1, len(content) // 3)))


_ACCIDENTS: list[Callable[[bytes, Random], bytes]] = [
    _cut,
    _flip,
    _zero,
    _remove,
    _repeat,
    _insert,
    _append,
    _swap_lines,
]
