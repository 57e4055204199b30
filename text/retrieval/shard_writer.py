"""Encode the passages of one shard and write their embeddings, block by block.

Three threads work at the same time, so that a GPU rarely waits for them: one reads and tokenizes, one starts the
encoder on batches, and one checks and writes the embeddings.

``text/retrieval/shard_parts.py`` saves the progress, so a killed process repeats only a few seconds of work.

Dimensions: N passages of a block; D width of an embedding.
"""

from __future__ import annotations

import errno
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, suppress
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from text.artifacts import FileFacts, atomic_write, check_facts, read_facts, write_json
from text.datasets import PassageCollection
from text.datasets.prefetching import iterate_ahead
from text.errors import ArtifactError
from text.progress import Progress
from text.records import Passage, TokenBatch
from text.retrieval.embedder import EmbeddedBatch, Embedder
from text.retrieval.plan import (
    CUT,
    IDS,
    KEYS,
    NUMBERS,
    PART,
    PROGRESS,
    SCALES,
    EmbeddingsManifest,
    Plan,
    get_shard_path,
    list_data_suffixes,
    read_shard_manifest,
)
from text.retrieval.reuse import ReusablePassages, hash_passage
from text.retrieval.shard_parts import Block, ShardParts
from text.retrieval.shards import NEWLINE_IN_ID

SAVE_SECONDS = 10.0
"""Seconds between two saves of the progress. A killed process loses at most this time and a few batches."""
_TRIES = 3
"""Number of attempts to write a block whose bytes on disk do not match."""
_BATCHES_AHEAD = 8
"""Number of batches that a GPU may compute while earlier ones are written. It outlasts a slow write to disk."""


class _TokenizedBlock(NamedTuple):
    """A block before its embeddings."""

    block: int
    old_rows: np.ndarray
    """(N,) int64. Row of each passage in the embeddings to reuse, -1 if there is none."""
    tokens: TokenBatch | None
    """Tokens of the passages to encode. None if all are reused."""


class _OpenBlock(NamedTuple):
    """A block whose embeddings are being written."""

    block: int
    values: Block
    done: list[int]
    """Encoded rows of the block, in the order of the embedder."""
    num_resumed: int
    """Number of rows that an earlier process encoded."""


class _Piece(NamedTuple):
    """Embeddings of n passages of a block."""

    places: np.ndarray
    """(n,) places of the passages in the block."""
    batch: EmbeddedBatch
    """Embeddings of these passages."""
    cut: np.ndarray
    """(n,) truncation marks."""
    is_encoded: bool
    """False if the embeddings are reused."""


