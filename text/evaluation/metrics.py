"""Measures of runs against qrels, as trec_eval has them, and how sure they are.

They equal those of trec_eval for scores that differ in float32, in which trec_eval keeps them. Here, scores are in
float64. Of equal scores, the passage with the larger id ranks first. A passage without a judgement is not relevant.
nDCG has the relevance as gain and log2(rank + 1) as discount; the others count a relevance of 1 and more.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np

from text.errors import DataError
from text.evaluation.trec import Run, rank_passages

Figures = dict[str, float]
"""By name of a measure, such as ``ndcg@10``."""


def evaluate_run(
    qrels: Mapping[str, Mapping[str, int]],
    run: Mapping[str, Mapping[str, float]],
    *,
    cut_offs: Sequence[int] = (1, 5, 10, 20, 100),
    skip_missing: bool = False,
) -> dict[str, Figures]:
    """The figures of each question that has a relevant passage.

    Args:
        qrels: How relevant passages are.
        run: What was found.
        cut_offs: k of nDCG@k, MRR@k, recall@k and precision@k; MAP is over all that was found.
        skip_missing: Questions of the qrels that the run does not have are left out; otherwise they count 0.

    Returns:
        By question id. The mean over questions is that of the collection.

    Raises:
        ValueError: No question is left, or a cut-off is below 1.

    The one relevant passage is on place 2, where nDCG's discount is log2(3):

    >>> figures = evaluate_run({"q": {"b": 1}}, {"q": {"a": 2.0, "b": 1.0}}, cut_offs=[10])
    >>> figures["q"]["ndcg@10"], figures["q"]["mrr@10"], figures["q"]["recall@10"], figures["q"]["map"]
    (0.6309..., 0.5, 1.0, 0.5)
    """
    if min(cut_offs, default=1) < 1:
        raise ValueError(f"cut_offs are {list(cut_offs)}. Use 1 or more for each.")
    asked = [question for question, judged in qrels.items() if any(relevance > 0 for relevance in judged.values())]
    if skip_missing:
        asked = [question for question in asked if question in run]
    if not asked:
        raise ValueError("No question has a relevant passage. Give run and qrels of the same questions.")
    return {
        question: _of_question(qrels[question], rank_passages(run.get(question, {})), cut_offs) for question in asked
    }


def mean_metrics(figures: Mapping[str, Figures]) -> Figures:
    """Over questions.

    Raises:
        ValueError: There are none.
    """
    if not figures:
        raise ValueError("no questions; expected one or more")
    names = next(iter(figures.values()))
    return {name: math.fsum(of_question[name] for of_question in figures.values()) / len(figures) for name in names}


def without_self_matches(run: Run) -> Run:
    """Without passages that have the id of their question, as where questions come out of the collection."""
    return {
        question: {passage: score for passage, score in scores.items() if passage != question}
        for question, scores in run.items()
    }


def fuse_runs(runs: Sequence[Run], *, constant: int = 60) -> Run:
    """Reciprocal rank fusion: a passage's score is the sum of 1 / (constant + rank) over the runs that have it.

    Cormack, Clarke and Buettcher, SIGIR 2009.

    >>> fuse_runs([{"q": {"a": 9.0, "b": 8.0}}, {"q": {"b": 0.3}}], constant=1)  # 1/2; 1/3 + 1/2
    {'q': {'a': 0.5, 'b': 0.8333...}}
    """
    fused: Run = {}
    for run in runs:
        for question, scores in run.items():
            of_question = fused.setdefault(question, {})
            for rank, passage in enumerate(rank_passages(scores), start=1):
                of_question[passage] = of_question.get(passage, 0.0) + 1 / (constant + rank)
    return fused


def max_passage(run: Run, num_hits: int) -> Run:
    """Documents of a run of their windows (``text.datasets.windows``): each with the score of its best one.

    MaxP of Dai and Callan, arXiv:1905.09217.

    Args:
        run: Of passages with ids such as ``DOCUMENT#NUMBER``; what stands after the last # is left out.
        num_hits: Documents for each question, at most.

    Raises:
        DataError: An id has no #.

    >>> max_passage({"q": {"a#0": 1.0, "a#1": 3.0, "b#0": 2.0, "c#0": 1.0}}, 2)
    {'q': {'a': 3.0, 'b': 2.0}}
    """
    best: Run = {}
    for question, scores in run.items():
        of_question = best.setdefault(question, {})
        for passage in rank_passages(scores):
            document, is_window, _ = passage.rpartition("#")
            if not is_window:
                raise DataError(
                    f"question {question}: passage {passage} is no window. Search windows, whose ids are as DOCUMENT#0."
                )
            if document not in of_question and len(of_question) < num_hits:
                of_question[document] = scores[passage]
    return best


def bootstrap_interval(
    values: Sequence[float], *, confidence: float = 0.95, num_samples: int = 10_000, seed: int = 0
) -> tuple[float, float]:
    """Return a percentile bootstrap confidence interval of the mean."""
    random, array = np.random.default_rng(seed), np.asarray(values)
    means = [array[random.integers(len(array), size=len(array))].mean() for _ in range(num_samples)]
    low, high = np.quantile(means, [(1 - confidence) / 2, (1 + confidence) / 2])
    return float(low), float(high)


def paired_randomization(
    values: Sequence[float], others: Sequence[float], *, num_samples: int = 10_000, seed: int = 0
) -> float:
    """Return the two-sided p-value of a paired randomization test on two runs of the same questions.

    Smucker, Allan and Carterette, CIKM 2007.
    """
    random, differences = np.random.default_rng(seed), np.asarray(values) - np.asarray(others)
    found, as_large = abs(differences.sum()), 0
    at_once = max(1, (1 << 22) // max(1, len(differences)))
    for start in range(0, num_samples, at_once):
        size = (min(at_once, num_samples - start), len(differences))
        signs = random.integers(0, 2, size=size, dtype=np.int8) * 2 - 1
        as_large += int((np.abs(signs @ differences) >= found - 1e-12).sum())
    return (1 + as_large) / (1 + num_samples)


def _of_question(judged: Mapping[str, int], passages: Sequence[str], cut_offs: Sequence[int]) -> Figures:
    gains = [max(0, judged.get(passage, 0)) for passage in passages]
    ideal = sorted((relevance for relevance in judged.values() if relevance > 0), reverse=True)
    ranks = [rank for rank, gain in enumerate(gains, start=1) if gain > 0]
    figures: Figures = {}
    for k in cut_offs:
        figures[f"ndcg@{k}"] = _gain(gains[:k]) / _gain(ideal[:k])
    for k in cut_offs:
        figures[f"mrr@{k}"] = 1 / ranks[0] if ranks and ranks[0] <= k else 0.0
    for k in cut_offs:
        figures[f"recall@{k}"] = sum(rank <= k for rank in ranks) / len(ideal)
    for k in cut_offs:
        figures[f"precision@{k}"] = sum(rank <= k for rank in ranks) / k
    figures["map"] = math.fsum(found / rank for found, rank in enumerate(ranks, start=1)) / len(ideal)
    return figures


def _gain(gains: Sequence[int]) -> float:
    return math.fsum(gain / math.log2(rank + 1) for rank, gain in enumerate(gains, start=1))
