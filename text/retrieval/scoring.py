"""Score a run: by relevance judgments (qrels), by the positives of training rows, or by the answers in passages.

``score_run`` reads files. The metrics themselves are functions of plain dictionaries in ``text.evaluation``.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from tqdm import tqdm

from text.datasets import PassageCollection, Question, read_questions
from text.errors import DataError
from text.evaluation import (
    Qrels,
    Run,
    bootstrap_interval,
    evaluate_run,
    fuse_runs,
    has_answer,
    mean_metrics,
    paired_randomization,
    rank_passages,
    read_qrels,
    read_run,
    top_k_accuracy,
    without_self_matches,
)
from text.evaluation.trec import check_common_questions

StrPath = str | os.PathLike[str]

CUT_OFFS = (1, 5, 10, 20, 100)
"""Values of k in metrics such as recall@k, unless the user chooses others."""


class ScoredRun(NamedTuple):
    """The metrics of a run."""

    path: str
    """The file of the run."""
    metrics: dict[str, dict[str, float]]
    """Metrics by question id and name, such as ``ndcg@10``."""
    num_missing: int
    """Questions that the run does not have. All their metrics are 0."""
    num_without_answers: int
    """Questions without answers, which are skipped if the run is scored by answers."""
    results: list[dict[str, Any]]
    """The found passages of each question in the form of DPR's result files, if they are kept."""


def score_run(
    path: StrPath,
    *,
    qrels: StrPath | None = None,
    positives: StrPath | None = None,
    questions: StrPath | None = None,
    collection: StrPath | None = None,
    k: Sequence[int] = CUT_OFFS,
    fuse_with: StrPath | None = None,
    drop_self_matches: bool = False,
    skip_missing: bool = False,
    keep_results: bool = False,
) -> ScoredRun:
    """Score a TREC run by one of three kinds of judgments.

    Args:
        path: The run.
        qrels: Relevance judgments in the form of TREC or BEIR.
        positives: Training rows. Their positives, by id, are the relevant passages.
        questions: Questions with answers. A passage is relevant if it contains an answer (``has_answer``).
        collection: The passages that were searched, to look for answers.
        k: Cut-offs of the metrics.
        fuse_with: A run that is fused with the first one by reciprocal ranks.
        drop_self_matches: Ignore passages whose id is the id of their question.
        skip_missing: Skip questions that the run does not have. Otherwise their metrics are 0.
        keep_results: Return the found passages, too, if the run is scored by answers.

    Raises:
        ValueError: Not exactly one kind of judgments is given, or a cut-off is below 1.
        DataError: A file is malformed, the files have no question in common, or the collection lacks a passage.
        OSError: A file cannot be read.

    >>> import pathlib, tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     run, qrels = pathlib.Path(folder, "run.trec"), pathlib.Path(folder, "qrels.tsv")
    ...     _ = run.write_text("q1 Q0 p1 1 2.0 dense\\nq1 Q0 p2 2 1.0 dense\\n"), qrels.write_text("q1 0 p2 1\\n")
    ...     scored = score_run(run, qrels=qrels, k=[1, 10])
    >>> scored.metrics["q1"]["mrr@10"], scored.metrics["q1"]["recall@1"]
    (0.5, 0.0)
    """
    given = [each for each in (qrels, positives, questions) if each is not None]
    if len(given) != 1 or (questions is None) != (collection is None):
        raise ValueError("qrels, positives, questions: give one of them, and collection together with questions.")
    if not k or min(k) < 1:
        raise ValueError(f"k is {list(k)}. Use numbers from 1 on.")
    [source], run = given, read_fused_run(path, fuse_with, drop_self_matches=drop_self_matches)
    if collection is not None:
        asked = read_questions(source)
        answerable = [question for question in asked if question.answers]
        if not answerable:
            raise DataError(f"{os.fspath(source)}: no question has an answer to look for.")
        check_common_questions(path, run, source, (question.question_id for question in answerable))
        kept = [question for question in answerable if question.question_id in run or not skip_missing]
        metrics, results = score_by_answers(run, kept, PassageCollection(collection), k=k, keep_results=keep_results)
        num_without_answers = len(asked) - len(answerable)
    else:
        judgments = read_qrels(source) if qrels is not None else read_positives(source)
        check_common_questions(path, run, source, judgments)
        metrics = evaluate_run(judgments, run, cut_offs=k, skip_missing=skip_missing)
        results, num_without_answers = [], 0
    num_missing = sum(question_id not in run for question_id in metrics)
    return ScoredRun(os.fspath(path), metrics, num_missing, num_without_answers, results)


