"""Checks that a passage id belongs to one passage, in one file or in all files of a run.

Training treats passages with the same id as the same passage. If an id belongs to two different passages, training
would mask true negatives and rank the wrong embedding as the positive. Two passages are the same if their texts differ
only in white space, case, Unicode normalization and the shapes of quotes and dashes. Their titles, if both have one,
must be the same in this sense, too.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from contextlib import suppress
from itertools import combinations, groupby
from typing import NamedTuple, Protocol

import numpy as np

from text.datasets.collection import PassageCollection
from text.datasets.formats.dpr_record import iter_named_passages
from text.datasets.formats.jsonl import JsonlFile, RowReader
from text.datasets.row_index import RowIndex, hash_contents, hash_passage_id
from text.errors import DataError
from text.records import Passage

_PAIRS_AT_ONCE = 4096
_FORMS = str.maketrans(
    dict.fromkeys("\u2018\u2019\u201a\u201b\u2032`", "'")
    | dict.fromkeys("\u201c\u201d\u201e\u201f\u2033\u00ab\u00bb", '"')
    | dict.fromkeys("\u2010\u2011\u2012\u2013\u2014\u2015\u2212", "-")
)
"""Maps typographic quotes and dashes to their ASCII characters."""
_PLACEHOLDERS = {"-1", "none", "null", "nan", "n/a", "na", "unknown", "undefined"}


class IndexedFile(Protocol):
    """A file with an index of its rows, such as a DPRFile."""

    @property
    def rows(self) -> JsonlFile:
        """Rows of the file."""
        ...

    @property
    def index(self) -> RowIndex:
        """Index of the questions and passages of the rows."""
        ...


class _Place(NamedTuple):
    """A passage and its place in a file."""

    rows: JsonlFile
    row: int
    field: str
    passage: Passage

    @property
    def description(self) -> str:
        """Path, line, byte and field, in the format of error messages."""
        return f"{self.rows.describe_place(self.row, self.field)} {self.field}"


class _Entries(NamedTuple):
    """Selected entries of the index of a file."""

    rows: JsonlFile
    row_index: RowIndex
    places: np.ndarray
    """Positions of the entries in the arrays of the index."""

    def pick(self, numbers: np.ndarray) -> _Entries:
        """Return the entries with these numbers."""
        return self._replace(places=self.places[numbers])

    def read(self) -> list[_Place]:
        """Return the passage of each entry. Each row is read once."""
        rows = self.row_index.rows[self.places].tolist()
        found = dict[int, _Place]()
        with self.rows.open() as reader:
            order = sorted(range(len(rows)), key=rows.__getitem__)
            for row, numbers in groupby(order, key=rows.__getitem__):
                passages = self._read_row(reader, row)
                found |= {number: passages[self._get_key(number)] for number in numbers}
        return [found[number] for number in range(len(rows))]

    def _get_key(self, number: int) -> tuple[int, int]:
        place = self.places[number]
        return int(self.row_index.ids[place]), int(self.row_index.contents[place])

    def _read_row(self, reader: RowReader, row: int) -> dict[tuple[int, int], _Place]:
        """Return the passages of a row by their hashes of id and content. Passages without an id are skipped."""
        named = [(field, passage) for field, passage in iter_named_passages(reader.parse(row)) if passage.passage_id]
        contents = hash_contents([passage.title for _, passage in named], [passage.text for _, passage in named])
        places = {}
        for (field, passage), content in zip(named, contents, strict=True):
            places.setdefault((hash_passage_id(passage.passage_id), content), _Place(self.rows, row, field, passage))
        return places


def check_ids(rows: JsonlFile, index: RowIndex) -> None:
    """Check that each passage id of a file belongs to one passage.

    Raises:
        DataError: Two different passages have the same id. The error gives both places.
    """
    is_repeat = index.ids[1:] == index.ids[:-1]
    entries = np.flatnonzero(np.r_[is_repeat, False] | np.r_[False, is_repeat])
    # A passage without title equals a passage with any title, so the passage to compare with should have a title.
    entries = entries[np.lexsort((index.rows[entries], ~index.has_title[entries], index.ids[entries]))]
    firsts = entries[np.searchsorted(index.ids[entries], index.ids[entries])]
    differs = firsts != entries
    _compare(_Entries(rows, index, firsts[differs]), _Entries(rows, index, entries[differs]))


def check_ids_across(files: Sequence[IndexedFile]) -> None:
    """Check that each passage id belongs to the same passage in all files.

    Raises:
        DataError: Two different passages have the same id. The error gives both places.
    """
    for one, other in combinations(files, 2):
        ids, contents = one.index.ids, one.index.contents
        places = np.searchsorted(ids, other.index.ids)
        inside = np.flatnonzero(places < len(ids))
        places = places[inside]
        is_shared = ids[places] == other.index.ids[inside]
        differs = is_shared & (contents[places] != other.index.contents[inside])
        _compare(_Entries(one.rows, one.index, places[differs]), _Entries(other.rows, other.index, inside[differs]))


def check_ids_in_collection(rows: JsonlFile, index: RowIndex, collection: PassageCollection) -> None:
    """Check that the passages of full rows equal the passages with the same ids in a collection.

    Raises:
        DataError: Two different passages have the same id. The error gives both places.
    """
    with rows.open() as reader:
        order = np.argsort(index.rows, kind="stable")
        for row, entries in groupby(order.tolist(), key=lambda entry: int(index.rows[entry])):
            wanted = {int(index.ids[entry]) for entry in entries}
            for field, passage in iter_named_passages(reader.parse(row)):
                if passage.passage_id and hash_passage_id(passage.passage_id) in wanted:
                    _compare_with_collection(_Place(rows, row, field, passage), collection)


def is_same_passage(one: Passage, other: Passage) -> bool:
    """Return whether two passages are the same except for white space, case and forms of characters.

    Titles are compared only if both passages have one, because many files leave titles out.

    >>> is_same_passage(Passage("1", "Oak", "An oak , old."), Passage("1", "", "an oak, old."))
    True
    >>> is_same_passage(Passage("1", "", "C++"), Passage("1", "", "C#"))
    False
    """
    if not _is_same_text(one.text, other.text):
        return False
    return not (one.title and other.title) or _is_same_text(one.title, other.title)


def _compare(firsts: _Entries, others: _Entries) -> None:
    """Compare pairs of passages with the same id, in the order of the second file.

    Raises:
        DataError: The passages of a pair differ.
    """
    order = np.argsort(others.row_index.rows[others.places], kind="stable")
    for start in range(0, len(order), _PAIRS_AT_ONCE):
        pairs = order[start : start + _PAIRS_AT_ONCE]
        for first, other in zip(firsts.pick(pairs).read(), others.pick(pairs).read(), strict=True):
            if not is_same_passage(first.passage, other.passage):
                ids = np.concatenate([firsts.row_index.ids, others.row_index.ids])
                raise _build_error(
                    first.description, first.passage, other, ids == hash_passage_id(other.passage.passage_id)
                )


def _compare_with_collection(place: _Place, collection: PassageCollection) -> None:
    with suppress(KeyError):
        found = collection.find(place.passage.passage_id)
        if not is_same_passage(found, place.passage):
            where = collection.describe_place(place.passage.passage_id)
            raise _build_error(where, found, place, np.zeros(1, bool))


def _build_error(where: str, first: Passage, other: _Place, has_id: np.ndarray) -> DataError:
    """Return the error for an id of two passages. ``has_id`` marks the distinct passages that have the id."""
    passage_id = " ".join(other.passage.passage_id.split())[:100]
    field = "title" if _is_same_text(first.text, other.passage.text) else "text"
    hint = "Give each passage a unique id in all files, or leave out the id"
    if (has_id.sum() > 2 and has_id.mean() > 0.5) or passage_id.casefold() in _PLACEHOLDERS:
        hint = f'"{passage_id}" looks like a placeholder: {has_id.mean():.0%} of the passages have it. Leave out the id'
    return DataError(
        f'{other.description}: the passage id "{passage_id}" is also the id of a passage with a different {field} at '
        f"{where}. {hint}: passages without an id are identified by title and text."
    )


def _is_same_text(one: str, other: str) -> bool:
    # Most harmless differences are in white space and case, which are fast to compare.
    return one == other or _squeeze(one) == _squeeze(other) or _fold(one) == _fold(other)


def _squeeze(text: str) -> str:
    return "".join(text.casefold().split())


def _fold(text: str) -> str:
    """Return the visible characters of a text, normalized and casefolded; the text itself if none is visible."""
    folded = _squeeze(unicodedata.normalize("NFKC", text)).translate(_FORMS)
    return "".join(character for character in folded if unicodedata.category(character) != "Cf") or text
