"""Score a run by relevance judgments (qrels), by the positives of training rows, or by answers in passages.

``score_run`` reads files. The metrics themselves are functions of plain dictionaries in ``text.evaluation``.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from typing import Any, NamedTuple

from text.datasets import PassageCollection, Question, read_questions
from text.datasets.dpr_file import check_row_ids
from text.errors import DataError
from text.evaluation import (
    Qrels,
    Run,
    evaluate_run,
    has_answer,
    rank_passages,
    read_qrels,
    top_k_accuracy,
)
from text.evaluation.run_source import FusionRecord, check_same_questions
from text.evaluation.trec import check_common_questions, check_counted_questions
from text.progress import track
from text.records import hash_question
from text.retrieval.run_files import hash_question_words, read_fused_run, read_run_sources
from text.words import has_unspaced_script

StrPath = str | os.PathLike[str]

CUT_OFFS = (1, 5, 10, 20, 100)
"""Default values of k in metrics such as recall@k."""


class ScoredRun(NamedTuple):
    """The metrics of a run."""

    path: str
    """The file of the run, or both files of a fused run."""
    metrics: dict[str, dict[str, float]]
    """Metrics by question id and name, such as ``ndcg@10``."""
    num_missing: int
    """Number of questions missing in the run. All their metrics are 0."""
    num_without_answers: int
    """Number of questions without answers, or without a relevant passage. They are skipped."""
    results: list[dict[str, Any]]
    """The retrieved passages of each question in the format of DPR's result files, with ``keep_results``."""
    num_skipped: int = 0
    """Number of questions that are missing in the run and skipped."""
    num_unspaced: int = 0
    """Number of questions with an answer in a script without spaces. Such an answer is matched as a substring."""
    relevant: Mapping[str, Collection[str]] = {}
    """Known ids of the relevant passages of each question."""
    notes: Sequence[str] = ()
    """Remarks about the input files that affect the metrics."""
    run: Mapping[str, Mapping[str, float]] = {}
    """The scored run, after fusion and the removal of self matches."""


def score_run(
    path: StrPath,
    *,
    qrels: StrPath | None = None,
    positives: StrPath | None = None,
    questions: StrPath | None = None,
    collection: StrPath | None = None,
    k: Sequence[int] = CUT_OFFS,
    fuse_with: StrPath | None = None,
    fusion: FusionRecord | None = None,
    drop_self_matches: bool = False,
    skip_missing: bool = False,
    keep_results: bool = False,
) -> ScoredRun:
    r"""Score a TREC run by one of three kinds of judgments.

    Args:
        path: File of the run.
        qrels: File of relevance judgments in the format of TREC or BEIR.
        positives: File of training rows. The positives of all rows with the same question are its relevant passages.
        questions: File of questions with answers. A passage is relevant if it contains an answer (``has_answer``).
        collection: File of the searched passages. It is needed together with ``questions``.
        k: Cut-offs of the metrics.
        fuse_with: File of a second run, which is fused with the first.
        fusion: Method and weights. None means reciprocal rank fusion with equal weights.
        drop_self_matches: Ignore passages whose id equals the question id.
        skip_missing: Skip questions that are missing in the run. Otherwise their metrics are 0.
        keep_results: Also return the retrieved passages if the run is scored by answers.

    Raises:
        ValueError: Not exactly one kind of judgments is given, or a cut-off is below 1.
        DataError: A file is malformed, the files have no question in common, no judgment is positive, or the collection
            lacks a passage.
        ArtifactError: The source of a run names other questions, or the two runs have different collections.
        OSError: A file cannot be read.

    >>> import pathlib, tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     run, qrels = pathlib.Path(folder, "run.trec"), pathlib.Path(folder, "qrels.tsv")
    ...     _ = run.write_text("q1 Q0 p1 1 2.0 dense\nq1 Q0 p2 2 1.0 dense\n"), qrels.write_text("q1 0 p2 1\n")
    ...     scored = score_run(run, qrels=qrels, k=[1, 10])
    >>> scored.metrics["q1"]["mrr@10"], scored.metrics["q1"]["recall@1"]
    (0.5, 0.0)
    """
    given = [each for each in (qrels, positives, questions) if each is not None]
    if len(given) != 1 or (questions is None) != (collection is None):
        raise ValueError(
            "qrels, positives, questions: give exactly one of them. questions needs collection too, the others do not."
        )
    if not k or min(k) < 1:
        raise ValueError(f"k is {list(k)}. Use positive integers.")
    notes, counts = list[str](), Counter[str]()
    paths = [path] if fuse_with is None else [path, fuse_with]
    sources = dict(zip(paths, read_run_sources(paths), strict=True))
    options = {"fusion": fusion, "drop_self_matches": drop_self_matches}
    [judgments], run = given, read_fused_run(path, fuse_with, **options, log=notes.append)
    name = os.fspath(path) if fuse_with is None else f"{os.fspath(path)} + {os.fspath(fuse_with)}"
    loaded_questions = [] if qrels is not None else read_questions(judgments, counts)
    keys = hash_question_words(loaded_questions)
    for each, known in sources.items():
        changed = check_same_questions(each, known.questions, judgments, keys) if known is not None else 0
        if changed:
            notes.append(f"note: {changed} questions in {os.fspath(judgments)} are worded differently in {each}")
    if collection is not None:
        scored = _score_run_by_answers(
            name, run, judgments, loaded_questions, collection, k, skip_missing, keep_results
        )
        notes += [f"note: {count} {reason} in {os.fspath(judgments)}" for reason, count in counts.items()]
    elif qrels is not None:
        scored = _score_run_by_qrels(name, run, judgments, read_qrels(judgments), k, skip_missing)
    else:
        relevant = join_positives(judgments, loaded_questions)
        check_counted_questions(name, run, judgments, list(relevant), skip_missing=skip_missing)
        scored = _score_run_by_qrels(name, run, judgments, relevant, k, skip_missing)
    return scored._replace(notes=[*notes, *scored.notes], run=run)


