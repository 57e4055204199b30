"""Tests of answer matching: by hand, and against DPR's definition in plain loops."""

from __future__ import annotations

import time
import unicodedata
from itertools import pairwise

import pytest
import regex
from hypothesis import given, settings
from hypothesis import strategies as st

from text.evaluation import find_answer_spans, has_answer, top_k_accuracy
from text.words import has_unspaced_script


@pytest.mark.parametrize(
    ("answer", "text", "expected"),
    [
        ("60", "There are 60 members.", True),
        ("60", "There are 1960 members.", False),  # part of a word
        ("The Rhine", "along the rhine valley", True),  # case
        ("rhine valley", "the Rhine, valley of castles", False),  # the comma is a word
        ("U.S.", "in the U.S. alone", True),
        ("US", "in the U.S. alone", False),
        ("caf\u00e9", "a cafe\u0301 in Paris", True),  # composed and decomposed
        ("cafe", "a caf\u00e9 in Paris", False),  # the mark is part of the word
        ("\u221211.7 \u00b0C", "it was \u221211.7 \u00b0C there", True),
        ("a b", "a\n\tb", True),
        ("", "whatever", True),  # An answer without words matches every text, as in DPR.
        ("\u200b", "", True),
        ("a", "", False),
    ],
)
def test_has_answer_by_hand(answer: str, text: str, expected: bool) -> None:
    assert has_answer([answer], text) is expected
    assert has_answer(["not there", answer], text) is expected


UNSPACED = "\u4e2d\u56fd\u304b\u0e01\uac00"
"""Letters of Han, Hiragana, Thai and Hangul, listed by hand and independent of the code."""


def has_answer_by_definition(answers: list[str], text: str) -> bool:
    """Return the result of DPR's definition, after adding spaces around letters of scripts without spaces."""
    words = regex.compile(r"([\p{L}\p{N}\p{M}]+)|([^\p{Z}\p{C}])", regex.IGNORECASE | regex.UNICODE | regex.MULTILINE)

    def split_tokens(value: str) -> list[str]:
        separate = "".join(f" {letter} " if letter in UNSPACED else letter for letter in value)
        return [match.group().lower() for match in words.finditer(unicodedata.normalize("NFD", separate))]

    found = split_tokens(text)
    return any(
        found[i : i + len(answer)] == answer
        for answer in map(split_tokens, answers)
        for i in range(len(found) - len(answer) + 1)
    )


pieces = st.lists(st.sampled_from("aA \u00e9e\u03a3\u03c3.,-7\u00b2\u200b\n'" + UNSPACED), max_size=8).map("".join)
marked = st.lists(st.sampled_from("aA \u00e9e\u0301\u03a3\u03c3.,-7\u00b2\u200b\n'"), max_size=8).map("".join)


@settings(max_examples=1500, deadline=None, derandomize=True)
@given(st.lists(pieces | marked, max_size=3), pieces | marked)
def test_has_answer_equals_the_definition(answers: list[str], text: str) -> None:
    assert has_answer(answers, text) == has_answer_by_definition(answers, text)


@settings(max_examples=500, deadline=None, derandomize=True)
@given(
    st.text(st.characters(max_codepoint=0x2E7F), max_size=12), st.text(st.characters(max_codepoint=0xDFF), max_size=4)
)
def test_scripts_with_spaces_are_compared_as_in_dpr(text: str, answer: str) -> None:
    if not has_unspaced_script(text):
        assert has_answer([answer], text) == has_answer_by_definition([answer], text)


