"""Chunks of texts with similar lengths, to avoid computing padding."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor

from text.models.transfers import send_to
from text.records import TokenBatch

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


def check_lengths(lengths: np.ndarray | Tensor | Sequence[int], attention_mask: Tensor) -> np.ndarray:
    """Return the number of tokens of each text, (B,) int64, on the host. A text without tokens counts as its first.

    The values of the mask are not read, because the host would wait for a GPU.

    Args:
        lengths: (B,) numbers of tokens.
        attention_mask: (B, L) bool.

    Raises:
        ValueError: There are not B lengths, or one is not between 0 and L.
    """
    counts = np.asarray(lengths.cpu() if isinstance(lengths, Tensor) else lengths, dtype=np.int64)
    num_texts, max_length = attention_mask.shape
    if counts.shape != (num_texts,):
        raise ValueError(f"lengths have shape {counts.shape}; expected ({num_texts},), one length for each text")
    if (counts < 0).any() or (counts > max_length).any():
        raise ValueError(f"lengths are {counts.min()} to {counts.max()}; expected 0 to {max_length}, the columns")
    return np.maximum(counts, 1)


def check_mask(attention_mask: Tensor, lengths: np.ndarray) -> None:
    """Check that a mask on the host, (B, L) bool, marks as many first tokens of each text as ``lengths``, (B,), say.

    Raises:
        ValueError: It marks others.
    """
    expected = np.arange(attention_mask.shape[1]) < lengths[:, None]
    is_wrong = (attention_mask.cpu().numpy() != expected).any(axis=1)
    is_wrong &= attention_mask.any(dim=1).cpu().numpy()  # a text without tokens has length 1
    if is_wrong.any():
        text = int(is_wrong.argmax())
        raise ValueError(f"text {text} has length {lengths[text]}, but attention_mask does not mark its first tokens")


def cut_by_length(
    lengths: Sequence[int], max_tokens: int = MAX_TOKENS, *, limits_padding: bool = True
) -> list[tuple[list[int], int]]:
    """Group texts of similar length into chunks.

    Args:
        lengths: Number of tokens of each text.
        max_tokens: Maximum tokens of a chunk, padding included. A longer text gets its own chunk.
        limits_padding: Also end a chunk before its padding exceeds 16 tokens or 3 %, whichever is more. A CPU computes
            padding. A GPU does not, and needs large chunks.

    Returns:
        For each chunk, the rows of its texts (longest first) and the length of the longest text. Every row is in
        exactly one chunk.
    """
    chunks: list[tuple[list[int], int]] = []
    padding = 0
    for row in sorted(range(len(lengths)), key=lambda row: -lengths[row]):
        rows, longest = chunks[-1] if chunks else ([], 0)
        padding += longest - lengths[row]
        size = longest * (len(rows) + 1)
        is_padded = limits_padding and padding > max(_FREE_PADDING, _MAX_PADDING * size)
        if not rows or size > max_tokens or is_padded:
            chunks.append(([row], lengths[row]))
            padding = 0
        else:
            rows.append(row)
    return chunks


def split_by_length(
    tokens: TokenBatch, max_tokens: int, *, limits_padding: bool | None = None
) -> tuple[list[int], list[TokenBatch]]:
    """Cut a batch into chunks of texts with similar lengths.

    Args:
        tokens: The batch.
        max_tokens: Maximum tokens of a chunk.
        limits_padding: See ``cut_by_length``. By default, only the number of tokens limits a chunk of a batch on a GPU.

    Returns:
        The rows of all chunks in their order, and the chunks. A batch without texts is one chunk without texts.
    """
    tokens = tokens._replace(lengths=check_lengths(tokens.lengths, tokens.attention_mask))
    limits_padding = not tokens.input_ids.is_cuda if limits_padding is None else limits_padding
    chunks = cut_by_length(tokens.lengths.tolist(), max_tokens, limits_padding=limits_padding) or [([], 1)]
    return [row for rows, _ in chunks for row in rows], [take_rows(tokens, *chunk) for chunk in chunks]


def take_rows(tokens: TokenBatch, rows: Sequence[int], length: int) -> TokenBatch:
    """Return the texts at some rows, cut to ``length`` columns. A GPU copies them without a wait of the host."""
    chosen = torch.tensor(rows, dtype=torch.int64)
    index = send_to(chosen, tokens.input_ids.device)
    tensors = (tokens.input_ids[:, :length], tokens.attention_mask[:, :length], tokens.truncated, tokens.empty)
    return TokenBatch(
        *(tensor[index] for tensor in tensors),
        lengths=tokens.lengths[chosen.numpy()],
        prompt_length=tokens.prompt_length,
        token_types=None if tokens.token_types is None else tokens.token_types[:, :length][index],
    )


@contextmanager
def no_autocast_cache() -> Iterator[None]:
    """Let autocast convert the weights anew for each chunk, as Lightning does.

    If chunks share a converted weight, their gradients are added up in half precision.
    """
    before = torch.is_autocast_cache_enabled()
    torch.set_autocast_cache_enabled(False)
    try:
        yield
    finally:
        torch.set_autocast_cache_enabled(before)
