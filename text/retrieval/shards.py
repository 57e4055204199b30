"""Read the embeddings of a collection from a finished encoding on disk.

``text/retrieval/plan.py`` describes the files.

Dimensions: R rows of the collection; D width of an embedding; N requested rows.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch

from text.artifacts import check_readable, hash_file
from text.datasets import PassageCollection
from text.errors import ArtifactError
from text.retrieval.mapped_files import MappedFile, map_array, read_array
from text.retrieval.memory import StoredBlock
from text.retrieval.plan import (
    CUT,
    IDS,
    KEYS,
    NUMBERS,
    SCALES,
    find_collection,
    get_shard_path,
    read_embeddings_manifest,
    read_plan,
)

NEWLINE_IN_ID = b"\xff"
"""Replacement of a line break inside an id. This byte never occurs in UTF-8."""
_IDS_AT_ONCE = 1 << 12
"""Number of ids that are decoded together."""


class EmbeddingShards:
    """The embeddings of a collection on disk. Numbers and ids are memory-mapped.

    Args:
        folder: A folder that ``encode_collection`` wrote.
        check_hashes: Read all files once and compare their hashes. Otherwise only sizes are compared.

    Raises:
        FileNotFoundError: The folder does not exist or holds no embeddings.
        ArtifactError: The encoding is not finished. Or a shard is missing, is damaged, or belongs to another plan.
    """

    def __init__(self, folder: str | os.PathLike[str], *, check_hashes: bool = True) -> None:
        self.folder = Path(folder)
        self.plan = read_plan(folder)
        read_embeddings_manifest(folder, self.plan, check_hashes=check_hashes)
        self._files = [MappedFile(get_shard_path(folder, shard, NUMBERS)) for shard in range(self.plan.num_shards)]
        counts, width = (
            [len(self.plan.get_shard_rows(shard)) for shard in range(self.plan.num_shards)],
            self.plan.embedding_dim,
        )
        self.arrays = [
            map_array(file, self.plan.dtype, (count, width)) for file, count in zip(self._files, counts, strict=True)
        ]
        self.scales = [
            _read_scales(get_shard_path(folder, shard, SCALES), count) if self.plan.dtype == "int8" else None
            for shard, count in enumerate(counts)
        ]
        self._cut = [read_array(get_shard_path(folder, shard, CUT), "int8", (n,)) for shard, n in enumerate(counts)]
        self._ids = [_IdLines(MappedFile(get_shard_path(folder, shard, IDS)), n) for shard, n in enumerate(counts)]

    def __len__(self) -> int:
        return self.plan.num_rows

    @property
    def embedding_dim(self) -> int:
        """D, the width of an embedding."""
        return self.plan.embedding_dim

    def check_unchanged(self) -> None:
        """Check that no file was modified since the embeddings were opened.

        ``iter_blocks``, ``read_rows`` and the methods that return ids check the files that they read.

        Raises:
            ArtifactError: A file has another size or modification time.
        """
        for file in (*self._files, *(ids.file for ids in self._ids)):
            file.check()

    def get_passage_id(self, row: int) -> str:
        """Return the id of the passage at a row."""
        shard, place = divmod(row, self.plan.shard_rows)
        return self._ids[shard][place]

    def get_passage_ids(self, rows: np.ndarray) -> list[str]:
        """Return the ids of the passages at (N,) rows."""
        found, (shards, places) = np.empty(len(rows), dtype=object), np.divmod(rows, self.plan.shard_rows)
        for shard in np.unique(shards):
            found[shards == shard] = self._ids[shard].get_many(places[shards == shard])
        return found.tolist()

    def iter_passage_ids(self) -> Iterator[str]:
        """Yield the ids of all passages in their order."""
        for ids in self._ids:
            yield from ids

    def read_passage_keys(self) -> np.ndarray:
        """Return the (R,) int64 hashes of id, title and text."""
        return np.concatenate(
            [read_array(get_shard_path(self.folder, n, KEYS), "int64", (len(ids),)) for n, ids in enumerate(self._ids)]
        )

    def get_truncation_marks(self, rows: np.ndarray) -> np.ndarray:
        """Return (N,) int8 marks for the passages at (N,) rows: 1 if the text was truncated, else 0."""
        shards, places = np.divmod(rows, self.plan.shard_rows)
        found = np.empty(len(rows), dtype=np.int8)
        for shard in np.unique(shards):
            found[shards == shard] = self._cut[shard][places[shards == shard]]
        return found

    def count_truncated(self) -> int:
        """Return the number of texts that were truncated."""
        return sum(int((marks == 1).sum()) for marks in self._cut)

    def iter_blocks(self, num_rows: int) -> Iterator[tuple[int, np.ndarray]]:
        """Yield blocks of rows: the first row of the block and its (at most num_rows, D) float32 embeddings.

        Embeddings that are float32 on disk are not copied.

        Raises:
            ArtifactError: A file has changed since it was opened.
        """
        for first, numbers, scales in self.iter_stored_blocks(num_rows):
            block = torch.from_numpy(numbers).float().numpy()
            if scales is not None:
                block *= scales[:, None]
            yield first, block

    def iter_stored_blocks(self, num_rows: int, start: int = 0) -> Iterator[StoredBlock]:
        """Yield blocks of at most ``num_rows`` rows in the dtype on disk, without a copy.

        Args:
            num_rows: Maximum rows of a block. A block never spans two shards.
            start: First row.

        Raises:
            ArtifactError: A file has changed since it was opened.
        """
        first_shard, first_place = divmod(start, self.plan.shard_rows)
        for shard in range(first_shard, self.plan.num_shards):
            array, scales = self.arrays[shard], self.scales[shard]
            for place in range(first_place if shard == first_shard else 0, len(array), num_rows):
                self._files[shard].check()
                part = slice(place, place + num_rows)
                first = shard * self.plan.shard_rows + place
                yield StoredBlock(first, array[part], None if scales is None else scales[part])

    def read_rows(self, rows: np.ndarray) -> np.ndarray:
        """Return the (N, D) float32 embeddings of (N,) rows.

        Raises:
            ArtifactError: A file has changed since it was opened.
        """
        shards, places = np.divmod(rows, self.plan.shard_rows)
        touched = np.unique(shards)
        if len(touched) == 1:
            return self._read_shard_rows(int(touched[0]), places)
        found = np.empty((len(rows), self.plan.embedding_dim), dtype=np.float32)
        for shard in touched:
            is_here = shards == shard
            found[is_here] = self._read_shard_rows(shard, places[is_here])
        return found

    def _read_shard_rows(self, shard: int, places: np.ndarray) -> np.ndarray:
        self._files[shard].check()
        # torch converts float16 several times faster than NumPy.
        found, scales = torch.from_numpy(self.arrays[shard][places]).float().numpy(), self.scales[shard]
        return found if scales is None else found * scales[places, None]


def open_collection(shards: EmbeddingShards) -> PassageCollection:
    """Open the collection that was encoded.

    Raises:
        ValueError: The file cannot be read.
        ArtifactError: The file has changed since it was encoded.
    """
    path = find_collection(shards.folder, shards.plan)
    check_readable(path)
    if hash_file(path) != shards.plan.collection.sha256:
        raise ArtifactError(f"{path}: the file changed since it was encoded to {shards.folder}. Encode it again.")
    return PassageCollection(path)


def mean_cosine(shards: EmbeddingShards, num_sampled: int = 1000) -> float:
    """Return the mean cosine similarity over all pairs of a sample of passages.

    A value near 1 shows that the embeddings have collapsed to one point. Zero embeddings count as equal to each other
    and as orthogonal to all others.

    Args:
        shards: The embeddings.
        num_sampled: Size of the sample, which is spread evenly over the collection.
    """
    rows = np.unique(np.linspace(0, len(shards) - 1, num_sampled).astype(np.int64))
    embeddings = shards.read_rows(rows).astype(np.float64)
    norms = np.linalg.norm(embeddings, axis=1)
    units, num_rows = embeddings[norms > 0] / norms[norms > 0, None], len(rows)
    if num_rows < 2:
        return 1.0
    num_zeros = num_rows - len(units)
    pairs = np.square(units.sum(axis=0)).sum() - len(units) + num_zeros * (num_zeros - 1)
    return float(pairs / (num_rows * (num_rows - 1)))


def _read_scales(path: Path, count: int) -> np.ndarray:
    scales = read_array(path, "float32", (count,))
    if not ((scales > 0) & (scales <= np.finfo(np.float32).max / 127)).all():
        raise ArtifactError(f"{path}: a scale is not positive, or is too large. The file is damaged: encode again.")
    return scales


class _IdLines(Sequence[str]):
    """The ids in a file, which are decoded on access.

    Raises:
        ArtifactError: The file has another number of lines.
    """

    def __init__(self, file: MappedFile, count: int) -> None:
        self.file = file
        self._ends = np.flatnonzero(np.frombuffer(file.content, dtype=np.uint8) == ord("\n"))
        if len(self._ends) != count:
            raise ArtifactError(
                f"{file.path}: has {len(self._ends)} ids instead of {count}. The file is damaged: encode again."
            )

    def __len__(self) -> int:
        return len(self._ends)

    def __iter__(self) -> Iterator[str]:
        for start in range(0, len(self), _IDS_AT_ONCE):
            yield from self.get_many(np.arange(start, min(start + _IDS_AT_ONCE, len(self))))

    def get_many(self, places: np.ndarray) -> list[str]:
        """Return the ids at (N,) places."""
        self.file.check()
        starts = np.where(places > 0, self._ends[places - 1] + 1, 0).tolist()
        return [self._decode(start, end) for start, end in zip(starts, self._ends[places].tolist(), strict=True)]

    def __getitem__(self, place: int) -> str:  # pyright: ignore[reportIncompatibleMethodOverride]: no slices
        self.file.check()
        start = self._ends[place - 1] + 1 if place else 0
        return self._decode(start, self._ends[place])

    def _decode(self, start: int, end: int) -> str:
        try:
            return self.file.content[start:end].replace(NEWLINE_IN_ID, b"\n").decode("utf-8")
        except UnicodeDecodeError:
            raise ArtifactError(
                f"{self.file.path}: byte {start}: the id is not UTF-8. The file is damaged: encode again."
            ) from None
