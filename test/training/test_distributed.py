"""Gathering rows across ranks, and evaluating on several ranks: both equal one process."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, distributed, multiprocessing

from test.ranks import process_group
from text.records import BiEncoderBatch, TokenBatch
from text.training import PassagePool
from text.training.distributed import (
    AllRanks,
    gather_counts,
    get_rank,
    get_world_size,
    scale_for_backward,
    sum_over_ranks,
)

NO_TOKENS = TokenBatch(*(torch.empty(0) for _ in range(4)), lengths=np.zeros(0, dtype=np.int64))
SIZES = ([2, 0, 1], [1, 3, 2])


def test_one_process_is_one_rank() -> None:
    rows = torch.randn(3, 2)
    ranks = AllRanks(*gather_counts(3))
    assert (get_world_size(), get_rank(), ranks.sizes, ranks.start) == (1, 0, [3], 0)
    assert ranks.gather(rows) is rows and sum_over_ranks(rows).equal(rows)
    assert scale_for_backward(torch.tensor([1.0, 2.0]), torch.tensor(4.0)).item() == 0.75


def check_host_group() -> None:
    """Check that counts travel over a gloo group of their own, which is built once, beside a group of GPUs."""
    built, build = [], distributed.new_group
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(distributed, "get_backend", lambda: "nccl")
        patch.setattr(distributed, "new_group", lambda backend: built.append(backend) or build(backend=backend))
        for _ in range(2):
            assert gather_counts(get_rank()) == [list(range(get_world_size()))]
    assert built == ["gloo"]


def check_gather_on_rank(rank: int, size: int, folder: str) -> None:
    """Check ``gather`` on one rank. A row is (rank, index), and a rank's loss weighs row i by (rank + 1) * i."""
    with process_group(rank, size, folder):
        check_host_group()
        for sizes in SIZES:
            rows = torch.tensor([[rank, i] for i in range(sizes[rank])], dtype=torch.float64).reshape(-1, 2)
            own_sizes, doubled = gather_counts(len(rows), 2 * len(rows))
            assert doubled == [2 * num for num in sizes]
            ranks = AllRanks(own_sizes)
            assert (ranks.sizes, ranks.start) == (sizes, sum(sizes[:rank]))
            gathered = ranks.gather(rows.requires_grad_())
            assert gathered.tolist() == [[r, i] for r, n in enumerate(sizes) for i in range(n)]
            weights = (rank + 1.0) * torch.arange(len(gathered))
            (gathered[:, 0] * weights).sum().backward()
            assert rows.grad is not None
            total_weight = sum(range(1, size + 1))  # over all ranks
            assert rows.grad[:, 0].tolist() == [total_weight * (ranks.start + i) for i in range(sizes[rank])]
            keys = ranks.gather(torch.full((sizes[rank], 1, 2), rank))
            assert keys.dtype == torch.int64 and keys[:, 0, 0].tolist() == [
                r for r, n in enumerate(sizes) for _ in range(n)
            ]
            assert sum_over_ranks(torch.tensor(rank + 1.0)).item() == total_weight
            torch.testing.assert_close(
                scale_for_backward(torch.ones(sizes[rank]), torch.tensor(float(sum(sizes)))).item(),
                size * sizes[rank] / sum(sizes),
            )


@pytest.mark.slow
def test_gather_by_hand(tmp_path: Path) -> None:
    multiprocessing.spawn(check_gather_on_rank, (3, str(tmp_path)), nprocs=3)  # pyright: ignore[reportPrivateImportUsage]


# ---- evaluation


def build_share(batch: int, start: int, end: int) -> tuple[BiEncoderBatch, Tensor, Tensor]:
    """Return questions start to end of a batch of 5, each with 2 passages. Some passages occur in several rows."""
    generator = torch.Generator().manual_seed(batch)
    questions, passages = torch.randn(5, 4, generator=generator), torch.randn(10, 4, generator=generator)
    keys = torch.randint(20, (10,), generator=generator) if batch else torch.arange(10)
    passages = keys[:, None] % 3 + passages  # many passages are similar, few are tied
    # The first two questions have two known positives. A share without these questions has only one column.
    other = torch.where(torch.arange(5) < 2, keys.roll(3)[::2], keys[::2])
    known = torch.stack([keys[::2], other], dim=1)[:, : 2 if start < 2 else 1]
    made = BiEncoderBatch(
        questions=NO_TOKENS,
        passages=NO_TOKENS,
        text_index=torch.arange(2 * (end - start)),
        positive_index=torch.arange(0, 2 * (end - start), 2),
        owner=torch.arange(end - start).repeat_interleave(2),
        passage_keys=torch.stack([keys, keys], dim=1)[2 * start : 2 * end],
        known_positives=known[start:end, :, None].expand(-1, -1, 2),
        scores=torch.full((len(passages[2 * start : 2 * end]),), torch.nan),
        sources=torch.zeros(end - start, dtype=torch.int64),
        rows=5 * batch + torch.arange(start, end),
        counts={},
    )
    return made, questions[start:end], passages[2 * start : 2 * end]


def evaluate() -> dict[str, Any]:
    """Return the ranks, worst questions and metrics of three batches."""
    pool = PassagePool()
    for batch in range(3):
        rank, size = get_rank(), get_world_size()
        pool.add(*build_share(batch, 5 * rank // size, 5 * (rank + 1) // size))
    ranks = pool.compute_ranks().tolist()
    return {"ranks": ranks, "worst": repr(pool.find_worst(7, 2)), **pool.compute_metrics()}


def evaluate_on_rank(rank: int, size: int, folder: str) -> None:
    with process_group(rank, size, folder):
        torch.save(evaluate(), f"{folder}/{rank}.pt")


@pytest.mark.slow
@pytest.mark.parametrize("size", [4])
def test_evaluation_on_several_ranks_equals_one_process(size: int, tmp_path: Path) -> None:
    multiprocessing.spawn(evaluate_on_rank, (size, str(tmp_path)), nprocs=size)  # pyright: ignore[reportPrivateImportUsage]
    expected = evaluate()
    for rank in range(size):
        assert torch.load(tmp_path / f"{rank}.pt", weights_only=True) == expected
