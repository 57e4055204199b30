"""Fields that several forms share: questions, passages, scores and answers.

A conversion never guesses. A value with one meaning is read, a passage without text is counted and left out, and any
other value is a FieldError.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Sequence, Set
from typing import Any

from text.datasets.formats.dpr_record import ID_POOLS, POOLS, SkipRow
from text.datasets.formats.values import (
    PASSAGE_ID_KEYS,
    QUESTION_ID_KEYS,
    TEXT_KEYS,
    FieldError,
    describe_type,
    find_id,
    list_keys,
    read_answers,
    read_id,
    read_string,
    read_text,
    read_title,
)
from text.datasets.forms.records import Record

SCORE = "score"
"""Key of a passage's score in converted rows, for ``--score_key``."""
_ID_KEYS = (*PASSAGE_ID_KEYS, "docid", "_id", "pid")
_OWN_FIELDS = {"question", *POOLS, *ID_POOLS}
"""Fields of rows in the DPR format. A field of another form must not be mistaken for one of them."""
_READ_FIELDS = {"answers", "answer", "answer_is_regex"}
"""Further fields that training, search and mining read."""


def read_question(record: Record, key: str, counts: Counter[str]) -> str:
    """Return the question of a record.

    Raises:
        FieldError: The question is missing, or neither a string nor a number.
        SkipRow: The question is blank.
    """
    value = record.get(key)
    if type(value) is not str:
        if value is None:
            raise FieldError(f"{key}: missing. Give the question; {list_keys(record)}")
        value = read_string(value, key, "questions", counts)
    if not value or value.isspace():
        raise SkipRow("with a blank question")
    return value


def build_row(record: Record, question: str, used: Collection[str], counts: Counter[str], **pools: list[Any]) -> Record:
    """Return a row in the DPR format. Fields that the form does not use are kept.

    Args:
        record: The record of another form.
        question: The question.
        used: Fields of the record that the form has read, except the id of the question.
        counts: Number of converted values and of kept fields, by kind. It is updated.
        **pools: Passages or passage ids, by field of the row. ``negative_ctxs`` of the record are kept.

    Raises:
        FieldError: The id of the question or the answers have the wrong type, or a field has a name of the DPR format.
    """
    row: Record = {}
    key, question_id = find_id(record, QUESTION_ID_KEYS)
    if question_id is not None and question_id != "":
        row["question_id"] = question_id if type(question_id) is str else read_id(question_id, key, counts)
    else:
        key = ""
    row["question"] = question
    row.update(pools)
    for name, value in record.items():
        if name == key or name in used or value is None:
            continue
        if name == "negative_ctxs":
            row[name] = read_passages(record, name, counts)
        elif name in _OWN_FIELDS or name in row:
            if value == []:
                continue
            raise FieldError(f"{name}: does not belong in a row of this form. Remove or rename it")
        elif name == "answers":
            row[name] = _read_answers(value)
        else:
            row[name] = value
            if name not in _READ_FIELDS:
                counts[f"rows with {name}, kept but not used by training"] += 1
    return row


def read_passages(record: Record, field: str, counts: Counter[str]) -> list[Record]:
    """Return the passages of a field with objects. Passages without text are counted and left out.

    Raises:
        FieldError: The field is not a list of objects with texts.
    """
    items = record.get(field)
    if items is None:
        return []
    if type(items) is dict:
        items = list(_split_columns(items, field))
    elif type(items) is not list:
        raise FieldError(f"{field}: {describe_type(items)}. Give a list of passages")
    passages = []
    for i, item in enumerate(items):
        try:  # Most passages have three strings, and this is three times as fast as the general case.
            passage_id, title, text = item["docid"], item["title"], item["text"]
            are_texts = type(passage_id) is type(title) is type(text) is str and len(item) == 3
            is_plain = are_texts and passage_id and text and not text.isspace()
        except (KeyError, TypeError):
            passage_id = title = text = is_plain = None
        if is_plain:
            passages.append({"passage_id": passage_id, "title": title, "text": text})
        elif (passage := read_passage(item, field, i, counts)) is not None:
            passages.append(passage)
        else:
            counts[f"{field} without text, left out"] += 1
    return passages


