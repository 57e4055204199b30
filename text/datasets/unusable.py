"""Rows that no batch can hold, and why: 12 bytes a row, however many there are."""

from __future__ import annotations

from array import array
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence

import numpy as np

from text.datasets.formats.values import split_reason

_NUM_DETAILED = 1000
"""Rows whose details are kept. Errors list the first twenty rows."""
_NUM_REASONS = 10_000
_OTHER = "another fault"
"""Stands for all reasons after so many different ones."""


class UnusableRows(Mapping[int, str]):
    """Why each row cannot be used, by its number, in ascending order.

    Args:
        rows: Numbers of the rows.
        codes: The place of each row's reason among the reasons.
        reasons: The different reasons.
    """

    def __init__(
        self, rows: Sequence[int] | np.ndarray, codes: Sequence[int] | np.ndarray, reasons: Sequence[str]
    ) -> None:
        self.rows, self.codes, self.reasons = np.asarray(rows, np.int64), np.asarray(codes, np.int32), list(reasons)

    def __len__(self) -> int:
        return len(self.rows)

    def __iter__(self) -> Iterator[int]:
        return iter(self.rows.tolist())

    def __getitem__(self, row: int) -> str:
        place = bisect_left(self.rows, row)
        if place == len(self.rows) or self.rows[place] != row:
            raise KeyError(row)
        return self.reasons[self.codes[place]]

    def count_reasons(self) -> Counter[str]:
        """Return the number of rows with each reason."""
        counts = np.bincount(self.codes, minlength=len(self.reasons)).tolist()
        return +Counter(dict(zip(self.reasons, counts, strict=True)))

    def without(self, reasons: Iterable[str]) -> UnusableRows:
        """Return the rows that have none of these reasons."""
        codes = [code for code, reason in enumerate(self.reasons) if reason in set(reasons)]
        is_kept = ~np.isin(self.codes, codes)
        return UnusableRows(self.rows[is_kept], self.codes[is_kept], self.reasons)

    def with_rows(self, rows: np.ndarray, reason: str) -> UnusableRows:
        """Return these rows and others, which all have one reason."""
        order = np.argsort(rows := np.concatenate([self.rows, rows]))
        codes = np.full(len(rows), len(self.reasons), np.int32)
        codes[: len(self)] = self.codes
        return UnusableRows(rows[order], codes[order], [*self.reasons, reason])

    def merge(self, others: Mapping[int, str]) -> UnusableRows:
        """Return these rows and a few other ones."""
        reasons = list(dict.fromkeys([*self.reasons, *others.values()]))
        rows = np.concatenate([self.rows, np.fromiter(others, np.int64)])
        codes = np.concatenate([self.codes, np.fromiter(map(reasons.index, others.values()), np.int32)])
        order = np.argsort(rows)
        return UnusableRows(rows[order], codes[order], reasons)


class UnusableBuilder:
    """Collects unusable rows in their order."""

    def __init__(self) -> None:
        self._rows, self._codes = array("q"), array("i")
        self._reasons: dict[str, int] = {}

    def add(self, row: int, reason: str) -> None:
        """Add the next row."""
        if len(self._rows) >= _NUM_DETAILED:
            reason = reason.removesuffix(f". {split_reason(reason).details}")
        if reason not in self._reasons and len(self._reasons) >= _NUM_REASONS:
            reason = _OTHER
        self._rows.append(row)
        self._codes.append(self._reasons.setdefault(reason, len(self._reasons)))

    def finish(self) -> UnusableRows:
        """Return the rows."""
        return UnusableRows(self._rows, self._codes, list(self._reasons))
