"""Open the index that a search asks for. FAISS and Milvus are imported only when they are used."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Protocol

from torch import Tensor

from text.retrieval.exact import Found
from text.retrieval.shards import EmbeddingShards


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

    A FAISS index lies in the folder of the embeddings. It is built by the first call and opened by later ones.

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
    if index is not None and milvus is not None:
        raise ValueError(f"index is {index} and milvus is {os.fspath(milvus)}. Use one of them.")
    if milvus is not None:
        from text.retrieval.milvus import MilvusIndex

        return MilvusIndex(shards, milvus)
    if index is None:
        return None
    from text.retrieval.faiss_index import FaissIndex

    folder = Path(shards.folder, f"index-{index.replace(',', '-')}")
    is_built = (folder / "index.json").is_file()
    found = FaissIndex.load(folder, shards) if is_built else FaissIndex.build(shards, index, folder)
    if index_parameters:
        found.set_parameters(index_parameters)
    return found
