"""Cross-encoder: a model that reads a question and a passage together and returns one score (arXiv:1901.04085).

``RobertaCrossEncoder`` computes RoBERTa, XLM-RoBERTa and BERT. ``transformers_cross_encoder.py`` computes all other
models by their own library. ``cross_encoder_files.py`` reads and writes the folders.

Dimensions: N pairs; L tokens; H hidden size.
"""

from __future__ import annotations

import copy
import os
from abc import ABC, abstractmethod
from typing import Any

import torch
from torch import Tensor, nn

from text.errors import ArtifactError, UsageError
from text.models import checkpoint
from text.models.chunks import split_by_length
from text.models.cross_encoder_files import ACTIVATIONS, SavedClassifier, read_classifier, save_classifier
from text.models.quantize import quantize_int8, to_bfloat16, to_float16
from text.models.roberta import RobertaEncoder
from text.models.roberta_config import RobertaConfig
from text.models.transfers import send_to
from text.records import TokenBatch

_PRECISIONS = {
    "float32": lambda encoder: encoder,
    "bfloat16": to_bfloat16,
    "float16": to_float16,
    "int8": quantize_int8,
}


class CrossEncoder(nn.Module, ABC):
    """A model that maps the tokens of each (question, passage) pair to one score.

    The score of a pair does not depend on its padding or on the other pairs of the batch.
    """

    activation: str = "identity"
    """Function that sentence-transformers applies to the scores of this model: "identity" or "sigmoid". ``forward``
    returns logits, to which it is not applied."""
    is_new_head: bool = False
    """True if the weights of the head are random, because the model was loaded from an encoder without a head."""

    @abstractmethod
    def forward(self, tokens: TokenBatch) -> Tensor:
        """Return the scores (logits) of N pairs, (N,) float32. Larger is better.

        Args:
            tokens: Tokens of the pairs (``text.transforms.TokenizePairs``).

        Raises:
            ValueError: A pair is longer than ``num_positions``, or ``lengths`` do not fit the mask.
        """

    @property
    @abstractmethod
    def num_positions(self) -> int:
        """Maximum tokens of a pair in this architecture."""

    @property
    @abstractmethod
    def num_token_types(self) -> int:
        """Number of token types that the model distinguishes. 0 or 1 means none."""

    @abstractmethod
    def fit_tokenizer(self, vocab_size: int, pad_token_id: int) -> None:
        """Check that a tokenizer fits this model, and use its padding token. See ``TextEncoder.fit_tokenizer``."""

    @abstractmethod
    def set_activation_checkpointing(self, is_on: bool) -> None:
        """Choose whether the backward pass recomputes activations to save memory."""

    @abstractmethod
    def compile_layers(self) -> None:
        """Compile the layers once for all lengths.

        Raises:
            UsageError: The model cannot be compiled.
        """

    @abstractmethod
    def save_pretrained(self, folder: str | os.PathLike[str]) -> None:
        """Write a folder that ``transformers`` (AutoModelForSequenceClassification) and sentence-transformers read.

        ``text.reranker.Reranker`` also writes the tokenizer, which the other two libraries need.

        Raises:
            OSError: The folder cannot be written.
        """

    @abstractmethod
    def copy_for_inference(self, precision: str) -> CrossEncoder:
        """Return a copy that computes in "float32", "bfloat16", "float16" or "int8". Its scores are float32.

        Raises:
            UsageError: The model does not support the precision.
        """

    @abstractmethod
    def describe(self) -> str:
        """Return the architecture and the library that computes it, in a few words."""


def score_in_batches(model: CrossEncoder, tokens: TokenBatch, max_tokens: int) -> Tensor:
    """Return the scores of N pairs, (N,) float32, computed in batches of similar length.

    Args:
        model: The cross-encoder.
        tokens: Tokens of the pairs, on any device. Each batch moves to the device of the model.
        max_tokens: Maximum tokens of a batch, padding included. A longer pair is a batch of its own.
    """
    device = next(model.parameters()).device
    rows, chunks = split_by_length(tokens, max_tokens, limits_padding=device.type == "cpu")
    scores = torch.cat([model(_move(chunk, device)) for chunk in chunks])
    return scores[send_to(torch.tensor(rows, dtype=torch.int64).argsort(), device)]


def _move(tokens: TokenBatch, device: torch.device) -> TokenBatch:
    """Return the ids, mask and types of a batch on a device. The host does not wait for a GPU."""
    types = None if tokens.token_types is None else send_to(tokens.token_types, device)
    ids, mask = send_to(tokens.input_ids, device), send_to(tokens.attention_mask, device)
    return tokens._replace(input_ids=ids, attention_mask=mask, token_types=types)


class ClassificationHead(nn.Module):
    """The head of BERT or RoBERTa for one label: a linear layer, tanh, and a linear layer with one output.

    Args:
        hidden_size: Width H of the hidden states.
        dropout: Dropout rate before the last layer.
        drops_input: Also drop hidden states before the first layer, as RoBERTa does. BERT calls that layer its pooler.
    """

    def __init__(self, hidden_size: int, dropout: float, *, drops_input: bool) -> None:
        super().__init__()
        self.dense = nn.Linear(hidden_size, hidden_size)
        self.output = nn.Linear(hidden_size, 1)
        self.dropout = nn.Dropout(dropout)
        self.drops_input = drops_input
        for linear in (self.dense, self.output):
            nn.init.normal_(linear.weight, std=0.02)
            nn.init.zeros_(linear.bias)

    def forward(self, hidden: Tensor) -> Tensor:
        """Return the scores of the first hidden states of pairs: (N, H) to (N,)."""
        hidden = self.dropout(hidden) if self.drops_input else hidden
        return self.output(self.dropout(torch.tanh(self.dense(hidden))))[:, 0]


