"""Qrels and runs: files to dictionaries and back.

Qrels say how relevant passages are to questions: TREC's four columns (question, 0, passage, relevance), or BEIR's three
with a header. A run holds what a search found: TREC's six columns (question, Q0, passage, rank, score, name).
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from text.artifacts import atomic_write
from text.errors import DataError

Qrels = dict[str, dict[str, int]]
"""By question id, by passage id: relevance; 0 and less is not relevant."""
Run = dict[str, dict[str, float]]
"""By question id, by passage id: score; larger is better."""


def read_qrels(path: str | os.PathLike[str]) -> Qrels:
    """Either form; where BEIR's header has tabs, so has each line, and an id may hold spaces.

    Raises:
        DataError: A line has another form, or a pair stands twice; with path and line.
        OSError: The file cannot be read.
    """
    qrels: Qrels = {}
    separator = None
    for number, where, line in _lines(path):
        fields = [field.strip() for field in line.split(separator)]
        if number == 1 and len(fields) == 3 and not _is_integer(fields[2]):
            separator = "\t" if "\t" in line else None
            continue
        if len(fields) not in (3, 4) or not _is_integer(fields[-1]):
            raise DataError(f"{where}: {' '.join(fields)[:100]}; expected question, passage and relevance")
        _add(qrels, where, fields[0], fields[-2], int(fields[-1]))
    return qrels


def read_run(path: str | os.PathLike[str]) -> Run:
    """Ranks are not kept: they follow from the scores.

    Raises:
        DataError: A line has another form, or a pair stands twice; with path and line.
        OSError: The file cannot be read.
    """
    run: Run = {}
    for _, where, line in _lines(path):
        fields = line.split()
        if len(fields) != 6 or (score := _number(fields[4])) is None:
            raise DataError(f"{where}: {' '.join(fields)[:100]}; expected question, Q0, passage, rank, score and name")
        _add(run, where, fields[0], fields[2], score)
    return run


def write_run(path: str | os.PathLike[str], run: Mapping[str, Mapping[str, float]], name: str = "dpr-text") -> None:
    """Best first, whole or not at all; scores in full, so that reading gives them back.

    Raises:
        ValueError: An id is empty or has a space, which the form cannot hold.
        OSError: The file cannot be written.
    """
    with atomic_write(path) as temporary, open(temporary, "w", encoding="utf-8") as file:
        for question_id, scores in run.items():
            for rank, passage_id in enumerate(rank_passages(scores), start=1):
                for kept in (question_id, passage_id):
                    if kept.split() != [kept]:
                        raise ValueError(f'id "{kept}"; expected one without spaces')
                file.write(f"{question_id} Q0 {passage_id} {rank} {scores[passage_id]!r} {name}\n")


def rank_passages(scores: Mapping[str, float]) -> list[str]:
    """Passage ids, best first; of equal scores, the larger id first, as trec_eval does.

    >>> rank_passages({"a": 1.0, "b": 1.0, "c": 2.0})
    ['c', 'b', 'a']
    """
    return [passage_id for _, passage_id in sorted(((s, p) for p, s in scores.items()), reverse=True)]


def check_common_questions(
    path: str | os.PathLike[str],
    run: Mapping[str, Mapping[str, float]],
    other: str | os.PathLike[str],
    question_ids: Iterable[str],
) -> None:
    """Check that a run holds at least one question of another file.

    Args:
        path: The file of the run.
        run: The run.
        other: The other file.
        question_ids: Ids of the questions of the other file.

    Raises:
        DataError: They have no question in common.
    """
    if not any(question_id in run for question_id in question_ids):
        raise DataError(f"{os.fspath(path)}: has none of the questions of {os.fspath(other)}. Give a run of these.")


def _lines(path: str | os.PathLike[str]) -> Iterator[tuple[int, str, str]]:
    """Number, place and text of each line that has any."""
    with open(path, "rb") as file:
        for number, content in enumerate(file, start=1):
            try:
                line = content.decode("utf-8-sig" if number == 1 else "utf-8").strip()
            except UnicodeDecodeError:
                raise DataError(f"{Path(path)}:{number}: not UTF-8; expected UTF-8") from None
            if line:
                yield number, f"{Path(path)}:{number}", line


def _add(table: dict[str, dict], where: str, question_id: str, passage_id: str, value: float) -> None:
    of_question = table.setdefault(question_id, {})
    if passage_id in of_question:
        raise DataError(
            f"{where}: question {question_id} and passage {passage_id} stand twice; expected each pair once"
        )
    of_question[passage_id] = value


def _is_integer(field: str) -> bool:
    return field.removeprefix("-").isdecimal() and field.isascii()


def _number(field: str) -> float | None:
    try:
        number = float(field)
    except ValueError:
        return None
    return number if math.isfinite(number) else None
