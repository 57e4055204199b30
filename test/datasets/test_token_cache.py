"""Tests of TokenCache: same batches as without a cache, and each text is tokenized once."""

from __future__ import annotations

import json
import os
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.data import DataLoader

from test.helpers import ByteTokenizer, context, law, record, records, write_jsonl
from text.datasets import DPRDataPipe
from text.errors import DataError
from text.records import Example, Passage, TokenizedExample, TokenizedPassage


def describe_passage(passage: Passage | TokenizedPassage) -> list[Any]:
    """Return keys, title and text of a passage, which can be compared with and without a cache."""
    parts = (passage.title, passage.text)
    texts = [part if isinstance(part, str) else bytes(part.astype(np.uint8)).decode() for part in parts]
    return [passage.keys, *texts]


def describe_examples(batches: list[list[Any]]) -> list[Any]:
    return [
        [
            example.question if isinstance(example, Example) else bytes(example.question.astype(np.uint8)).decode(),
            *map(describe_passage, example.positives),
            list(map(describe_passage, example.hard_negatives)),
            list(map(describe_passage, example.other_negatives)),
            example.source,
        ]
        for batch in batches
        for example in batch
    ]


def read_epoch(pipe: DPRDataPipe, number: int) -> list[Any]:
    pipe.set_epoch(number)
    return describe_examples(list(pipe))


OPTIONS = [
    {"train": True},
    {"train": True, "num_hard_negatives": 2, "num_other_negatives": 1, "sample_positives": True},
    {"train": True, "num_hard_negatives": 0},
    {"num_hard_negatives": 30, "num_other_negatives": 30},
]


@pytest.mark.parametrize("options", OPTIONS)
def test_batches_are_the_same_with_and_without_a_cache(tmp_path: Path, options: dict[str, Any]) -> None:
    odd = record(
        "odd", hard_negative_ctxs=[{"text": ""}, context("odd+0"), {"text": "no title", "id": 3}, context("x")]
    )
    rows = [*records(5, positives=2), odd, record(" "), record("none", hard=0, other=0), record("é\u2028👩‍🔬\0")]
    path = write_jsonl(tmp_path / "rows.jsonl", rows)
    options = {"max_skipped": 0.5, **options, "train": True} if options.get("train") else options
    if not options.get("train"):
        path = write_jsonl(path, [row for row in rows if row["question"].strip()])
    plain, cached = DPRDataPipe(path, 3, **options), DPRDataPipe(path, 3, **options)
    cached.cache_tokens(ByteTokenizer())
    for number in range(3):
        assert read_epoch(cached, number) == read_epoch(plain, number)
    in_workers = DataLoader(cached, batch_size=None, num_workers=2, collate_fn=list)
    assert describe_examples(list(in_workers)) == read_epoch(plain, 2)


@law
@given(
    st.lists(st.tuples(st.text("ab", max_size=2), st.text("ab", max_size=2), st.text("abc", max_size=2)), max_size=8)
)
def test_same_passages_for_any_texts(tmp_path: Path, negatives: list[tuple[str, str, str]]) -> None:
    # Titles, texts and ids may be equal to each other, or empty. Each id belongs to one passage.
    named = {name: (title, text) for title, text, name in negatives if name}
    contexts = [
        dict(zip(("title", "text"), named.get(name, (title, text)), strict=True), id=name)
        for title, text, name in negatives
    ]
    rows = [record("q", hard_negative_ctxs=contexts), record("r", positive_ctxs=[context("d")])]
    path = write_jsonl(tmp_path / "rows.jsonl", rows)
    plain, cached = (DPRDataPipe(path, 2, num_hard_negatives=9) for _ in range(2))
    cached.cache_tokens(ByteTokenizer())
    assert read_epoch(cached, 0) == read_epoch(plain, 0)


def test_each_distinct_text_is_tokenized_once(tmp_path: Path) -> None:
    path = write_jsonl(tmp_path / "rows.jsonl", [record("a"), record("a"), record("b", answers=["not this"])])
    tokenize = ByteTokenizer()
    pipe = DPRDataPipe(path, 2, train=True, num_other_negatives=1)
    pipe.cache_tokens(tokenize)
    assert len(tokenize.texts) == len(set(tokenize.texts))
    assert set(tokenize.texts) == set(pipe.texts())
    again = ByteTokenizer()
    DPRDataPipe(path, 2, train=True, num_other_negatives=1).cache_tokens(again)
    list(pipe)
    assert again.texts == []


