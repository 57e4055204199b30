"""Lookup of embeddings on disk by the keys of their texts. Training reads a teacher's embeddings with it.

Dimensions: N texts; R rows of the embeddings; D width of an embedding.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from text.errors import ArtifactError
from text.records import Passage, hash_text, make_question_id
from text.retrieval.reuse import hash_passage
from text.retrieval.shards import EmbeddingShards

UNKNOWN, OTHER_TEXT, SAME_TEXT = 0, 1, 2
"""Results of ``EmbeddingLookup.compare_passages``."""


class EmbeddingLookup:
    """The embeddings of passages or of questions, looked up by id or by text. It needs 16 bytes of memory per text.

    Data workers may get a copy. The copy opens the files again.

    Args:
        folder: Folder of ``dpr-text encode``.
        side: "passage" or "question". The side that was encoded.
        check_hashes: Read all embeddings once and compare their hashes. Otherwise only sizes are compared.

    Raises:
        FileNotFoundError: The folder holds no embeddings.
        ArtifactError: As ``EmbeddingShards``. Or the embeddings belong to the other side.
    """

    def __init__(self, folder: str | os.PathLike[str], side: str, *, check_hashes: bool = True) -> None:
        self.shards = EmbeddingShards(folder, check_hashes=check_hashes)
        self.side = side
        if self.shards.plan.side != side:
            flag = {"passage": "--collection", "question": "--questions"}[side]
            raise ArtifactError(
                f"{Path(folder)}: holds embeddings of {self.shards.plan.side}s, not of {side}s. Encode with {flag}."
            )
        ids = self.shards.iter_passage_ids()
        keys = np.fromiter((hash_id(each) for each in ids), dtype=np.int64, count=len(self.shards))
        self._order = np.argsort(keys, kind="stable")
        self._keys = keys[self._order]

    def __getstate__(self) -> dict[str, Any]:
        kept = {name: value for name, value in vars(self).items() if name != "_text_keys"}
        return kept | {"shards": self.shards.folder}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state | {"shards": EmbeddingShards(state["shards"], check_hashes=False)})

    @property
    def embedding_dim(self) -> int:
        """D, the width of an embedding."""
        return self.shards.embedding_dim

    def find_rows(self, keys: np.ndarray) -> np.ndarray:
        """Return the (N,) rows of texts by the keys of their ids, or -1 for a text without an embedding.

        Args:
            keys: (N,) int64. The first of ``Passage.keys``, or ``hash_id`` of a question's id.
        """
        places = np.searchsorted(self._keys, keys).clip(max=len(self._keys) - 1)
        return np.where(self._keys[places] == keys, self._order[places], -1)

    def read_passages(self, keys: np.ndarray) -> np.ndarray:
        """Return the (N, D) float32 embeddings of passages.

        Args:
            keys: (N,) int64. The first of ``Passage.keys`` of each passage.

        Raises:
            ArtifactError: A passage has no embedding, or a file has changed since it was opened.
        """
        rows = self.find_rows(keys)
        if (rows < 0).any():
            raise ArtifactError(f"{self.shards.folder}: {int((rows < 0).sum())} {self.side}s have no embedding.")
        return self.shards.read_rows(rows) if len(rows) else np.zeros((0, self.embedding_dim), dtype=np.float32)

    def read_questions(self, questions: Sequence[str]) -> np.ndarray:
        """Return the (N, D) float32 embeddings of questions, which are found by their exact texts.

        Raises:
            ArtifactError: A question has no embedding, or a file has changed since it was opened.
        """
        return self.read_passages(_hash_questions(questions))

    def has_questions(self, questions: Sequence[str]) -> np.ndarray:
        """Return a mask of the questions with an embedding, (N,) bool."""
        return self.find_rows(_hash_questions(questions)) >= 0

    def compare_passages(self, passages: Sequence[Passage]) -> np.ndarray:
        """Return whether passages have an embedding, and whether it is of the same title and text.

        Returns:
            (N,) int8: UNKNOWN, OTHER_TEXT or SAME_TEXT. A passage without an id is unknown.
        """
        rows = self.find_rows(np.array([passage.keys[0] for passage in passages], dtype=np.int64))
        texts = np.array([hash_passage(passage) for passage in passages], dtype=np.int64)
        is_known = (rows >= 0) & np.array([bool(passage.passage_id) for passage in passages], dtype=bool)
        is_same = is_known & (self._text_keys[rows] == texts)
        return np.where(is_same, SAME_TEXT, np.where(is_known, OTHER_TEXT, UNKNOWN)).astype(np.int8)

    @cached_property
    def _text_keys(self) -> np.ndarray:
        """(R,) int64 hashes of id, title and text."""
        return self.shards.read_passage_keys()


def hash_id(passage_id: str) -> int:
    """Return the key of a text by its id, as in ``Passage.keys``."""
    return hash_text(f"id {passage_id}")


def _hash_questions(questions: Sequence[str]) -> np.ndarray:
    return np.array([hash_id(make_question_id(question)) for question in questions], dtype=np.int64)
