"""Random access to the rows of a file in the DPR format. All rows are checked once, when the file is first opened.

For a large file, the findings of the check are kept in a sidecar (``text/datasets/formats/sidecars.py``). Later starts
load the sidecar and read only the rows that are used.
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
from text.datasets.formats.sidecars import load_or_make_sidecar
from text.datasets.formats.values import FieldError, split_reason
from text.datasets.identities import check_ids, check_ids_in_collection
from text.datasets.kept_findings import Findings, load_findings, save_findings
from text.datasets.row_index import IndexBuilder, RowIndex
from text.datasets.unusable import UnusableBuilder, UnusableRows
from text.errors import DataError
from text.progress import show_file_progress
from text.records import Passage, hash_text
from text.words import has_word

BLANK = "blank line"
IN_OTHER_PART = "in the other part of the data"
"""Reason why a view of a file leaves out a row: after a split, the row belongs to the other view."""
LETTER_OR_DIGIT = re.compile(r"\w")
"""Pattern that finds a letter or a digit in a text."""
_RULES = 7  # Increase when the check finds something else in the same rows.


class _NoCollectionError(DataError):
    """Error for compact rows without the collection that holds their passages."""


class DPRFile:
    """The rows of one file, and the findings of their check.

    Args:
        path: File with full or compact rows. See ``JsonlFile`` for the file formats.
        passages: Collection in which the passage ids of compact rows are looked up.
        score_key: Key of the score that each context must have. By default no scores are read.

    Raises:
        DataError: A row cannot be parsed, or two different passages have the same id. The error gives path, line, byte
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
        self.findings, self.index = self._load_or_check()
        self._whole: DPRFile | None = None

    def __getstate__(self) -> dict[str, Any]:
        # The index is large, and data workers do not need it.
        return self.__dict__ | {"index": None, "_whole": None}

    @property
    def whole(self) -> DPRFile:
        """The unsplit file that this is a view of, or the file itself."""
        return self._whole or self

    def find_usable_rows(self) -> np.ndarray:
        """Return the numbers of the usable rows, in ascending order."""
        rows = np.arange(self.findings.num_rows)
        return np.delete(rows, self.findings.unusable.rows) if self.findings.unusable else rows

    def split(self, rows: np.ndarray) -> tuple[DPRFile, DPRFile]:
        """Split the file into two views: all other rows, and the given usable rows.

        The first view also takes the unusable rows and the counts of the file.
        """
        rest, part = self._copy(), self._copy()
        findings, part.score_key = self.findings, None
        others = np.delete(np.arange(findings.num_rows), rows)
        rest.findings = findings._replace(
            unusable=findings.unusable.add_rows(rows, IN_OTHER_PART),
            wordless=np.setdiff1d(findings.wordless, rows).tolist(),
        )
        part.findings = findings._replace(
            unusable=UnusableRows(others, np.zeros(len(others)), [IN_OTHER_PART]),
            counts={},
            pool_sizes={name: {} for name in findings.pool_sizes},
            wordless=np.intersect1d(findings.wordless, rows).tolist(),
        )
        return rest, part

    @contextmanager
    def open(self) -> Iterator[DPRReader]:
        """Open the file to read usable rows.

        Raises:
            DataError: The file has changed since it was checked.
        """
        with self.rows.open() as reader:
            yield DPRReader(reader, self.passages, self.score_key)

    def _copy(self) -> DPRFile:
        copied = object.__new__(DPRFile)
        vars(copied).update(vars(self) | {"_whole": self.whole})
        return copied

    def _load_or_check(self) -> tuple[Findings, RowIndex]:
        """Return the findings of the check. For a large file that was checked before, they come from its sidecar."""
        if os.path.getsize(self.rows.plain_path) < INDEXED_BYTES:
            return self._check()
        parts = [f"checked-{_RULES}", *([self.passages.key] if self.passages else [])]
        if self.score_key is not None:
            parts.append(f"score-{hash_text(self.score_key):x}")
        with suppress(PermissionError):  # Without a folder for sidecars, the file is checked each time.
            return load_or_make_sidecar(
                self.rows.plain_path,
                "-".join(parts),
                lambda path: save_findings(path, *self._check()),
                lambda path: load_findings(path, len(self.rows)),
            )
        return self._check()

    def _check(self) -> tuple[Findings, RowIndex]:
        """Check all rows in one pass over the file."""
        digest, unusable, wordless = hashlib.sha256(), UnusableBuilder(), list[int]()
        counts, index = Counter[str](), IndexBuilder()
        pool_sizes: dict[str, Counter[int]] = {"hard_negatives": Counter(), "other_negatives": Counter()}
        with show_file_progress(self.rows.plain_path, "Checking") as progress, self.rows.open() as reader:
            digest.update(BYTE_ORDER_MARK[: self.rows.get_offset(0)])
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
        """Return the row, or the reason why it is unusable."""
        if line.isspace():
            return BLANK
        record = reader.parse_line(row, line)
        try:
            return check_row(record, line, self.passages, counts, self.score_key, visit)
        except MissingCollection as error:
            raise _NoCollectionError(
                f"{self.rows.describe_place(row, split_reason(str(error)).field)} {error}."
            ) from None
        except (SkipRow, FieldError) as error:
            return str(error)


class DPRReader:
    """Reader of the usable rows of an open DPRFile. Not thread-safe."""

    def __init__(self, rows: RowReader, passages: PassageCollection | None, score_key: str | None) -> None:
        self._rows = rows
        self._passages = passages
        self._score_key = score_key
        self._counts = Counter[str]()  # Never reported, because the check of the file has counted all rows.
        self.prefetch = rows.prefetch

    def read(self, row: int) -> Row:
        """Return the row with this number. It is valid until the next row is read.

        Raises:
            DataError: The file has changed since it was checked.
        """
        try:
            return parse_row(self._rows.parse(row), self._passages, self._score_key, self._counts)
        except (SkipRow, FieldError) as error:
            where = self._rows.file.describe_place(row)
            raise DataError(f"{where} {error}. The file has changed since it was checked.") from None


def check_row_ids(path: str | os.PathLike[str]) -> None:
    """Check a file of which only the passage ids are used. Compact rows have no texts to compare.

    Raises:
        DataError: A row cannot be parsed, or two different passages have the same id. The error gives both places.
        OSError: The file cannot be read.
    """
    with suppress(_NoCollectionError):
        DPRFile(path)


def _has_wordless(question: str, passages: Sequence[Passage]) -> bool:
    """Return whether the question or the text of a passage has no letter or digit."""
    return not all(map(LETTER_OR_DIGIT.search, [question, *(passage.text for passage in passages)]))


def _is_invisible(passage: Passage) -> bool:
    """Return whether a passage has a visible title and an invisible text. Blank texts are counted elsewhere."""
    return bool(passage.text.strip() and passage.title.strip()) and not has_word(passage.text)
