"""The nouns that all parts exchange: data without behaviour.

Dimensions: B questions; P passages; K known positives of one question; L tokens.
"""

from __future__ import annotations

import unicodedata
from hashlib import blake2b
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor


class Passage(NamedTuple):
    """A unit of the corpus."""

    passage_id: str
    """Identity in the corpus; empty where the data gives none."""
    title: str
    """Empty where the data gives none."""
    text: str
    score: float | None = None
    """A guide's or teacher's, of this passage for the question of its row; larger is better."""

    @property
    def keys(self) -> tuple[int, int]:
        """Identity by id and by content (title and text), hashed to 64 bits each.

        A passage without id is known by its content alone. One text under two titles is two passages.
        """
        content = hash_text(f"{len(self.title)} {self.title}{self.text}")
        # The prefix keeps an id apart from a content that reads like it.
        return hash_text(f"id {self.passage_id}") if self.passage_id else content, content


class TokenizedPassage(NamedTuple):
    """A passage out of a token cache."""

    keys: tuple[int, int]
    """Keys of the Passage that it was made from."""
    title: np.ndarray
    """Ids of its tokens, without special ones."""
    text: np.ndarray
    """Likewise."""
    score: None = None
    """Not kept there."""


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
    source: int = 0
    """Which of several data sets the question comes from."""
    row: int = 0
    """Its number in that, counted from 0."""
    same_question_positives: list[tuple[int, int]] | None = None
    """Keys of the positives of all rows that ask this question, if other rows do. None of these is a negative."""


class TokenizedExample(NamedTuple):
    """An Example out of a token cache; answers are not kept there."""

    question: np.ndarray
    """Ids of its tokens, without special ones."""
    positives: list[TokenizedPassage]
    hard_negatives: list[TokenizedPassage]
    other_negatives: list[TokenizedPassage]
    source: int
    row: int
    same_question_positives: list[tuple[int, int]] | None = None


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
    """B questions, P passages, and who answers whom.

    A passage may stand in the rows of several questions. Each counts as one of the P; its text is embedded once.
    """

    questions: TokenBatch
    passages: TokenBatch
    """T different ones."""
    text_index: Tensor
    """(P,) int64, the row of ``passages`` that holds each passage."""
    positive_index: Tensor
    """(B,) int64, the passage that answers each question."""
    owner: Tensor
    """(P,) int64, the question in whose row each passage stands."""
    passage_keys: Tensor
    """(P, 2) int64, identity of each passage: by id, by title and text."""
    known_positives: Tensor
    """(B, K, 2) int64, the keys of every known positive of each question: none of these is a negative of it."""
    scores: Tensor
    """(P,) float32, a guide's or teacher's score of each passage for its owner; NaN where there is none."""
    sources: Tensor
    """(B,) int64, which of several data sets each question comes from."""
    rows: Tensor
    """(B,) int64, the number of each question's row in that."""
    counts: dict[str, int]
    """Texts left out of this batch, by reason."""


def hash_question(question: str) -> int:
    """Return the identity of a question, hashed to 64 bits.

    Case, white space and the Unicode form (NFC or NFD) make no difference. Punctuation does.

    >>> hash_question("Who ate  the oak?") == hash_question("who ate the oak? ")
    True
    >>> hash_question("who ate the oak?") == hash_question("who ate the oak")
    False
    """
    composed = question if question.isascii() else unicodedata.normalize("NFC", question)
    return hash_text(" ".join(composed.casefold().split()))


def hash_text(value: str) -> int:
    """A text's identity, hashed to 64 bits."""
    return int.from_bytes(blake2b(value.encode(), digest_size=8).digest(), "big", signed=True)
