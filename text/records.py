"""The nouns that all parts exchange: data without behaviour.

Dimensions: B questions; P passages; K known positives of one question; L tokens.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from torch import Tensor


class Passage(NamedTuple):
    """A unit of the corpus."""

    passage_id: str
    """Identity in the corpus; empty where the data gives none."""
    title: str
    """Empty where the data gives none."""
    text: str


class Example(NamedTuple):
    """A question with the passages that one step uses."""

    question: str
    answers: list[str]
    positives: list[Passage]
    """All known positives; the first one is what the step trains towards."""
    hard_negatives: list[Passage]
    """Retrieved but wrong."""
    other_negatives: list[Passage]
    """Random passages of the corpus."""


class TokenBatch(NamedTuple):
    """Texts as an encoder takes them, one row a text."""

    input_ids: Tensor
    """(N, L) int64, padded on the right."""
    attention_mask: Tensor
    """(N, L) bool, True marks a real token."""
    truncated: Tensor
    """(N,) bool, True where the text was longer than the limit."""
    empty: Tensor
    """(N,) bool, True where the text has no token besides the special ones."""


class BiEncoderBatch(NamedTuple):
    """B questions, P passages, and who answers whom."""

    questions: TokenBatch
    passages: TokenBatch
    positive_index: Tensor
    """(B,) int64, the row of ``passages`` that answers each question."""
    ignore: Tensor
    """(B, P) bool, True where a passage must not count as a negative of that question."""
    passage_keys: Tensor
    """(P, 2) int64, identity of each passage: by id, by text."""
    known_positives: Tensor
    """(B, K, 2) int64, the keys of every known positive of each question."""
    counts: dict[str, int]
    """What was truncated or left out of this batch, by reason."""
