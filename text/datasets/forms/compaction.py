"""Compact rows: replacing passages by ids of a collection, and ids by the passages.

A passage without an id gets a hash of its title and text as its id. Memory holds 32 bytes of hashes for each distinct
passage, about 150 bytes with Python's overhead.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable
from typing import Any

import orjson

from text.datasets.collection import PassageCollection
from text.datasets.formats.dpr_record import ID_POOLS, POOLS
from text.datasets.formats.values import FieldError
from text.datasets.forms.fields import count_lost_keys
from text.datasets.forms.records import Record

_HASH_BYTES = 16


class PassageWriter:
    """Collection of the distinct passages of all rows.

    Args:
        write: Function that writes a line of the collection, in BEIR's format.
        counts: Number of fields of passages that a collection cannot hold. It is updated.
    """

    def __init__(self, write: Callable[[bytes], Any], counts: Counter[str]) -> None:
        self._write, self._counts = write, counts
        self._contents: dict[bytes, bytes] = {}

    def __len__(self) -> int:
        """Return the number of distinct passages."""
        return len(self._contents)

    def compact(self, row: Record) -> Record:
        """Return a row with the ids of its passages, and write the passages that are new. A compact row stays as it is.

        Raises:
            FieldError: A passage has the id of another passage with a different text.
        """
        compact: Record = {}
        for name, value in row.items():
            if name in POOLS:
                pool = ID_POOLS[POOLS.index(name)]
                count_lost_keys(value, {"passage_id", "title", "text"}, self._counts)
                compact[pool] = [self._add(passage, f"{name}[{i}]") for i, passage in enumerate(value)]
            else:
                compact[name] = value
        return compact

    def _add(self, passage: Record, field: str) -> str:
        title, text = passage.get("title") or "", passage["text"]
        content = _hash(title, text)
        passage_id = passage.get("passage_id") or content.hex()
        key = _hash(passage_id)
        known = self._contents.setdefault(key, content)
        if known is content:
            line = {"_id": passage_id, "title": title, "text": text}
            self._write(orjson.dumps(line, option=orjson.OPT_APPEND_NEWLINE))
        elif known != content:
            raise FieldError(
                f"{field}.passage_id: {passage_id!r} is also the id of a different passage. Give each passage a unique "
                "id, or leave the ids out"
            )
        return passage_id


def expand_row(row: Record, collection: PassageCollection) -> Record:
    """Return a row with the passages of its ids. A full row stays as it is.

    Raises:
        FieldError: An id is not in the collection.
    """
    expanded: Record = {}
    for name, value in row.items():
        if name in ID_POOLS:
            pool = POOLS[ID_POOLS.index(name)]
            expanded[pool] = [_find(collection, each, f"{name}[{i}]") for i, each in enumerate(value)]
        else:
            expanded[name] = value
    return expanded


def check_ids(row: Record, collection: PassageCollection) -> None:
    """Check that the ids of a compact row are in a collection.

    Raises:
        FieldError: An id is not in the collection.
    """
    for name in ID_POOLS:
        for i, each in enumerate(row.get(name, ())):
            try:
                collection.find_row(each)
            except KeyError:
                raise FieldError(f"{name}[{i}]: not in {collection.path}. The id is {each!r}") from None


def _find(collection: PassageCollection, passage_id: str, field: str) -> Record:
    try:
        passage = collection.find(passage_id)
    except KeyError:
        raise FieldError(f"{field}: not in {collection.path}. The id is {passage_id!r}") from None
    title = {"title": passage.title} if passage.title else {}
    return {"passage_id": passage.passage_id, **title, "text": passage.text}


def _hash(*parts: str) -> bytes:
    digest = hashlib.blake2b(digest_size=_HASH_BYTES)
    for part in parts:
        encoded = part.encode("utf-8", "surrogatepass")
        digest.update(b"%d:" % len(encoded))
        digest.update(encoded)
    return digest.digest()
