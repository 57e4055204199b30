"""Read runs together with the records of their searches: model, collection and question texts."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence

from text.datasets import Question
from text.evaluation import Run, fuse_runs, read_run, remove_self_matches
from text.evaluation.run_source import (
    FusionRecord,
    RunSource,
    SearchRecord,
    check_same_collection,
    check_same_questions,
    hash_words,
    read_run_source,
)
from text.evaluation.trec import check_common_questions
from text.retrieval.embedder import hash_model
from text.retrieval.plan import find_collection, read_plan

StrPath = str | os.PathLike[str]


def read_fused_run(
    path: StrPath,
    fuse_with: StrPath | None = None,
    *,
    fusion: FusionRecord | None = None,
    drop_self_matches: bool = False,
    log: Callable[[str], object] | None = None,
) -> Run:
    """Read a run, or fuse two runs.

    Args:
        path: File of the run.
        fuse_with: File of the second run, or None.
        fusion: Method and weights. None means reciprocal rank fusion with equal weights.
        drop_self_matches: Remove passages whose id equals the question id, before ranks are computed.
        log: Called with a line about the questions that are in only one of the two runs, if there are any.

    Raises:
        DataError: A run is malformed, or the two runs have no question in common.
        OSError: A file cannot be read.
    """
    paths = [path] if fuse_with is None else [path, fuse_with]
    runs = [read_run(each) for each in paths]
    if drop_self_matches:
        runs = [remove_self_matches(run) for run in runs]
    if fuse_with is None:
        return runs[0]
    run, other = runs
    check_common_questions(fuse_with, other, path, run)
    lacking, other_lacking = len(other.keys() - run.keys()), len(run.keys() - other.keys())
    if log is not None and lacking + other_lacking:
        log(
            f"note: {lacking + other_lacking} questions are in only one of the fused runs "
            f"({lacking} are missing in {os.fspath(path)}, {other_lacking} in {os.fspath(fuse_with)})"
        )
    return fuse_runs(runs) if fusion is None else fuse_runs(runs, method=fusion.method, weights=fusion.weights)


def hash_question_words(questions: Iterable[Question]) -> dict[str, int]:
    """Return the ``hash_words`` of each question by id."""
    return {question.question_id: hash_words(question.text) for question in questions}


def record_search(
    model: StrPath,
    embeddings: StrPath,
    engine: str,
    *,
    by_windows: bool = False,
    model_files: Mapping[str, str] | None = None,
) -> SearchRecord:
    """Return the record of a search with a model, which is saved beside its run.

    Args:
        model: Folder of the model, as the user gave it. Empty if there is none.
        embeddings: Folder of the embeddings.
        engine: As in ``SearchRecord``.
        by_windows: As in ``SearchRecord``.
        model_files: Hashes of the model's files, if it is loaded (``Embedder.model_hashes``). None hashes them again.
    """
    plan = read_plan(embeddings)
    # The question encoder of the model may have been trained after the embeddings (train --frozen_passages).
    if model_files is None:
        model_files = hash_model(model) if os.fspath(model) else plan.model
    path = find_collection(embeddings, plan)
    return SearchRecord(engine, path, plan.collection.sha256, os.fspath(model), dict(model_files), by_windows)


def read_run_sources(paths: Sequence[StrPath]) -> list[RunSource | None]:
    """Return the sources of runs that are compared or fused. The source of a run without a record is None.

    Raises:
        ArtifactError: As ``read_run_source``. Or two runs have different questions or collections.
    """
    sources = [read_run_source(path) for path in paths]
    known = [(path, source) for path, source in zip(paths, sources, strict=True) if source is not None]
    for path, source in known[1:]:
        first_path, first = known[0]
        check_same_questions(path, source.questions, first_path, first.questions)
        for search in first.searches:
            if not search.by_windows:
                check_same_collection(
                    path, source.searches, first_path, search.collection_sha256, collection=search.collection
                )
    return sources
