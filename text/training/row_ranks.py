"""Evaluation of a cross-encoder: the rank of the positive of each question among the passages of its own row.

Scoring a question with all passages of an evaluation, as ``PassagePool`` does, would need N times P forward passes.
So the metrics have the same names as for a bi-encoder, but each question ranks fewer passages.

Dimensions: N questions of the whole evaluation; B questions and P pairs of a batch; K pairs of the question with
most pairs.
"""

from __future__ import annotations

import torch
from torch import Tensor

from text.evaluation import ahead_of_positive, average_rank, mean_reciprocal_rank, recall
from text.records import CrossEncoderBatch
from text.training.distributed import AllRanks, gather_counts
from text.training.pool import RECALL_AT, Outranked, PooledPassage


class RowRanks:
    """Scores of the pairs of an evaluation. ``add`` each batch, then call ``compute_metrics``."""

    def __init__(self) -> None:
        self.num_passages = 0
        """Number of pairs."""
        self._ranks: list[Tensor] = []
        self._scores: list[list[float]] = []
        self._keys: list[list[tuple[int, int]]] = []
        self._places: list[tuple[int, int]] = []

    def add(self, batch: CrossEncoderBatch, logits: Tensor) -> None:
        """Add the scores, (P,), of this rank's share of a batch. Every rank must call this for its own share."""
        sizes = gather_counts(len(batch.positive_index), len(logits))
        questions, pairs = map(AllRanks, sizes)
        counts = questions.gather((batch.pair_index >= 0).sum(dim=1)).tolist()
        scores = pairs.gather(logits.detach().float()).cpu()
        keys = pairs.gather(batch.passage_keys).cpu()
        places = questions.gather(torch.stack([batch.sources, batch.rows], dim=1)).tolist()
        for own, own_keys, place in zip(scores.split(counts), keys.split(counts), places, strict=True):
            positive, no_index = torch.zeros(1, dtype=torch.int64), torch.zeros(1, len(own), dtype=torch.bool)
            self._ranks.append(ahead_of_positive(own[None], positive, ignore=no_index).sum())
            self._scores.append(own.tolist())
            self._keys.append([(first, second) for first, second in own_keys.tolist()])
            self._places.append((place[0], place[1]))
        self.num_passages += len(scores)

    def compute_ranks(self) -> Tensor:
        """Return the 0-based rank of the positive of each question, (N,) int64, in the order of addition."""
        return torch.stack([torch.zeros((), dtype=torch.int64), *self._ranks])[1:]

    def compute_metrics(self, device: torch.device | str = "cpu") -> dict[str, float]:
        """Return ranking metrics: average_rank, mrr@10 and recall@1/5/20/100.

        Raises:
            ValueError: A score is NaN or infinite.
        """
        ranks = self.compute_ranks()
        return {
            "average_rank": average_rank(ranks),
            "mrr@10": mean_reciprocal_rank(ranks, 10),
            **{f"recall@{k}": recall(ranks, k) for k in RECALL_AT},
        }

    def find_worst(self, num_questions: int, num_above: int, device: torch.device | str = "cpu") -> list[Outranked]:
        """Return the questions whose positives are ranked lowest, as ``PassagePool.find_worst`` does."""
        ranks = self.compute_ranks()
        order = ranks.argsort(descending=True, stable=True)[:num_questions].tolist()
        return [self._build_outranked(question, num_above) for question in order if ranks[question]]

    def _build_outranked(self, question: int, num_above: int) -> Outranked:
        scores, place = self._scores[question], self._places[question]
        passages = [PooledPassage(place, *each) for each in zip(self._keys[question], scores, strict=True)]
        num_ranked_above = int(self._ranks[question])
        # A passage with the positive's score counts as ranked above it.
        best_first = sorted(passages[1:], key=lambda passage: -passage.score)
        return Outranked(place, num_ranked_above, passages[0], best_first[: min(num_above, num_ranked_above)])
