"""Mine hard negatives for training rows from TREC runs, or from a model that is searched first.

The run of the model is saved beside the mined rows, so mining with other filters needs no second search.
``text/retrieval/hard_negatives.py`` chooses the negatives of one question.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import asdict
from pathlib import Path

from text.artifacts import describe_file, hash_file, read_facts, write_together
from text.datasets import DPRFile, PassageCollection, read_questions
from text.datasets.dpr_rows import count_unusable_rows
from text.errors import ArtifactError
from text.evaluation import Run, format_run, read_run
from text.evaluation.negative_audit import write_audit
from text.evaluation.run_source import SearchRecord, check_same_collection, check_same_questions, write_source
from text.evaluation.score_source import get_scores_path, write_score_source
from text.evaluation.trec import check_common_questions, check_counted_questions
from text.retrieval.counts import describe_truncated_questions
from text.retrieval.devices import describe_precision
from text.retrieval.filters import Filters
from text.retrieval.kept_scores import keep_scores
from text.retrieval.mined_rows import RowForm, mine_rows, pair_with_rows, read_tasks
from text.retrieval.mining_summary import MinedRow, MiningSummary
from text.retrieval.plan import read_plan
from text.retrieval.retriever import load_retriever, search_questions
from text.retrieval.row_scores import SCORE_KEY, check_score_key
from text.retrieval.run_files import hash_question_words, read_run_sources
from text.retrieval.teachers import Teacher


def mine_hard_negatives(
    rows: str | os.PathLike[str],
    collection: PassageCollection | str | os.PathLike[str],
    runs: Sequence[str | os.PathLike[str]],
    output: str | os.PathLike[str],
    *,
    num: Sequence[int] = (1,),
    filters: Filters | None = None,
    sort_by_title: bool = False,
    best_positive_first: bool = False,
    seed: int = 0,
    model_run: Run | None = None,
    model_search: SearchRecord | None = None,
    teacher: Teacher | None = None,
    score_key: str = SCORE_KEY,
    round_name: str | None = None,
    overwrite: bool = True,
) -> MiningSummary:
    r"""Write training rows with hard negatives from runs.

    Each negative is written with its id, rank, score and source. ``OUTPUT.rejected.jsonl`` holds the rejected
    candidates with the reasons, ``OUTPUT.summary.json`` holds the counts, inputs and options, and
    ``OUTPUT.audit.json`` estimates the share of false negatives. All files are written atomically at the end.

    With a teacher, positives and negatives get its scores, and ``OUTPUT.scores.json`` names it. Until the end,
    ``OUTPUT.partial`` keeps the scores, so that a repeated call does not compute them again.

    Args:
        rows: Training rows in the DPR format.
        collection: The passages that were searched, or the path of their file.
        runs: TREC runs of the questions in the rows. Each run is a source, which is named after its file.
        output: Output file of the rows.
        num: Number of negatives from each source.
        filters: Conditions that a negative must meet. By default ``Filters()``.
        sort_by_title: Sort the rows by the title of their first positive.
        best_positive_first: Sort the positives of a row by their scores in the first run. Training uses the first
            positive.
        seed: Seed of the sample in the summary.
        model_run: Another run in memory, such as ``search_rows`` returns. It is the first source, and is written to
            ``OUTPUT.trec``.
        model_search: The record of the search that made this run (``record_search``). It is written to
            ``OUTPUT.trec.json``.
        teacher: Model that scores the positives, and the candidates that pass all other filters. Only as many
            candidates are scored as are needed.
        score_key: Name of the field for the scores of the teacher.
        round_name: Round of mining, which each negative records.
        overwrite: Replace existing output files.

    Returns:
        Counts over all rows, and a sample of negatives.

    Raises:
        FileExistsError: An output file exists, and ``overwrite`` is false.
        ValueError: Two runs have the same name, ``num`` does not have one number per source, or a filter needs a
            teacher.
        DataError: A file is malformed, no row is usable, a run has other questions than the rows, or the collection
            lacks a passage of a run.
        ArtifactError: The record of a run names other questions or another collection.
        OSError: A file cannot be read or written.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     passages, rows, run, output = (
    ...         Path(folder, name) for name in ("c.jsonl", "rows.jsonl", "bm25.trec", "hard")
    ...     )
    ...     _ = passages.write_text('{"_id": "1", "text": "a beetle ate"}\n{"_id": "2", "text": "a fig fell"}')
    ...     row = {"qid": "q", "question": "who ate", "answers": ["beetle"], "positive_ids": ["1"]}
    ...     _ = rows.write_text(json.dumps(row)), run.write_text("q Q0 1 1 2.0 bm25\nq Q0 2 2 1.5 bm25\n")
    ...     summary = mine_hard_negatives(rows, passages, [run], output)
    ...     json.loads(output.read_text())["hard_negative_ctxs"]
    [{'passage_id': '2', 'title': '', 'text': 'a fig fell', 'score': 1.5, 'rank': 2, 'source': 'bm25'}]
    >>> summary.negatives, summary.rejected
    (Counter({'bm25': 1}), Counter({'a positive': 1}))
    """
    output, filters = os.fspath(output), filters or Filters()
    check_score_key(score_key)
    if filters.needs_teacher and teacher is None:
        raise ValueError("teacher_margin and teacher_relative_margin need a teacher.")
    paths = ([] if model_run is None else [f"{output}.trec"]) + [os.fspath(path) for path in runs]
    names = name_sources(paths, num)
    if not isinstance(collection, PassageCollection):
        collection = PassageCollection(collection)
    file = DPRFile(rows, collection)
    summary = MiningSummary(sum(num), count_unusable_rows(file), seed, checks_answers=filters.answers)
    questions = pair_with_rows(file)
    read = ([] if model_run is None else [model_run]) + [read_run(path) for path in runs]
    ids = [question.question_id for question, _ in questions]
    for path, run in zip(paths, read, strict=True):
        check_common_questions(path, run, rows, ids)
        check_counted_questions(path, run, rows, ids)
    inputs = {
        "rows": describe_file(rows),
        "collection": describe_file(collection.path),
        "runs": [describe_file(path) for path in runs],
    }
    keys = hash_question_words(question for question, _ in questions)
    for path, source in zip(runs, read_run_sources(runs), strict=True):
        if source is not None:
            check_same_questions(path, source.questions, rows, keys)
            check_same_collection(path, source.searches, collection.path, inputs["collection"]["sha256"])
    form = RowForm(score_key if teacher is not None else None, round_name, best_positive_first, sort_by_title)
    options = {"num": list(num), "filters": asdict(filters), "sort_by_title": sort_by_title}
    options |= {"best_positive_first": best_positive_first, "seed": seed, "round": round_name}
    if teacher is not None:
        options |= {"teacher": teacher.record._asdict(), "score_key": score_key}
    run_endings = [".trec"] * (model_run is not None) + [".trec.json"] * (model_search is not None)
    endings = [".rejected.jsonl", ".summary.json", ".audit.json", *run_endings]
    endings += [".scores.json"] * (teacher is not None) + [""]
    with (
        nullcontext() if teacher is None else keep_scores(teacher, f"{output}.partial", overwrite=overwrite) as kept,
        write_together([f"{output}{ending}" for ending in endings], overwrite=overwrite) as temporaries,
    ):
        files = dict(zip(endings, temporaries, strict=True))
        if model_run is not None:
            with open(files[".trec"], "w", encoding="utf-8") as run_file:
                run_file.writelines(format_run(model_run))
            if model_search is not None:
                write_source(files[".trec.json"], files[".trec"], [model_search], keys)
            inputs["runs"].insert(0, {"path": f"{output}.trec", "sha256": hash_file(files[".trec"])})
        sources = list(zip(names, read, num, strict=True))
        has_teacher = teacher is not None
        tasks = read_tasks(
            file, questions, collection, sources, filters, form, slow=summary.slow, has_teacher=has_teacher
        )
        _write_rows(mine_rows(tasks, form, kept), files[""], files[".rejected.jsonl"], summary)
        content = summary.to_json() | {"inputs": inputs, "options": options}
        files[".summary.json"].write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
        teachers, facts = {} if teacher is None else {score_key: teacher.record}, read_facts(files[""])
        if teachers:
            write_score_source(files[".scores.json"], facts, teachers)
        write_audit(
            files[".audit.json"],
            facts,
            round_name=round_name,
            sources=summary.negatives,
            teachers=teachers,
            evidence=summary.evidence.estimate(),
        )
    if overwrite and teacher is None:
        get_scores_path(output).unlink(missing_ok=True)  # The file belongs to the replaced rows.
    return summary


def _write_rows(mined: Iterator[MinedRow], rows: Path, rejected: Path, summary: MiningSummary) -> None:
    """Write the mined rows and the rejected candidates, and add each row to the summary."""
    with open(rows, "w", encoding="utf-8") as rows_file, open(rejected, "w", encoding="utf-8") as rejected_file:
        for row in mined:
            rows_file.write(json.dumps(row.record, ensure_ascii=False) + "\n")
            for candidate in row.rejected:
                line = {"question_id": row.question_id, **candidate._asdict()}
                if candidate.teacher_score is None:
                    del line["teacher_score"]
                rejected_file.write(json.dumps(line, ensure_ascii=False) + "\n")
            summary.add(row)


def search_rows(
    model: str | os.PathLike[str],
    embeddings: str | os.PathLike[str],
    rows: str | os.PathLike[str],
    collection: str | os.PathLike[str],
    k: int = 100,
    log: Callable[[str], object] | None = None,
    *,
    precision: str | None = None,
) -> Run:
    """Search for the questions of training rows with a model, and return a run to mine from.

    Args:
        model: Folder of the model.
        embeddings: Folder of the embeddings that the model encoded.
        rows: Training rows in the DPR format.
        collection: The collection to mine from. It must be the encoded collection.
        k: Passages per question. The positives of a question are always added.
        log: Called with a line about the precision if the device decides it, and about truncated questions if there are
            any.
        precision: Precision of the question encoder (``Embedder.from_pretrained``). By default the device decides.

    Raises:
        ArtifactError: The embeddings belong to another collection or another model.
        DataError: No row is usable, or no question has a positive with an id.
        OSError: A file cannot be read.
    """
    count_unusable_rows(DPRFile(rows, PassageCollection(collection)))  # Find unusable rows before the slow search.
    if read_plan(embeddings).collection.sha256 != hash_file(collection):
        raise ArtifactError(
            f"{os.fspath(embeddings)}: these embeddings were not encoded from {os.fspath(collection)}. "
            "Encode this collection first."
        )
    questions = read_questions(rows)
    retriever = load_retriever(model, embeddings, precision=precision)
    if log is not None:
        embedder = retriever.embedder
        default = describe_precision(embedder.settings["precision"], str(embedder.device)) if precision is None else ()
        for line in default:
            log(line)
        for line in describe_truncated_questions(retriever.embedder, questions):
            log(line)
    return search_questions(retriever.search, questions, k, with_positives=True, source=rows)


def name_sources(runs: Sequence[str | os.PathLike[str]], num: Sequence[int]) -> list[str]:
    """Return the names of the sources, which are the file names of the runs without extension.

    Raises:
        ValueError: Two sources have the same name, or ``num`` does not have one number of 0 or more per run.
    """
    names = [Path(path).stem for path in runs]
    if not names or len(set(names)) < len(names):
        listed = ", ".join(os.fspath(path) for path in runs)
        raise ValueError(f"runs are {listed or 'missing'}. Give one or more runs with different file names.")
    if len(num) != len(runs) or min(num) < 0:
        raise ValueError(
            f"num is {list(num)}, and the sources are {', '.join(names)}. Give one number, 0 or more, for each source."
        )
    return names
