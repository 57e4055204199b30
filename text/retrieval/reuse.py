"""Embeddings of an earlier state of a collection, found by passage: what has not changed is not encoded again."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from text.records import Passage, text_key
from text.retrieval.shards import EmbeddingShards


def passage_key(passage: Passage) -> int:
    """64-bit hash of id, title and text."""
    return text_key("\0".join((passage.passage_id, passage.title, passage.text)))


class KnownPassages:
    """Rows of embeddings by passage; 16 bytes of memory for each.

    Args:
        shards: Of the earlier state.
    """

    def __init__(self, shards: EmbeddingShards) -> None:
        self.shards = shards
        keys = shards.passage_keys()
        self._order = np.argsort(keys, kind="stable")
        self._keys = keys[self._order]

    def rows(self, passages: Sequence[Passage]) -> np.ndarray:
        """(N,) rows; -1 where there is none with the same id, title and text."""
        wanted = np.array([passage_key(passage) for passage in passages], dtype=np.int64)
        places = np.searchsorted(self._keys, wanted).clip(max=len(self._keys) - 1)
        rows = np.where(self._keys[places] == wanted, self._order[places], -1)
        for place in np.flatnonzero(rows >= 0).tolist():
            if self.shards.passage_id(int(rows[place])) != passages[place].passage_id:
                rows[place] = -1
        return rows
