"""Fusion of runs: by hand, against plain Python with fractions, and the choice of the weight."""

from __future__ import annotations

from fractions import Fraction
from random import Random

import pytest

from text.evaluation import (
    Run,
    choose_fusion_weight,
    evaluate_run,
    fuse_rankings,
    fuse_runs,
    mean_metrics,
    rank_passages,
)
from text.evaluation.fusion import FusionMethod

METHODS: list[FusionMethod] = ["ranks", "scores"]


def test_reciprocal_ranks_by_hand() -> None:
    dense, words = {"q": {"a": 3.0, "b": 2.0}}, {"q": {"b": 9.0, "c": 9.0}, "r": {"a": 1.0}}
    # b and c have the same score, so the larger id ranks first.
    assert fuse_runs([dense, words]) == {"q": {"a": 1 / 61, "b": 1 / 62 + 1 / 62, "c": 1 / 61}, "r": {"a": 1 / 61}}
    weighted = fuse_runs([dense, words], weights=[3, 1])["q"]
    assert weighted == pytest.approx({"a": 1.5 / 61, "b": 2 / 62, "c": 0.5 / 61})
    assert fuse_runs([dense, words], weights=[0.5, 0.5]) == fuse_runs([dense, words])


def test_normalized_scores_by_hand() -> None:
    dense, words = {"a": 0.9, "b": 0.7, "c": 0.5}, {"b": 12.0, "d": 8.0, "e": 4.0}
    assert fuse_rankings([dense, words], method="scores") == pytest.approx(
        {"a": 0.5, "b": 0.25 + 0.5, "c": 0, "d": 0.25, "e": 0}
    )
    assert fuse_rankings([dense, {"f": 7.0}], method="scores", weights=[1, 3])["f"] == 0.75  # equal scores count as 1
    assert fuse_rankings([dense, {}], method="scores", weights=[1, 3]) == pytest.approx({"a": 0.25, "b": 0.125, "c": 0})
    huge = fuse_rankings([{"a": 1.7e308, "b": -1.7e308, "c": 0.0}, {"a": 1.0}], method="scores")
    assert huge == {"a": 1.0, "b": 0.0, "c": 0.25}


def make_runs(random: Random, num_runs: int) -> list[Run]:
    names = [f"p{n}" for n in range(12)]
    return [
        {
            question: {name: random.randint(-4, 4) / 2 for name in random.sample(names, random.randint(1, 12))}
            for question in random.sample("uvwxyz", 4)
        }
        for _ in range(num_runs)
    ]


def fuse_with_fractions(rankings: list[dict[str, float]], method: str, weights: list[int]) -> dict[str, Fraction]:
    """Return exact fused scores. A rank is counted by comparing a passage with all others."""
    fused: dict[str, Fraction] = {}
    for scores, weight in zip(rankings, weights, strict=True):
        for name, score in scores.items() if weight else ():
            if method == "ranks":
                rank = 1 + sum(other > score or (other == score and each > name) for each, other in scores.items())
                value = Fraction(weight * len(weights), sum(weights) * (60 + rank))
            else:
                low, high = Fraction(min(scores.values())), Fraction(max(scores.values()))
                share = (Fraction(score) - low) / (high - low) if high > low else Fraction(1)
                value = share * Fraction(weight, sum(weights))
            fused[name] = fused.get(name, Fraction(0)) + value
    return fused


@pytest.mark.parametrize("method", METHODS)
def test_fused_scores_equal_exact_fractions(method: FusionMethod) -> None:
    random = Random(0)
    for _ in range(50):
        runs, weights = make_runs(random, 3), [random.randint(0, 5), random.randint(1, 5), random.randint(0, 5)]
        fused = fuse_runs(runs, method=method, weights=weights)
        assert fused.keys() == {question for run in runs for question in run}
        for question, scores in fused.items():
            exact = fuse_with_fractions([run.get(question, {}) for run in runs], method, weights)
            assert scores == pytest.approx({name: float(value) for name, value in exact.items()}, abs=1e-15)


