"""Embeddings of texts in memory, which exact search reads as it reads those on disk.

Dimensions: R texts; D width of an embedding; N rows.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import Protocol

import numpy as np
from torch import Tensor

from text.records import Passage
from text.retrieval.arguments import list_texts


class Embeddings(Protocol):
    """What exact search needs of the embeddings of a collection."""

    @property
    def embedding_dim(self) -> int:
        """D."""
        ...

    def __len__(self) -> int: ...

    def blocks(self, num_rows: int) -> Iterator[tuple[int, np.ndarray]]:
        """Yield the first row and (at most num_rows, D) float32 embeddings."""
        ...

    def rows(self, rows: np.ndarray) -> np.ndarray:
        """Return the (N, D) float32 embeddings of (N,) rows."""
        ...

    def passage_ids(self) -> Iterator[str]:
        """Yield the ids of all passages in their order."""
        ...

    def passage_ids_of(self, rows: np.ndarray) -> list[str]:
        """Return the ids of the passages at (N,) rows."""
        ...


class MemoryEmbeddings:
    """Embeddings of passages in memory.

    Args:
        passage_ids: An id for each row, each once.
        embeddings: (R, D) float32, finite.

    Raises:
        ValueError: An id stands twice, or an embedding is not finite; with the id.
    """

    def __init__(self, passage_ids: Sequence[str], embeddings: Tensor) -> None:
        repeated = [name for name, count in Counter(passage_ids).items() if count > 1]
        if repeated:
            raise ValueError(f"the id {repeated[0]} stands twice. Give each passage an id of its own, or none.")
        finite = embeddings.isfinite().all(dim=1)
        if not finite.all():
            name = passage_ids[int((~finite).nonzero()[0])]
            raise ValueError(f"the embedding of passage {name} is NaN or infinite.")
        self._ids = np.array(passage_ids, dtype=object)
        self._embeddings = embeddings.numpy()

    def __len__(self) -> int:
        return len(self._embeddings)

    @property
    def embedding_dim(self) -> int:
        """D."""
        return self._embeddings.shape[1]

    def blocks(self, num_rows: int) -> Iterator[tuple[int, np.ndarray]]:
        """Yield blocks: the first row and (at most num_rows, D) float32 embeddings."""
        for start in range(0, len(self), num_rows):
            yield start, self._embeddings[start : start + num_rows]

    def rows(self, rows: np.ndarray) -> np.ndarray:
        """Return the (N, D) float32 embeddings of (N,) rows."""
        return self._embeddings[rows]

    def passage_ids(self) -> Iterator[str]:
        """Yield the ids of all passages in their order."""
        yield from self._ids

    def passage_ids_of(self, rows: np.ndarray) -> list[str]:
        """Return the ids of the passages at (N,) rows."""
        return self._ids[rows].tolist()


def number_passages(texts: Iterable[str] | Iterable[Passage]) -> list[Passage]:
    """Return passages with ids. Where there is none, the place in the list is the id, from "0" on.

    Raises:
        TypeError: As ``list_texts``.
        ValueError: There are no texts, one is blank, or two have the same id.

    >>> number_passages(["an oak"])
    [Passage(passage_id='0', title='', text='an oak', score=None)]
    """
    passages = [text if isinstance(text, Passage) else Passage("", "", text) for text in list_texts(texts)]
    if not passages:
        raise ValueError("texts has no texts. Give a list of them.")
    for row, passage in enumerate(passages):
        if not (passage.title.strip() or passage.text.strip()):
            raise ValueError(f"text {row} is blank.")
    _check_ids(passages)
    return [passage._replace(passage_id=passage.passage_id or str(row)) for row, passage in enumerate(passages)]


def _check_ids(passages: Sequence[Passage]) -> None:
    """Check that no id stands twice, and that none is the place of a passage without an id."""
    places: dict[str, int] = {}
    for row, passage in enumerate(passages):
        if passage.passage_id and (other := places.setdefault(passage.passage_id, row)) != row:
            raise ValueError(f"texts {other} and {row} have the id {passage.passage_id}. Give each an id of its own.")
    for row, passage in enumerate(passages):
        if not passage.passage_id and (other := places.get(str(row))) is not None:
            raise ValueError(
                f"text {other} has the id {row}, and text {row} has no id, so that its place would be its id. "
                "Give each passage an id, or none."
            )
