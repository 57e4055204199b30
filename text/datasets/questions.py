"""Questions to search for, with their known answers.

Three formats are read, plain or compressed. DPR's ``qa.csv`` has a question, a tab and a list of strings in the syntax
of Python or JSON, without a header. DPR's JSON has ``question`` and ``answers``, as DPR's training rows do. BEIR's
``queries.jsonl`` has ``_id`` and ``text``. ``query`` is accepted in place of ``question``.
"""

from __future__ import annotations

import ast
import csv
import io
import itertools
import json
import os
import tokenize
import unicodedata
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from simdjson import Array, Object

from text.datasets.formats.compressed_files import BYTE_ORDER_MARK, Form, detect_form, read_chunks
from text.datasets.formats.jsonl import JsonlFile
from text.datasets.formats.lines import MAX_ROW_BYTES, read_lines
from text.datasets.formats.values import (
    PASSAGE_ID_KEYS,
    QUESTION_ID_KEYS,
    FieldError,
    check_no_repeated_key,
    describe_type,
    find_answers,
    find_id,
    list_keys,
    read_answers,
    read_id,
    read_string,
    split_reason,
)
from text.errors import DataError
from text.words import compile_expression

T = TypeVar("T")

_QUESTION_KEYS = ("question", "query", "text")
_JSON = (b"{", b"[", b"\n", b"\r")
_CSV_HINT = 'Write the question, a tab and a list such as ["60", "sixty"].'
_MAX_LITERAL = 1 << 20
"""Maximum length of a list in Python's syntax. Parsing it takes a hundred times its size in memory."""
_PANDAS_HINT = "pandas writes NumPy arrays in this way. Convert them to lists with .tolist(), and write the file again."


class Question(NamedTuple):
    """A question with its known answers."""

    question_id: str
    """Id in the file, or the 0-based number of the line if the file gives no id."""
    text: str
    """Text of the question."""
    answers: list[str]
    """Known answers, without blank ones. Empty if the file gives none."""
    regular_expressions: bool = False
    """True if the answers are regular expressions."""
    positive_ids: tuple[str, ...] = ()
    """Ids of the positive passages in a DPR training row, in the order of the row."""


def read_questions(path: str | os.PathLike[str], counts: Counter[str] | None = None) -> list[Question]:
    """Return all questions of a file, in the order of the file. Blank lines are skipped.

    Args:
        path: Path of the file.
        counts: Receives the number of unusual values, such as blank answers, by reason.

    Raises:
        DataError: A line cannot be parsed, a question or an id is blank, an id occurs twice, or a regular expression is
            not valid. The error gives path and line.
        OSError: The file cannot be read.
    """
    counts = Counter() if counts is None else counts
    form = detect_form(str(path))
    head = next(read_chunks(str(path), form), b"").removeprefix(BYTE_ORDER_MARK)
    read = list(_read_json(path, counts)) if head[:1] in _JSON else _read_csv(path, form, counts)
    if not read:
        raise DataError(f"{Path(path)}: the file has no questions. Write one question per line.")
    places: dict[str, str] = {}
    for where, question in read:
        _check_unicode(question, where)
        _check_expressions(question, where, counts)
        for name, value in (("question", question.text), ("id", question.question_id)):
            if not value.strip():
                raise DataError(f"{where} {name}: the {name} is blank. Fill it in, or remove the line.")
        if question.question_id in places:
            raise DataError(
                f'{where} id: "{question.question_id}" is also the id of {places[question.question_id]}. Give each '
                "question a unique id. A question without an id gets the number of its line, counted from 0."
            )
        places[question.question_id] = where
    return [question for _, question in read]


def read_positive_ids(path: str | os.PathLike[str]) -> set[str]:
    """Return the ids of the positives of all training rows of a file. Other fields are not checked.

    Raises:
        DataError: A line is not a JSON object, or an id has the wrong type. The error gives path and line.
        OSError: The file cannot be read.
    """
    return {
        passage_id for _, ids in _read_rows(path, lambda record, _: _find_positive_ids(record)) for passage_id in ids
    }


def _read_csv(path: str | os.PathLike[str], form: Form, counts: Counter[str]) -> list[tuple[str, Question]]:
    """Return the questions of a tab-separated file, with the place of each question."""
    rows = csv.reader(_read_text(path, form), delimiter="\t", strict=True)
    found: list[tuple[str, Question]] = []
    num_lines = 0
    limit = csv.field_size_limit(MAX_ROW_BYTES)  # The limit applies to the whole process.
    try:
        for row in rows:
            where, num_lines = f"{Path(path)}:{num_lines + 1}", rows.line_num
            if not row:
                continue
            if len(row) != 2:
                raise DataError(f"{where}: the line has {len(row)} columns. {_CSV_HINT}")
            found.append((where, Question(str(len(found)), row[0], _parse_answers(row[1], where, counts))))
    except csv.Error as error:
        quotes = "Enclose a field that begins with a quote in quotes, and double the quotes inside."
        reason = "a carriage return without a newline" if "new-line character" in str(error) else error
        raise DataError(f"{Path(path)}:{num_lines + 1}: {reason}. {_CSV_HINT} {quotes}") from None
    finally:
        csv.field_size_limit(limit)
    return found


def _read_text(path: str | os.PathLike[str], form: Form) -> Iterator[str]:
    """Yield the decoded lines of a file, with their newlines."""
    for number, (_, line) in enumerate(read_lines(read_chunks(str(path), form), str(path)), start=1):
        try:
            yield line.decode("utf-8")
        except UnicodeDecodeError:
            raise DataError(f"{Path(path)}:{number}: the line is not UTF-8. Write the file in UTF-8.") from None


