"""A GPU that is simulated on a CPU: ``text.models`` takes its GPU path, and plain PyTorch replaces CUDA's kernels.

The simulation runs all of this library's Python code for a GPU, and PyTorch's own derivatives of the kernels. It checks
what the kernels ask of their arguments. It does not show their speed, their rounding or TF32.

Dimensions: B texts; T tokens of all texts; N heads; E width of a head; L tokens of one text.
"""

from __future__ import annotations

import itertools
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.library import Library

HALF = (torch.bfloat16, torch.float16)


class Call(NamedTuple):
    """A call of a kernel."""

    kernel: str
    dtype: torch.dtype
    num_tokens: int
    offsets: Tensor
    query: Tensor


@contextmanager
def simulate_gpu() -> Iterator[list[Call]]:
    """Let ``text.models`` take every tensor for one on a GPU inside the block. Yield the list of kernel calls."""
    calls: list[Call] = []
    library = Library("aten", "IMPL")
    kernels = _Kernels(calls)
    library.impl("_flash_attention_forward", kernels.flash, "CPU")
    library.impl("_flash_attention_backward", kernels.flash_backward, "CPU")
    library.impl("_efficient_attention_forward", kernels.efficient, "CPU")
    library.impl("_efficient_attention_backward", kernels.efficient_backward, "CPU")
    torch.Tensor.is_cuda = property(lambda _: "/text/models/" in sys._getframe(1).f_code.co_filename)  # pyright: ignore
    try:
        yield calls
    finally:
        del torch.Tensor.is_cuda  # the attribute of the base class is visible again
        library._destroy()


class _Kernels:
    """CUDA's four kernels for packed texts. Dropout masks follow from a seed, which a forward pass draws."""

    def __init__(self, calls: list[Call]) -> None:
        self.calls = calls

    def flash(self, query: Tensor, key: Tensor, value: Tensor, *rest: Any, scale: Any = None, **_: Any) -> Any:
        offsets, _, max_length, _, dropout_p, is_causal, _ = rest
        self._record("flash", query, key, value, offsets, max_length, HALF)
        assert not is_causal and query.dim() == 3 and query.shape[-1] <= 256
        seed = _draw_seed(dropout_p)
        attended, sums = _attend(query, key, value, offsets, scale, dropout_p, seed)
        return attended, sums, torch.tensor([seed]), torch.tensor(0), torch.empty(0)

    def flash_backward(self, gradient: Tensor, query: Tensor, key: Tensor, value: Tensor, *rest: Any, **_: Any) -> Any:
        _, _, offsets, _, _, _, dropout_p, _, seed, _ = rest
        return _differentiate(gradient, query, key, value, offsets, dropout_p, int(seed))

    def efficient(self, query: Tensor, key: Tensor, value: Tensor, bias: Any, *rest: Any, **options: Any) -> Any:
        offsets, _, max_length, _, dropout_p, mask_type, *needs_sums = rest  # arguments at their default are left out
        self._record("efficient", query[0], key[0], value[0], offsets, max_length, (torch.float32, *HALF))
        assert bias is None and mask_type == 0 and query.dim() == 4 and len(query) == 1
        seed = _draw_seed(dropout_p)
        attended, _ = _attend(query[0], key[0], value[0], offsets, options.get("scale"), dropout_p, seed)
        # The kernel pads the sums of each text to a multiple of 32. Nothing reads them here.
        width = -(-int(max_length) // 32) * 32 if needs_sums == [True] else 0
        sums = torch.zeros(len(offsets) - 1, query.shape[2], width)
        return attended[None], sums, torch.tensor(seed), torch.tensor(0), int(max_length), int(max_length)

    def efficient_backward(
        self, gradient: Tensor, query: Tensor, key: Tensor, value: Tensor, *rest: Any, **_: Any
    ) -> Any:
        _, _, offsets, _, _, _, sums, dropout_p, seed, _, _, _ = rest
        assert sums.numel(), "the forward pass did not compute what the backward pass needs"
        parts = (gradient[0], query[0], key[0], value[0])
        gradients = _differentiate(*parts, offsets, dropout_p, int(seed))
        return *(each[None] for each in gradients), torch.Tensor()

    def _record(
        self, kernel: str, query: Tensor, key: Tensor, value: Tensor, offsets: Tensor, max_length: int, dtypes: Any
    ) -> None:
        for part in (query, key, value):
            assert part.stride(-1) == 1 and part.dtype in dtypes, (kernel, part.dtype, part.stride())
        assert query.shape[-1] % 8 == 0
        assert offsets.dtype == torch.int32 and offsets.is_contiguous()
        assert offsets[0] == 0 and offsets[-1] == len(query) > 0 and offsets.diff().max() <= max_length
        self.calls.append(Call(kernel, query.dtype, len(query), offsets, query))


def _draw_seed(dropout_p: float) -> int:
    return int(torch.randint(1 << 62, ())) if dropout_p else 0


def _iterate_texts(offsets: Tensor) -> Iterator[slice]:
    yield from (slice(start, end) for start, end in itertools.pairwise(offsets.tolist()) if end > start)


def _compute_weights(query: Tensor, key: Tensor, scale: float | None) -> tuple[Tensor, Tensor]:
    """Return the attention weights, (N, L, L), and the logarithms of their sums, (N, L), of one text."""
    query, key = (part.float().transpose(0, 1) for part in (query, key))
    scores = query @ key.transpose(1, 2) * (scale or query.shape[-1] ** -0.5)
    return scores.softmax(dim=-1), scores.logsumexp(dim=-1)


def _draw_kept(weights: Tensor, dropout_p: float, seed: int) -> Tensor:
    """Return what each attention weight of a text is multiplied with: 0 if it is dropped."""
    draws = torch.rand(weights.shape, generator=torch.Generator().manual_seed(seed))
    return (draws >= dropout_p).float() / (1 - dropout_p)


def _attend(
    query: Tensor, key: Tensor, value: Tensor, offsets: Tensor, scale: float | None, dropout_p: float, seed: int
) -> tuple[Tensor, Tensor]:
    attended, sums = torch.empty(query.shape, dtype=query.dtype), torch.empty(query.shape[1], len(query))
    for text in _iterate_texts(offsets):
        weights, sums[:, text] = _compute_weights(query[text], key[text], scale)
        kept = weights * _draw_kept(weights, dropout_p, seed + text.start)
        attended[text] = (kept @ value[text].float().transpose(0, 1)).transpose(0, 1).to(query.dtype)
    return attended, sums


def _differentiate(
    gradient: Tensor, query: Tensor, key: Tensor, value: Tensor, offsets: Tensor, dropout_p: float, seed: int
) -> list[Tensor]:
    """Return the gradients of queries, keys and values, (T, N, E) each."""
    gradients = [torch.empty(part.shape, dtype=part.dtype) for part in (query, key, value)]
    scale = query.shape[-1] ** -0.5
    for text in _iterate_texts(offsets):
        weights, _ = _compute_weights(query[text], key[text], scale)
        factors = _draw_kept(weights, dropout_p, seed + text.start)
        outer, queries, keys, values = (p[text].float().transpose(0, 1) for p in (gradient, query, key, value))
        of_weights = outer @ values.transpose(1, 2) * factors
        of_scores = weights * (of_weights - (of_weights * weights).sum(dim=-1, keepdim=True)) * scale
        found = (of_scores @ keys, of_scores.transpose(1, 2) @ queries, (weights * factors).transpose(1, 2) @ outer)
        for whole, part in zip(gradients, found, strict=True):
            whole[text] = part.transpose(0, 1).to(whole.dtype)
    return gradients
