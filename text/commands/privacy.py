"""Keep the results of a command as private as the files that it reads."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from text.errors import escape_controls

_NOT_OWNER = 0o077
"""Permission bits of the group and of other users."""
_MODELS = ("model", "other_model", "encoder", "tokenizer")
"""Flags whose files are ignored, because safetensors makes all weights readable by their owner only."""


@contextmanager
def keep_private(flags: Mapping[str, Any]) -> Iterator[None]:
    """Create files in the block without read permission for users who cannot read the input files.

    Input files are the files that flags name, and the visible files directly in a folder that a flag names. Models
    are ignored.

    Args:
        flags: Values by flag name. Values and list items that do not name a file or folder are ignored.
    """
    before = os.umask(_NOT_OWNER)
    mask, source = before, None
    for path in _list_files(flags):
        hidden = ~path.stat().st_mode & _NOT_OWNER & ~mask & 0o044
        if hidden:
            mask, source = mask | hidden | hidden >> 1 | hidden >> 2, source or path
    os.umask(mask)
    if source is not None:
        print(escape_controls(f"{source} is private, so the results are private too"), file=sys.stderr)
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