def list_relevant(judgments: StrPath, qrels: Qrels) -> dict[str, list[str]]:
    """Return the ids of the relevant passages of each question.

    Raises:
        DataError: There are judgments, but none is above 0.
    """
    relevant = {
        question_id: [passage_id for passage_id, relevance in judged.items() if relevance > 0]
        for question_id, judged in qrels.items()
    }
    if qrels and not any(relevant.values()):
        raise DataError(f"{os.fspath(judgments)}: no relevance is above 0. Use judgments with relevant passages.")
    return relevant


def _score_run_by_qrels(
    name: str, run: Run, judgments: StrPath, qrels: Qrels, k: Sequence[int], skip_missing: bool
) -> ScoredRun:
    relevant = list_relevant(judgments, qrels)
    answerable = [question_id for question_id, passages in relevant.items() if passages]
    check_common_questions(name, run, judgments, answerable)
    metrics = evaluate_run(qrels, run, cut_offs=k, skip_missing=skip_missing)
    notes = []
    if not any(passage_id in qrels[each] for each in metrics for passage_id in run.get(each, {})):
        notes.append(
            f"note: no passage in {name} has a judgment in {os.fspath(judgments)}, so all metrics are 0. "
            "Check that both files use the ids of the same collection."
        )
    return ScoredRun(
        name,
        metrics,
        num_missing=sum(question_id not in run for question_id in metrics),
        num_without_answers=len(qrels) - len(answerable),
        results=[],
        num_skipped=len(answerable) - len(metrics),
        relevant=relevant,
        notes=notes,
    )


def _score_run_by_answers(
    name: str,
    run: Run,
    judgments: StrPath,
    questions: Sequence[Question],
    collection: StrPath,
    k: Sequence[int],
    skip_missing: bool,
    keep_results: bool,
) -> ScoredRun:
    answerable = find_answerable(judgments, questions)
    check_common_questions(name, run, judgments, (question.question_id for question in answerable))
    ids = [question.question_id for question in questions]
    check_counted_questions(name, run, judgments, ids, skip_missing=skip_missing)
    kept = [question for question in answerable if question.question_id in run or not skip_missing]
    slow = set[str]()
    metrics, results = score_by_answers(
        run, kept, PassageCollection(collection), k=k, keep_results=keep_results, slow=slow
    )
    return ScoredRun(
        name,
        metrics,
        num_missing=sum(question_id not in run for question_id in metrics),
        num_without_answers=len(questions) - len(answerable),
        results=results,
        num_skipped=len(answerable) - len(kept),
        num_unspaced=sum(any(map(has_unspaced_script, question.answers)) for question in kept),
        relevant=_share_positives(kept),
        notes=[f"note: {len(slow)} regular expressions timed out, which counts as no match"] if slow else [],
    )


