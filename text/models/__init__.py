"""Encoders, usable without anything else of this library."""

from text.models.biencoder import BiEncoder
from text.models.quantize import quantize_int8
from text.models.roberta import (
    RobertaConfig,
    RobertaEncoder,
    roberta_base,
    roberta_large,
    roberta_mini,
    roberta_small,
    roberta_tiny,
)

__all__ = [
    "BiEncoder",
    "RobertaConfig",
    "RobertaEncoder",
    "quantize_int8",
    "roberta_base",
    "roberta_large",
    "roberta_mini",
    "roberta_small",
    "roberta_tiny",
]
