"""Token counts of texts, ``lengths.json``, histogram bins and warnings about truncation."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import pytest

from text.errors import SettingsWarning
from text.records import Example, Passage
from text.runs.lengths import Lengths, get_length_bins, measure_lengths, read_lengths, warn_truncated, write_lengths
from text.transforms import train_tokenizer

TEXTS = ("a b", "a", "b c", "a b c", "a b c d")


def test_lengths_survive_a_round_trip(tmp_path: Path) -> None:
    lengths = [Lengths("questions", np.array([3, 1, 3, 70]), 64), Lengths("passages", np.array([5]), 256)]
    write_lengths(tmp_path / "lengths.json", lengths)
    for found, expected in zip(read_lengths(tmp_path / "lengths.json"), lengths, strict=True):
        assert (found.kind, found.limit) == (expected.kind, expected.limit)
        assert found.tokens.tolist() == sorted(expected.tokens.tolist())


@pytest.mark.parametrize("longest", [0, 1, 59, 60, 61, 500])
def test_all_bins_cover_the_same_number_of_lengths(longest: int) -> None:
    edges = np.array(get_length_bins(longest))
    assert len(edges) <= 62
    assert edges[0] < 0 and edges[-1] > longest
    assert len(set(np.histogram(np.arange(len(edges) * 100), edges)[0].tolist())) == 1


def test_lengths_include_special_tokens_titles_and_prompts() -> None:
    tokenizer = train_tokenizer(["a b c d e f"], 300)
    example = Example("a b", [], [Passage("1", "a", "b c")], [Passage("2", "", "a b c d")], [])
    questions, passages = measure_lengths(tokenizer, [[example]], (4, 5), ("", "f:"))
    words = {text: len(tokenizer.encode(text, add_special_tokens=False).ids) for text in TEXTS}
    prompt = len(tokenizer.encode("f:", add_special_tokens=False).ids)
    assert questions.tokens.tolist() == [words["a b"] + 2]
    assert passages.tokens.tolist() == [prompt + words["a"] + words["b c"] + 4, prompt + words["a b c d"] + 2]
    assert (questions.limit, passages.limit) == (4, 5)
    _, joined = measure_lengths(tokenizer, [[example]], (4, 5), titles="join")
    assert joined.tokens.tolist() == [words["a b c"] + 2, words["a b c d"] + 2]


@pytest.mark.parametrize(
    ("encoder_limit", "part"),
    [
        (None, "--passage_max_length=19 would keep 95 %"),  # 19 of the 20 texts have at most 19 tokens
        (512, "--passage_max_length=19 would keep 95 %"),
        (18, "--passage_max_length=18 is the maximum"),
        (17, "does not support longer"),
    ],
)
def test_a_warning_about_truncation_names_the_flag_to_change(encoder_limit: int | None, part: str) -> None:
    lengths = Lengths("passages", np.arange(1, 21), 17)  # 18, 19 and 20 of 20 texts are longer
    with pytest.warns(SettingsWarning, match=rf"^15% of the passages are longer than 17 tokens.*{part}.*windows"):
        warn_truncated([lengths], encoder_limit)
    with pytest.warns(SettingsWarning, match="--question_max_length=19") as found:
        warn_truncated([lengths._replace(kind="questions")])
    assert "windows" not in str(found[0].message)


def test_ten_percent_of_truncated_texts_give_no_warning() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warn_truncated([Lengths("passages", np.arange(1, 21), 18)])
