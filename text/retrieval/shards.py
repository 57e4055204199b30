"""Embeddings on disk: the plan that they were made by, and the shards that hold them.

A folder holds ``plan.json`` (model, collection and form of the embeddings), shards of rows in the order of the
collection, and, once all shards are complete, ``manifest.json`` with the hash of every file. A shard is five files:
``.npy`` with (rows, D) numbers, ``.ids`` with one id a line, ``.keys.npy`` with (rows,) hashes of id, title and text,
``.cut.npy`` with (rows,) int8 marks of the texts that were longer than the limit, and ``.json`` with the hashes of the
files; int8 has ``.scales.npy``, (rows,) float32, as well.

Dimensions: R rows of the collection; D width of an embedding.
"""

from __future__ import annotations

import hashlib
import json
import mmap
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from text.artifacts import check_readable, sha256
from text.datasets import PassageCollection
from text.errors import ArtifactError

DTYPES = ("float32", "float16", "int8")
CUT = ".cut.npy"
"""Ending of the file that has 1 for each text that was cut, 0 for each other text, and ``UNKNOWN``."""
UNKNOWN = -1
"""Mark of an embedding by an earlier version, which did not write whether it had cut the text."""
NEWLINE_IN_ID = b"\xff"
"""Stands for a line break inside an id. UTF-8 never has this byte."""


