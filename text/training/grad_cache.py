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
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from text.models import embed_tokens
from text.models.chunks import no_autocast_cache, split_by_length
from text.models.transfers import send_to
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
    device = tokens.input_ids.device
    rows, chunks = split_by_length(tokens, chunk_tokens)
    trim = _malloc_trim if device.type == "cpu" else None
    numbers = itertools.count(1)  # The backward pass embeds each chunk once more.

    def embed(*fields: Any) -> Tensor:
        if trim is not None and next(numbers) % _CHUNKS_PER_TRIM == 0:
            trim(0)
        return embed_tokens(encoder, TokenBatch(*fields))

    with no_autocast_cache():
        # The tensors are separate arguments: PyTorch 2.3 saves the random state only of GPUs that it finds among them.
        embeddings = torch.cat([checkpoint(embed, *chunk, use_reentrant=False) for chunk in chunks])
    return embeddings[send_to(torch.tensor(rows, dtype=torch.int64).argsort(), device)]
