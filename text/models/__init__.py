"""Encoders. They can be used without the other packages of this library."""

from text.models.biencoder import BiEncoder, embed_tokens
from text.models.cross_encoder import CrossEncoder, RobertaCrossEncoder
from text.models.cross_encoder_loading import load_cross_encoder
from text.models.encoder import TextEncoder
from text.models.initial_cross_encoders import build_cross_encoder
from text.models.initial_encoders import SIZES, build_bi_encoder, check_encoder_name, choose_learning_rate
from text.models.loading import load_encoder
from text.models.quantize import quantize_int8, to_bfloat16, to_float16
from text.models.roberta import (
    RobertaEncoder,
    roberta_base,
    roberta_large,
    roberta_mini,
    roberta_small,
    roberta_tiny,
)
from text.models.roberta_config import RobertaConfig
from text.models.torch_files import TensorFileError, check_torch_zip
from text.models.torchtext_models import TorchtextEncoder, from_torchtext, to_torchtext
from text.models.transformers_cross_encoder import TransformersCrossEncoder
from text.models.transformers_encoder import TransformersEncoder

__all__ = [
    "SIZES",
    "BiEncoder",
    "CrossEncoder",
    "RobertaConfig",
    "RobertaCrossEncoder",
    "RobertaEncoder",
    "TensorFileError",
    "TextEncoder",
    "TorchtextEncoder",
    "TransformersCrossEncoder",
    "TransformersEncoder",
    "build_bi_encoder",
    "build_cross_encoder",
    "check_encoder_name",
    "check_torch_zip",
    "choose_learning_rate",
    "embed_tokens",
    "from_torchtext",
    "load_cross_encoder",
    "load_encoder",
    "quantize_int8",
    "roberta_base",
    "roberta_large",
    "roberta_mini",
    "roberta_small",
    "roberta_tiny",
    "to_bfloat16",
    "to_float16",
    "to_torchtext",
]
