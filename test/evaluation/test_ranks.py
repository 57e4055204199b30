"""Tests of ranks and rank metrics, by hand and against sorting."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from text.evaluation.ranks import average_rank, mean_reciprocal_rank, positive_ranks, recall

SCORES = torch.tensor(
    [
        [0.1, 0.9, 0.5, 0.5],
        [0.1, 0.9, 0.5, 0.5],
        [0.7, 0.7, 0.7, 0.2],
        [0.4, 0.3, 0.2, 0.1],
    ]
)


def test_positive_ranks_by_hand():
    # Row 0: 0.9 is ahead. Row 1: 0.9 and an equal score in an earlier column are ahead. Row 2: two equal scores.
    ranks = positive_ranks(SCORES, torch.tensor([2, 3, 2, 3]))
    assert ranks.tolist() == [1, 2, 2, 3]


def test_positive_ranks_with_ignore_by_hand():
    ignore = torch.tensor(
        [
            [False, True, False, False],  # the passage ahead
            [False, False, True, False],  # the passage ahead by a tie
            [False, False, True, True],  # the positive itself and a passage behind it, so nothing changes
            [True, True, True, True],
        ]
    )
    ranks = positive_ranks(SCORES, torch.tensor([2, 3, 2, 3]), ignore=ignore)
    assert ranks.tolist() == [0, 1, 2, 0]


def test_ranks_of_perfect_and_reversed_scores():
    perfect = torch.eye(5)
    assert positive_ranks(perfect, torch.arange(5)).tolist() == [0] * 5
    assert positive_ranks(-perfect, torch.arange(5)).tolist() == [4] * 5


def test_a_collapsed_encoder_gets_no_credit():
    # All scores are equal, so the rank of a positive is its column.
    positive_index = torch.tensor([0, 3, 6])
    assert positive_ranks(torch.full((3, 7), 0.25), positive_index).tolist() == positive_index.tolist()


matrices = st.fixed_dictionaries(
    {
        "num_questions": st.integers(1, 6),
        "num_passages": st.integers(1, 12),
        "levels": st.integers(1, 4),  # few distinct scores, many ties
        "seed": st.integers(0, 2**32),
    }
)


def draw_scores(num_questions: int, num_passages: int, levels: int, seed: int) -> tuple[torch.Tensor, ...]:
    generator = torch.Generator().manual_seed(seed)
    scores = torch.randint(levels, (num_questions, num_passages), generator=generator) / 4 - 0.5
    positive_index = torch.randint(num_passages, (num_questions,), generator=generator)
    ignore = torch.rand(num_questions, num_passages, generator=generator) < 0.4
    return scores, positive_index, ignore


@settings(deadline=None, derandomize=True)
@given(matrices)
def test_ranks_equal_a_stable_sort(sizes):
    scores, positive_index, _ = draw_scores(**sizes)
    order = torch.argsort(scores, dim=1, descending=True, stable=True)
    expected = (order == positive_index[:, None]).nonzero()[:, 1]
    assert positive_ranks(scores, positive_index).tolist() == expected.tolist()


@settings(deadline=None, derandomize=True)
@given(matrices)
def test_ranks_equal_a_stable_sort_without_ignored_passages(sizes):
    scores, positive_index, ignore = draw_scores(**sizes)
    expected = []
    for row, positive, ignored in zip(scores.tolist(), positive_index.tolist(), ignore.tolist(), strict=True):
        columns = [column for column in range(len(row)) if column == positive or not ignored[column]]
        expected.append(sorted(columns, key=lambda column, row=row: -row[column]).index(positive))
    assert positive_ranks(scores, positive_index, ignore=ignore).tolist() == expected


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
def test_scores_that_are_not_finite_are_refused(value):
    scores = torch.zeros(2, 3)
    scores[1, 2] = value
    with pytest.raises(ValueError, match="scores"):
        positive_ranks(scores, torch.tensor([0, 1]))


def test_rank_metrics_by_hand():
    ranks = torch.tensor([0, 1, 4, 9])
    assert average_rank(ranks) == 14 / 4
    assert mean_reciprocal_rank(ranks, 10) == pytest.approx((1 + 1 / 2 + 1 / 5 + 1 / 10) / 4)
    assert mean_reciprocal_rank(ranks, 9) == pytest.approx((1 + 1 / 2 + 1 / 5) / 4)  # rank 9 is not below 9
    assert mean_reciprocal_rank(ranks, 1) == 1 / 4
    assert [recall(ranks, k) for k in (1, 2, 4, 5, 9, 10)] == [0.25, 0.5, 0.5, 0.75, 0.75, 1.0]


def test_rank_metrics_at_their_limits():
    assert average_rank(torch.zeros(3, dtype=torch.int64)) == 0
    assert mean_reciprocal_rank(torch.zeros(3, dtype=torch.int64), 1) == 1
    assert recall(torch.full((3,), 100), 100) == 0
    assert mean_reciprocal_rank(torch.full((3,), 100), 100) == 0


def test_average_rank_of_ranks_too_large_for_float32():
    # 2**24 + 1 is the first integer that float32 cannot represent.
    assert average_rank(torch.tensor([2**24 + 1])) == 2**24 + 1
