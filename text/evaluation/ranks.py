"""Average rank, MRR@k and recall@k over plain ranks.

A rank is the 0-based place of a question's positive among all passages compared, best first.
It is found by counting, not by sorting: memory is that of the scores handed in, and callers
hand in as many questions at a time as they like.

Dimensions: N questions; P passages.
"""

from __future__ import annotations

from torch import Tensor, arange


def positive_ranks(scores: Tensor, positive_index: Tensor, *, ignore: Tensor | None = None) -> Tensor:
    """0-based place of each question's positive, best first: how many passages are ahead of it, (N,) int64.

    Arguments and errors are those of ``ahead_of_positive``.
    """
    return ahead_of_positive(scores, positive_index, ignore=ignore).sum(dim=1)


def ahead_of_positive(scores: Tensor, positive_index: Tensor, *, ignore: Tensor | None = None) -> Tensor:
    """Which passages stand before each question's positive, best first.

    These are the passages that score higher, and those that score the same and stand
    earlier, as in a stable sort. (Were ties free, a collapsed encoder, which gives all
    passages one score, would look perfect.)

    Args:
        scores: (N, P) float, finite; larger is better.
        positive_index: (N,) int64, the column of each question's positive.
        ignore: (N, P) bool, True takes a passage out of that question's ranking.

    Returns:
        (N, P) bool.

    Raises:
        ValueError: A score is NaN or infinite: it has no place.

    >>> from torch import tensor
    >>> positive_ranks(tensor([[0.1, 0.9, 0.5], [7.0, 7.0, 7.0]]), tensor([2, 1]))
    tensor([1, 1])
    """
    if not scores.isfinite().all():
        raise ValueError("scores hold NaN or infinity; expected finite numbers")
    positive_scores = scores.gather(1, positive_index[:, None])  # (N, 1)
    columns = arange(scores.shape[1], device=scores.device)
    ahead = scores > positive_scores
    ahead |= (scores == positive_scores) & (columns < positive_index[:, None])
    return ahead if ignore is None else ahead & ~ignore


def average_rank(ranks: Tensor) -> float:
    """Mean of the 0-based ranks; 0 is perfect (DPR's validation figure).

    >>> from torch import tensor
    >>> average_rank(tensor([0, 3]))
    1.5
    """
    return ranks.double().mean().item()


def mean_reciprocal_rank(ranks: Tensor, k: int) -> float:
    """MRR@k: mean of 1 / (rank + 1), counting 0 where the positive is not among the first k.

    >>> from torch import tensor
    >>> mean_reciprocal_rank(tensor([0, 3, 10]), k=10)  # (1 + 1/4 + 0) / 3
    0.4166...
    """
    reciprocal = 1 / (ranks.double() + 1)
    return reciprocal.masked_fill(ranks >= k, 0).mean().item()


def recall(ranks: Tensor, k: int) -> float:
    """Share of questions whose positive is among the first k.

    >>> from torch import tensor
    >>> recall(tensor([0, 3, 10, 99]), k=10)
    0.5
    """
    return (ranks < k).double().mean().item()