def test_pools_that_are_not_asked_for_are_not_tokenized(tmp_path: Path) -> None:
    path = write_jsonl(tmp_path / "rows.jsonl", records(2))
    tokenize = ByteTokenizer()
    DPRDataPipe(path, 2, train=True, num_hard_negatives=0, num_other_negatives=1).cache_tokens(tokenize)
    assert not any("-" in text for text in tokenize.texts)
    assert any("~" in text for text in tokenize.texts)


@pytest.mark.parametrize("field", ["fingerprint", "data"])
def test_cache_is_rebuilt_for_another_tokenizer_or_other_data(tmp_path: Path, field: str) -> None:
    path = write_jsonl(tmp_path / "rows.jsonl", records(3))
    DPRDataPipe(path, 2).cache_tokens(ByteTokenizer())
    other = ByteTokenizer()
    if field == "data":
        write_jsonl(path, records(4))
    else:
        other.fingerprint = "other" * 13
    pipe = DPRDataPipe(path, 2)
    pipe.cache_tokens(other)
    assert other.texts
    assert read_epoch(pipe, 0) == read_epoch(DPRDataPipe(path, 2), 0)


def test_large_vocabulary_and_many_texts_are_cached(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class WideTokenizer(ByteTokenizer):
        vocab_size = 100_000

        def encode(self, texts: Any) -> list[np.ndarray]:
            return [ids + 99_000 for ids in super().encode(texts)]

    monkeypatch.setattr("text.datasets.token_cache._TEXTS_AT_ONCE", 5)
    path = write_jsonl(tmp_path / "rows.jsonl", records(7))
    pipe = DPRDataPipe(path, 7)
    pipe.cache_tokens(WideTokenizer())
    [batch] = list(pipe)
    assert [bytes((np.asarray(e.question, dtype=np.int64) - 99_000).astype(np.uint8)) for e in batch] == [
        f"q{i}".encode() for i in range(7)
    ]


def test_tokens_are_views_and_the_cache_is_not_pickled(tmp_path: Path) -> None:
    path = write_jsonl(tmp_path / "rows.jsonl", records(2))
    pipe = DPRDataPipe(path, 2)
    pipe.cache_tokens(ByteTokenizer())
    [[example, _]] = list(pipe)
    assert isinstance(example, TokenizedExample)
    text = example.positives[0].text
    assert isinstance(text, np.ndarray)
    assert (text.dtype, text.flags.owndata, text.flags.writeable) == (np.dtype("<u2"), False, False)
    assert len(pickle.dumps(pipe)) < 20_000
    assert json.dumps(example.source) == "0"


def test_cache_of_rows_with_scores_is_refused(tmp_path: Path) -> None:
    rows = records(3)
    for row in rows:
        for name in ("positive_ctxs", "hard_negative_ctxs", "negative_ctxs"):
            row[name] = [{**each, "score": 1} for each in row[name]]
    pipe = DPRDataPipe(write_jsonl(tmp_path / "rows.jsonl", rows), 2, score_key="score")
    assert [passage.score for batch in pipe for each in batch for passage in each.positives] == [1.0, 1.0, 1.0]
    with pytest.raises(ValueError, match="score_key"):
        pipe.cache_tokens(ByteTokenizer())


def test_cache_that_is_truncated_while_in_use_is_an_error(tmp_path: Path) -> None:
    path = write_jsonl(tmp_path / "rows.jsonl", records(50))
    pipe = DPRDataPipe(path, 2)
    pipe.cache_tokens(ByteTokenizer())
    [cache] = [each for each in (tmp_path / ".dpr-text").iterdir() if each.suffix != ".json"]
    batches = iter(pipe)
    next(batches)
    os.truncate(cache, 500)
    with pytest.raises(DataError, match=str(cache)):
        list(batches)


def test_damaged_cache_is_rebuilt(tmp_path: Path) -> None:
    path = write_jsonl(tmp_path / "rows.jsonl", records(5))
    pipe = DPRDataPipe(path, 2)
    pipe.cache_tokens(ByteTokenizer())
    expected = read_epoch(pipe, 0)
    [cache] = [each for each in (tmp_path / ".dpr-text").iterdir() if each.suffix != ".json"]
    cache.write_bytes(cache.read_bytes().replace(b"t\0e\0x\0t", b"t\0a\0x\0t"))
    again = DPRDataPipe(path, 2)
    again.cache_tokens(ByteTokenizer())
    assert read_epoch(again, 0) == expected
