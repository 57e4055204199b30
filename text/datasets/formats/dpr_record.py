"""Conversion of one record in the DPR format to one Row.

Only this module uses the format's own names (``ctxs``, ``psg_id``, ``docidx``). It also decides whether a fault drops
the row or only a passage. Both are counted.

Negatives are converted one by one on access, because a training step uses about a hundredth of a record.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from typing import Any, NamedTuple, Protocol

from simdjson import Array, Object

from text.datasets.formats.values import (
    PASSAGE_ID_KEYS,
    FieldError,
    check_no_repeated_key,
    describe_type,
    find_answers,
    find_question_id,
    list_keys,
    read_answers,
    read_id,
    read_string,
    read_text,
    read_title,
)
from text.records import Passage

POOLS = ("positive_ctxs", "hard_negative_ctxs", "negative_ctxs")
ID_POOLS = ("positive_ids", "hard_negative_ids", "negative_ids")
"""Keys of a compact row. They hold passage ids, and the passages are in a collection."""
_LARGEST_SCORE = 3e38
_CONTEXT_FORM = '{"title": "...", "text": "..."}'


class SkipRow(Exception):
    """Signal to skip a row that training does not need. The argument is the reason to count."""


class MissingCollection(FieldError):
    """Error for a compact row without a collection to look up its passages."""


class Collection(Protocol):
    """Lookup of the passages of compact rows."""

    def find(self, passage_id: str) -> Passage:
        """Return a passage by its id, or raise KeyError."""
        ...


ToPassage = Callable[[Any, int], "Passage | None"]
"""Conversion of an item of a pool, and its index, to a passage.

