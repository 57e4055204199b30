"""The result of mining: one record per row, counts over all rows, and a sample of negatives to inspect."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from random import Random
from typing import Any, NamedTuple

from text.datasets.dpr_rows import Record
from text.records import Passage
from text.retrieval.hard_negatives import Negative, RejectedCandidate
from text.words import has_unspaced_script

_SAMPLE_SIZE = 10
"""Number of negatives in the sample."""


class MinedRow(NamedTuple):
    """A training row with its mined negatives and the rejected candidates."""

    question_id: str
    record: Record
    """The row with the new negatives."""
    positives: list[Passage]
    negatives: list[Negative]
    rejected: list[RejectedCandidate]
    answers: Sequence[str] = ()


class MiningSummary:
    """Counts over all mined rows, and a random sample of negatives.

    Args:
        num_wanted: Number of negatives that each row should get.
        unusable: Number of rows that training cannot use, by reason.
        seed: Seed of the sample.
    """

    def __init__(self, num_wanted: int, unusable: Counter[str], seed: int = 0) -> None:
        self.num_wanted, self.unusable = num_wanted, unusable
        self.num_rows = self.num_short = 0
        """Number of rows, and number of rows that got fewer negatives than wanted."""
        self.num_unspaced = 0
        """Rows with an answer in a script without spaces. Such an answer is matched as a substring."""
        self.num_without_answers = 0
        """Rows without answers. Their candidates cannot be checked for answers."""
        self.slow = set[str]()
        """Regular expressions of answers that timed out. A timeout counts as no match."""
        self.negatives = Counter[str]()
        """Number of negatives by source."""
        self.rejected, self.rejected_in_short_rows = Counter[str](), Counter[str]()
        """Number of rejected candidates by reason, in all rows and in rows with too few negatives."""
        self.sample: list[tuple[MinedRow, Negative]] = []
        """Negatives with their rows, each with the same probability."""
        self._random = Random(seed)

    def add(self, row: MinedRow) -> None:
        """Add a row to the counts and to the sample."""
        is_short = len(row.negatives) < self.num_wanted
        self.num_rows, self.num_short = self.num_rows + 1, self.num_short + is_short
        self.num_unspaced += any(map(has_unspaced_script, row.answers))
        self.num_without_answers += not row.answers
        self.rejected.update(candidate.reason for candidate in row.rejected)
        self.rejected_in_short_rows.update(candidate.reason for candidate in row.rejected if is_short)
        for negative in row.negatives:  # Reservoir sampling (Vitter 1985).
            self.negatives[negative.source] += 1
            if len(self.sample) < _SAMPLE_SIZE:
                self.sample.append((row, negative))
            elif (place := self._random.randrange(self.negatives.total())) < _SAMPLE_SIZE:
                self.sample[place] = (row, negative)

    def to_json(self) -> dict[str, Any]:
        """Return the counts in the form of ``OUTPUT.summary.json``, without the inputs and options."""
        return {
            "rows": self.num_rows,
            "rows_left_out": dict(self.unusable),
            "rows_with_too_few": self.num_short,
            "rows_with_answers_matched_as_strings": self.num_unspaced,
            "rows_without_answers": self.num_without_answers,
            "slow_regular_expressions": sorted(self.slow),
            "negatives": dict(self.negatives),
            "rejected": dict(self.rejected.most_common()),
            "rejected_where_too_few": dict(self.rejected_in_short_rows.most_common()),
        }
