"""Chunks of texts with similar lengths, to avoid computing padding."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

MAX_TOKENS = 2048
"""Maximum tokens of a chunk. More do not fit the cache of a core, and fewer make matrix products inefficient."""
_MAX_PADDING = 0.03
"""Maximum share of padding in a chunk."""
_FREE_PADDING = 16
"""Number of padding tokens that cost less than another chunk."""


def get_lengths(attention_mask: Tensor) -> list[int]:
    """Return the length of each text in a (B, L) attention mask, up to its last real token. The minimum is 1."""
    places = torch.arange(1, attention_mask.shape[1] + 1, device=attention_mask.device)
    return (attention_mask * places).amax(dim=1).clamp(min=1).tolist()


def cut_by_length(lengths: Sequence[int], max_tokens: int = MAX_TOKENS) -> list[tuple[list[int], int]]:
    """Group texts of similar length into chunks with little padding.

    Args:
        lengths: Number of tokens of each text.
        max_tokens: Maximum tokens of a chunk, padding included. A longer text gets its own chunk.

    Returns:
        For each chunk, the rows of its texts (longest first) and the length of the longest text. Every row is in
        exactly one chunk. Padding is at most 16 tokens or 3 % of a chunk, whichever is more.
    """
    chunks: list[tuple[list[int], int]] = []
    padding = 0
    for row in sorted(range(len(lengths)), key=lambda row: -lengths[row]):
        rows, longest = chunks[-1] if chunks else ([], 0)
        padding += longest - lengths[row]
        size = longest * (len(rows) + 1)
        if not rows or size > max_tokens or padding > max(_FREE_PADDING, _MAX_PADDING * size):
            chunks.append(([row], lengths[row]))
            padding = 0
        else:
            rows.append(row)
    return chunks
