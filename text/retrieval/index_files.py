"""Locate FAISS indexes inside the folder of their embeddings. FAISS itself is not imported here."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from text.artifacts import FileFacts, read_json
from text.errors import ArtifactError
from text.retrieval.plan import Plan

INDEX, METADATA = "index.faiss", "index.json"


class IndexMetadata(NamedTuple):
    """The factory string of an index, the key of the plan of its embeddings, and the size and hash of its file."""

    factory: str
    plan: str
    file: FileFacts


def get_index_folder(folder: str | os.PathLike[str], factory: str) -> Path:
    """Return the folder of an index, inside the folder of its embeddings."""
    return Path(folder, f"index-{factory.replace(',', '-')}")


def find_indexes(folder: str | os.PathLike[str], plan: Plan) -> Iterator[Path]:
    """Yield the files of all indexes of the embeddings in a folder. A folder without valid metadata is skipped."""
    for inner in sorted(Path(folder).glob("index-*")):
        try:
            metadata = read_json(inner / METADATA, IndexMetadata)
        except (ArtifactError, OSError):
            continue
        if metadata.plan == plan.key and inner == get_index_folder(folder, metadata.factory) and not inner.is_symlink():
            yield from (inner / INDEX, inner / METADATA)
