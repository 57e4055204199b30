"""Choose the hard negatives of one question: passages that a search ranks high but that do not answer it.

The candidates come from TREC runs, so you can change a filter without a new search. Every candidate is either chosen
or rejected with a reason, until there are enough negatives. ``text/retrieval/mining.py`` mines all rows of a file.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping, Sequence
from itertools import chain
from typing import NamedTuple

from text.evaluation import has_answer, rank_passages
from text.records import Passage
from text.retrieval.filters import Filters, find_highest_score, measure_overlap, normalize_text

OTHER_ROW, HOLDS_ANSWER = "a positive of another row", "holds an answer"
NO_TEXT, TEXT_OF_POSITIVE = "no text", "text of a positive"
NEAR_POSITIVE, NEAR_TAKEN = "near a positive", "near one that is taken"
NEAR_BY_TEACHER = "teacher scores it near the positive"


class Source(NamedTuple):
    """The candidates of one question from one run."""

    name: str
    """Name of the run, which each negative records."""
    scores: Mapping[str, float]
    """Score of each candidate by passage id."""
    number: int
    """Number of negatives to choose from this run."""


class Negative(NamedTuple):
    """A candidate that was chosen as a hard negative."""

    passage: Passage
    source: str
    """Name of the source."""
    rank: int
    """Rank in the source, counted from 1."""
    score: float
    """Score in the source."""
    teacher_score: float | None = None
    """Score by the teacher. None without a teacher."""


class RejectedCandidate(NamedTuple):
    """A candidate that was not chosen."""

    passage_id: str
    source: str
    """Name of the source."""
    rank: int
    """Rank in the source, counted from 1."""
    score: float
    """Score in the source."""
    reason: str
    """Reason for the rejection, such as "holds an answer"."""
    teacher_score: float | None = None
    """Score by the teacher. None if the teacher was not asked."""


class Choice(NamedTuple):
    """The hard negatives of one question."""

    negatives: list[Negative]
    rejected: list[RejectedCandidate]
    positive_scores: list[float]
    """Scores of the positives by the teacher. Empty without a teacher."""


ChoiceSteps = Generator[Sequence[Passage], Sequence[float], Choice]
"""Generator that yields passages and receives the teacher's scores of these passages. It returns the choice."""


def choose_hard_negatives(
    positives: Sequence[Passage],
    answers: Sequence[str],
    sources: Sequence[Source],
    find: Callable[[str], Passage],
    filters: Filters,
    *,
    regular_expressions: bool = False,
    same_question_positives: Sequence[tuple[int, int]] = (),
    slow: set[str] | None = None,
    score: Callable[[Sequence[Passage]], Sequence[float]] | None = None,
) -> tuple[list[Negative], list[RejectedCandidate]]:
    """Choose the hard negatives of one question, and return them with the rejected candidates.

    The sources are used in order. The candidates of a source are tried by rank until it has given its number of
    negatives.

    Args:
        positives: All known positives. Margins are relative to the score of the first one.
        answers: Answer strings. With ``filters.answers``, passages that contain one are rejected.
        sources: The candidates.
        find: Function that returns a passage by its id, such as ``PassageCollection.find``.
        filters: Conditions that a negative must meet.
        regular_expressions: Treat the answers as regular expressions.
        same_question_positives: ``Passage.keys`` of the positives of other rows with the same question.
        slow: Set that collects the regular expressions that time out. A timeout counts as no match.
        score: Function that returns a teacher's scores of passages for this question. It is called for the positives,
            and then for candidates that pass all other filters, only as many as are needed.

    Raises:
        KeyError: ``find`` does not know a candidate.
        ValueError: A filter needs the scores of a teacher, and ``score`` is None.

    >>> passages = {"p": Passage("p", "", "a beetle ate"), "n": Passage("n", "", "a fig fell")}
    >>> negatives, rejected = choose_hard_negatives(
    ...     [passages["p"]], ["beetle"], [Source("bm25", {"p": 2.0, "n": 1.0}, 1)], passages.__getitem__, Filters()
    ... )
    >>> negatives[0].passage.passage_id, rejected[0].reason
    ('n', 'a positive')
    """
    if filters.needs_teacher and score is None:
        raise ValueError("teacher_margin and teacher_relative_margin need a teacher. Give score.")
    steps = choose_in_steps(
        positives,
        answers,
        sources,
        find,
        filters,
        regular_expressions=regular_expressions,
        same_question_positives=same_question_positives,
        slow=slow,
        has_teacher=score is not None,
    )
    try:
        passages = next(steps)
        while score is not None:
            passages = steps.send(score(passages))
    except StopIteration as end:
        return end.value.negatives, end.value.rejected
    raise AssertionError("a choice without a teacher asks for no scores")


