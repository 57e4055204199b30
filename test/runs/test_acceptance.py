"""Acceptance of rounds by a paired test over the validation questions."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest

from test.helpers import write_jsonl
from text.errors import ArtifactError, NoImprovementError
from text.runs.acceptance import (
    Comparison,
    average_questions,
    compare_questions,
    read_question_values,
)
from text.runs.loop_results import LoopResults

START = {f"q{number}": 0.5 for number in range(10)}


def test_a_round_is_rejected_only_if_it_is_significantly_worse() -> None:
    # By hand: all ten differences have one sign, so 2 of the 2^10 sign assignments are as large. p is about 0.002.
    worse = compare_questions(dict.fromkeys(START, 0.4), "start", START)
    assert worse.other == "start" and worse.difference == pytest.approx(-0.1)
    assert worse.p == pytest.approx(2 / 1024, abs=0.002) and not worse.is_accepted
    better = compare_questions(dict.fromkeys(START, 0.6), "start", START)
    assert better.p == worse.p and better.is_accepted
    one = compare_questions(START | {"q3": 0.0}, "start", START)  # One question lost: both signs are as large.
    assert one == Comparison("start", pytest.approx(-0.05), 1.0) and one.is_accepted  # pyright: ignore[reportArgumentType]
    assert compare_questions(START, "start", START) == Comparison("start", 0.0, 1.0)


def test_the_p_value_is_the_share_of_sign_assignments_that_are_as_large() -> None:
    differences = [0.3, -0.1, 0.2, 0.25, -0.05, 0.15]
    values = {f"q{place}": 0.5 + each for place, each in enumerate(differences)}
    sums = [sum(map(float.__mul__, signs, differences)) for signs in itertools.product([1.0, -1.0], repeat=6)]
    share = sum(abs(each) >= abs(sum(differences)) - 1e-12 for each in sums) / len(sums)
    compared = compare_questions(values, "round 1", dict.fromkeys(values, 0.5))
    assert compared.p == pytest.approx(share, abs=0.02)


def test_the_order_of_the_questions_has_no_influence() -> None:
    values = {"a": 0.1, "b": 0.9, "c": 0.4}
    assert compare_questions(values, "x", {"c": 0.4, "b": 0.2, "a": 0.1}).difference == pytest.approx(0.7 / 3)


def test_the_values_of_several_seeds_are_averaged_by_question() -> None:
    assert average_questions([{"a": 0.2, "b": 1.0}, {"b": 0.0, "a": 0.4}]) == {"a": pytest.approx(0.3), "b": 0.5}


def test_training_that_changed_nothing_or_made_it_worse_is_an_error() -> None:
    results = LoopResults({}, {}, final="round 2", improvement=Comparison("start", 0.0123, 0.04))
    found = results.check_improvement("ndcg@10")
    assert all(part in found for part in ("round 2", "start", "+0.0123", "0.04", "ndcg@10"))
    for comparison in (None, Comparison("start", 0.0, 1.0), Comparison("start", -0.01, 0.3)):
        with pytest.raises(NoImprovementError, match="ndcg@10"):
            results._replace(improvement=comparison).check_improvement("ndcg@10")


def test_the_values_of_an_evaluation_are_read_by_question(tmp_path: Path) -> None:
    path = tmp_path / "questions.jsonl"
    write_jsonl(path, [{"question_id": "q1", "mrr@10": 0.5, "map": 1.0}, {"question_id": "q2", "mrr@10": 0}])
    assert read_question_values(path, "mrr@10") == {"q1": 0.5, "q2": 0}
    with pytest.raises(ArtifactError, match=r"questions\.jsonl, line 2.*map"):
        read_question_values(path, "map")
