"""Embeddings in memory, with the same interface for exact search as embeddings on disk.

Dimensions: R passages of the collection; P passages of a block; D width of an embedding; N rows.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple, Protocol

import numpy as np
from torch import Tensor

from text.records import Passage
from text.retrieval.arguments import list_texts


class StoredBlock(NamedTuple):
    """A block of embeddings in the dtype in which they are stored."""

    first: int
    """Row of the first embedding."""
    numbers: np.ndarray
    """(P, D) float32, float16 or int8."""
    scales: np.ndarray | None = None
    """(P,) float32 factors of int8 embeddings. None for the other dtypes."""


class Embeddings(Protocol):
    """The interface of embeddings of a collection that exact search needs."""

    @property
    def embedding_dim(self) -> int:
        """D, the width of an embedding."""
        ...

    def __len__(self) -> int: ...

    def check_unchanged(self) -> None:
        """Raise ArtifactError if the embeddings were modified since they were opened."""
        ...

    def iter_stored_blocks(self, num_rows: int, start: int = 0) -> Iterator[StoredBlock]:
        """Yield blocks of at most ``num_rows`` rows, beginning with the row ``start``."""
        ...

    def read_rows(self, rows: np.ndarray) -> np.ndarray:
        """Return the (N, D) float32 embeddings of (N,) rows."""
        ...

    def iter_passage_ids(self) -> Iterator[str]:
        """Yield the ids of all passages in their order."""
        ...

    def get_passage_ids(self, rows: np.ndarray) -> list[str]:
        """Return the ids of the passages at (N,) rows."""
        ...


class MemoryEmbeddings:
    """Embeddings of passages in memory.

    Args:
        passage_ids: The id of each row. Ids are unique.
        embeddings: (R, D) float32, finite, on the CPU.

    Raises:
        ValueError: An id occurs twice, or an embedding is not finite. The message names the id.
    """

    def __init__(self, passage_ids: Sequence[str], embeddings: Tensor) -> None:
        repeated = [name for name, count in Counter(passage_ids).items() if count > 1]
        if repeated:
            raise ValueError(f"the id {repeated[0]} occurs twice. Give each passage a unique id, or none.")
        finite = embeddings.isfinite().all(dim=1)
        if not finite.all():
            name = passage_ids[int((~finite).nonzero()[0])]
            raise ValueError(
                f"the embedding of passage {name} is NaN or infinite. Check that the model is not damaged."
            )
        self._ids = np.array(passage_ids, dtype=object)
        self._embeddings = embeddings.numpy()

    def __len__(self) -> int:
        return len(self._embeddings)

    @property
    def embedding_dim(self) -> int:
        """D, the width of an embedding."""
        return self._embeddings.shape[1]

    def check_unchanged(self) -> None:
        """Do nothing. No other process can modify embeddings in memory."""

    def iter_stored_blocks(self, num_rows: int, start: int = 0) -> Iterator[StoredBlock]:
        """Yield blocks of at most ``num_rows`` rows, beginning with the row ``start``."""
        for first in range(start, len(self), num_rows):
            yield StoredBlock(first, self._embeddings[first : first + num_rows])

    def read_rows(self, rows: np.ndarray) -> np.ndarray:
        """Return the (N, D) float32 embeddings of (N,) rows."""
        return self._embeddings[rows]

    def iter_passage_ids(self) -> Iterator[str]:
        """Yield the ids of all passages in their order."""
        yield from self._ids

    def get_passage_ids(self, rows: np.ndarray) -> list[str]:
        """Return the ids of the passages at (N,) rows."""
        return self._ids[rows].tolist()


def number_passages(texts: Iterable[str] | Iterable[Passage]) -> list[Passage]:
    """Return texts as passages with ids. A passage without an id gets its position in the list, starting with "0".

    Raises:
        TypeError: As ``list_texts``.
        ValueError: There are no texts, a text is blank, or two passages have the same id.

    >>> number_passages(["an oak"])
    [Passage(passage_id='0', title='', text='an oak', score=None)]
    """
    passages = [text if isinstance(text, Passage) else Passage("", "", text) for text in list_texts(texts)]
    if not passages:
        raise ValueError("there are no texts. Give at least one.")
    for row, passage in enumerate(passages):
        if not (passage.title.strip() or passage.text.strip()):
            raise ValueError(f"text {row} is blank. Give each passage a text or a title.")
    _check_ids(passages)
    return [passage._replace(passage_id=passage.passage_id or str(row)) for row, passage in enumerate(passages)]


def _check_ids(passages: Sequence[Passage]) -> None:
    """Check that no id occurs twice, and that none equals the position of a passage without an id."""
    places: dict[str, int] = {}
    for row, passage in enumerate(passages):
        if passage.passage_id and (other := places.setdefault(passage.passage_id, row)) != row:
            raise ValueError(f"texts {other} and {row} have the id {passage.passage_id}. Give each text a unique id.")
    for row, passage in enumerate(passages):
        if not passage.passage_id and (other := places.get(str(row))) is not None:
            raise ValueError(
                f"text {other} has the id {row}, and text {row} has no id, so it would get the same id {row} from its "
                "position. Give every passage an id, or none."
            )
