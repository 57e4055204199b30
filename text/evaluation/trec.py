"""Readers and writers of qrels and runs.

Qrels are relevance judgments. Their files have TREC's four columns (question, 0, passage, relevance) or BEIR's three
columns with a header. A run is the result of a search. Its file has TREC's six columns (question, Q0, passage, rank,
score, name).

Spaces separate the columns of a run, so ``write_run`` percent-encodes ids that contain white space and marks the name
of the run. ``read_run`` decodes only marked lines, so an id such as ``a%20b`` of another program stays unchanged.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from urllib.parse import quote, unquote

from text.artifacts import write_lines
from text.datasets.formats.compressed_files import detect_form, read_chunks
from text.datasets.formats.lines import read_lines
from text.errors import DataError

Qrels = dict[str, dict[str, int]]
"""Relevance by question id and passage id. 0 or less means not relevant."""
Run = dict[str, dict[str, float]]
"""Scores by question id and passage id. Larger is better."""
ENCODED = "+percent-encoded"
"""Suffix of the run's name if its ids are percent-encoded."""
_UNSAFE = re.compile(r"[\s\x00-\x1f\x7f-\x9f\ufeff]")
"""Characters that an id in a run must not contain unencoded: white space, control characters, byte order mark."""
_ITERATIONS = {"0", "Q0"}
"""Usual values of the second column of TREC qrels."""
_RELEVANCE = re.compile(r"([+-]?[0-9]{1,9})(\.0*)?")
_NUMBER = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?")
"""Number in C syntax. Python also accepts ``1_0`` and digits of other scripts."""
_SPACES = " \t\r\n\v\f"
"""White space in C."""
_HEADER = re.compile(r"(?=\D*(id|quer|quest|topic))\D+", re.IGNORECASE)
"""Header of the first column, such as ``query-id``."""
_NOT_FINITE = re.compile("nan|inf|infinity", re.IGNORECASE)


def read_qrels(path: str | os.PathLike[str]) -> Qrels:
    """Read qrels in TREC's or BEIR's format. The file may be compressed with gzip or zstd.

    The first line determines the number of columns and the separator (tabs or spaces) of all lines. With tabs, an id
    may contain spaces. The first line is a header if it names columns, such as ``query-id corpus-id score``.

    Without tabs, TREC's second column must be 0, Q0, the same number on all lines, or numbers such as 4.5. This check
    finds question ids with a space, such as ``topic 1``.

    Returns:
        Relevance by question id and passage id.

    Raises:
        DataError: A line has the wrong number of columns, a relevance is not an integer, a pair occurs twice, or the
            file is empty. The message has path and line.
        OSError: The file cannot be read.
    """
    qrels: Qrels = {}
    iterations: dict[str, tuple[str, str]] = {}  # value of the second column -> its first place and line
    separator, num_columns = None, 0
    for _, where, line in _read_lines(path):
        if not num_columns:
            separator, num_columns = _find_columns(line)
            if _is_header(_split(line, separator)):
                continue
        fields = _split(line, separator)
        if len(fields) != num_columns:
            raise _make_column_error(where, line, num_columns)
        if num_columns == 4 and separator is None:
            iterations.setdefault(fields[1], (where, line))
        relevance = _RELEVANCE.fullmatch(fields[-1])
        if relevance is None:
            raise DataError(f"{where}: the relevance is {_quote(fields[-1])}. Use an integer such as 0 or 1.")
        if not fields[0] or not fields[-2]:
            raise DataError(f"{where}: {_quote(line)} has an empty id. Each line needs a question id and a passage id.")
        _add_value(qrels, where, fields[0], fields[-2], int(relevance[1]))
    if not qrels:
        raise DataError(f"{Path(path)}: the file has no judgments. Write one judgment per line.")
    _check_iterations(iterations, len(qrels))
    return qrels


