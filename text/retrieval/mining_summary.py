"""The result of mining: one record per row, counts over all rows, and a sample of negatives to inspect."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from random import Random
from typing import Any, NamedTuple

from text.datasets.dpr_rows import Record, format_counts
from text.evaluation import has_answer
from text.evaluation.negative_audit import ANSWERS, CANDIDATES, NEGATIVES, OTHER_ROWS, TEACHER, EvidenceCounts
from text.records import Passage
from text.retrieval.hard_negatives import (
    HOLDS_ANSWER,
    NEAR_BY_TEACHER,
    NEAR_POSITIVE,
    NEAR_TAKEN,
    NO_TEXT,
    OTHER_ROW,
    TEXT_OF_POSITIVE,
    Negative,
    RejectedCandidate,
)
from text.words import has_unspaced_script

_SAMPLE_SIZE = 10
"""Number of negatives in the sample."""
_MATCHED = {HOLDS_ANSWER, NEAR_POSITIVE, NEAR_TAKEN, NEAR_BY_TEACHER}
"""Reasons of candidates whose text was compared with the answers."""
_READ = _MATCHED | {OTHER_ROW, NO_TEXT, TEXT_OF_POSITIVE}
"""Reasons of candidates that were compared with the positives of other rows."""


class MinedRow(NamedTuple):
    """A training row with its mined negatives and the rejected candidates."""

    question_id: str
    record: Record
    """The row with the new negatives."""
    positives: list[Passage]
    negatives: list[Negative]
    rejected: list[RejectedCandidate]
    answers: Sequence[str] = ()
    positive_scores: Sequence[float] = ()
    """Scores of the positives by the teacher. Empty without a teacher."""
    has_same_question: bool = False
    """True if another row has the same question."""
    regular_expressions: bool = False
    """True if the answers are regular expressions."""


class MiningSummary:
    """Counts over all mined rows, and a random sample of negatives.

    Args:
        num_wanted: Number of negatives that each row should get.
        unusable: Number of rows that training cannot use, by reason.
        seed: Seed of the sample.
        checks_answers: True if the filters rejected all passages with an answer.
    """

    def __init__(self, num_wanted: int, unusable: Counter[str], seed: int = 0, *, checks_answers: bool = True) -> None:
        self.num_wanted, self.unusable, self.checks_answers = num_wanted, unusable, checks_answers
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
        self.evidence = EvidenceCounts()
        """Evidence of false negatives."""
        self._random = Random(seed)

    def add(self, row: MinedRow) -> None:
        """Add a row to the counts and to the sample."""
        is_short = len(row.negatives) < self.num_wanted
        self.num_rows, self.num_short = self.num_rows + 1, self.num_short + is_short
        self.num_unspaced += any(map(has_unspaced_script, row.answers))
        self.num_without_answers += not row.answers
        self.rejected.update(candidate.reason for candidate in row.rejected)
        self.rejected_in_short_rows.update(candidate.reason for candidate in row.rejected if is_short)
        self._add_evidence(row)
        for negative in row.negatives:  # Reservoir sampling (Vitter 1985).
            self.negatives[negative.source] += 1
            if len(self.sample) < _SAMPLE_SIZE:
                self.sample.append((row, negative))
            elif (place := self._random.randrange(self.negatives.total())) < _SAMPLE_SIZE:
                self.sample[place] = (row, negative)

    def _add_evidence(self, row: MinedRow) -> None:
        """Count the candidates and the negatives that other rows, the answers or the teacher call positive.

        Each filter sees only the candidates that earlier filters passed, so each kind has other candidates. A
        passage that several sources found counts once.
        """
        add, taken_ids = self.evidence.add, {negative.passage.passage_id for negative in row.negatives}
        others = [candidate for candidate in row.rejected if candidate.passage_id not in taken_ids]
        read, matched = (
            {each.passage_id: each.reason for each in others if each.reason in known} for known in (_READ, _MATCHED)
        )
        taken = len(row.negatives) * [False]
        if row.has_same_question:
            add(OTHER_ROWS, CANDIDATES, [*taken, *(each == OTHER_ROW for each in read.values())])
            add(OTHER_ROWS, NEGATIVES, taken)
        if row.answers:
            answering = [self._holds_answer(row, negative) for negative in row.negatives]
            rejected = [each == HOLDS_ANSWER for each in matched.values() if self.checks_answers]
            add(ANSWERS, CANDIDATES, [*answering, *rejected])
            add(ANSWERS, NEGATIVES, answering)
        if row.positive_scores:
            above = [(each.teacher_score or 0.0) > row.positive_scores[0] for each in row.negatives]
            scored = {each.passage_id: each.teacher_score for each in others if each.teacher_score is not None}
            add(TEACHER, CANDIDATES, [*above, *(score > row.positive_scores[0] for score in scored.values())])
            add(TEACHER, NEGATIVES, above)

    def _holds_answer(self, row: MinedRow, negative: Negative) -> bool:
        options = {"regular_expressions": row.regular_expressions, "slow": self.slow}
        return not self.checks_answers and has_answer(row.answers, negative.passage.text, **options)

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


def describe_summary(output: str, summary: MiningSummary) -> Iterator[str]:
    """Yield lines with the counts, the reasons for rejection, the evidence of false negatives, and the sample.

    Args:
        output: File of the mined rows.
        summary: Their summary.
    """
    short = f"{summary.num_short} with fewer than {summary.num_wanted} negatives"
    yield f"{output}: {summary.num_rows} rows, {short}{format_counts(summary.unusable)}"
    if summary.num_unspaced:
        yield f"{summary.num_unspaced} rows have answers in a script without spaces, which are matched as substrings"
    if summary.slow:
        yield f"{len(summary.slow)} regular expressions took too long and count as not found"
    yield from (f"{count:>10} from {source}" for source, count in summary.negatives.items())
    yield f"\n{'rejected':>10} {'of short rows':>14}  reason"
    for reason, count in summary.rejected.most_common():
        yield f"{count:>10} {summary.rejected_in_short_rows[reason]:>14}  {reason}"
    checked = [evidence for evidence in summary.evidence.estimate() if evidence.checked]
    if checked:
        yield "\nprobable false negatives, with the 95 % Wilson interval of their share"
    yield from (f"{evidence.among:>14}: {evidence}" for evidence in checked)
    for row, negative in summary.sample:
        by_teacher = "" if negative.teacher_score is None else f", teacher {negative.teacher_score:.4f}"
        place = f"[{negative.source} {negative.rank}, {negative.score:.4f}{by_teacher}]"
        yield f"\nquestion  {row.record['question']}\npositive  {row.positives[0].text[:200]}"
        yield f"negative  {negative.passage.text[:200]}  {place}"
