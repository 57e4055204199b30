"""Wrappers of private PyTorch functions. No other file of ``text/`` uses private parts of PyTorch.

Tested with torch 2.3.1, 2.13.0 and 2.15.0. Check this file first if another version fails.

Dimensions: I input features; O output features.
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


def leave_unscaling_to_caller(optimizer: torch.optim.Optimizer) -> None:
    """Keep a fused optimizer from unscaling float16 gradients itself, so that they can be clipped first."""
    optimizer._step_supports_amp_scaling = False  # pyright: ignore[reportAttributeAccessIssue]


def get_worker_processes(loader_iterator: Iterable[Any]) -> list[BaseProcess]:
    """Return the worker processes of a DataLoader iterator. Without workers the list is empty."""
    return list(getattr(loader_iterator, "_workers", ()))