def read_run(path: str | os.PathLike[str]) -> Run:
    """Read a run. Its ranks are ignored, because scores determine them. The file may be compressed with gzip or zstd.

    Returns:
        Scores by question id and passage id.

    Raises:
        DataError: A line does not have six columns with a finite score, a pair occurs twice, or the file is empty. The
            message has path and line.
        OSError: The file cannot be read.
    """
    run: Run = {}
    for _, where, line in _read_lines(path):
        fields = line.split()
        if len(fields) != 6 or (score := _parse_number(fields[4])) is None:
            columns = "question, Q0, passage, rank, score and name"
            raise DataError(f"{where}: {_quote(line)} is not {columns}. Separate six columns by spaces.")
        question_id, passage_id = fields[0], fields[2]
        if fields[5].endswith(ENCODED):
            question_id, passage_id = unquote(question_id), unquote(passage_id)
        _add_value(run, where, question_id, passage_id, score)
    if not run:
        raise DataError(f"{Path(path)}: the run is empty. Use a run with at least one passage.")
    return run


def write_run(path: str | os.PathLike[str], run: Mapping[str, Mapping[str, float]], name: str = "dpr-text") -> None:
    """Write a run atomically, with the best passage of each question first.

    Args:
        path: File to write.
        run: Scores by question id and passage id.
        name: Name of the run, for the last column.

    Raises:
        ValueError: An id is empty, or the name is empty or contains white space.
        OSError: The file cannot be written.
    """
    write_lines(path, format_run(run, name))


def format_run(run: Mapping[str, Mapping[str, float]], name: str = "dpr-text") -> Iterator[str]:
    """Yield the lines of a run, with the best passage of each question first.

    Scores have full precision, so ``read_run`` restores them exactly. If an id contains white space or a control
    character, all ids are percent-encoded, and ``+percent-encoded`` is added to the name.

    Args:
        run: Scores by question id and passage id.
        name: Name of the run, for the last column.

    Raises:
        ValueError: An id is empty, or the name is empty or contains white space.
    """
    if name.split() != [name]:
        raise ValueError(f"The name of the run is {_quote(name)}. Use a name without spaces.")
    ids = {*run, *(passage_id for scores in run.values() for passage_id in scores)}
    if "" in ids:
        raise ValueError("An id is empty. The columns of a run cannot be empty.")
    is_encoded = any(_UNSAFE.search(each) for each in ids)
    encode, name = (_encode_id, name + ENCODED) if is_encoded else (str, name)
    for question_id, scores in run.items():
        encoded_id = encode(question_id)
        for rank, passage_id in enumerate(rank_passages(scores), start=1):
            yield f"{encoded_id} Q0 {encode(passage_id)} {rank} {scores[passage_id]!r} {name}\n"


