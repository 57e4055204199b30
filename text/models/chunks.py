"""Texts of like length together: what is not padded need not be computed."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

MAX_TOKENS = 2048
"""Most tokens at once: more do not stay in a core's cache, fewer do not fill its multiplications."""
_MAX_PADDING = 0.03
_FREE_PADDING = 16
"""Tokens of padding that cost less than another chunk."""


def lengths_of(attention_mask: Tensor) -> list[int]:
    """Where each text of a (B, L) mask ends: behind its last real token, and at least 1."""
    places = torch.arange(1, attention_mask.shape[1] + 1, device=attention_mask.device)
    return (attention_mask * places).amax(dim=1).clamp(min=1).tolist()


def cut_by_length(lengths: Sequence[int], max_tokens: int = MAX_TOKENS) -> list[tuple[list[int], int]]:
    """Cuts texts into chunks that hold next to no padding.

    Args:
        lengths: Tokens of each text.
        max_tokens: Most tokens of a chunk, padding included, unless one text has more.

    Returns:
        Of each chunk the rows of its texts, longest first, and the length of the longest; every row is in
        one chunk. A chunk has at most 16 tokens or 3 % of padding.
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
