"""One record of the DPR format to one Example.

The format's own vocabulary (``ctxs``, ``psg_id``, ``docidx``) ends here. What each fault costs is
decided here too: an error, a row left out, or a passage left out; the last two are counted.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

from text.records import Example, Passage

POOLS = ("positive_ctxs", "hard_negative_ctxs", "negative_ctxs")
_ID_KEYS = ("passage_id", "psg_id", "id", "docidx")
_CONTEXT_FORM = '{"title": "...", "text": "..."}'


class SkipRow(Exception):
    """A row that training can do without; the argument is the reason, as it is counted."""


class FieldError(ValueError):
    """A field is missing or has the wrong type; the message starts with the field."""


def parse_example(record: dict[str, Any], counts: Counter[str]) -> Example:
    """One record, with all its passages.

    Args:
        record: A JSON object in the DPR format; fields that are not known are passed over.
        counts: Receives the number of passages left out and of pools not there, by reason.

    Raises:
        FieldError: A field is missing or has the wrong type.
        SkipRow: The question is blank, or nothing is known to answer it.
    """
    question = _question(record)
    positives = [
        _passage(context, f"positive_ctxs[{i}]") for i, context in enumerate(_pool(record, "positive_ctxs", counts))
    ]
    if not positives:
        raise SkipRow("no positive_ctxs")
    hard_negatives, other_negatives = (
        _negatives(_pool(record, name, counts), name, positives, counts) for name in POOLS[1:]
    )
    return Example(question, _answers(record), positives, hard_negatives, other_negatives)


def _question(record: dict[str, Any]) -> str:
    if "question" not in record:
        found = " ".join(", ".join(record).split())[:200] or "none"  # whatever the keys are, in one line
        raise FieldError(f"question: missing; expected the keys question, {', '.join(POOLS)}, found {found}")
    question = record["question"]
    if not isinstance(question, str):
        raise FieldError(f"question: {_kind(question)}; expected a string")
    if not question.strip():
        raise SkipRow("blank question")
    return question


def _answers(record: dict[str, Any]) -> list[str]:
    answers = record.get("answers")
    if answers is None:
        return []
    if not isinstance(answers, list) or not all(isinstance(answer, str) for answer in answers):
        raise FieldError(f"answers: {_kind(answers)}; expected a list of strings")
    return answers


def _pool(record: dict[str, Any], name: str, counts: Counter[str]) -> list[Any]:
    pool = record.get(name)
    if pool is None:
        counts[f"rows without {name}"] += 1
        return []
    if not isinstance(pool, list):
        raise FieldError(f"{name}: {_kind(pool)}; expected a list of objects such as {_CONTEXT_FORM}")
    return pool


def _negatives(pool: list[Any], name: str, positives: list[Passage], counts: Counter[str]) -> list[Passage]:
    ids = {passage.passage_id for passage in positives} - {""}
    texts = {passage.text for passage in positives}
    negatives = []
    for i, context in enumerate(pool):
        if isinstance(context, dict) and _is_blank(context.get("text")):
            counts[f"{name} without text, left out"] += 1
            continue
        passage = _passage(context, f"{name}[{i}]")
        if passage.passage_id in ids or passage.text in texts:
            counts[f"{name} that are positives, left out"] += 1
            continue
        negatives.append(passage)
    return negatives


def _passage(context: Any, field: str) -> Passage:
    if not isinstance(context, dict):
        raise FieldError(f"{field}: {_kind(context)}; expected an object such as {_CONTEXT_FORM}")
    text, title = context.get("text"), context.get("title")
    if _is_blank(text):
        raise FieldError(f"{field}.text: {'missing' if text is None else 'empty'}; expected a passage")
    if not isinstance(text, str):
        raise FieldError(f"{field}.text: {_kind(text)}; expected a string")
    if title is not None and not isinstance(title, str):
        raise FieldError(f"{field}.title: {_kind(title)}; expected a string or null")
    return Passage(_passage_id(context, field), title or "", text)


def _passage_id(context: dict[str, Any], field: str) -> str:
    for key in _ID_KEYS:
        value = context.get(key)
        if isinstance(value, str):
            return value
        if isinstance(value, int) and not isinstance(value, bool):
            return str(value)
        if value is not None:
            raise FieldError(f"{field}.{key}: {_kind(value)}; expected a string or an integer below 2^64")
    return ""


def _is_blank(text: Any) -> bool:
    return text is None or (isinstance(text, str) and not text.strip())


def _kind(value: Any) -> str:
    names = {str: "a string", bool: "a boolean", int: "a number", float: "a number", list: "a list", dict: "an object"}
    return names.get(type(value), "null")
