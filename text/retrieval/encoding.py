"""Encode a collection of passages to embeddings on disk, whatever its size and wherever an earlier try stopped.

``encode_collection`` does all of it. Its four steps are functions too: plan, start, encode the shards, finish.

The collection is cut into shards, and a shard into blocks. The texts of a block are sorted by length and encoded in
pieces, so the bytes of a block depend only on the plan. Every few seconds the pieces go to the disk, and then a note
that says so. A killed process therefore repeats a few seconds of work. Ranks take shards in turn.
"""

from __future__ import annotations

import errno
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from torch import distributed

from text.artifacts import remove_leftovers, sha256, write_json
from text.datasets import PassageCollection
from text.errors import ArtifactError, DataError
from text.progress import show_progress
from text.retrieval.devices import default_device
from text.retrieval.embedder import Embedder
from text.retrieval.reuse import KnownPassages
from text.retrieval.shard_writer import SAVE_SECONDS, ShardWriter, is_finished
from text.retrieval.shards import DTYPES, EmbeddingShards, Plan, read_plan, shard_path

SHARD_ROWS = 1 << 18
BLOCK_ROWS = 1 << 11


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
        if overwrite:
            remove_embeddings(folder)
        start_encoding(folder, plan)
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
    facts = {"path": collection.path, "sha256": sha256(collection.path), "num_passages": len(collection)}
    width = embedder.encoder.embedding_dim
    plan = Plan(embedder.model, embedder.settings, facts, len(collection), width, dtype, shard_rows, block_rows)
    if reuse is None:
        return plan
    before, now = ({"model": p.model, "settings": p.settings, "dtype": p.dtype} for p in (reuse.plan, plan))
    if changes := "; ".join(_list_changes(before, now)):
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


def start_encoding(folder: str | os.PathLike[str], plan: Plan) -> Plan:
    """Create the folder and write ``plan.json``, or check that a begun encoding has the same plan.

    Returns:
        The plan to encode with. It has the ``block_rows`` that a begun encoding has.

    Raises:
        ArtifactError: The folder holds embeddings of another plan.
        FileExistsError: The folder holds something else, such as a run or a model.
        OSError: The folder cannot be written, or the disk is too small for all embeddings.
    """
    Path(folder).mkdir(parents=True, exist_ok=True)
    remove_leftovers(folder)
    if not Path(folder, "plan.json").is_file():
        if any(Path(folder, name).exists() for name in ("manifest.json", "config.json")):
            raise FileExistsError(f"{folder}: holds something other than embeddings. Use another folder.")
        _check_disk(folder, plan)
        write_json(Path(folder, "plan.json"), plan._asdict())
        return plan
    found = read_plan(folder)
    asked = plan._replace(block_rows=found.block_rows)
    if found.key != asked.key:
        changes = "; ".join(_list_changes(found._asdict(), asked._asdict()))
        raise ArtifactError(f"{folder}: holds embeddings of another plan ({changes}). Use another folder or overwrite.")
    return found


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
            if is_finished(folder, shard):
                progress.skip(len(plan.rows(shard)))
            else:
                writer.write(shard)


def finish_encoding(folder: str | os.PathLike[str], plan: Plan) -> None:
    """Write the manifest after all ranks are done. Embeddings without a manifest are not read.

    Raises:
        ArtifactError: A shard is missing.
    """
    files: dict[str, Any] = {}
    for shard in range(plan.num_shards):
        path = shard_path(folder, shard, ".json")
        if not is_finished(folder, shard):
            raise ArtifactError(f"{path}: missing, the shard is not encoded. Run the encoding again to continue it.")
        files |= json.loads(path.read_text(encoding="utf-8"))
        files[path.name] = {"bytes": path.stat().st_size, "sha256": sha256(path)}
    write_json(Path(folder, "manifest.json"), {"plan": plan.key, "files": files})


def remove_embeddings(folder: str | os.PathLike[str]) -> None:
    """Remove the embeddings in a folder, their indexes, and nothing else."""
    plan = Path(folder, "plan.json")
    if not plan.is_file():
        return
    for path in Path(folder).iterdir():
        if path.name == "manifest.json" or path.name.startswith(("shard-", "index-", "milvus")):
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    plan.unlink()  # Last, so that an interrupted removal leaves a folder that still counts as embeddings.


def _check_disk(folder: str | os.PathLike[str], plan: Plan) -> None:
    needed = plan.num_rows * plan.embedding_dim * np.dtype(plan.dtype).itemsize
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise OSError(errno.ENOSPC, f"{free} bytes are free, the embeddings need {needed}", os.fspath(folder))


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


def _list_changes(before: dict[str, Any], after: dict[str, Any]) -> Iterator[str]:
    """Yield each difference of two plans as "name: before -> after". The path of the collection may differ."""
    for name in {**before, **after}:
        old, new = before.get(name), after.get(name)
        if isinstance(old, dict) and isinstance(new, dict):
            yield from (f"{name} {change}" for change in _list_changes(old, new))
        elif old != new and name != "path":
            yield f"{name}: {old} -> {new}"
