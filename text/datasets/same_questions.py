"""Rows with the same question. A positive of one such row must not be a negative of the others.

Data sets with one row per positive are common, for example for sentence-transformers.

Dimensions: R rows of all files; S rows whose question occurs in several rows; G such questions; K positives of these.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left
from collections.abc import Sequence
from itertools import accumulate

import numpy as np

from text.datasets.row_index import RowIndex


class SameQuestions:
    """Positives of all rows with the same question.

    Args:
        indexes: Index of each file of a pipe.
    """

    def __init__(self, indexes: Sequence[RowIndex]) -> None:
        questions = np.concatenate([index.questions for index in indexes])  # (R,)
        sizes = np.concatenate([np.diff(index.positive_ends) for index in indexes])  # (R,)
        positives = np.concatenate([index.positives for index in indexes])
        self._first_rows = [0, *accumulate(len(index.questions) for index in indexes)]
        usable = np.flatnonzero(sizes)
        _, group, num_rows = np.unique(questions[usable], return_inverse=True, return_counts=True)
        is_repeated = num_rows[group] > 1
        rows = usable[is_repeated]
        self._rows = array("q", rows.tobytes())  # (S,), ascending. An array is faster to bisect.
        self._groups = np.unique(group[is_repeated], return_inverse=True)[1]  # (S,), each below G
        keys = positives[np.repeat(np.isin(np.arange(len(questions)), rows), sizes)]
        key_groups = np.repeat(self._groups, sizes[rows])
        table = np.unique(np.column_stack([key_groups, keys]), axis=0)  # (K, 3), in the order of groups
        self._keys = table[:, 1:]
        self._ends = np.searchsorted(table[:, 0], np.arange(self._groups.max(initial=-1) + 2))  # (G + 1,)

    def find_positives(self, source: int, row: int) -> list[tuple[int, int]] | None:
        """Return the keys of the positives of all rows with the same question, or None if no other row has it.

        Args:
            source: Number of the file.
            row: Number of the row in the file.
        """
        number = self._first_rows[source] + row
        place = bisect_left(self._rows, number)
        if place == len(self._rows) or self._rows[place] != number:
            return None
        start, end = self._ends[self._groups[place] : self._groups[place] + 2]
        return [(by_id, by_content) for by_id, by_content in self._keys[start:end].tolist()]
