"""Collation of Examples into one BiEncoderBatch.

Only this module decides the layout of a batch. The passages are grouped by question: positives, hard negatives, other
negatives. The functions for known positives work on any set of passages: one batch, all ranks, or an evaluation. Two
passages are the same if their ids are equal, or if their titles and texts are equal.

Dimensions: B questions; P passages; T unique texts of the passages; K known positives of a question; M keys.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from text.records import BiEncoderBatch, Example, Passage, TokenBatch, TokenizedExample
from text.transforms.layout import Text
from text.transforms.titles import title_and_text

Transform = Callable[[Sequence[Text | tuple[Text, Text]]], TokenBatch]


class StoredEmbeddings(NamedTuple):
    """Lookups of embeddings to put into each batch, by the field of the batch. None leaves the field out."""

    question_targets: Callable[[Sequence[str]], np.ndarray] | None = None
    """Function from N questions to a teacher's (N, D) float32 embeddings."""
    passage_targets: Callable[[np.ndarray], np.ndarray] | None = None
    """Function from the (N,) int64 keys of N passages by id to a teacher's (N, D) float32 embeddings."""
    passage_embeddings: Callable[[np.ndarray], np.ndarray] | None = None
    """Like ``passage_targets``, for passages that are not encoded in training."""


class BiEncoderCollator:
    """Collate function that tokenizes a batch and records which passages answer which questions.

    Args:
        question_transform: Transform from questions to tokens, such as a ``Tokenize``.
        passage_transform: Transform from (title, text) pairs to tokens, such as a ``Tokenize``.
        num_positives: Maximum number of positives per question to put into the batch.
        titles: "pair" or "join" (``title_and_text``).
        stored: Lookups of embeddings to put into the batch. Lookups of questions need the texts, so they
            cannot be used with a token cache.

    Raises:
        ValueError: ``num_positives`` is below 1.

    >>> from text.records import Passage
    >>> from text.transforms import Tokenize, train_tokenizer
    >>> tokenize = Tokenize(train_tokenizer(["who ate the oak"], vocab_size=300), max_length=64)
    >>> example = Example("who ate the oak", [], [Passage("1", "", "a beetle")], [Passage("2", "", "nobody")], [])
    >>> batch = BiEncoderCollator(tokenize, tokenize)([example, example])
    >>> batch.positive_index.tolist(), batch.owner.tolist(), batch.text_index.tolist()
    ([0, 2], [0, 0, 1, 1], [0, 1, 0, 1])
    """

    def __init__(
        self,
        question_transform: Transform,
        passage_transform: Transform,
        num_positives: int = 1,
        *,
        titles: str = "pair",
        stored: StoredEmbeddings | None = None,
    ) -> None:
        if num_positives < 1:
            raise ValueError(f"num_positives is {num_positives}; expected 1 or more")
        self.question_transform = question_transform
        self.passage_transform = passage_transform
        self.num_positives = num_positives
        self.titles = titles
        self.stored = stored or StoredEmbeddings()

    def __call__(self, examples: Sequence[Example] | Sequence[TokenizedExample]) -> BiEncoderBatch:
        """Build one batch.

        Passages and questions without tokens are dropped. If a dropped passage is the positive, its question is dropped
        too. ``counts`` in the batch holds both numbers. If no question remains, the batch is empty. A batch without
        examples, which some ranks get at the end of an epoch, is empty too.
        """
        if not examples:
            return self._build_empty_batch(num_questions=0, num_passages=0)
        groups = [
            [*example.positives[: self.num_positives], *example.hard_negatives, *example.other_negatives]
            for example in examples
        ]
        passages = [passage for group in groups for passage in group]
        sizes = np.array([len(group) for group in groups])
        owner = np.repeat(np.arange(len(groups)), sizes)  # (P,)
        questions = self.question_transform([example.question for example in examples])
        pairs, text_index = _deduplicate([title_and_text(passage, self.titles) for passage in passages])
        texts = self.passage_transform(pairs)
        is_empty = texts.empty.numpy()[text_index]  # (P,)

        is_positive = np.zeros(len(passages), dtype=bool)
        is_positive[np.cumsum(sizes) - sizes] = True  # The first passage of each group is the positive.
        keep_question = ~questions.empty.numpy() & ~is_empty[is_positive]
        keep_passage = ~is_empty & keep_question[owner]
        if not keep_question.any():
            return self._build_empty_batch(num_questions=len(examples), num_passages=len(passages))
        kept_texts, text_index = np.unique(text_index[keep_passage], return_inverse=True)
        questions, texts = _select(questions, keep_question), _select(texts, np.isin(np.arange(len(pairs)), kept_texts))
        passage_keys, known_positives = _get_keys(examples, self.num_positives)
        return BiEncoderBatch(
            questions=questions,
            passages=texts,
            text_index=torch.from_numpy(text_index),
            positive_index=torch.from_numpy(np.flatnonzero(is_positive[keep_passage])),
            owner=torch.from_numpy((np.cumsum(keep_question) - 1)[owner[keep_passage]]),
            passage_keys=torch.from_numpy(passage_keys[keep_passage]),
            known_positives=torch.from_numpy(known_positives[keep_question]),
            scores=torch.from_numpy(np.array([passage.score for passage in passages], dtype=np.float32)[keep_passage]),
            sources=torch.from_numpy(np.array([example.source for example in examples])[keep_question]),
            rows=torch.from_numpy(np.array([example.row for example in examples])[keep_question]),
            counts={
                "questions left out, no tokens": int(len(keep_question) - keep_question.sum()),
                "passages left out, no tokens": int(len(keep_passage) - keep_passage.sum()),
            },
            **self._read_stored(
                [example.question for example, keep in zip(examples, keep_question, strict=True) if keep],
                passage_keys[keep_passage, 0],
            ),
        )

    def find_empty_questions(self, questions: Sequence[str]) -> np.ndarray:
        """Return a mask of the questions without tokens, (N,) bool. The prompt's tokens are not counted."""
        return self.question_transform(questions).empty.numpy()

    def find_empty_passages(self, passages: Sequence[Passage]) -> np.ndarray:
        """Return a mask of the passages without tokens, (N,) bool. The prompt's tokens are not counted."""
        pairs = [title_and_text(passage, self.titles) for passage in passages]
        return self.passage_transform(pairs).empty.numpy()

    def _read_stored(self, questions: Sequence[Text], keys: np.ndarray) -> dict[str, Tensor]:
        """Return the stored embeddings, (B, D) or (P, D), by the field of the batch."""
        lookups: dict[str, Callable[..., np.ndarray] | None] = self.stored._asdict()
        return {
            name: torch.from_numpy(read(questions if name == "question_targets" else keys))
            for name, read in lookups.items()
            if read is not None
        }

    def _build_empty_batch(self, *, num_questions: int, num_passages: int) -> BiEncoderBatch:
        empty = _build_empty_batch(num_questions=num_questions, num_passages=num_passages)
        return empty._replace(**self._read_stored([], np.zeros(0, dtype=np.int64)))


