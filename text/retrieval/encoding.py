"""Encode a collection of passages to embeddings on disk, whatever its size and wherever an earlier try stopped.

``encode_collection`` does all of it. Its four steps are functions too: plan, start, encode the shards, finish.

The collection is cut into shards, and a shard into blocks. The texts of a block are sorted by length and encoded in
pieces, so the bytes of a block depend only on the plan. Every few seconds the pieces go to the disk, and then a note
that says so. A killed process therefore repeats a few seconds of work. Ranks take shards in turn.
"""

from __future__ import annotations

import os
from typing import cast

from torch import distributed

from text.artifacts import sha256
from text.datasets import PassageCollection
from text.errors import ArtifactError, DataError
from text.progress import show_progress
from text.retrieval.devices import default_device
from text.retrieval.embedder import BLOCK_ROWS, Embedder
from text.retrieval.encoding_folder import finish_encoding, list_changes, start_encoding
from text.retrieval.plan import DTYPES, DType, EncodedFile, Plan, Settings, read_plan
from text.retrieval.reuse import KnownPassages
from text.retrieval.shard_writer import SAVE_SECONDS, ShardWriter, is_finished
from text.retrieval.shards import EmbeddingShards

SHARD_ROWS = 1 << 18


def encode_collection(
    embedder: Embedder | str | os.PathLike[str],
    collection: PassageCollection | str | os.PathLike[str],
    folder: str | os.PathLike[str],
    *,
    dtype: str = "float16",
    shard_rows: int = SHARD_ROWS,
    block_rows: int = BLOCK_ROWS,
    reuse: EmbeddingShards | str | os.PathLike[str] | None = None,
    overwrite: bool = False,
) -> EmbeddingShards:
    """Encode a collection and return its embeddings.

    Shards that the folder already holds are not encoded again, so a second call continues an interrupted one. If
    ``torch.distributed`` is initialized, call this function on every rank: the ranks share the shards, and the files
    are the same as from one process.

    Args:
        embedder: Embeds passages. A path is the folder of a saved model, which is loaded to the GPU if there is one.
        collection: The passages, or the path of their file.
        folder: Where the embeddings go.
        dtype: Type of the numbers on disk: "float32", "float16" or "int8" (one scale for each passage).
        shard_rows: Passages in one file. A multiple of ``block_rows``.
        block_rows: Passages that are sorted by length and encoded together. An encoding that was begun with another
            number keeps that number.
        reuse: Embeddings of an earlier state of the collection, or their folder. Passages that have not changed are
            copied instead of encoded.
        overwrite: Remove embeddings that the folder already holds. Nothing else is removed.

    Raises:
        ValueError: An argument is out of range, or ``reuse`` is the folder itself.
        DataError: The collection is empty, or an id occurs twice.
        ArtifactError: The folder or ``reuse`` holds embeddings of another model, collection or form; or an embedding
            is not finite.
        FileExistsError: The folder holds something else, such as a model.
        OSError: A file cannot be read or written, or the disk is full.

    >>> import tempfile
    >>> from pathlib import Path
    >>> from text.models import roberta_tiny
    >>> from text.transforms import Tokenize, train_tokenizer
    >>> tokenizer = train_tokenizer(["a beetle ate the oak"], vocab_size=300)
    >>> embedder = Embedder(roberta_tiny(vocab_size=300, pooling="mean"), Tokenize(tokenizer, max_length=32))
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = Path(folder, "passages.jsonl")
    ...     _ = path.write_text('{"_id": "p1", "title": "Oaks", "text": "A beetle ate the oak."}')
    ...     shards = encode_collection(embedder, path, Path(folder, "embeddings"))
    ...     len(shards), shards.plan.embedding_dim, shards.passage_id(0)
    (1, 128, 'p1')
    """
    if not isinstance(embedder, Embedder):
        embedder = Embedder.from_pretrained(embedder, "passage", device=default_device())
    if not isinstance(collection, PassageCollection):
        collection = PassageCollection(collection)
    if reuse is not None and not isinstance(reuse, EmbeddingShards):
        reuse = EmbeddingShards(reuse)
    if reuse is not None and os.path.realpath(reuse.folder) == os.path.realpath(folder):
        raise ValueError(f"reuse is {reuse.folder}, where the new embeddings go. Write them to another folder.")
    rank, num_ranks = _find_rank()
    plan = plan_encoding(collection, embedder, dtype=dtype, shard_rows=shard_rows, block_rows=block_rows, reuse=reuse)
    if rank == 0:
        start_encoding(folder, plan, overwrite=overwrite)
    _wait_for_ranks(num_ranks)
    plan = read_plan(folder)
    encode_shards(folder, plan, collection, embedder, reuse=reuse, rank=rank, num_ranks=num_ranks)
    _wait_for_ranks(num_ranks)
    if rank == 0:
        finish_encoding(folder, plan)
    _wait_for_ranks(num_ranks)
    return EmbeddingShards(folder, check_hashes=False)


