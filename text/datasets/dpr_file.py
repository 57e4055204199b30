"""One file in the DPR format: its rows, each checked once.

What the check found is kept beside a large file (``text/datasets/formats/sidecars.py``): the second start reads nothing
but rows that are asked for.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any

import numpy as np

from text.datasets.collection import PassageCollection
from text.datasets.formats.compressed_files import BYTE_ORDER_MARK
from text.datasets.formats.dpr_record import CheckedRow, MissingCollection, Row, SkipRow, check_row, parse_row
from text.datasets.formats.jsonl import INDEXED_BYTES, JsonlFile, RowReader
from text.datasets.formats.sidecars import sidecar
from text.datasets.formats.values import FieldError, split_reason
from text.datasets.identities import check_ids, check_ids_in_collection
from text.datasets.kept_findings import Findings, load_findings, save_findings
from text.datasets.row_index import IndexBuilder, RowIndex
from text.datasets.unusable import UnusableBuilder, UnusableRows
from text.errors import DataError
from text.progress import show_file_progress
from text.records import Passage, text_key
from text.words import has_word

BLANK = "blank line"
ELSEWHERE = "in the other part of the data"
"""Reason of a row that another pipe gives, since the rows of the file were split."""
WORD = re.compile(r"\w")
"""What a text has if it has a letter or a digit."""
_RULES = 6  # counts up when the check finds something else in the same rows


class _NoCollectionError(DataError):
    """Compact rows without the collection that holds their passages."""


class DPRFile:
    """The rows of one file.

    Args:
        path: Full or compact rows; see ``JsonlFile`` for the forms a file may have.
        passages: The collection that compact rows name passages of.
        score_key: Where contexts have a score.

    Raises:
        DataError: A row cannot be parsed, or an id stands with two passages; with path, line, byte
            and field.
        OSError: The file cannot be read.
    """

    def __init__(
        self, path: str | os.PathLike[str], passages: PassageCollection | None = None, score_key: str | None = None
    ) -> None:
        self.rows = JsonlFile(path)
        self.passages = passages
        self.score_key = score_key
        self.path = self.rows.path
        self.findings, self.index = self._look_up()
        self._whole: DPRFile | None = None

    def __getstate__(self) -> dict[str, Any]:
        # A data worker does not need the index, which is large.
        return self.__dict__ | {"index": None, "_whole": None}

    @property
    def whole(self) -> DPRFile:
        """The file with all its rows, if this is a view of it."""
        return self._whole or self

    def usable(self) -> np.ndarray:
        """Return the numbers of the rows that can be used."""
        rows = np.arange(self.findings.num_rows)
        return np.delete(rows, self.findings.unusable.rows) if self.findings.unusable else rows

    def split(self, rows: np.ndarray) -> tuple[DPRFile, DPRFile]:
        """Return two views of the file: without some usable rows, and with these rows alone.

        Rows that cannot be used belong to the first view, and so do the counts of the file.
        """
        rest, part = self._copy(), self._copy()
        findings, part.score_key = self.findings, None
        others = np.delete(np.arange(findings.num_rows), rows)
        rest.findings = findings._replace(
            unusable=findings.unusable.with_rows(rows, ELSEWHERE),
            wordless=np.setdiff1d(findings.wordless, rows).tolist(),
        )
        part.findings = findings._replace(
            unusable=UnusableRows(others, np.zeros(len(others)), [ELSEWHERE]),
            counts={},
            pool_sizes={name: {} for name in findings.pool_sizes},
            wordless=np.intersect1d(findings.wordless, rows).tolist(),
        )
        return rest, part

    @contextmanager
    def open(self) -> Iterator[DPRReader]:
        """Opens the file to read usable rows from it.

        Raises:
            DataError: The file has changed since it was checked.
        """
        with self.rows.open() as reader:
            yield DPRReader(reader, self.passages, self.score_key)

    def _copy(self) -> DPRFile:
        copied = object.__new__(DPRFile)
        vars(copied).update(vars(self) | {"_whole": self.whole})
        return copied

    def _look_up(self) -> tuple[Findings, RowIndex]:
        """Return what the check found, from the sidecars if the file is large and was checked before."""
        if os.path.getsize(self.rows.plain_path) < INDEXED_BYTES:
            return self._check()
        parts = [f"checked-{_RULES}", *([self.passages.key] if self.passages else [])]
        if self.score_key is not None:
            parts.append(f"score-{text_key(self.score_key):x}")
        with suppress(PermissionError):  # no folder for them: the file is checked each time
            return sidecar(
                self.rows.plain_path,
                "-".join(parts),
                lambda path: save_findings(path, *self._check()),
                lambda path: load_findings(path, len(self.rows)),
            )
        return self._check()

    def _check(self) -> tuple[Findings, RowIndex]:
        """Reads every row once."""
        digest, unusable, wordless = hashlib.sha256(), UnusableBuilder(), list[int]()
        counts, index = Counter[str](), IndexBuilder()
        pool_sizes: dict[str, Counter[int]] = {"hard_negatives": Counter(), "other_negatives": Counter()}
        with show_file_progress(self.rows.plain_path, "Checking") as progress, self.rows.open() as reader:
            digest.update(BYTE_ORDER_MARK[: self.rows.offset(0)])
            for row in range(len(self.rows)):
                line = reader.read(row)
                digest.update(line)
                passages: list[Passage] = []
                checked = self._check_row(reader, row, line, counts, passages.append)
                if isinstance(checked, CheckedRow):
                    pool_sizes["hard_negatives"][checked.num_hard_negatives] += 1
                    pool_sizes["other_negatives"][checked.num_other_negatives] += 1
                    if _has_wordless(checked.row.question, passages):
                        wordless.append(row)
                        counts["passages with a title and an invisible text"] += sum(map(_is_invisible, passages))
                    index.add_row(checked.row, () if checked.is_compact else passages, checked.question_id)
                else:
                    unusable.add(row, checked)
                    index.add_row(None)
                progress.update(len(line))
            counts.update(reader.repairs)
        found = index.finish()
        check_ids(self.rows, found)
        if self.passages is not None:
            check_ids_in_collection(self.rows, found, self.passages)
        sizes = {name: dict(each) for name, each in pool_sizes.items()}
        return Findings(len(self.rows), digest.hexdigest(), unusable.finish(), dict(+counts), sizes, wordless), found

    def _check_row(
        self, reader: RowReader, row: int, line: bytes, counts: Counter[str], visit: Callable[[Passage], None]
    ) -> CheckedRow | str:
        """Return the row, or why it cannot be used."""
        if line.isspace():
            return BLANK
        record = reader.parse_line(row, line)
        try:
            return check_row(record, line, self.passages, counts, self.score_key, visit)
        except MissingCollection as error:
            raise _NoCollectionError(f"{self.rows.where(row, split_reason(str(error)).field)} {error}.") from None
        except (SkipRow, FieldError) as error:
            return str(error)


class DPRReader:
    """Reads the usable rows of an open DPRFile; for one thread."""

    def __init__(self, rows: RowReader, passages: PassageCollection | None, score_key: str | None) -> None:
        self._rows = rows
        self._passages = passages
        self._score_key = score_key
        self._counts = Counter[str]()  # Nobody asks for them: the check of the file counted all rows.
        self.prefetch = rows.prefetch

    def read(self, row: int) -> Row:
        """A row by its number, valid until the next one is read.

        Raises:
            DataError: The file has changed since it was checked.
        """
        try:
            return parse_row(self._rows.parse(row), self._passages, self._score_key, self._counts)
        except (SkipRow, FieldError) as error:
            where = self._rows.file.where(row)
            raise DataError(f"{where} {error}; the file has changed since it was checked") from None


def check_row_ids(path: str | os.PathLike[str]) -> None:
    """Check the ids of rows of which only the ids are used. Compact rows have no texts to compare.

    Raises:
        DataError: A row cannot be parsed, or an id stands with two passages; with both places.
        OSError: The file cannot be read.
    """
    with suppress(_NoCollectionError):
        DPRFile(path)


def _has_wordless(question: str, passages: Sequence[Passage]) -> bool:
    return not all(map(WORD.search, [question, *(passage.text for passage in passages)]))


def _is_invisible(passage: Passage) -> bool:
    """Return whether only the title of a passage can be seen. Blank texts are counted elsewhere."""
    return bool(passage.text.strip() and passage.title.strip()) and not has_word(passage.text)
