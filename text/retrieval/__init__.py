"""From a model to answers: a collection to embeddings on disk, and exact search in them.

What needs a library of its own is imported by its module: ``FaissIndex`` from ``text.retrieval.faiss_index``,
``MilvusIndex`` from ``text.retrieval.milvus``, ``BM25`` from ``text.retrieval.bm25``.
"""

from text.retrieval.embedder import Embedder
from text.retrieval.encoding import encode_shards, finish_encoding, plan_encoding, start_encoding
from text.retrieval.exact import Found, search_exact
from text.retrieval.hard_negatives import Filters, Negative, Rejected, Source, choose_hard_negatives
from text.retrieval.retriever import Retriever
from text.retrieval.shards import EmbeddingShards, Plan, mean_cosine

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
    "choose_hard_negatives",
    "encode_shards",
    "finish_encoding",
    "mean_cosine",
    "plan_encoding",
    "search_exact",
    "start_encoding",
]
