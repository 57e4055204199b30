"""Mine hard negatives for training rows from TREC runs, or from a model that is searched first.

The run of the model is saved beside the mined rows, so mining with other filters needs no second search.
``text/retrieval/hard_negatives.py`` chooses the negatives of one question.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path

from text.artifacts import describe_file, hash_file, write_together
from text.datasets import DPRFile, PassageCollection, Question, read_questions
from text.datasets.dpr_file import BLANK
from text.datasets.dpr_rows import Record, count_unusable_rows, passage_to_context, replace_contexts
from text.datasets.same_questions import SameQuestions
from text.errors import ArtifactError, DataError
from text.evaluation import Run, format_run, read_run
from text.evaluation.run_source import SearchRecord, check_same_collection, check_same_questions, write_source
from text.evaluation.trec import check_common_questions, check_counted_questions
from text.progress import track
from text.records import Passage
from text.retrieval.counts import describe_truncated_questions
from text.retrieval.devices import describe_precision
from text.retrieval.hard_negatives import Filters, Negative, Source, choose_hard_negatives
from text.retrieval.mining_summary import MinedRow, MiningSummary
from text.retrieval.plan import read_plan
from text.retrieval.retriever import load_retriever, search_questions
from text.retrieval.run_files import hash_question_words, read_run_sources


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
    overwrite: bool = True,
) -> MiningSummary:
    r"""Write training rows with hard negatives from runs.

    Each negative is written with its id, rank, score and source. ``OUTPUT.rejected.jsonl`` holds the rejected
    candidates with the reasons, and ``OUTPUT.summary.json`` holds the counts, inputs and options. All files are
    written atomically at the end.

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
        overwrite: Replace existing output files.

    Returns:
        Counts over all rows, and a sample of negatives.

    Raises:
        FileExistsError: An output file exists, and ``overwrite`` is false.
        ValueError: Two runs have the same name, or ``num`` does not have one number per source.
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
    paths = ([] if model_run is None else [f"{output}.trec"]) + [os.fspath(path) for path in runs]
    names = name_sources(paths, num)
    if not isinstance(collection, PassageCollection):
        collection = PassageCollection(collection)
    file = DPRFile(rows, collection)
    summary = MiningSummary(sum(num), count_unusable_rows(file), seed)
    questions = _pair_with_rows(file)
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
    mined = _mine_rows(
        file,
        questions,
        collection,
        list(zip(names, read, num, strict=True)),
        filters,
        sort_by_title=sort_by_title,
        best_positive_first=best_positive_first,
        slow=summary.slow,
    )
    options = {"num": list(num), "filters": asdict(filters), "sort_by_title": sort_by_title}
    options |= {"best_positive_first": best_positive_first, "seed": seed}
    run_endings = [".trec"] * (model_run is not None) + [".trec.json"] * (model_search is not None)
    endings = [".rejected.jsonl", ".summary.json", *run_endings, ""]
    with write_together([f"{output}{ending}" for ending in endings], overwrite=overwrite) as temporaries:
        files = dict(zip(endings, temporaries, strict=True))
        if model_run is not None:
            with open(files[".trec"], "w", encoding="utf-8") as run_file:
                run_file.writelines(format_run(model_run))
            if model_search is not None:
                write_source(files[".trec.json"], files[".trec"], [model_search], keys)
            inputs["runs"].insert(0, {"path": f"{output}.trec", "sha256": hash_file(files[".trec"])})
        _write_rows(mined, files[""], files[".rejected.jsonl"], summary)
        content = summary.to_json() | {"inputs": inputs, "options": options}
        files[".summary.json"].write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    return summary


def _write_rows(mined: Iterator[MinedRow], rows: Path, rejected: Path, summary: MiningSummary) -> None:
    """Write the mined rows and the rejected candidates, and add each row to the summary."""
    with open(rows, "w", encoding="utf-8") as rows_file, open(rejected, "w", encoding="utf-8") as rejected_file:
        for row in mined:
            rows_file.write(json.dumps(row.record, ensure_ascii=False) + "\n")
            for candidate in row.rejected:
                line = {"question_id": row.question_id, **candidate._asdict()}
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


def _pair_with_rows(file: DPRFile) -> list[tuple[Question, int]]:
    """Return all questions with the numbers of their rows, usable or not. Blank lines are skipped."""
    rows = [row for row in range(len(file.rows)) if file.findings.unusable.get(row) != BLANK]
    return list(zip(read_questions(file.path), rows, strict=True))


def _mine_rows(
    file: DPRFile,
    questions: Sequence[tuple[Question, int]],
    collection: PassageCollection,
    runs: Sequence[tuple[str, Run, int]],
    filters: Filters,
    *,
    sort_by_title: bool,
    best_positive_first: bool,
    slow: set[str],
) -> Iterator[MinedRow]:
    """Yield the mined rows. ``runs`` holds the name, the run and the number of negatives of each source."""
    same_questions = SameQuestions([file.index])
    with file.open() as reader, file.rows.open() as lines:
        usable = [pair for pair in questions if pair[1] not in file.findings.unusable]
        if sort_by_title:
            usable.sort(key=lambda pair: reader.read(pair[1]).positives[0].title)
        for question, row in track(usable, "Mining", "rows"):
            read = reader.read(row)
            sources = [Source(name, run.get(question.question_id, {}), number) for name, run, number in runs]
            positives = _sort_by_score(read.positives, sources[0]) if best_positive_first else read.positives
            negatives, rejected = choose_hard_negatives(
                positives,
                read.answers,
                sources,
                lambda passage_id: _find_passage(collection, passage_id),
                filters,
                regular_expressions=question.regular_expressions,
                same_question_positives=same_questions.find_positives(0, row) or (),
                slow=slow,
            )
            record: Record = lines.parse(row).as_dict()
            contexts = None if best_positive_first else record.get("positive_ctxs")
            contexts = contexts or [passage_to_context(each) for each in positives]
            record = replace_contexts(record, contexts, [_negative_to_context(each) for each in negatives])
            yield MinedRow(question.question_id, record, positives, negatives, rejected, read.answers)


def _sort_by_score(positives: Sequence[Passage], source: Source) -> list[Passage]:
    """Return the positives by score, best first. Positives without a score come last. The sort is stable."""
    return sorted(positives, key=lambda passage: -source.scores.get(passage.passage_id, -math.inf))


def _find_passage(collection: PassageCollection, passage_id: str) -> Passage:
    try:
        return collection.find(passage_id)
    except KeyError:
        raise DataError(
            f"{collection.path}: no passage {passage_id}, but a run contains it. Use the collection that was searched."
        ) from None


def _negative_to_context(negative: Negative) -> Record:
    scored = {"score": negative.score, "rank": negative.rank, "source": negative.source}
    return passage_to_context(negative.passage) | scored
