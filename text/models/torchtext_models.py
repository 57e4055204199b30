"""torchtext's RobertaModel: conversion to and from a RobertaEncoder, and use as an encoder of a BiEncoder.

This module does not import torchtext, because the user passes the model. The last release of torchtext, 0.18, needs
PyTorch 2.3.

Dimensions: B texts; L tokens; H hidden size.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from text.errors import UnsupportedModelError
from text.models import checkpoint, keys
from text.models.roberta import RobertaEncoder
from text.models.roberta_config import RobertaOptions

if TYPE_CHECKING:
    from typing_extensions import Unpack  # in typing from Python 3.11 on


def from_torchtext(model: nn.Module, **overrides: Unpack[RobertaOptions]) -> RobertaEncoder:
    """Convert a ``torchtext.models.RobertaModel`` to a RobertaEncoder. Training or evaluation mode is kept.

    Args:
        model: Model from ``RobertaBundle.build_model`` or ``get_model``. A head is ignored.
        overrides: Fields of ``RobertaConfig`` that replace the values of the model, such as ``pooling``.

    Raises:
        UnsupportedModelError: The model normalizes before attention (``normalize_before``).
        ArtifactError: The weights are not those of a RobertaModel.
    """
    transformer: Any = model.get_submodule("encoder.transformer")
    layer = transformer.layers.layers[0]
    fields = {
        "pad_token_id": transformer.padding_idx,
        "hidden_dropout_prob": layer.dropout.p,
        "attention_probs_dropout_prob": layer.self_attn.dropout,
    }
    name = Path("torchtext's RobertaModel")
    if layer.norm_first:
        raise UnsupportedModelError.at(name, "normalize_before is True. Only False is supported, as in RoBERTa.")
    saved = checkpoint.from_weights(name, model.state_dict(), keys.TORCHTEXT, layer.self_attn.num_heads)
    encoder = RobertaEncoder.from_saved(saved._replace(fields=saved.fields | fields), **overrides)
    return encoder.train(model.training)


def to_torchtext(encoder: RobertaEncoder) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Convert an encoder to settings and weights of torchtext, without pooling and normalization of embeddings.

    >>> settings, weights = to_torchtext(encoder)  # doctest: +SKIP
    >>> RobertaBundle.build_model(RobertaEncoderConf(**settings), checkpoint=weights)  # doctest: +SKIP

    Raises:
        ValueError: torchtext has no such model: the encoder is a BERT or has a projection, or its epsilon or attention
            dropout differs from torchtext's.
    """
    config = encoder.config
    if config.model_type == "bert":
        raise ValueError(
            "the encoder is a BERT, whose positions start at 0. torchtext's RobertaModel supports RoBERTa only."
        )
    fixed = {
        "projection_dim": None,
        "layer_norm_eps": 1e-5,
        "attention_probs_dropout_prob": config.hidden_dropout_prob,
    }
    for name, supported in fixed.items():
        if getattr(config, name) != supported:
            raise ValueError(f"{name} is {getattr(config, name)}. torchtext's RobertaModel supports only {supported}.")
    settings = {
        "vocab_size": config.vocab_size,
        "embedding_dim": config.hidden_size,
        "ffn_dimension": config.intermediate_size,
        "padding_idx": config.pad_token_id,
        "max_seq_len": config.max_position_embeddings,
        "num_attention_heads": config.num_attention_heads,
        "num_encoder_layers": config.num_hidden_layers,
        "dropout": config.hidden_dropout_prob,
    }
    return settings, keys.to_external_keys(encoder.state_dict(), keys.TORCHTEXT)


class TorchtextEncoder(nn.Module):
    """A ``torchtext.models.RobertaModel`` as an encoder of a BiEncoder, with the first token as embedding.

    Args:
        model: The model. A head is ignored.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.encoder = model.get_submodule("encoder")
        self.padding_idx: int = self.encoder.get_submodule("transformer").padding_idx  # pyright: ignore

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        """Return the embeddings of texts, (B, H).

        Args:
            input_ids: (B, L) int64, padded on the right.
            attention_mask: (B, L) bool. True marks a real token. By default, every token but the padding token is real.
        """
        if attention_mask is not None:  # torchtext recognizes padding by its id.
            input_ids = input_ids.masked_fill(~attention_mask, self.padding_idx)
        return self.encoder(input_ids)[:, 0]
