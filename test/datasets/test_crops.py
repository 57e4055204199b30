"""crop: words of a text, in their order, and as many as a question has."""

from __future__ import annotations

from random import Random
from statistics import mean

from hypothesis import given
from hypothesis import strategies as st

from text.datasets import crop

WORDS = [f"w{n}" for n in range(100)]


@given(st.text(alphabet="ab .,\n(", max_size=200), st.integers(0, 1000))
def test_words_of_the_text_in_their_order(text: str, seed: int) -> None:
    found = crop(text, Random(seed))
    if found != text:
        words = iter(word.strip(".,(") for word in text.split())
        assert found and all(word in words for word in found.split())  # each is found after the one before


def test_neighbouring_words_and_as_many_as_a_question_has() -> None:
    places = [[int(word[1:]) for word in crop(" ".join(WORDS), Random(seed)).split()] for seed in range(500)]
    assert all(each[-1] - each[0] < 16 for each in places)
    assert 9 < mean(map(len, places)) < 10  # 16 * 0.6
    assert min(each[0] for each in places) < 5 and max(each[-1] for each in places) == 99


def test_nothing_kept_is_the_whole_text() -> None:
    assert {crop("alone.", Random(seed)) for seed in range(20)} == {"alone", "alone."}
    assert crop("...", Random(0)) == "..."
