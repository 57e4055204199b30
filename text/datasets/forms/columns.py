"""Conversion of rows with one text in each column: sentence-transformers data sets, and tables with named columns.

A column of positives or negatives may also hold a list of texts. Pairs with a label or score become positives and hard
negatives by a threshold, and neighbouring pairs of one question become one row.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

from text.datasets.formats.values import FieldError, describe_type
from text.datasets.forms.fields import (
    SCORE,
    build_passages,
    build_row,
    describe_score,
    is_number,
    parse_number,
    read_question,
    read_texts,
)
from text.datasets.forms.records import Record
from text.errors import UsageError

QUESTION_NAMES = ("anchor", "question", "query", "sentence", "sentence1")
POSITIVE_NAMES = ("positive", "positives", "sentence2")
NEGATIVE_NAME = re.compile(r"(hard_)?negatives?(_\d+)?")
SCORE_NAMES = ("label", "labels", "score", "scores")
ROLES = ("question", "positive", "negative", "score", "question_id", "answers", "positive_id", "positive_title")
"""Keys of ``--columns``."""


class Columns(NamedTuple):
    """Columns of a table by their role."""

    question: str
    positive: str
    negatives: tuple[str, ...] = ()
    score: str | None = None
    """Label or score of the positive. It decides by a threshold whether the text is a positive or a hard negative."""
    question_id: str | None = None
    answers: str | None = None
    positive_id: str | None = None
    positive_title: str | None = None


def find_columns(names: Iterable[str]) -> list[Columns]:
    """Return the columns with the usual names. An empty list means that question or positive is missing.

    Several results mean that the names are ambiguous.
    """
    names = list(names)
    negatives = tuple(name for name in names if NEGATIVE_NAME.fullmatch(name))
    questions = [name for name in QUESTION_NAMES if name in names]
    positives = [name for name in POSITIVE_NAMES if name in names]
    scores = [name for name in SCORE_NAMES if name in names] if not negatives else []
    return [
        Columns(question, positive, negatives, score)
        for question in questions
        for positive in positives
        for score in scores or [None]
    ]


def parse_columns(given: Mapping[str, Any]) -> Columns:
    """Return the columns that ``--columns`` names.

    Raises:
        UsageError: A key is unknown, a required key is missing, or a value is not the name of a column.
    """
    unknown = given.keys() - set(ROLES)
    if unknown or not {"question", "positive"} <= given.keys():
        problem = f"{min(unknown)!r} is not a role of a column" if unknown else "question and positive are required"
        raise UsageError(f"--columns: {problem}. Give names of columns for {', '.join(ROLES)}.")
    values = {role: list(value) if isinstance(value, list | tuple) else [value] for role, value in given.items()}
    for role, names in values.items():
        if not all(isinstance(name, str) and name for name in names) or (len(names) != 1 and role != "negative"):
            raise UsageError(f"--columns: the value of {role} is not the name of a column. Give its name in the file.")
    single = {role: names[0] for role, names in values.items() if role != "negative"}
    return Columns(**single, negatives=tuple(values.get("negative", ())))


class ColumnReader:
    """Conversion of a record with columns to a row.

    Args:
        columns: Columns by role.
        min_relevance: Smallest label or score of a positive. By default, labels must be 0 or 1.
        find_negatives: Read columns of negatives, by their usual names, that only later records have.
    """

    def __init__(self, columns: Columns, min_relevance: float | None = None, *, find_negatives: bool = False) -> None:
        self._columns, self._min_relevance, self._find_negatives = columns, min_relevance, find_negatives
        self._negatives = list(columns.negatives)
        self._used = {
            name for value in columns for name in (value if isinstance(value, tuple) else (value,)) if name is not None
        }

    def convert(self, record: Record, counts: Counter[str]) -> Record:
        """Return the row for a record.

        Raises:
            FieldError: A column is missing, or a value has the wrong type.
            SkipRow: The question is blank.
        """
        columns = self._columns
        question = read_question(record, columns.question, counts)
        if columns.positive not in record:
            raise FieldError(f"{columns.positive}: missing. Give the column in each row")
        texts = read_texts(record, columns.positive)
        scores = self._read_scores(record, len(texts))
        ids, titles = (
            self._read_parallel(record, name, len(texts)) for name in (columns.positive_id, columns.positive_title)
        )
        passages = build_passages(columns.positive, texts, counts, passage_id=ids, title=titles, **{SCORE: scores})
        if self._find_negatives and not record.keys() <= self._used:
            more = [name for name in record if name not in self._used and NEGATIVE_NAME.fullmatch(name)]
            self._negatives += more
            self._used.update(more)
        negatives = [
            passage for name in self._negatives for passage in build_passages(name, read_texts(record, name), counts)
        ]
        is_positive = [scores is None or self._is_positive(passage[SCORE]) for passage in passages]
        positives = [passage for passage, each in zip(passages, is_positive, strict=True) if each]
        negatives = [passage for passage, each in zip(passages, is_positive, strict=True) if not each] + negatives
        renamed = record
        for role, name in (("question_id", columns.question_id), ("answers", columns.answers)):
            if name is not None:
                renamed = {role: record.get(name)} | {key: value for key, value in renamed.items() if key != name}
        used = self._used - {"question_id", "answers"}
        return build_row(renamed, question, used, counts, positive_ctxs=positives, hard_negative_ctxs=negatives)

    def _read_scores(self, record: Record, num_texts: int) -> list[float | int] | None:
        name = self._columns.score
        if name is None:
            return None
        value = record.get(name)
        scores = value if type(value) is list else [value]
        if len(scores) != num_texts and num_texts:
            raise FieldError(f"{name}: {len(scores)} scores for {num_texts} texts. Give a score for each text")
        return [_read_score(score, name) for score in scores]

    def _is_positive(self, score: float) -> bool:
        if self._min_relevance is not None:
            return score >= self._min_relevance
        if score not in (0, 1):
            raise FieldError(
                f"{self._columns.score}: {score} is neither 0 nor 1. Give the smallest value of a positive with "
                "--min_relevance"
            )
        return score == 1

    @staticmethod
    def _read_parallel(record: Record, name: str | None, num_texts: int) -> list[str | None] | None:
        """Return the ids or titles of the positives. A column has one value, or a list with a value for each text."""
        if name is None:
            return None
        value = record.get(name)
        values = value if type(value) is list else [value] * min(num_texts, 1)
        if len(values) != num_texts or any(type(each) not in (str, int, type(None)) for each in values):
            raise FieldError(
                f"{name}: {describe_type(value)} for {num_texts} positives. Give a string for each positive"
            )
        return [None if each in (None, "") else str(each) for each in values]


def merge_pairs(rows: Iterable[Record], counts: Counter[str]) -> Iterator[Record]:
    """Yield one row for neighbouring rows with the same question and id.

    Args:
        rows: Rows of pairs with labels or scores.
        counts: Number of pairs that joined an earlier one. It is updated.
    """
    merged: Record | None = None
    for row in rows:
        if merged is not None and all(merged.get(key) == row.get(key) for key in ("question", "question_id")):
            for pool in ("positive_ctxs", "hard_negative_ctxs"):
                merged[pool] += row[pool]
            counts["pairs that joined the row of their question"] += 1
            continue
        if merged is not None:
            yield merged
        merged = row
    if merged is not None:
        yield merged


def _read_score(value: Any, name: str) -> float | int:
    """Return a label or score. A text that is a number, as in CSV, is read as a number."""
    if type(value) is bool:
        return int(value)
    if type(value) is str:
        value = parse_number(value, name)
    if not is_number(value):
        raise FieldError(f"{name}: {describe_score(value)}. Give a number")
    return value