class RobertaCrossEncoder(CrossEncoder):
    """A cross-encoder of a ``RobertaEncoder`` and the head of its family.

    Args:
        encoder: Encoder whose embedding is the first hidden state: pooling "first", without projection and
            normalization.
        head: The head.
        activation: See ``CrossEncoder.activation``.

    Raises:
        ValueError: The encoder does not return the first hidden state, or the activation is unknown.
    """

    def __init__(self, encoder: RobertaEncoder, head: ClassificationHead, *, activation: str = "identity") -> None:
        super().__init__()
        if encoder.config.pooling != "first" or encoder.config.projection_dim or encoder.config.normalize:
            raise ValueError("a cross-encoder needs an encoder that pools the first token, without further layers")
        if activation not in ACTIVATIONS:
            raise ValueError(f'activation is "{activation}". Supported are {" and ".join(ACTIVATIONS)}.')
        self.encoder, self.head, self.activation = encoder, head, activation

    @classmethod
    def from_pretrained(cls, folder: str | os.PathLike[str], *, dropout: float | None = None) -> RobertaCrossEncoder:
        """Load a cross-encoder of RoBERTa, XLM-RoBERTa or BERT from a local folder. Nothing is downloaded.

        An encoder without a head gets a new head, with weights from the global random state of PyTorch. Then
        ``is_new_head`` is true. A BERT keeps its pooler.

        Args:
            folder: A folder of ``transformers`` or sentence-transformers.
            dropout: Dropout rate that replaces all saved rates. None keeps them.

        Raises:
            FileNotFoundError: A file is missing.
            ArtifactError: A file is damaged, or a weight is missing, unknown or has another shape.
            UnsupportedModelError: The model or a setting is not supported.
        """
        return cls.from_saved(read_classifier(folder), dropout=dropout)

    @classmethod
    def from_saved(cls, saved: SavedClassifier, *, dropout: float | None = None) -> RobertaCrossEncoder:
        """Build a cross-encoder from saved weights. See ``from_pretrained``."""
        rates: dict[str, Any] = {} if dropout is None else dict.fromkeys(checkpoint.DROPOUTS, dropout)
        try:
            config = RobertaConfig(**(saved.encoder.fields | rates))
        except ValueError as error:
            raise ArtifactError(f"{saved.encoder.fields_path}: {error}") from None
        checkpoint.check_size(saved.encoder, config)
        encoder = RobertaEncoder(config)
        checkpoint.fill_encoder(encoder, saved.encoder)
        rate = saved.dropout if dropout is None else dropout
        model = cls.from_encoder(encoder, rate, activation=saved.activation)
        model.is_new_head = not saved.has_head
        try:
            model.head.load_state_dict(model.head.state_dict() | saved.head)
        except RuntimeError:
            raise ArtifactError(f"{saved.encoder.path}: the head has other shapes than config.json states.") from None
        return model

    @classmethod
    def from_encoder(
        cls, encoder: RobertaEncoder, dropout: float, *, activation: str = "identity"
    ) -> RobertaCrossEncoder:
        """Add a head with random weights to an encoder."""
        drops_input = encoder.config.model_type != "bert"
        model = cls(
            encoder,
            ClassificationHead(encoder.config.hidden_size, dropout, drops_input=drops_input),
            activation=activation,
        )
        model.is_new_head = True
        return model

    def forward(self, tokens: TokenBatch) -> Tensor:
        """Return the scores of N pairs, (N,) float32. See ``CrossEncoder.forward``."""
        hidden = self.encoder(
            tokens.input_ids, tokens.attention_mask, lengths=tokens.lengths, token_types=tokens.token_types
        )
        return self.head(hidden).float()

    @property
    def num_positions(self) -> int:
        """Maximum tokens of a pair that the position table has rows for."""
        return self.encoder.num_positions

    @property
    def num_token_types(self) -> int:
        """Rows of the token type table."""
        return self.encoder.config.num_token_types

    def fit_tokenizer(self, vocab_size: int, pad_token_id: int) -> None:
        """Check that a tokenizer fits the encoder, and use its padding token."""
        self.encoder.fit_tokenizer(vocab_size, pad_token_id)

    def set_activation_checkpointing(self, is_on: bool) -> None:
        """Choose whether the backward pass recomputes activations to save memory."""
        self.encoder.set_activation_checkpointing(is_on)

    def compile_layers(self) -> None:
        """Compile the layers once for all lengths."""
        self.encoder.compile_layers()

    def save_pretrained(self, folder: str | os.PathLike[str]) -> None:
        """Write ``config.json`` and ``model.safetensors``. See ``CrossEncoder.save_pretrained``."""
        save_classifier(
            folder,
            self.encoder.config,
            self.encoder.state_dict(),
            self.head.state_dict(),
            dropout=self.head.dropout.p,
            activation=self.activation,
        )

    def copy_for_inference(self, precision: str) -> RobertaCrossEncoder:
        """Return a copy whose layers compute in another precision. The head stays in float32."""
        if precision not in _PRECISIONS:
            raise UsageError(f'precision is "{precision}". Use one of {", ".join(_PRECISIONS)}.')
        encoder = _PRECISIONS[precision](self.encoder)
        assert isinstance(encoder, RobertaEncoder)
        return RobertaCrossEncoder(encoder, copy.deepcopy(self.head), activation=self.activation).eval()

    def describe(self) -> str:
        """Return the architecture and the library that computes it, in a few words."""
        return f"RobertaEncoder ({self.encoder.config.model_type}) with a classification head"
