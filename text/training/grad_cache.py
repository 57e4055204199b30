"""GradCache: batches of any size with the activation memory of one chunk (arXiv:2101.06983).

Texts are embedded chunk by chunk, and only embeddings are kept. The backward pass recomputes each chunk with the same
dropout masks to get its gradients. This is activation checkpointing with one checkpoint per chunk. There is one
backward pass, so DistributedDataParallel synchronizes once, and Lightning handles precision and gradient clipping as
usual.

Dimensions: N texts; L tokens; D embedding width.
"""

from __future__ import annotations

import ctypes
import itertools
import sys
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from text.models.chunks import cut_by_length, get_lengths
from text.records import TokenBatch

_CHUNKS_PER_TRIM = 4
"""Chunks on a CPU after which freed memory is returned to the system. Chunks differ in size, so the allocator rarely
reuses a freed block, and without trimming memory grows with the batch."""
_malloc_trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if sys.platform == "linux" else None


def embed_in_chunks(encoder: nn.Module, tokens: TokenBatch, chunk_tokens: int) -> Tensor:
    """Return the embeddings of N texts, (N, D), computed chunk by chunk.

    Args:
        encoder: Maps input ids and attention mask, (N, L) each, to (N, D) embeddings.
        tokens: Token ids of the texts, (N, L).
        chunk_tokens: Maximum tokens of a chunk. A longer text is a chunk of its own. A chunk has texts of similar
            length.
    """
    chunks = cut_by_length(get_lengths(tokens.attention_mask), chunk_tokens) or [([], 1)]
    embed = _trim_between_chunks(encoder) if _malloc_trim and tokens.input_ids.device.type == "cpu" else encoder
    embeddings = [
        checkpoint(embed, tokens.input_ids[rows, :length], tokens.attention_mask[rows, :length], use_reentrant=False)
        for rows, length in chunks
    ]
    order = torch.tensor([row for rows, _ in chunks for row in rows], dtype=torch.int64, device=embeddings[0].device)
    return torch.cat(embeddings)[order.argsort()]


def _trim_between_chunks(encoder: nn.Module) -> Callable[[Tensor, Tensor], Tensor]:
    """Wrap an encoder so that freed memory is returned to the system every few chunks."""
    numbers = itertools.count(1)

    def embed(input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        if next(numbers) % _CHUNKS_PER_TRIM == 0 and _malloc_trim is not None:
            _malloc_trim(0)
        return encoder(input_ids, attention_mask)

    return embed
