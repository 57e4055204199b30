"""RowIndex: which passages and questions the rows of a file name, as compact arrays.

The check of a file collects it in its one pass. It answers four questions: does an id stand with two texts
(``text/datasets/identities.py``), which rows ask the same question (``text/datasets/same_questions.py``), which
rows must stay together when validation data is held out (``text/datasets/held_out.py``), and what do two files share
(``dpr-text check``).

Dimensions: R rows of the file; N different pairs of id and content; M positives of all rows.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple
from zlib import crc32

import numpy as np

from text.datasets.formats.dpr_record import Row
from text.records import Passage, question_key, text_key


class RowIndex(NamedTuple):
    """Questions and passages of a file by hash."""

    ids: np.ndarray
    """(N,) int64, ``id_key`` of passage ids, in ascending order."""
    contents: np.ndarray
    """(N,) uint32, hash of the title and text that stand with each id."""
    has_title: np.ndarray
    """(N,) bool. Of the entries with one id, those with a title come first."""
    rows: np.ndarray
    """(N,) int32, the first row that has this id with this content."""
    questions: np.ndarray
    """(R,) int64, ``question_key`` of each row; 0 for a row that cannot be used."""
    positives: np.ndarray
    """(M, 2) int64, ``Passage.keys`` of all positives, row by row."""
    positive_ends: np.ndarray
    """(R + 1,) int64. The positives of row r stand from entry r to entry r + 1 of this array."""

    question_ids: np.ndarray
    """(R,) int64, ``text_key`` of the id that each row gives its question; 0 for a row without one."""

    @property
    def has_row(self) -> np.ndarray:
        """(R,) bool, True for rows that can be used."""
        return np.diff(self.positive_ends) > 0


class IndexBuilder:
    """Collects the rows of a file, one after the other."""

    def __init__(self) -> None:
        self._ids, self._contents, self._has_title = array("q"), array("I"), array("b")
        self._questions, self._question_ids, self._positives = array("q"), array("q"), array("q")
        self._num_ids, self._num_positives = array("i"), array("i")  # of each row

    def add_row(self, row: Row | None, passages: Sequence[Passage] = (), question_id: str = "") -> None:
        """Add the next row. None stands for a row that cannot be used.

        Args:
            row: The row.
            passages: All passages of a full row, also the negatives. Those of a compact row stand in a collection.
            question_id: Id that the row gives its question, or empty.
        """
        named = [passage for passage in passages if passage.passage_id]
        if named:
            ids, titles, texts, _ = zip(*named, strict=True)
            self._ids.extend(map(id_key, ids))
            self._contents.extend(hash_contents(titles, texts))
            self._has_title.extend(map(bool, titles))
        self._num_ids.append(len(named))
        self._questions.append(question_key(row.question) if row else 0)
        self._question_ids.append(text_key(question_id) if question_id else 0)
        positives = row.positives if row else ()
        self._num_positives.append(len(positives))
        for passage in positives:
            self._positives.extend(passage.keys)

    def finish(self) -> RowIndex:
        """Return the index of the rows."""
        # Views of what was collected: a file of short rows has many.
        ids, contents = np.asarray(self._ids), np.asarray(self._contents)
        has_title = np.asarray(self._has_title).astype(bool)
        rows = np.repeat(np.arange(len(self._questions), dtype=np.int32), np.asarray(self._num_ids))
        order = np.lexsort((contents, ~has_title, ids))  # stable, so the first row of equal entries comes first
        ids, contents, has_title, rows = ids[order], contents[order], has_title[order], rows[order]
        is_new = np.ones(len(ids), bool)
        is_new[1:] = (ids[1:] != ids[:-1]) | (contents[1:] != contents[:-1])
        return RowIndex(
            ids[is_new],
            contents[is_new],
            has_title[is_new],
            rows[is_new],
            np.asarray(self._questions),
            np.asarray(self._positives).reshape(-1, 2),
            np.concatenate([[0], np.cumsum(self._num_positives, dtype=np.int64)]),
            np.asarray(self._question_ids),
        )


def id_key(passage_id: str) -> int:
    """Return 64 bits that stand for a passage id. A number stands for itself, which is faster than a hash."""
    is_number = passage_id.isdecimal() and len(passage_id) < 19 and passage_id.isascii() and passage_id[0] != "0"
    return int(passage_id) if is_number else text_key(passage_id)


def hash_contents(titles: Iterable[str], texts: Iterable[str]) -> Iterator[int]:
    """Yield 32 bits that stand for each title with its text.

    The check of a file needs them for every passage, so they come from a fast function.
    """
    return map(crc32, map(str.encode, texts), map(crc32, map(str.encode, titles)))
