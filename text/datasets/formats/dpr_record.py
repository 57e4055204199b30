"""One record of the DPR format to one Row.

The format's own vocabulary (``ctxs``, ``psg_id``, ``docidx``) ends here. What each fault costs is
decided here too: an error, a row left out, or a passage left out; the last two are counted.

A step uses a hundredth of a record: negatives are converted when they are asked for, one by one.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from typing import Any, NamedTuple, Protocol

from simdjson import Array, Object

from text.records import Passage

POOLS = ("positive_ctxs", "hard_negative_ctxs", "negative_ctxs")
ID_POOLS = ("positive_ids", "hard_negative_ids", "negative_ids")
"""In a compact row: the passages stand in a collection, and here are their ids."""
_ID_KEYS = ("passage_id", "psg_id", "id", "docidx")
_LARGEST_SCORE = 3e38
_CONTEXT_FORM = '{"title": "...", "text": "..."}'


class SkipRow(Exception):
    """A row that training can do without; the argument is the reason, as it is counted."""


class FieldError(ValueError):
    """A field is missing or has the wrong type; the message starts with the field."""


class Collection(Protocol):
    """Where the passages of compact rows are."""

    def find(self, passage_id: str) -> Passage:
        """Raises KeyError where there is none."""
        ...


ToPassage = Callable[[Any, int], "Passage | None"]
"""Makes a passage of an item of a pool, given its place for a message; None if it has no text."""


class Row(NamedTuple):
    """A question and all passages that its record holds; valid until the next record is parsed."""

    question: str
    answers: list[str]
    positives: list[Passage]
    hard_negatives: NegativePool
    other_negatives: NegativePool


class NegativePool(Sequence["Passage | None"]):
    """Negatives of one question; None in the place of one that is left out: without text, or known to be a positive.

    Args:
        items: Contexts, or ids.
        to_passage: Makes a passage of one of them.
        positives: Of the same question.
    """

    def __init__(self, items: Sequence[Any], to_passage: ToPassage, positives: Sequence[Passage]) -> None:
        self._items = items
        self._to_passage = to_passage
        self._positives = positives

    def __len__(self) -> int:
        return len(self._items)

    def __getitem__(self, i: int) -> Passage | None:  # pyright: ignore[reportIncompatibleMethodOverride]: no slices
        if not 0 <= i < len(self._items):
            raise IndexError(i)
        passage = self._to_passage(self._items[i], i)
        return None if passage is None or self._is_positive(passage) else passage

    def __iter__(self) -> Iterator[Passage | None]:
        for i, item in enumerate(self._items):
            passage = self._to_passage(item, i)
            yield None if passage is None or self._is_positive(passage) else passage

    def count(self, name: str, counts: Counter[str]) -> int:  # pyright: ignore[reportIncompatibleMethodOverride]
        """How many can be used; counts the others by reason, under the pool's name."""
        usable = 0
        for i, item in enumerate(self._items):
            passage = self._to_passage(item, i)
            if passage is None:
                counts[f"{name} without text, left out"] += 1
            elif self._is_positive(passage):
                counts[f"{name} that are positives, left out"] += 1
            else:
                usable += 1
        return usable

    @cached_property
    def _known(self) -> tuple[set[str], set[str], set[int]]:
        """Ids, texts and lengths of texts of the positives; made when a negative is asked for."""
        texts = {passage.text for passage in self._positives}
        return {passage.passage_id for passage in self._positives} - {""}, texts, set(map(len, texts))

    def _is_positive(self, passage: Passage) -> bool:
        ids, texts, lengths = self._known
        # Most texts differ in length already, which spares to hash them.
        return passage.passage_id in ids or (len(passage.text) in lengths and passage.text in texts)


