"""Files of converted rows that are kept beside the data, and made again if any source changes."""

from __future__ import annotations

import hashlib
import sys
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from text.datasets.formats.sidecars import load_or_make_sidecar
from text.datasets.forms.writing import Source, format_counts, write_rows
from text.errors import DataError, escape_controls


def keep_rows(
    path: str,
    settings: tuple[Any, ...],
    read: Callable[[Counter[str]], Iterable[Source]],
    *,
    name: str,
    explain_empty: Callable[[Counter[str]], str],
) -> str:
    """Return the path of the kept rows of a file. They are made if they do not exist for these settings.

    Args:
        path: The file beside which the rows are kept.
        settings: Values that decide the rows, such as the identity of each source.
        read: Function that returns the sources of the rows, and updates counts.
        name: Name of the data in messages.
        explain_empty: Function that returns the error if no row can be used.

    Raises:
        DataError: A row cannot be read, or no row can be used.
        OSError: A file cannot be read, or the rows cannot be kept.
    """

    def make(target: Path) -> None:
        counts = Counter[str]()
        with open(target, "wb") as out:
            num_rows = write_rows(read(counts), out.write)
        if not num_rows:
            raise DataError(explain_empty(counts))
        print(escape_controls(f"{name}: converted to {num_rows} rows{format_counts(counts)}"), file=sys.stderr)

    kind = f"{hashlib.sha256(repr(settings).encode()).hexdigest()[:16]}.jsonl"
    return str(load_or_make_sidecar(path, kind, make))
