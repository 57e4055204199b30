"""Rows in the DPR format: building them, and counting the unusable ones."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from text.datasets.dpr_file import BLANK, DPRFile
from text.datasets.formats.dpr_record import ID_POOLS
from text.datasets.formats.values import split_reason
from text.errors import DataError, escape_controls
from text.records import Passage

Record = dict[str, Any]
"""A JSON object."""


def passage_to_context(passage: Passage) -> Record:
    """Return a passage as a context of a DPR row.

    >>> passage_to_context(Passage("p1", "Oaks", "A beetle ate the oak."))
    {'passage_id': 'p1', 'title': 'Oaks', 'text': 'A beetle ate the oak.'}
    """
    return {"passage_id": passage.passage_id, "title": passage.title, "text": passage.text}


def replace_contexts(record: Record, positives: Sequence[Record], hard_negatives: Sequence[Record]) -> Record:
    """Return a row with the given positives and hard negatives instead of its old contexts and passage ids.

    >>> replace_contexts({"question": "q", "positive_ids": ["p1"]}, [{"text": "a"}], [])
    {'question': 'q', 'positive_ctxs': [{'text': 'a'}], 'negative_ctxs': [], 'hard_negative_ctxs': []}
    """
    kept = {name: value for name, value in record.items() if name not in ID_POOLS}
    return kept | {"positive_ctxs": positives, "negative_ctxs": [], "hard_negative_ctxs": hard_negatives}


def count_unusable_rows(file: DPRFile) -> Counter[str]:
    """Return the number of rows that training cannot use, by reason. Blank lines are not counted.

    Raises:
        DataError: The file has no usable row.
    """
    counts = Counter[str]()
    for reason, count in file.findings.unusable.exclude_reasons([BLANK]).count_reasons().items():
        counts[split_reason(reason).kind] += count
    if not len(file.find_usable_rows()):
        raise DataError(f"{file.path}: no usable row{format_counts(counts)}. A row needs a question and a positive.")
    return counts


def format_counts(counts: Mapping[str, int]) -> str:
    """Format the counts of unusable rows for the end of a printed line. Control characters are escaped.

    Without unusable rows the result is empty.

    >>> format_counts({"no positive": 2})
    ', 2 left out (no positive)'
    """
    return "".join(f", {count} left out ({escape_controls(reason)})" for reason, count in counts.items())
