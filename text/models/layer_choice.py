"""Choice of the layers of an encoder from which a smaller student starts (DistilBERT, arXiv:1910.01108)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from torch import nn

from text.errors import UsageError
from text.models.encoder import TextEncoder
from text.models.roberta import RobertaEncoder
from text.models.transformers_encoder import TransformersEncoder

_ALIKE = ("bert", "camembert", "electra", "mpnet", "roberta", "xlm-roberta")
"""Model types of ``transformers`` whose layers are all alike, so that any of them can be left out."""


def keep_layers(encoder: TextEncoder, layers: Sequence[int]) -> None:
    """Keep some transformer layers of an encoder, in place and in the given order.

    Args:
        encoder: The encoder.
        layers: Numbers of the layers to keep, counted from 0 and in ascending order. DistilBERT keeps every second one.

    Raises:
        UsageError: A number is missing in the encoder or occurs twice, the numbers are not in ascending order, or the
            layers of this architecture differ from each other.

    >>> from text.models import roberta_tiny
    >>> encoder = roberta_tiny(vocab_size=100)
    >>> keep_layers(encoder, [1])
    >>> encoder.config.num_hidden_layers
    1
    """
    present = _find_layers(encoder)
    if not layers or list(layers) != sorted(set(layers)) or not 0 <= layers[0] <= layers[-1] < len(present):
        raise UsageError(
            f"--keep_layers is {list(layers)}, but the encoder has layers 0 to {len(present) - 1}. Give some of them "
            "in ascending order."
        )
    kept = nn.ModuleList(present[number] for number in layers)
    if isinstance(encoder, RobertaEncoder):
        encoder.layers, encoder.config = kept, replace(encoder.config, num_hidden_layers=len(kept))
    elif isinstance(encoder, TransformersEncoder):
        encoder.model.encoder.layer, encoder.model.config.num_hidden_layers = kept, len(kept)


def _find_layers(encoder: TextEncoder) -> nn.ModuleList:
    if isinstance(encoder, RobertaEncoder):
        return encoder.layers
    model: Any = encoder.model if isinstance(encoder, TransformersEncoder) else None
    if model is None or model.config.model_type not in _ALIKE:
        raise UsageError(f"--keep_layers is not supported by {encoder.describe()}. Omit the flag.")
    return model.encoder.layer
