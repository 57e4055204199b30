"""Fusion of runs: one ranking of passages from the rankings of several searches.

The functions are pure, so a fused score can be checked with a pencil. ``text/retrieval/hybrid.py`` fuses searches with
the same functions. There are two methods:

- "ranks": reciprocal rank fusion (Cormack, Clarke and Buettcher, SIGIR 2009). Scores do not matter, only ranks.
- "scores": a weighted sum of scores that are normalized to 0..1 per question (min-max normalization).
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import Literal, NamedTuple

import numpy as np

from text.evaluation.metrics import evaluate_ranking
from text.evaluation.trec import Run, rank_passages

FusionMethod = Literal["ranks", "scores"]
FUSION_METHODS: tuple[FusionMethod, ...] = ("ranks", "scores")
RANK_CONSTANT = 60
"""Constant of reciprocal rank fusion, from the paper."""
NUM_STEPS = 20
"""Number of steps from weight 0 to weight 1 in the search for the best weight."""
_METRIC = re.compile(r"(?:ndcg|mrr|recall|precision)@([1-9]\d{0,8})|map")


class FusionCandidate(NamedTuple):
    """A way to fuse two runs, and how good the fused run is."""

    method: FusionMethod
    weight: float
    """Weight of the first run. The second run has 1 minus this weight."""
    value: float
    """Mean of the metric over all questions with a relevant passage."""


class ChosenFusion(NamedTuple):
    """The best way to fuse two runs on judged questions."""

    method: FusionMethod
    weight: float
    """Weight of the first run. The second run has 1 minus this weight."""
    value: float
    """Mean of the metric. It is optimistic, because the weight was chosen on the same questions."""
    metric: str
    candidates: list[FusionCandidate]
    """All compared ways, by method and then by weight."""


def fuse_runs(
    runs: Sequence[Run],
    *,
    method: FusionMethod = "ranks",
    weights: Sequence[float] | None = None,
    constant: int = RANK_CONSTANT,
) -> Run:
    """Return one run from several runs. It has the questions of all runs.

    Args:
        runs: Runs to fuse.
        method: See ``fuse_rankings``.
        weights: See ``fuse_rankings``.
        constant: See ``fuse_rankings``.

    Raises:
        ValueError: See ``fuse_rankings``.

    >>> fuse_runs([{"q": {"a": 9.0, "b": 8.0}}, {"q": {"b": 0.3}}], constant=1)  # 1/2; 1/3 + 1/2
    {'q': {'a': 0.5, 'b': 0.8333...}}
    """
    question_ids = dict.fromkeys(question_id for run in runs for question_id in run)
    return {
        question_id: fuse_rankings(
            [run.get(question_id, {}) for run in runs], method=method, weights=weights, constant=constant
        )
        for question_id in question_ids
    }


def fuse_rankings(
    rankings: Sequence[Mapping[str, float]],
    *,
    method: FusionMethod = "ranks",
    weights: Sequence[float] | None = None,
    constant: int = RANK_CONSTANT,
) -> dict[str, float]:
    """Return the fused score of each passage that one of several searches found for a question.

    With "ranks", a search adds weight / (constant + rank) to a passage that it found. Ranks start at 1. If
    two scores are equal, the passage with the larger id ranks first. The weights are scaled to a mean of 1, so equal
    weights give the scores of the paper.

    With "scores", a search adds weight * (score - minimum) / (maximum - minimum). Minimum and maximum are
    taken over its own list for this question. If all its scores are equal, they count as 1. The weights are scaled to a
    sum of 1.

    A search adds 0 to a passage that it did not find. With "scores" this equals the last passage of its list. A search
    with weight 0 is left out with its passages, so the other search alone decides the ranking.

    Args:
        rankings: Scores by passage id, from each search.
        method: "ranks" or "scores".
        weights: Weight of each search, 0 or more. Only their ratios matter. None means equal weights.
        constant: Constant of reciprocal rank fusion. A larger value makes the first ranks less important.

    Raises:
        ValueError: The weights are not one number of 0 or more for each search, or all are 0.

    The passage that only the second search found gets 0 from the first search:

    >>> fuse_rankings([{"a": 9.0, "b": 7.0, "c": 5.0}, {"d": 3.0, "b": 1.0}], method="scores", weights=[0.6, 0.4])
    {'a': 0.6, 'b': 0.3, 'c': 0.0, 'd': 0.4}
    """
    scaled = _scale_weights(method, len(rankings), weights)
    return _add_up([_rate_passages(each, method, constant) for each in rankings], scaled)


def choose_fusion_weight(
    runs: Sequence[Run],
    qrels: Mapping[str, Mapping[str, int]],
    metric: str = "ndcg@10",
    *,
    methods: Sequence[FusionMethod] = FUSION_METHODS,
    num_steps: int = NUM_STEPS,
) -> ChosenFusion:
    """Return the method and the weight that fuse two runs best on judged questions.

    All weights from 0 to 1 in equal steps are compared. If several are equally good, the weight closest to 0.5 is
    chosen, then the earlier method, then the larger weight. Choose on questions that the final evaluation does not use.

    Args:
        runs: Two runs. The weight belongs to the first one.
        qrels: Relevance by question id and passage id. A question that a run lacks counts as 0.
        metric: Metric to maximize, such as "ndcg@10", "mrr@10", "recall@100" or "map".
        methods: Methods to compare.
        num_steps: Number of steps from weight 0 to weight 1.

    Raises:
        ValueError: There are not two runs, the metric is unknown, there are no methods, or no question has a relevant
            passage.

    The first run alone ranks the relevant passage first, and so does every weight above 0.5:

    >>> qrels, runs = {"q": {"a": 1}}, [{"q": {"a": 2.0, "b": 1.0}}, {"q": {"b": 2.0, "a": 1.0}}]
    >>> choose_fusion_weight(runs, qrels, "mrr@10", num_steps=10)[:3]
    ('ranks', 0.6, 1.0)
    """
    if len(runs) != 2 or not methods or num_steps < 1:
        raise ValueError(f"there are {len(runs)} runs, {len(methods)} methods and {num_steps} steps. Give two runs.")
    cut_off = check_metric(metric)
    weights = [step / num_steps for step in range(num_steps + 1)]
    candidates = [
        FusionCandidate(method, weight, value)
        for method in methods
        for weight, value in zip(weights, _compare_weights(runs, qrels, metric, cut_off, method, weights), strict=True)
    ]

    def rate(candidate: FusionCandidate) -> tuple[float, float, int, float]:
        distance = abs(2 * round(candidate.weight * num_steps) - num_steps)
        return candidate.value, -distance, -methods.index(candidate.method), candidate.weight

    best = max(candidates, key=rate)
    return ChosenFusion(best.method, best.weight, best.value, metric, candidates)


def split_weight(weight: float) -> list[float]:
    """Return the weights of two runs from the weight of the first one.

    >>> split_weight(0.75)
    [0.75, 0.25]
    """
    return [weight, 1 - weight]


def check_metric(metric: str) -> int:
    """Return the cut-off of a metric, or 1 for map, which has none.

    Raises:
        ValueError: The metric is unknown.

    >>> check_metric("recall@100")
    100
    """
    match = _METRIC.fullmatch(metric)
    if match is None:
        raise ValueError(
            f'the metric is "{metric}". Use ndcg@10, mrr@10, recall@100 or precision@5 with any k, or map.'
        )
    return int(match[1] or 1)


def _compare_weights(
    runs: Sequence[Run],
    qrels: Mapping[str, Mapping[str, int]],
    metric: str,
    cut_off: int,
    method: FusionMethod,
    weights: Sequence[float],
) -> list[float]:
    """Return the mean of the metric for each weight, without building a run for each."""
    judged = {name: each for name, each in qrels.items() if any(relevance > 0 for relevance in each.values())}
    if not judged:
        raise ValueError("No question has a relevant passage. Use qrels for the questions of the runs.")
    scaled = [_scale_weights(method, len(runs), split_weight(weight)) for weight in weights]
    values: list[list[float]] = [[] for _ in weights]
    length = None if metric == "map" else cut_off
    for question_id, relevant in judged.items():
        ratings = [_rate_passages(run.get(question_id, {}), method, RANK_CONSTANT) for run in runs]
        for ranking, found in zip(_rank_by_weights(ratings, scaled, length), values, strict=True):
            found.append(evaluate_ranking(relevant, ranking, [cut_off])[metric])
    return [math.fsum(found) / len(judged) for found in values]


def _rank_by_weights(
    ratings: Sequence[Mapping[str, float]], weights: Sequence[Sequence[float]], length: int | None
) -> list[list[str]]:
    """Return the first ids of ``rank_passages(_add_up(...))`` of one question, for each of W pairs of weights."""
    ids = sorted(ratings[0].keys() | ratings[1].keys(), reverse=True)  # A stable sort keeps this order of equal scores.
    first, second = (np.array([rating.get(each, 0.0) for each in ids]) for rating in ratings)
    is_found = np.array([[each in rating for each in ids] for rating in ratings], dtype=bool)
    pairs = np.array(weights)  # (W, 2)
    scores = pairs[:, :1] * first + pairs[:, 1:] * second  # (W, passages)
    is_kept = ((pairs[:, :, None] > 0) & is_found).any(axis=1)
    order = np.argsort(np.where(is_kept, -scores, np.inf), axis=1, kind="stable")[:, :length]
    counts = is_kept.sum(axis=1).tolist()
    return [[ids[place] for place in row[:count]] for row, count in zip(order.tolist(), counts, strict=True)]


def _scale_weights(method: FusionMethod, num_runs: int, weights: Sequence[float] | None) -> list[float]:
    """Return the weights scaled to a mean of 1 for "ranks", and to a sum of 1 for "scores"."""
    given = [1.0] * num_runs if weights is None else list(weights)
    if len(given) != num_runs or not all(0 <= each < math.inf for each in given) or not sum(given):
        raise ValueError(f"weights are {given}. Give one number of 0 or more for each of {num_runs} runs, not only 0.")
    if method not in FUSION_METHODS:
        raise ValueError(f'method is "{method}". Use "ranks" or "scores".')
    total = sum(given) / num_runs if method == "ranks" else sum(given)
    return [each / total for each in given]


def _rate_passages(scores: Mapping[str, float], method: FusionMethod, constant: int) -> dict[str, float]:
    """Return the value that one search adds to each of its passages, before weighting."""
    if method == "ranks":
        return {passage_id: 1 / (constant + rank) for rank, passage_id in enumerate(rank_passages(scores), start=1)}
    # The difference of two halves is finite for all finite scores.
    low, high = min(scores.values(), default=0.0) / 2, max(scores.values(), default=0.0) / 2
    return {passage_id: (score / 2 - low) / (high - low) if high > low else 1.0 for passage_id, score in scores.items()}


def _add_up(ratings: Sequence[Mapping[str, float]], weights: Sequence[float]) -> dict[str, float]:
    fused: dict[str, float] = {}
    for rating, weight in zip(ratings, weights, strict=True):
        if weight:
            for passage_id, value in rating.items():
                fused[passage_id] = fused.get(passage_id, 0.0) + weight * value
    return fused