@pytest.mark.parametrize("method", METHODS)
def test_weights_0_and_1_keep_the_order_of_one_run(method: FusionMethod) -> None:
    run, other = make_runs(Random(1), 2)
    for weights, expected in (([1, 0], run), ([0, 1], other)):
        fused = fuse_runs([run, other], method=method, weights=weights)
        assert {q: rank_passages(s) for q, s in fused.items() if s} == {
            q: rank_passages(s) for q, s in expected.items()
        }
        assert fused.keys() == run.keys() | other.keys()


def test_invalid_weights_and_methods_are_refused() -> None:
    for weights in ([1.0], [1.0, -1.0], [0.0, 0.0], [1.0, float("nan")], [1.0, float("inf")]):
        with pytest.raises(ValueError, match="weights are"):
            fuse_runs([{"q": {}}, {"q": {}}], weights=weights)
    with pytest.raises(ValueError, match='method is "sum"'):
        fuse_rankings([{}, {}], method="sum")  # type: ignore[arg-type]


def test_the_chosen_weight_is_the_best_of_all_fused_runs() -> None:
    random = Random(2)
    for _ in range(10):
        runs = make_runs(random, 2)
        qrels = {question: {f"p{n}": random.choice((0, 0, 1, 2)) for n in range(12)} for question in "uvwxyz"}
        for metric in ("ndcg@3", "mrr@10", "map"):
            chosen = choose_fusion_weight(runs, qrels, metric, num_steps=10)
            assert [(each.method, each.weight) for each in chosen.candidates] == [
                (method, step / 10) for method in METHODS for step in range(11)
            ]
            for method, weight, value in chosen.candidates:
                fused = fuse_runs(runs, method=method, weights=[weight, 1 - weight])
                assert value == mean_metrics(evaluate_run(qrels, fused, cut_offs=[3, 10]))[metric]
            best = [each for each in chosen.candidates if each.value == chosen.value]
            assert chosen.value == max(each.value for each in chosen.candidates)
            assert abs(chosen.weight - 0.5) <= min(abs(each.weight - 0.5) for each in best) + 1e-12


def test_ties_choose_the_weight_closest_to_one_half() -> None:
    same = {"q": {"a": 2.0, "b": 1.0}}
    assert choose_fusion_weight([same, same], {"q": {"a": 1}})[:3] == ("ranks", 0.5, 1.0)
    assert choose_fusion_weight([same, same], {"q": {"a": 1}}, methods=["scores"])[:3] == ("scores", 0.5, 1.0)
    # Only the end points are wrong, and 0.4 and 0.6 are equally close to one half with an odd number of steps.
    assert choose_fusion_weight([same, same], {"q": {"a": 1}}, num_steps=5)[:2] == ("ranks", 0.6)
    other = {"q": {"b": 2.0, "a": 1.0}}
    assert choose_fusion_weight([same, other], {"q": {"a": 1}}, "mrr@10").weight == 0.55
    assert choose_fusion_weight([same, other], {"q": {"b": 1}}, "mrr@10").weight == 0.5  # b ranks first in a tie.


def test_questions_that_a_run_lacks_count_as_0() -> None:
    runs: list[Run] = [{"q": {"a": 2.0}}, {"r": {"a": 2.0}}]
    chosen = choose_fusion_weight(runs, {"q": {"a": 1}, "r": {"a": 1}, "s": {"a": 1}, "t": {"a": 0}}, "mrr@1")
    assert (chosen.weight, chosen.value) == (0.5, 2 / 3)
    assert {each.weight: each.value for each in chosen.candidates[:21]}[1.0] == 1 / 3


def test_a_choice_without_two_runs_a_known_metric_or_judgments_is_refused() -> None:
    run: Run = {"q": {"a": 1.0}}
    for runs, metric, judged in (([run], "ndcg@10", 1), ([run, run], "f1", 1), ([run, run], "ndcg@10", 0)):
        with pytest.raises(ValueError, match=r"two runs|metric|relevant"):
            choose_fusion_weight(runs, {"q": {"a": judged}}, metric)
