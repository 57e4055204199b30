"""Tests of title_and_text: title and text as a pair, or joined."""

from __future__ import annotations

import numpy as np
import pytest

from text.records import Passage, TokenizedPassage
from text.transforms import title_and_text

TOKENS = TokenizedPassage((1, 1), np.array([4]), np.array([5]))


@pytest.mark.parametrize(("titles", "expected"), [("pair", ("Oak", "A tree.")), ("join", ("", "Oak A tree."))])
def test_titles_by_hand(titles: str, expected: tuple[str, str]):
    assert title_and_text(Passage("1", "Oak", "A tree."), titles) == expected
    assert title_and_text(Passage("1", "", "A tree."), titles) == ("", "A tree.")


def test_tokens_cannot_be_joined():
    assert title_and_text(TOKENS) == (TOKENS.title, TOKENS.text)
    with pytest.raises(TypeError, match="cache"):
        title_and_text(TOKENS, "join")


def test_invalid_value_of_titles_is_refused():
    with pytest.raises(ValueError, match='titles is "joined"'):
        title_and_text(Passage("1", "Oak", "A tree."), "joined")
