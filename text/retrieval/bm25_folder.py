"""The folder of a BM25 index on disk: its plan, the names of its files, and its manifest with their hashes.

``plan.json`` holds everything that determines the scores. ``words.npy`` holds the (V,) hashes of all words in ascending
order, and ``numbers.npy`` the number of each. The files of a shard are NumPy arrays without objects:

- ``.words.npy``: (W,) numbers of the words in the shard, in ascending order
- ``.starts.npy``: (W + 1,) first posting of each word
- ``.rows.npy``: (T,) row in the shard of each posting
- ``.scores.npy``: (T,) BM25 score of each posting
- ``.ids``: the passage ids, without separators
- ``.ends.npy``: (R,) end of each id in bytes

Three files of a shard exist only until the index is finished, because scores depend on all passages:

- ``.counts.npy``: (T,) number of times that the word occurs in the passage
- ``.lengths.npy``: (R,) number of words of each passage
- ``.new.npy``: hashes of the words that occur in no earlier shard

Dimensions: V words of the vocabulary; W words, R passages and T postings of a shard.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import numpy as np

from text.artifacts import FileFacts, atomic_write, check_listed, read_json, read_sealed, seal, write_json
from text.errors import ArtifactError
from text.retrieval.bm25_words import ANALYSIS
from text.retrieval.plan import get_shard_path

PLAN, MANIFEST, WORDS, NUMBERS = "plan.json", "manifest.json", "words.npy", "numbers.npy"
"""Names of the files of the whole index."""
KEPT = (".words.npy", ".starts.npy", ".rows.npy", ".scores.npy", ".ids", ".ends.npy")
"""Suffixes of the files of a shard that a search reads."""
COUNTED = (".words.npy", ".starts.npy", ".rows.npy", ".ids", ".ends.npy", ".counts.npy", ".lengths.npy", ".new.npy")
"""Suffixes of the files of a shard whose passages are counted, but not scored."""
TEMPORARY = (".counts.npy", ".lengths.npy", ".new.npy", ".json")
"""Suffixes of the files of a shard that are removed at the end."""


class BM25Plan(NamedTuple):
    """Everything that determines the scores of an index."""

    collection_sha256: str
    """Hash of the passages (``PassageCollection.sha256``)."""
    num_passages: int
    k1: float
    b: float
    shard_rows: int
    """Passages per shard. The last shard may have fewer. It changes no score."""
    analysis: str = ANALYSIS

    @property
    def num_shards(self) -> int:
        """Number of shards."""
        return -(-self.num_passages // self.shard_rows)

    def get_shard_rows(self, shard: int) -> range:
        """Return the rows of the collection that a shard holds."""
        return range(shard * self.shard_rows, min((shard + 1) * self.shard_rows, self.num_passages))


class BM25Manifest(NamedTuple):
    """The size and hash of each file, of one shard or of the whole index."""

    files: dict[str, FileFacts]


def start_index(folder: str | os.PathLike[str], plan: BM25Plan) -> BM25Plan:
    """Create the folder and write the plan, or return the plan of the index that the folder holds.

    An index keeps the ``shard_rows`` with which it was begun.

    Raises:
        ArtifactError: The folder holds an index of other passages or settings, or its plan is damaged.
        FileExistsError: The folder holds something else.
        OSError: The folder cannot be written.
    """
    path = Path(folder, PLAN)
    names = sorted(each.name for each in Path(folder).glob("*") if not each.name.startswith("."))
    if names and PLAN not in names:
        raise FileExistsError(f"{os.fspath(folder)}: holds {names[0]}, but no BM25 index. Use a new or empty folder.")
    if not names:
        with suppress(FileExistsError):  # The plan of another process that is faster is kept.
            write_json(path, seal(plan), overwrite=False)
    found = read_sealed(path, BM25Plan)
    if found._replace(shard_rows=plan.shard_rows) != plan:
        names = [name for name, old, new in zip(plan._fields, found, plan, strict=True) if old != new]
        raise ArtifactError(
            f"{os.fspath(folder)}: holds a BM25 index with another {' and '.join(names)}. Use another folder."
        )
    return found


def is_finished(folder: str | os.PathLike[str]) -> bool:
    """Return whether an index is complete."""
    return Path(folder, MANIFEST).exists()


def read_index_plan(folder: str | os.PathLike[str], *, check_hashes: bool) -> BM25Plan:
    """Return the plan of a complete index, and check its files.

    Raises:
        FileNotFoundError: The folder holds no index.
        ArtifactError: The index is not complete, or a file is missing or damaged.
    """
    plan = read_sealed(Path(folder, PLAN), BM25Plan)
    if not is_finished(folder):
        raise ArtifactError(f"{os.fspath(folder)}: the BM25 index is not finished. Build it again to continue.")
    files = read_json(Path(folder, MANIFEST), BM25Manifest).files
    expected = {path.name for path in list_kept_paths(folder, plan)} if len(files) == _count_files(plan) else set()
    if files.keys() != expected:
        raise ArtifactError(f"{Path(folder, MANIFEST)}: does not list the files of the plan's shards. Build it again.")
    check_listed(folder, files, check_hashes=check_hashes)
    return plan


def list_kept_paths(folder: str | os.PathLike[str], plan: BM25Plan) -> list[Path]:
    """Return the paths of the files that a search reads."""
    shards = [get_shard_path(folder, shard, suffix) for shard in range(plan.num_shards) for suffix in KEPT]
    return [Path(folder, WORDS), Path(folder, NUMBERS), *shards]


def write_array(path: str | os.PathLike[str], array: np.ndarray | Sequence[int], dtype: str) -> None:
    """Write a ``.npy`` file atomically."""
    with atomic_write(path) as temporary, open(temporary, "wb") as file:
        np.save(file, np.asarray(array, dtype=dtype), allow_pickle=False)


def load_array(path: str | os.PathLike[str], dtype: str, *, mapped: bool = False) -> np.ndarray:
    """Return a one-dimensional array of a ``.npy`` file, in memory or memory-mapped.

    Raises:
        FileNotFoundError: The file does not exist.
        ArtifactError: The file is damaged, or has another dtype or shape.
    """
    try:
        array = np.load(path, mmap_mode="r" if mapped else None, allow_pickle=False)
    except (ValueError, EOFError, SyntaxError) as error:
        reason = " ".join(str(error).split())
        raise ArtifactError(
            f"{os.fspath(path)}: the NumPy file is damaged ({reason}). Build the index again."
        ) from None
    if array.ndim != 1 or array.dtype != np.dtype(dtype):
        raise ArtifactError(f"{os.fspath(path)}: holds {array.dtype} {array.shape}. Build the index again.")
    return array


def _count_files(plan: BM25Plan) -> int:
    return 2 + plan.num_shards * len(KEPT)
