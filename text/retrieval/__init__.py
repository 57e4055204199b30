"""From a model to answers: a collection to embeddings on disk, and exact search in them.

What needs a library of its own is imported by its module: ``FaissIndex`` from ``text.retrieval.index``,
``MilvusIndex`` from ``text.retrieval.milvus``, ``BM25`` from ``text.retrieval.bm25``.
"""

from text.retrieval.embed import Embedder
from text.retrieval.encode import encode, finish, plan_of, start
from text.retrieval.exact import Found, search
from text.retrieval.mine import Filters, Negative, Rejected, Source, mine
from text.retrieval.retriever import Retriever
from text.retrieval.shards import EmbeddingShards, Plan, collapse

__all__ = [
    "Embedder",
    "EmbeddingShards",
    "Filters",
    "Found",
    "Negative",
    "Plan",
    "Rejected",
    "Retriever",
    "Source",
    "collapse",
    "encode",
    "finish",
    "mine",
    "plan_of",
    "search",
    "start",
]
