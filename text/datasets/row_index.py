"""RowIndex: hashes of the passages and questions in the rows of a file, as compact arrays.

The check of a file builds the index. Four parts use it:

- ``text/datasets/identities.py`` finds ids that belong to two different passages.
- ``text/datasets/same_questions.py`` finds rows with the same question.
- ``text/datasets/held_out.py`` keeps rows of one question together when it holds out validation data.
- ``dpr-text check`` finds the content that two files share.

Dimensions: R rows of the file; N distinct pairs of id and content; M positives of all rows.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple
from zlib import crc32

import numpy as np

from text.datasets.formats.dpr_record import Row
from text.records import Passage, hash_question, hash_text


class RowIndex(NamedTuple):
    """Hashes of the questions and passages of a file."""

    ids: np.ndarray
    """(N,) int64, ``hash_passage_id`` of passage ids, in ascending order."""
    contents: np.ndarray
    """(N,) uint32, hash of the title and text of the passage with each id."""
    has_title: np.ndarray
    """(N,) bool. Among entries with the same id, those with a title come first."""
    rows: np.ndarray
    """(N,) int32, first row with this pair of id and content."""
    questions: np.ndarray
    """(R,) int64, ``hash_question`` of each row; 0 for an unusable row."""
    positives: np.ndarray
    """(M, 2) int64, ``Passage.keys`` of all positives, in the order of rows."""
    positive_ends: np.ndarray
    """(R + 1,) int64. The positives of row r are ``positives[positive_ends[r] : positive_ends[r + 1]]``."""
    question_ids: np.ndarray
    """(R,) int64, ``hash_text`` of the question id of each row; 0 for a row without a question id."""

    @property
    def has_row(self) -> np.ndarray:
        """(R,) bool, True for usable rows."""
        return np.diff(self.positive_ends) > 0


class IndexBuilder:
    """Builder of a RowIndex, which takes the rows of a file in order."""

    def __init__(self) -> None:
        self._ids, self._contents, self._has_title = array("q"), array("I"), array("b")
        self._questions, self._question_ids, self._positives = array("q"), array("q"), array("q")
        self._num_ids, self._num_positives = array("i"), array("i")  # Counts per row.

    def add_row(self, row: Row | None, passages: Sequence[Passage] = (), question_id: str = "") -> None:
        """Add the next row.

        Args:
            row: The row, or None for an unusable row.
            passages: All passages of a full row, including negatives. Empty for a compact row, whose passages are in a
                collection.
            question_id: Question id of the row, or empty.
        """
        named = [passage for passage in passages if passage.passage_id]
        if named:
            ids, titles, texts, _ = zip(*named, strict=True)
            self._ids.extend(map(hash_passage_id, ids))
            self._contents.extend(hash_contents(titles, texts))
            self._has_title.extend(map(bool, titles))
        self._num_ids.append(len(named))
        self._questions.append(hash_question(row.question) if row else 0)
        self._question_ids.append(hash_text(question_id) if question_id else 0)
        positives = row.positives if row else ()
        self._num_positives.append(len(positives))
        for passage in positives:
            self._positives.extend(passage.keys)

    def finish(self) -> RowIndex:
        """Return the index of the rows."""
        # A file of short rows has many entries, so these arrays are views.
        ids, contents = np.asarray(self._ids), np.asarray(self._contents)
        has_title = np.asarray(self._has_title).astype(bool)
        rows = np.repeat(np.arange(len(self._questions), dtype=np.int32), np.asarray(self._num_ids))
        order = np.lexsort((contents, ~has_title, ids))  # The sort is stable: the first of equal entries stays first.
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


def hash_passage_id(passage_id: str) -> int:
    """Return a 64-bit key of a passage id. A number is its own key, which is faster than a hash."""
    is_number = passage_id.isdecimal() and len(passage_id) < 19 and passage_id.isascii() and passage_id[0] != "0"
    return int(passage_id) if is_number else hash_text(passage_id)


def hash_contents(titles: Iterable[str], texts: Iterable[str]) -> Iterator[int]:
    """Yield a 32-bit hash of each title with its text.

    CRC-32 is used because it is fast, and the check of a file hashes every passage.
    """
    return map(crc32, map(str.encode, texts), map(crc32, map(str.encode, titles)))
