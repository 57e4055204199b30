"""One record of the DPR format to one Row.

The format's own vocabulary (``ctxs``, ``psg_id``, ``docidx``) ends here. What each fault costs is
decided here too: a row left out, or a passage left out. Both are counted.

A step uses a hundredth of a record: negatives are converted when they are asked for, one by one.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from typing import Any, NamedTuple, Protocol

from simdjson import Array, Object

from text.datasets.formats.values import (
    FieldError,
    find_answers,
    find_question_id,
    kind,
    list_keys,
    read_answers,
    read_id,
    read_string,
    read_text,
    read_title,
    refuse_repeated_key,
)
from text.records import Passage

POOLS = ("positive_ctxs", "hard_negative_ctxs", "negative_ctxs")
ID_POOLS = ("positive_ids", "hard_negative_ids", "negative_ids")
"""In a compact row: the passages stand in a collection, and here are their ids."""
_ID_KEYS = ("passage_id", "psg_id", "id", "docidx")
_LARGEST_SCORE = 3e38
_CONTEXT_FORM = '{"title": "...", "text": "..."}'


class SkipRow(Exception):
    """A row that training can do without; the argument is the reason, as it is counted."""


class MissingCollection(FieldError):
    """A compact row names passages of a collection that is not given."""


class Collection(Protocol):
    """Where the passages of compact rows are."""

    def find(self, passage_id: str) -> Passage:
        """Raises KeyError where there is none."""
        ...


ToPassage = Callable[[Any, int], "Passage | None"]
"""Makes a passage of an item of a pool, given its place for a message; None if the item has neither text nor title."""


class Row(NamedTuple):
    """A question and all passages that its record holds; valid until the next record is parsed."""

    question: str
    answers: list[str]
    positives: list[Passage]
    hard_negatives: NegativePool
    other_negatives: NegativePool


def _pass_over(passage: Passage) -> None:
    """Do nothing with a passage."""


class CheckedRow(NamedTuple):
    """Findings of ``check_row``; valid until the next record is parsed."""

    row: Row
    num_hard_negatives: int
    """How many can be used."""
    num_other_negatives: int
    """How many can be used."""
    is_compact: bool
    """Its passages stand in a collection."""
    question_id: str
    """Empty if the record has none."""


class NegativePool(Sequence["Passage | None"]):
    """Negatives of one question; None in the place of one that is left out: null, without text, or a positive.

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

    def count_usable(self, name: str, counts: Counter[str], visit: Callable[[Passage], None]) -> int:
        """Return how many passages can be used, and count the others by reason, under the pool's name.

        ``visit`` is called with every passage that has text, also with those that are positives.
        """
        num_usable = 0
        for i, item in enumerate(self._items):
            passage = self._to_passage(item, i)
            if passage is None:
                counts[f"{name} without text, left out"] += 1
                continue
            visit(passage)
            if self._is_positive(passage):
                counts[f"{name} that are positives, left out"] += 1
            else:
                num_usable += 1
        return num_usable

    @cached_property
    def _known(self) -> tuple[set[str], set[tuple[str, str]], set[int]]:
        """Ids, titles with texts, and lengths of texts of the positives; made when a negative is asked for."""
        contents = {(passage.title, passage.text) for passage in self._positives}
        lengths = {len(passage.text) for passage in self._positives}
        return {passage.passage_id for passage in self._positives} - {""}, contents, lengths

    def _is_positive(self, passage: Passage) -> bool:
        ids, contents, lengths = self._known
        # Most texts differ in length already, so they need no hash.
        return passage.passage_id in ids or (len(passage.text) in lengths and (passage.title, passage.text) in contents)


def parse_row(
    record: Object,
    collection: Collection | None = None,
    score_key: str | None = None,
    counts: Counter[str] | None = None,
) -> Row:
    """One record, full or compact.

    Args:
        record: In the DPR format; fields that are not known are passed over.
        collection: Passages of compact rows, by id.
        score_key: Where contexts have a score; all must have one then. By default none is looked for.
        counts: Receives the number of values that were read although they have another type, by kind.

    Raises:
        FieldError: A field is missing or has the wrong type; of a negative, when it is asked for.
        SkipRow: The question is blank, or nothing is known to answer it.
    """
    counts = Counter() if counts is None else counts
    question, answers = _question(record, counts), read_answers(find_answers(record), counts)
    if _pools_of(record) is ID_POOLS:
        if score_key is not None:
            raise FieldError(f"positive_ids: passages without {score_key}. Give positive_ctxs that have it")
        makers = {name: _by_id(collection, name, counts) for name in ID_POOLS}
    else:
        makers = {name: _by_context(name, score_key, counts) for name in POOLS}
    pools = [(_pool(record, name), to_passage) for name, to_passage in makers.items()]
    items, to_positive = pools[0]
    found = [to_positive(item, i) for i, item in enumerate(items)]
    positives = [passage for passage in found if passage is not None]
    if not positives:
        raise SkipRow(f"no {next(iter(makers))}" + (" with text" if found else ""))
    hard_negatives, other_negatives = (NegativePool(items, to_passage, positives) for items, to_passage in pools[1:])
    return Row(question, answers, positives, hard_negatives, other_negatives)


def _pools_of(record: Object) -> tuple[str, ...]:
    """Names of the pools of a compact row, or of a full one."""
    return POOLS if record.get("positive_ids") is None else ID_POOLS


