"""Write the scores of a teacher into training rows. ``dpr-text score`` does this.

The passages of a few rows are scored together, so memory holds a few rows at a time. Each line of the rows gives one
line of the output, even if training cannot use it. So questions without an id keep their row number.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

from text.artifacts import read_facts, write_together
from text.datasets import DPRFile, PassageCollection
from text.datasets.dpr_rows import Record, count_unusable_rows
from text.datasets.formats.dpr_record import ID_POOLS, POOLS, iter_pool_passages, parse_row
from text.datasets.formats.jsonl import RowReader
from text.datasets.formats.values import PASSAGE_ID_KEYS, TEXT_KEYS
from text.errors import DataError, UsageError
from text.evaluation.negative_audit import copy_audit, get_audit_path, read_audit
from text.evaluation.score_source import get_scores_path, read_score_source, write_score_source
from text.progress import track
from text.records import Passage
from text.retrieval.kept_scores import keep_scores, to_json_number
from text.retrieval.teachers import Teacher

SCORE_KEY = "teacher_score"
"""Default name of the field that holds the score of a teacher."""
_PAIRS = 2048
"""Minimum number of passages that are scored together."""
_TAKEN = {*POOLS, *ID_POOLS, *PASSAGE_ID_KEYS, *TEXT_KEYS, "_id", "qid", "title", "question", "answer", "answers"}
"""Fields of a row that have another meaning."""


class ScoredRows(NamedTuple):
    """Counts of scored rows."""

    rows: int
    """Number of rows with scores."""
    passages: int
    """Number of scored passages."""
    unusable: Counter[str]
    """Number of rows that training cannot use, by reason. They are copied without scores."""


class _Line(NamedTuple):
    """A line of the rows, with the passages to score."""

    content: bytes
    """Line to copy. Empty if the row is scored."""
    record: Record
    question: str = ""
    places: Sequence[tuple[str, int]] = ()
    """Pool of each passage, and place in the pool."""
    passages: Sequence[Passage] = ()


def score_rows(
    rows: str | os.PathLike[str],
    output: str | os.PathLike[str],
    teacher: Teacher,
    *,
    collection: PassageCollection | None = None,
    score_key: str = SCORE_KEY,
    overwrite_scores: bool = False,
    overwrite: bool = False,
) -> ScoredRows:
    """Copy training rows with the teacher's score of every passage.

    ``OUTPUT.scores.json`` names the teacher, and an audit of the rows is copied. All files are written atomically at
    the end. Until then, ``OUTPUT.partial`` keeps the scores, so that a repeated call continues where an interrupted one
    stopped. It gives the same bytes as an uninterrupted call.

    In a full row, each context gets the field ``score_key``. In a compact row, ``score_key`` is an object with a list
    of scores for each pool of ids.

    Args:
        rows: Training rows in the DPR format.
        output: Output file of the rows.
        teacher: The teacher.
        collection: Collection with the passages of compact rows.
        score_key: Name of the field.
        overwrite_scores: Replace scores that the rows already have under this name.
        overwrite: Replace existing output files, and the kept scores of another teacher.

    Raises:
        UsageError: ``score_key`` is a field of the rows with another meaning.
        FileExistsError: An output file exists, and ``overwrite`` is false.
        DataError: A row is malformed or already has scores, or no row is usable.
        ArtifactError: The kept scores are of another teacher, or the teacher gives a score that is not a number.
        OSError: A file cannot be read or written.
    """
    check_score_key(score_key)
    file = DPRFile(rows, collection)
    unusable = count_unusable_rows(file)
    if not overwrite_scores:
        _check_no_scores(file, score_key)
    known, audit = read_score_source(rows), read_audit(rows)
    teachers = {} if known is None else known.teachers
    outputs = [output, get_scores_path(output), *([] if audit is None else [get_audit_path(output)])]
    counts = Counter[str]()
    with (
        keep_scores(teacher, f"{os.fspath(output)}.partial", overwrite=overwrite) as kept,
        write_together(outputs, overwrite=overwrite) as [rows_path, source_path, *audit_paths],
    ):
        with open(rows_path, "wb") as out:
            for block in _read_blocks(file, collection):
                _write_block(block, kept, score_key, out.write, counts)
        facts = read_facts(rows_path)
        write_score_source(source_path, facts, {**teachers, score_key: teacher.record})
        for path in audit_paths:
            assert audit is not None
            copy_audit(path, facts, audit)
    if overwrite and audit is None:
        get_audit_path(output).unlink(missing_ok=True)  # The file belongs to the replaced rows.
    return ScoredRows(counts["rows"], counts["passages"], unusable)


def check_score_key(score_key: str) -> None:
    """Check that a field for scores has no other meaning in a row.

    Raises:
        UsageError: The field has another meaning, or its name is blank.
    """
    if score_key in _TAKEN or not score_key.strip():
        raise UsageError(f'--score_key is "{score_key}", a field with another meaning. Use a name such as {SCORE_KEY}.')


def add_scores(record: Record, places: Sequence[tuple[str, int]], scores: Sequence[float], score_key: str) -> Record:
    """Return a row with scores: a field of each context, or lists beside the ids of a compact row.

    >>> row = {"positive_ids": ["p1"], "hard_negative_ids": ["p2", "p3"]}
    >>> places = [("positive_ids", 0), ("hard_negative_ids", 0), ("hard_negative_ids", 1)]
    >>> add_scores(row, places, [2.0, 1.0, 0.5], "teacher_score")["teacher_score"]
    {'positive_ids': [2.0], 'hard_negative_ids': [1.0, 0.5]}
    """
    if record.get("positive_ids") is None:
        for (pool, place), score in zip(places, scores, strict=True):
            record[pool][place][score_key] = score
        return record
    table: dict[str, list[float | None]] = {
        pool: [None] * len(record[pool]) for pool in ID_POOLS if record.get(pool) is not None
    }
    for (pool, place), score in zip(places, scores, strict=True):
        table[pool][place] = score
    return {**record, score_key: table}


def _check_no_scores(file: DPRFile, score_key: str) -> None:
    """Check that no row has scores under this name, so that the scores of two teachers are never mixed."""
    with file.rows.open() as reader:
        for row in range(len(file.rows)):
            if row in file.findings.unusable:
                continue
            field = _find_score(reader.parse(row), score_key)
            if field is not None:
                raise DataError(
                    f"{file.rows.describe_place(row, field)} {field}: already has a score. Choose another --score_key, "
                    "or pass --overwrite_scores."
                )


def _find_score(record: Any, score_key: str) -> str | None:
    """Return the first field of a record with a score under this name, or None."""
    if record.get("positive_ids") is not None:
        return score_key if score_key in record else None
    found = ((pool, i) for pool, i, _ in iter_pool_passages(record) if score_key in record[pool][i])
    return next((f"{pool}[{i}].{score_key}" for pool, i in found), None)


def _read_blocks(file: DPRFile, collection: PassageCollection | None) -> Iterator[list[_Line]]:
    """Yield the lines of the rows in blocks of a few thousand passages."""
    block: list[_Line] = []
    num_passages = 0
    with file.rows.open() as reader:
        for row in track(range(len(file.rows)), "Scoring", "rows"):
            block.append(_read_line(file, reader, row, collection))
            num_passages += len(block[-1].passages)
            if max(num_passages, len(block)) >= _PAIRS:
                yield block
                block, num_passages = [], 0
    yield block


def _read_line(file: DPRFile, reader: RowReader, row: int, collection: PassageCollection | None) -> _Line:
    if row in file.findings.unusable:
        return _Line(reader.read(row).strip() + b"\n", {})
    record = reader.parse(row)
    question, found = parse_row(record, collection).question, list(iter_pool_passages(record, collection))
    places, passages = [(pool, place) for pool, place, _ in found], [passage for *_, passage in found]
    return _Line(b"", record.as_dict(), question, places, passages)


def _write_block(
    block: Sequence[_Line],
    teacher: Teacher,
    score_key: str,
    write: Callable[[bytes], object],
    counts: Counter[str],
) -> None:
    """Score the passages of a block in one call, and write its lines."""
    questions = [line.question for line in block for _ in line.passages]
    passages = [passage for line in block for passage in line.passages]
    scores = iter(teacher.score(questions, passages) if passages else ())
    for line in block:
        if line.content:
            write(line.content)
            continue
        numbers = [to_json_number(next(scores)) for _ in line.passages]
        record = add_scores(line.record, line.places, numbers, score_key)
        write(json.dumps(record, ensure_ascii=False).encode() + b"\n")
        counts.update(rows=1, passages=len(numbers))
