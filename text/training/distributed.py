"""Differentiable gathering of rows across ranks. The gradients equal those of one process.

Each rank holds a share of the questions and compares them with the passages of all ranks. The loss of a rank is the sum
over its own questions, divided by the number of questions of all ranks. The gradients of the ranks therefore add up to
the gradient of one process on the whole batch. DistributedDataParallel averages gradients instead of adding them, so
the loss is multiplied by the number of ranks. DPR's code does not multiply it, which shifts its clipping threshold.

Without torch.distributed there is one rank. Shares may differ in size, and may be empty.

Dimensions: N rows of this rank; A rows of all ranks; K columns of a row.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, distributed
from torch.nn import functional as F


def get_world_size() -> int:
    """Return the number of processes that train together."""
    return distributed.get_world_size() if _is_distributed() else 1


def get_rank() -> int:
    """Return the 0-based rank of this process."""
    return distributed.get_rank() if _is_distributed() else 0


def sum_over_ranks(value: Tensor) -> Tensor:
    """Return the sum of a tensor over all ranks, without a gradient."""
    value = value.detach().clone()
    if _is_distributed():
        distributed.all_reduce(value)
    return value


def scale_for_backward(losses: Tensor, num_questions: int) -> Tensor:
    """Return the loss for ``backward`` on this rank, so that the ranks' mean gradient equals that of one process.

    Args:
        losses: (N,) losses of this rank's questions.
        num_questions: Number of questions of all ranks, A.
    """
    return losses.sum() * (get_world_size() / max(1, num_questions))


class AllRanks:
    """Row counts of all ranks. ``gather`` concatenates the rows of all ranks in the order of ranks.

    Every rank must build one, and must gather the same tensors in the same order.

    Args:
        num_rows: Rows of this rank, N.
        device: Device of the tensors to gather.
    """

    def __init__(self, num_rows: int, device: torch.device) -> None:
        self.sizes = [num_rows]
        """Number of rows of each rank."""
        self.start = 0
        """Index of this rank's first row among the rows of all ranks."""
        if _is_distributed():
            sizes = torch.zeros(get_world_size(), dtype=torch.int64, device=device)
            sizes[get_rank()] = num_rows
            distributed.all_reduce(sizes)
            self.sizes = sizes.tolist()
            self.start = sum(self.sizes[: get_rank()])

    def gather(self, rows: Tensor) -> Tensor:
        """Return the rows of all ranks: (N, ...) to (A, ...).

        In the backward pass each rank receives the gradients of its own rows, summed over all ranks.
        """
        return _Gather.apply(rows, self) if _is_distributed() else rows  # pyright: ignore[reportReturnType]


def gather_padded(rows: Tensor, ranks: AllRanks) -> Tensor:
    """Return the rows of all ranks, which may differ in K: (N, K, ...) to (A, largest K, ...).

    The last column of a rank is repeated up to the largest K.
    """
    num_columns = rows.shape[1]
    max_columns = max(AllRanks(num_columns, rows.device).sizes)
    return ranks.gather(rows[:, torch.arange(max_columns, device=rows.device).clamp(max=num_columns - 1)])


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rows: Tensor, ranks: AllRanks) -> Tensor:
        ctx.ranks, ctx.num_rows = ranks, len(rows)
        # all_gather needs tensors of one size, so rows are padded here and the padding is cut off below.
        max_rows = max(ranks.sizes)
        padded = F.pad(rows.contiguous(), (0, 0) * (rows.ndim - 1) + (0, max_rows - len(rows)))
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
