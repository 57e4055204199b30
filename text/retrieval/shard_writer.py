"""Write one shard of embeddings, block after block.

``text/retrieval/shard_parts.py`` keeps what is done on disk, so that a killed process repeats a few seconds of work.

Dimensions: N passages of a block; D width of an embedding.
"""

from __future__ import annotations

import errno
import os
import sys
import time
from array import array
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from text.artifacts import FileFacts, atomic_write, check_facts, read_facts, write_json
from text.datasets import PassageCollection
from text.errors import ArtifactError
from text.progress import Progress
from text.records import TokenBatch
from text.retrieval.embedder import Embedder
from text.retrieval.plan import (
    CUT,
    IDS,
    KEYS,
    NUMBERS,
    PART,
    PROGRESS,
    SCALES,
    Manifest,
    Plan,
    list_data_suffixes,
    read_shard_manifest,
    get_shard_path,
)
from text.retrieval.reuse import ReusablePassages, hash_passage
from text.retrieval.shard_parts import Block, ShardParts
from text.retrieval.shards import NEWLINE_IN_ID

SAVE_SECONDS = 10.0
"""Most seconds of work, besides one piece, that a killed process loses."""
_TRIES = 3
"""How often a block is written that the disk gives back otherwise."""


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
        known: ReusablePassages | None,
        progress: Progress,
        save_seconds: float = SAVE_SECONDS,
    ) -> None:
        self.folder, self.plan, self.collection = folder, plan, collection
        self.embedder, self.known, self.progress = embedder, known, progress
        self.save_seconds = save_seconds
        self._saved_at = time.monotonic()

    def write(self, shard: int) -> None:
        """Write one shard. Blocks that are on disk already, and fit their hash, are not encoded again.

        Raises:
            ArtifactError: An embedding is not finite or too large for the dtype; with the passage's id. Or as
                ``ShardParts``.
            OSError: The disk is full or fails.
        """
        rows = self.plan.get_shard_rows(shard)
        with ShardParts(self.folder, self.plan, shard) as parts:
            missing = parts.find_missing()
            self.progress.skip(len(rows) - sum(len(parts.get_block_rows(block)) for block in missing))
            for _ in range(_TRIES):
                for block, old_rows, tokens in self._tokenize_blocks(rows, missing):
                    self._write_block(parts, block, rows[block * self.plan.block_rows :], old_rows, tokens)
                if not (missing := parts.find_missing()):
                    break
            else:
                path = os.fspath(parts.files[NUMBERS].path)
                raise OSError(errno.EIO, "the disk gives back other bytes than were written", path)
            parts.flush()
        self._finish(shard)

    def _write_block(
        self, parts: ShardParts, block: int, rows: Sequence[int], old_rows: np.ndarray, tokens: TokenBatch | None
    ) -> None:
        """Encode and write a block. ``rows`` are the rows of the collection from the block on."""
        values, done = parts.resume(block)
        self.progress.skip(len(done))
        for places, embeddings, cut in self._embed_block(old_rows, tokens, len(done)):
            _check_embeddings(
                embeddings, self.plan.dtype, lambda n, at=places: self.collection[rows[int(at[n])]].passage_id
            )
            _fill_rows(values, places, embeddings.numpy(), cut)
            done += [place for place in places.tolist() if old_rows[place] < 0]
            self.progress.update(len(places))
            if time.monotonic() - self._saved_at >= self.save_seconds:
                parts.write_partial(block, values, done)
                parts.save()
                self._saved_at = time.monotonic()
        parts.write(block, values)

    def _tokenize_blocks(
        self, rows: range, blocks: Sequence[int]
    ) -> Iterator[tuple[int, np.ndarray, TokenBatch | None]]:
        """Yield blocks of a shard; the next one is tokenized while the caller encodes.

        A block is its number, the (N,) rows of known embeddings (-1 if there is none), and the tokens of the passages
        without one.
        """
        block_rows, known = self.plan.block_rows, self.known

        def tokenize(block: int) -> tuple[np.ndarray, TokenBatch | None]:
            some = rows[block * block_rows : (block + 1) * block_rows]
            passages = self.collection[some.start : some.stop]
            old_rows = known.find_rows(passages) if known is not None else np.full(len(passages), -1)
            new = [passage for passage, row in zip(passages, old_rows, strict=True) if row < 0]
            return old_rows, self.embedder.tokenize(new) if new else None

        with ThreadPoolExecutor(1) as executor:
            pending = executor.submit(tokenize, blocks[0]) if blocks else None
            for number, block in enumerate(blocks):
                assert pending is not None
                old_rows, tokens = pending.result()
                if number + 1 < len(blocks):
                    pending = executor.submit(tokenize, blocks[number + 1])
                yield block, old_rows, tokens

    def _embed_block(
        self, old_rows: np.ndarray, tokens: TokenBatch | None, num_done: int
    ) -> Iterator[tuple[np.ndarray, Tensor, np.ndarray]]:
        """Yield a block piece by piece: known embeddings first, then the texts that are left to encode.

        A piece is n places in the block, their (n, D) float32 embeddings, and whether each text was cut.
        """
        old, new = np.flatnonzero(old_rows >= 0), np.flatnonzero(old_rows < 0)
        if self.known is not None and len(old):
            shards = self.known.shards
            yield old, torch.from_numpy(shards.read_rows(old_rows[old])), shards.get_truncation_marks(old_rows[old])
        if tokens is not None:
            truncated = tokens.truncated.numpy()
            for places, embeddings in self.embedder.embed_in_pieces(tokens, num_done):
                yield new[places], embeddings, truncated[places]

    def _finish(self, shard: int) -> None:
        """Write ids and keys, then the hashes, then rename the parts. After the last rename the shard is finished."""
        self._write_ids(shard)
        paths = [get_shard_path(self.folder, shard, suffix) for suffix in list_data_suffixes(self.plan.dtype)]
        parts = {path: part for path in paths if (part := _get_part_path(path)).is_file()}
        facts = {path.name: read_facts(parts.get(path, path)) for path in paths}
        write_json(get_shard_path(self.folder, shard, ".json"), Manifest(self.plan.key, facts))
        for path, part in parts.items():
            part.replace(path)
        get_shard_path(self.folder, shard, PROGRESS).unlink(missing_ok=True)

    def _write_ids(self, shard: int) -> None:
        rows, keys = self.plan.get_shard_rows(shard), array("q")
        with atomic_write(get_shard_path(self.folder, shard, IDS)) as temporary, open(temporary, "wb") as file:
            for first in range(rows.start, rows.stop, self.plan.block_rows):
                for passage in self.collection[first : min(first + self.plan.block_rows, rows.stop)]:
                    file.write(passage.passage_id.encode().replace(b"\n", NEWLINE_IN_ID) + b"\n")
                    keys.append(hash_passage(passage))
        with atomic_write(get_shard_path(self.folder, shard, KEYS)) as temporary, open(temporary, "wb") as file:
            np.save(file, np.frombuffer(keys, dtype=np.int64))