class Plan(NamedTuple):
    """Everything that decides the bytes of the embeddings."""

    model: dict[str, str]
    """SHA-256 of the files of the encoder and its tokenizer."""
    settings: dict[str, Any]
    """Length limit, prompt, similarity, titles and precision."""
    collection: dict[str, Any]
    """Path, SHA-256 and number of passages."""
    num_rows: int
    """R."""
    embedding_dim: int
    """D."""
    dtype: str
    shard_rows: int
    """Rows of each shard. The last one may have fewer."""
    block_rows: int
    """Rows whose texts are sorted by length and encoded together."""
    reused: str = ""
    """Key of the plan whose embeddings were copied for passages that had not changed."""

    @property
    def key(self) -> str:
        """Hash of the plan. It does not depend on the path of the collection."""
        content = self._asdict() | {"collection": {**self.collection, "path": ""}}
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()

    @property
    def num_shards(self) -> int:
        return -(-self.num_rows // self.shard_rows)

    def rows(self, shard: int) -> range:
        """Return the rows of the collection that a shard holds."""
        return range(shard * self.shard_rows, min((shard + 1) * self.shard_rows, self.num_rows))


def shard_path(folder: str | os.PathLike[str], shard: int, suffix: str) -> Path:
    """Return the path of one file of a shard."""
    return Path(folder, f"shard-{shard:05}{suffix}")


def suffixes(dtype: str) -> tuple[str, ...]:
    """Return the endings of the files of a shard that hold data."""
    return (".npy", ".ids", ".keys.npy", CUT, *([".scales.npy"] if dtype == "int8" else []))


def read_plan(folder: str | os.PathLike[str]) -> Plan:
    """Return the plan of the embeddings in a folder.

    Raises:
        FileNotFoundError: The folder holds no embeddings.
        ArtifactError: The file is damaged.
    """
    return Plan(**_read_json(Path(folder, "plan.json")))


class EmbeddingShards:
    """The embeddings of a whole collection, memory-mapped.

    Args:
        folder: A folder that ``encode_collection`` wrote.
        check_hashes: Read all files once and compare their hashes. Otherwise only sizes are compared.

    Raises:
        FileNotFoundError: The folder does not exist or holds no embeddings.
        ArtifactError: A shard is missing, damaged or of another plan, or the encoding is not finished.
    """

    def __init__(self, folder: str | os.PathLike[str], *, check_hashes: bool = True) -> None:
        self.folder = Path(folder)
        self.plan = read_plan(folder)
        self._check(check_hashes)
        shards = range(self.plan.num_shards)
        # The mode "c" (copy on write) leaves the files as they are. torch warns about arrays that cannot be written.
        self.arrays = [np.asarray(np.load(shard_path(folder, shard, ".npy"), mmap_mode="c")) for shard in shards]
        self.scales = [
            np.load(shard_path(folder, shard, ".scales.npy"), mmap_mode="r") if self.plan.dtype == "int8" else None
            for shard in shards
        ]
        self._ids = [_Lines(shard_path(folder, shard, ".ids")) for shard in shards]
        cut = [(shard_path(folder, shard, CUT), len(self.plan.rows(shard))) for shard in shards]
        self._cut = [
            np.load(path, mmap_mode="r") if path.is_file() else np.full(num_rows, UNKNOWN, dtype=np.int8)
            for path, num_rows in cut
        ]
        for shard, (array, ids) in enumerate(zip(self.arrays, self._ids, strict=True)):
            expected = (len(self.plan.rows(shard)), self.plan.embedding_dim)
            if array.shape != expected or array.dtype != self.plan.dtype or len(ids) != len(array):
                found = f"{array.shape} {array.dtype}, {len(ids)} ids"
                raise ArtifactError(
                    f"{shard_path(folder, shard, '.npy')}: {found}, but the plan says {expected} {self.plan.dtype}."
                )

    def __len__(self) -> int:
        return self.plan.num_rows

    def passage_id(self, row: int) -> str:
        """Return the id of the passage at a row."""
        shard, place = divmod(row, self.plan.shard_rows)
        return self._ids[shard][place]

    def passage_ids_of(self, rows: np.ndarray) -> list[str]:
        """Return the ids of the passages at (N,) rows."""
        found, (of_shard, places) = np.empty(len(rows), dtype=object), np.divmod(rows, self.plan.shard_rows)
        for shard in np.unique(of_shard):
            found[of_shard == shard] = self._ids[shard].at(places[of_shard == shard])
        return found.tolist()

    def passage_ids(self) -> Iterator[str]:
        """Yield the ids of all passages in their order."""
        for ids in self._ids:
            yield from ids

    def passage_keys(self) -> np.ndarray:
        """Return the (R,) int64 hashes of id, title and text."""
        return np.concatenate([np.load(shard_path(self.folder, n, ".keys.npy")) for n in range(self.plan.num_shards)])

    def cut_marks(self, rows: np.ndarray) -> np.ndarray:
        """Return the (N,) int8 marks of rows: 1 if the text was cut, 0 if it was not, and -1 if this is not known."""
        of_shard, places = np.divmod(rows, self.plan.shard_rows)
        found = np.empty(len(rows), dtype=np.int8)
        for shard in np.unique(of_shard):
            found[of_shard == shard] = self._cut[shard][places[of_shard == shard]]
        return found

    def count_cut(self) -> tuple[int, int]:
        """Return how many texts were longer than the limit, and for how many texts this is not known."""
        num_cut = sum(int((marks == 1).sum()) for marks in self._cut)
        return num_cut, sum(int((marks == UNKNOWN).sum()) for marks in self._cut)

    def blocks(self, num_rows: int) -> Iterator[tuple[int, np.ndarray]]:
        """Yield blocks of the collection: the first row and (at most num_rows, D) float32 embeddings.

        Embeddings that are float32 on disk are not copied.
        """
        for shard, (array, scales) in enumerate(zip(self.arrays, self.scales, strict=True)):
            for start in range(0, len(array), num_rows):
                block = torch.from_numpy(array[start : start + num_rows]).float().numpy()
                if scales is not None:
                    block *= scales[start : start + num_rows, None]
                yield shard * self.plan.shard_rows + start, block

    def rows(self, rows: np.ndarray) -> np.ndarray:
        """Return the (N, D) float32 embeddings of (N,) rows."""
        of_shard, places = np.divmod(rows, self.plan.shard_rows)
        touched = np.unique(of_shard)
        if len(touched) == 1:
            return self._rows_of_shard(int(touched[0]), places)
        found = np.empty((len(rows), self.plan.embedding_dim), dtype=np.float32)
        for shard in touched:
            here = of_shard == shard
            found[here] = self._rows_of_shard(shard, places[here])
        return found

    def _rows_of_shard(self, shard: int, places: np.ndarray) -> np.ndarray:
        found, scales = self.arrays[shard][places].astype(np.float32, copy=False), self.scales[shard]
        return found if scales is None else found * scales[places, None]

    def _check(self, check_hashes: bool) -> None:
        manifest = Path(self.folder, "manifest.json")
        if not manifest.is_file():
            raise ArtifactError(
                f"{self.folder}: no manifest.json, the encoding is not finished. Run it again to continue it."
            )
        content = _read_json(manifest)
        if content.get("plan") != self.plan.key:
            raise ArtifactError(f"{manifest}: of another plan than plan.json. Encode to a folder of its own.")
        names = {path.name for path in self.folder.glob("shard-*")}
        listed = content.get("files", {})
        if missing := sorted(set(listed) - names):
            raise ArtifactError(f"{self.folder}: {', '.join(missing)} missing, of {len(listed)} files.")
        if foreign := sorted(names - set(listed)):
            raise ArtifactError(
                f"{self.folder}: {', '.join(foreign)} not in manifest.json. Remove what does not belong."
            )
        for name, facts in listed.items():
            path = Path(self.folder, name)
            if os.path.getsize(path) != facts["bytes"]:
                raise ArtifactError(
                    f"{path}: {os.path.getsize(path)} bytes instead of {facts['bytes']}. It is damaged."
                )
            if check_hashes and (found := sha256(path)) != facts["sha256"]:
                raise ArtifactError(f"{path}: SHA-256 is {found} instead of {facts['sha256']}. It is damaged.")


def open_collection(shards: EmbeddingShards) -> PassageCollection:
    """Return the collection that was encoded.

    Raises:
        ValueError: Its file cannot be read.
        ArtifactError: Its file has changed since it was encoded.
    """
    facts = shards.plan.collection
    check_readable(facts["path"])
    if sha256(facts["path"]) != facts["sha256"]:
        raise ArtifactError(f"{facts['path']}: changed since it was encoded to {shards.folder}. Encode it again.")
    return PassageCollection(facts["path"])


def mean_cosine(shards: EmbeddingShards, num_sampled: int = 1000) -> float:
    """Return the mean cosine of two passages of a sample. Near 1, the model gives all passages the same embedding.

    Embeddings of length 0 count as equal to each other and as orthogonal to all others.
    """
    rows = np.unique(np.linspace(0, len(shards) - 1, num_sampled).astype(np.int64))
    found = shards.rows(rows).astype(np.float64)
    norms = np.linalg.norm(found, axis=1)
    units, num_rows = found[norms > 0] / norms[norms > 0, None], len(rows)
    if num_rows < 2:
        return 1.0
    num_zeros = num_rows - len(units)
    pairs = np.square(units.sum(axis=0)).sum() - len(units) + num_zeros * (num_zeros - 1)
    return float(pairs / (num_rows * (num_rows - 1)))


class _Lines(Sequence[str]):
    """The ids in a file, decoded when they are used."""

    def __init__(self, path: Path) -> None:
        with open(path, "rb") as file:
            self._content = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        self._ends = np.flatnonzero(np.frombuffer(self._content, dtype=np.uint8) == ord("\n"))

    def __len__(self) -> int:
        return len(self._ends)

    def at(self, places: np.ndarray) -> list[str]:
        starts = np.where(places > 0, self._ends[places - 1] + 1, 0).tolist()
        return [self._decode(start, end) for start, end in zip(starts, self._ends[places].tolist(), strict=True)]

    def __getitem__(self, place: int) -> str:  # pyright: ignore[reportIncompatibleMethodOverride]: no slices
        start = self._ends[place - 1] + 1 if place else 0
        return self._decode(start, self._ends[place])

    def _decode(self, start: int, end: int) -> str:
        return self._content[start:end].replace(NEWLINE_IN_ID, b"\n").decode("utf-8")


def _read_json(path: Path) -> Any:
    with open(path, encoding="utf-8") as file:
        try:
            return json.load(file)
        except ValueError:
            raise ArtifactError(f"{path}: not JSON. It is damaged.") from None
