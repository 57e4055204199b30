"""Keep the results of a command as private as the files that it reads."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from text.errors import escape_controls

_OTHERS = 0o077
_MODELS = ("model", "other_model", "encoder", "tokenizer")
"""Flags whose files do not count: safetensors' own writer gives every model's weights to their owner alone."""


@contextmanager
def keep_private(flags: Mapping[str, Any]) -> Iterator[None]:
    """Give the files that are created in the block no reader whom a file that a flag names does not have.

    Of a folder, the files in it count, but not hidden ones and not those in its subfolders. Models do not count.

    Args:
        flags: Values of flags by name. A value, or an element of a list, that names no file is passed over.
    """
    before = os.umask(_OTHERS)
    mask, source = before, None
    for path in _list_files(flags):
        hidden = ~path.stat().st_mode & _OTHERS & ~mask & 0o044
        if hidden:
            mask, source = mask | hidden | hidden >> 1 | hidden >> 2, source or path
    os.umask(mask)
    if source is not None:
        print(escape_controls(f"{source} is private, so results are private too"), file=sys.stderr)
    try:
        yield
    finally:
        os.umask(before)


def _list_files(flags: Mapping[str, Any]) -> Iterator[Path]:
    values = [value for name, value in flags.items() if name not in _MODELS]
    for value in values:
        for each in value if isinstance(value, list) else [value]:
            if isinstance(each, str) and each and os.path.isfile(each):
                yield Path(each)
            elif isinstance(each, str) and each and os.path.isdir(each):
                with os.scandir(each) as entries:
                    yield from (Path(entry) for entry in entries if entry.is_file() and not entry.name.startswith("."))
