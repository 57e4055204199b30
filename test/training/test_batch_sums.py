"""Sums over a batch by hand, on one rank. test_gradients.py and test_train_ranks.py test several ranks."""

from __future__ import annotations

import numpy as np
import torch

from text.records import BiEncoderBatch, TokenBatch
from text.training.batch_sums import BatchSums, TextCounts


def build_tokens(truncated: list[bool]) -> TokenBatch:
    size = len(truncated)
    mask = torch.ones(size, 3, dtype=torch.bool)
    empty = torch.zeros(size, dtype=torch.bool)
    return TokenBatch(mask.long(), mask, torch.tensor(truncated, dtype=torch.bool), empty, np.full(size, 3))


def build_batch(sources: list[int], questions: list[bool], passages: list[bool]) -> BiEncoderBatch:
    nothing = torch.zeros(0, dtype=torch.int64)
    return BiEncoderBatch(
        questions=build_tokens(questions),
        passages=build_tokens(passages),
        text_index=nothing,
        positive_index=nothing,
        owner=nothing,
        passage_keys=nothing,
        known_positives=nothing,
        scores=nothing,
        sources=torch.tensor(sources, dtype=torch.int64),
        rows=nothing,
        counts={"questions left out, no tokens": 2, "passages left out, no tokens": 5},
    )


def test_sums_by_hand() -> None:
    losses = torch.tensor([1.0, 2.0, 6.0], requires_grad=True)
    batch = build_batch([0, 2, 2], [True, False, False], [True, True, False, False])
    sums = BatchSums(losses, batch, num_sets=3)
    results = sums.read()
    assert sums.num_questions.item() == results.num_questions == 3
    assert results.loss.item() == 3 and not results.loss.requires_grad
    assert results.texts == {"questions": TextCounts(1, 3, 2), "passages": TextCounts(2, 4, 5)}
    assert [(loss.item(), size) for loss, size in results.sets] == [(1, 1), (0, 0), (4, 2)]


def test_a_batch_without_questions_has_a_loss_of_0() -> None:
    results = BatchSums(torch.zeros(0), build_batch([], [], [])).read()
    assert (results.loss.item(), results.num_questions, results.sets) == (0, 0, [])
    assert results.texts["passages"] == TextCounts(0, 0, 5)


def test_a_nan_loss_stays_in_its_set() -> None:
    losses = torch.tensor([torch.nan, 2.0])
    first, second = BatchSums(losses, build_batch([0, 1], [False] * 2, []), num_sets=2).read().sets
    assert first[0].isnan() and second[0].item() == 2