def is_shard_finished(folder: str | os.PathLike[str], plan: Plan, shard: int) -> bool:
    """Return whether all files of a shard are there and fit their hashes. Print a line about a shard that is damaged.

    Renames that a killed process did not reach are made up for.
    """
    try:
        manifest = read_shard_manifest(folder, plan, shard)
        for name, expected in manifest.files.items():
            path = Path(folder, name)
            if _matches(part := _get_part_path(path), expected):
                part.replace(path)
            check_facts(path, expected)
            part.unlink(missing_ok=True)
    except FileNotFoundError:
        return False
    except ArtifactError as error:
        print(f"{error} Shard {shard} is encoded again.", file=sys.stderr)
        return False
    # The same content may have been written with other spaces, but the bytes are those of an undisturbed run.
    write_json(get_shard_path(folder, shard, ".json"), manifest)
    get_shard_path(folder, shard, PROGRESS).unlink(missing_ok=True)
    return True


def quantize_embeddings(embeddings: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return (N, D) float32 as int8, and the (N,) float32 scales that give it back within half a scale."""
    scales = np.maximum(np.abs(embeddings).max(axis=1), np.finfo(np.float32).tiny * 127) / np.float32(127)
    return np.rint(embeddings / scales[:, None]).astype(np.int8), scales.astype(np.float32)


def _get_part_path(path: Path) -> Path:
    return path.with_name(f"{path.name}{PART}")


def _matches(path: Path, facts: FileFacts) -> bool:
    with suppress(ArtifactError):
        check_facts(path, facts)
        return True
    return False


def _fill_rows(values: Block, places: np.ndarray, embeddings: np.ndarray, cut: np.ndarray) -> None:
    values[CUT][places] = cut
    if SCALES in values:
        values[NUMBERS][places], values[SCALES][places] = quantize_embeddings(embeddings)
    else:
        values[NUMBERS][places] = embeddings


def _check_embeddings(embeddings: Tensor, dtype: str, find_id: Callable[[int], str]) -> None:
    largest = {"float16": 65504.0}.get(dtype, float("inf"))
    bad = ~(embeddings.abs() <= largest).all(dim=1) | ~embeddings.isfinite().all(dim=1)
    if bad.any():
        passage_id = find_id(int(bad.nonzero()[0]))
        raise ArtifactError(
            f"passage {passage_id}: the embedding is NaN, infinite or too large for {dtype}. "
            "Check that the model is not damaged, or use float32."
        )
