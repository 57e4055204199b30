"""Rows in the DPR format, as drivers write them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from text.records import Passage

Record = dict[str, Any]
"""A JSON object."""


def context(passage: Passage) -> Record:
    """A passage as rows have it."""
    return {"passage_id": passage.passage_id, "title": passage.title, "text": passage.text}


def with_contexts(record: Record, positives: Sequence[Record], hard_negatives: Sequence[Record]) -> Record:
    """The same row with these passages, for its own and for the ids that a compact one has."""
    kept = {name: value for name, value in record.items() if not name.endswith("_ids")}
    return kept | {"positive_ctxs": positives, "negative_ctxs": [], "hard_negative_ctxs": hard_negatives}
