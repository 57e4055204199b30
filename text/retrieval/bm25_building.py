"""Build a BM25 index on disk in bounded memory. An interrupted build continues after its last shard.

The collection is read once, a shard at a time, to count words. When all passages are counted, the frequencies and the
mean length are known, and each posting gets its score. So the scores do not depend on the shards.

Memory holds one shard, and 100 bytes for each word of the vocabulary.

Dimensions: V words of the vocabulary; W words, R passages and T postings of a shard.
"""

from __future__ import annotations

import math
import os
from array import array
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from text.artifacts import (
    atomic_write,
    check_listed,
    list_facts,
    read_json,
    remove_leftovers,
    wait_for_lock,
    write_json,
)
from text.datasets import PassageCollection
from text.errors import DataError
from text.progress import show_progress
from text.records import Passage
from text.retrieval.bm25 import K1, B, check_parameters
from text.retrieval.bm25_folder import (
    COUNTED,
    MANIFEST,
    NUMBERS,
    PLAN,
    TEMPORARY,
    WORDS,
    BM25Manifest,
    BM25Plan,
    is_finished,
    list_kept_paths,
    load_array,
    start_index,
    write_array,
)
from text.retrieval.bm25_words import Vocabulary, WordStems
from text.retrieval.plan import get_shard_path

SHARD_ROWS = 1 << 19
"""Number of passages in one shard, by default."""
_ROWS_AT_ONCE = 1 << 10


def build_bm25(
    collection: PassageCollection,
    folder: str | os.PathLike[str],
    *,
    k1: float = K1,
    b: float = B,
    shard_rows: int = SHARD_ROWS,
) -> None:
    """Build a BM25 index on disk, or continue or keep the index that the folder holds.

    Only one process builds an index; others wait. A finished index is only read, so its folder may be read-only.
    ``text.retrieval.bm25_shards.BM25Shards`` searches it.

    Args:
        collection: The passages.
        folder: Folder of the index. It is created if it is missing.
        k1: See ``BM25``.
        b: See ``BM25``.
        shard_rows: Passages per shard, which decides the memory of the build: about 1 KB per passage.

    Raises:
        ArtifactError: The folder holds an index of other passages or settings, or a file is damaged.
        DataError: There are no passages, or no passage has a word.
        FileExistsError: The folder holds something else.
        ValueError: ``k1``, ``b`` or ``shard_rows`` is out of range.
        OSError: A file cannot be read or written, or the disk is full.
    """
    check_parameters(k1, b)
    if shard_rows < 1:
        raise ValueError(f"shard_rows is {shard_rows}. Use 1 or more.")
    if not len(collection):
        _raise_no_words(collection)
    plan = BM25Plan(collection.sha256, len(collection), float(k1), float(b), shard_rows)
    plan = start_index(folder, plan)
    if not is_finished(folder):
        message = f"{os.fspath(folder)}: waiting for another process that builds the BM25 index"
        with wait_for_lock(Path(folder, PLAN), message):  # Locking a file that exists leaves no lock file.
            if not is_finished(folder):  # The other process may have failed.
                remove_leftovers(folder)
                _count_shards(folder, plan, collection)
                _score_shards(folder, plan, collection)
    _remove_files(folder, plan, TEMPORARY)


def _count_shards(folder: str | os.PathLike[str], plan: BM25Plan, collection: PassageCollection) -> None:
    """Count the words of all shards that are not counted yet."""
    find_stems, vocabulary = WordStems(), Vocabulary()
    with show_progress("BM25 index", plan.num_passages, "passages") as progress:
        for shard in range(plan.num_shards):
            rows = plan.get_shard_rows(shard)
            if get_shard_path(folder, shard, ".json").exists():
                check_listed(folder, read_json(get_shard_path(folder, shard, ".json"), BM25Manifest).files)
                vocabulary.number_words(load_array(get_shard_path(folder, shard, ".new.npy"), "int64").tolist())
                progress.skip(len(rows))
                continue
            num_known, lengths, words, ids = len(vocabulary), array("i"), array("i"), []
            for start in range(rows.start, rows.stop, _ROWS_AT_ONCE):
                passages = collection[start : min(start + _ROWS_AT_ONCE, rows.stop)]
                for numbers in (vocabulary.number_words(find_stems(_join(passage))) for passage in passages):
                    lengths.append(len(numbers))
                    words.extend(numbers)
                ids += [passage.passage_id.encode() for passage in passages]
                progress.update(len(passages))
            _write_counts(folder, shard, np.frombuffer(lengths, np.int32), np.frombuffer(words, np.int32))
            _write_ids(folder, shard, ids)
            write_array(get_shard_path(folder, shard, ".new.npy"), vocabulary.list_hashes(num_known), "int64")
            facts = list_facts(folder, [get_shard_path(folder, shard, suffix) for suffix in COUNTED])
            write_json(get_shard_path(folder, shard, ".json"), BM25Manifest(facts))
    if not len(vocabulary):
        _remove_files(folder, plan, (*COUNTED, ".json"))
        Path(folder, PLAN).unlink(missing_ok=True)
        _raise_no_words(collection)
    _write_vocabulary(folder, vocabulary.list_hashes())


