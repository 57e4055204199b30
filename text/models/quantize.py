"""Encoders with 16-bit and 8-bit weights, for inference.

Dimensions: I input features; O output features.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from text.errors import UsageError
from text.models.encoder import TextEncoder
from text.models.linear import Linear
from text.models.roberta import RobertaEncoder
from text.models.torch_internals import int8_linear, pack_int8_weight

_HIGHEST = 127
"""Largest quantized weight."""
_LEVELS = 254
"""Steps between the smallest and the largest quantized input. One of the 255 steps is kept for rounding."""
_OFFSET = 128
"""Difference between unsigned and signed bytes. oneDNN multiplies unsigned inputs fast."""


def to_bfloat16(encoder: TextEncoder) -> TextEncoder:
    """Return a copy of an encoder that computes in bfloat16.

    In a ``RobertaEncoder``, linear layers and activations are bfloat16, and the weights of embeddings and layer norms
    stay float32. Compared with ``encoder.bfloat16()``, this costs no time and halves the loss of cosine similarity. In
    a ``TransformersEncoder``, all weights of the transformer are bfloat16, and pooling and the layers after it float32.

    Args:
        encoder: Encoder to copy. It is not changed.

    Returns:
        An encoder for use under ``torch.no_grad``. Its output embeddings are float32.
    """
    return encoder.copy_in_half(torch.bfloat16)


def to_float16(encoder: TextEncoder) -> TextEncoder:
    """Return a copy of an encoder like ``to_bfloat16``, in float16. Use it on GPUs that lack bfloat16."""
    return encoder.copy_in_half(torch.float16)


def quantize_int8(encoder: TextEncoder) -> RobertaEncoder:
    """Return a bfloat16 copy of an encoder with dynamically quantized int8 linear layers.

    Weights have one scale for each output feature. Inputs have one scale for the whole tensor, so an embedding depends
    slightly on the other texts of its batch. The second feed-forward layer stays in bfloat16. Its inputs, the outputs
    of the GELU, lose most by rounding, and they are so wide that quantizing them takes as long as it saves.

    Args:
        encoder: Encoder to copy. It is not changed.

    Returns:
        An encoder for use under ``torch.no_grad``. It cannot be trained or saved.

    Raises:
        UsageError: The encoder is not a RobertaEncoder.
        RuntimeError: This build of PyTorch has no oneDNN.
    """
    if not isinstance(encoder, RobertaEncoder):
        raise UsageError(
            f'precision "int8" supports RoBERTa and BERT only, not {encoder.describe()}. Use bfloat16 or float32.'
        )
    if not torch.backends.mkldnn.is_available():
        raise RuntimeError("8-bit integers need oneDNN, which this build of PyTorch lacks. Install another build.")
    quantized = encoder.copy_in_half(torch.bfloat16)
    for name, linear in list(encoder.layers.named_modules()):
        if isinstance(linear, Linear) and not name.endswith("feed_forward.1"):
            parent, _, attribute = name.rpartition(".")
            setattr(quantized.layers.get_submodule(parent), attribute, Int8Linear(linear))
    return quantized


class Int8Linear(nn.Module):
    """A linear layer, with or without a GELU, that multiplies 8-bit integers. Inputs and outputs are bfloat16."""

    def __init__(self, linear: Linear) -> None:
        super().__init__()
        weight = linear.weight.detach().float()
        self.scales = weight.abs().amax(dim=1).clamp(min=torch.finfo().tiny) / _HIGHEST  # (O,)
        self.weight = pack_int8_weight((weight / self.scales[:, None]).round().to(torch.int8))
        self.zero_points = torch.zeros(len(weight), dtype=torch.int64)
        self.bias = linear.bias.detach().float()
        self.activation = "gelu" if linear.gelu else "none"

    def forward(self, inputs: Tensor) -> Tensor:
        """Return the outputs, (..., I) to (..., O)."""
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
        raise RuntimeError("8-bit weights are for inference only. Save the encoder that was quantized.")