The result is None if ``text`` is null, or if text and title are both blank.
"""


class Row(NamedTuple):
    """Question, answers and all passages of a record. The row is valid until the next record is parsed."""

    question: str
    answers: list[str]
    positives: list[Passage]
    hard_negatives: NegativePool
    other_negatives: NegativePool


def _ignore_passage(passage: Passage) -> None:
    """Do nothing."""


class CheckedRow(NamedTuple):
    """Result of ``check_row``. It is valid until the next record is parsed."""

    row: Row
    num_hard_negatives: int
    """Number of usable hard negatives."""
    num_other_negatives: int
    """Number of usable other negatives."""
    is_compact: bool
    """True if the row holds passage ids of a collection."""
    question_id: str
    """Id of the question. Empty if the record has none."""


class NegativePool(Sequence["Passage | None"]):
    """Negatives of one question. An unusable negative (null, blank, or a known positive) is None.

    Args:
        items: Contexts or passage ids.
        to_passage: Function that converts an item to a passage.
        positives: Positives of the same question.
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
        """Return the number of usable passages.

        Args:
            name: Name of the pool, for the counts.
            counts: Number of dropped passages per reason. It is updated.
            visit: Function to call with every passage that has text, including known positives.
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
        """Ids, (title, text) pairs and text lengths of the positives, computed at the first access to a negative."""
        contents = {(passage.title, passage.text) for passage in self._positives}
        lengths = {len(passage.text) for passage in self._positives}
        return {passage.passage_id for passage in self._positives} - {""}, contents, lengths

    def _is_positive(self, passage: Passage) -> bool:
        ids, contents, lengths = self._known
        # Comparing lengths first avoids hashing most texts.
        return passage.passage_id in ids or (len(passage.text) in lengths and (passage.title, passage.text) in contents)


def parse_row(
    record: Object,
    collection: Collection | None = None,
    score_key: str | None = None,
    counts: Counter[str] | None = None,
) -> Row:
    """Convert one full or compact record to a Row.

    Args:
        record: Record in the DPR format. Unknown fields are ignored.
        collection: Collection with the passages of compact rows.
        score_key: Key of a context's score. If given, every context must have one. In a compact row, it is the key of
            an object with a list of scores for each pool of ids. By default scores are not read.
        counts: Number of values per kind that were converted from another type. It is updated.

    Raises:
        FieldError: A field is missing or has the wrong type. Negatives are checked on access.
        SkipRow: The question is blank, or the record has no positive with a text or a title.
    """
    counts = Counter() if counts is None else counts
    question, answers = _read_question(record, counts), read_answers(find_answers(record), counts)
    if _get_pool_names(record) is ID_POOLS:
        converters = {
            name: _build_id_lookup(collection, name, counts, _get_pool_scores(record, name, score_key))
            for name in ID_POOLS
        }
    else:
        converters = {name: _build_context_reader(name, score_key, counts) for name in POOLS}
    pools = [(_get_pool(record, name), to_passage) for name, to_passage in converters.items()]
    items, to_positive = pools[0]
    found = [to_positive(item, i) for i, item in enumerate(items)]
    positives = [passage for passage in found if passage is not None]
    if not positives:
        raise SkipRow(f"no {next(iter(converters))}" + (" with text" if found else ""))
    hard_negatives, other_negatives = (NegativePool(items, to_passage, positives) for items, to_passage in pools[1:])
    return Row(question, answers, positives, hard_negatives, other_negatives)


def _get_pool_names(record: Object) -> tuple[str, ...]:
    """Return the keys of the pools, which differ between compact and full rows."""
    return POOLS if record.get("positive_ids") is None else ID_POOLS


def check_row(
    record: Object,
    line: bytes,
    collection: Collection | None,
    counts: Counter[str],
    score_key: str | None = None,
    visit: Callable[[Passage], None] = _ignore_passage,
) -> CheckedRow:
    """Check a complete record, including all negatives. This is the only full check of a record.

    Args:
        record: Record in the DPR format.
        line: Bytes of the record.
        collection: Collection with the passages of compact rows.
        counts: Number of converted values, dropped passages and missing pools, by reason. It is updated.
        score_key: Key of a context's score, as for ``parse_row``.
        visit: Function to call with every passage that has text.

    Raises:
        FieldError: A field is missing or has the wrong type, or a key occurs twice in one object.
        SkipRow: The question is blank, or the record has no positive with a text or a title.
    """
    check_keys(record, line)
    row = parse_row(record, collection, score_key, counts)
    pools = _get_pool_names(record)
    positives, *names = pools
    counts[f"{positives} without text, left out"] += len(_get_pool(record, positives)) - len(row.positives)
    for passage in row.positives:
        visit(passage)
    counts[f"rows without {names[0]}"] += record.get(names[0]) is None
    counts[f"rows without {names[1]}"] += record.get(names[1]) is None
    num_hard_negatives = row.hard_negatives.count_usable(names[0], counts, visit)
    num_other_negatives = row.other_negatives.count_usable(names[1], counts, visit)
    is_compact = pools is ID_POOLS
    return CheckedRow(row, num_hard_negatives, num_other_negatives, is_compact, find_question_id(record))


def iter_named_passages(record: Object) -> Iterator[tuple[str, Passage]]:
    """Yield the field, such as ``positive_ctxs[0]``, and the passage of each context with text in a full record."""
    for name in POOLS:
        yield from ((f"{name}[{i}]", passage) for i, passage in _iter_pool(record, name, None))


def iter_pool_passages(record: Object, collection: Collection | None = None) -> Iterator[tuple[str, int, Passage]]:
    """Yield the pool, the place in the pool and the passage of each passage with text in a full or compact record."""
    for name in _get_pool_names(record):
        yield from ((name, i, passage) for i, passage in _iter_pool(record, name, collection))


def _iter_pool(record: Object, name: str, collection: Collection | None) -> Iterator[tuple[int, Passage]]:
    counts = Counter[str]()
    is_compact = name in ID_POOLS
    to_passage = _build_id_lookup(collection, name, counts) if is_compact else _build_context_reader(name, None, counts)
    for i, item in enumerate(_get_pool(record, name)):
        passage = to_passage(item, i)
        if passage is not None:
            yield i, passage


def check_keys(record: Object, line: bytes) -> None:
    """Check that no key occurs twice in a record or in an object inside it.

    Args:
        record: Any JSON object.
        line: Bytes of the object.

    Raises:
        FieldError: A key occurs twice. The message names it.
    """
    pools = [pool for name in POOLS if type(pool := record.get(name)) is Array]
    contexts = [context for pool in pools for context in pool if type(context) is Object]
    num_others = len(line) - len(line.replace(b"{", b"")) - 1 - len(contexts)  # This is faster than bytes.count.
    if num_others and num_others > _count_braces_in_texts(line):  # The record may contain other objects.
        try:
            # simdjson converts inner objects to dicts, which hide a repeated key.
            json.loads(line, object_pairs_hook=lambda pairs: check_no_repeated_key([key for key, _ in pairs]))
        except RecursionError:
            raise FieldError("row: nested too deeply. Give a record in the DPR format") from None
    check_no_repeated_key(list(record))
    keys = [list(context) for context in contexts]
    if keys and keys.count(keys[0]) == len(keys):  # Usually all contexts have the same keys.
        keys = keys[:1]
    for context_keys in keys:
        check_no_repeated_key(context_keys)


def _count_braces_in_texts(line: bytes) -> int:
    """Count the opening braces that are certainly part of a text: no bracket, comma or colon precedes them."""
    return sum(part.rstrip()[-1:] not in (b"[", b",", b":") for part in line.split(b"{")[1:-1])


def _read_question(record: Object, counts: Counter[str]) -> str:
    question = record.get("question")
    if question is None and "question" not in record:
        advice = f"Give the keys question, {', '.join(POOLS)}, or use dpr-text convert for rows of other tools"
        raise FieldError(f"question: missing. {advice}; {list_keys(record)}")
    question = read_string(question, "question", "questions", counts)
    if not question.strip():
        raise SkipRow("blank question")
    return question


def _get_pool(record: Object, name: str) -> Sequence[Any]:
    pool = record.get(name)
    if pool is None:
        return ()
    if type(pool) is not Array:
        form = f"objects such as {_CONTEXT_FORM}" if name in POOLS else 'ids such as "12"'
        raise FieldError(f"{name}: {describe_type(pool)}. Give a list of {form}")
    return pool


def _build_context_reader(name: str, score_key: str | None, counts: Counter[str]) -> ToPassage:
    """Return the function that converts the contexts of one pool to passages."""

    def to_passage(context: Any, i: int) -> Passage | None:
        if type(context) is not Object:
            if context is None:
                return None
            raise FieldError(f"{name}[{i}]: {describe_type(context)}. Give an object such as {_CONTEXT_FORM}")
        text, title = context.get("text"), context.get("title")
        if type(text) is not str:
            text = read_text(context, f"{name}[{i}].")  # This also tries the other text key.
            if text is None:
                return None
        if type(title) is not str:
            title = read_title(title, f"{name}[{i}].title", counts)
        if not text or text.isspace():
            if not title.strip():
                return None
            counts[f"{name} with a title alone"] += 1
            text = ""
        score = None if score_key is None else _read_score(context.get(score_key), f"{name}[{i}].{score_key}")
        return Passage(_read_passage_id(context, name, i, counts), title, text, score)

    return to_passage


def _read_passage_id(context: Object, name: str, i: int, counts: Counter[str]) -> str:
    for key in PASSAGE_ID_KEYS:
        value = context.get(key)
        if value is not None and value != "":
            return value if type(value) is str else read_id(value, f"{name}[{i}].{key}", counts)
    return ""


def _read_score(value: Any, field: str) -> float:
    if type(value) not in (int, float):  # isinstance would accept booleans.
        raise FieldError(f"{field}: {'missing' if value is None else describe_type(value)}. Give a number")
    if not abs(value) < _LARGEST_SCORE:
        raise FieldError(f"{field}: too large a number. Give a number that float32 can hold")
    return float(value)


def _get_pool_scores(record: Object, name: str, score_key: str | None) -> list[Any] | None:
    """Return the scores of one pool of a compact row, one for each id. None without ``score_key``."""
    pool = _get_pool(record, name)
    if score_key is None or not len(pool):
        return None
    table = record.get(score_key)
    if type(table) is not Object:
        raise FieldError(f"{score_key}: {describe_type(table)}. Give the scores of each pool, as dpr-text score does")
    scores = table.get(name)
    if type(scores) is not Array or len(scores) != len(pool):
        raise FieldError(f"{score_key}.{name}: not a list with {len(pool)} scores. Give one for each id of {name}")
    return scores.as_list()


def _build_id_lookup(
    collection: Collection | None, name: str, counts: Counter[str], scores: list[Any] | None = None
) -> ToPassage:
    """Return the function that looks up the passages of one pool of a compact row, with their scores if given."""

    def to_passage(value: Any, i: int) -> Passage | None:
        if collection is None:
            raise MissingCollection(f"{name}: passage ids without a collection. Give the collection of the passages")
        if value is None:
            return None
        passage_id = read_id(value, f"{name}[{i}]", counts)
        try:
            passage = collection.find(passage_id)
        except KeyError:
            raise FieldError(f"{name}[{i}]: not in the collection. The id is {passage_id!r}") from None
        if not passage.text.strip():
            counts[f"{name} with a title alone"] += bool(passage.title.strip())
            if not passage.title.strip():
                return None
        return passage if scores is None else passage._replace(score=_read_score(scores[i], f"{name}[{i}] score"))

    return to_passage