def _write_counts(folder: str | os.PathLike[str], shard: int, lengths: np.ndarray, words: np.ndarray) -> None:
    """Write the postings of a shard with the count of each, in the order of words and then of rows.

    Args:
        folder: Folder of the index.
        shard: Number of the shard.
        lengths: (R,) int32. Number of words of each passage.
        words: (sum of lengths,) int32. The words of all passages, one passage after the other.
    """
    pairs = words.astype(np.int64) << 32 | np.repeat(np.arange(len(lengths), dtype=np.int64), lengths)
    pairs.sort()
    firsts = np.flatnonzero(np.diff(pairs, prepend=-1))
    counts, pairs = np.diff(firsts, append=len(pairs)), pairs[firsts]
    present, starts = np.unique(pairs >> 32, return_index=True)
    arrays = {
        ".words.npy": (present, "int32"),
        ".starts.npy": (np.append(starts, len(pairs)), "int64"),
        ".rows.npy": (pairs & 0xFFFFFFFF, "int32"),
        ".counts.npy": (counts, "int32"),
        ".lengths.npy": (lengths, "int32"),
    }
    for suffix, (values, dtype) in arrays.items():
        write_array(get_shard_path(folder, shard, suffix), values, dtype)


def _write_ids(folder: str | os.PathLike[str], shard: int, ids: Sequence[bytes]) -> None:
    with atomic_write(get_shard_path(folder, shard, ".ids")) as temporary:
        temporary.write_bytes(b"".join(ids))
    write_array(get_shard_path(folder, shard, ".ends.npy"), np.cumsum([len(each) for each in ids]), "int64")


def _write_vocabulary(folder: str | os.PathLike[str], hashes: np.ndarray) -> None:
    """Write the (V,) hashes of words in ascending order, and the number of each."""
    order = np.argsort(hashes)
    write_array(Path(folder, WORDS), hashes[order], "int64")
    write_array(Path(folder, NUMBERS), order, "int32")


def _score_shards(folder: str | os.PathLike[str], plan: BM25Plan, collection: PassageCollection) -> None:
    """Write the score of each posting, and then the manifest of the index."""
    weights, mean_length = _compute_statistics(folder, plan)
    for shard in range(plan.num_shards):
        arrays = _load_counts(folder, shard)
        lengths = np.maximum(arrays["lengths"], 1)  # bm25s gives a passage without words one empty word.
        saturation = plan.k1 * ((1 - plan.b) + plan.b * lengths / mean_length)  # (R,)
        counts = arrays["counts"].astype(np.float32)
        shares = counts / (saturation[arrays["rows"]] + counts)  # (T,) float64
        idf = np.repeat(weights[arrays["words"]], np.diff(arrays["starts"]))  # (T,)
        write_array(get_shard_path(folder, shard, ".scores.npy"), idf * shares, "float32")
    write_json(Path(folder, MANIFEST), BM25Manifest(list_facts(folder, list_kept_paths(folder, plan))))


def _compute_statistics(folder: str | os.PathLike[str], plan: BM25Plan) -> tuple[np.ndarray, float]:
    """Return the (V,) float32 inverse document frequencies (Lucene), and the mean number of words of a passage."""
    frequencies, num_words = np.zeros(len(load_array(Path(folder, WORDS), "int64")), dtype=np.int64), 0
    for shard in range(plan.num_shards):
        arrays = _load_counts(folder, shard)
        frequencies[arrays["words"]] += np.diff(arrays["starts"])
        num_words += int(np.maximum(arrays["lengths"], 1).sum())
    distinct, places = np.unique(frequencies, return_inverse=True)
    # The logarithms of NumPy and of bm25s, which uses math.log, can differ in the last bit.
    ratios = [(plan.num_passages - each + 0.5) / (each + 0.5) for each in distinct.tolist()]
    weights = np.array([math.log(1 + ratio) for ratio in ratios], dtype=np.float32)
    return weights[places.reshape(-1)], num_words / plan.num_passages


def _load_counts(folder: str | os.PathLike[str], shard: int) -> dict[str, np.ndarray]:
    dtypes = {"words": "int32", "starts": "int64", "rows": "int32", "counts": "int32", "lengths": "int32"}
    return {name: load_array(get_shard_path(folder, shard, f".{name}.npy"), each) for name, each in dtypes.items()}


def _remove_files(folder: str | os.PathLike[str], plan: BM25Plan, suffixes: Sequence[str]) -> None:
    for shard in range(plan.num_shards):
        for path in (get_shard_path(folder, shard, suffix) for suffix in suffixes):
            if path.exists():  # On a read-only disk, removing a missing file is an error, too.
                path.unlink(missing_ok=True)


def _join(passage: Passage) -> str:
    return f"{passage.title} {passage.text}"


def _raise_no_words(collection: PassageCollection) -> None:
    raise DataError(f"{collection.path}: no passages with words. BM25 needs at least one passage with text.")
