"""Summarize scored runs: means with confidence intervals, p-values, and a split by questions seen in training."""

from __future__ import annotations

import os

from text.datasets import read_positive_ids
from text.datasets.dpr_file import check_row_ids
from text.errors import DataError
from text.evaluation import bootstrap_interval, mean_metrics, paired_randomization
from text.retrieval.scoring import ScoredRun

MetricTable = dict[str, dict[str, float]]
"""Statistics of each metric by name: "mean", "low" and "high", and with another run also "other" and "p"."""


def summarize_scores(scored: ScoredRun, other: ScoredRun | None = None, *, seed: int = 0) -> MetricTable:
    """Return the mean of each metric over the questions, with a 95 % bootstrap confidence interval.

    Args:
        scored: The metrics of a run.
        other: The metrics of another run of the same questions, to compare with.
        seed: Seed of the bootstrap and of the randomization test.

    Returns:
        For each metric by name: "mean", and "low" and "high" of the interval. With another run also "other", its
        mean, and "p", the two-sided p-value of a paired randomization test.

    Raises:
        DataError: The runs were scored on different questions.

    >>> scored = ScoredRun("run.trec", {"q1": {"mrr@10": 0.5}, "q2": {"mrr@10": 1.0}}, 0, 0, [])
    >>> summarize_scores(scored)["mrr@10"]
    {'mean': 0.75, 'low': 0.5, 'high': 1.0}
    """
    if other is not None and scored.metrics.keys() != other.metrics.keys():
        raise DataError(
            f"{other.path}: does not have the same questions as {scored.path}. Compare runs of the same questions, or "
            "leave out --skip_missing (skip_missing) to count missing questions as 0."
        )
    table = {}
    for name, mean in mean_metrics(scored.metrics).items():
        values = [metrics[name] for metrics in scored.metrics.values()]
        low, high = bootstrap_interval(values, num_samples=1000, seed=seed)
        table[name] = {"mean": mean, "low": low, "high": high}
        if other is not None:
            others = [other.metrics[question_id][name] for question_id in scored.metrics]
            p = paired_randomization(values, others, seed=seed)
            table[name] |= {"other": mean_metrics(other.metrics)[name], "p": p}
    return table


def describe_scores(scored: ScoredRun, *, by_answers: bool) -> str:
    """Return the counts of a scored run as one line.

    Args:
        scored: The scored run.
        by_answers: The run was scored by answers in passages.
    """
    counts = [
        f"{len(scored.metrics)} questions ({scored.num_missing} missing in the run, counted as 0)",
        "95 % bootstrap confidence intervals",
    ]
    if scored.num_skipped:
        counts.append(f"{scored.num_skipped} questions missing in the run were skipped")
    if scored.num_without_answers:
        lacking = "answers" if by_answers else "a relevant passage"
        counts.append(f"{scored.num_without_answers} questions without {lacking} were skipped")
    if scored.num_unspaced:
        counts.append(
            f"{scored.num_unspaced} questions have answers in a script without spaces, which are matched as strings"
        )
    return "; ".join(counts)


def split_seen(
    scored: ScoredRun, rows: str | os.PathLike[str], other: ScoredRun | None = None
) -> dict[str, tuple[ScoredRun, ScoredRun | None]]:
    """Split the questions of a scored run into those seen and those unseen in training.

    A question is seen if one of its relevant passages is a positive, by id, of any training row. The text of the
    question does not matter.

    Args:
        scored: A run that was scored by qrels or positives, or by questions that have positives with ids.
        rows: Training rows in the DPR format. Only the ids of their positives are used.
        other: Another run of the same questions, which is split the same way.

    Returns:
        For "seen" and for "unseen", both runs with only these questions.

    Raises:
        DataError: The rows are malformed, have no positives with ids, or have an id with two different passages. Or
            the run has no question with a known relevant passage.
        OSError: The rows cannot be read.
    """
    if not any(scored.relevant.get(question_id) for question_id in scored.metrics):
        raise DataError(
            f"{scored.path}: no relevant passages of its questions are known. Score the run by qrels or positives."
        )
    known = read_positive_ids(rows)
    if not known:
        raise DataError(f"{os.fspath(rows)}: no positives with ids. Use rows whose positives have a passage_id.")
    check_row_ids(rows)
    seen = {question_id for question_id in scored.metrics if not known.isdisjoint(scored.relevant[question_id])}
    return {
        "seen": (_keep(scored, seen), other and _keep(other, seen)),
        "unseen": (_keep(scored, scored.metrics.keys() - seen), other and _keep(other, other.metrics.keys() - seen)),
    }


def _keep(scored: ScoredRun, question_ids: set[str]) -> ScoredRun:
    metrics = {name: values for name, values in scored.metrics.items() if name in question_ids}
    return scored._replace(metrics=metrics)
