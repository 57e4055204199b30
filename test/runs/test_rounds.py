"""Rounds of a loop, measures of its table, and the expected metrics of a recipe."""

from __future__ import annotations

import pytest

from text.errors import ArtifactError, UsageError
from text.runs.rounds import (
    Round,
    check_expected,
    choose_measures,
    compare_metrics,
    find_cut_offs,
    name_rounds,
    parse_rounds,
)

TABLE = {
    "BM25": {"valid": {"mrr@10": 0.5, "recall@20": 0.75}, "test": {"mrr@10": 0.25, "recall@20": 0.5}},
    "round 1": {"valid": {"mrr@10": 0.625, "recall@20": 1.0}, "test": {"mrr@10": 0.5, "recall@20": 0.75}},
}


def test_rounds_get_default_values() -> None:
    rounds = parse_rounds([{}, {"sources": {"dense": 2}, "go_on": True}], is_start_encoded=False)
    assert rounds == [Round(), Round(sources={"dense": 2}, go_on=True)]


@pytest.mark.parametrize(
    ("rounds", "is_start_encoded", "names"),
    [
        ([{}, {"sources": {"web": 1}}], True, ["round 2", "web"]),
        ([{"trains": {}}], True, ["round 1", "trains"]),
        ([{}, {"train": 3}], True, ["round 2", "train"]),
        ([{"mine": [1]}], True, ["round 1", "mine"]),
        ([{"sources": "dense"}], True, ["round 1", "sources"]),
        ([{"go_on": True}], True, ["round 1", "go_on"]),
        ([{"sources": {"dense": 1}}], False, ["round 1", "dense"]),
    ],
)
def test_the_error_names_a_round_that_cannot_run(rounds: list, is_start_encoded: bool, names: list[str]) -> None:
    with pytest.raises(UsageError) as error:
        parse_rounds(rounds, is_start_encoded=is_start_encoded)
    assert all(name in str(error.value) for name in names)


def test_round_1_may_mine_with_an_encoder_that_is_evaluated_first() -> None:
    assert parse_rounds([{"sources": {"dense": 1}}], is_start_encoded=True) == [Round(sources={"dense": 1})]


def test_default_measures_depend_on_the_kind_of_relevance() -> None:
    assert choose_measures([], by_answers=False) == ["ndcg@10", "recall@100", "mrr@10"]
    assert choose_measures([], by_answers=True) == ["accuracy@1", "accuracy@20", "accuracy@100"]
    assert choose_measures(["mrr@3", "map"], by_answers=False) == ["mrr@3", "map"]


@pytest.mark.parametrize(
    ("measure", "by_answers"), [("ndcg@0", False), ("accuracy@1", False), ("map", True), ("accuracy@", True)]
)
def test_an_unsuitable_measure_is_refused(measure: str, by_answers: bool) -> None:
    with pytest.raises(UsageError, match=f"--measures has {measure}"):
        choose_measures([measure], by_answers=by_answers)


def test_cut_offs_are_read_from_measures() -> None:
    assert find_cut_offs(["mrr@3", "map", "recall@100"]) == {3, 100}


@pytest.mark.parametrize(
    "expected",
    [
        {"round 2": {"valid": {"mrr@10": 1.0}}},
        {"start": {"valid": {"mrr@10": 1.0}}},
        {"round 1": {"dev": {"mrr@10": 1.0}}},
        {"round 1": {"test": {"mrr@7": 1.0}}},
    ],
)
def test_expected_metrics_must_be_in_the_table(expected: dict) -> None:
    rounds = name_rounds(1, has_start=False)
    check_expected(TABLE, rounds, ["mrr@10", "recall@20"])
    with pytest.raises(UsageError, match="--expected"):
        check_expected(expected, rounds, ["mrr@10", "recall@20"])


def test_rounds_are_named_in_the_order_of_the_table() -> None:
    assert name_rounds(2, has_start=True) == ["BM25", "start", "round 1", "round 2"]


def test_a_metric_may_differ_by_the_tolerance() -> None:
    assert compare_metrics(TABLE, {"round 1": {"test": {"mrr@10": 0.505}}}, 0.01) == 1
    with pytest.raises(ArtifactError) as error:
        compare_metrics(TABLE, {"round 1": {"test": {"mrr@10": 0.52}}}, 0.01)
    assert all(word in str(error.value) for word in ("round 1", "test", "mrr@10", "0.5 ", "0.52"))
