"""Reading the judgments of a split, with the place of each. ``text/evaluation/trec.py`` reads qrels for evaluation."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import NamedTuple

from text.datasets.formats.compressed_files import detect_form, read_chunks
from text.datasets.formats.lines import read_lines
from text.datasets.formats.places import format_place
from text.errors import DataError

_RELEVANCE = re.compile(r"([+-]?[0-9]{1,9})(\.0*)?")


class Judgment(NamedTuple):
    """Relevance of a passage for a question."""

    passage_id: str
    relevance: int
    place: str
    """Place of the line, in the format of error messages."""


def read_judgments(path: str) -> dict[str, list[Judgment]]:
    """Return the judgments of each question, in the order of the file.

    Tabs or spaces separate three columns with a header (BEIR) or four columns (TREC, MS MARCO).

    Raises:
        DataError: A line has another number of columns, a relevance is not an integer, a pair occurs twice, or the file
            has no judgment. The error gives path, line and byte.
        OSError: The file cannot be read.
    """
    found: dict[str, dict[str, Judgment]] = {}
    for is_first, place, fields in _read_fields(path):
        if is_first and not _RELEVANCE.fullmatch(fields[-1]):
            continue  # The header.
        relevance = _RELEVANCE.fullmatch(fields[-1])
        if relevance is None:
            raise DataError(f"{place}: the relevance is {fields[-1][:100]!r}. Give an integer such as 0 or 1.")
        question_id, passage_id = fields[0], fields[-2]
        judged = found.setdefault(question_id, {})
        if passage_id in judged:
            raise DataError(f"{place}: question {question_id!r} and passage {passage_id!r} occur twice. Keep one line.")
        judged[passage_id] = Judgment(passage_id, int(relevance[1]), place)
    if not found:
        raise DataError(f"{format_place(path, 1, 0)}: no judgments. Write one judgment per line.")
    return {question_id: list(judged.values()) for question_id, judged in found.items()}


def read_text_lines(path: str) -> Iterator[tuple[str, str]]:
    """Yield the place and the text of each line that is not blank.

    Raises:
        DataError: A line is not UTF-8, or longer than 16 MiB.
        OSError: The file cannot be read.
    """
    for number, (offset, line) in enumerate(read_lines(read_chunks(path, detect_form(path)), path), start=1):
        place = format_place(path, number, offset)
        try:
            text = line.decode("utf-8").removesuffix("\n").removesuffix("\r")
        except UnicodeDecodeError:
            raise DataError(f"{place}: not UTF-8. Convert the file to UTF-8.") from None
        if text and not text.isspace():
            yield place, text


def _read_fields(path: str) -> Iterator[tuple[bool, str, list[str]]]:
    """Yield for each line whether it is the first one, its place, and its three or four fields."""
    separator, num_fields = None, 0
    for place, text in read_text_lines(path):
        is_first = not num_fields
        if is_first:
            separator = "\t" if "\t" in text else None
            num_fields = len(text.split(separator))
        fields = [field.strip() for field in text.split(separator)]
        if len(fields) != num_fields or num_fields not in (3, 4) or not all(fields):
            columns = "question, passage and relevance, or question, 0, passage and relevance"
            raise DataError(f"{place}: {len(fields)} columns. Give the columns {columns}, separated by tabs.")
        yield is_first, place, fields
