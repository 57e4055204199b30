"""PassagePool: every question of an evaluation ranked among all its passages.

In-batch figures depend on the batch size. Here the passages of all batches form one pool, as in
DPR's average rank, and each question is ranked in the whole of it. What is known to answer a
question, wherever it stands in the pool, does not count against it.

Dimensions: N questions and P passages of the whole evaluation; D width of an embedding.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from text.evaluation import average_rank, mean_reciprocal_rank, positive_ranks, recall
from text.losses import similarity_logits
from text.records import BiEncoderBatch
from text.transforms import known_positive_mask

RECALL_AT = (1, 5, 20, 100)


class _Questions(NamedTuple):
    """The questions of one batch; ``positive_index`` counts in the pool."""

    embeddings: Tensor
    positive_index: Tensor
    known_positives: Tensor


class PassagePool:
    """Collects batches, then ranks; holds embeddings in host memory, never the (N, P) scores.

    Args:
        similarity: "dot" or "cosine", as in training.
    """

    def __init__(self, similarity: str = "dot") -> None:
        self.similarity = similarity
        self.num_passages = 0
        self._questions: list[_Questions] = []
        self._passages: list[Tensor] = []
        self._passage_keys: list[Tensor] = []

    def add(self, batch: BiEncoderBatch, question_embeddings: Tensor, passage_embeddings: Tensor) -> None:
        """Takes in the (B, D) and (P, D) embeddings of one batch."""
        self._questions.append(
            _Questions(
                question_embeddings.detach().float().cpu(),
                batch.positive_index.cpu() + self.num_passages,
                batch.known_positives.cpu(),
            )
        )
        self._passages.append(passage_embeddings.detach().float().cpu())
        self._passage_keys.append(batch.passage_keys.cpu())
        self.num_passages += len(passage_embeddings)

    def ranks(self, device: torch.device | str = "cpu") -> Tensor:
        """0-based rank of each question's positive among all passages, (N,) int64, in order of adding.

        Memory on ``device``: all passages, and one batch's scores.

        Raises:
            ValueError: An embedding is NaN or infinite.
        """
        passages = torch.cat(self._passages).to(device)
        passage_keys = torch.cat(self._passage_keys).to(device)
        return torch.cat([self._rank(questions, passages, passage_keys) for questions in self._questions])

    def metrics(self, device: torch.device | str = "cpu") -> dict[str, float]:
        """average_rank, mrr@10 and recall@1/5/20/100 over the pool.

        Raises:
            ValueError: An embedding is NaN or infinite.
        """
        ranks = self.ranks(device)
        return {
            "average_rank": average_rank(ranks),
            "mrr@10": mean_reciprocal_rank(ranks, 10),
            **{f"recall@{k}": recall(ranks, k) for k in RECALL_AT},
        }

    def _rank(self, questions: _Questions, passages: Tensor, passage_keys: Tensor) -> Tensor:
        embeddings, positive_index, known_positives = (field.to(passages.device) for field in questions)
        scores = similarity_logits(embeddings, passages, similarity=self.similarity)
        ignore = known_positive_mask(known_positives, passage_keys, positive_index)
        return positive_ranks(scores, positive_index, ignore=ignore).cpu()
