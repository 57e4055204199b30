"""Process groups for tests with several ranks, which meet through a file."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import distributed


@contextmanager
def process_group(rank: int, num_ranks: int, folder: str | Path) -> Iterator[None]:
    """Join a gloo process group inside the block."""
    distributed.init_process_group("gloo", f"file://{folder}/rendezvous", rank=rank, world_size=num_ranks)
    yield
    # A gloo thread frees the tensors of the last call, and needs the GIL if it has the only reference. PyTorch 2.3
    # holds the GIL while it waits for this thread, which would deadlock. The reference `last` prevents that.
    last = torch.zeros(1)
    distributed.all_reduce(last)
    distributed.destroy_process_group()
