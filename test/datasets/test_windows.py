"""Tests of windows: they hold every word of a passage, in order."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from test.helpers import record, write_jsonl
from text.datasets import DPRFile, cut_rows, cut_windows
from text.records import Passage


@given(st.integers(0, 60), st.integers(1, 12), st.data())
def test_all_words_in_as_few_windows_as_the_stride_allows(num_words: int, length: int, data: st.DataObject) -> None:
    stride = data.draw(st.integers(1, length))
    words = [f"w{n}" for n in range(num_words)]
    found = cut_windows(Passage("p#7", "a title", " \n".join(words)), length, stride)
    assert [each.passage_id for each in found] == [f"p#7#{n}" for n in range(len(found))]
    assert {each.title for each in found} == {"a title"}
    for number, each in enumerate(found):
        assert each.text.split() == words[number * stride : number * stride + length]
    assert set(" ".join(each.text for each in found).split()) == set(words)
    assert len(found) == 1 or (len(found) - 2) * stride + length < num_words  # One window fewer would lose words.


def test_letters_of_scripts_without_spaces_are_words() -> None:
    text = "长城是中国\n古代的工程。建于 1985年, by Tokyo東京"
    assert [each.text for each in cut_windows(Passage("p", "", text), 10, 8)] == [
        "长城是中国\n古代的工程。",  # The text is not changed.
        "工程。建于 1985年, by Tokyo東京",
    ]
    long = cut_windows(Passage("p", "", "长城是中国古代的工程" * 86), 64, 64)
    assert [len(each.text) for each in long] == [64] * 13 + [28]
    assert "".join(each.text for each in long) == "长城是中国古代的工程" * 86


def test_windows_of_a_passage_without_an_id_have_no_id() -> None:
    assert {each.passage_id for each in cut_windows(Passage("", "", "a b c"), 2, 1)} == {""}


@pytest.mark.parametrize("stride", [0, 5])
def test_stride_that_would_lose_words_is_refused(stride: int) -> None:
    with pytest.raises(ValueError, match=rf"^stride\b.*\b{stride}\b"):
        cut_windows(Passage("p", "", "a"), 4, stride)


def test_repaired_rows_can_be_written(tmp_path: Path) -> None:
    path = write_jsonl(tmp_path / "rows.jsonl", [record("q", note="\\ud83d", score=1)])
    path.write_text(path.read_text().replace("\\\\ud83d", "\\ud83d").replace('"score": 1', '"score": NaN'))
    [row] = cut_rows(DPRFile(path), 2, 1)
    assert (row["note"], row["score"]) == ("\ufffd", None)
    json.dumps(row, ensure_ascii=False, allow_nan=False).encode()
