"""Open or build the index of a search. FAISS and Milvus are imported only when they are used."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from torch import Tensor

from text.artifacts import read_json, wait_for_lock
from text.errors import ArtifactError
from text.retrieval.exact import Hits
from text.retrieval.index_files import METADATA, IndexMetadata, get_index_folder
from text.retrieval.plan import read_plan
from text.retrieval.shards import EmbeddingShards

if TYPE_CHECKING:
    from text.retrieval.faiss_index import FaissIndex


class Index(Protocol):
    """A search index of the embeddings of passages."""

    def search(self, questions: Tensor, k: int) -> list[Hits]:
        """Return at most k passages for each of the (N, D) float32 embeddings of questions."""
        ...


def open_index(
    shards: EmbeddingShards,
    *,
    index: str | None = None,
    index_parameters: str = "",
    milvus: str | os.PathLike[str] | None = None,
) -> Index | None:
    """Open an index of embeddings. Return None for exact search.

    A FAISS index is stored in the folder of the embeddings. The first call builds it, and later calls load it. If
    several processes need it at the same time, one builds it and the others wait.

    Args:
        shards: The embeddings.
        index: FAISS factory string, such as "HNSW32" or "IVF4096,SQ8".
        index_parameters: FAISS search parameters, such as "efSearch=256".
        milvus: A Milvus Lite file that ends in ".db", or the address of a Milvus server.

    Raises:
        ModuleNotFoundError: FAISS or Milvus is not installed.
        ValueError: FAISS cannot build this index, the index has no such parameter, or both ``index`` and ``milvus``
            are given.
        ArtifactError: The FAISS index is damaged or was built from other embeddings.
        ConnectionError: Milvus cannot be reached.
    """
    check_index(shards.folder, index=index, index_parameters=index_parameters, milvus=milvus)
    if milvus is not None:
        from text.retrieval.milvus import MilvusIndex

        return MilvusIndex(shards, milvus)
    if index is None:
        return None
    found = _load_or_build(shards, index)
    if index_parameters:
        found.set_parameters(index_parameters)
    return found


def check_index(
    folder: str | os.PathLike[str],
    *,
    index: str | None = None,
    index_parameters: str = "",
    milvus: str | os.PathLike[str] | None = None,
) -> None:
    """Check the arguments of ``open_index`` before the embeddings in a folder are loaded.

    Raises:
        ModuleNotFoundError, ValueError: As ``open_index``.
        FileNotFoundError: The folder holds no embeddings.
    """
    if index is not None and milvus is not None:
        raise ValueError(f"index is {index} and milvus is {os.fspath(milvus)}. Use only one of them.")
    if index is not None:
        from text.retrieval.faiss_index import make_index

        make_index(index, read_plan(folder).embedding_dim, index_parameters)


def _load_or_build(shards: EmbeddingShards, factory: str) -> FaissIndex:
    """Load the index from the folder of the embeddings, or build it. Only one process builds; the others wait."""
    from text.retrieval.faiss_index import FaissIndex

    folder = get_index_folder(shards.folder, factory)
    if not (folder / METADATA).exists():
        message = f"{shards.folder}: waiting for another process that builds an index"
        with wait_for_lock(
            Path(shards.folder, "plan.json"), message
        ):  # Locking a file that exists leaves no lock file.
            if not (folder / METADATA).exists():  # The other process may have built another index, or failed.
                return FaissIndex.build(shards, factory, folder)
    if (found := read_json(folder / METADATA, IndexMetadata).factory) != factory:
        raise ArtifactError(
            f"{folder / METADATA}: factory is {found}, not {factory}. Remove the folder to build the index again."
        )
    return FaissIndex.load(folder, shards)