def read_passage(item: Any, field: str, i: int, counts: Counter[str]) -> Record | None:
    """Return a passage with the keys ``passage_id``, ``title`` and ``text``. Other keys are kept.

    Returns:
        The passage, or None if it has neither text nor title.

    Raises:
        FieldError: The item is not an object with a text, or a value has the wrong type.
    """
    if type(item) is not dict:
        if item is None:
            return None
        raise FieldError(
            f'{field}[{i}]: {describe_type(item)}. Give an object such as {{"title": "...", "text": "..."}}'
        )
    text, title = item.get("text"), item.get("title")
    if type(text) is not str:
        text = read_text(item, f"{field}[{i}].") or ""
    if type(title) is not str and title is not None:
        title = read_title(title, f"{field}[{i}].title", counts)
    if (not text or text.isspace()) and (not title or title.isspace()):
        return None
    passage: Record = {}
    for key in _ID_KEYS:
        value = item.get(key)
        if value is not None and value != "":
            passage["passage_id"] = value if type(value) is str else read_id(value, f"{field}[{i}].{key}", counts)
            break
    else:
        key = ""
    if title is not None:
        passage["title"] = title
    passage["text"] = text
    if len(item) > len(passage):
        read = {key, "title", *TEXT_KEYS}
        passage |= {name: value for name, value in item.items() if name not in read and name not in passage}
    return passage


def read_texts(record: Record, field: str) -> list[str | None]:
    """Return the texts of a field: a string, or a list of strings. A blank text is None.

    Raises:
        FieldError: The field is neither a string nor a list of strings.
    """
    value = record.get(field)
    if value is None:
        return []
    if type(value) is str:
        return [None if value.isspace() else value] if value else []
    if type(value) is not list:
        raise FieldError(f"{field}: {describe_type(value)}. Give a string or a list of strings")
    for i, text in enumerate(value):
        if text is not None and type(text) is not str:
            raise FieldError(f"{field}[{i}]: {describe_type(text)}. Give a string")
    return [None if text is None or not text.strip() else text for text in value]


def read_scores(record: Record, field: str, num_texts: int) -> list[float | int] | None:
    """Return the score of each text, or None if the field is missing, null or an empty list.

    Raises:
        FieldError: The field has another number of scores, or an item is not a number.
    """
    scores = record.get(field)
    if scores is None or scores == []:
        return None
    if type(scores) is not list or len(scores) != num_texts:
        found = f"{len(scores)} scores" if type(scores) is list else describe_type(scores)
        raise FieldError(f"{field}: {found} for {num_texts} texts. Give a number for each text")
    for i, score in enumerate(scores):
        if not is_number(score):
            raise FieldError(f"{field}[{i}]: {describe_score(score)}. Give a number")
    return scores


def is_number(value: Any) -> bool:
    """Return whether a value is a finite number and no boolean."""
    return type(value) is int or (type(value) is float and math.isfinite(value))


def describe_score(value: Any) -> str:
    """Return the type of a value that is no score, for an error message."""
    return str(value) if type(value) is float else describe_type(value)


def parse_number(text: str, field: str) -> float | int:
    """Return the number that a text holds, as an integer if it is one.

    Raises:
        FieldError: The text is not a finite number.
    """
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise FieldError(f"{field}: a text that is not a number. Give a number")
    return int(number) if number.is_integer() else number


def build_passages(
    field: str, texts: Sequence[str | None], counts: Counter[str], **columns: Sequence[Any] | None
) -> list[Record]:
    """Return a passage for each text that is not None. The others are counted.

    Args:
        field: Name of the field, for the counts.
        texts: The texts.
        counts: Number of left-out passages. It is updated.
        **columns: Further keys of the passages, with a value for each text. None leaves a key out.
    """
    given = {name: values for name, values in columns.items() if values is not None}
    passages = []
    for i, text in enumerate(texts):
        if text is None:
            counts[f"{field} without text, left out"] += 1
        else:
            passages.append(
                {name: values[i] for name, values in given.items() if values[i] is not None} | {"text": text}
            )
    return passages


def count_lost_keys(passages: Iterable[Record], kept: Set[str], counts: Counter[str]) -> None:
    """Count the keys of passages that a form cannot hold, by key."""
    for passage in passages:
        if not passage.keys() <= kept:
            counts.update(f"passages whose {name} was left out" for name in passage if name not in kept)


def _split_columns(columns: Record, field: str) -> Iterator[Record]:
    """Yield the objects of a field that ``datasets`` stores as one list for each key."""
    lists = list(columns.values())
    if not lists or any(type(each) is not list or len(each) != len(lists[0]) for each in lists):
        raise FieldError(f"{field}: an object. Give a list of passages")
    yield from (dict(zip(columns, values, strict=True)) for values in zip(*lists, strict=True))


def _read_answers(value: Any) -> Any:
    """Return the answers of a question. SQuAD's object with ``text`` holds the list of answers.

    Raises:
        FieldError: The answers have the wrong type, or the only answer looks like a printed list.
    """
    answers = value.get("text") if type(value) is dict else value
    if type(answers) is str or is_number(answers):
        read_answers(answers, Counter())  # It refuses a printed list.
        return [answers]
    if type(answers) is not list or any(type(each) is not str and not is_number(each) for each in answers):
        raise FieldError(f"answers: {describe_type(value)}. Give a list of strings")
    if len(answers) == 1:
        read_answers(answers, Counter())
    return answers
