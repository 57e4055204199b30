"""Self-attention within each text, for padded batches and for packed sequences.

This module chooses the attention kernel. The choice follows measurements (``benchmarks/encoder.py``).

Dimensions: B texts; L tokens of the longest; T tokens of all texts; N heads; E width of a head; H hidden size.
"""

from __future__ import annotations

import functools
import warnings
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from text.errors import SettingsWarning
from text.models.torch_internals import HAS_PACKED_KERNELS, attend_efficient, attend_flash
from text.models.transfers import send_to

_MAX_WIDTH = 128
"""Widest head for which packed attention is used. Wider heads need newer GPUs for their gradients."""
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
    """(B + 1,) int32. Position of the first token of each text, then T."""
    max_length: int
    """L, upper bound on the number of tokens of a text."""
    places: Tensor
    """(T,) int64. Place of each token in the padded batch, counted through its B rows of L columns."""
    has_flash: bool
    """True if the GPU has CUDA's flash attention. All GPUs from Ampere (compute capability 8.0) on have it."""

    def pack(self, values: Tensor) -> Tensor:
        """Return the values of all tokens: (B, L, ...) to (T, ...)."""
        return values.flatten(0, 1).index_select(0, self.places)

    def unpack(self, tokens: Tensor) -> Tensor:
        """Return a padded batch with zeros at padding: (T, ...) to (B, L, ...)."""
        num_texts = len(self.offsets) - 1
        padded = tokens.new_zeros(num_texts * self.max_length, *tokens.shape[1:])
        return padded.index_copy(0, self.places, tokens).unflatten(0, (num_texts, self.max_length))

    def attend(self, qkv: Tensor, dropout_p: float) -> Tensor:
        """Return the attention output of each token, (T, N * E).

        Args:
            qkv: (T, 3, N, E). Queries, keys and values.
            dropout_p: Share of the attention weights to drop.
        """
        # Some ranks get no text from a short batch, and no kernel accepts an empty input.
        if not len(qkv):
            return qkv[:, 2].flatten(1)
        if obstacle := self._find_obstacle(qkv):
            _warn_once(obstacle)
            return self._attend_padded(qkv, dropout_p)
        uses_flash = self.has_flash and qkv.dtype != torch.float32
        attend = attend_flash if uses_flash else attend_efficient
        return attend(qkv, self.offsets, self.max_length, dropout_p).flatten(1)

    def pool_first(self, tokens: Tensor) -> Tensor:
        """Return the hidden state of the first token of each text: (T, H) to (B, H)."""
        return tokens.index_select(0, self.offsets[:-1])

    def pool_mean(self, tokens: Tensor) -> Tensor:
        """Return the mean hidden state of each text: (T, H) to (B, H)."""
        # Half precision is added up in float32. The order of the sum is fixed, unlike that of index_add.
        wide = tokens.to(torch.promote_types(tokens.dtype, torch.float32))
        return torch.segment_reduce(wide, "mean", offsets=self.offsets, axis=0, unsafe=True).to(tokens.dtype)

    def _find_obstacle(self, qkv: Tensor) -> str:
        """Return the reason for which no kernel takes packed texts, or an empty string."""
        width, dtype = qkv.shape[-1], qkv.dtype
        if not HAS_PACKED_KERNELS:
            return f"PyTorch {torch.__version__} has other attention kernels than this version of dpr-text knows"
        if width % 8 or width > _MAX_WIDTH:
            return f"heads are {width} wide, and the kernels take multiples of 8 up to {_MAX_WIDTH}"
        if dtype not in (torch.float32, torch.float16, torch.bfloat16):
            return f"the kernels do not take {dtype}"
        if dtype == torch.bfloat16 and not self.has_flash:
            return "this GPU is older than Ampere, and its kernel does not take bfloat16"
        return ""

    def _attend_padded(self, qkv: Tensor, dropout_p: float) -> Tensor:
        is_token = torch.ones(len(qkv), dtype=torch.bool, device=qkv.device)
        return self.pack(PaddedTexts(self.unpack(is_token)).attend(self.unpack(qkv), dropout_p))


def pack_texts(attention_mask: Tensor, lengths: np.ndarray | None = None) -> PackedTexts:
    """Return the packed layout of a padded batch. A text without a real token counts as its first column.

    Args:
        attention_mask: (B, L) bool. True marks a real token.
        lengths: (B,) number of real tokens of each text, on the host, for texts that are padded on the right. Without
            it, the host waits for a GPU to count them.
    """
    (num_texts, max_length), device = attention_mask.shape, attention_mask.device
    if lengths is None:
        first_column = torch.arange(max_length, device=device) == 0
        is_token = attention_mask | (first_column & ~attention_mask.any(dim=1, keepdim=True))
        offsets = F.pad(is_token.sum(dim=1).cumsum(0), (1, 0)).to(torch.int32)
        return PackedTexts(offsets, max_length, is_token.flatten().nonzero()[:, 0], _has_flash(device))
    counts = np.maximum(lengths, 1)
    offsets = np.concatenate([[0], counts.cumsum()])
    places = np.arange(offsets[-1]) + np.repeat(np.arange(num_texts) * max_length - offsets[:-1], counts)
    on_device = (send_to(torch.from_numpy(each), device) for each in (offsets.astype(np.int32), places))
    offsets_there, places_there = on_device
    return PackedTexts(offsets_there, max_length, places_there, _has_flash(device))


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


def _has_flash(device: torch.device) -> bool:
    return device.type != "cuda" or torch.cuda.get_device_capability(device) >= (8, 0)


@functools.cache
def _warn_once(obstacle: str) -> None:
    warnings.warn(f"attention computes padding, which is slower: {obstacle}.", SettingsWarning, stacklevel=2)


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
