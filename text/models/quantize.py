"""Encoders with weights of 16 and of 8 bits, for inference on a CPU."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn

from text.models.linear import Linear
from text.models.roberta import RobertaEncoder
from text.models.torch_internals import int8_linear, pack_int8_weight

_HIGHEST = 127
_LEVELS = 254
"""Above the lowest of 8 bits, with one left for rounding."""
_OFFSET = 128
"""From signed to unsigned bytes, which is what oneDNN multiplies quickly."""


def to_bfloat16(encoder: RobertaEncoder) -> RobertaEncoder:
    """A copy whose linear layers, and what is between them, are bfloat16.

    Weights of embeddings and layer norms stay float32: that costs no time and halves what is lost in cosine beside
    ``encoder.bfloat16()``, where they are rounded, too.

    Args:
        encoder: Stays as it is.

    Returns:
        An encoder for ``torch.no_grad``, with float32 embeddings of texts.
    """
    half = copy.deepcopy(encoder).eval().requires_grad_(False)
    for module in half.layers.modules():
        if isinstance(module, Linear):
            module.bfloat16()
    half.layer_dtype = torch.bfloat16
    return half


def quantize_int8(encoder: RobertaEncoder) -> RobertaEncoder:
    """A copy as ``to_bfloat16`` gives, most of whose linear layers multiply 8-bit integers.

    Each weight matrix has a scale for every output, the inputs of a layer one for all that goes through it at once:
    unlike others' embeddings, these depend a little on their neighbours. The second feed-forward layer stays in
    bfloat16: its inputs, behind a GELU, lose most by rounding, and are so wide that rounding them costs what it saves.

    Args:
        encoder: Stays as it is.

    Returns:
        An encoder for ``torch.no_grad``; it can be neither trained nor saved.

    Raises:
        RuntimeError: This build of PyTorch has no oneDNN.
    """
    if not torch.backends.mkldnn.is_available():
        raise RuntimeError("this build of PyTorch has no oneDNN; expected one, to multiply 8-bit integers")
    quantized = to_bfloat16(encoder)
    for name, linear in list(encoder.layers.named_modules()):
        if isinstance(linear, Linear) and not name.endswith("feed_forward.1"):
            parent, _, attribute = name.rpartition(".")
            setattr(quantized.layers.get_submodule(parent), attribute, Int8Linear(linear))
    return quantized


class Int8Linear(nn.Module):
    """A linear layer, and the GELU behind it, on 8-bit integers; bfloat16 in and out."""

    def __init__(self, linear: Linear) -> None:
        super().__init__()
        weight = linear.weight.detach().float()
        self.scales = weight.abs().amax(dim=1).clamp(min=torch.finfo().tiny) / _HIGHEST  # (O,)
        self.weight = pack_int8_weight((weight / self.scales[:, None]).round().to(torch.int8))
        self.zero_points = torch.zeros(len(weight), dtype=torch.int64)
        self.bias = linear.bias.detach().float()
        self.activation = "gelu" if linear.gelu else "none"

    def forward(self, inputs: Tensor) -> Tensor:
        """(..., I) to (..., O)."""
        if not inputs.numel():
            return inputs.new_empty(*inputs.shape[:-1], len(self.bias))
        low, high = (value.item() for value in inputs.aminmax())
        low, high = min(low, 0.0), max(high, 0.0)
        scale = max((high - low) / _LEVELS, 1e-30)
        zero = round(-low / scale)
        signed = inputs.float().div_(scale).add_(zero - _OFFSET).round_().to(torch.int8)
        unsigned = signed.view(torch.uint8).bitwise_xor_(_OFFSET)
        weight = (self.weight, self.scales, self.zero_points, self.bias)
        return int8_linear(unsigned, scale, zero, *weight, self.activation)

    def _save_to_state_dict(self, destination: Any, prefix: str, keep_vars: bool) -> None:
        raise RuntimeError("8-bit weights are for inference only; expected the encoder that they were made of")
