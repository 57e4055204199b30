"""Rows in the DPR format, as drivers write them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

from text.datasets import DPRFile
from text.datasets.dpr_file import BLANK
from text.datasets.formats.dpr_record import ID_POOLS
from text.errors import DataError
from text.records import Passage

Record = dict[str, Any]
"""A JSON object."""


def context(passage: Passage) -> Record:
    """A passage as rows have it."""
    return {"passage_id": passage.passage_id, "title": passage.title, "text": passage.text}


def left_out(file: DPRFile) -> Counter[str]:
    """How many rows training cannot use, by reason; of blank lines none.

    Raises:
        DataError: No other row is there.
    """
    counts = Counter(reason for reason in file.findings.unusable.values() if reason != BLANK)
    if not len(file.usable()):
        raise DataError(f"{file.path}: no row is left{told(counts)}; expected questions with a positive")
    return counts


def told(counts: Counter[str]) -> str:
    """What ``left_out`` found, at the end of a line; nothing where there are none."""
    return "".join(f", {count} left out ({reason})" for reason, count in counts.items())


def with_contexts(record: Record, positives: Sequence[Record], hard_negatives: Sequence[Record]) -> Record:
    """The same row with these passages, for its own and for the ids that a compact one has."""
    kept = {name: value for name, value in record.items() if name not in ID_POOLS}
    return kept | {"positive_ctxs": positives, "negative_ctxs": [], "hard_negative_ctxs": hard_negatives}
