"""Encoders, usable without anything else of this library."""

from text.models.biencoder import BiEncoder
from text.models.quantize import quantize_int8, to_bfloat16
from text.models.roberta import (
    RobertaConfig,
    RobertaEncoder,
    roberta_base,
    roberta_large,
    roberta_mini,
    roberta_small,
    roberta_tiny,
)
from text.models.torchtext_models import TorchtextEncoder, from_torchtext, to_torchtext

__all__ = [
    "BiEncoder",
    "RobertaConfig",
    "RobertaEncoder",
    "TorchtextEncoder",
    "from_torchtext",
    "quantize_int8",
    "roberta_base",
    "roberta_large",
    "roberta_mini",
    "roberta_small",
    "roberta_tiny",
    "to_bfloat16",
    "to_torchtext",
]
