"""Mine the rows of a file one after the other, or in groups whose passages a teacher scores together."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from typing import NamedTuple

from text.datasets import DPRFile, PassageCollection, Question, read_questions
from text.datasets.dpr_file import BLANK
from text.datasets.dpr_rows import Record, passage_to_context, replace_contexts
from text.datasets.formats.dpr_record import POOLS, iter_pool_passages
from text.datasets.same_questions import SameQuestions
from text.errors import DataError
from text.evaluation import Run
from text.progress import track
from text.records import Passage
from text.retrieval.filters import Filters
from text.retrieval.hard_negatives import Choice, ChoiceSteps, Negative, Source, choose_in_steps
from text.retrieval.kept_scores import to_json_number
from text.retrieval.mining_summary import MinedRow
from text.retrieval.teachers import Teacher

_GROUP = 64
"""Rows whose passages a teacher scores together."""


class RowForm(NamedTuple):
    """Order of mined rows and of their positives, and the fields that they get."""

    score_key: str | None = None
    """Name of the field with the teacher's score. None without a teacher."""
    round_name: str | None = None
    """Round of mining, which each negative records."""
    best_positive_first: bool = False
    """Sort the positives of a row by their scores in the first run."""
    sort_by_title: bool = False
    """Sort the rows by the title of their first positive."""


class MiningTask(NamedTuple):
    """A row to mine."""

    question: Question
    record: Record
    places: list[int]
    """Places of the positives among the contexts of the record. Other contexts have no text."""
    positives: list[Passage]
    answers: list[str]
    has_same_question: bool
    """True if another row has the same question."""
    steps: ChoiceSteps


def pair_with_rows(file: DPRFile) -> list[tuple[Question, int]]:
    """Return all questions with the numbers of their rows, usable or not. Blank lines are skipped."""
    rows = [row for row in range(len(file.rows)) if file.findings.unusable.get(row) != BLANK]
    return list(zip(read_questions(file.path), rows, strict=True))


def mine_rows(tasks: Iterator[MiningTask], form: RowForm, teacher: Teacher | None = None) -> Iterator[MinedRow]:
    """Yield the mined rows. With a teacher, a few rows are mined together, so that it scores many passages in a call.

    Args:
        tasks: The rows, from ``read_tasks``. Their ``has_teacher`` must be true if there is a teacher.
        form: Form of the rows.
        teacher: Model that scores positives and candidates.
    """
    while group := list(islice(tasks, 1 if teacher is None else _GROUP)):
        for task, choice in zip(group, _finish_together(group, teacher), strict=True):
            yield _build_row(task, choice, form)


def read_tasks(
    file: DPRFile,
    questions: Sequence[tuple[Question, int]],
    collection: PassageCollection,
    runs: Sequence[tuple[str, Run, int]],
    filters: Filters,
    form: RowForm,
    *,
    slow: set[str],
    has_teacher: bool,
) -> Iterator[MiningTask]:
    """Yield the usable rows in the order of the output.

    Args:
        file: The rows.
        questions: Questions with the numbers of their rows (``pair_with_rows``).
        collection: The searched passages.
        runs: Name, run and number of negatives of each source.
        filters: Conditions that a negative must meet.
        form: Form of the rows.
        slow: Set that collects the regular expressions that time out.
        has_teacher: A teacher will score the passages.
    """
    same_questions = SameQuestions([file.index])
    with file.open() as reader, file.rows.open() as lines:
        usable = [pair for pair in questions if pair[1] not in file.findings.unusable]
        if form.sort_by_title:
            usable.sort(key=lambda pair: reader.read(pair[1]).positives[0].title)
        for question, row in track(usable, "Mining", "rows"):
            read = reader.read(row)
            sources = [Source(name, run.get(question.question_id, {}), number) for name, run, number in runs]
            positives = _sort_by_score(read.positives, sources[0]) if form.best_positive_first else read.positives
            others = same_questions.find_positives(0, row)
            steps = choose_in_steps(
                positives,
                read.answers,
                sources,
                _build_finder(collection),
                filters,
                regular_expressions=question.regular_expressions,
                same_question_positives=others or (),
                slow=slow,
                has_teacher=has_teacher,
            )
            parsed = lines.parse(row)
            places = [i for pool, i, _ in iter_pool_passages(parsed, collection) if pool == POOLS[0]]
            yield MiningTask(question, parsed.as_dict(), places, positives, read.answers, others is not None, steps)


def _finish_together(group: Sequence[MiningTask], teacher: Teacher | None) -> list[Choice]:
    """Return the choice of each row. The teacher scores the passages that all rows wait for in one call."""
    choices: dict[int, Choice] = {}
    waiting: dict[int, Sequence[Passage]] = {}

    def resume(place: int, scores: Sequence[float] | None) -> None:
        try:
            waiting[place] = next(group[place].steps) if scores is None else group[place].steps.send(scores)
        except StopIteration as end:
            choices[place] = end.value

    for place in range(len(group)):
        resume(place, None)
    while waiting:
        assert teacher is not None, "only a choice with a teacher waits for scores"
        asked, waiting = waiting, {}
        questions = [group[place].question.text for place, passages in asked.items() for _ in passages]
        found = iter(teacher.score(questions, [each for passages in asked.values() for each in passages]))
        for place, passages in asked.items():
            resume(place, [to_json_number(score) for score in islice(found, len(passages))])
    return [choices[place] for place in range(len(group))]


def _build_row(task: MiningTask, choice: Choice, form: RowForm) -> MinedRow:
    contexts, places = task.record.get(POOLS[0]), task.places
    if form.best_positive_first or not contexts:
        contexts, places = [passage_to_context(each) for each in task.positives], list(range(len(task.positives)))
    if form.score_key is not None:
        if isinstance(task.record.get(form.score_key), dict):  # The scores of a compact row.
            del task.record[form.score_key]
        for place, score in zip(places, choice.positive_scores, strict=True):
            contexts[place][form.score_key] = score
    negatives = [_negative_to_context(each, form) for each in choice.negatives]
    return MinedRow(
        task.question.question_id,
        replace_contexts(task.record, contexts, negatives),
        task.positives,
        choice.negatives,
        choice.rejected,
        task.answers,
        positive_scores=choice.positive_scores,
        has_same_question=task.has_same_question,
        regular_expressions=task.question.regular_expressions,
    )


def _negative_to_context(negative: Negative, form: RowForm) -> Record:
    context = passage_to_context(negative.passage)
    context |= {"score": negative.score, "rank": negative.rank, "source": negative.source}
    context |= {} if form.round_name is None else {"round": form.round_name}
    return context if form.score_key is None else context | {form.score_key: negative.teacher_score}


def _sort_by_score(positives: Sequence[Passage], source: Source) -> list[Passage]:
    """Return the positives by score, best first. Positives without a score come last. The sort is stable."""
    return sorted(positives, key=lambda passage: -source.scores.get(passage.passage_id, -math.inf))


def _build_finder(collection: PassageCollection) -> Callable[[str], Passage]:
    """Return the function that finds a passage of the collection by its id."""

    def find(passage_id: str) -> Passage:
        try:
            return collection.find(passage_id)
        except KeyError:
            raise DataError(
                f"{collection.path}: no passage {passage_id}, but a run contains it. Use the collection that was "
                "searched."
            ) from None

    return find