def summarize_scores(
    scored: ScoredRun, other: ScoredRun | None = None, *, seed: int = 0
) -> dict[str, dict[str, float]]:
    """Return the mean of each metric over the questions, and its 95 % bootstrap confidence interval.

    Args:
        scored: The metrics of a run.
        other: The metrics of another run of the same questions. The summary then also has its mean and the p-value of
            a paired randomization test.
        seed: Seed of the bootstrap and of the test.

    Returns:
        By name of a metric: "mean", "low" and "high", and with another run "other" and "p".

    Raises:
        DataError: The runs were scored on different questions.

    >>> scored = ScoredRun("run.trec", {"q1": {"mrr@10": 0.5}, "q2": {"mrr@10": 1.0}}, 0, 0, [])
    >>> summarize_scores(scored)["mrr@10"]
    {'mean': 0.75, 'low': 0.5, 'high': 1.0}
    """
    if other is not None and scored.metrics.keys() != other.metrics.keys():
        raise DataError(f"{other.path}: has other questions than {scored.path}. Both runs need the same ones.")
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


def read_fused_run(path: StrPath, fuse_with: StrPath | None = None, *, drop_self_matches: bool = False) -> Run:
    """Read a run, or fuse two runs by reciprocal ranks.

    Args:
        path: The run.
        fuse_with: The other run, or None.
        drop_self_matches: Remove passages whose id is the id of their question.

    Raises:
        DataError: A run is malformed, or the two have no question in common.
        OSError: A file cannot be read.
    """
    run = read_run(path)
    if fuse_with is not None:
        other = read_run(fuse_with)
        check_common_questions(fuse_with, other, path, run)
        run = fuse_runs([run, other])
    return without_self_matches(run) if drop_self_matches else run


def read_positives(path: StrPath) -> Qrels:
    """Return the positives of training rows as qrels.

    Raises:
        DataError: The file is malformed, or no positive has an id.
    """
    positives = {question.question_id: question.positive_ids for question in read_questions(path)}
    if not any(positives.values()):
        raise DataError(f"{os.fspath(path)}: no positives with ids. Give rows whose positives have passage_id.")
    return {question_id: dict.fromkeys(ids, 1) for question_id, ids in positives.items()}


def score_by_answers(
    run: Run,
    questions: Sequence[Question],
    collection: PassageCollection,
    *,
    k: Sequence[int] = CUT_OFFS,
    keep_results: bool = False,
) -> tuple[dict[str, dict[str, float]], list[dict[str, Any]]]:
    """Return the accuracy@k of each question (DPR's top-k accuracy) and, if they are kept, the results in DPR's form.

    Raises:
        DataError: The collection lacks a passage of the run.
    """
    metrics, results = {}, []
    for question in tqdm(questions, desc="Evaluating", unit=" questions", disable=None, delay=2):
        result = build_dpr_result(question, run.get(question.question_id, {}), collection)
        hits = [context["has_answer"] for context in result["ctxs"]]
        metrics[question.question_id] = {f"accuracy@{cut_off}": top_k_accuracy([hits], cut_off) for cut_off in k}
        if keep_results:
            results.append(result)
    return metrics, results


def build_dpr_result(question: Question, scores: Mapping[str, float], collection: PassageCollection) -> dict[str, Any]:
    """Return the found passages of a question in the form of DPR's result files.

    Args:
        question: The question with its answers.
        scores: Scores of the found passages by id.
        collection: The passages.

    Raises:
        DataError: The collection lacks a passage.
    """
    contexts = []
    for passage_id in rank_passages(scores):
        try:
            passage = collection.find(passage_id)
        except KeyError:
            raise DataError(f"{collection.path}: no passage {passage_id}, which the run has.") from None
        hit = has_answer(question.answers, passage.text, regular_expressions=question.regular_expressions)
        score = str(scores[passage_id])
        contexts.append(
            {"id": passage_id, "title": passage.title, "text": passage.text, "score": score, "has_answer": hit}
        )
    return {"question": question.text, "answers": question.answers, "ctxs": contexts}