def plan_encoding(
    collection: PassageCollection,
    embedder: Embedder,
    *,
    dtype: str = "float16",
    shard_rows: int = SHARD_ROWS,
    block_rows: int = BLOCK_ROWS,
    reuse: EmbeddingShards | None = None,
) -> Plan:
    """Return the plan of an encoding. The collection is read once for its hash.

    Arguments are those of ``encode_collection``.

    Raises:
        ValueError: ``dtype`` is unknown, or ``shard_rows`` is not a multiple of ``block_rows``.
        ArtifactError: The embeddings to reuse are of another model or have another dtype.
        DataError: The collection is empty, or an id occurs twice.
    """
    if dtype not in DTYPES:
        raise ValueError(f"dtype is {dtype}. Use one of {', '.join(DTYPES)}.")
    if min(shard_rows, block_rows) < 1 or shard_rows % block_rows:
        raise ValueError(f"shard_rows is {shard_rows}. It must be a multiple of block_rows, {block_rows}, and above 0.")
    check_collection(collection)
    plan = Plan(
        embedder.model,
        Settings(**embedder.settings),
        EncodedFile(collection.path, sha256(collection.path), len(collection)),
        num_rows=len(collection),
        embedding_dim=embedder.encoder.embedding_dim,
        dtype=cast(DType, dtype),
        shard_rows=shard_rows,
        block_rows=block_rows,
    )
    if reuse is None:
        return plan
    plans = (reuse.plan.to_dict(), plan.to_dict())
    before, now = ({name: each[name] for name in ("model", "settings", "dtype")} for each in plans)
    if changes := "; ".join(list_changes(before, now)):
        raise ArtifactError(f"{reuse.folder}: cannot be reused ({changes}). Only the passages may differ.")
    return plan._replace(reused=reuse.plan.key)


def check_collection(collection: PassageCollection) -> None:
    """Check that a collection can be encoded.

    Raises:
        DataError: The collection is empty, or an id occurs twice.
    """
    if not len(collection):
        raise DataError(f"{collection.path}: the file has no passages. Write one a line.")
    if collection.counts["duplicate passages"]:
        _refuse_duplicates(collection)


def encode_shards(
    folder: str | os.PathLike[str],
    plan: Plan,
    collection: PassageCollection,
    embedder: Embedder,
    *,
    reuse: EmbeddingShards | None = None,
    rank: int = 0,
    num_ranks: int = 1,
    save_seconds: float = SAVE_SECONDS,
) -> None:
    """Encode the shards of one rank that are not finished, with a progress bar.

    Args:
        folder: A folder that ``start_encoding`` prepared.
        plan: The plan that ``start_encoding`` returned.
        collection: The passages.
        embedder: Embeds passages.
        reuse: The embeddings to reuse that the plan was made with.
        rank: The rank of this process.
        num_ranks: The number of processes that encode at the same time.
        save_seconds: Seconds between two notes of what is on disk.

    Raises:
        ArtifactError: An embedding is not finite or too large for the dtype; with the passage's id.
        OSError: The disk is full or fails.
    """
    shards = range(rank, plan.num_shards, num_ranks)
    total = sum(len(plan.rows(shard)) for shard in shards)
    known = KnownPassages(reuse) if reuse is not None else None
    name = "Encoding" if num_ranks == 1 else f"Encoding (rank {rank})"
    with show_progress(name, total, "passages", position=rank) as progress:
        writer = ShardWriter(folder, plan, collection, embedder, known, progress, save_seconds)
        for shard in shards:
            if is_finished(folder, plan, shard):
                progress.skip(len(plan.rows(shard)))
            else:
                writer.write(shard)


def _find_rank() -> tuple[int, int]:
    """Return the rank of this process and the number of processes."""
    if distributed.is_available() and distributed.is_initialized():
        return distributed.get_rank(), distributed.get_world_size()
    return 0, 1


def _wait_for_ranks(num_ranks: int) -> None:
    if num_ranks > 1:
        distributed.barrier()


def _refuse_duplicates(collection: PassageCollection) -> None:
    rows: dict[str, int] = {}
    for row, passage in enumerate(collection):
        if (first := rows.setdefault(passage.passage_id, row)) != row:
            raise DataError(
                f"{collection.path}: passages {first} and {row}, counted from 0, have the id {passage.passage_id}. "
                "Remove one of them."
            )
