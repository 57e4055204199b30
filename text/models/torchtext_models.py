"""torchtext's RobertaModel: its weights as ours and back, or itself as an encoder of a BiEncoder.

torchtext is not imported here: the models are its users'. Its last release, 0.18, loads on PyTorch 2.3 only.

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
    """The encoder of a ``torchtext.models.RobertaModel``, in evaluation mode or training mode as it is.

    Args:
        model: From ``RobertaBundle.build_model`` or ``get_model``; its head, if it has one, is left out.
        overrides: Fields of RobertaConfig to set otherwise, such as ``pooling``.

    Raises:
        UnsupportedModelError: It normalizes before attention (``normalize_before``).
        ArtifactError: It is no RobertaModel.
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
        raise UnsupportedModelError.at(name, "normalize_before is True. Only False, as in RoBERTa, is supported.")
    saved = checkpoint.from_weights(name, model.state_dict(), keys.TORCHTEXT, layer.self_attn.num_heads)
    encoder = RobertaEncoder.from_saved(saved._replace(fields=saved.fields | fields), **overrides)
    return encoder.train(model.training)


def to_torchtext(encoder: RobertaEncoder) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Settings and weights of the transformer, without pooling and normalization of embeddings, for torchtext.

    >>> settings, weights = to_torchtext(encoder)  # doctest: +SKIP
    >>> RobertaBundle.build_model(RobertaEncoderConf(**settings), checkpoint=weights)  # doctest: +SKIP

    Raises:
        ValueError: It cannot be one of torchtext's: it is a BERT, or has a projection, another epsilon, or another
            dropout of attention.
    """
    config = encoder.config
    if config.model_type == "bert":
        raise ValueError("a BERT counts positions from 0; torchtext's RobertaModel expects RoBERTa's")
    fixed = {
        "projection_dim": None,
        "layer_norm_eps": 1e-5,
        "attention_probs_dropout_prob": config.hidden_dropout_prob,
    }
    for name, expected in fixed.items():
        if getattr(config, name) != expected:
            raise ValueError(f"{name} is {getattr(config, name)}; torchtext's RobertaModel expects {expected}")
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
    return settings, keys.to_theirs(encoder.state_dict(), keys.TORCHTEXT)


class TorchtextEncoder(nn.Module):
    """A ``torchtext.models.RobertaModel`` as one side of a BiEncoder: the last hidden state of the first token.

    Args:
        model: Its head, if it has one, is not used.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.encoder = model.get_submodule("encoder")
        self.padding_idx: int = self.encoder.get_submodule("transformer").padding_idx  # pyright: ignore

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        """(B, L) ids, and which of them are real tokens, to (B, H)."""
        if attention_mask is not None:  # torchtext knows padding by its id
            input_ids = input_ids.masked_fill(~attention_mask, self.padding_idx)
        return self.encoder(input_ids)[:, 0]
