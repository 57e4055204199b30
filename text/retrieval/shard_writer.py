"""Write one shard of embeddings, block after block.

Embeddings go to memory-mapped files whose names end in ``.part``. A ``.progress`` note counts the rows on disk. It is
written every few seconds, also inside a block. The files get their final names when the whole shard is written.

Dimensions: N passages of a block; D width of an embedding.
"""

from __future__ import annotations

import json
import mmap
import os
import time
from array import array
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from text.artifacts import atomic_write, sha256, write_json
from text.datasets import PassageCollection
from text.errors import ArtifactError
from text.progress import Progress
from text.records import TokenBatch
from text.retrieval.embedder import Embedder
from text.retrieval.reuse import KnownPassages, passage_key
from text.retrieval.shards import CUT, NEWLINE_IN_ID, UNKNOWN, Plan, shard_path, suffixes

SAVE_SECONDS = 10.0
"""Most seconds of work, besides one piece, that a killed process loses."""


class ShardWriter:
    """Encode the shards of a collection and write them.

    Args:
        folder: Where the shards go.
        plan: Says which rows a shard and a block have, and the dtype.
        collection: The passages.
        embedder: Embeds passages.
        known: Passages whose embeddings are copied instead of computed.
        progress: Counts the passages that are done.
        save_seconds: Seconds between two notes of what is on disk. With 0 each piece is noted.
    """

    def __init__(
        self,
        folder: str | os.PathLike[str],
        plan: Plan,
        collection: PassageCollection,
        embedder: Embedder,
        known: KnownPassages | None,
        progress: Progress,
        save_seconds: float = SAVE_SECONDS,
    ) -> None:
        self.folder, self.plan, self.collection = folder, plan, collection
        self.embedder, self.known, self.progress = embedder, known, progress
        self.save_seconds = save_seconds
        self._saved_at = time.monotonic()

    def write(self, shard: int) -> None:
        """Write one shard, after the blocks that are already on disk.

        Raises:
            ArtifactError: An embedding is not finite or too large for the dtype; with the passage's id.
            OSError: The disk is full or fails.
        """
        plan, rows, note = self.plan, self.plan.rows(shard), shard_path(self.folder, shard, ".progress")
        suffixes_of_parts = [suffix for suffix in (".npy", ".scales.npy", CUT) if suffix in suffixes(plan.dtype)]
        parts = {suffix: shard_path(self.folder, shard, f"{suffix}.part") for suffix in suffixes_of_parts}
        arrays = _open_arrays(parts, (len(rows), plan.embedding_dim), plan.dtype, note)
        done = json.loads(note.read_text()) if note.is_file() else {"rows": 0}
        self.progress.skip(done["rows"] + done.get("texts", 0))
        num_done = done.get("texts", 0)  # Texts of the next block, in the order in which the embedder takes them.
        for first, old_rows, tokens in self._tokenize_blocks(rows, done["rows"]):
            for places, embeddings, cut in self._embed_block(old_rows, tokens, num_done):
                _check_embeddings(
                    embeddings, plan.dtype, lambda n, at=first + places: self.collection[rows[int(at[n])]].passage_id
                )
                _write_rows(arrays, first + places, embeddings.numpy(), cut)
                num_done += int((old_rows[places] < 0).sum())
                self.progress.update(len(places))
                self._save(note, arrays, {"rows": first, "texts": num_done})
            num_done = 0
        for values in arrays.values():
            values.flush()
        del arrays
        self._finish(shard, parts)
        note.unlink(missing_ok=True)

    def _save(self, note: Path, arrays: dict[str, np.memmap], done: dict[str, int]) -> None:
        """Write what is done to the disk, and then the note that says so, unless the last note is fresh."""
        if time.monotonic() - self._saved_at < self.save_seconds:
            return
        for values in arrays.values():
            values.flush()
            assert isinstance(values.base, mmap.mmap)
            values.base.madvise(mmap.MADV_DONTNEED)  # Memory does not grow with the shard.
        write_json(note, done)
        self._saved_at = time.monotonic()

    def _tokenize_blocks(self, rows: range, start: int) -> Iterator[tuple[int, np.ndarray, TokenBatch | None]]:
        """Yield the blocks of a shard; the next one is tokenized while the caller encodes.

        A block is its first row in the shard, the (N,) rows of known embeddings (-1 if there is none), and the tokens
        of the passages without one.
        """
        block_rows, known = self.plan.block_rows, self.known

        def tokenize(first: int) -> tuple[np.ndarray, TokenBatch | None]:
            block = rows[first : first + block_rows]
            passages = self.collection[block.start : block.stop]
            old_rows = known.rows(passages) if known is not None else np.full(len(passages), -1)
            new = [passage for passage, row in zip(passages, old_rows, strict=True) if row < 0]
            return old_rows, self.embedder.tokenize(new) if new else None

        with ThreadPoolExecutor(1) as executor:
            starts = list(range(start, len(rows), block_rows))
            pending = executor.submit(tokenize, starts[0]) if starts else None
            for number, first in enumerate(starts):
                assert pending is not None
                old_rows, tokens = pending.result()
                if number + 1 < len(starts):
                    pending = executor.submit(tokenize, starts[number + 1])
                yield first, old_rows, tokens

    def _embed_block(
        self, old_rows: np.ndarray, tokens: TokenBatch | None, num_done: int
    ) -> Iterator[tuple[np.ndarray, Tensor, np.ndarray]]:
        """Yield a block piece by piece: known embeddings first, then the texts that are left to encode.

        A piece is n places in the block, their (n, D) float32 embeddings, and whether each text was cut.
        """
        old, new = np.flatnonzero(old_rows >= 0), np.flatnonzero(old_rows < 0)
        if self.known is not None and len(old):
            shards = self.known.shards
            yield old, torch.from_numpy(shards.rows(old_rows[old])), shards.cut_marks(old_rows[old])
        if tokens is not None:
            truncated = tokens.truncated.numpy()
            for places, embeddings in self.embedder.embed_in_pieces(tokens, num_done):
                yield new[places], embeddings, truncated[places]

    def _finish(self, shard: int, parts: dict[str, Path]) -> None:
        """Write ids and keys, then the hashes, then rename the parts. After the last rename the shard is finished."""
        plan, collection, folder = self.plan, self.collection, self.folder
        rows, facts, keys = plan.rows(shard), {}, array("q")
        with atomic_write(shard_path(folder, shard, ".ids")) as temporary, open(temporary, "wb") as file:
            for first in range(rows.start, rows.stop, plan.block_rows):
                for passage in collection[first : min(first + plan.block_rows, rows.stop)]:
                    file.write(passage.passage_id.encode().replace(b"\n", NEWLINE_IN_ID) + b"\n")
                    keys.append(passage_key(passage))
        with atomic_write(shard_path(folder, shard, ".keys.npy")) as temporary, open(temporary, "wb") as file:
            np.save(file, np.frombuffer(keys, dtype=np.int64))
        for suffix in suffixes(plan.dtype):
            path = shard_path(folder, shard, suffix)
            written = parts.get(suffix, path)
            facts[path.name] = {"bytes": written.stat().st_size, "sha256": sha256(written)}
        write_json(shard_path(folder, shard, ".json"), facts)
        for suffix, path in parts.items():
            path.replace(shard_path(folder, shard, suffix))


