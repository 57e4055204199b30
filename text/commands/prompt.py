"""The prompt of ``dpr-text search --interactive``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from text.commands.streams import read_lines

if TYPE_CHECKING:
    from text.retrieval import Retriever
    from text.retrieval.hybrid import Searcher


def answer_questions(searcher: Searcher, retriever: Retriever, k: int) -> None:
    """Print passages for questions on standard input, until the input ends or the output has no reader.

    Args:
        searcher: Search over encoded passages. A hybrid search also shows the rank of each passage in its parts, the
            dense search and BM25.
        retriever: The dense search, whose embeddings name the collection.
        k: Number of passages per question.
    """
    from text.retrieval import open_collection

    collection = open_collection(retriever.shards)
    print("question: ", end="", flush=True)
    for line in read_lines():
        if line.strip():
            if retriever.embedder.count_truncated([line.strip()]):
                print(f"\nthe question is truncated to {retriever.embedder.tokenize_texts.max_length} tokens")
            for passage_id, score, ranks in _find_passages(searcher, line.strip(), k):
                passage = collection.find(passage_id)
                head = f"{score:.4f}  {passage.title or '(no title)'}  [{passage_id}]{_format_ranks(ranks)}"
                print(f"\n{head}\n    {passage.text}")
        print("\nquestion: ", end="", flush=True)
    print()


def _find_passages(searcher: Searcher, question: str, k: int) -> list[tuple[str, float, Sequence[int | None]]]:
    """Return id, score, and rank in each part of the search. Only a hybrid search has parts."""
    from text.retrieval.hybrid import HybridSearch

    if isinstance(searcher, HybridSearch):
        [found] = searcher.search_with_ranks([question], k)
        return list(zip(*found, strict=True))
    [hits] = searcher.search([question], k)
    return [(passage_id, score, ()) for passage_id, score in zip(*hits, strict=True)]


def _format_ranks(ranks: Sequence[int | None]) -> str:
    """Return the ranks in the dense search and in BM25 as text, or an empty text without ranks."""
    if not ranks:
        return ""
    shown = ["-" if rank is None else str(rank) for rank in ranks]
    return f"  dense {shown[0]}, BM25 {shown[1]}"
