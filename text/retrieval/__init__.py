"""Encode a collection to embeddings on disk, search it, score the runs, and mine hard negatives.

Import a class that needs an optional library from its module: ``FaissIndex`` from ``text.retrieval.faiss_index``,
``MilvusIndex`` from ``text.retrieval.milvus``, and ``BM25`` from ``text.retrieval.bm25``.
"""

from text.retrieval.embedder import Embedder
from text.retrieval.encoding import encode_collection, encode_shards, plan_encoding
from text.retrieval.encoding_folder import check_encoding_folder, finish_encoding, start_encoding
from text.retrieval.exact import ExactSearch, Hits, search_exact
from text.retrieval.filters import Filters
from text.retrieval.hard_negatives import Negative, RejectedCandidate, Source, choose_hard_negatives
from text.retrieval.hybrid import HybridHits, HybridSearch
from text.retrieval.indexes import Index, open_index
from text.retrieval.memory import MemoryEmbeddings
from text.retrieval.mining import mine_hard_negatives, search_rows
from text.retrieval.mining_summary import MinedRow, MiningSummary
from text.retrieval.plan import Plan
from text.retrieval.reranking import RerankedSearch
from text.retrieval.retriever import Retriever, load_retriever, search_questions
from text.retrieval.row_scores import score_rows
from text.retrieval.score_summary import describe_scores, split_seen, summarize_scores
from text.retrieval.scoring import ScoredRun, score_run
from text.retrieval.shards import EmbeddingShards, mean_cosine, open_collection
from text.retrieval.teachers import Teacher, load_teacher

__all__ = [
    "Embedder",
    "EmbeddingShards",
    "ExactSearch",
    "Filters",
    "Hits",
    "HybridHits",
    "HybridSearch",
    "Index",
    "MemoryEmbeddings",
    "MinedRow",
    "MiningSummary",
    "Negative",
    "Plan",
    "RejectedCandidate",
    "RerankedSearch",
    "Retriever",
    "ScoredRun",
    "Source",
    "Teacher",
    "check_encoding_folder",
    "choose_hard_negatives",
    "describe_scores",
    "encode_collection",
    "encode_shards",
    "finish_encoding",
    "load_retriever",
    "load_teacher",
    "mean_cosine",
    "mine_hard_negatives",
    "open_collection",
    "open_index",
    "plan_encoding",
    "score_rows",
    "score_run",
    "search_exact",
    "search_questions",
    "search_rows",
    "split_seen",
    "start_encoding",
    "summarize_scores",
]
