"""Differentiable gathering of rows across ranks. The gradients equal those of one process.

Each rank holds a share of the questions and compares them with the passages of all ranks. The loss of a rank is the sum
over its own questions, divided by the number of questions of all ranks. The gradients of the ranks therefore add up to
the gradient of one process on the whole batch. DistributedDataParallel averages gradients instead of adding them, so
the loss is multiplied by the number of ranks. DPR's code does not multiply it, which shifts its clipping threshold.

Numbers that the host knows, such as the sizes of the shares, travel between the hosts over gloo. So no host waits for
its GPU to learn the size of a tensor.

Without torch.distributed there is one rank. Shares may differ in size, and may be empty.

Dimensions: N rows of this rank; A rows of all ranks; K columns of a row.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
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


def gather_counts(*counts: int) -> list[list[int]]:
    """Return each of some counts of all ranks, in the order of ranks. Every rank must give as many counts.

    The hosts exchange the counts, and no GPU takes part.

    >>> gather_counts(3, 5)  # one rank
    [[3], [5]]
    """
    if not _is_distributed():
        return [[count] for count in counts]
    own = torch.tensor(counts, dtype=torch.int64)
    parts = [torch.empty_like(own) for _ in range(get_world_size())]
    distributed.all_gather(parts, own, group=_get_host_group())
    return torch.stack(parts, dim=1).tolist()


def scale_for_backward(losses: Tensor, num_questions: Tensor) -> Tensor:
    """Return the loss for ``backward`` on this rank, so that the ranks' mean gradient equals that of one process.

    Args:
        losses: (N,) losses of this rank's questions.
        num_questions: Number of questions of all ranks, A, as a scalar on the device of the losses.
    """
    return losses.sum() * (get_world_size() / num_questions.clamp(min=1))


class AllRanks:
    """Row counts of all ranks. ``gather`` concatenates the rows of all ranks in the order of ranks.

    Every rank must gather the same tensors in the same order.

    Args:
        sizes: Number of rows of each rank (``gather_counts``).
    """

    def __init__(self, sizes: Sequence[int]) -> None:
        self.sizes = list(sizes)
        """Number of rows of each rank."""
        self.start = sum(self.sizes[: get_rank()])
        """Index of this rank's first row among the rows of all ranks."""

    def gather(self, rows: Tensor) -> Tensor:
        """Return the rows of all ranks: (N, ...) to (A, ...).

        In the backward pass each rank receives the gradients of its own rows, summed over all ranks.
        """
        return _Gather.apply(rows, self) if _is_distributed() else rows  # pyright: ignore[reportReturnType]


def gather_padded(rows: Tensor, ranks: AllRanks, max_columns: int) -> Tensor:
    """Return the rows of all ranks, which may differ in K: (N, K, ...) to (A, ``max_columns``, ...).

    The last column of a rank is repeated up to ``max_columns``, the largest K.
    """
    columns = torch.arange(max_columns, device=rows.device).clamp(max=rows.shape[1] - 1)
    return ranks.gather(rows[:, columns])


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


def _get_host_group() -> Any:
    """Return the process group for tensors on the host, or None if that is the default group."""
    return None if distributed.get_backend() == "gloo" else _build_host_group(distributed.group.WORLD)


@functools.cache
def _build_host_group(default: Any) -> Any:
    """Build the gloo group beside a default group of another backend. All ranks must call this at the same point."""
    return distributed.new_group(backend="gloo")
