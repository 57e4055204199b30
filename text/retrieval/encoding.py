"""Encode a collection of passages to embeddings on disk. An interrupted encoding continues where it stopped.

``encode_collection`` runs all four steps, which are also separate functions: plan, start, encode the shards, finish.

The collection is split into shards, and each shard into blocks. The texts of a block are sorted by length and encoded
in small batches, so the bytes of a block depend only on the plan. Every few seconds the embeddings and then a progress
file are written to disk, so a killed process repeats only a few seconds of work. Shards are assigned to ranks
round-robin.
"""

from __future__ import annotations

import os
from typing import Any, Literal, cast

from torch import distributed

from text.artifacts import hash_file
from text.datasets import PassageCollection
from text.errors import ArtifactError, DataError
from text.progress import show_progress
from text.retrieval.devices import get_default_device
from text.retrieval.embedder import BLOCK_ROWS, Embedder
from text.retrieval.encoding_folder import (
    continue_plan,
    find_precision,
    finish_encoding,
    list_changes,
    start_encoding,
)
from text.retrieval.plan import DTYPES, DType, EncodedFile, EncoderSettings, Plan, select_passage_files
from text.retrieval.reuse import ReusablePassages
from text.retrieval.shard_writer import SAVE_SECONDS, ShardWriter, is_shard_finished
from text.retrieval.shards import EmbeddingShards

