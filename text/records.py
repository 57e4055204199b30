"""Data types that the packages exchange.

Dimensions: B questions; P passages; T distinct passage texts; K known positives of one question; N texts; L tokens.
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
    """Id in the corpus. Empty if the data contains none."""
    title: str
    """Title. Empty if the data contains none."""
    text: str
    score: float | None = None
    """Score of a guide or teacher model for this passage and the question of its row. Larger is better."""

    @property
    def keys(self) -> tuple[int, int]:
        """Keys of the passage by id and by content (title and text), hashed to 64 bits each.

        A passage without an id is identified by its content only. A text under two titles counts as two passages.
        """
        content = hash_text(f"{len(self.title)} {self.title}{self.text}")
        # The prefix distinguishes an id from content that equals it.
        return hash_text(f"id {self.passage_id}") if self.passage_id else content, content


class TokenizedPassage(NamedTuple):
    """A passage from a token cache."""

    keys: tuple[int, int]
    """Keys of the original passage."""
    title: np.ndarray
    """Token ids of the title, without special tokens."""
    text: np.ndarray
    """Token ids of the text, without special tokens."""
    score: None = None
    """Always None, because a token cache does not store scores."""


class Example(NamedTuple):
    """A question and the passages that one training step uses."""

    question: str
    answers: list[str]
    positives: list[Passage]
    """All known positives. The first one is the training target."""
    hard_negatives: list[Passage]
    """Passages that a retriever found but that do not answer the question."""
    other_negatives: list[Passage]
    """Random passages from the corpus."""
    source: int = 0
    """Number of the data set that the question comes from."""
    row: int = 0
    """Number of the row in that data set, counted from 0."""
    same_question_positives: list[tuple[int, int]] | None = None
    """Keys of the positives of all rows with this question, if there are several. They are never negatives."""


class TokenizedExample(NamedTuple):
    """An example from a token cache, which does not store answers."""

    question: np.ndarray
    """Token ids of the question, without special tokens."""
    positives: list[TokenizedPassage]
    hard_negatives: list[TokenizedPassage]
    other_negatives: list[TokenizedPassage]
    source: int
    row: int
    same_question_positives: list[tuple[int, int]] | None = None


class TokenBatch(NamedTuple):
    """A batch of tokenized texts, the input of an encoder."""

    input_ids: Tensor
    """(N, L) int64, padded on the right."""
    attention_mask: Tensor
    """(N, L) bool. True marks a real token."""
    truncated: Tensor
    """(N,) bool. True if the text was truncated."""
    empty: Tensor
    """(N,) bool. True if the text has only special tokens."""
    lengths: np.ndarray
    """(N,) int64. Number of tokens of each text. They stay on the host when a batch moves to a GPU, so that nobody has
    to wait for the GPU to count them."""
    prompt_length: int = 0
    """Number of tokens of the prompt at the start of each text, with the special tokens before it. Encoders that pool
    the other tokens only (``include_prompt: false`` in sentence-transformers) need it."""
    token_types: Tensor | None = None
    """(N, L) int64. Segment of each token of a pair: 0 for the question, 1 for the passage (BERT's token_type_ids).
    None if all tokens are of type 0."""


class BiEncoderBatch(NamedTuple):
    """A training batch: questions, passages, and the positive of each question.

    If the rows of several questions contain the same passage, each occurrence counts as one of the P passages. Its text
    is embedded only once.
    """

    questions: TokenBatch
    passages: TokenBatch
    """T distinct passage texts."""
    text_index: Tensor
    """(P,) int64. Row of ``passages`` that contains the text of each passage."""
    positive_index: Tensor
    """(B,) int64. Positive passage of each question, as an index into the P passages."""
    owner: Tensor
    """(P,) int64. Question whose row contains each passage."""
    passage_keys: Tensor
    """(P, 2) int64. Keys of each passage, by id and by content. See ``Passage.keys``."""
    known_positives: Tensor
    """(B, K, 2) int64. Keys of the known positives of each question. They are never its negatives."""
    scores: Tensor
    """(P,) float32. Score of a guide or teacher model for each passage and its owner. NaN if there is none."""
    sources: Tensor
    """(B,) int64. Number of the data set that each question comes from."""
    rows: Tensor
    """(B,) int64. Number of each question's row in that data set."""
    counts: dict[str, int]
    """Number of texts that were left out of this batch, by reason."""
    question_targets: Tensor | None = None
    """(B, D) float32. A teacher's embedding of each question. None without a teacher of questions."""
    passage_targets: Tensor | None = None
    """(P, D) float32. A teacher's embedding of each passage. None without a teacher of passages."""
    passage_embeddings: Tensor | None = None
    """(P, D) float32. Existing embeddings of the passages, which are then not encoded. None if they are encoded."""

    @property
    def texts(self) -> dict[str, TokenBatch]:
        """The tokens of the batch by their name in the metrics."""
        return {"questions": self.questions, "passages": self.passages}


class CrossEncoderBatch(NamedTuple):
    """A batch of a cross-encoder: questions, each paired with the passages of its own row.

    The pairs are grouped by question, and each group starts with the positive. Passages that are known to answer a
    question are never its negatives.
    """

    pairs: TokenBatch
    """P pairs of a question and a passage."""
    pair_index: Tensor
    """(B, K) int64. Pairs of each question, the positive first, padded with -1."""
    positive_index: Tensor
    """(B,) int64. Positive pair of each question, as an index into the P pairs."""
    owner: Tensor
    """(P,) int64. Question of each pair."""
    passage_keys: Tensor
    """(P, 2) int64. Keys of the passage of each pair, by id and by content. See ``Passage.keys``."""
    scores: Tensor
    """(P,) float32. Score of a guide or teacher model for each pair. NaN if there is none."""
    sources: Tensor
    """(B,) int64. Number of the data set that each question comes from."""
    rows: Tensor
    """(B,) int64. Number of each question's row in that data set."""
    counts: dict[str, int]
    """Number of questions and pairs that were left out of this batch, by reason."""

    @property
    def texts(self) -> dict[str, TokenBatch]:
        """The tokens of the batch by their name in the metrics."""
        return {"pairs": self.pairs}


TrainingBatch = BiEncoderBatch | CrossEncoderBatch
"""A batch of a training run."""


def hash_question(question: str) -> int:
    """Return the 64-bit hash of a question.

    The hash ignores case, white space and the Unicode form (NFC or NFD), but not punctuation.

    >>> hash_question("Who ate  the oak?") == hash_question("who ate the oak? ")
    True
    >>> hash_question("who ate the oak?") == hash_question("who ate the oak")
    False
    """
    composed = question if question.isascii() else unicodedata.normalize("NFC", question)
    return hash_text(" ".join(composed.casefold().split()))


def make_question_id(question: str) -> str:
    """Return the id of a question that is encoded without an id: a hash of its exact text.

    >>> make_question_id("who ate the oak?")
    '3f0d2adf8a1123e3'
    """
    return f"{hash_text(question) & (1 << 64) - 1:016x}"


def hash_text(value: str) -> int:
    """Return the 64-bit hash of a text."""
    return int.from_bytes(blake2b(value.encode(), digest_size=8).digest(), "big", signed=True)
