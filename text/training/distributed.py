"""Rows of all ranks together, with gradients that equal those of one process.

Each rank has a share of the questions, and compares them with the passages of all. Its loss is the sum over its own
questions, divided by the number of all: what the ranks' gradients add up to is the gradient of one process on the
whole batch. DistributedDataParallel takes their mean instead, so that the loss is multiplied by the number of ranks
(DPR's code does not, which moves its clipping threshold).

Without torch.distributed, all of this is one rank. Shares may differ in size, and be empty.

Dimensions: N rows of this rank; A rows of all ranks.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, distributed
from torch.nn import functional as F


def num_ranks() -> int:
    """How many processes train together."""
    return distributed.get_world_size() if _is_distributed() else 1


def this_rank() -> int:
    """The number of this process, from 0 on."""
    return distributed.get_rank() if _is_distributed() else 0


def total(value: Tensor) -> Tensor:
    """The sum over all ranks, without a gradient."""
    value = value.detach().clone()
    if _is_distributed():
        distributed.all_reduce(value)
    return value


def to_backward(losses: Tensor, num_questions: int) -> Tensor:
    """What each rank calls ``backward`` of, so that the mean of the ranks' gradients is that of one process.

    Args:
        losses: Those of this rank's questions, (N,).
        num_questions: Those of all ranks, A.
    """
    return losses.sum() * (num_ranks() / max(1, num_questions))


class AllRanks:
    """Where the rows of this rank stand among those of all, which follow one another in the order of ranks.

    Every rank must make one, and gather the same tensors in the same order.

    Args:
        num_rows: N.
        device: That of the tensors to gather.
    """

    def __init__(self, num_rows: int, device: torch.device) -> None:
        self.sizes = [num_rows]
        """N of each rank."""
        self.start = 0
        """The first row of this rank."""
        if _is_distributed():
            sizes = torch.zeros(num_ranks(), dtype=torch.int64, device=device)
            sizes[this_rank()] = num_rows
            distributed.all_reduce(sizes)
            self.sizes = sizes.tolist()
            self.start = sum(self.sizes[: this_rank()])

    def gather(self, rows: Tensor) -> Tensor:
        """(N, ...) to (A, ...). The gradient of a row is what all ranks have of it, and goes to its own rank."""
        return _Gather.apply(rows, self) if _is_distributed() else rows  # pyright: ignore[reportReturnType]


def gather_padded(rows: Tensor, ranks: AllRanks) -> Tensor:
    """(N, K, ...) to (A, most K of any rank, ...), where the last of K is repeated."""
    num_columns = rows.shape[1]
    most = max(AllRanks(num_columns, rows.device).sizes)
    return ranks.gather(rows[:, torch.arange(most, device=rows.device).clamp(max=num_columns - 1)])


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rows: Tensor, ranks: AllRanks) -> Tensor:
        ctx.ranks, ctx.num_rows = ranks, len(rows)
        # All ranks must send as much: what is missing is filled up, and cut off behind.
        most = max(ranks.sizes)
        padded = F.pad(rows.contiguous(), (0, 0) * (rows.ndim - 1) + (0, most - len(rows)))
        parts = [torch.empty_like(padded) for _ in ranks.sizes]
        distributed.all_gather(parts, padded)
        return torch.cat([part[:size] for part, size in zip(parts, ranks.sizes, strict=True)])

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        gradient = gradients[0].contiguous().clone()
        distributed.all_reduce(gradient)
        return gradient[ctx.ranks.start :][: ctx.num_rows], None


def _is_distributed() -> bool:
    return distributed.is_available() and distributed.is_initialized() and distributed.get_world_size() > 1
