"""Words, and units of scripts without spaces: examples by hand, and laws for any text."""

from __future__ import annotations

import unicodedata
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from test.helpers import law
from text.words import find_pieces, has_unspaced_script, has_word, separate_units, split_bigrams


@pytest.mark.parametrize(
    "text", ["中", "か", "カ", "ー", "ｶ", "ㄅ", "한", "ก", "ລາວ", "ខ", "မ", "ꀀ", "\U00020000", "〇"]
)
def test_scripts_without_spaces_are_recognized(text: str) -> None:
    assert (
        has_unspaced_script(text)
        and has_unspaced_script(f"an oak {text}")
        and has_unspaced_script(unicodedata.normalize("NFD", text))
    )


@pytest.mark.parametrize(
    "text", ["", "Paris", "café", "Москва", "Ἀθῆναι", "القاهرة", "दिल्ली", "“–…”", "。、（）", "๑๒", "😀"]
)
def test_other_scripts_digits_and_punctuation_have_no_units(text: str) -> None:
    assert not has_unspaced_script(text)
    assert separate_units(text) == text and split_bigrams(text) == (text, [])


def test_units_and_bigrams_by_hand() -> None:
    assert separate_units("1985年 東京Tokyo").split() == ["1985", "年", "東", "京", "Tokyo"]
    assert split_bigrams("1985年 東京都Tokyo") == ("1985   Tokyo", ["東京", "京都", "年"])
    assert split_bigrams("ก้าว") == (" ", ["ก้า", "าว"])  # A combining mark belongs to its letter.
    syllables = unicodedata.normalize("NFD", "한국어")
    assert [unicodedata.normalize("NFC", pair) for pair in split_bigrams(syllables)[1]] == ["한국", "국어"]


@pytest.mark.parametrize("text", ["", " \n\u3000", "\u200b", "\ufeff\u200d", "\x00\x1f\x7f", "\xad", "\u202a \u2060"])
def test_spaces_and_invisible_characters_are_not_words(text: str) -> None:
    assert not has_word(text)
    assert has_word(f"{text}a") and has_word(f"{text}?") and has_word(f"...{text}") and has_word(f"{text}在")


@law
@given(st.text(st.characters(exclude_categories=["Cs", "Cc"]) | st.sampled_from("在ก้각「」。、 a1.\n"), max_size=20))
def test_pieces_are_in_order_and_lose_no_visible_character(text: str) -> None:
    spans = find_pieces(text)
    assert all(start < end <= after for (start, end), (after, _) in pairwise([*spans, (len(text), 0)]))
    assert "".join(text[start:end] for start, end in spans).split() == ["".join(text.split())][: bool(spans)]
