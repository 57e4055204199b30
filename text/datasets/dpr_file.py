"""One file in the DPR format: its rows, each checked once.

What the check found is kept beside a large file (``text/datasets/formats/sidecars.py``): the second start reads nothing
but rows that are asked for.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

import numpy as np

from text.datasets.collection import PassageCollection
from text.datasets.formats.compressed_files import BYTE_ORDER_MARK, progress_bar
from text.datasets.formats.dpr_record import FieldError, Row, SkipRow, check_row, parse_row
from text.datasets.formats.jsonl import INDEXED_BYTES, JsonlFile, RowReader
from text.datasets.formats.sidecars import sidecar
from text.errors import DataError
from text.records import text_key

BLANK = "blank line"
_RULES = 1  # counts up when a row that was usable is not any more, or the other way round


class Findings(NamedTuple):
    """Findings of the check of a file."""

    num_rows: int
    """Rows of the file, usable or not."""
    sha256: str
    """Hash of the file's content, unpacked if it is compressed."""
    unusable: dict[int, str]
    """Rows that no batch can hold, and why."""
    counts: dict[str, int]
    """Passages left out and pools not there, by reason."""
    pool_sizes: dict[str, dict[int, int]]
    """By name of the pool of negatives: how many rows have how many that can be used."""


class DPRFile:
    """The rows of one file.

    Args:
        path: Full or compact rows; see ``JsonlFile`` for the forms a file may have.
        passages: The collection that compact rows name passages of.
        score_key: Where contexts have a score.

    Raises:
        DataError: A row cannot be parsed or lacks a field; with path, line, byte and field.
        OSError: The file cannot be read.
    """

    def __init__(
        self, path: str | os.PathLike[str], passages: PassageCollection | None = None, score_key: str | None = None
    ) -> None:
        self.rows = JsonlFile(path)
        self.passages = passages
        self.score_key = score_key
        self.path = self.rows.path
        self.findings = self._findings()

    def usable(self) -> np.ndarray:
        """Return the numbers of the rows that can be used."""
        rows = np.arange(self.findings.num_rows)
        return np.delete(rows, list(self.findings.unusable)) if self.findings.unusable else rows

    @contextmanager
    def open(self) -> Iterator[DPRReader]:
        """Opens the file to read usable rows from it.

        Raises:
            DataError: The file has changed since it was checked.
        """
        with self.rows.open() as reader:
            yield DPRReader(reader, self.passages, self.score_key)

    def _findings(self) -> Findings:
        """Out of the sidecar, if the file is large and was checked before."""
        if os.path.getsize(self.rows.plain_path) >= INDEXED_BYTES:
            parts = [f"checked-{_RULES}", *([self.passages.key] if self.passages else [])]
            if self.score_key is not None:
                parts.append(f"score-{text_key(self.score_key):x}")
            kind = "-".join(parts) + ".json"
            with suppress(PermissionError):  # no folder for it: it is checked each time
                return _load(sidecar(self.rows.plain_path, kind, lambda path: _save(path, self._check())))
        return self._check()

    def _check(self) -> Findings:
        """Reads every row once."""
        digest, unusable, counts = hashlib.sha256(), {}, Counter[str]()
        pool_sizes: dict[str, Counter[int]] = {"hard_negatives": Counter(), "other_negatives": Counter()}
        with progress_bar(self.rows.plain_path, "Checking") as progress, self.rows.open() as reader:
            digest.update(BYTE_ORDER_MARK[: self.rows.offset(0)])
            for row in range(len(self.rows)):
                line = reader.read(row)
                digest.update(line)
                reason = self._check_row(reader, row, line, counts, pool_sizes)
                if reason is not None:
                    unusable[row] = reason
                progress.update(len(line))
        return Findings(len(self.rows), digest.hexdigest(), unusable, dict(+counts), {**pool_sizes})

    def _check_row(
        self, reader: RowReader, row: int, line: bytes, counts: Counter[str], pool_sizes: dict[str, Counter[int]]
    ) -> str | None:
        """Why a row cannot be used, if it cannot."""
        if line.isspace():
            return BLANK
        record = reader.parse_line(row, line)
        try:
            sizes = check_row(record, line, self.passages, counts, self.score_key)
        except SkipRow as skip:
            return str(skip)
        except FieldError as error:
            raise DataError(f"{self.rows.where(row)} {error}") from None
        for name, size in zip(pool_sizes, sizes, strict=True):
            pool_sizes[name][size] += 1
        return None


class DPRReader:
    """Reads the usable rows of an open DPRFile; for one thread."""

    def __init__(self, rows: RowReader, passages: PassageCollection | None, score_key: str | None) -> None:
        self._rows = rows
        self._passages = passages
        self._score_key = score_key
        self.prefetch = rows.prefetch

    def read(self, row: int) -> Row:
        """A row by its number, valid until the next one is read.

        Raises:
            DataError: The file has changed since it was checked.
        """
        try:
            return parse_row(self._rows.parse(row), self._passages, self._score_key)
        except (SkipRow, FieldError) as error:
            where = self._rows.file.where(row)
            raise DataError(f"{where} {error}; the file has changed since it was checked") from None


def _save(path: Path, findings: Findings) -> None:
    path.write_text(json.dumps(findings._asdict()), encoding="utf-8")


def _load(path: Path) -> Findings:
    """JSON has no numbers as keys."""
    saved = Findings(**json.loads(path.read_text(encoding="utf-8")))
    pool_sizes = {name: {int(k): n for k, n in sizes.items()} for name, sizes in saved.pool_sizes.items()}
    return saved._replace(unusable={int(k): why for k, why in saved.unusable.items()}, pool_sizes=pool_sizes)
