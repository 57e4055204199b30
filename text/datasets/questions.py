"""Questions to search for, with the answers that are known to be right.

Three forms, plain or compressed: DPR's ``qa.csv`` (question, tab, a list of strings as Python writes it; no header),
JSON of DPR (``question``, ``answers``; its training rows, too), and BEIR's ``queries.jsonl`` (``_id``, ``text``).
"""

from __future__ import annotations

import ast
import csv
import io
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from text.datasets.formats.compressed_files import BYTE_ORDER_MARK, Form, form_of, read_chunks
from text.datasets.formats.jsonl import JsonlFile
from text.errors import DataError

_ID_KEYS = ("_id", "question_id", "qid", "query_id", "id")
_PASSAGE_ID_KEYS = ("passage_id", "psg_id", "id", "docidx")
_JSON = (b"{", b"[", b"\n", b"\r")


class Question(NamedTuple):
    """Text of the question."""

    question_id: str
    """The number of its line, from 0 on, where the file gives none."""
    text: str
    answers: list[str]
    """Blank ones left out; empty where the file gives none."""
    regular_expressions: bool = False
    """Answers are such."""
    positive_ids: tuple[str, ...] = ()
    """Passages that are known to answer it, the first one first; of DPR's training rows."""


def read_questions(path: str | os.PathLike[str]) -> list[Question]:
    """All questions of a file, in its order; blank lines are passed over.

    Raises:
        DataError: A line has another form, a question is blank, or an id stands twice; with path and line.
        OSError: The file cannot be read.
    """
    form = form_of(str(path))
    head = next(read_chunks(str(path), form), b"").removeprefix(BYTE_ORDER_MARK)
    try:
        read = list(_of_json(path) if head[:1] in _JSON else _of_csv(path, form))
    except UnicodeDecodeError:
        raise DataError(f"{Path(path)}: not UTF-8; expected UTF-8") from None
    if not read:
        raise DataError(f"{Path(path)}: no questions; expected one a line")
    places: dict[str, str] = {}
    for where, question in read:
        _check_unicode(question, where)
        if not question.text.strip():
            raise DataError(f"{where}: question is blank; expected a question to search for")
        if question.question_id in places:
            raise DataError(
                f"{where}: id {question.question_id} also stands in {places[question.question_id]}; expected each once"
            )
        places[question.question_id] = where
    return [question for _, question in read]


def _of_csv(path: str | os.PathLike[str], form: Form) -> Iterator[tuple[str, Question]]:
    content = b"".join(read_chunks(str(path), form)).decode("utf-8-sig")
    rows = csv.reader(io.StringIO(content, newline=""), delimiter="\t", strict=True)
    try:
        for number, row in enumerate(row for row in rows if row):
            where = f"{Path(path)}:{rows.line_num}"
            if len(row) != 2:
                raise DataError(f"{where}: {len(row)} columns; expected question and answers, with a tab between")
            yield where, Question(str(number), row[0], _python_list(row[1], where))
    except csv.Error as error:
        raise DataError(f"{Path(path)}:{rows.line_num}: {error}; expected question and answers") from None


def _python_list(literal: str, where: str) -> list[str]:
    """A list of strings; nothing is executed."""
    try:
        answers = ast.literal_eval(literal)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        answers = None
    return _strings(answers, f'{where}: answers are {literal[:100]}; expected a list such as ["60", "sixty"]')


def _of_json(path: str | os.PathLike[str]) -> Iterator[tuple[str, Question]]:
    rows = JsonlFile(path)
    with rows.open() as reader:
        for number in range(len(rows)):
            line = reader.read(number)
            if not line.isspace():
                yield rows.where(number), _question(line, rows.where(number), number)


def _question(line: bytes, where: str, number: int) -> Question:
    try:
        record = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{where}: not JSON ({error}); expected an object such as {_FORM}") from None
    text = record.get("question", record.get("text")) if isinstance(record, dict) else None
    if not isinstance(text, str):
        raise DataError(f"{where}: no question; expected an object such as {_FORM}")
    name = next((record[key] for key in _ID_KEYS if record.get(key) is not None), number)
    answers = _strings(record.get("answers") or [], f"{where}: answers are no list of strings; expected {_FORM}")
    is_regular_expression = bool(record.get("answer_is_regex"))
    return Question(_id(name, where), text, answers, is_regular_expression, _positive_ids(record, where))


def _check_unicode(question: Question, where: str) -> None:
    """Refuses half a character, which JSON's and Python's escapes can say and no file can hold."""
    try:
        for text in (question.question_id, question.text, *question.answers, *question.positive_ids):
            text.encode()
    except UnicodeEncodeError as error:
        found = ascii(error.object[error.start])
        raise DataError(f"{where}: lone surrogate {found}; expected Unicode text") from None


def _positive_ids(record: dict[str, Any], where: str) -> tuple[str, ...]:
    contexts = _list(record, "positive_ctxs", where)
    of_contexts = (
        next((context[key] for key in _PASSAGE_ID_KEYS if context.get(key) is not None), "")
        for context in contexts
        if isinstance(context, dict)
    )
    ids = _list(record, "positive_ids", where) or of_contexts
    return tuple(_id(passage_id, where) for passage_id in ids if passage_id not in (None, ""))


def _list(record: dict[str, Any], key: str, where: str) -> list[Any]:
    values = record.get(key) or []
    if not isinstance(values, list):
        raise DataError(f"{where}: {key} is {str(values)[:100]}; expected a list")
    return values


def _id(value: Any, where: str) -> str:
    if type(value) not in (str, int):
        raise DataError(f"{where}: id is {str(value)[:100]}; expected a string or an integer")
    return str(value)


_FORM = '{"question": "...", "answers": ["..."]}'


def _strings(values: Any, message: str) -> list[str]:
    if not isinstance(values, list | tuple) or not all(isinstance(value, str) for value in values):
        raise DataError(message)
    return [value for value in values if value.strip()]  # a blank one would be found everywhere
