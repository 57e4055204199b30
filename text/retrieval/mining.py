"""Mine hard negatives for training rows from runs, or from a model whose run is made first.

A run is kept beside the mined rows, so mining with other filters needs no search. ``text/retrieval/hard_negatives.py``
chooses the negatives of one question.
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
    """Write training rows with hard negatives from runs.

    Each negative has its id, rank, score and source. ``OUTPUT.rejected.jsonl`` gets the rejected candidates with the
    reason, ``OUTPUT.summary.json`` the counts, inputs and options. All files appear together at the end.

    Args:
        rows: Training rows in the DPR format.
        collection: The passages that were searched, or the path of their file.
        runs: TREC runs of the rows' questions. Each is a source, named after its file.
        output: Where the rows go.
        num: Number of negatives from each run.
        filters: Conditions that a negative must meet. By default those of ``Filters()``.
        sort_by_title: Put rows whose first positives have the same title next to each other.
        best_positive_first: Sort the positives of a row by their scores in the first run, because training uses the
            first one.
        seed: Seed of the sample in the summary.
        model_run: One more run, such as ``search_rows`` returns. It is the first source, and is written to ``OUTPUT.trec``.
        model_search: What is known of this run (``record_search``), for the file beside it.
        overwrite: Replace earlier files.

    Raises:
        FileExistsError: A file exists, and ``overwrite`` is false.
        ValueError: Two runs have the same name, or there is not one number for each run.
        DataError: A file is malformed, no row is usable, a run is of other questions, or the collection lacks a passage
            of a run.
        ArtifactError: A run is known to be of other questions or of another collection.
        OSError: A file cannot be read or written.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     passages, rows, run, output = (
    ...         Path(folder, name) for name in ("c.jsonl", "rows.jsonl", "bm25.trec", "hard")
    ...     )
    ...     _ = passages.write_text('{"_id": "1", "text": "a beetle ate"}\\n{"_id": "2", "text": "a fig fell"}')
    ...     row = {"qid": "q", "question": "who ate", "answers": ["beetle"], "positive_ids": ["1"]}
    ...     _ = rows.write_text(json.dumps(row)), run.write_text("q Q0 1 1 2.0 bm25\\nq Q0 2 2 1.5 bm25\\n")
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
    """Write the mined rows and the rejected candidates, and count them."""
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
) -> Run:
    """Search for the questions of training rows with a model, and return a run to mine from.

    Args:
        model: The folder of the model.
        embeddings: The folder of the embeddings that it encoded.
        rows: Training rows in the DPR format.
        collection: The collection that will be mined, which must be the encoded one.
        k: Passages for each question. The positives of a question are added, whatever their rank.
        log: Gets a line about the questions that are longer than the model's limit, if there are any.

    Raises:
        ArtifactError: The embeddings are of another collection or another model.
        DataError: No row is usable, or no question has a positive with an id.
        OSError: A file cannot be read.
    """
    count_unusable_rows(DPRFile(rows, PassageCollection(collection)))  # an error here costs no search
    if read_plan(embeddings).collection.sha256 != hash_file(collection):
        raise ArtifactError(f"{os.fspath(embeddings)}: not encoded from {os.fspath(collection)}. Encode it first.")
    questions = read_questions(rows)
    retriever = load_retriever(model, embeddings)
    if log is not None:
        for line in describe_truncated_questions(retriever.embedder, questions):
            log(line)
    return search_questions(retriever.search, questions, k, with_positives=True, source=rows)


def name_sources(runs: Sequence[str | os.PathLike[str]], num: Sequence[int]) -> list[str]:
    """Return the names of the sources: the names of the runs' files without their endings.

    Raises:
        ValueError: Two sources have the same name, or there is not one number for each run, from 0 on.
    """
    names = [Path(path).stem for path in runs]
    if not names or len(set(names)) < len(names):
        listed = ", ".join(os.fspath(path) for path in runs)
        raise ValueError(f"runs are {listed or 'missing'}. Give one or more with different file names.")
    if len(num) != len(runs) or min(num) < 0:
        raise ValueError(f"num is {list(num)}. Give a number from 0 on for each of {', '.join(names)}.")
    return names


def _pair_with_rows(file: DPRFile) -> list[tuple[Question, int]]:
    """Return all questions with the numbers of their rows, usable or not. ``read_questions`` skips blank lines, too."""
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
    """Yield the usable rows. ``runs`` holds the name, the run and the number of negatives of each source."""
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
    """Return the positives, best first. Those without a score come last. Equal scores keep their order."""
    return sorted(positives, key=lambda passage: -source.scores.get(passage.passage_id, -math.inf))


def _find_passage(collection: PassageCollection, passage_id: str) -> Passage:
    try:
        return collection.find(passage_id)
    except KeyError:
        raise DataError(f"{collection.path}: no passage {passage_id}, which a run has.") from None


def _negative_to_context(negative: Negative) -> Record:
    scored = {"score": negative.score, "rank": negative.rank, "source": negative.source}
    return passage_to_context(negative.passage) | scored