def check_row(
    record: Object,
    line: bytes,
    collection: Collection | None,
    counts: Counter[str],
    score_key: str | None = None,
    visit: Callable[[Passage], None] = _pass_over,
) -> CheckedRow:
    """Looks at all of a record once, as nothing does later on.

    Args:
        record: As for ``parse_row``.
        line: What it was parsed from.
        collection: As for ``parse_row``.
        counts: Receives the number of values read otherwise, of passages left out and of pools not there, by reason.
        score_key: As for ``parse_row``.
        visit: Called with every passage.

    Raises:
        FieldError: A field is missing or has the wrong type, or a key stands twice in one object.
        SkipRow: The question is blank, or nothing is known to answer it.
    """
    check_keys(record, line)
    row = parse_row(record, collection, score_key, counts)
    pools = _pools_of(record)
    positives, *names = pools
    counts[f"{positives} without text, left out"] += len(_pool(record, positives)) - len(row.positives)
    for passage in row.positives:
        visit(passage)
    counts[f"rows without {names[0]}"] += record.get(names[0]) is None
    counts[f"rows without {names[1]}"] += record.get(names[1]) is None
    num_hard_negatives = row.hard_negatives.count_usable(names[0], counts, visit)
    num_other_negatives = row.other_negatives.count_usable(names[1], counts, visit)
    is_compact = pools is ID_POOLS
    return CheckedRow(row, num_hard_negatives, num_other_negatives, is_compact, find_question_id(record))


def named_passages(record: Object) -> Iterator[tuple[str, Passage]]:
    """Yield the passages of a full record that have text, each after its field, such as ``positive_ctxs[0]``."""
    for name in POOLS:
        to_passage = _by_context(name, None, Counter())
        for i, context in enumerate(_pool(record, name)):
            passage = to_passage(context, i)
            if passage is not None:
                yield f"{name}[{i}]", passage


def check_keys(record: Object, line: bytes) -> None:
    """Refuse a record in which a key stands twice in one object, also in an inner one.

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
            json.loads(line, object_pairs_hook=lambda pairs: refuse_repeated_key([key for key, _ in pairs]))
        except RecursionError:
            raise FieldError("row: nested too deeply. Give a record in the DPR format") from None
    refuse_repeated_key(list(record))
    keys = [list(context) for context in contexts]
    if keys and keys.count(keys[0]) == len(keys):  # as most often
        keys = keys[:1]
    for keys_of_one in keys:
        refuse_repeated_key(keys_of_one)


def _braces_in_texts(line: bytes) -> int:
    """Opening braces that can only stand in texts: an object stands after a bracket, a comma or a colon."""
    return sum(part.rstrip()[-1:] not in (b"[", b",", b":") for part in line.split(b"{")[1:-1])


def _question(record: Object, counts: Counter[str]) -> str:
    question = record.get("question")
    if question is None and "question" not in record:
        raise FieldError(f"question: missing. Give the keys question, {', '.join(POOLS)}; {list_keys(record)}")
    question = read_string(question, "question", "questions", counts)
    if not question.strip():
        raise SkipRow("blank question")
    return question


def _pool(record: Object, name: str) -> Sequence[Any]:
    pool = record.get(name)
    if pool is None:
        return ()
    if type(pool) is not Array:
        form = f"objects such as {_CONTEXT_FORM}" if name in POOLS else 'ids such as "12"'
        raise FieldError(f"{name}: {kind(pool)}. Give a list of {form}")
    return pool


def _by_context(name: str, score_key: str | None, counts: Counter[str]) -> ToPassage:
    """Makes passages of the contexts of one pool."""

    def to_passage(context: Any, i: int) -> Passage | None:
        if type(context) is not Object:
            if context is None:
                return None
            raise FieldError(f"{name}[{i}]: {kind(context)}. Give an object such as {_CONTEXT_FORM}")
        text, title = context.get("text"), context.get("title")
        if type(text) is not str:
            text = read_text(context, f"{name}[{i}].")  # perhaps under its other key
            if text is None:
                return None
        if type(title) is not str:
            title = read_title(title, f"{name}[{i}].title", counts)
        if not text or text.isspace():
            if not title.strip():
                return None
            counts[f"{name} with a title alone"] += 1
            text = ""
        score = None if score_key is None else _score(context.get(score_key), f"{name}[{i}].{score_key}")
        return Passage(_passage_id(context, name, i, counts), title, text, score)

    return to_passage


def _passage_id(context: Object, name: str, i: int, counts: Counter[str]) -> str:
    for key in _ID_KEYS:
        value = context.get(key)
        if value is not None and value != "":
            return value if type(value) is str else read_id(value, f"{name}[{i}].{key}", counts)
    return ""


def _score(value: Any, field: str) -> float:
    if type(value) not in (int, float):  # a boolean is an int, too
        raise FieldError(f"{field}: {'missing' if value is None else kind(value)}. Give a number")
    if not abs(value) < _LARGEST_SCORE:
        raise FieldError(f"{field}: too large a number. Give a number that float32 can hold")
    return float(value)


def _by_id(collection: Collection | None, name: str, counts: Counter[str]) -> ToPassage:
    """Finds the passages of one pool of a compact row."""

    def to_passage(value: Any, i: int) -> Passage | None:
        if collection is None:
            raise MissingCollection(f"{name}: ids of passages. Give the collection that holds the passages, too")
        if value is None:
            return None
        passage_id = read_id(value, f"{name}[{i}]", counts)
        try:
            passage = collection.find(passage_id)
        except KeyError:
            raise FieldError(f"{name}[{i}]: not in the collection. The id is {passage_id!r}") from None
        if not passage.text.strip():
            counts[f"{name} with a title alone"] += bool(passage.title.strip())
            return passage if passage.title.strip() else None
        return passage

    return to_passage
