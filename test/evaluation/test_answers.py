"""has_answer: by hand, then against DPR's definition spelled out, in plain loops."""

from __future__ import annotations

import time
import unicodedata
from itertools import pairwise

import pytest
import regex
from hypothesis import given, settings
from hypothesis import strategies as st

from text.evaluation import answer_spans, has_answer, top_k_accuracy


@pytest.mark.parametrize(
    ("answer", "text", "expected"),
    [
        ("60", "There are 60 members.", True),
        ("60", "There are 1960 members.", False),  # a part of a word
        ("The Rhine", "along the rhine valley", True),  # case
        ("rhine valley", "the Rhine, valley of castles", False),  # the comma is a word
        ("U.S.", "in the U.S. alone", True),
        ("US", "in the U.S. alone", False),
        ("caf\u00e9", "a cafe\u0301 in Paris", True),  # composed and not
        ("cafe", "a caf\u00e9 in Paris", False),  # the mark is a part of the word
        ("\u221211.7 \u00b0C", "it was \u221211.7 \u00b0C there", True),
        ("a b", "a\n\tb", True),
        ("", "whatever", True),  # as DPR: no word at all is found everywhere
        ("\u200b", "", True),
        ("a", "", False),
    ],
)
def test_by_hand(answer: str, text: str, expected: bool) -> None:
    assert has_answer([answer], text) is expected
    assert has_answer(["not there", answer], text) is expected


def by_definition(answers: list[str], text: str) -> bool:
    words = regex.compile(r"([\p{L}\p{N}\p{M}]+)|([^\p{Z}\p{C}])", regex.IGNORECASE | regex.UNICODE | regex.MULTILINE)

    def tokens(value: str) -> list[str]:
        return [match.group().lower() for match in words.finditer(unicodedata.normalize("NFD", value))]

    found = tokens(text)
    return any(
        found[i : i + len(answer)] == answer
        for answer in map(tokens, answers)
        for i in range(len(found) - len(answer) + 1)
    )


pieces = st.lists(st.sampled_from("aA \u00e9e\u0301\u03a3\u03c3.,-7\u00b2\u4e2d\u200b\n'"), max_size=8).map("".join)


@settings(max_examples=1500, deadline=None, derandomize=True)
@given(st.lists(pieces | st.text(max_size=4), max_size=3), pieces | st.text(max_size=12))
def test_equals_the_definition(answers: list[str], text: str) -> None:
    assert has_answer(answers, text) == by_definition(answers, text)


@pytest.mark.parametrize(
    ("answers", "text", "expected"),
    [
        (["60"], "60 of 1960, 60 more", ["60", "60"]),
        (["The Rhine"], "along the rhine\tvalley", ["the rhine"]),
        (
            ["caf\u00e9"],
            "a cafe\u0301, a CAF\u00c9",
            ["cafe\u0301", "CAF\u00c9"],
        ),  # composed and not, as they stand there
        (["a\u0323\u0307"], "a\u0307\u0323 b", ["a\u0307\u0323"]),  # marks in another order
        (["="], "a \u2260 b", ["\u2260"]),  # half of a character is all of it
        (["\u1100\u1161"], "\uac00", ["\uac00"]),
        (["oak tree", "tree house"], "an oak tree house", ["oak tree house"]),  # they overlap
        (["a a"], "a a a b a a", ["a a a", "a a"]),
        (["oak", "elm"], "elm oak", ["elm", "oak"]),
        (["", "\u200b"], "whatever", []),
        (["oak"], "", []),
    ],
)
def test_spans_by_hand(answers: list[str], text: str, expected: list[str]) -> None:
    assert [text[start:end] for start, end in answer_spans(answers, text)] == expected


@settings(max_examples=500, deadline=None, derandomize=True)
@given(pieces | st.text(max_size=4), pieces | st.text(max_size=12))
def test_spans_are_where_answers_are_found(answer: str, text: str) -> None:
    spans = answer_spans([answer], text)
    if has_answer([answer], ""):  # no word at all
        assert spans == []
    else:
        assert bool(spans) == has_answer([answer], text)
    assert all(has_answer([answer], text[start:end]) for start, end in spans)
    assert spans == sorted(spans) and all(a[1] <= b[0] for a, b in pairwise(spans))


@pytest.mark.parametrize(
    ("pattern", "text", "expected"),
    [
        (r"20\s?,?\s?(32|40)0\s?-?\s?f(ee|oo)t", "It is 20,320 feet high.", True),
        (r"^sweden", "Cars.\nSweden makes them", True),  # case, and each line has a start
        ("caf\u00e9", "a cafe\u0301", True),
        (r"(", "a ( b", False),  # not valid
        (r"China", "in Chile", False),
    ],
)
def test_regular_expressions_by_hand(pattern: str, text: str, expected: bool) -> None:
    assert has_answer([pattern], text, regular_expressions=True) is expected


def test_a_catastrophic_regular_expression_is_given_up() -> None:
    started = time.process_time()
    assert not has_answer([r"(a|aa|aaa?)+(b|bb)+$"], "a" * 3000 + "c", regular_expressions=True)
    assert time.process_time() - started < 5  # far from the hours that it would take


def test_top_k_accuracy_by_hand() -> None:
    hits = [[False, True], [True], [], [False, False, True]]
    assert [top_k_accuracy(hits, k) for k in (1, 2, 3)] == [0.25, 0.5, 0.75]
    with pytest.raises(ValueError, match="questions"):
        top_k_accuracy([], 1)
