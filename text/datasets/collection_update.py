"""A collection with some passages added, replaced or removed, by id."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Collection, Iterable

from text.artifacts import atomic_write
from text.datasets.collection import PassageCollection, beir_line
from text.errors import DataError
from text.records import Passage


def update_collection(
    collection: PassageCollection,
    path: str | os.PathLike[str],
    *,
    upserts: Iterable[Passage] = (),
    deletes: Collection[str] = (),
) -> Counter[str]:
    """Writes JSON lines as BEIR has them: the passages in their order, and behind them those that are new.

    Args:
        collection: What is updated; stays as it is.
        path: Where the new state goes.
        upserts: Passages that replace those with their id, or are added; held in memory.
        deletes: Ids to remove.

    Returns:
        How many were added, replaced, deleted, unchanged.

    Raises:
        DataError: An id to remove is not there, or is also among the upserts; or one stands there for two passages.
        OSError: The file cannot be written, or the disk is full.
    """
    changed, deleted, met = _by_id(upserts), set(deletes), set[str]()
    if both := sorted(deleted & set(changed)):
        raise DataError(f"{collection.path}: {both[0]} is to be deleted and to be added; expected one of the two")
    counts: Counter[str] = Counter(added=0, replaced=0, deleted=0, unchanged=0)
    with atomic_write(path) as temporary, open(temporary, "w", encoding="utf-8") as file:
        for passage in collection:
            name = passage.passage_id
            if name in deleted or name in changed:
                met.add(name)
            now = changed.get(name, passage)
            counts["deleted" if name in deleted else "unchanged" if now == passage else "replaced"] += 1
            if name not in deleted:
                file.write(beir_line(now))
        for name in [name for name in changed if name not in met]:
            counts["added"] += 1
            file.write(beir_line(changed[name]))
        if missing := sorted(deleted - met):
            raise DataError(f"{collection.path}: no passage {missing[0]}; expected ids of passages to delete")
    return counts


def _by_id(passages: Iterable[Passage]) -> dict[str, Passage]:
    found: dict[str, Passage] = {}
    for passage in passages:
        if found.setdefault(passage.passage_id, passage) != passage:
            raise DataError(f"{passage.passage_id} is to be added with two texts; expected one passage for each id")
    return found
