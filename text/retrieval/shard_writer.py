"""Encode the passages of one shard and write their embeddings, block by block.

``text/retrieval/shard_parts.py`` saves the progress, so a killed process repeats only a few seconds of work.

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
"""Seconds between two saves of the progress. A killed process loses at most this time and one batch."""
_TRIES = 3
"""Number of attempts to write a block whose bytes on disk do not match."""


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

    def write(self, shard: int) -> None:
        """Write one shard. Blocks that are already on disk and match their hash are not encoded again.

        Raises:
            ArtifactError: An embedding is not finite or is too large for the dtype; the message names the passage.
                Or as ``ShardParts``.
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
                raise OSError(errno.EIO, "the bytes on disk differ from the bytes that were written", path)
            parts.flush()
        self._finish(shard)

    def _write_block(
        self, parts: ShardParts, block: int, rows: Sequence[int], old_rows: np.ndarray, tokens: TokenBatch | None
    ) -> None:
        """Encode and write a block. ``rows`` starts with the block's first row in the collection."""
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
        """Yield the blocks of a shard. A thread tokenizes the next block while the caller encodes.

        Yields:
            The number of a block, the (N,) rows of reusable embeddings (-1 if there is none), and the tokens of the
            passages to encode.
        """
        block_rows, reusable = self.plan.block_rows, self.reusable

        def tokenize(block: int) -> tuple[np.ndarray, TokenBatch | None]:
            block_range = rows[block * block_rows : (block + 1) * block_rows]
            passages = self.collection[block_range.start : block_range.stop]
            old_rows = reusable.find_rows(passages) if reusable is not None else np.full(len(passages), -1)
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
        """Yield the embeddings of a block in batches: first the reusable embeddings, then the encoded texts.

        Yields:
            The places of n passages in the block, their (n, D) float32 embeddings, and (n,) truncation marks.
        """
        old, new = np.flatnonzero(old_rows >= 0), np.flatnonzero(old_rows < 0)
        if self.reusable is not None and len(old):
            shards = self.reusable.shards
            yield old, torch.from_numpy(shards.read_rows(old_rows[old])), shards.get_truncation_marks(old_rows[old])
        if tokens is not None:
            truncated = tokens.truncated.numpy()
            for places, embeddings in self.embedder.embed_in_batches(tokens, num_done):
                yield new[places], embeddings, truncated[places]

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
        rows, keys = self.plan.get_shard_rows(shard), array("q")
        with atomic_write(get_shard_path(self.folder, shard, IDS)) as temporary, open(temporary, "wb") as file:
            for first in range(rows.start, rows.stop, self.plan.block_rows):
                for passage in self.collection[first : min(first + self.plan.block_rows, rows.stop)]:
                    file.write(passage.passage_id.encode().replace(b"\n", NEWLINE_IN_ID) + b"\n")
                    keys.append(hash_passage(passage))
        with atomic_write(get_shard_path(self.folder, shard, KEYS)) as temporary, open(temporary, "wb") as file:
            np.save(file, np.frombuffer(keys, dtype=np.int64))


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
            "Check that the model is not damaged, or use dtype float32."
        )
