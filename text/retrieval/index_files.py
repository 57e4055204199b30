"""The folders of FAISS indexes beside embeddings. FAISS itself is not imported here."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from text.artifacts import FileFacts, read_json
from text.errors import ArtifactError
from text.retrieval.plan import Plan

INDEX, NOTE = "index.faiss", "index.json"


class IndexNote(NamedTuple):
    """What an index was built from, and the facts of its file."""

    factory: str
    plan: str
    file: FileFacts


def index_folder(folder: str | os.PathLike[str], factory: str) -> Path:
    """Return the folder of an index of the embeddings in ``folder``."""
    return Path(folder, f"index-{factory.replace(',', '-')}")


def find_indexes(folder: str | os.PathLike[str], plan: Plan) -> Iterator[Path]:
    """Yield the files of all indexes of embeddings. A folder that merely has the name of an index is left alone."""
    for inner in sorted(Path(folder).glob("index-*")):
        try:
            note = read_json(inner / NOTE, IndexNote)
        except (ArtifactError, OSError):
            continue
        if note.plan == plan.key and inner == index_folder(folder, note.factory) and not inner.is_symlink():
            yield from (inner / INDEX, inner / NOTE)