def parse_row(record: Object, collection: Collection | None = None, score_key: str | None = None) -> Row:
    """One record, full or compact.

    Args:
        record: In the DPR format; fields that are not known are passed over.
        collection: Passages of compact rows, by id.
        score_key: Where contexts have a score; all must have one then. By default none is looked for.

    Raises:
        FieldError: A field is missing or has the wrong type; of a negative, when it is asked for.
        SkipRow: The question is blank, or nothing is known to answer it.
    """
    question, answers = _question(record), _answers(record)
    if _pools_of(record) is ID_POOLS:
        if score_key is not None:
            raise FieldError(f"positive_ids: passages without {score_key}; expected positive_ctxs that have it")
        makers = {name: _by_id(collection, name) for name in ID_POOLS}
    else:
        makers = {name: _by_context(name, score_key) for name in POOLS}
    pools = [(_pool(record, name), to_passage) for name, to_passage in makers.items()]
    items, to_positive = pools[0]
    found = [to_positive(item, i) for i, item in enumerate(items)]
    if not found:
        raise SkipRow(f"no {next(iter(makers))}")
    if None in found:
        raise FieldError(_no_text(next(iter(makers)), items, found.index(None)))
    positives = [passage for passage in found if passage is not None]
    hard_negatives, other_negatives = (NegativePool(items, to_passage, positives) for items, to_passage in pools[1:])
    return Row(question, answers, positives, hard_negatives, other_negatives)


def _pools_of(record: Object) -> tuple[str, ...]:
    """Names of the pools of a compact row, or of a full one."""
    return POOLS if record.get("positive_ids") is None else ID_POOLS


def check_row(
    record: Object, line: bytes, collection: Collection | None, counts: Counter[str], score_key: str | None = None
) -> tuple[int, int]:
    """Looks at all of a record once, as nothing does later on.

    Args:
        record: As for ``parse_row``.
        line: What it was parsed from.
        collection: As for ``parse_row``.
        counts: Receives the number of passages left out and of pools not there, by reason.
        score_key: As for ``parse_row``.

    Returns:
        How many hard negatives, and how many other negatives, can be used.

    Raises:
        FieldError: A field is missing or has the wrong type, or a key stands twice in one object.
        SkipRow: The question is blank, or nothing is known to answer it.
    """
    check_keys(record, line)
    row = parse_row(record, collection, score_key)
    answers = record.get("answers")
    counts["blank answers, left out"] += len(answers) - len(row.answers) if type(answers) is Array else 0
    names = _pools_of(record)[1:]
    for name in names:
        counts[f"rows without {name}"] += record.get(name) is None
    return row.hard_negatives.count(names[0], counts), row.other_negatives.count(names[1], counts)


def check_keys(record: Object, line: bytes) -> None:
    """Refuses a record in which a key stands twice in one object: a parser would choose silently.

    Args:
        record: Any JSON object.
        line: What it was parsed from.

    Raises:
        FieldError: With the key.
    """
    pools = [pool for name in POOLS if type(pool := record.get(name)) is Array]
    contexts = [context for pool in pools for context in pool if type(context) is Object]
    num_others = len(line) - len(line.replace(b"{", b"")) - 1 - len(contexts)  # several times as fast as count
    if num_others and num_others > _braces_in_texts(line):  # there may be objects elsewhere
        try:
            # Not by simdjson's values(): these are dicts already, in which a key stands once.
            json.loads(line, object_pairs_hook=lambda pairs: _refuse_twice([key for key, _ in pairs]))
        except RecursionError:
            raise FieldError("row: nested too deeply; expected a record in the DPR format") from None
    _refuse_twice(list(record))
    keys = [list(context) for context in contexts]
    if keys and keys.count(keys[0]) == len(keys):  # as most often
        keys = keys[:1]
    for keys_of_one in keys:
        _refuse_twice(keys_of_one)


def _braces_in_texts(line: bytes) -> int:
    """Opening braces that can only stand in texts: an object stands after a bracket, a comma or a colon."""
    return sum(part.rstrip()[-1:] not in (b"[", b",", b":") for part in line.split(b"{")[1:-1])


def _refuse_twice(keys: list[str]) -> None:
    if len(set(keys)) < len(keys):
        twice = next(key for key, count in Counter(keys).items() if count > 1)
        raise FieldError(f"{twice}: key stands twice in one object; expected each key once")


