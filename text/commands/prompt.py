"""The prompt of ``dpr-text search --interactive``."""

from __future__ import annotations

from typing import TYPE_CHECKING

from text.commands.streams import read_lines

if TYPE_CHECKING:
    from text.retrieval import Retriever


def answer_questions(retriever: Retriever, k: int) -> None:
    """Print passages for questions on standard input, until the input ends or the output has no reader.

    Args:
        retriever: Search over encoded passages.
        k: Number of passages per question.
    """
    from text.retrieval import open_collection

    collection = open_collection(retriever.shards)
    print("question: ", end="", flush=True)
    for line in read_lines():
        if line.strip():
            if retriever.embedder.count_truncated([line.strip()]):
                print(f"\nthe question is truncated to {retriever.embedder.tokenize_texts.max_length} tokens")
            [found] = retriever.search([line.strip()], k)
            for passage_id, score in zip(found.passage_ids, found.scores, strict=True):
                passage = collection.find(passage_id)
                print(f"\n{score:.4f}  {passage.title or '(no title)'}  [{passage_id}]\n    {passage.text}")
        print("\nquestion: ", end="", flush=True)
    print()
