"""Decide whether the model of a round replaces the model before it, by a paired test over the validation questions."""

from __future__ import annotations

import os
import statistics
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from text.artifacts import read_json_lines
from text.errors import ArtifactError
from text.evaluation import paired_randomization

QuestionValues = Mapping[str, float]
"""Value of a metric for each question id."""
LEVEL = 0.05
"""Significance level: a round is rejected if it is worse with a smaller p-value."""


class Comparison(NamedTuple):
    """A round compared with the model before it, on the validation questions."""

    other: str
    """Round whose model would be replaced, or the start encoder."""
    difference: float
    """Mean of the round minus mean of the other model."""
    p: float
    """Two-sided p-value of a paired randomization test over the questions (``paired_randomization``)."""

    @property
    def is_accepted(self) -> bool:
        """True unless the round is significantly worse."""
        return self.difference >= 0 or self.p >= LEVEL


def compare_questions(values: QuestionValues, other: str, other_values: QuestionValues) -> Comparison:
    """Compare a round with the model before it.

    Args:
        values: Values of the round.
        other: Name of the model before it.
        other_values: Its values for the same questions.

    >>> compare_questions({"q1": 0.5, "q2": 1.0}, "start", {"q1": 0.5, "q2": 0.5})
    Comparison(other='start', difference=0.25, p=1.0)
    """
    ids = list(values)
    ours, theirs = [values[name] for name in ids], [other_values[name] for name in ids]
    return Comparison(other, statistics.fmean(ours) - statistics.fmean(theirs), paired_randomization(ours, theirs))


def average_questions(values: Sequence[QuestionValues]) -> QuestionValues:
    """Return the mean value of each question over several seeds."""
    return {name: statistics.fmean(each[name] for each in values) for name in values[0]}


def read_question_values(path: str | os.PathLike[str], measure: str) -> QuestionValues:
    """Return the values of a metric in ``questions.jsonl``, a file of ``dpr-text evaluate``.

    Raises:
        ArtifactError: The file is damaged, or does not contain the metric.
    """
    values = dict[str, float]()
    for number, line in enumerate(read_json_lines(path, dict[str, Any]), start=1):
        name, value = line.get("question_id"), line.get(measure)
        if not isinstance(name, str) or not isinstance(value, float | int):
            place = f"{os.fspath(path)}, line {number}"
            raise ArtifactError(f"{place}: no question_id or no {measure}. To evaluate again, remove the folder.")
        values[name] = value
    return values
