"""The files of an unfinished shard, which are written block by block and can be resumed.

Numbers go to files whose names end in ``.part``. The ``.progress`` file holds the SHA-256 of each finished block, and
of the finished rows of a partial block. A resumed encoding keeps only the blocks and rows that match their hash.
Anything that was written after the last ``.progress`` file is ignored.

Dimensions: N passages of a block; D width of an embedding.
"""

from __future__ import annotations

import hashlib
import os
import sys
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from text.artifacts import read_json, write_json
from text.errors import ArtifactError
from text.retrieval.part_files import PartFile
from text.retrieval.plan import CUT, NUMBERS, PART, PROGRESS, SCALES, Plan, get_shard_path, list_encoder_suffixes

Block = dict[str, np.ndarray]
"""The numbers of N passages by the suffix of their file."""


class PartialBlock(NamedTuple):
    """A block of which only some rows are encoded."""

    block: int
    rows: list[int]
    """Encoded rows of the block, in the order of the embedder."""
    sha256: str
    """SHA-256 of the encoded rows."""


class ProgressRecord(NamedTuple):
    """The content of a ``.progress`` file."""

    blocks: list[str]
    """SHA-256 of each block. Empty for an unfinished block."""
    begun: PartialBlock | None = None
    """The block that is only partly encoded."""


class ShardParts:
    """The files of an unfinished shard, as a context manager.

    Args:
        folder: Folder of the embeddings.
        plan: Plan of the embeddings.
        shard: Number of the shard.

    Raises:
        ArtifactError, OSError: As ``PartFile``.
    """

    def __init__(self, folder: str | os.PathLike[str], plan: Plan, shard: int) -> None:
        self.plan, self.shard, self.num_rows = plan, shard, len(plan.get_shard_rows(shard))
        self.progress_path = get_shard_path(folder, shard, PROGRESS)
        self._hashes, self._partial = self._read_progress()
        forms = {NUMBERS: (plan.dtype, (plan.embedding_dim,)), SCALES: ("float32", ()), CUT: ("int8", ())}
        self.files: dict[str, PartFile] = {}
        try:
            for suffix in list_encoder_suffixes(plan.dtype):
                (dtype, width), path = forms[suffix], get_shard_path(folder, shard, f"{suffix}{PART}")
                self.files[suffix] = PartFile(path, dtype, (self.num_rows, *width))
        except BaseException:
            self.__exit__()
            raise

    def __enter__(self) -> ShardParts:
        return self

    def __exit__(self, *error: object) -> None:
        for file in self.files.values():
            file.close()

    def find_missing(self) -> list[int]:
        """Return the blocks to encode: missing or damaged. Print a line about the damaged blocks."""
        damaged = [
            block
            for block, expected in enumerate(self._hashes)
            if expected and self._hash_block(block, self._read_block(block)) != expected
        ]
        for block in damaged:
            self._hashes[block] = ""
        if damaged:
            rows = ", ".join(f"{rows.start}-{rows.stop - 1}" for rows in map(self.get_block_rows, damaged[:5]))
            self._print_damage(f"rows {rows}{', ...' * (len(damaged) > 5)}")
        return [block for block, found in enumerate(self._hashes) if not found]

    def resume(self, block: int) -> tuple[Block, list[int]]:
        """Return the numbers of an unfinished block and its encoded rows, in the order of the embedder.

        The numbers of the other rows are 0.
        """
        count, partial = len(self.get_block_rows(block)), self._partial
        values = {suffix: np.zeros((count, *file.width), file.dtype) for suffix, file in self.files.items()}
        if partial is None or partial.block != block:
            return values, []
        found, rows = self._read_block(block), partial.rows
        if not all(0 <= row < count for row in rows) or self._hash_block(block, found, rows) != partial.sha256:
            self._print_damage(
                f"{len(rows)} rows of {self.get_block_rows(block).start}-{self.get_block_rows(block).stop - 1}"
            )
            return values, []
        for suffix, numbers in values.items():
            numbers[rows] = found[suffix][rows]
        return values, list(rows)

    def write(self, block: int, values: Block) -> None:
        """Write a finished block."""
        self._write_numbers(block, values)
        self._hashes[block] = self._hash_block(block, values)
        if self._partial is not None and self._partial.block == block:
            self._partial = None

    def write_partial(self, block: int, values: Block, rows: Sequence[int]) -> None:
        """Write a block of which only some rows are encoded."""
        self._write_numbers(block, values)
        self._partial = PartialBlock(block, list(rows), self._hash_block(block, values, rows))

    def save(self) -> None:
        """Flush all numbers to disk, and then write the ``.progress`` file."""
        self.flush()
        write_json(self.progress_path, ProgressRecord(self._hashes, self._partial))

    def flush(self) -> None:
        """Flush all numbers to disk."""
        for file in self.files.values():
            file.flush()

    def _read_progress(self) -> tuple[list[str], PartialBlock | None]:
        """Return the content of the ``.progress`` file. A missing or damaged file counts as no progress."""
        nothing = [""] * -(-self.num_rows // self.plan.block_rows)
        try:
            blocks, partial = read_json(self.progress_path, ProgressRecord)
            if len(blocks) != len(nothing):
                raise ArtifactError(f"{self.progress_path}: blocks has {len(blocks)} hashes instead of {len(nothing)}.")
            return blocks, partial
        except FileNotFoundError:
            pass
        except ArtifactError as error:
            print(f"{error} Encoding the shard again.", file=sys.stderr)
        return nothing, None

    def _print_damage(self, rows: str) -> None:
        path = self.files[NUMBERS].path
        print(
            f"{path}: {rows} do not match their SHA-256 in {self.progress_path.name}. Encoding them again.",
            file=sys.stderr,
        )

    def get_block_rows(self, block: int) -> range:
        """Return the rows of the shard that a block holds."""
        first = block * self.plan.block_rows
        return range(first, min(first + self.plan.block_rows, self.num_rows))

    def _read_block(self, block: int) -> Block:
        return {suffix: file.read(self.get_block_rows(block)) for suffix, file in self.files.items()}

    def _write_numbers(self, block: int, values: Block) -> None:
        for suffix, file in self.files.items():
            file.write(self.get_block_rows(block).start, values[suffix])

    def _hash_block(self, block: int, values: Block, rows: Sequence[int] | slice = slice(None)) -> str:
        """Return the hash of rows of a block. It also depends on the plan and on the position of the block."""
        digest = hashlib.sha256(f"{self.plan.key} {self.shard} {block} {rows}".encode())
        for numbers in values.values():
            digest.update(np.ascontiguousarray(numbers[rows]).data)
        return digest.hexdigest()
