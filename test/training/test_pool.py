"""Ranks in a pool of several batches, by hand and compared with a plain loop."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch

from text.records import BiEncoderBatch, Example, Passage, TokenBatch
from text.training import PassagePool
from text.training.pool import PooledPassage
from text.transforms import BiEncoderCollator

NO_TOKENS = TokenBatch(*(torch.empty(0) for _ in range(4)), lengths=np.zeros(0, dtype=np.int64))


def find_no_tokens(texts: Sequence[Any]) -> TokenBatch:
    """Return a TokenBatch in which no text has tokens."""
    size = len(texts)
    return TokenBatch(
        torch.zeros(size, 1, dtype=torch.int64),
        torch.zeros(size, 1, dtype=torch.bool),
        torch.zeros(size, dtype=torch.bool),
        torch.ones(size, dtype=torch.bool),
        np.zeros(size, dtype=np.int64),
    )


def batch(
    positive_index: list[int],
    passage_keys: list[int],
    known_positives: list[list[int]],
    owner: list[int] | None = None,
    first_row: int = 0,
) -> BiEncoderBatch:
    """Return a batch with the fields that a pool reads. Both keys of a passage are the same number."""
    keys = torch.tensor(passage_keys)
    return BiEncoderBatch(
        questions=NO_TOKENS,
        passages=NO_TOKENS,
        text_index=torch.arange(len(passage_keys)),
        positive_index=torch.tensor(positive_index),
        owner=torch.zeros(len(passage_keys), dtype=torch.int64) if owner is None else torch.tensor(owner),
        passage_keys=torch.stack([keys, keys], dim=1),
        known_positives=torch.tensor(known_positives)[:, :, None].expand(-1, -1, 2),
        scores=torch.full((len(passage_keys),), torch.nan),
        sources=torch.zeros(len(positive_index), dtype=torch.int64),
        rows=torch.arange(len(positive_index)) + first_row,
        counts={},
    )


def test_ranks_count_passages_of_other_batches() -> None:
    # Each batch has one question. In one dimension, the embedding of a passage is its score.
    pool = PassagePool()
    pool.add(batch([0], [1, 2], [[1]]), torch.tensor([[1.0]]), torch.tensor([[3.0], [1.0]]))
    pool.add(batch([1], [3, 4], [[4]]), torch.tensor([[1.0]]), torch.tensor([[5.0], [2.0]]))
    # The scores are 3, 1, 5 and 2: 5 is above the first positive (3), and 3 and 5 are above the second (2).
    assert pool.compute_ranks().tolist() == [1, 2]
    assert pool.num_passages == 4
    metrics = pool.compute_metrics()
    assert metrics["average_rank"] == 1.5
    assert metrics["mrr@10"] == pytest.approx((1 / 2 + 1 / 3) / 2)
    assert (metrics["recall@1"], metrics["recall@5"]) == (0.0, 1.0)


def test_a_known_positive_in_another_batch_does_not_count() -> None:
    pool = PassagePool()
    # Passage 9 has the highest score. It is a known positive of the first question only.
    pool.add(batch([0], [1], [[1, 9]]), torch.tensor([[1.0]]), torch.tensor([[1.0]]))
    pool.add(batch([0], [2, 9], [[2]]), torch.tensor([[1.0]]), torch.tensor([[2.0], [7.0]]))
    assert pool.compute_ranks().tolist() == [
        1,
        1,
    ]  # only passage 2 is above the first positive, and passage 9 above the second


@pytest.mark.parametrize("similarity", ["dot", "cosine"])
@pytest.mark.parametrize("sizes", [[12], [5, 7], [1] * 12, [3, 1, 8]])
def test_any_split_into_batches_gives_the_ranks_of_a_sort(sizes: list[int], similarity: str) -> None:
    random = torch.Generator().manual_seed(0)
    questions = torch.randn(12, 4, generator=random)
    passages = torch.randn(36, 4, generator=random)  # three per question, positive first
    passages[20] = passages[0]  # a tie
    keys = torch.randint(30, (36,), generator=random)  # some passages occur in several rows
    pool, start = PassagePool(similarity), 0
    for size in sizes:
        rows = slice(3 * start, 3 * (start + size))
        positive_keys = [[int(keys[3 * q])] for q in range(start, start + size)]
        pool.add(
            batch([3 * i for i in range(size)], keys[rows].tolist(), positive_keys),
            questions[start : start + size],
            passages[rows],
        )
        start += size

    if similarity == "cosine":
        questions, passages = questions / questions.norm(dim=1, keepdim=True), passages / passages.norm(dim=1)[:, None]
    first_place = {int(key): place for place, key in reversed(list(enumerate(keys)))}
    expected = []
    for q, scores in enumerate(questions @ passages.T):
        best_first = sorted(sorted(first_place.values()), key=lambda p: -float(scores[p]))
        expected.append(best_first.index(first_place[int(keys[3 * q])]))
    assert pool.compute_ranks().tolist() == expected
    assert pool.num_passages == len(first_place)


def test_a_passage_in_many_rows_counts_once() -> None:
    pool = PassagePool()
    for question_key in (1, 2, 3):  # passage 9 is a hard negative of all questions, with a higher score
        pool.add(batch([0], [question_key, 9], [[question_key]]), torch.tensor([[1.0]]), torch.tensor([[1.0], [5.0]]))
    assert pool.num_passages == 4
    assert pool.compute_ranks().tolist() == [1, 2, 3]  # passage 9 is above all; a tie ranks the earlier passage first


def test_a_nan_embedding_raises_an_error() -> None:
    pool = PassagePool()
    pool.add(batch([0], [1], [[1]]), torch.tensor([[torch.nan]]), torch.tensor([[1.0]]))
    with pytest.raises(ValueError, match="scores"):
        pool.compute_ranks()


def test_worst_questions_by_hand() -> None:
    # In one dimension, the embedding of a passage is its score. Passages 3 and 10 are known positives of question 1.
    pool = PassagePool()
    pool.add(
        batch([0, 2], [1, 2, 3, 9], [[1, 1], [3, 10]], owner=[0, 0, 1, 1]),
        torch.tensor([[1.0], [1.0]]),
        torch.tensor([[6.0], [1.0], [2.0], [7.0]]),
    )
    pool.add(batch([0], [4, 10], [[4]], owner=[0, 0], first_row=2), torch.tensor([[1.0]]), torch.tensor([[2.0], [5.0]]))
    assert pool.compute_ranks().tolist() == [1, 2, 4]  # above them: 7; 7 and 6 (10 is known); 7, 6, 5 and a tie
    last, middle = pool.find_worst(2, 3)
    assert (last.place, last.num_above) == ((0, 2), 4)
    assert last.positive == PooledPassage((0, 2), (4, 4), 2.0)
    assert last.above == [
        PooledPassage((0, 1), (9, 9), 7.0),
        PooledPassage((0, 0), (1, 1), 6.0),
        PooledPassage((0, 2), (10, 10), 5.0),
    ]
    assert (middle.place, middle.num_above, len(middle.above)) == ((0, 1), 2, 2)
    assert [len(outranked.above) for outranked in pool.find_worst(9, 1)] == [1, 1, 1]


def test_questions_with_their_positive_first_are_not_among_the_worst() -> None:
    pool = PassagePool()
    pool.add(batch([0], [1, 2], [[1]], owner=[0, 0]), torch.tensor([[1.0]]), torch.tensor([[3.0], [1.0]]))
    pool.compute_ranks()
    assert pool.find_worst(5, 3) == []


def test_a_batch_without_questions_changes_nothing() -> None:
    pool, with_empty = PassagePool(), PassagePool()
    full = (batch([0], [1, 2], [[1]]), torch.tensor([[1.0]]), torch.tensor([[3.0], [5.0]]))
    empty = BiEncoderCollator(find_no_tokens, find_no_tokens)([Example("", [], [Passage("", "", "")], [], [])])
    pool.add(*full)
    for part in (
        (empty, torch.zeros(0, 1), torch.zeros(0, 1)),
        full,
        (empty, torch.zeros(0, 1), torch.zeros(0, 1)),
    ):
        with_empty.add(*part)
    assert with_empty.compute_metrics() == pool.compute_metrics()