def is_finished(folder: str | os.PathLike[str], shard: int) -> bool:
    """Return whether a shard is complete. Renames that a killed process did not reach are made up for."""
    note = shard_path(folder, shard, ".json")
    if not note.is_file():
        return False
    for name in json.loads(note.read_text(encoding="utf-8")):
        part = Path(folder, f"{name}.part")
        if part.is_file():
            part.replace(Path(folder, name))
        if not Path(folder, name).is_file():
            return False
    shard_path(folder, shard, ".progress").unlink(missing_ok=True)
    return True


def quantize(embeddings: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return (N, D) float32 as int8, and the (N,) float32 scales that give it back within half a scale."""
    scales = np.maximum(np.abs(embeddings).max(axis=1), np.finfo(np.float32).tiny * 127) / np.float32(127)
    return np.rint(embeddings / scales[:, None]).astype(np.int8), scales.astype(np.float32)


def _write_rows(arrays: dict[str, np.memmap], rows: np.ndarray, embeddings: np.ndarray, cut: np.ndarray) -> None:
    arrays[CUT][rows] = cut
    if ".scales.npy" in arrays:
        arrays[".npy"][rows], arrays[".scales.npy"][rows] = quantize(embeddings)
    else:
        arrays[".npy"][rows] = embeddings


def _open_arrays(parts: dict[str, Path], shape: tuple[int, int], dtype: str, note: Path) -> dict[str, np.memmap]:
    """Map the files of a begun shard, or new files that have all the space they will need."""
    # An earlier version did not write which texts it cut.
    if not (note.is_file() and all(path.is_file() for suffix, path in parts.items() if suffix != CUT)):
        note.unlink(missing_ok=True)
        for path in parts.values():
            path.unlink(missing_ok=True)
    kinds = {".npy": (dtype, shape), ".scales.npy": ("float32", shape[:1]), CUT: ("int8", shape[:1])}
    arrays = {}
    for suffix, path in parts.items():
        if path.is_file():
            arrays[suffix] = np.lib.format.open_memmap(path, mode="r+")
            continue
        arrays[suffix] = _create_array(path, *kinds[suffix])
        if suffix == CUT:
            arrays[suffix][:] = UNKNOWN
    return arrays


def _create_array(path: Path, dtype: str, shape: tuple[int, ...]) -> np.memmap:
    """Create a file with all its space, because writing to a map on a full disk would kill the process.

    Raises:
        OSError: The disk is full. The file is removed.
    """
    try:
        values = np.lib.format.open_memmap(path, mode="w+", dtype=dtype, shape=shape)
        with open(path, "r+b") as file:
            os.posix_fallocate(file.fileno(), 0, os.fstat(file.fileno()).st_size)
    except OSError as error:
        path.unlink(missing_ok=True)
        needed = np.dtype(dtype).itemsize * int(np.prod(shape))
        raise OSError(error.errno, f"{os.strerror(error.errno or 0)}; {needed} bytes are needed", str(path)) from None
    return values


def _check_embeddings(embeddings: Tensor, dtype: str, find_id: Callable[[int], str]) -> None:
    largest = {"float16": 65504.0}.get(dtype, float("inf"))
    bad = ~(embeddings.abs() <= largest).all(dim=1) | ~embeddings.isfinite().all(dim=1)
    if bad.any():
        passage_id = find_id(int(bad.nonzero()[0]))
        raise ArtifactError(
            f"passage {passage_id}: the embedding is NaN, infinite or too large for {dtype}. "
            "Check that the model is not damaged, or use float32."
        )
