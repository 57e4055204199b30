"""Private parts of PyTorch, each behind a function with a plain name. No other file of ``text/`` uses any.

Tested with torch 2.3.1, 2.13.0 and 2.15.0. Look through this file first when another version fails.

Dimensions: I inputs; O outputs.
"""

from __future__ import annotations

from collections.abc import Iterable
from multiprocessing.process import BaseProcess
from typing import Any

import torch
from torch import Tensor

HAS_ONEDNN_LINEAR = torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")
"""Whether this build of PyTorch has oneDNN's linear layer."""


def has_onednn_bfloat16() -> bool:
    """Return whether oneDNN multiplies bfloat16 on this processor. It needs AVX-512."""
    return HAS_ONEDNN_LINEAR and torch.ops.mkldnn._is_mkldnn_bf16_supported()


def onednn_linear(inputs: Tensor, weight: Tensor, bias: Tensor | None = None, activation: str = "none") -> Tensor:
    """Apply oneDNN's linear layer: (..., I) and (O, I) to (..., O).

    Args:
        inputs: Of the same type as the weight.
        weight: Contiguous or transposed.
        bias: (O,).
        activation: "none" or "gelu".
    """
    return torch.ops.mkldnn._linear_pointwise(inputs, weight, bias, activation, [], "none")


def pack_int8_weight(weight: Tensor) -> Tensor:
    """Return an int8 weight (O, I) in the layout that ``int8_linear`` takes."""
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
    """Apply oneDNN's linear layer to 8-bit integers: (..., I) to (..., O) in bfloat16.

    Args:
        inputs: uint8.
        scale: Of the inputs.
        zero_point: Of the inputs.
        weight: From ``pack_int8_weight``.
        weight_scales: (O,).
        weight_zero_points: (O,) int64.
        bias: (O,) float32.
        activation: "none" or "gelu".
    """
    weights = (weight, weight_scales, weight_zero_points, bias)
    return torch.ops.onednn.qlinear_pointwise(
        inputs, scale, zero_point, *weights, 1.0, 0, torch.bfloat16, activation, [], "none"
    )


def leave_unscaling_to_caller(optimizer: torch.optim.Optimizer) -> None:
    """Keep a fused optimizer from undoing float16's loss scale itself. Gradients could not be clipped then."""
    optimizer._step_supports_amp_scaling = False  # pyright: ignore[reportAttributeAccessIssue]


def worker_processes(loader_iterator: Iterable[Any]) -> list[BaseProcess]:
    """Return the worker processes of a DataLoader's iterator. Without workers the list is empty."""
    return list(getattr(loader_iterator, "_workers", ()))