def known_positive_mask(known_positives: Tensor, passage_keys: Tensor, positive_index: Tensor) -> Tensor:
    """Return a mask of the known positives of each question, except its own positive.

    Args:
        known_positives: (B, K, 2) int64, keys of each question's known positives.
        passage_keys: (P, 2) int64, keys of the passages to compare with.
        positive_index: (B,) int64, each question's own positive, which is not masked.

    Returns:
        (B, P) bool. True marks a passage that must not be used as a negative of the question.
    """
    return match_known_positives(known_positives, passage_keys).scatter(1, positive_index[:, None], False)


def match_known_positives(known_positives: Tensor, passage_keys: Tensor) -> Tensor:
    """Return a mask of the known positives of each question, including its own positive.

    Args:
        known_positives: (B, K, 2) int64, keys of each question's known positives.
        passage_keys: (P, 2) int64, keys of the passages to compare with.

    Returns:
        (B, P) bool.
    """
    num_questions, num_known = known_positives.shape[:2]
    rows = torch.arange(num_questions, device=known_positives.device)[:, None].expand(-1, num_known)
    return match_keys(rows.flatten(), known_positives.flatten(0, 1), passage_keys, num_questions)


def match_keys(rows: Tensor, keys: Tensor, passage_keys: Tensor, num_rows: int) -> Tensor:
    """Return a mask of the passages that have one of the keys of a row.

    The shapes of all intermediate tensors are known before their values, so the host does not wait for a GPU.

    Args:
        rows: (M,) int64, the row of each key, from 0 to ``num_rows``. Keys of row ``num_rows`` are ignored.
        keys: (M, 2) int64, keys of passages, by id and by content.
        passage_keys: (P, 2) int64, keys of the passages to compare with.
        num_rows: Rows of the mask.

    Returns:
        (num_rows, P) bool. True if the ids or the contents are equal.
    """
    num_passages = len(passage_keys)
    mask = torch.zeros(num_rows, num_passages, dtype=torch.bool, device=passage_keys.device)
    if not num_passages:
        return mask
    for wanted, present in zip(keys.T.contiguous(), passage_keys.T.contiguous(), strict=True):
        ordered = present.sort().values
        first = torch.searchsorted(ordered, present)  # (P,) the same number for equal keys
        place = torch.searchsorted(ordered, wanted).clamp(max=num_passages - 1)  # (M,)
        place = place.masked_fill(ordered[place] != wanted, num_passages)  # the last column of ``found`` is ignored
        found = mask.new_zeros(num_rows + 1, num_passages + 1)
        found.view(-1).scatter_(0, rows * (num_passages + 1) + place, True)
        mask |= found[:num_rows].gather(1, first.expand(num_rows, -1))
    return mask


