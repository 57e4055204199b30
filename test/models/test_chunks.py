"""Chunks of texts of similar length: examples by hand, and laws for any lengths."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from text.models.chunks import MAX_TOKENS, cut_by_length


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
