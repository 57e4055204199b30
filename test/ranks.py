"""Ranks of a test: processes that speak to each other through a file."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import distributed


@contextmanager
def process_group(rank: int, num_ranks: int, folder: str | Path) -> Iterator[None]:
    distributed.init_process_group("gloo", f"file://{folder}/rendezvous", rank=rank, world_size=num_ranks)
    yield
    # A thread of gloo frees the tensors of the last call, and needs Python's lock for those that nobody else holds.
    # PyTorch 2.3 holds that lock while it waits for this thread to end: so the last tensor is held here.
    last = torch.zeros(1)
    distributed.all_reduce(last)
    distributed.destroy_process_group()