SHARD_ROWS = 1 << 18
"""Number of passages in one shard, by default."""


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

    Finished shards are not encoded again, so a second call continues an interrupted one. If ``torch.distributed`` is
    initialized, call this function on every rank. The ranks share the shards, and the files are the same as from one
    process.

    Args:
        embedder: The embedder of passages, or the folder of a saved model. A model is loaded to the GPU if there is
            one, and has the precision of the embeddings to continue or to reuse, or else the default precision of
            the device.
        collection: The passages, or the path of their file.
        folder: Output folder of the embeddings.
        dtype: Number type on disk: "float32", "float16" or "int8" (with one scale per passage).
        shard_rows: Passages per shard file. A multiple of ``block_rows``.
        block_rows: Passages that are sorted by length and encoded together. An encoding that continues keeps the
            number with which it was started. It also keeps the number of tokens in one batch on a GPU, which is
            chosen by the free memory at the start.
        reuse: Embeddings of an earlier version of the collection, or their folder. The embeddings of unchanged
            passages are copied.
        overwrite: Remove embeddings that the folder already holds. Nothing else is removed.

    Raises:
        ValueError: An argument is out of range, or ``reuse`` is the folder itself.
        DataError: The collection is empty, or an id occurs twice.
        ArtifactError: The folder or ``reuse`` holds embeddings of another model, collection or dtype. Or an embedding
            is not finite.
        FileExistsError: The folder holds something else, such as a model.
        MemoryError: The GPU has too little free memory.
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
    ...     len(shards), shards.plan.embedding_dim, shards.get_passage_id(0)
    (1, 128, 'p1')
    """
    if reuse is not None and not isinstance(reuse, EmbeddingShards):
        reuse = EmbeddingShards(reuse)
    if not isinstance(embedder, Embedder):
        precision = find_precision(folder, None if reuse is None else reuse.folder, overwrite=overwrite)
        embedder = Embedder.from_pretrained(embedder, "passage", precision=precision, device=get_default_device())
    if not isinstance(collection, PassageCollection):
        collection = PassageCollection(collection)
    if reuse is not None and os.path.realpath(reuse.folder) == os.path.realpath(folder):
        raise ValueError(f"reuse is {reuse.folder}, the folder of the new embeddings. Write them to another folder.")
    rank, num_ranks = _find_rank()
    plan = plan_encoding(collection, embedder, dtype=dtype, shard_rows=shard_rows, block_rows=block_rows, reuse=reuse)
    if num_ranks > 1:
        plan = plan._replace(max_tokens=_find_least(plan.max_tokens))
    if rank == 0:
        start_encoding(folder, plan, overwrite=overwrite)
    _wait_for_ranks(num_ranks)
    num_fitting, plan = plan.max_tokens, continue_plan(folder, plan)
    if num_fitting and not plan.max_tokens:  # The embeddings were begun on a CPU.
        embedder.max_tokens = num_fitting
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
    """Return the plan of an encoding. The collection is read once to hash it.

    The arguments are the same as for ``encode_collection``.

    Raises:
        ValueError: ``dtype`` is unknown, or ``shard_rows`` is not a multiple of ``block_rows``.
        ArtifactError: The embeddings to reuse have another model, other settings or another dtype.
        DataError: The collection is empty, or an id occurs twice.
        MemoryError: The GPU has too little free memory.
    """
    if dtype not in DTYPES:
        raise ValueError(f"dtype is {dtype}. Use one of {', '.join(DTYPES)}.")
    if min(shard_rows, block_rows) < 1 or shard_rows % block_rows:
        raise ValueError(f"shard_rows is {shard_rows}. It must be a positive multiple of block_rows, {block_rows}.")
    check_collection(collection)
    plan = Plan(
        embedder.model_hashes,
        EncoderSettings(**embedder.settings),
        EncodedFile(collection.path, hash_file(collection.path), len(collection)),
        num_rows=len(collection),
        embedding_dim=embedder.encoder.embedding_dim,
        dtype=cast(DType, dtype),
        shard_rows=shard_rows,
        block_rows=block_rows,
        max_tokens=embedder.choose_max_tokens(),
        side=cast(Literal["passage", "question"], embedder.side),
    )
    if reuse is None:
        return plan
    before, now = map(_list_reused_settings, (reuse.plan, plan))
    if changes := "; ".join(list_changes(before, now)):
        raise ArtifactError(
            f"{reuse.folder}: cannot be reused ({changes}). The model, its settings and the dtype must be the same."
        )
    return plan._replace(reused=reuse.plan.key)


def _list_reused_settings(plan: Plan) -> dict[str, Any]:
    """Return the entries of a plan that decide the embedding of a text. Those of passages need no question encoder."""
    model = select_passage_files(plan.model) if plan.side == "passage" else plan.model
    settings = {name: plan.to_dict()[name] for name in ("settings", "dtype")}
    return {"model": model, **settings, "side": plan.side}


def check_collection(collection: PassageCollection) -> None:
    """Check that a collection is not empty and that its ids are unique.

    Raises:
        DataError: The collection is empty, or an id occurs twice.
    """
    if not len(collection):
        raise DataError(f"{collection.path}: the file has no passages. Write one passage per line.")
    if collection.counts["duplicate passages"]:
        _raise_on_duplicate_ids(collection)


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
    """Encode the unfinished shards of one rank, with a progress bar.

    Args:
        folder: A folder that ``start_encoding`` prepared.
        plan: The plan that ``start_encoding`` returned.
        collection: The passages.
        embedder: The embedder of passages.
        reuse: The embeddings to reuse, the same as in ``plan_encoding``.
        rank: Rank of this process.
        num_ranks: Number of processes that encode at the same time.
        save_seconds: Seconds between two saves of the progress.

    Raises:
        ArtifactError: An embedding is not finite or is too large for the dtype. The message names the passage.
        MemoryError: The GPU runs out of memory.
        OSError: The disk is full or fails.
    """
    shards = range(rank, plan.num_shards, num_ranks)
    total = sum(len(plan.get_shard_rows(shard)) for shard in shards)
    reusable = ReusablePassages(reuse) if reuse is not None else None
    name = "Encoding" if num_ranks == 1 else f"Encoding (rank {rank})"
    with show_progress(name, total, "passages", position=rank) as progress:
        writer = ShardWriter(folder, plan, collection, embedder, reusable, progress, save_seconds)
        for shard in shards:
            if is_shard_finished(folder, plan, shard):
                progress.skip(len(plan.get_shard_rows(shard)))
            else:
                writer.write(shard)


def _find_rank() -> tuple[int, int]:
    """Return the rank of this process and the number of processes."""
    if distributed.is_available() and distributed.is_initialized():
        return distributed.get_rank(), distributed.get_world_size()
    return 0, 1


def _find_least(number: int) -> int:
    """Return the least number of all ranks."""
    numbers: list[int] = [0] * distributed.get_world_size()
    distributed.all_gather_object(numbers, number)
    return min(numbers)


def _wait_for_ranks(num_ranks: int) -> None:
    if num_ranks > 1:
        distributed.barrier()


def _raise_on_duplicate_ids(collection: PassageCollection) -> None:
    rows: dict[str, int] = {}
    for row, passage in enumerate(collection):
        if (first := rows.setdefault(passage.passage_id, row)) != row:
            raise DataError(
                f"{collection.path}: passages {first} and {row} (counted from 0) have the same id "
                f"{passage.passage_id}. Remove one of them."
            )