def choose_in_steps(
    positives: Sequence[Passage],
    answers: Sequence[str],
    sources: Sequence[Source],
    find: Callable[[str], Passage],
    filters: Filters,
    *,
    regular_expressions: bool = False,
    same_question_positives: Sequence[tuple[int, int]] = (),
    slow: set[str] | None = None,
    has_teacher: bool = False,
) -> ChoiceSteps:
    """Choose the hard negatives of one question in steps, so that the caller scores several questions together.

    Arguments are as for ``choose_hard_negatives``. Without ``has_teacher``, there is only the last step.
    """
    texts = [normalize_text(passage.text) for passage in positives]
    own_keys = set(chain.from_iterable(passage.keys for passage in positives)) if same_question_positives else set()
    known_keys = set(chain.from_iterable(same_question_positives)) - own_keys

    def check(passage: Passage) -> str | None:
        if known_keys and not known_keys.isdisjoint(passage.keys):
            return OTHER_ROW
        return _reject_by_text(passage, texts, answers, filters, regular_expressions, slow)

    positive_scores = list((yield positives)) if has_teacher else []
    score = positive_scores[0] if positive_scores else None
    highest = find_highest_score(score, filters.teacher_margin, filters.teacher_relative_margin)
    chooser = _Chooser(positives, find, filters, check)
    for source in sources:
        chooser.start(source)
        for rank, passage_id in chooser.ranking:
            if len(chooser.taken) == chooser.num_wanted:
                break
            reason = chooser.reject(rank, passage_id)
            if reason is None and has_teacher and passage_id not in chooser.teacher_scores:
                block = chooser.list_unscored(rank)
                scores = yield block
                chooser.teacher_scores |= zip([each.passage_id for each in block], scores, strict=True)
            if reason is None and has_teacher and (highest is None or chooser.teacher_scores[passage_id] > highest):
                reason = NEAR_BY_TEACHER
            chooser.add(rank, passage_id, reason)
    return Choice(chooser.taken, chooser.rejected, positive_scores)


class _Chooser:
    """The candidates of one question so far. The text of each candidate is read and checked once."""

    def __init__(
        self,
        positives: Sequence[Passage],
        find: Callable[[str], Passage],
        filters: Filters,
        check: Callable[[Passage], str | None],
    ) -> None:
        self.taken: list[Negative] = []
        self.rejected: list[RejectedCandidate] = []
        self.teacher_scores: dict[str, float] = {}
        self.ranking: list[tuple[int, str]] = []
        """Ranks and ids of the candidates of the current source."""
        self.num_wanted = 0
        """Number of negatives from this source and all earlier sources."""
        self._positives, self._find, self._filters, self._check = positives, find, filters, check
        self._known = {passage.passage_id for passage in positives} - {""}
        self._checked: dict[str, tuple[Passage, str | None]] = {}

    def start(self, source: Source) -> None:
        """Begin with the candidates of a source."""
        self._source = source
        self.num_wanted = len(self.taken) + source.number
        self.ranking = list(enumerate(rank_passages(source.scores), start=1))
        score = source.scores.get(self._positives[0].passage_id) if self._positives else None
        self._highest = find_highest_score(score, self._filters.margin, self._filters.relative_margin)

    def reject(self, rank: int, passage_id: str) -> str | None:
        """Return the reason to reject a candidate, without regard to the teacher. None if it passes."""
        reason = self._reject_by_numbers(rank, passage_id)
        if reason is not None:
            return reason
        if passage_id not in self._checked:
            passage = self._find(passage_id)
            self._checked[passage_id] = passage, self._check(passage)
        passage, reason = self._checked[passage_id]
        return reason or (NEAR_TAKEN if self._is_near_taken(passage) else None)

    def list_unscored(self, rank: int) -> list[Passage]:
        """Return candidates from a rank on that pass all filters except the teacher's, up to the missing number."""
        found: list[Passage] = []
        for other, passage_id in self.ranking[rank - 1 :]:
            if len(found) == self.num_wanted - len(self.taken):
                break
            if passage_id not in self.teacher_scores and self.reject(other, passage_id) is None:
                found.append(self._checked[passage_id][0])
        return found

    def add(self, rank: int, passage_id: str, reason: str | None) -> None:
        """Add a candidate to the negatives, or to the rejected candidates if there is a reason."""
        score, teacher_score = self._source.scores[passage_id], self.teacher_scores.get(passage_id)
        if reason is None:
            passage = self._checked[passage_id][0]
            self.taken.append(Negative(passage, self._source.name, rank, score, teacher_score))
        else:
            self.rejected.append(RejectedCandidate(passage_id, self._source.name, rank, score, reason, teacher_score))

    def _reject_by_numbers(self, rank: int, passage_id: str) -> str | None:
        filters, score = self._filters, self._source.scores[passage_id]
        if passage_id in self._known:
            return "a positive"
        if any(passage_id == negative.passage.passage_id for negative in self.taken):
            return "taken already"
        if not filters.first_rank <= rank <= filters.last_rank:
            return "outside the ranks"
        if filters.min_score is not None and score < filters.min_score:
            return "score too low"
        if filters.max_score is not None and score > filters.max_score:
            return "score too high"
        if self._highest is None:
            return "no score of the positive"
        return "within the margin" if score > self._highest else None

    def _is_near_taken(self, passage: Passage) -> bool:
        text, most = normalize_text(passage.text), self._filters.max_overlap
        return any(measure_overlap(text, normalize_text(each.passage.text)) > most for each in self.taken)


def _reject_by_text(
    passage: Passage,
    texts: Sequence[str],
    answers: Sequence[str],
    filters: Filters,
    regular_expressions: bool,
    slow: set[str] | None,
) -> str | None:
    """Return the reason to reject a candidate by its text. None if it passes."""
    text = normalize_text(passage.text)
    if not text:
        return NO_TEXT
    if text in texts:
        return TEXT_OF_POSITIVE
    if filters.answers and has_answer(answers, passage.text, regular_expressions=regular_expressions, slow=slow):
        return HOLDS_ANSWER
    return NEAR_POSITIVE if any(measure_overlap(text, other) > filters.max_overlap for other in texts) else None
