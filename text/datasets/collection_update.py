"""Add, replace and remove passages of a collection by id."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Collection, Iterable

from text.artifacts import atomic_write
from text.datasets.collection import PassageCollection, beir_line
from text.datasets.formats.compressed_files import form_of, read_chunks
from text.datasets.formats.lines import read_lines
from text.errors import DataError
from text.records import Passage


def update_collection(
    collection: PassageCollection,
    path: str | os.PathLike[str],
    *,
    upserts: Iterable[Passage] = (),
    deletes: Collection[str] = (),
    overwrite: bool = True,
) -> Counter[str]:
    """Write an updated collection as BEIR's JSON lines: the passages in their order, then the new ones.

    Args:
        collection: The collection. Its file is not changed.
        path: Where the updated collection goes.
        upserts: Passages that replace the passage with their id, or are added. They are held in memory.
        deletes: Ids of passages to remove.
        overwrite: Replace an earlier file.

    Returns:
        Number of passages by "added", "replaced", "deleted" and "unchanged".

    Raises:
        DataError: An id to remove is missing or is also among the upserts, or two different upserts have one id.
        FileExistsError: The file exists, and ``overwrite`` is false.
        OSError: The file cannot be written, or the disk is full.

    >>> import tempfile
    >>> from pathlib import Path
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     _ = Path(folder, "old.jsonl").write_text('{"_id": "p1", "text": "oak"}')
    ...     old = PassageCollection(Path(folder, "old.jsonl"))
    ...     dict(update_collection(old, Path(folder, "new.jsonl"), upserts=[Passage("p2", "", "elm")]))
    {'added': 1, 'replaced': 0, 'deleted': 0, 'unchanged': 1}
    """
    changed, deleted, met = _index_by_id(upserts), set(deletes), set[str]()
    if both := sorted(deleted & set(changed)):
        raise DataError(f"{collection.path}: {both[0]} is both to be deleted and to be added.")
    counts: Counter[str] = Counter(added=0, replaced=0, deleted=0, unchanged=0)
    with atomic_write(path, overwrite=overwrite) as temporary, open(temporary, "w", encoding="utf-8") as file:
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
            raise DataError(
                f'{collection.path}: has no passage "{missing[0]}" to delete. Give ids as they stand there, one a line.'
            )
    return counts


def read_ids(path: str | os.PathLike[str]) -> set[str]:
    """Return the ids in a text file with one id a line, with the spaces around them. Blank lines are skipped.

    The file may be compressed by gzip or zstd.

    Raises:
        DataError: The file is not UTF-8.
        UsageError: It is a folder, a pipe or a device.
        OSError: The file cannot be read.
    """
    name = os.fspath(path)
    found = set()
    for number, (_, encoded) in enumerate(read_lines(read_chunks(name, form_of(name)), name), start=1):
        try:
            line = encoded.decode("utf-8").removesuffix("\n").removesuffix("\r")
        except UnicodeDecodeError:
            raise DataError(f"{name}:{number}: not UTF-8. Write one id a line.") from None
        if line.strip():
            found.add(line)
    return found


def _index_by_id(passages: Iterable[Passage]) -> dict[str, Passage]:
    found: dict[str, Passage] = {}
    for passage in passages:
        if found.setdefault(passage.passage_id, passage) != passage:
            raise DataError(f"{passage.passage_id} is to be added with two texts. Give one passage for each id.")
    return found
