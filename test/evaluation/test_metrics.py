"""Tests of metrics: by hand, and against trec_eval (pytrec_eval)."""

from __future__ import annotations

import math
from random import Random

import numpy as np
import pytest

from text.errors import DataError
from text.evaluation import (
    bootstrap_interval,
    evaluate_run,
    fuse_runs,
    max_passage,
    mean_metrics,
    paired_randomization,
    remove_self_matches,
)

CUT_OFFS = (1, 3, 10)


def test_metrics_by_hand() -> None:
    qrels = {"q": {"a": 2, "b": 1, "c": 0, "d": 1}}
    found = evaluate_run(qrels, {"q": {"x": 3.0, "a": 2.0, "c": 1.0, "b": 0.5}}, cut_offs=(1, 3, 4))["q"]
    ideal = 2 + 1 / math.log2(3) + 1 / 2
    assert found["ndcg@1"] == found["mrr@1"] == found["recall@1"] == found["precision@1"] == 0
    assert found["ndcg@3"] == pytest.approx(2 / math.log2(3) / ideal)
    assert found["ndcg@4"] == pytest.approx((2 / math.log2(3) + 1 / math.log2(5)) / ideal)
    assert found["mrr@3"] == 0.5
    assert (found["recall@4"], found["precision@4"]) == (2 / 3, 2 / 4)
    assert found["map"] == pytest.approx((1 / 2 + 2 / 4) / 3)


def test_questions_missing_from_the_run_score_0_or_are_skipped() -> None:
    qrels, run = {"q1": {"a": 1}, "q2": {"b": 1}, "unjudged": {"c": 0}}, {"q1": {"a": 1.0}, "other": {"a": 1.0}}
    assert {question: metrics["mrr@1"] for question, metrics in evaluate_run(qrels, run).items()} == {
        "q1": 1.0,
        "q2": 0.0,
    }
    assert list(evaluate_run(qrels, run, skip_missing=True)) == ["q1"]
    assert mean_metrics(evaluate_run(qrels, run))["map"] == 0.5
    with pytest.raises(ValueError, match="relevant"):
        evaluate_run({"q": {"a": 0}}, run)
    with pytest.raises(ValueError, match="cut_offs"):
        evaluate_run(qrels, run, cut_offs=[0])
    with pytest.raises(ValueError, match="questions"):
        mean_metrics({})


def make_random_case(random: Random) -> tuple[dict[str, dict[str, int]], dict[str, dict[str, float]]]:
    """Return random qrels and a random run. They have ties, graded relevance and passages in only one of both."""
    passages = [f"p{number}" for number in range(random.randint(1, 15))]
    judged = random.sample(passages, random.randint(1, len(passages)))
    qrels = {"q": {passage: random.choice((-1, 0, 0, 1, 1, 2, 3)) for passage in judged}}
    found = random.sample(passages, random.randint(1, len(passages)))
    return qrels, {"q": {passage: random.randint(-3, 3) / 2 for passage in found}}


def test_scores_equal_only_in_float32_rank_as_float64() -> None:
    pytrec_eval = pytest.importorskip("pytrec_eval")
    qrels, run = {"q": {"a": 1}}, {"q": {"a": 0.975230281005876, "b": 0.97523028}}
    peer = pytrec_eval.RelevanceEvaluator(qrels, {"recip_rank"})
    assert evaluate_run(qrels, run)["q"]["mrr@10"] == 1.0 and peer.evaluate(run)["q"]["recip_rank"] == 0.5
    single = {"q": {passage: float(np.float32(score)) for passage, score in run["q"].items()}}
    assert evaluate_run(qrels, single)["q"]["mrr@10"] == 0.5


@pytest.mark.parametrize("num_runs", [500, pytest.param(10_000, marks=pytest.mark.slow)])
def test_metrics_equal_trec_eval(num_runs: int) -> None:
    pytrec_eval = pytest.importorskip("pytrec_eval")
    names = {"ndcg_cut": "ndcg", "P": "precision", "recall": "recall"}
    cuts = ",".join(map(str, CUT_OFFS))
    measures = {*(f"{name}.{cuts}" for name in names), "map", "recip_rank"}
    random = Random(0)
    for _ in range(num_runs):
        qrels, run = make_random_case(random)
        if not any(relevance > 0 for relevance in qrels["q"].values()):
            continue
        theirs = pytrec_eval.RelevanceEvaluator(qrels, measures).evaluate(run)["q"]
        ours = evaluate_run(qrels, run, cut_offs=(*CUT_OFFS, 100))["q"]
        assert ours["map"] == pytest.approx(theirs["map"], abs=1e-9)
        assert ours["mrr@100"] == pytest.approx(theirs["recip_rank"], abs=1e-9)
        for their_name, name in names.items():
            for k in CUT_OFFS:
                assert ours[f"{name}@{k}"] == pytest.approx(theirs[f"{their_name}_{k}"], abs=1e-9), (qrels, run)


def test_remove_self_matches_by_hand() -> None:
    assert remove_self_matches({"a": {"a": 1.0, "b": 0.5}, "c": {"a": 0.1}}) == {"a": {"b": 0.5}, "c": {"a": 0.1}}


def test_fuse_runs_by_hand() -> None:
    fused = fuse_runs([{"q": {"a": 9.0, "b": 8.0}}, {"q": {"b": 0.2, "c": 0.1}, "r": {"a": 0.0}}], constant=1)
    assert fused == {"q": {"a": 1 / 2, "b": 1 / 3 + 1 / 2, "c": 1 / 3}, "r": {"a": 1 / 2}}
    assert fuse_runs([{"q": {"a": 9.0}}]) == {"q": {"a": 1 / 61}}  # default constant of the paper


def test_max_passage_by_hand() -> None:
    run = {"q": {"a#0": 1.0, "a#1": 3.0, "b#x#0": 2.0, "c#0": 2.5}, "r": {}}
    assert max_passage(run, 2) == {"q": {"a": 3.0, "c": 2.5}, "r": {}}
    assert max_passage(run, 9)["q"] == {"a": 3.0, "c": 2.5, "b#x": 2.0}


def test_a_passage_that_is_not_a_window_is_refused_with_its_id() -> None:
    with pytest.raises(DataError, match="question q: passage b "):
        max_passage({"q": {"a#0": 1.0, "b": 0.5}}, 2)


def test_bootstrap_interval_is_close_to_the_normal_one() -> None:
    low, high = bootstrap_interval([0.0, 1.0] * 200)  # The standard error is 0.5 / 20.
    assert low == pytest.approx(0.5 - 1.96 * 0.025, abs=0.005)
    assert high == pytest.approx(0.5 + 1.96 * 0.025, abs=0.005)
    assert bootstrap_interval([0.3, 0.3]) == (0.3, 0.3)


def test_paired_randomization_by_counting() -> None:
    # There are 2^4 sign assignments. Two of them have a sum of 4 or -4.
    assert paired_randomization([1.0] * 4, [0.0] * 4) == pytest.approx(2 / 16, abs=0.01)
    assert paired_randomization([0.5, 0.1], [0.5, 0.1]) == 1.0
    # The size of the differences does not matter. Many questions are drawn in several chunks.
    assert paired_randomization([0.1] * 4, [0.0] * 4) == pytest.approx(2 / 16, abs=0.01)
    assert paired_randomization([0.5] * 2000, [0.5] * 2000) == 1.0
    # The differences are 1, 1 and -1. All 8 sums (3, -3, 1 or -1) are at least as large as the observed sum of 1.
    assert paired_randomization([1.0, 1.0, 0.0], [0.0, 0.0, 1.0]) == 1.0
