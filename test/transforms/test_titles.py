"""Titles: apart from their text, or before it."""

from __future__ import annotations

import numpy as np
import pytest

from text.records import Passage, TokenizedPassage
from text.transforms import title_and_text

TOKENS = TokenizedPassage((1, 1), np.array([4]), np.array([5]))


@pytest.mark.parametrize(("titles", "expected"), [("pair", ("Oak", "A tree.")), ("join", ("", "Oak A tree."))])
def test_by_hand(titles: str, expected: tuple[str, str]):
    assert title_and_text(Passage("1", "Oak", "A tree."), titles) == expected
    assert title_and_text(Passage("1", "", "A tree."), titles) == ("", "A tree.")


def test_tokens_cannot_be_joined():
    assert title_and_text(TOKENS) == (TOKENS.title, TOKENS.text)
    with pytest.raises(TypeError, match="cache"):
        title_and_text(TOKENS, "join")


def test_another_way_to_join_titles_is_refused():
    with pytest.raises(ValueError, match='titles is "joined"'):
        title_and_text(Passage("1", "Oak", "A tree."), "joined")