def _get_keys(
    examples: Sequence[Example] | Sequence[TokenizedExample], num_positives: int
) -> tuple[np.ndarray, np.ndarray]:
    """Return the keys of the passages, (P, 2), and the known positives, (B, K, 2), padded with the first positive."""
    positives = [[passage.keys for passage in example.positives] for example in examples]
    negatives = [
        [passage.keys for passage in (*example.hard_negatives, *example.other_negatives)] for example in examples
    ]
    passages = [
        keys for own, others in zip(positives, negatives, strict=True) for keys in (*own[:num_positives], *others)
    ]
    for own, example in zip(positives, examples, strict=True):
        if example.same_question_positives is not None:
            own += example.same_question_positives
    most = max(map(len, positives))
    known = [own + [own[0]] * (most - len(own)) for own in positives]
    return np.array(passages), np.array(known)


def _deduplicate(pairs: Sequence[tuple[Text, Text]]) -> tuple[list[tuple[Text, Text]], np.ndarray]:
    """Return the T unique pairs, in order, and the (P,) index of each pair among them."""
    names = [tuple(part if isinstance(part, str) else part.tobytes() for part in pair) for pair in pairs]
    unique = dict(zip(names, pairs, strict=True))
    indices = {name: index for index, name in enumerate(unique)}
    return list(unique.values()), np.array([indices[name] for name in names])


def _select(tokens: TokenBatch, keep: np.ndarray) -> TokenBatch:
    if keep.all():
        return tokens
    tensors = (field[torch.from_numpy(keep)] for field in tokens[:4])
    return TokenBatch(*tensors, lengths=tokens.lengths[keep], prompt_length=tokens.prompt_length)


def _build_empty_batch(*, num_questions: int, num_passages: int) -> BiEncoderBatch:
    """Return a batch without questions and passages. Its counts hold the numbers of dropped ones."""
    nothing = torch.zeros(0, 1, dtype=torch.bool)
    tokens = TokenBatch(
        torch.zeros(0, 1, dtype=torch.int64), nothing, nothing[:, 0], nothing[:, 0], lengths=np.zeros(0, dtype=np.int64)
    )
    indices = torch.zeros(0, dtype=torch.int64)
    return BiEncoderBatch(
        questions=tokens,
        passages=tokens,
        text_index=indices,
        positive_index=indices,
        owner=indices,
        passage_keys=torch.zeros(0, 2, dtype=torch.int64),
        known_positives=torch.zeros(0, 1, 2, dtype=torch.int64),
        scores=torch.zeros(0),
        sources=indices,
        rows=indices,
        counts={"questions left out, no tokens": num_questions, "passages left out, no tokens": num_passages},
    )
