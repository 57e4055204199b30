"""The tiny data set has disjoint splits, the full schema, and hard negatives that are hard."""

from __future__ import annotations

import json
import re
from itertools import combinations
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[2] / "examples/dpr/data/nq3_tiny/data/retriever"
POOLS = ("positive_ctxs", "negative_ctxs", "hard_negative_ctxs")


def read_records(stage: str) -> list[dict]:
    return [json.loads(line) for line in (FOLDER / f"{stage}.jsonl").read_text(encoding="utf-8").splitlines()]


def find_content_words(text: str) -> set[str]:
    """Return the words of a text without the most common ones."""
    common = set("a an and at by did for from in is it of on or that the to was were what when where which who".split())
    return set(re.findall(r"\w+", text.lower())) - common


def contains_answer(record: dict, passage: dict) -> bool:
    return any(answer.lower() in f"{passage['title']} {passage['text']}".lower() for answer in record["answers"])


@pytest.mark.parametrize("stage", ["train", "valid", "test"])
def test_rows_have_the_full_schema(stage: str) -> None:
    assert len(read_records(stage)) == 10
    for record in read_records(stage):
        assert set(record) == {"dataset", "question", "answers", *POOLS}
        assert 1 <= len(record["positive_ctxs"]) <= 3
        assert len(record["negative_ctxs"]) >= 8
        assert len(record["hard_negative_ctxs"]) >= 8
        for pool in POOLS:
            ids = [passage["passage_id"] for passage in record[pool]]
            assert len(ids) == len(set(ids))
            for passage in record[pool]:
                assert set(passage) == {"title", "text", "score", "title_score", "passage_id"}
                assert 85 <= len(passage["text"].split()) <= 110


@pytest.mark.parametrize("stage", ["train", "valid", "test"])
def test_positives_answer_and_negatives_do_not(stage: str) -> None:
    for record in read_records(stage):
        assert all(contains_answer(record, passage) for passage in record["positive_ctxs"])
        assert not any(contains_answer(record, passage) for pool in POOLS[1:] for passage in record[pool]), record[
            "question"
        ]


@pytest.mark.parametrize("stage", ["train", "valid", "test"])
def test_hard_negatives_share_more_with_the_question_than_random_ones(stage: str) -> None:
    def mean_overlap(record: dict, pool: str) -> float:
        overlaps = [
            len(find_content_words(record["question"]) & find_content_words(p["title"] + " " + p["text"]))
            for p in record[pool]
        ]
        return sum(overlaps) / len(overlaps)

    for record in read_records(stage):
        assert mean_overlap(record, "hard_negative_ctxs") > mean_overlap(record, "negative_ctxs"), record["question"]


def test_splits_are_disjoint() -> None:
    for one, other in combinations(("train", "valid", "test"), 2):
        assert not {r["question"] for r in read_records(one)} & {r["question"] for r in read_records(other)}
        texts = [{p["text"] for r in read_records(stage) for pool in POOLS for p in r[pool]} for stage in (one, other)]
        assert not texts[0] & texts[1]
