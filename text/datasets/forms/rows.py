"""Conversion of one record of each form to a row in the DPR format.

Each function takes a record and counts, and returns the row. It raises SkipRow for a record that training cannot use,
and FieldError for a field with the wrong type.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

from text.datasets.formats.dpr_record import ID_POOLS, POOLS, SkipRow
from text.datasets.formats.values import FieldError, describe_type, read_id
from text.datasets.forms.fields import (
    SCORE,
    build_passages,
    build_row,
    parse_number,
    read_passage,
    read_passages,
    read_question,
    read_scores,
    read_texts,
)
from text.datasets.forms.records import Record

ToRow = Callable[[Record, Counter[str]], Record]
"""Conversion of a record to a row in the DPR format. The counts are updated."""
_FLAG_POOLS = {"positive_ctxs": ("pos", True), "hard_negative_ctxs": ("neg", False)}


def convert_dpr(record: Record, counts: Counter[str]) -> Record:
    """Return a full or compact row in the DPR format with the usual names of its keys."""
    question = read_question(record, "question", counts)
    names = ID_POOLS if record.get("positive_ids") is not None else POOLS
    read: Callable[..., list[Any]] = _read_ids if names is ID_POOLS else read_passages
    given = [name for name in names if record.get(name) is not None or name == names[0]]
    pools = {name: read(record, name, counts) for name in given}
    return build_row(record, question, {"question", *names}, counts, **pools)


def convert_dpr_output(record: Record, counts: Counter[str]) -> Record:
    """Return the row for an entry of DPR's retrieval output. Passages with an answer are the positives."""
    question = read_question(record, "question", counts)
    passages = _read_output_passages(record, counts)
    pools = {
        "positive_ctxs": [passage for passage, is_positive in passages if is_positive],
        "hard_negative_ctxs": [passage for passage, is_positive in passages if not is_positive],
    }
    return build_row(record, question, {"question", "ctxs"}, counts, **pools)


def convert_tevatron(record: Record, counts: Counter[str]) -> Record:
    """Return the row for a row of Tevatron, with passages or with ids of passages."""
    key = "query" if record.get("query") is not None else "query_text"
    question = read_question(record, key, counts)
    used = {"query", "positive_passages", "negative_passages", "positive_document_ids", "negative_document_ids"}
    if record.get("positive_document_ids") is not None:
        names = {"positive_ids": "positive_document_ids", "hard_negative_ids": "negative_document_ids"}
        pools = {name: _read_ids(record, field, counts) for name, field in names.items()}
    else:
        names = {"positive_ctxs": "positive_passages", "hard_negative_ctxs": "negative_passages"}
        pools = {name: read_passages(record, field, counts) for name, field in names.items()}
    return build_row(record, question, used | {key}, counts, **pools)


def convert_flagembedding(record: Record, counts: Counter[str]) -> Record:
    """Return the row for a row of FlagEmbedding. The scores of a teacher become ``score`` of each passage."""
    question = read_question(record, "query", counts)
    used, pools = {"query"}, {}
    for name, (field, is_required) in _FLAG_POOLS.items():
        if record.get(field) is None and is_required:
            raise FieldError(f"{field}: missing. Give a list of texts")
        if type(record.get(field)) is str:
            raise FieldError(f"{field}: a string. Give a list of texts")
        texts = read_texts(record, field)
        scores = read_scores(record, f"{field}_scores", len(texts))
        ids, titles = (_read_column(record, f"{field}_{each}", len(texts)) for each in ("id", "titles"))
        texts = [_remove_title(text, title) for text, title in zip(texts, titles or [None] * len(texts), strict=True)]
        columns = {"passage_id": ids, "title": titles, SCORE: scores}
        pools[name] = build_passages(field, texts, counts, **columns)
        used |= {field, f"{field}_scores", f"{field}_id", f"{field}_titles"}
    return build_row(record, question, used, counts, **pools)


def join_title(passage: Record) -> str:
    """Return title and text of a passage as one text, for forms without titles.

    >>> join_title({"title": "Oaks", "text": "are trees"}), join_title({"title": "", "text": "are trees"})
    ('Oaks are trees', 'are trees')
    """
    title, text = passage.get("title") or "", passage["text"]
    return f"{title} {text}" if title else text


def _remove_title(text: str | None, title: Any) -> str | None:
    """Return a text without the title that ``join_title`` put before it."""
    return text.removeprefix(f"{title} ") if text and title else text


def _read_output_passages(record: Record, counts: Counter[str]) -> list[tuple[Record, bool]]:
    """Return the retrieved passages that have a text, with their scores as numbers, and whether each has an answer."""
    items = record.get("ctxs")
    if type(items) is not list:
        raise FieldError(f"ctxs: {describe_type(items)}. Give a list of passages")
    found = []
    for i, item in enumerate(items):
        passage = read_passage(item, "ctxs", i, counts)
        if passage is None:
            counts["ctxs without text, left out"] += 1
            continue
        is_positive = passage.pop("has_answer", None)
        if type(is_positive) is not bool:
            raise FieldError(f"ctxs[{i}].has_answer: {describe_type(is_positive)}. Give true or false")
        if type(score := passage.get(SCORE)) is str:  # DPR writes scores as texts.
            passage[SCORE] = parse_number(score, f"ctxs[{i}].score")
        found.append((passage, is_positive))
    if not any(is_positive for _, is_positive in found):
        raise SkipRow("without a passage that has an answer")
    return found


def _read_ids(record: Record, field: str, counts: Counter[str]) -> list[str]:
    values = record.get(field)
    if values is None:
        return []
    if type(values) is not list:
        raise FieldError(f"{field}: {describe_type(values)}. Give a list of ids")
    return [read_id(value, f"{field}[{i}]", counts) for i, value in enumerate(values) if value is not None]


def _read_column(record: Record, field: str, num_texts: int) -> list[str | None] | None:
    """Return the id or title of each text, or None if the field is missing."""
    values = record.get(field)
    if values is None:
        return None
    if type(values) is not list or len(values) != num_texts:
        raise FieldError(f"{field}: not a list of {num_texts} values. Give a value for each text")
    return [None if value is None else read_id(value, f"{field}[{i}]", Counter()) for i, value in enumerate(values)]
