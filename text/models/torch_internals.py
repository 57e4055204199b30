"""Wrappers of private PyTorch functions. No other file of ``text/`` uses private parts of PyTorch.

Tested with torch 2.3.1, 2.13.0 and 2.15.0. Check this file first if another version fails. CUDA's attention kernels
have only been simulated (``test/cuda_simulation.py``): their arguments are checked, not the kernels themselves.

Dimensions: I input features; O output features; B texts; T tokens of all texts; N heads; E width of a head.
"""

from __future__ import annotations

from collections.abc import Iterable
from multiprocessing.process import BaseProcess
from typing import Any

import torch
from torch import Tensor

HAS_ONEDNN_LINEAR = torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")
"""True if this build of PyTorch has the linear layer of oneDNN."""


def has_onednn_bfloat16() -> bool:
    """Return whether oneDNN supports bfloat16 on this CPU. It needs AVX-512."""
    return HAS_ONEDNN_LINEAR and torch.ops.mkldnn._is_mkldnn_bf16_supported()


def onednn_linear(inputs: Tensor, weight: Tensor, bias: Tensor | None = None, activation: str = "none") -> Tensor:
    """Apply the linear layer of oneDNN and return (..., O).

    Args:
        inputs: (..., I), with the dtype of the weight.
        weight: (O, I), contiguous or transposed.
        bias: (O,).
        activation: "none" or "gelu".
    """
    return torch.ops.mkldnn._linear_pointwise(inputs, weight, bias, activation, [], "none")


def pack_int8_weight(weight: Tensor) -> Tensor:
    """Return an int8 weight, (O, I), in the memory layout that ``int8_linear`` needs."""
    return torch.ops.onednn.qlinear_prepack(weight, None)


def int8_linear(
    inputs: Tensor,
    scale: float,
    zero_point: int,
    weight: Tensor,
    weight_scales: Tensor,
    weight_zero_points: Tensor,
    bias: Tensor,
    activation: str = "none",
) -> Tensor:
    """Apply the 8-bit linear layer of oneDNN and return (..., O) bfloat16.

    Args:
        inputs: (..., I) uint8.
        scale: Scale of the inputs.
        zero_point: Zero point of the inputs.
        weight: Result of ``pack_int8_weight``.
        weight_scales: (O,) float32.
        weight_zero_points: (O,) int64.
        bias: (O,) float32.
        activation: "none" or "gelu".
    """
    weights = (weight, weight_scales, weight_zero_points, bias)
    return torch.ops.onednn.qlinear_pointwise(
        inputs, scale, zero_point, *weights, 1.0, 0, torch.bfloat16, activation, [], "none"
    )


def _has_arguments(operator: str, names: str) -> bool:
    found, expected = getattr(torch.ops.aten, operator, None), names.split()
    return found is not None and [each.name for each in found.default._schema.arguments[: len(expected)]] == expected


HAS_PACKED_KERNELS = (
    torch.version.hip is None
    and _has_arguments(
        "_flash_attention_forward",
        "query key value cum_seq_q cum_seq_k max_q max_k dropout_p is_causal return_debug_mask",
    )
    and _has_arguments(
        "_efficient_attention_forward",
        "query key value bias cu_seqlens_q cu_seqlens_k max_seqlen_q max_seqlen_k dropout_p custom_mask_type "
        "compute_log_sumexp",
    )
)
"""True if this PyTorch has CUDA's attention kernels for packed texts, with the arguments that are given below."""


def attend_flash(qkv: Tensor, offsets: Tensor, max_length: int, dropout_p: float) -> Tensor:
    """Return the attention output of each token within its text, (T, N, E), by CUDA's flash attention.

    The kernel takes views of ``qkv``, and needs a GPU of compute capability 8.0 or more.

    Args:
        qkv: (T, 3, N, E) queries, keys and values, in bfloat16 or float16. E is a multiple of 8, up to 256.
        offsets: (B + 1,) int32, position of the first token of each text, then T.
        max_length: Upper bound on the number of tokens of a text.
        dropout_p: Share of the attention weights to drop.
    """
    lengths = (offsets, offsets, max_length, max_length)
    return torch.ops.aten._flash_attention_forward(*qkv.unbind(1), *lengths, dropout_p, False, False)[0]


def attend_efficient(qkv: Tensor, offsets: Tensor, max_length: int, dropout_p: float) -> Tensor:
    """Return the attention output of each token within its text, (T, N, E), by CUDA's memory-efficient attention.

    Args:
        qkv: (T, 3, N, E) queries, keys and values, in float32 or float16. E is a multiple of 8.
        offsets: (B + 1,) int32, position of the first token of each text, then T.
        max_length: Upper bound on the number of tokens of a text.
        dropout_p: Share of the attention weights to drop.
    """
    lengths = (offsets, offsets, max_length, max_length)
    parts = qkv[None].unbind(2)  # (1, T, N, E) each
    # Without a mask, the kind of mask is 0. The backward pass needs the sums of the exponentials.
    needs_sums = torch.is_grad_enabled()
    return torch.ops.aten._efficient_attention_forward(*parts, None, *lengths, dropout_p, 0, needs_sums)[0][0]


def leave_unscaling_to_caller(optimizer: torch.optim.Optimizer) -> None:
    """Keep a fused optimizer from unscaling float16 gradients itself, so that they can be clipped first."""
    optimizer._step_supports_amp_scaling = False  # pyright: ignore[reportAttributeAccessIssue]


def get_worker_processes(loader_iterator: Iterable[Any]) -> list[BaseProcess]:
    """Return the worker processes of a DataLoader iterator. Without workers the list is empty."""
    return list(getattr(loader_iterator, "_workers", ()))
