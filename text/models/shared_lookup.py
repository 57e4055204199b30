"""One look-up of word embeddings for several chunks of a batch.

The gradient of each look-up is as large as the embedding table, so a look-up for each chunk would cost more than the
layers of a small model.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn


@contextmanager
def share_lookup(embedding: nn.Module, chunks: Sequence[Tensor]) -> Iterator[None]:
    """Look the ids of all chunks up at once, and return them one by one when the model calls the embedding.

    Without gradients of the table, or with one chunk, nothing changes.

    Args:
        embedding: Embedding module that the model calls once for each chunk.
        chunks: Token ids of each chunk, in the order in which the model gets them.
    """
    weight = getattr(embedding, "weight", None)
    if len(chunks) < 2 or not torch.is_grad_enabled() or weight is None or not weight.requires_grad:
        yield
        return
    rows = embedding(torch.cat([ids.flatten() for ids in chunks])).split([ids.numel() for ids in chunks])
    waiting = [(ids, found.unflatten(0, ids.shape)) for ids, found in zip(chunks, rows, strict=True)][::-1]
    plain = embedding.forward

    def take(input_ids: Tensor) -> Tensor:
        if waiting and torch.equal(waiting[-1][0], input_ids):
            return waiting.pop()[1]
        return plain(input_ids)

    embedding.forward = take
    try:
        yield
    finally:
        del embedding.forward
