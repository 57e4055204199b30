"""Adds, replaces and removes passages of a collection, by id; encode.py then encodes only what is new.

python examples/dpr/update.py --collection=old.jsonl --upsert=changes.jsonl --delete=ids.txt --output=new.jsonl
python examples/dpr/encode.py --collection=new.jsonl --reuse=runs/dpr/embeddings --output_dir=runs/dpr/embeddings-2
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

from examples.dpr.cli import UsageError, run
from examples.dpr.paths import check_files
from text.datasets import PassageCollection, update_collection
from text.errors import DataError


@dataclass(frozen=True, kw_only=True)
class UpdateConfig:
    """Adds, replaces and removes passages of a collection, by id."""

    collection: str | None = None
    """What is updated; stays as it is."""
    upsert: str | None = None
    """Passages in the same forms: those whose id is known replace, others are added."""
    delete: str | None = None
    """Ids to remove, one a line."""
    output: str | None = None
    """Where the new state goes, as JSON lines."""
    overwrite: bool = False
    """Replace an earlier result."""

    def __post_init__(self) -> None:
        if self.collection is None or self.output is None or (self.upsert is None and self.delete is None):
            raise UsageError("expected --collection, --output, and --upsert or --delete")


def main(config: UpdateConfig) -> None:
    """Writes the new state."""
    assert config.collection is not None and config.output is not None
    check_files([config.collection, config.upsert, config.delete], [config.output], overwrite=config.overwrite)
    ids = read_ids(config.delete) if config.delete is not None else set()
    counts = update_collection(
        PassageCollection(config.collection),
        config.output,
        upserts=PassageCollection(config.upsert) if config.upsert is not None else (),
        deletes=ids,
    )
    print(f"{config.output}: {', '.join(f'{count} {name}' for name, count in counts.items())}")


def read_ids(path: str) -> set[str]:
    """Ids, one a line; blank lines are passed over.

    Raises:
        DataError: It is not text.
    """
    try:
        lines = Path(path).read_text(encoding="utf-8-sig").split("\n")
    except UnicodeDecodeError:
        raise DataError(f"{path}: not UTF-8; expected an id a line") from None
    return {line.strip() for line in lines if line.strip()}


if __name__ == "__main__":
    sys.exit(run(main, UpdateConfig))
