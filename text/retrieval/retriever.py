"""Retriever: questions to passages, in one call."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Protocol

from torch import Tensor

from text.errors import ArtifactError
from text.retrieval.embedder import Embedder
from text.retrieval.exact import Found, search_exact, with_passages
from text.retrieval.shards import EmbeddingShards


class Index(Protocol):
    """What finds passages for (N, D) float32 embeddings of questions."""

    def search(self, questions: Tensor, k: int) -> list[Found]: ...


class Retriever:
    """Embeds questions and searches the embeddings of a collection.

    Args:
        shards: Embeddings of the passages.
        embedder: Of questions, by the same model.
        index: That searches, such as a ``FaissIndex`` of these embeddings; by default they are searched exactly.

    Raises:
        ArtifactError: The model is not the one that the passages were encoded with.
    """

    def __init__(self, shards: EmbeddingShards, embedder: Embedder, index: Index | None = None) -> None:
        if embedder.model != shards.plan.model:
            names = {**embedder.model, **shards.plan.model}
            other = [name for name in names if embedder.model.get(name) != shards.plan.model.get(name)]
            raise ArtifactError(
                f"{shards.folder}: of a model with another {', '.join(other)}; expected the model that encoded it"
            )
        ours, theirs = embedder.similarity, shards.plan.settings["similarity"]
        if ours != theirs:
            raise ArtifactError(f"{shards.folder}: for {theirs} similarity; expected {ours}, as the model has")
        self.shards = shards
        self.embedder = embedder
        self.index = index

    @classmethod
    def from_pretrained(
        cls,
        folder: str | os.PathLike[str],
        model: str | os.PathLike[str],
        *,
        precision: str = "float32",
        device: str = "cpu",
        check_hashes: bool = True,
    ) -> Retriever:
        """From embeddings on disk and the model that made them.

        Args:
            folder: As ``encode_shards`` wrote it.
            model: The model's folder.
            precision: Of the question encoder.
            device: That embeds and multiplies.
            check_hashes: As for ``EmbeddingShards``.

        Raises:
            FileNotFoundError: A file is missing.
            ArtifactError: Something is damaged, or the two do not belong together.
        """
        embedder = Embedder.from_pretrained(model, "question", precision=precision, device=device)
        return cls(EmbeddingShards(folder, check_hashes=check_hashes), embedder)

    def search(self, questions: Sequence[str], k: int = 10, also: Sequence[Sequence[str]] | None = None) -> list[Found]:
        """The k passages that fit each question best.

        Args:
            questions: What is searched for.
            k: Passages for a question; all of them, where the collection has fewer.
            also: Ids of passages of each question that come behind them, with their scores, if they are not among them.

        Raises:
            ValueError: k is below 1, or a question is blank.
        """
        for row, question in enumerate(questions):
            if not question.strip():
                raise ValueError(f"question {row} is blank; expected a question to search for")
        embeddings = self.embedder(questions)
        if self.index is not None:
            found = self.index.search(embeddings, k)
        else:
            device = next(self.embedder.encoder.parameters()).device
            found = search_exact(self.shards, embeddings, k, device=str(device))
        return with_passages(self.shards, embeddings, found, also) if also is not None else found
