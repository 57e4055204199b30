"""Reuse the embeddings of passages that have not changed since an earlier encoding of the collection."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from text.records import Passage, hash_text
from text.retrieval.shards import EmbeddingShards


def hash_passage(passage: Passage) -> int:
    """Return the 64-bit hash of a passage's id, title and text."""
    return hash_text("\0".join((passage.passage_id, passage.title, passage.text)))


class ReusablePassages:
    """A lookup from passages to rows of earlier embeddings. It needs 16 bytes of memory per passage.

    Args:
        shards: Embeddings of the earlier version of the collection.
    """

    def __init__(self, shards: EmbeddingShards) -> None:
        self.shards = shards
        keys = shards.read_passage_keys()
        self._order = np.argsort(keys, kind="stable")
        self._keys = keys[self._order]

    def find_rows(self, passages: Sequence[Passage]) -> np.ndarray:
        """Return the (N,) rows of passages with the same id, title and text, or -1 for new passages."""
        wanted = np.array([hash_passage(passage) for passage in passages], dtype=np.int64)
        places = np.searchsorted(self._keys, wanted).clip(max=len(self._keys) - 1)
        rows = np.where(self._keys[places] == wanted, self._order[places], -1)
        for place in np.flatnonzero(rows >= 0).tolist():
            if self.shards.get_passage_id(int(rows[place])) != passages[place].passage_id:
                rows[place] = -1
        return rows
