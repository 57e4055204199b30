"""Self-attention within each text, for texts that stand padded in rows or packed one after another.

Which kernel is used is decided here, by what was measured (``benchmarks/encoder.py``).

Dimensions: B texts; L tokens of the longest; T tokens of all texts; N heads; E width of a head.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

HAS_PACKED = hasattr(torch.nested, "nested_tensor_from_jagged")
"""Whether this PyTorch has what PackedTexts takes; 2.3 has not."""
_DRAWS = 1 << 16


class PaddedTexts(NamedTuple):
    """B rows of L tokens."""

    attention_mask: Tensor | None
    """(B, L) bool, True marks a real token; None where all are."""

    def attend(self, qkv: Tensor, dropout_p: float) -> Tensor:
        """Queries, keys and values (B, L, 3, N, E) to what each token sees, (B, L, N * E)."""
        query, key, value = qkv.permute(2, 0, 3, 1, 4)  # (B, N, L, E) each
        visible = None if self.attention_mask is None else self.attention_mask[:, None, None, :]
        # On a CPU the fused kernel has no dropout of its own, and in bfloat16 loses to plain products.
        if query.is_cuda or (dropout_p == 0 and query.dtype == torch.float32):
            context = F.scaled_dot_product_attention(query, key, value, attn_mask=visible, dropout_p=dropout_p)
        else:
            query, key, value = qkv.permute(2, 0, 3, 1, 4).contiguous()
            context = _attend(query, key, value, visible, dropout_p)
        return context.transpose(1, 2).flatten(2)


class PackedTexts(NamedTuple):
    """T tokens, text after text, without padding."""

    offsets: Tensor
    """(B + 1,) int64, where each text starts, and the end."""
    max_length: int
    """No text is longer."""

    def attend(self, qkv: Tensor, dropout_p: float) -> Tensor:
        """Queries, keys and values (T, 3, N, E) to what each token sees, (T, N * E)."""
        if not len(qkv):  # no text, which is the share of some ranks in a short batch: no kernel takes that
            return qkv[:, 2].flatten(1)
        query, key, value = (self._nested(part) for part in qkv.unbind(1))
        context = F.scaled_dot_product_attention(query, key, value, dropout_p=dropout_p)
        return context.transpose(1, 2).values().flatten(1)

    def _nested(self, tokens: Tensor) -> Tensor:
        nested = torch.nested.nested_tensor_from_jagged(
            tokens.contiguous(), self.offsets, min_seqlen=1, max_seqlen=self.max_length
        )
        return nested.transpose(1, 2)  # (B, N, length of each text, E)


def packed(attention_mask: Tensor) -> PackedTexts:
    """The texts of a padded batch, (B, L) bool, without its padding."""
    return PackedTexts(F.pad(attention_mask.sum(dim=1).cumsum(0), (1, 0)), attention_mask.shape[1])


def dropout(values: Tensor, p: float, training: bool) -> Tensor:
    """Sets a share ``p`` of the values to 0 and scales the others, as ``torch.nn.functional.dropout``.

    On a CPU it draws 16 bits for a value, not a number of 64 (a third of the time); ``p`` is rounded to that.
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
        return _weighted_mean(scores, value)
    return dropout(scores.softmax(dim=-1), dropout_p, True) @ value


def _weighted_mean(scores: Tensor, value: Tensor) -> Tensor:
    """``scores.softmax(dim=-1) @ value`` in half the time: without looking for each row's maximum first.

    That is done to keep exponentials within range, which the sums of ordinary scores show them to be.
    """
    weights = scores.exp()
    sums = weights.sum(dim=-1, keepdim=True)
    if sums.min() < 1e-20 or not sums.max() < 1e30:
        return scores.softmax(dim=-1) @ value
    return weights @ value / sums
