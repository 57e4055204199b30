"""Scripts without spaces: which texts have them, and their units and pairs, by hand."""

from __future__ import annotations

import unicodedata

import pytest

from text.evaluation.unspaced import has_unspaced, separate_units, split_bigrams


@pytest.mark.parametrize(
    "text", ["中", "か", "カ", "ー", "ｶ", "ㄅ", "한", "ก", "ລາວ", "ខ", "မ", "ꀀ", "\U00020000", "〇"]
)
def test_scripts_without_spaces(text: str) -> None:
    assert has_unspaced(text) and has_unspaced(f"an oak {text}") and has_unspaced(unicodedata.normalize("NFD", text))


@pytest.mark.parametrize(
    "text", ["", "Paris", "café", "Москва", "Ἀθῆναι", "القاهرة", "दिल्ली", "“–…”", "。、（）", "๑๒", "😀"]
)
def test_other_scripts_digits_and_punctuation(text: str) -> None:
    assert not has_unspaced(text)
    assert separate_units(text) == text and split_bigrams(text) == (text, [])


def test_units_and_bigrams_by_hand() -> None:
    assert separate_units("1985年 東京Tokyo").split() == ["1985", "年", "東", "京", "Tokyo"]
    assert split_bigrams("1985年 東京都Tokyo") == ("1985   Tokyo", ["東京", "京都", "年"])
    assert split_bigrams("ก้าว") == (" ", ["ก้า", "าว"])  # a mark belongs to its letter
    syllables = unicodedata.normalize("NFD", "한국어")
    assert [unicodedata.normalize("NFC", pair) for pair in split_bigrams(syllables)[1]] == ["한국", "국어"]
