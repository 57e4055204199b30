"""Configuration of a RobertaEncoder."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TypedDict

from text.models.encoder import find_prompt

MODEL_TYPES = ("roberta", "xlm-roberta", "bert")
POOLINGS = ("first", "mean")
_SIZES = (
    "vocab_size",
    "hidden_size",
    "num_hidden_layers",
    "num_attention_heads",
    "intermediate_size",
    "max_position_embeddings",
)
_SIZES_OR_NONE = ("projection_dim", "max_seq_length")


@dataclass(frozen=True, kw_only=True)
class RobertaConfig:
    """Sizes and options of an encoder. Fields that Hugging Face's ``config.json`` also has share its names.

    Raises:
        ValueError: A field has an invalid value.
    """

    model_type: str = "roberta"
    """"roberta", "xlm-roberta" or "bert". It decides the format on disk and the first position."""
    vocab_size: int = 50265
    """Entries of the tokenizer."""
    hidden_size: int = 768
    """Hidden size H, a multiple of ``num_attention_heads``."""
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    intermediate_size: int = 3072
    """Width of the feed-forward network."""
    max_position_embeddings: int = 514
    """Rows of the position table. Texts can use all but the first ``first_position`` rows."""
    pad_token_id: int = 1
    """Id of the tokenizer's padding token. The positions of a RoBERTa start after this id."""
    bos_token_id: int | None = 0
    """Id of the token before each text, for ``config.json``. The tokenizer adds the token."""
    eos_token_id: int | None = 2
    """Id of the token after each text, for ``config.json``. The tokenizer adds the token."""
    layer_norm_eps: float = 1e-5
    hidden_dropout_prob: float = 0.1
    attention_probs_dropout_prob: float = 0.1
    pooling: str = "first"
    """"first" takes the first token's last hidden state (DPR), "mean" averages the real tokens'."""
    projection_dim: int | None = None
    """Width of a linear layer after pooling. None adds no layer."""
    projection_norm: bool = True
    """Apply a layer norm after the projection, as in dpr-scale. DPR has none."""
    normalize: bool = False
    """Scale embeddings to length 1."""
    max_seq_length: int | None = None
    """Maximum tokens of a text (sentence-transformers). None leaves the limit of the position table."""
    num_token_types: int = 0
    """Rows of the token type table, for pairs of texts. 0 builds no table: all tokens then have type 0, which is part
    of the position embeddings."""
    prompts: Mapping[str, str] = field(default_factory=dict)
    """Prompts: text to put before each question or passage, by a name such as "query". See ``find_prompt``."""

    def __post_init__(self) -> None:
        for name in (*_SIZES, *(name for name in _SIZES_OR_NONE if getattr(self, name) is not None)):
            if not (type(getattr(self, name)) is int and getattr(self, name) > 0):  # True is also an int.
                raise ValueError(f"{name} is {getattr(self, name)!r}. It must be a positive integer.")
        if not (type(self.num_token_types) is int and self.num_token_types >= 0):
            raise ValueError(f"num_token_types is {self.num_token_types!r}. It must be 0 or a positive integer.")
        if not (type(self.pad_token_id) is int and 0 <= self.pad_token_id < self.vocab_size):
            raise ValueError(f"pad_token_id is {self.pad_token_id!r}. It must be an id below {self.vocab_size}.")
        for name in ("hidden_dropout_prob", "attention_probs_dropout_prob"):
            if not (type(getattr(self, name)) in (int, float) and 0 <= getattr(self, name) <= 1):
                raise ValueError(f"{name} is {getattr(self, name)!r}. It must be a number from 0 to 1.")
        if not (type(self.layer_norm_eps) is float and 0 < self.layer_norm_eps <= 0.1):
            raise ValueError(f"layer_norm_eps is {self.layer_norm_eps!r}. It must be above 0 and at most 0.1.")
        if self.hidden_size % self.num_attention_heads:
            raise ValueError(
                f"hidden_size is {self.hidden_size}. "
                f"It must be a multiple of num_attention_heads, {self.num_attention_heads}."
            )
        if self.max_position_embeddings <= self.first_position:
            raise ValueError(
                f"max_position_embeddings is {self.max_position_embeddings}. It must be above {self.first_position}, "
                "the position of the first token."
            )
        for name, values in (("pooling", POOLINGS), ("model_type", MODEL_TYPES)):
            if getattr(self, name) not in values:
                raise ValueError(f'{name} is "{getattr(self, name)}". Supported are {", ".join(values)}.')

    def find_prompt(self, side: str) -> str:
        """Return the prompt of one side, "question" or "passage". Without a prompt, return ""."""
        return find_prompt(self.prompts, side)

    @property
    def first_position(self) -> int:
        """Position of the first token of a text: 0 in a BERT, and the id of the padding token plus 1 in a RoBERTa."""
        return 0 if self.model_type == "bert" else self.pad_token_id + 1


class RobertaOptions(TypedDict, total=False):
    """Fields of ``RobertaConfig`` as keyword arguments. With it a type checker finds misspelled names."""

    model_type: str
    vocab_size: int
    hidden_size: int
    num_hidden_layers: int
    num_attention_heads: int
    intermediate_size: int
    max_position_embeddings: int
    pad_token_id: int
    bos_token_id: int | None
    eos_token_id: int | None
    layer_norm_eps: float
    hidden_dropout_prob: float
    attention_probs_dropout_prob: float
    pooling: str
    projection_dim: int | None
    projection_norm: bool
    normalize: bool
    max_seq_length: int | None
    num_token_types: int
    prompts: Mapping[str, str]
