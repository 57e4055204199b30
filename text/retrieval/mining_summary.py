"""Mined rows, and the counts and the sample by which a person judges the mining."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from random import Random
from typing import Any, NamedTuple

from text.datasets.dpr_rows import Record
from text.records import Passage
from text.retrieval.hard_negatives import Negative, Rejected
from text.words import has_unspaced

_SAMPLE_SIZE = 10


class MinedRow(NamedTuple):
    """A training row and how its negatives were found."""

    question_id: str
    record: Record
    """The row with the new negatives."""
    positives: list[Passage]
    negatives: list[Negative]
    rejected: list[Rejected]
    answers: Sequence[str] = ()


class MiningSummary:
    """Counts of all mined rows, and a sample of negatives to look at.

    Args:
        num_wanted: Number of negatives that each row should get.
        unusable: Number of rows that training cannot use, by reason.
        seed: Seed of the sample.
    """

    def __init__(self, num_wanted: int, unusable: Counter[str], seed: int = 0) -> None:
        self.num_wanted, self.unusable = num_wanted, unusable
        self.num_rows = self.num_short = 0
        """Rows, and rows that got fewer negatives than wanted."""
        self.num_unspaced = 0
        """Rows with an answer in a script without spaces, which is matched as a string."""
        self.num_without_answers = 0
        """Rows without answers, for which no passage is rejected because it holds one."""
        self.slow = set[str]()
        """Answers, as regular expressions, that took too long in a passage, which counts as not found."""
        self.negatives = Counter[str]()
        """Number of negatives by source."""
        self.rejected, self.rejected_of_short = Counter[str](), Counter[str]()
        """Number of rejected candidates by reason, in all rows and in those that got too few negatives."""
        self.sample: list[tuple[MinedRow, Negative]] = []
        self._random = Random(seed)

    def add(self, row: MinedRow) -> None:
        """Count a row. Each negative of all rows gets into the sample with the same probability."""
        is_short = len(row.negatives) < self.num_wanted
        self.num_rows, self.num_short = self.num_rows + 1, self.num_short + is_short
        self.num_unspaced += any(map(has_unspaced, row.answers))
        self.num_without_answers += not row.answers
        self.rejected.update(candidate.reason for candidate in row.rejected)
        self.rejected_of_short.update(candidate.reason for candidate in row.rejected if is_short)
        for negative in row.negatives:  # Reservoir sampling (Vitter 1985).
            self.negatives[negative.source] += 1
            if len(self.sample) < _SAMPLE_SIZE:
                self.sample.append((row, negative))
            elif (place := self._random.randrange(self.negatives.total())) < _SAMPLE_SIZE:
                self.sample[place] = (row, negative)

    def to_json(self) -> dict[str, Any]:
        """Return the counts as ``OUTPUT.summary.json`` holds them, beside the inputs and options."""
        return {
            "rows": self.num_rows,
            "rows_left_out": dict(self.unusable),
            "rows_with_too_few": self.num_short,
            "rows_with_answers_matched_as_strings": self.num_unspaced,
            "rows_without_answers": self.num_without_answers,
            "slow_regular_expressions": sorted(self.slow),
            "negatives": dict(self.negatives),
            "rejected": dict(self.rejected.most_common()),
            "rejected_where_too_few": dict(self.rejected_of_short.most_common()),
        }
