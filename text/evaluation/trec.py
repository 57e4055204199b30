"""Qrels and runs: files to dictionaries and back.

Qrels say how relevant passages are to questions: TREC's four columns (question, 0, passage, relevance), or BEIR's three
with a header. A run holds what a search found: TREC's six columns (question, Q0, passage, rank, score, name).

Spaces separate the columns of a run, so ``write_run`` percent-encodes ids that hold one. The name at the end of each
line says so, and ``read_run`` decodes these lines only: an id such as ``a%20b`` of another program stays as it is.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from urllib.parse import quote, unquote

from text.artifacts import write_lines
from text.datasets.formats.compressed_files import form_of, read_chunks
from text.datasets.formats.lines import read_lines
from text.errors import DataError

Qrels = dict[str, dict[str, int]]
"""By question id, by passage id: relevance; 0 and less is not relevant."""
Run = dict[str, dict[str, float]]
"""By question id, by passage id: score; larger is better."""
ENCODED = "+percent-encoded"
"""Ending of a run's name in a file whose ids are percent-encoded."""
_UNSAFE = re.compile(r"[\s\x00-\x1f\x7f-\x9f\ufeff]")
"""White space, control characters and the byte order mark, which an id in a run cannot hold as they are."""
_ITERATIONS = {"0", "Q0"}
"""Usual values of TREC's second column of qrels."""
_RELEVANCE = re.compile(r"([+-]?[0-9]{1,9})(\.0*)?")
_NUMBER = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?")
"""A number as C reads it. Python also takes ``1_0`` and digits of other scripts."""
_SPACES = " \t\r\n\v\f"
"""White space as C has it."""
_HEADER = re.compile(r"(?=\D*(id|quer|quest|topic))\D+", re.IGNORECASE)
"""A name of the first column."""
_NOT_FINITE = re.compile("nan|inf|infinity", re.IGNORECASE)


def read_qrels(path: str | os.PathLike[str]) -> Qrels:
    """Read qrels of either form.

    The first line decides for all lines: the number of columns, and whether tabs separate them. With tabs, an id may
    hold spaces. The first line is a header if it names the columns, such as ``query-id``, ``corpus-id`` and ``score``.
    The file may be compressed by gzip or zstd.

    Without tabs, TREC's second column must be 0, Q0, one number on all lines, or numbers such as 4.5. A question id
    such as ``topic 1`` would look like a question and this column.

    Raises:
        DataError: A line has another form, a relevance is no integer, a pair stands twice, or the file is empty; with
            path and line.
        OSError: The file cannot be read.
    """
    qrels: Qrels = {}
    iterations: dict[str, tuple[str, str]] = {}  # each value of TREC's second column, with its first place and line
    separator, num_columns = None, 0
    for _, where, line in _lines(path):
        if not num_columns:
            separator, num_columns = _find_columns(line)
            if _is_header(_split(line, separator)):
                continue
        fields = _split(line, separator)
        if len(fields) != num_columns:
            raise _other_columns(where, line, num_columns)
        if num_columns == 4 and separator is None:
            iterations.setdefault(fields[1], (where, line))
        relevance = _RELEVANCE.fullmatch(fields[-1])
        if relevance is None:
            raise DataError(f"{where}: the relevance is {_quote(fields[-1])}. Use an integer such as 0 or 1.")
        if not fields[0] or not fields[-2]:
            raise DataError(f"{where}: {_quote(line)} has an empty id. Give the ids of a question and a passage.")
        _add(qrels, where, fields[0], fields[-2], int(relevance[1]))
    if not qrels:
        raise DataError(f"{Path(path)}: the file has no judgments. Write one a line.")
    _check_iterations(iterations, len(qrels))
    return qrels


def read_run(path: str | os.PathLike[str]) -> Run:
    """Read a run. Ranks are not kept, because they follow from the scores. The file may be compressed by gzip or zstd.

    Raises:
        DataError: A line has another form, a pair stands twice, or the run is empty; with path and line.
        OSError: The file cannot be read.
    """
    run: Run = {}
    for _, where, line in _lines(path):
        fields = line.split()
        if len(fields) != 6 or (score := _number(fields[4])) is None:
            columns = "question, Q0, passage, rank, score and name"
            raise DataError(f"{where}: {_quote(line)} is not {columns}. Write six columns with spaces between them.")
        question_id, passage_id = fields[0], fields[2]
        if fields[5].endswith(ENCODED):
            question_id, passage_id = unquote(question_id), unquote(passage_id)
        _add(run, where, question_id, passage_id, score)
    if not run:
        raise DataError(f"{Path(path)}: the run is empty. Give a run that has found passages.")
    return run


def write_run(path: str | os.PathLike[str], run: Mapping[str, Mapping[str, float]], name: str = "dpr-text") -> None:
    """Write a run, best first, whole or not at all.

    Raises:
        ValueError: As ``format_run``.
        OSError: The file cannot be written.
    """
    write_lines(path, format_run(run, name))


def format_run(run: Mapping[str, Mapping[str, float]], name: str = "dpr-text") -> Iterator[str]:
    """Yield the lines of a run, best first. Scores are written in full, so that reading gives them back.

    If an id holds white space or a control character, all ids of the file are percent-encoded, and the name ends in
    ``+percent-encoded``. Any other run is written as it is.

    Raises:
        ValueError: An id is empty, or the name is empty or holds a space.
    """
    if name.split() != [name]:
        raise ValueError(f"The name of the run is {_quote(name)}. Use a name without spaces.")
    ids = {*run, *(passage_id for scores in run.values() for passage_id in scores)}
    if "" in ids:
        raise ValueError("An id is empty. A run cannot hold it.")
    is_encoded = any(_UNSAFE.search(each) for each in ids)
    encode, name = (_encode_id, name + ENCODED) if is_encoded else (str, name)
    for question_id, scores in run.items():
        first = encode(question_id)
        for rank, passage_id in enumerate(rank_passages(scores), start=1):
            yield f"{first} Q0 {encode(passage_id)} {rank} {scores[passage_id]!r} {name}\n"