def _question(record: Object) -> str:
    question = record.get("question")
    if question is None and "question" not in record:
        found = " ".join(", ".join(record).split())[:200] or "none"  # whatever the keys are, in one line
        raise FieldError(f"question: missing; expected the keys question, {', '.join(POOLS)}, found {found}")
    if not isinstance(question, str):
        raise FieldError(f"question: {_kind(question)}; expected a string")
    if not question.strip():
        raise SkipRow("blank question")
    return question


def _answers(record: Object) -> list[str]:
    answers = record.get("answers")
    if answers is None:
        return []
    texts = [answer for answer in answers if isinstance(answer, str)] if type(answers) is Array else []
    if type(answers) is not Array or len(texts) < len(answers):
        raise FieldError(f"answers: {_kind(answers)}; expected a list of strings")
    return [text for text in texts if text.strip()]  # a blank one would be found in every passage


def _pool(record: Object, name: str) -> Sequence[Any]:
    pool = record.get(name)
    if pool is None:
        return ()
    if type(pool) is not Array:
        form = f"objects such as {_CONTEXT_FORM}" if name in POOLS else 'ids such as "12"'
        raise FieldError(f"{name}: {_kind(pool)}; expected a list of {form}")
    return pool


def _by_context(name: str, score_key: str | None) -> ToPassage:
    """Makes passages of the contexts of one pool."""

    def to_passage(context: Any, i: int) -> Passage | None:
        if type(context) is not Object:
            raise FieldError(f"{name}[{i}]: {_kind(context)}; expected an object such as {_CONTEXT_FORM}")
        text, title = context.get("text"), context.get("title")
        if text is None or text == "":
            return None
        if type(text) is not str:
            raise FieldError(f"{name}[{i}].text: {_kind(text)}; expected a string")
        if text.isspace():
            return None
        if title is not None and type(title) is not str:
            raise FieldError(f"{name}[{i}].title: {_kind(title)}; expected a string or null")
        score = None if score_key is None else _score(context.get(score_key), f"{name}[{i}].{score_key}")
        return Passage(_passage_id(context, name, i), title or "", text, score)

    return to_passage


def _passage_id(context: Object, name: str, i: int) -> str:
    for key in _ID_KEYS:
        value = context.get(key)
        if value is not None:
            return _as_id(value, f"{name}[{i}].{key}")
    return ""


def _score(value: Any, field: str) -> float:
    if type(value) not in (int, float):  # a boolean is an int, too
        raise FieldError(f"{field}: {'missing' if value is None else _kind(value)}; expected a number")
    if not abs(value) < _LARGEST_SCORE:
        raise FieldError(f"{field}: {value}; expected a number that float32 can hold")
    return float(value)


def _no_text(name: str, items: Sequence[Any], i: int) -> str:
    is_missing = type(items[i]) is Object and items[i].get("text") is None
    return f"{name}[{i}].text: {'missing' if is_missing else 'empty'}; expected a passage"


def _by_id(collection: Collection | None, name: str) -> ToPassage:
    """Finds the passages of one pool of a compact row."""

    def to_passage(value: Any, i: int) -> Passage | None:
        if collection is None:
            raise FieldError(f"{name}: ids of passages; expected the collection that they are in, too")
        passage_id = _as_id(value, f"{name}[{i}]")
        try:
            passage = collection.find(passage_id)
        except KeyError:
            raise FieldError(f"{name}[{i}]: {passage_id!r} is not in the collection; expected an id of it") from None
        return passage if passage.text and not passage.text.isspace() else None

    return to_passage


def _as_id(value: Any, field: str) -> str:
    if type(value) is str:
        return value
    if type(value) is int:
        return str(value)
    raise FieldError(f"{field}: {_kind(value)}; expected a string or an integer below 2^64")


def _kind(value: Any) -> str:
    names = {str: "a string", bool: "a boolean", int: "a number", float: "a number", Array: "a list"}
    return names.get(type(value), "null" if value is None else "an object")