def find_answerable(path: StrPath, questions: Sequence[Question]) -> list[Question]:
    """Return the questions of a file that have answers.

    Raises:
        DataError: No question has an answer.
    """
    answerable = [question for question in questions if question.answers]
    if not answerable:
        raise DataError(f"{os.fspath(path)}: no question has an answer. Use questions with answers.")
    return answerable


def read_positives(path: StrPath) -> Qrels:
    """Read the positives of training rows as qrels. Rows with the same question share their positives.

    Raises:
        DataError: The file is malformed, no positive has an id, or an id has two different passages.
    """
    return join_positives(path, read_questions(path))


def join_positives(path: StrPath, questions: Sequence[Question]) -> Qrels:
    """Return the positives of rows that are already read as qrels. Otherwise like ``read_positives``.

    Raises:
        DataError: No positive has an id, or an id has two different passages.
    """
    qrels = _share_positives(questions)
    if not any(qrels.values()):
        raise DataError(f"{os.fspath(path)}: no positives with ids. Use rows whose positives have a passage_id.")
    check_row_ids(path)
    return qrels


def _share_positives(questions: Sequence[Question]) -> Qrels:
    keys = [hash_question(question.text) for question in questions]
    joined: dict[int, dict[str, int]] = {key: {} for key in keys}
    for key, question in zip(keys, questions, strict=True):
        joined[key] |= dict.fromkeys(question.positive_ids, 1)
    return {question.question_id: joined[key] for key, question in zip(keys, questions, strict=True)}


def score_by_answers(
    run: Run,
    questions: Sequence[Question],
    collection: PassageCollection,
    *,
    k: Sequence[int] = CUT_OFFS,
    keep_results: bool = False,
    slow: set[str] | None = None,
) -> tuple[dict[str, dict[str, float]], list[dict[str, Any]]]:
    """Return the accuracy@k of each question (DPR's top-k accuracy), and the results in DPR's format.

    Args:
        run: The run to score.
        questions: The questions with their answers.
        collection: The searched passages.
        k: Cut-offs of the accuracy.
        keep_results: Return the results. Otherwise the list of results is empty.
        slow: Set that collects the regular expressions that time out (``has_answer``).

    Raises:
        DataError: The collection lacks a passage of the run.
    """
    metrics, results = {}, []
    for question in track(questions, "Evaluating", "questions"):
        result = build_dpr_result(question, run.get(question.question_id, {}), collection, slow)
        hits = [context["has_answer"] for context in result["ctxs"]]
        metrics[question.question_id] = {f"accuracy@{cut_off}": top_k_accuracy([hits], cut_off) for cut_off in k}
        if keep_results:
            results.append(result)
    return metrics, results


def build_dpr_result(
    question: Question, scores: Mapping[str, float], collection: PassageCollection, slow: set[str] | None = None
) -> dict[str, Any]:
    """Return the retrieved passages of a question in the format of DPR's result files.

    Args:
        question: The question with its answers.
        scores: Scores of the retrieved passages by id.
        collection: The searched passages.
        slow: Set that collects the regular expressions that time out (``has_answer``).

    Raises:
        DataError: The collection lacks a passage.
    """
    contexts = []
    for passage_id in rank_passages(scores):
        try:
            passage = collection.find(passage_id)
        except KeyError:
            raise DataError(
                f"{collection.path}: no passage {passage_id}, but the run contains it. "
                "Use the collection that was searched."
            ) from None
        hit = has_answer(question.answers, passage.text, regular_expressions=question.regular_expressions, slow=slow)
        score = str(scores[passage_id])
        contexts.append(
            {"id": passage_id, "title": passage.title, "text": passage.text, "score": score, "has_answer": hit}
        )
    return {"question": question.text, "answers": question.answers, "ctxs": contexts}