def rank_passages(scores: Mapping[str, float]) -> list[str]:
    """Passage ids, best first; of equal scores, the larger id first, as trec_eval does.

    >>> rank_passages({"a": 1.0, "b": 1.0, "c": 2.0})
    ['c', 'b', 'a']
    """
    return [passage_id for _, passage_id in sorted(((s, p) for p, s in scores.items()), reverse=True)]


def check_common_questions(
    path: str | os.PathLike[str],
    run: Mapping[str, Mapping[str, float]],
    other: str | os.PathLike[str],
    question_ids: Iterable[str],
) -> None:
    """Check that a run holds at least one question of another file.

    Args:
        path: The file of the run.
        run: The run.
        other: The other file.
        question_ids: Ids of the questions of the other file.

    Raises:
        DataError: They have no question in common.
    """
    if not any(question_id in run for question_id in question_ids):
        raise DataError(f"{os.fspath(path)}: has none of the questions of {os.fspath(other)}. Give a run of these.")


def check_counted_questions(
    path: str | os.PathLike[str],
    run: Mapping[str, Mapping[str, float]],
    other: str | os.PathLike[str],
    question_ids: Sequence[str],
    *,
    skip_missing: bool = False,
) -> None:
    """Check that a run is of this file if the ids of the file only count its questions: "0", "1", "2" and so on.

    Such ids stand in every file without ids, so a run of another file would match. A search finds passages for nearly
    all questions, so the ids of the run should end where the file ends.

    Args:
        path: The file of the run.
        run: The run.
        other: The file of the questions.
        question_ids: Ids of all questions of that file, in its order.
        skip_missing: The run may be one of the first questions of the file.

    Raises:
        DataError: The ids count the questions, and the run has more questions than the file, or ends well before it.
    """
    if list(question_ids) != [str(number) for number in range(len(question_ids))]:
        return
    unknown = run.keys() - set(question_ids)
    missing = [number for number, question_id in enumerate(question_ids) if question_id not in run]
    num_last = len(question_ids) - 1 - max((int(question_id) for question_id in run.keys() - unknown), default=-1)
    is_cut = not skip_missing and num_last > 1 + len(missing) - num_last
    if unknown or is_cut:
        found = f"the question {_quote(min(unknown))}, which it lacks" if unknown else f"none of the last {num_last}"
        raise DataError(
            f"{os.fspath(path)}: seems to be of other questions than {os.fspath(other)}, whose ids only count its "
            f"{len(question_ids)} questions. The run has {found}. Give the run of this file, or give the questions ids."
        )


def _lines(path: str | os.PathLike[str]) -> Iterator[tuple[int, str, str]]:
    """Number, place and text of each line that has any."""
    name = os.fspath(path)
    for number, (_, encoded) in enumerate(read_lines(read_chunks(name, form_of(name)), name), start=1):
        try:
            line = encoded.decode("utf-8").strip()
        except UnicodeDecodeError:
            raise DataError(f"{Path(path)}:{number}: the line is not UTF-8. Write the file in UTF-8.") from None
        if line:
            yield number, f"{Path(path)}:{number}", line


def _find_columns(line: str) -> tuple[str | None, int]:
    """Return the separator of a file's columns, None for any white space, and their number; 3 or 4 are right."""
    num_tabs = len(_split(line, "\t"))
    return ("\t", num_tabs) if num_tabs in (3, 4) else (None, 4 if len(line.split()) == 4 else 3)


def _split(line: str, separator: str | None) -> list[str]:
    return [field.strip(_SPACES) for field in line.split(separator)]


def _is_header(fields: list[str]) -> bool:
    is_name = fields[-1][:1].isalpha() and not _NOT_FINITE.fullmatch(fields[-1])
    return len(fields) in (3, 4) and is_name and _HEADER.fullmatch(fields[0]) is not None


def _check_iterations(iterations: Mapping[str, tuple[str, str]], num_questions: int) -> None:
    """Check that TREC's second column, of lines without tabs, is no part of a question id such as "topic 1".

    It is 0 in nearly all files. Some have one number for several questions; TREC-COVID has numbers such as 4.5.
    """
    values = list(iterations)
    are_numbers = None not in map(_number, values)
    is_one = len(values) == 1 and num_questions > 1
    if set(values) <= _ITERATIONS or (are_numbers and (is_one or any("." in value for value in values))):
        return
    raise _other_columns(*iterations[values[:2][-1]], num_columns=4)


def _other_columns(where: str, line: str, num_columns: int) -> DataError:
    columns = "question, passage and relevance" if num_columns == 3 else "question, 0, passage and relevance"
    return DataError(f"{where}: {_quote(line)} is not {columns}. Separate the columns by tabs if an id holds a space.")


def _encode_id(value: str) -> str:
    return re.sub(f"%|{_UNSAFE.pattern}", lambda match: quote(match[0], safe=""), value)


def _quote(value: str) -> str:
    return '"' + " ".join(value.split())[:100] + '"'


def _add(table: dict[str, dict], where: str, question_id: str, passage_id: str, value: float) -> None:
    of_question = table.setdefault(question_id, {})
    if passage_id in of_question:
        raise DataError(
            f"{where}: question {_quote(question_id)} and passage {_quote(passage_id)} stand twice. Keep one line."
        )
    of_question[passage_id] = value


def _number(field: str) -> float | None:
    number = float(field) if _NUMBER.fullmatch(field) else math.inf
    return number if math.isfinite(number) else None
