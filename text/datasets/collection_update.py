"""Add, replace and remove passages of a collection by id."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Collection, Iterable

from text.artifacts import atomic_write
from text.datasets.collection import PassageCollection, format_beir_line
from text.datasets.formats.compressed_files import detect_form, read_chunks
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
    """Write an updated collection as BEIR's JSON lines. Passages keep their order, and new ones follow at the end.

    Args:
        collection: The collection to update. Its file is not changed.
        path: File to write.
        upserts: Passages to add. A passage with a known id replaces the old passage. All are held in memory.
        deletes: Ids of passages to remove.
        overwrite: Replace an earlier file.

    Returns:
        Number of passages that were "added", "replaced", "deleted" and "unchanged".

    Raises:
        DataError: An id to delete is not in the collection or is also among the upserts, or two different upserts have
            the same id.
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
    changed, deleted, seen = _index_by_id(upserts), set(deletes), set[str]()
    if both := sorted(deleted & set(changed)):
        raise DataError(f"{collection.path}: {both[0]} is to be both deleted and added. Choose one of the two.")
    counts: Counter[str] = Counter(added=0, replaced=0, deleted=0, unchanged=0)
    with atomic_write(path, overwrite=overwrite) as temporary, open(temporary, "w", encoding="utf-8") as file:
        for passage in collection:
            name = passage.passage_id
            if name in deleted or name in changed:
                seen.add(name)
            new = changed.get(name, passage)
            counts["deleted" if name in deleted else "unchanged" if new == passage else "replaced"] += 1
            if name not in deleted:
                file.write(format_beir_line(new))
        for name in [name for name in changed if name not in seen]:
            counts["added"] += 1
            file.write(format_beir_line(changed[name]))
        if missing := sorted(deleted - seen):
            raise DataError(
                f'{collection.path}: no passage has the id "{missing[0]}" that is to be deleted. Give one id per line.'
            )
    return counts


def read_ids(path: str | os.PathLike[str]) -> set[str]:
    """Return the ids in a text file with one id per line. Spaces around an id belong to it; blank lines are skipped.

    The file may be compressed with gzip or zstd.

    Raises:
        DataError: The file is not UTF-8.
        UsageError: The path is a folder, a pipe or a device.
        OSError: The file cannot be read.
    """
    name = os.fspath(path)
    found = set()
    for number, (_, encoded) in enumerate(read_lines(read_chunks(name, detect_form(name)), name), start=1):
        try:
            line = encoded.decode("utf-8").removesuffix("\n").removesuffix("\r")
        except UnicodeDecodeError:
            raise DataError(f"{name}:{number}: the line is not UTF-8. Write the file in UTF-8.") from None
        if line.strip():
            found.add(line)
    return found


def _index_by_id(passages: Iterable[Passage]) -> dict[str, Passage]:
    """Return passages by id.

    Raises:
        DataError: Two different passages have the same id.
    """
    found: dict[str, Passage] = {}
    for passage in passages:
        if found.setdefault(passage.passage_id, passage) != passage:
            raise DataError(f'two passages to add have the id "{passage.passage_id}". Give one passage for each id.')
    return found