def _parse_answers(literal: str, where: str, counts: Counter[str]) -> list[str]:
    """Return the strings of a list in the syntax of JSON or Python. No code is executed."""
    try:
        values = json.loads(literal, parse_constant=lambda name: None)
    except (ValueError, RecursionError):
        values = _parse_python_list(literal, where)
    try:
        if not isinstance(values, list | tuple):
            raise FieldError("answers: not a list")
        return read_answers(list(values), counts)
    except FieldError as error:
        shown = " ".join(literal.split())[:100]
        hint = f" {_PANDAS_HINT}" if shown == "nan" or shown.startswith("array(") else ""
        raise DataError(f'{where} {error}. Write a list such as ["60", "sixty"] instead of {shown}.{hint}') from None


def _parse_python_list(literal: str, where: str) -> Any:
    """Return the value of a Python literal, or None if the text is not a valid literal.

    Raises:
        DataError: A comma between two strings is missing, and Python would join the strings.
    """
    if len(literal) > _MAX_LITERAL:
        return None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Python warns about unknown escape sequences.
            values = ast.literal_eval(literal)
        tokens = [token.type for token in tokenize.generate_tokens(io.StringIO(literal.strip()).readline)]
    except (ValueError, SyntaxError, MemoryError, RecursionError, tokenize.TokenError):
        return None
    strings = [token for token in tokens if token not in (tokenize.NL, tokenize.COMMENT)]
    if any(pair == (tokenize.STRING, tokenize.STRING) for pair in itertools.pairwise(strings)):
        raise DataError(
            f"{where} answers: a comma between two strings is missing in {' '.join(literal.split())[:100]}. "
            f"{_PANDAS_HINT}"
        )
    return values


def _read_json(path: str | os.PathLike[str], counts: Counter[str]) -> Iterator[tuple[str, Question]]:
    return _read_rows(path, lambda record, number: _to_question(record, number, counts))


def _read_rows(path: str | os.PathLike[str], convert: Callable[[Object, int], T]) -> Iterator[tuple[str, T]]:
    """Yield the place of each line that is not blank, and its converted object."""
    rows = JsonlFile(path)
    with rows.open() as reader:
        for number in range(len(rows)):
            line = reader.read(number)
            if not line.isspace():
                try:
                    converted = convert(reader.parse_line(number, line), number)
                except FieldError as error:
                    raise DataError(f"{rows.describe_place(number, split_reason(str(error)).field)} {error}.") from None
                yield rows.describe_place(number), converted


def _to_question(record: Object, number: int, counts: Counter[str]) -> Question:
    check_no_repeated_key(list(record))
    text = next((value for key in _QUESTION_KEYS if (value := record.get(key)) is not None), None)
    if text is None:
        raise FieldError(f"question: missing. Give one of the keys {', '.join(_QUESTION_KEYS)}; {list_keys(record)}")
    id_key, question_id = find_id(record, QUESTION_ID_KEYS)
    return Question(
        str(number) if question_id is None else read_id(question_id, id_key, counts),
        read_string(text, "question", "questions", counts),
        read_answers(find_answers(record), counts),
        _has_regex_answers(record),
        _find_positive_ids(record),
    )


def _has_regex_answers(record: Object) -> bool:
    value = record.get("answer_is_regex")
    if value is not None and type(value) is not bool:
        raise FieldError(f"answer_is_regex: {describe_type(value)}. Give true, false or null")
    return bool(value)


def _check_expressions(question: Question, where: str, counts: Counter[str]) -> None:
    for answer in question.answers if question.regular_expressions else ():
        if compile_expression(answer) is None:
            raise DataError(
                f"{where} answers: {' '.join(answer.split())[:100]} is not a valid regular expression. Correct it, or "
                "set answer_is_regex to false."
            )
        # CuratedTREC has an expression that is invalid after NFD normalization. DPR never finds it either.
        if compile_expression(unicodedata.normalize("NFD", answer)) is None:
            counts["regular expressions that are not valid in Unicode's NFD, never found"] += 1


def _check_unicode(question: Question, where: str) -> None:
    """Check that texts have no half of a surrogate pair. Python's escapes can write one, but UTF-8 cannot.

    Raises:
        DataError: A text has half of a surrogate pair.
    """
    try:
        for text in (question.text, *question.answers):
            text.encode()
    except UnicodeEncodeError as error:
        found = ascii(error.object[error.start])
        raise DataError(f"{where}: {found} is half of a surrogate pair. Write Unicode text.") from None


def _find_positive_ids(record: Object) -> tuple[str, ...]:
    """Return the ids of the positives. Positives without an id are skipped."""
    ids = [(f"positive_ids[{i}]", passage_id) for i, passage_id in enumerate(_get_list(record, "positive_ids"))]
    for i, context in enumerate(_get_list(record, "positive_ctxs") if not ids else ()):
        if isinstance(context, Object):
            key, passage_id = find_id(context, PASSAGE_ID_KEYS)
            ids.append((f"positive_ctxs[{i}].{key}", passage_id))
    return tuple(read_id(passage_id, field, Counter()) for field, passage_id in ids if passage_id not in (None, ""))


def _get_list(record: Object, key: str) -> Array | tuple[()]:
    values = record.get(key)
    if values is not None and not isinstance(values, Array):
        raise FieldError(f"{key}: {describe_type(values)}. Give a list")
    return values or ()
