"""GradCache: batches of any size in the activation memory of a chunk (arXiv:2101.06983).

Texts are embedded chunk by chunk, and only embeddings are kept. In the backward pass each chunk is computed once more,
with the same dropout, and its gradient taken. PyTorch's activation checkpointing does just that where a chunk is what
is checkpointed: one backward pass, in which each parameter has its gradient once, so that DistributedDataParallel
synchronizes once, and precision and clipping stay Lightning's.

Dimensions: N texts; L tokens; D width of an embedding.
"""

from __future__ import annotations

import ctypes
import itertools
import sys
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from text.models.chunks import cut_by_length, lengths_of
from text.records import TokenBatch

_TRIMMED_AFTER = 4
"""Chunks on a CPU. No two are of one size, and what one frees does not fit the next: without giving it back to the
system, memory grows with the batch."""
_malloc_trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if sys.platform == "linux" else None


def embed_in_chunks(encoder: nn.Module, tokens: TokenBatch, chunk_tokens: int) -> Tensor:
    """Embeddings of N texts, (N, D).

    Args:
        encoder: Takes ids and mask, gives (N, D).
        tokens: (N, L).
        chunk_tokens: Most tokens of a chunk, unless one text has more; texts of like length are together.
    """
    chunks = cut_by_length(lengths_of(tokens.attention_mask), chunk_tokens) or [([], 1)]
    embed = _trimming(encoder) if _malloc_trim and tokens.input_ids.device.type == "cpu" else encoder
    embeddings = [
        checkpoint(embed, tokens.input_ids[rows, :length], tokens.attention_mask[rows, :length], use_reentrant=False)
        for rows, length in chunks
    ]
    order = torch.tensor([row for rows, _ in chunks for row in rows], dtype=torch.int64, device=embeddings[0].device)
    return torch.cat(embeddings)[order.argsort()]


def _trimming(encoder: nn.Module) -> Callable[[Tensor, Tensor], Tensor]:
    """The encoder, for chunks that are computed twice; gives freed memory back now and then."""
    numbers = itertools.count(1)

    def embed(input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        if next(numbers) % _TRIMMED_AFTER == 0 and _malloc_trim is not None:
            _malloc_trim(0)
        return encoder(input_ids, attention_mask)

    return embed
