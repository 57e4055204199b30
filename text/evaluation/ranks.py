"""Ranks of positives, and average rank, MRR@k and recall@k over these ranks.

A rank is the 0-based position of a question's positive among all compared passages, best first.
Ranks are counted without sorting, so the functions need only as much memory as the scores.
Callers choose the number of questions per call.

Dimensions: N questions; P passages.
"""

from __future__ import annotations

from torch import Tensor, arange


def positive_ranks(scores: Tensor, positive_index: Tensor, *, ignore: Tensor | None = None) -> Tensor:
    """Return the 0-based rank of each question's positive: the number of passages ahead of it.

    Args:
        scores: See ``ahead_of_positive``.
        positive_index: See ``ahead_of_positive``.
        ignore: See ``ahead_of_positive``.

    Returns:
        (N,) int64.

    Raises:
        ValueError: A score is NaN or infinite.
    """
    return ahead_of_positive(scores, positive_index, ignore=ignore).sum(dim=1)


def ahead_of_positive(scores: Tensor, positive_index: Tensor, *, ignore: Tensor | None = None) -> Tensor:
    """Return a mask of the passages that rank ahead of each question's positive.

    A passage is ahead if its score is higher, or if its score is equal and its column comes
    first, as in a stable sort. If ties did not count, a collapsed encoder, which gives all
    passages the same score, would look perfect.

    Args:
        scores: (N, P) float, finite. Larger is better.
        positive_index: (N,) int64. Column of each question's positive.
        ignore: (N, P) bool. True removes a passage from that question's ranking.

    Returns:
        (N, P) bool.

    Raises:
        ValueError: A score is NaN or infinite.

    >>> from torch import tensor
    >>> positive_ranks(tensor([[0.1, 0.9, 0.5], [7.0, 7.0, 7.0]]), tensor([2, 1]))
    tensor([1, 1])
    """
    if not scores.isfinite().all():
        raise ValueError("scores contain NaN or infinity. All scores must be finite.")
    positive_scores = scores.gather(1, positive_index[:, None])  # (N, 1)
    columns = arange(scores.shape[1], device=scores.device)
    ahead = scores > positive_scores
    ahead |= (scores == positive_scores) & (columns < positive_index[:, None])
    return ahead if ignore is None else ahead & ~ignore


def average_rank(ranks: Tensor) -> float:
    """Return the mean of 0-based ranks. 0 is perfect. DPR validates with this metric.

    >>> from torch import tensor
    >>> average_rank(tensor([0, 3]))
    1.5
    """
    return ranks.double().mean().item()


def mean_reciprocal_rank(ranks: Tensor, k: int) -> float:
    """Return MRR@k: the mean of 1 / (rank + 1), with 0 for ranks of k or more.

    >>> from torch import tensor
    >>> mean_reciprocal_rank(tensor([0, 3, 10]), k=10)  # (1 + 1/4 + 0) / 3
    0.4166...
    """
    reciprocal = 1 / (ranks.double() + 1)
    return reciprocal.masked_fill(ranks >= k, 0).mean().item()


def recall(ranks: Tensor, k: int) -> float:
    """Return recall@k: the share of questions whose positive is among the first k passages.

    >>> from torch import tensor
    >>> recall(tensor([0, 3, 10, 99]), k=10)
    0.5
    """
    return (ranks < k).double().mean().item()
