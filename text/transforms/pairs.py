"""Collation of Examples into one CrossEncoderBatch.

Only this module decides the layout of a batch. The pairs are grouped by question: its positive, hard negatives, and
other negatives. Two passages are the same if their ids are equal, or if their titles and texts are equal.

Dimensions: B questions; P pairs; K pairs of the question with most pairs.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from text.records import CrossEncoderBatch, Example, Passage, TokenBatch
from text.transforms.tokenize_pairs import TokenizePairs, question_and_passage


class CrossEncoderCollator:
    """Collate function that pairs each question of a batch with the passages of its row, and tokenizes the pairs.

    The first positive of a row is the target. Its other positives are left out, even if this row or another row of the
    same question lists them as negatives.

    Args:
        transform: Transform from (question, passage text) pairs to tokens.

    >>> from text.transforms import train_tokenizer
    >>> collate = CrossEncoderCollator(TokenizePairs(train_tokenizer(["who ate the oak"], vocab_size=300), 64))
    >>> example = Example("who ate the oak", [], [Passage("1", "", "a beetle")], [Passage("2", "", "nobody")], [])
    >>> batch = collate([example, example])
    >>> batch.positive_index.tolist(), batch.owner.tolist(), batch.pair_index.tolist()
    ([0, 2], [0, 0, 1, 1], [[0, 1], [2, 3]])
    """

    def __init__(self, transform: TokenizePairs) -> None:
        self.transform = transform

    def __call__(self, examples: Sequence[Example]) -> CrossEncoderBatch:
        """Build one batch.

        Pairs whose question or passage has no tokens are dropped. If the pair of the positive is dropped, its question
        is dropped too. ``counts`` in the batch holds both numbers. A batch without examples, which some ranks get at
        the end of an epoch, is empty.
        """
        groups = [list_candidates(example) for example in examples]
        pairs = [
            question_and_passage(example.question, passage)
            for example, group in zip(examples, groups, strict=True)
            for passage in group
        ]
        tokens = self.transform(pairs) if pairs else _build_no_tokens()
        is_empty = np.split(tokens.empty.numpy(), np.cumsum([len(group) for group in groups])[:-1])
        kept = [~empty if not empty[0] else np.zeros_like(empty) for empty in is_empty if len(empty)]
        keep = np.concatenate([np.zeros(0, dtype=bool), *kept])  # (P before,)
        has_question = np.array([bool(each.any()) for each in kept], dtype=bool)
        sizes = np.array([each.sum() for each in kept], dtype=np.int64)[has_question]  # (B,)
        passages = [passage for passage, is_kept in zip((p for g in groups for p in g), keep, strict=True) if is_kept]
        chosen = [example for example, is_kept in zip(examples, has_question, strict=True) if is_kept]
        pair_index = _build_index(sizes)
        return CrossEncoderBatch(
            pairs=_select(tokens, keep),
            pair_index=torch.from_numpy(pair_index),
            positive_index=torch.from_numpy(pair_index[:, 0].copy()),
            owner=torch.from_numpy(np.repeat(np.arange(len(sizes)), sizes)),
            passage_keys=torch.tensor([passage.keys for passage in passages], dtype=torch.int64).reshape(-1, 2),
            scores=torch.from_numpy(np.array([passage.score for passage in passages], dtype=np.float32)),
            sources=torch.tensor([example.source for example in chosen], dtype=torch.int64),
            rows=torch.tensor([example.row for example in chosen], dtype=torch.int64),
            counts={
                "questions left out, no tokens": len(examples) - len(chosen),
                "pairs left out, no tokens": len(pairs) - len(passages),
            },
        )

    def find_empty_questions(self, questions: Sequence[str]) -> np.ndarray:
        """Return a mask of the questions without tokens, (N,) bool."""
        return np.array([not len(ids) for ids in self.transform.encode(questions)])

    def find_empty_passages(self, passages: Sequence[Passage]) -> np.ndarray:
        """Return a mask of the passages without tokens, (N,) bool."""
        texts = [str(question_and_passage("", passage)[1]) for passage in passages]
        return np.array([not len(ids) for ids in self.transform.encode(texts)])


def list_candidates(example: Example) -> list[Passage]:
    """Return the passages with which a question is paired: its first positive, then its negatives.

    A negative that is a known positive of the question is left out.
    """
    known = {key for passage in example.positives for key in passage.keys}
    known |= {key for keys in example.same_question_positives or () for key in keys}
    negatives = (*example.hard_negatives, *example.other_negatives)
    return [example.positives[0], *(passage for passage in negatives if not known & set(passage.keys))]


def _build_index(sizes: np.ndarray) -> np.ndarray:
    """Return the pairs of each question, (B, K) int64, padded with -1, from the (B,) numbers of pairs."""
    columns = np.arange(max(1, sizes.max(initial=0)))
    first = np.cumsum(sizes) - sizes
    return np.where(columns < sizes[:, None], first[:, None] + columns, -1)


def _select(tokens: TokenBatch, keep: np.ndarray) -> TokenBatch:
    if keep.all():
        return tokens
    rows = torch.from_numpy(keep)
    types = None if tokens.token_types is None else tokens.token_types[rows]
    return TokenBatch(*(field[rows] for field in tokens[:4]), lengths=tokens.lengths[keep], token_types=types)


def _build_no_tokens() -> TokenBatch:
    nothing = torch.zeros(0, 1, dtype=torch.bool)
    return TokenBatch(nothing.long(), nothing, nothing[:, 0], nothing[:, 0], lengths=np.zeros(0, dtype=np.int64))
