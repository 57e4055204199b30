"""Chunks of texts of similar length: examples by hand, and laws for any lengths."""

from __future__ import annotations

from contextlib import nullcontext

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from test.cuda_simulation import simulate_gpu
from text.models import roberta_tiny
from text.models.chunks import MAX_TOKENS, cut_by_length, split_by_length
from text.records import TokenBatch

MASK = torch.tensor([[True, False, False], [True, True, True], [True, True, False]])


def test_chunks_by_hand():
    # 100 and 98 share a chunk with 2 padding tokens, and so do 50 and 49. 50 and 100 would need 50 padding tokens.
    assert cut_by_length([50, 100, 49, 98]) == [([1, 3], 100), ([0, 2], 50)]


def test_no_text_gives_no_chunk():
    assert cut_by_length([]) == []


def test_a_full_chunk_takes_no_more_texts():
    rows = [rows for rows, _ in cut_by_length([MAX_TOKENS // 4] * 9)]
    assert rows == [[0, 1, 2, 3], [4, 5, 6, 7], [8]]


def test_a_text_longer_than_a_chunk_gets_its_own():
    assert cut_by_length([7, MAX_TOKENS + 1]) == [([1], MAX_TOKENS + 1), ([0], 7)]


@given(st.lists(st.integers(1, 600), max_size=200))
def test_every_text_is_in_one_chunk_with_little_padding(lengths):
    chunks = cut_by_length(lengths)
    assert sorted(row for rows, _ in chunks for row in rows) == list(range(len(lengths)))
    for rows, longest in chunks:
        assert longest == max(lengths[row] for row in rows)
        size = longest * len(rows)
        assert size <= MAX_TOKENS or len(rows) == 1
        assert size - sum(lengths[row] for row in rows) <= max(16, 0.03 * size)


@pytest.mark.parametrize("device", [nullcontext, simulate_gpu])
@pytest.mark.parametrize("kind", [torch.tensor, list, tuple, lambda lengths: np.array(lengths, dtype=np.int32)])
def test_lengths_of_another_kind_give_the_same_embeddings(device, kind):
    encoder, input_ids = roberta_tiny().eval(), torch.full((3, 3), 7)
    with device():
        expected = encoder(input_ids, MASK, np.array([1, 3, 2]))
        assert encoder(input_ids, MASK, kind([1, 3, 2])).equal(expected)


@pytest.mark.parametrize("device", [nullcontext, simulate_gpu])
def test_a_text_without_tokens_counts_as_its_first(device):
    encoder, input_ids, mask = roberta_tiny().eval(), torch.full((1, 3), 7), torch.zeros(1, 3, dtype=torch.bool)
    with device():
        # torch 2.3 attends to nothing with NaN on a CPU.
        torch.testing.assert_close(
            encoder(input_ids, mask, np.array([0])), encoder(input_ids, mask), rtol=0, atol=0, equal_nan=True
        )


@pytest.mark.parametrize("device", [nullcontext, simulate_gpu])
@pytest.mark.parametrize(
    ("lengths", "message"),
    [
        ([1, 4, 2], "lengths are 1 to 4; expected 0 to 3"),
        ([-1, 3, 2], "lengths are -1 to 3"),
        ([1, 3], r"lengths have shape \(2,\); expected \(3,\)"),
        ([1, 3, 2, 1], r"lengths have shape \(4,\)"),
    ],
)
def test_lengths_that_do_not_fit_the_batch_are_refused(device, lengths, message):
    tokens = TokenBatch(torch.full((3, 3), 7), MASK, MASK[:, 0], MASK[:, 0], np.array(lengths))
    with device():
        with pytest.raises(ValueError, match=message):
            roberta_tiny()(tokens.input_ids, MASK, tokens.lengths)
        with pytest.raises(ValueError, match=message):
            split_by_length(tokens, 100)


@pytest.mark.parametrize("lengths", [[1, 2, 2], [1, 3, 3]])
def test_lengths_that_contradict_a_mask_on_the_host_are_refused(lengths):
    with pytest.raises(ValueError, match=r"text \d has length \d, but attention_mask"):
        roberta_tiny()(torch.full((3, 3), 7), MASK, np.array(lengths))
