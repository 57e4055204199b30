"""Self-attention within each text, for padded batches and for packed sequences.

This module chooses the attention kernel. The choice follows measurements (``benchmarks/encoder.py``).

Dimensions: B texts; L tokens of the longest; T tokens of all texts; N heads; E width of a head.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

HAS_PACKED = hasattr(torch.nested, "nested_tensor_from_jagged")
"""True if this PyTorch has the nested tensors that ``PackedTexts`` needs. PyTorch 2.3 lacks them."""
_DRAWS = 1 << 16
"""Number of values that 16 random bits can take."""


class PaddedTexts(NamedTuple):
    """A padded batch: B rows of L tokens."""

    attention_mask: Tensor | None
    """(B, L) bool. True marks a real token. None if there is no padding."""

    def attend(self, qkv: Tensor, dropout_p: float) -> Tensor:
        """Return the attention output of each token, (B, L, N * E).

        Args:
            qkv: (B, L, 3, N, E). Queries, keys and values.
            dropout_p: Share of the attention weights to drop.
        """
        query, key, value = qkv.permute(2, 0, 3, 1, 4)  # (B, N, L, E) each
        visible = None if self.attention_mask is None else self.attention_mask[:, None, None, :]
        # On a CPU the fused kernel does not support dropout, and plain matrix products are faster in bfloat16.
        if query.is_cuda or (dropout_p == 0 and query.dtype == torch.float32):
            context = F.scaled_dot_product_attention(query, key, value, attn_mask=visible, dropout_p=dropout_p)
        else:
            query, key, value = qkv.permute(2, 0, 3, 1, 4).contiguous()
            context = _attend(query, key, value, visible, dropout_p)
        return context.transpose(1, 2).flatten(2)


class PackedTexts(NamedTuple):
    """A packed batch: the T tokens of all texts in one sequence, without padding."""

    offsets: Tensor
    """(B + 1,) int64. Position of the first token of each text, then T."""
    max_length: int
    """Upper bound on the number of tokens of a text."""

    def attend(self, qkv: Tensor, dropout_p: float) -> Tensor:
        """Return the attention output of each token, (T, N * E).

        Args:
            qkv: (T, 3, N, E). Queries, keys and values.
            dropout_p: Share of the attention weights to drop.
        """
        # Some ranks get no text from a short batch, and no kernel accepts an empty input.
        if not len(qkv):
            return qkv[:, 2].flatten(1)
        query, key, value = (self._build_nested(part) for part in qkv.unbind(1))
        context = F.scaled_dot_product_attention(query, key, value, dropout_p=dropout_p)
        return context.transpose(1, 2).values().flatten(1)

    def _build_nested(self, tokens: Tensor) -> Tensor:
        nested = torch.nested.nested_tensor_from_jagged(
            tokens.contiguous(), self.offsets, min_seqlen=1, max_seqlen=self.max_length
        )
        return nested.transpose(1, 2)  # (B, N, length of each text, E)


def pack_texts(attention_mask: Tensor) -> PackedTexts:
    """Return the packed layout of a padded batch.

    Args:
        attention_mask: (B, L) bool. True marks a real token.
    """
    return PackedTexts(F.pad(attention_mask.sum(dim=1).cumsum(0), (1, 0)), attention_mask.shape[1])


def dropout(values: Tensor, p: float, training: bool) -> Tensor:
    """Apply dropout, like ``torch.nn.functional.dropout`` but three times as fast on a CPU.

    PyTorch draws 64 random bits for each value. This function draws 16, so ``p`` is rounded to a multiple of 2 ** -16.
    """
    if values.is_cuda or torch.compiler.is_compiling():
        return F.dropout(values, p, training)
    num_dropped = round(p * _DRAWS)
    if not training or not 0 < num_dropped < _DRAWS:
        return F.dropout(values, p, training)
    draws = torch.empty(-(-values.numel() // 4), dtype=torch.int64).random_(-(1 << 63), None)
    kept = draws.view(torch.int16)[: values.numel()].view(values.shape) >= num_dropped - _DRAWS // 2
    return values * kept * (_DRAWS / (_DRAWS - num_dropped))


def _attend(query: Tensor, key: Tensor, value: Tensor, visible: Tensor | None, dropout_p: float) -> Tensor:
    scores = (query * query.shape[-1] ** -0.5) @ key.transpose(-1, -2)  # (B, N, L, L)
    if visible is not None:
        scores += torch.zeros_like(visible, dtype=scores.dtype).masked_fill_(~visible, -torch.inf)
    if dropout_p == 0 and not torch.is_grad_enabled():
        return _average_values(scores, value)
    return dropout(scores.softmax(dim=-1), dropout_p, True) @ value


def _average_values(scores: Tensor, value: Tensor) -> Tensor:
    """Return ``scores.softmax(dim=-1) @ value`` in half the time.

    A softmax first subtracts the maximum of each row, which keeps the exponentials in range. This function skips that
    step. If a sum of exponentials is near underflow or overflow, it falls back to the softmax.
    """
    weights = scores.exp()
    sums = weights.sum(dim=-1, keepdim=True)
    if sums.min() < 1e-20 or not sums.max() < 1e30:
        return scores.softmax(dim=-1) @ value
    return weights @ value / sums
