"""Linear layers that choose the faster CPU library, MKL or oneDNN.

PyTorch computes float32 matrix products with MKL, which uses AVX-512 on Intel CPUs only. oneDNN, which is part of the
same build, uses AVX-512 on every CPU that has it. There it takes half the time of MKL (``benchmarks/encoder.py``). On
CPUs without AVX-512 the forward pass is equally fast, and weight gradients take twice as long with oneDNN.

Dimensions: I input features; O output features.
"""

from __future__ import annotations

import functools
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from text.models.torch_internals import HAS_ONEDNN_LINEAR, has_onednn_bfloat16, onednn_linear

_DTYPES = [torch.float32, *([torch.bfloat16] if has_onednn_bfloat16() else [])]
_TRAINS_WITH_ONEDNN = torch.backends.cpu.get_cpu_capability().startswith("AVX512")

# PyTorch 2.3 has a separate function for the CPU.
_is_autocast = (
    torch.is_autocast_cpu_enabled if torch.__version__ < "2.4" else functools.partial(torch.is_autocast_enabled, "cpu")
)


class Linear(nn.Linear):
    """A ``torch.nn.Linear`` that uses oneDNN on a CPU if oneDNN is faster.

    Args:
        in_features: I.
        out_features: O.
        gelu: Apply a GELU to the outputs.
    """

    def __init__(self, in_features: int, out_features: int, *, gelu: bool = False) -> None:
        super().__init__(in_features, out_features)
        self.gelu = gelu

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002  torch's name
        """Return the outputs, (..., I) to (..., O)."""
        if _fits_onednn(input, self.weight) and not torch.is_grad_enabled():
            return onednn_linear(input, self.weight, self.bias, "gelu" if self.gelu else "none")
        if _TRAINS_WITH_ONEDNN and _fits_onednn(input, self.weight) and input.dtype == torch.float32:
            outputs = _OneDNNLinear.apply(input, self.weight, self.bias)
        else:
            outputs = super().forward(input)
        return F.gelu(outputs) if self.gelu else outputs


class _OneDNNLinear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, inputs: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        ctx.save_for_backward(inputs, weight)
        return onednn_linear(inputs, weight, bias)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor]:
        inputs, weight = ctx.saved_tensors
        gradient, inputs = gradients[0].flatten(0, -2), inputs.flatten(0, -2)  # (tokens, O) and (tokens, I)
        inputs_gradient = onednn_linear(gradients[0], weight.T) if ctx.needs_input_grad[0] else None
        weight_gradient = onednn_linear(gradient.T, inputs.T) if ctx.needs_input_grad[1] else None
        return inputs_gradient, weight_gradient, gradient.sum(0)


def multiply(inputs: Tensor, weight: Tensor) -> Tensor:
    """Return ``inputs @ weight.T``, (..., I) and (O, I) to (..., O), without gradients."""
    return onednn_linear(inputs, weight) if _fits_onednn(inputs, weight) else F.linear(inputs, weight)


def _fits_onednn(inputs: Tensor, weight: Tensor) -> bool:
    return (
        HAS_ONEDNN_LINEAR
        and inputs.device.type == "cpu"
        and inputs.dtype == weight.dtype
        and inputs.dtype in _DTYPES
        and inputs.numel() > 0
        and not _is_autocast()
        and not torch.compiler.is_compiling()  # Inductor compiles this product for constant weights only.
    )
