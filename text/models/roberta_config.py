"""The sizes and options of a RobertaEncoder."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TypedDict

MODEL_TYPES = ("roberta", "xlm-roberta", "bert")
POOLINGS = ("first", "mean")
PROMPT_NAMES = {"question": ("query",), "passage": ("document", "passage", "corpus")}
"""Names of the prompts of each side in sentence-transformers; the first one that a model has counts."""
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
    """Sizes and options of an encoder; names as in Hugging Face's ``config.json`` where it has them."""

    model_type: str = "roberta"
    """"roberta", "xlm-roberta" or "bert": whose form it has on disk, and where positions start."""
    vocab_size: int = 50265
    """Entries of the tokenizer."""
    hidden_size: int = 768
    """H, a multiple of ``num_attention_heads``."""
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    intermediate_size: int = 3072
    """Width of the feed-forward part."""
    max_position_embeddings: int = 514
    """Rows of the position table; a text may have ``first_position`` tokens fewer."""
    pad_token_id: int = 1
    """The tokenizer's padding token. RoBERTa's positions start behind its id."""
    bos_token_id: int | None = 0
    """The token before each text, a record for ``config.json``: the tokenizer puts it there."""
    eos_token_id: int | None = 2
    """The token behind each text, likewise."""
    layer_norm_eps: float = 1e-5
    hidden_dropout_prob: float = 0.1
    attention_probs_dropout_prob: float = 0.1
    pooling: str = "first"
    """"first" takes the first token's last hidden state (DPR), "mean" averages the real tokens'."""
    projection_dim: int | None = None
    """Adds a linear layer of this width after pooling."""
    projection_norm: bool = True
    """Whether a layer norm follows the projection (dpr-scale) or nothing (DPR)."""
    normalize: bool = False
    """Scales embeddings to length 1."""
    max_seq_length: int | None = None
    """Most tokens of a text, where that is fewer than the position table allows (sentence-transformers)."""
    prompts: Mapping[str, str] = field(default_factory=dict)
    """Text to put before each text, by kind of text such as "query". ``find_prompt`` looks it up."""

    def __post_init__(self) -> None:
        for name in (*_SIZES, *(name for name in _SIZES_OR_NONE if getattr(self, name) is not None)):
            if not (type(getattr(self, name)) is int and getattr(self, name) > 0):  # True is an int, too
                raise ValueError(f"{name} is {getattr(self, name)!r}; expected a positive integer")
        if not (type(self.pad_token_id) is int and 0 <= self.pad_token_id < self.vocab_size):
            raise ValueError(f"pad_token_id is {self.pad_token_id!r}; expected an id below {self.vocab_size}")
        for name in ("hidden_dropout_prob", "attention_probs_dropout_prob"):
            if not (type(getattr(self, name)) in (int, float) and 0 <= getattr(self, name) <= 1):
                raise ValueError(f"{name} is {getattr(self, name)!r}; expected a number from 0 to 1")
        if not (type(self.layer_norm_eps) is float and 0 < self.layer_norm_eps <= 0.1):
            raise ValueError(f"layer_norm_eps is {self.layer_norm_eps!r}; expected a number above 0 and at most 0.1")
        if self.hidden_size % self.num_attention_heads:
            raise ValueError(
                f"hidden_size is {self.hidden_size}; "
                f"expected a multiple of num_attention_heads {self.num_attention_heads}"
            )
        if self.max_position_embeddings <= self.first_position:
            raise ValueError(
                f"max_position_embeddings is {self.max_position_embeddings}; expected more than the "
                f"{self.first_position} positions that no token has"
            )
        for name, values in (("pooling", POOLINGS), ("model_type", MODEL_TYPES)):
            if getattr(self, name) not in values:
                raise ValueError(f'{name} is "{getattr(self, name)}"; expected one of {", ".join(values)}')

    def find_prompt(self, side: str) -> str:
        """Return the text before every "question" or "passage"; "" if the model has none."""
        return next((self.prompts[name] for name in PROMPT_NAMES[side] if name in self.prompts), "")

    @property
    def first_position(self) -> int:
        """Position of a text's first token: BERT counts from 0, RoBERTa from behind its padding token's id."""
        return 0 if self.model_type == "bert" else self.pad_token_id + 1


class RobertaOptions(TypedDict, total=False):
    """The fields of ``RobertaConfig`` as keywords, so that a type checker finds a misspelled one."""

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
    prompts: Mapping[str, str]
