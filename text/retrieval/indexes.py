"""Open the index that a search asks for. FAISS and Milvus are imported only when they are used."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from torch import Tensor

from text.artifacts import read_json, wait_for_lock
from text.errors import ArtifactError
from text.retrieval.exact import Found
from text.retrieval.index_files import NOTE, IndexNote, index_folder
from text.retrieval.plan import read_plan
from text.retrieval.shards import EmbeddingShards

if TYPE_CHECKING:
    from text.retrieval.faiss_index import FaissIndex


class Index(Protocol):
    """Finds passages for (N, D) float32 embeddings of questions."""

    def search(self, questions: Tensor, k: int) -> list[Found]: ...


def open_index(
    shards: EmbeddingShards,
    *,
    index: str | None = None,
    index_parameters: str = "",
    milvus: str | os.PathLike[str] | None = None,
) -> Index | None:
    """Return an index of embeddings; None for exact search.

    A FAISS index lies in the folder of the embeddings. It is built by the first call and opened by later ones. If
    several processes need it at the same time, one builds it and the others wait.

    Args:
        shards: The embeddings.
        index: FAISS factory string, such as "HNSW32" or "IVF4096,SQ8".
        index_parameters: FAISS search parameters, such as "efSearch=256".
        milvus: A Milvus Lite file that ends in ".db", or the address of a Milvus server.

    Raises:
        ModuleNotFoundError: FAISS or Milvus is not installed.
        ValueError: FAISS cannot build such an index, or the index has no such parameter; or both kinds are given.
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
        raise ValueError(f"index is {index} and milvus is {os.fspath(milvus)}. Use one of them.")
    if index is not None:
        from text.retrieval.faiss_index import make_index

        make_index(index, read_plan(folder).embedding_dim, index_parameters)


def _load_or_build(shards: EmbeddingShards, factory: str) -> FaissIndex:
    """Load the index from the folder of the embeddings. Of several processes, one builds it and the others wait."""
    from text.retrieval.faiss_index import FaissIndex

    folder = index_folder(shards.folder, factory)
    if not (folder / NOTE).exists():
        message = f"{shards.folder}: another process builds an index, waiting for it"
        with wait_for_lock(Path(shards.folder, "plan.json"), message):  # It is there, so no lock file is left behind.
            if not (folder / NOTE).exists():  # The process that had the lock has built another index, or none.
                return FaissIndex.build(shards, factory, folder)
    if (found := read_json(folder / NOTE, IndexNote).factory) != factory:
        raise ArtifactError(f"{folder / NOTE}: factory is {found}, not {factory}. Remove the folder.")
    return FaissIndex.load(folder, shards)