def rank_passages(scores: Mapping[str, float]) -> list[str]:
    """Return passage ids, best first. If scores are equal, the larger id comes first, as in trec_eval.

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
    """Check that a run and another file have at least one question in common.

    Args:
        path: File of the run.
        run: Scores by question id and passage id.
        other: The other file.
        question_ids: Question ids of the other file.

    Raises:
        DataError: The files have no question in common.
    """
    if not any(question_id in run for question_id in question_ids):
        raise DataError(
            f"{os.fspath(path)}: no question in common with {os.fspath(other)}. Use a run for its questions."
        )


def check_counted_questions(
    path: str | os.PathLike[str],
    run: Mapping[str, Mapping[str, float]],
    other: str | os.PathLike[str],
    question_ids: Sequence[str],
    *,
    skip_missing: bool = False,
) -> None:
    """Check that a run belongs to a file whose question ids are only numbers: "0", "1", "2" and so on.

    Every file without ids gets such ids, so the run of another file could match by chance. A search finds passages for
    nearly all questions, so the last question of the run should be near the end of the file.

    Args:
        path: File of the run.
        run: Scores by question id and passage id.
        other: File of the questions.
        question_ids: All question ids of that file, in file order.
        skip_missing: Accept a run for only the first questions of the file.

    Raises:
        DataError: The ids are such numbers, and the run has more questions than the file or ends too early.
    """
    if list(question_ids) != [str(number) for number in range(len(question_ids))]:
        return
    unknown = run.keys() - set(question_ids)
    missing = [number for number, question_id in enumerate(question_ids) if question_id not in run]
    num_last = len(question_ids) - 1 - max((int(question_id) for question_id in run.keys() - unknown), default=-1)
    is_cut = not skip_missing and num_last > 1 + len(missing) - num_last
    if unknown or is_cut:
        found = f"an unknown question {_quote(min(unknown))}" if unknown else f"none of the last {num_last} questions"
        raise DataError(
            f"{os.fspath(path)}: does not seem to be a run for {os.fspath(other)}. The file numbers its "
            f"{len(question_ids)} questions from 0, and the run has {found}. Use the run for this file, or add ids to "
            "its questions."
        )


def _read_lines(path: str | os.PathLike[str]) -> Iterator[tuple[int, str, str]]:
    """Yield number, place (``file:line``) and text of each line that is not blank."""
    name = os.fspath(path)
    for number, (_, encoded) in enumerate(read_lines(read_chunks(name, detect_form(name)), name), start=1):
        try:
            line = encoded.decode("utf-8").strip()
        except UnicodeDecodeError:
            raise DataError(f"{Path(path)}:{number}: the line is not valid UTF-8. Convert the file to UTF-8.") from None
        if line:
            yield number, f"{Path(path)}:{number}", line


def _find_columns(line: str) -> tuple[str | None, int]:
    """Return the column separator (None for any white space) and the number of columns (3 or 4)."""
    num_tabs = len(_split(line, "\t"))
    return ("\t", num_tabs) if num_tabs in (3, 4) else (None, 4 if len(line.split()) == 4 else 3)


def _split(line: str, separator: str | None) -> list[str]:
    return [field.strip(_SPACES) for field in line.split(separator)]


def _is_header(fields: list[str]) -> bool:
    is_name = fields[-1][:1].isalpha() and not _NOT_FINITE.fullmatch(fields[-1])
    return len(fields) in (3, 4) and is_name and _HEADER.fullmatch(fields[0]) is not None


def _check_iterations(iterations: Mapping[str, tuple[str, str]], num_questions: int) -> None:
    """Check that TREC's second column is not part of a question id such as "topic 1". For lines without tabs.

    The column is 0 in nearly all files. Some files have one number for all questions. TREC-COVID has numbers such as
    4.5.
    """
    values = list(iterations)
    are_numbers = None not in map(_parse_number, values)
    is_constant = len(values) == 1 and num_questions > 1
    if set(values) <= _ITERATIONS or (are_numbers and (is_constant or any("." in value for value in values))):
        return
    raise _make_column_error(*iterations[values[:2][-1]], num_columns=4)


def _make_column_error(where: str, line: str, num_columns: int) -> DataError:
    columns = "question, passage and relevance" if num_columns == 3 else "question, 0, passage and relevance"
    return DataError(f"{where}: {_quote(line)} is not {columns}. If an id has a space, separate the columns by tabs.")


def _encode_id(value: str) -> str:
    return re.sub(f"%|{_UNSAFE.pattern}", lambda match: quote(match[0], safe=""), value)


def _quote(value: str) -> str:
    return '"' + " ".join(value.split())[:100] + '"'


def _add_value(table: dict[str, dict], where: str, question_id: str, passage_id: str, value: float) -> None:
    """Add the value of a question and a passage to a table. Raise DataError if the table already has one."""
    values = table.setdefault(question_id, {})
    if passage_id in values:
        raise DataError(
            f"{where}: question {_quote(question_id)} and passage {_quote(passage_id)} occur twice. Keep one line."
        )
    values[passage_id] = value


def _parse_number(field: str) -> float | None:
    number = float(field) if _NUMBER.fullmatch(field) else math.inf
    return number if math.isfinite(number) else None
