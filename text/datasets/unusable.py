"""Unusable rows and their reasons, stored in 12 bytes per row."""

from __future__ import annotations

from array import array
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence

import numpy as np

from text.datasets.formats.values import split_reason

_NUM_DETAILED = 1000
"""Number of rows whose details are stored. Errors list only the first twenty rows."""
_NUM_REASONS = 10_000
"""Maximum number of different reasons."""
_OTHER = "another fault"
"""Reason that replaces all further reasons after the maximum number."""


class UnusableRows(Mapping[int, str]):
    """Mapping of each unusable row to the reason why it is unusable, in ascending order of rows.

    Args:
        rows: (N,) numbers of the rows.
        codes: (N,) position of the reason of each row in ``reasons``.
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

    def exclude_reasons(self, reasons: Iterable[str]) -> UnusableRows:
        """Return the rows that have none of these reasons."""
        codes = [code for code, reason in enumerate(self.reasons) if reason in set(reasons)]
        is_kept = ~np.isin(self.codes, codes)
        return UnusableRows(self.rows[is_kept], self.codes[is_kept], self.reasons)

    def add_rows(self, rows: np.ndarray, reason: str) -> UnusableRows:
        """Return these rows together with further rows that share one reason."""
        order = np.argsort(rows := np.concatenate([self.rows, rows]))
        codes = np.full(len(rows), len(self.reasons), np.int32)
        codes[: len(self)] = self.codes
        return UnusableRows(rows[order], codes[order], [*self.reasons, reason])

    def merge(self, others: Mapping[int, str]) -> UnusableRows:
        """Return these rows together with a few others."""
        reasons = list(dict.fromkeys([*self.reasons, *others.values()]))
        rows = np.concatenate([self.rows, np.fromiter(others, np.int64)])
        codes = np.concatenate([self.codes, np.fromiter(map(reasons.index, others.values()), np.int32)])
        order = np.argsort(rows)
        return UnusableRows(rows[order], codes[order], reasons)


class UnusableBuilder:
    """Builder of UnusableRows, which takes unusable rows in ascending order."""

    def __init__(self) -> None:
        self._rows, self._codes = array("q"), array("i")
        self._reasons: dict[str, int] = {}

    def add(self, row: int, reason: str) -> None:
        """Add the next unusable row."""
        if len(self._rows) >= _NUM_DETAILED:
            reason = reason.removesuffix(f". {split_reason(reason).details}")
        if reason not in self._reasons and len(self._reasons) >= _NUM_REASONS:
            reason = _OTHER
        self._rows.append(row)
        self._codes.append(self._reasons.setdefault(reason, len(self._reasons)))

    def finish(self) -> UnusableRows:
        """Return all added rows."""
        return UnusableRows(self._rows, self._codes, list(self._reasons))
