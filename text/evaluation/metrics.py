"""Metrics of TREC runs against qrels as in trec_eval, with confidence intervals and significance tests.

trec_eval stores scores as float32, this module as float64. The results are equal if no two scores of a question
round to the same float32. If scores are equal, the passage with the larger id ranks first. A passage without a
judgment is not relevant. nDCG uses the relevance as gain and log2(rank + 1) as discount. All other metrics count a
relevance of 1 or more as relevant.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np

from text.errors import DataError
from text.evaluation.trec import Run, rank_passages

Metrics = dict[str, float]
"""Values by name of the metric, such as ``ndcg@10``."""


def evaluate_run(
    qrels: Mapping[str, Mapping[str, int]],
    run: Mapping[str, Mapping[str, float]],
    *,
    cut_offs: Sequence[int] = (1, 5, 10, 20, 100),
    skip_missing: bool = False,
) -> dict[str, Metrics]:
    """Return the metrics of each question that has a relevant passage.

    Args:
        qrels: Relevance by question id and passage id.
        run: Scores by question id and passage id.
        cut_offs: Values of k for nDCG@k, MRR@k, recall@k and precision@k. MAP uses all found passages.
        skip_missing: Skip questions of the qrels that are not in the run. Otherwise their metrics are 0.

    Returns:
        Metrics by question id. ``mean_metrics`` averages them.

    Raises:
        ValueError: No question has a relevant passage, or a cut-off is below 1.

    The only relevant passage has rank 2, where the discount of nDCG is log2(3):

    >>> metrics = evaluate_run({"q": {"b": 1}}, {"q": {"a": 2.0, "b": 1.0}}, cut_offs=[10])
    >>> metrics["q"]["ndcg@10"], metrics["q"]["mrr@10"], metrics["q"]["recall@10"], metrics["q"]["map"]
    (0.6309..., 0.5, 1.0, 0.5)
    """
    if min(cut_offs, default=1) < 1:
        raise ValueError(f"cut_offs is {list(cut_offs)}. Each cut-off must be at least 1.")
    questions = [question for question, judged in qrels.items() if any(relevance > 0 for relevance in judged.values())]
    if skip_missing:
        questions = [question for question in questions if question in run]
    if not questions:
        raise ValueError("No question has a relevant passage. Use a run and qrels for the same questions.")
    return {
        question: evaluate_ranking(qrels[question], rank_passages(run.get(question, {})), cut_offs)
        for question in questions
    }


def evaluate_ranking(judged: Mapping[str, int], passages: Sequence[str], cut_offs: Sequence[int]) -> Metrics:
    """Return the metrics of one question that has a relevant passage.

    Args:
        judged: Relevance by passage id.
        passages: Ids of the found passages, best first.
        cut_offs: See ``evaluate_run``.
    """
    gains = [max(0, judged.get(passage, 0)) for passage in passages]
    ideal = sorted((relevance for relevance in judged.values() if relevance > 0), reverse=True)
    ranks = [rank for rank, gain in enumerate(gains, start=1) if gain > 0]
    metrics: Metrics = {}
    for k in cut_offs:
        metrics[f"ndcg@{k}"] = _compute_dcg(gains[:k]) / _compute_dcg(ideal[:k])
    for k in cut_offs:
        metrics[f"mrr@{k}"] = 1 / ranks[0] if ranks and ranks[0] <= k else 0.0
    for k in cut_offs:
        metrics[f"recall@{k}"] = sum(rank <= k for rank in ranks) / len(ideal)
    for k in cut_offs:
        metrics[f"precision@{k}"] = sum(rank <= k for rank in ranks) / k
    metrics["map"] = math.fsum(found / rank for found, rank in enumerate(ranks, start=1)) / len(ideal)
    return metrics


def mean_metrics(metrics: Mapping[str, Metrics]) -> Metrics:
    """Return the mean of each metric over all questions.

    Raises:
        ValueError: ``metrics`` is empty.
    """
    if not metrics:
        raise ValueError("There are no questions.")
    names = next(iter(metrics.values()))
    return {name: math.fsum(each[name] for each in metrics.values()) / len(metrics) for name in names}


def remove_self_matches(run: Run) -> Run:
    """Return a run without passages that have the id of their question.

    Some data sets take their questions from the collection (BEIR's ArguAna and Quora).
    """
    return {
        question: {passage: score for passage, score in scores.items() if passage != question}
        for question, scores in run.items()
    }


def max_passage(run: Run, num_hits: int) -> Run:
    """Return a run of documents from a run of windows. A document gets the score of its best window.

    This is MaxP (Dai and Callan, arXiv:1905.09217). ``text.datasets.windows`` makes the windows.

    Args:
        run: Run of windows with ids of the form ``DOCUMENT#NUMBER``. The id of a document ends at the last #.
        num_hits: Maximum number of documents per question.

    Raises:
        DataError: A passage id has no #.

    >>> max_passage({"q": {"a#0": 1.0, "a#1": 3.0, "b#0": 2.0, "c#0": 1.0}}, 2)
    {'q': {'a': 3.0, 'b': 2.0}}
    """
    best: Run = {}
    for question, scores in run.items():
        document_scores = best.setdefault(question, {})
        for passage in rank_passages(scores):
            document, is_window, _ = passage.rpartition("#")
            if not is_window:
                raise DataError(
                    f"question {question}: passage {passage} is not a window. Search a collection of windows, "
                    "with ids such as DOCUMENT#0."
                )
            if document not in document_scores and len(document_scores) < num_hits:
                document_scores[document] = scores[passage]
    return best


def bootstrap_interval(
    values: Sequence[float], *, confidence: float = 0.95, num_samples: int = 10_000, seed: int = 0
) -> tuple[float, float]:
    """Return a percentile bootstrap confidence interval of the mean.

    Args:
        values: Value of each question.
        confidence: Confidence level, between 0 and 1.
        num_samples: Number of bootstrap samples.
        seed: Seed of the random samples.

    Returns:
        Lower and upper bound.
    """
    return bootstrap_macro_interval([values], confidence=confidence, num_samples=num_samples, seed=seed)


def bootstrap_macro_interval(
    sets: Sequence[Sequence[float]], *, confidence: float = 0.95, num_samples: int = 10_000, seed: int = 0
) -> tuple[float, float]:
    """Return a percentile bootstrap confidence interval of the mean over the means of several sets.

    Questions are sampled within each set. The choice of the sets counts as fixed.

    Args:
        sets: Values of the questions of each set.
        confidence: See ``bootstrap_interval``.
        num_samples: See ``bootstrap_interval``.
        seed: See ``bootstrap_interval``.

    Returns:
        Lower and upper bound.
    """
    random, means = np.random.default_rng(seed), np.zeros(num_samples)
    for array in map(np.asarray, sets):
        means += [array[random.integers(len(array), size=len(array))].mean() for _ in range(num_samples)]
    low, high = np.quantile(means / len(sets), [(1 - confidence) / 2, (1 + confidence) / 2])
    return float(low), float(high)


def paired_randomization(
    values: Sequence[float], others: Sequence[float], *, num_samples: int = 10_000, seed: int = 0
) -> float:
    """Return the two-sided p-value of a paired randomization test (Smucker, Allan and Carterette, CIKM 2007).

    Args:
        values: Value of each question in one run.
        others: Value of each question in another run, in the same order.
        num_samples: Number of random sign assignments.
        seed: Seed of the random signs.
    """
    random, differences = np.random.default_rng(seed), np.asarray(values) - np.asarray(others)
    observed, as_large = abs(differences.sum()), 0
    chunk_size = max(1, (1 << 22) // max(1, len(differences)))
    for start in range(0, num_samples, chunk_size):
        size = (min(chunk_size, num_samples - start), len(differences))
        signs = random.integers(0, 2, size=size, dtype=np.int8) * 2 - 1
        as_large += int((np.abs(signs @ differences) >= observed - 1e-12).sum())
    return (1 + as_large) / (1 + num_samples)


def _compute_dcg(gains: Sequence[int]) -> float:
    return math.fsum(gain / math.log2(rank + 1) for rank, gain in enumerate(gains, start=1))
