"""Measures of retrieval over plain ranks."""

from text.evaluation.metrics import average_rank, mean_reciprocal_rank, positive_ranks, recall

__all__ = ["average_rank", "mean_reciprocal_rank", "positive_ranks", "recall"]