@pytest.mark.parametrize(
    ("answer", "text", "expected"),
    [
        ("中国", "长城是中国古代的军事防御工程，位于中国北方。", True),
        ("日本", "北京是中国的首都。", False),
        ("中 国", "在中国", True),  # compared as a string without spaces
        ("1985", "他生于1985年", True),  # digits form one word
        ("985", "他生于1985年", False),
        ("Tokyo", "東京（Tokyo）と東京Tokyo大学", True),
        ("Toky", "東京Tokyo大学", False),
        ("1985年", "于1985年", True),
        ("か", "がっこう", False),  # a mark belongs to its letter
        ("がっこう", "か\u3099っこうへ行く", True),  # composed and decomposed
        ("スーパー", "近くのスーパーマーケット", True),
        ("กรุงเทพ", "เมืองหลวงคือกรุงเทพมหานคร", True),
        ("กา", "ก้าว", False),
        ("중국", "만리장성은 중국의 성벽이다", True),
        ("가", "각자", False),  # a syllable is not part of another syllable
        ("각", unicodedata.normalize("NFD", "각자"), True),
    ],
)
def test_scripts_without_spaces_by_hand(answer: str, text: str, expected: bool) -> None:
    assert has_answer([answer], text) is expected
    assert has_answer([unicodedata.normalize("NFD", answer)], unicodedata.normalize("NFC", text)) is expected
    assert bool(find_answer_spans([answer], text)) is expected


@pytest.mark.parametrize(
    ("answers", "text", "expected"),
    [
        (["60"], "60 of 1960, 60 more", ["60", "60"]),
        (["The Rhine"], "along the rhine\tvalley", ["the rhine"]),
        (
            ["caf\u00e9"],
            "a cafe\u0301, a CAF\u00c9",
            ["cafe\u0301", "CAF\u00c9"],
        ),  # composed and decomposed, as in the text
        (["a\u0323\u0307"], "a\u0307\u0323 b", ["a\u0307\u0323"]),  # marks in another order
        (["="], "a \u2260 b", ["\u2260"]),  # A match in part of a character covers the whole character.
        (["\u1100\u1161"], "\uac00", ["\uac00"]),
        (["oak tree", "tree house"], "an oak tree house", ["oak tree house"]),  # overlapping spans are merged
        (["a a"], "a a a b a a", ["a a a", "a a"]),
        (["oak", "elm"], "elm oak", ["elm", "oak"]),
        (["", "\u200b"], "whatever", []),
        (["oak"], "", []),
        (["中国", "国的"], "北京是中国的首都", ["中国的"]),
        (["각"], unicodedata.normalize("NFD", "생각"), [unicodedata.normalize("NFD", "각")]),
    ],
)
def test_answer_spans_by_hand(answers: list[str], text: str, expected: list[str]) -> None:
    assert [text[start:end] for start, end in find_answer_spans(answers, text)] == expected


@settings(max_examples=500, deadline=None, derandomize=True)
@given(pieces | st.text(max_size=4), pieces | st.text(max_size=12))
def test_answer_spans_agree_with_has_answer(answer: str, text: str) -> None:
    spans = find_answer_spans([answer], text)
    if has_answer([answer], ""):  # an answer without words
        assert spans == []
    else:
        assert bool(spans) == has_answer([answer], text)
    assert all(has_answer([answer], text[start:end]) for start, end in spans)
    assert spans == sorted(spans) and all(a[1] <= b[0] for a, b in pairwise(spans))


@pytest.mark.parametrize(
    ("pattern", "text", "expected"),
    [
        (r"20\s?,?\s?(32|40)0\s?-?\s?f(ee|oo)t", "It is 20,320 feet high.", True),
        (r"^sweden", "Cars.\nSweden makes them", True),  # ignores case, and ^ matches at each line
        ("caf\u00e9", "a cafe\u0301", True),
        (r"(", "a ( b", False),  # invalid expression
        (r"China", "in Chile", False),
    ],
)
def test_regular_expressions_by_hand(pattern: str, text: str, expected: bool) -> None:
    assert has_answer([pattern], text, regular_expressions=True) is expected


def test_a_slow_regular_expression_is_stopped() -> None:
    started, slow = time.process_time(), set[str]()
    answers = ["d", r"(a|aa|aaa?)+(b|bb)+$"]
    assert not has_answer(answers, "a" * 3000 + "c", regular_expressions=True, slow=slow)
    assert slow == {answers[1]}
    assert time.process_time() - started < 5  # It would take hours without a limit.


def test_top_k_accuracy_by_hand() -> None:
    hits = [[False, True], [True], [], [False, False, True]]
    assert [top_k_accuracy(hits, k) for k in (1, 2, 3)] == [0.25, 0.5, 0.75]
    with pytest.raises(ValueError, match="questions"):
        top_k_accuracy([], 1)