class ShardWriter:
    """A writer that encodes the shards of a collection.

    Args:
        folder: Output folder of the embeddings.
        plan: Plan of the embeddings.
        collection: The passages.
        embedder: The embedder of passages.
        reusable: Earlier embeddings to copy for unchanged passages.
        progress: Progress bar, counted in passages.
        save_seconds: Seconds between two saves of the progress. With 0, it is saved after every batch.
    """

    def __init__(
        self,
        folder: str | os.PathLike[str],
        plan: Plan,
        collection: PassageCollection,
        embedder: Embedder,
        reusable: ReusablePassages | None,
        progress: Progress,
        save_seconds: float = SAVE_SECONDS,
    ) -> None:
        self.folder, self.plan, self.collection = folder, plan, collection
        self.embedder, self.reusable, self.progress = embedder, reusable, progress
        self.save_seconds = save_seconds
        self._saved_at = time.monotonic()
        self._ids: dict[int, tuple[bytes, np.ndarray]] = {}  # Content of the id and key files, by block of the shard.

    def write(self, shard: int) -> None:
        """Write one shard. Blocks that are already on disk and match their hash are not encoded again.

        Raises:
            ArtifactError: An embedding is not finite or is too large for the dtype; the message names the passage.
                Or as ``ShardParts``.
            MemoryError: The GPU runs out of memory.
            OSError: The disk is full or fails.
        """
        rows, self._ids = self.plan.get_shard_rows(shard), {}
        with ShardParts(self.folder, self.plan, shard) as parts:
            missing = parts.find_missing()
            self.progress.skip(len(rows) - sum(len(parts.get_block_rows(block)) for block in missing))
            for _ in range(_TRIES):
                self._write_blocks(parts, rows, missing)
                if not (missing := parts.find_missing()):
                    break
            else:
                path = os.fspath(parts.files[NUMBERS].path)
                raise OSError(errno.EIO, "the bytes on disk differ from the bytes that were written", path)
            parts.flush()
        self._finish(shard)

    def _write_blocks(self, parts: ShardParts, rows: range, blocks: Sequence[int]) -> None:
        """Encode and write blocks of a shard, whose passages are the ``rows`` of the collection."""
        with closing(iterate_ahead(self._embed_blocks(parts, rows, blocks), _BATCHES_AHEAD)) as pieces:
            for block, piece in pieces:
                if piece is not None:
                    self._write_piece(parts, rows, block, piece)
                else:
                    self.progress.skip(block.num_resumed)
                    parts.write(block.block, block.values)

    def _write_piece(self, parts: ShardParts, rows: range, block: _OpenBlock, piece: _Piece) -> None:
        """Check embeddings and add them to their block. Save the progress if it is time."""
        embeddings, places = piece.batch.wait().numpy(), piece.places
        first = block.block * self.plan.block_rows
        _check_embeddings(embeddings, self.plan, lambda n: self.collection[rows[first + int(places[n])]].passage_id)
        _fill_rows(block.values, places, embeddings, piece.cut)
        if piece.is_encoded:
            block.done.extend(places.tolist())
        self.progress.update(len(places))
        if time.monotonic() - self._saved_at >= self.save_seconds:
            parts.write_partial(block.block, block.values, block.done)
            parts.save()
            self._saved_at = time.monotonic()

    def _embed_blocks(
        self, parts: ShardParts, rows: range, blocks: Sequence[int]
    ) -> Iterator[tuple[_OpenBlock, _Piece | None]]:
        """Yield the embeddings of blocks in pieces, and None after the last piece of a block."""
        with closing(iterate_ahead(self._tokenize_blocks(rows, blocks), 1)) as tokenized:
            for each in tokenized:
                values, done = parts.resume(each.block)
                block = _OpenBlock(each.block, values, done, len(done))
                for piece in self._embed_block(each, block.num_resumed):
                    yield block, piece
                yield block, None

    def _tokenize_blocks(self, rows: range, blocks: Sequence[int]) -> Iterator[_TokenizedBlock]:
        """Read and tokenize the blocks of a shard."""
        for block in blocks:
            passages = self._read_block(rows, block)
            self._ids[block] = _list_ids(passages)
            reusable = self.reusable
            old_rows = reusable.find_rows(passages) if reusable is not None else np.full(len(passages), -1)
            new = [passage for passage, row in zip(passages, old_rows, strict=True) if row < 0]
            yield _TokenizedBlock(block, old_rows, self.embedder.tokenize(new) if new else None)

    def _embed_block(self, block: _TokenizedBlock, num_done: int) -> Iterator[_Piece]:
        """Yield the embeddings of a block: first the reusable embeddings, then the encoded texts."""
        old, new = np.flatnonzero(block.old_rows >= 0), np.flatnonzero(block.old_rows < 0)
        if self.reusable is not None and len(old):
            shards, old_rows = self.reusable.shards, block.old_rows[old]
            batch = EmbeddedBatch(old.tolist(), torch.from_numpy(shards.read_rows(old_rows)))
            yield _Piece(old, batch, shards.get_truncation_marks(old_rows), is_encoded=False)
        if block.tokens is None:
            return
        truncated, max_tokens = block.tokens.truncated.numpy(), self.plan.max_tokens or self.embedder.max_tokens
        try:
            for batch in self.embedder.embed_in_batches(block.tokens, num_done, max_tokens=max_tokens):
                yield _Piece(new[batch.rows], batch, truncated[batch.rows], is_encoded=True)
        except torch.cuda.OutOfMemoryError:
            raise MemoryError(
                f"{self.embedder.device} ran out of memory at a batch of up to {max_tokens} tokens. Free memory of "
                "this GPU, and encode to the same folder again to continue. On a smaller GPU, use another folder."
            ) from None

    def _read_block(self, rows: range, block: int) -> list[Passage]:
        block_range = rows[block * self.plan.block_rows : (block + 1) * self.plan.block_rows]
        return self.collection[block_range.start : block_range.stop]

    def _finish(self, shard: int) -> None:
        """Write ids and keys, then the manifest, then rename the parts. The last rename finishes the shard."""
        self._write_ids(shard)
        paths = [get_shard_path(self.folder, shard, suffix) for suffix in list_data_suffixes(self.plan.dtype)]
        parts = {path: part for path in paths if (part := _get_part_path(path)).is_file()}
        facts = {path.name: read_facts(parts.get(path, path)) for path in paths}
        write_json(get_shard_path(self.folder, shard, ".json"), EmbeddingsManifest(self.plan.key, facts))
        for path, part in parts.items():
            part.replace(path)
        get_shard_path(self.folder, shard, PROGRESS).unlink(missing_ok=True)

    def _write_ids(self, shard: int) -> None:
        """Write the files of ids and keys. Only blocks that an earlier process encoded are read again."""
        rows, block_rows = self.plan.get_shard_rows(shard), self.plan.block_rows
        blocks = range(-(-len(rows) // block_rows))
        listed = [self._ids.get(block) or _list_ids(self._read_block(rows, block)) for block in blocks]
        with atomic_write(get_shard_path(self.folder, shard, IDS)) as temporary, open(temporary, "wb") as file:
            file.writelines(ids for ids, _ in listed)
        with atomic_write(get_shard_path(self.folder, shard, KEYS)) as temporary, open(temporary, "wb") as file:
            np.save(file, np.concatenate([keys for _, keys in listed]))


def is_shard_finished(folder: str | os.PathLike[str], plan: Plan, shard: int) -> bool:
    """Return whether all files of a shard exist and match their hashes. Print a line about a damaged shard.

    If a process was killed between the last renames, the missing renames are done here.
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
        print(f"{error} Encoding shard {shard} again.", file=sys.stderr)
        return False
    # Someone may have reformatted the JSON. Write it again, so that all files are reproducible byte for byte.
    write_json(get_shard_path(folder, shard, ".json"), manifest)
    get_shard_path(folder, shard, PROGRESS).unlink(missing_ok=True)
    return True


def quantize_embeddings(embeddings: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Quantize (N, D) float32 embeddings to int8. Return them with the (N,) float32 scale of each row.

    The product of number and scale differs from the embedding by at most half a scale.
    """
    scales = np.maximum(np.abs(embeddings).max(axis=1), np.finfo(np.float32).tiny * 127) / np.float32(127)
    return np.rint(embeddings / scales[:, None]).astype(np.int8), scales.astype(np.float32)


def _list_ids(passages: Sequence[Passage]) -> tuple[bytes, np.ndarray]:
    """Return the content of the id file for N passages, and their (N,) int64 hashes."""
    ids = b"".join(passage.passage_id.encode().replace(b"\n", NEWLINE_IN_ID) + b"\n" for passage in passages)
    return ids, np.array([hash_passage(passage) for passage in passages], dtype=np.int64)


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


def _check_embeddings(embeddings: np.ndarray, plan: Plan, find_id: Callable[[int], str]) -> None:
    largest = np.finfo("float16" if plan.dtype == "float16" else "float32").max
    bad = ~(np.abs(embeddings).max(axis=1) <= largest)  # The comparison is false for NaN.
    if bad.any():
        passage_id = find_id(int(bad.argmax()))
        # Activations in float16 overflow above 65504.
        advice = "precision float32" if plan.settings.precision == "float16" else "dtype float32"
        raise ArtifactError(
            f"passage {passage_id}: the embedding is NaN, infinite or too large for {plan.dtype}. "
            f"Check that the model is not damaged, or use {advice}."
        )
