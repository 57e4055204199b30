"""``dpr-text update``: update a collection by id. ``dpr-text encode --reuse`` then encodes only the changes."""

from __future__ import annotations

from dataclasses import dataclass

from text.artifacts import check_files
from text.errors import UsageError


@dataclass(frozen=True, kw_only=True)
class UpdateFlags:
    """Add, replace and remove passages of a collection by id.

    Examples::

        dpr-text update --collection=passages.jsonl --upsert=new.jsonl --output=passages-2.jsonl
    """

    collection: str
    """Passage file. It is not changed."""
    upsert: str | None = None
    """Passage file with changes. A passage with a known id replaces the old passage; other passages are added."""
    delete: str | None = None
    """File with the ids to remove, one per line."""
    output: str
    """Output file for the updated collection, as JSON lines."""
    overwrite: bool = False
    """Replace an existing output file."""

    def __post_init__(self) -> None:
        if self.upsert is None and self.delete is None:
            raise UsageError("--upsert, --delete: give at least one of them.")


def update(flags: UpdateFlags) -> None:
    """Write the updated collection and print the number of changes."""
    from text.datasets import PassageCollection, read_ids, update_collection

    check_files([flags.collection, flags.upsert, flags.delete], [flags.output], overwrite=flags.overwrite)
    ids = read_ids(flags.delete) if flags.delete is not None else set()
    counts = update_collection(
        PassageCollection(flags.collection),
        flags.output,
        upserts=PassageCollection(flags.upsert) if flags.upsert is not None else (),
        deletes=ids,
        overwrite=flags.overwrite,
    )
    print(f"{flags.output}: {', '.join(f'{count} {name}' for name, count in counts.items())}")
