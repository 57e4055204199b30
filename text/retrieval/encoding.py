"""A collection of passages to shards of embeddings on disk, of any size, from wherever it was interrupted.

The collection is cut into shards, and these into blocks, whose texts are encoded together: a block's bytes depend on
nothing but the plan. After each block its bytes are on disk before the note that says so: a run that is killed does
one block again. Ranks take shards in turn.

Dimensions: N passages of a block; D width of an embedding.
"""

from __future__ import annotations

import json
import mmap
import os
from array import array
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from text.artifacts import atomic_write, remove_leftovers, sha256, write_json
from text.datasets import PassageCollection
from text.errors import ArtifactError, DataError
from text.records import TokenBatch
from text.retrieval.embedder import Embedder
from text.retrieval.reuse import KnownPassages, passage_key
from text.retrieval.shards import DTYPES, EmbeddingShards, Plan, read_plan, shard_path, suffixes

SHARD_ROWS = 1 << 18
BLOCK_ROWS = 1 << 11


def plan_encoding(
    collection: PassageCollection,
    embedder: Embedder,
    *,
    dtype: str = "float16",
    shard_rows: int = SHARD_ROWS,
    block_rows: int = BLOCK_ROWS,
    reuse: EmbeddingShards | None = None,
) -> Plan:
    """What encoding a collection will write; reads the collection once, for its hash.

    Args:
        collection: What to encode.
        embedder: Of passages.
        dtype: Of the numbers on disk: "float32", "float16" or "int8".
        shard_rows: Passages of a file.
        block_rows: Passages that are encoded, and written, together.
        reuse: Embeddings of an earlier state of the collection, to take over where passages have not changed.

    Raises:
        ValueError: A number or type is not one that can be meant.
        ArtifactError: What is to be reused is of another model, or has another dtype.
        DataError: There is no passage, or an id stands twice.
    """
    if dtype not in DTYPES:
        raise ValueError(f"dtype is {dtype}; expected one of {', '.join(DTYPES)}")
    if min(shard_rows, block_rows) < 1 or shard_rows % block_rows:
        raise ValueError(f"shard_rows is {shard_rows}, block_rows {block_rows}; expected a multiple of it, 1 or more")
    if not len(collection):
        raise DataError(f"{collection.path}: no passages; expected one or more")
    if collection.counts["duplicate passages"]:
        _refuse_duplicates(collection)
    facts = {"path": collection.path, "sha256": sha256(collection.path), "num_passages": len(collection)}
    width = embedder.encoder.embedding_dim
    plan = Plan(embedder.model, embedder.settings, facts, len(collection), width, dtype, shard_rows, block_rows)
    if reuse is None:
        return plan
    before, now = ({"model": p.model, "settings": p.settings, "dtype": p.dtype} for p in (reuse.plan, plan))
    if changed := "; ".join(_changes(before, now)):
        raise ArtifactError(f"{reuse.folder}: cannot be reused ({changed}); expected embeddings that differ in texts")
    return plan._replace(reused=reuse.plan.key)


def start_encoding(folder: str | os.PathLike[str], plan: Plan) -> None:
    """Makes a folder ready to be written, or gone on with.

    Raises:
        ArtifactError: There are embeddings of another plan.
        FileExistsError: There is something else, such as a run or a model.
        OSError: The folder cannot be written.
    """
    Path(folder).mkdir(parents=True, exist_ok=True)
    remove_leftovers(folder)
    if not Path(folder, "plan.json").is_file():
        if any(Path(folder, name).exists() for name in ("manifest.json", "config.json")):
            raise FileExistsError(f"{folder}: holds something else; expected a folder of its own for embeddings")
        write_json(Path(folder, "plan.json"), plan._asdict())
        return
    found = read_plan(folder)
    if found.key != plan.key:
        changed = "; ".join(_changes(found._asdict(), plan._asdict()))
        raise ArtifactError(f"{folder}: embeddings of another plan ({changed}); expected a folder of its own")


def encode_shards(
    folder: str | os.PathLike[str],
    plan: Plan,
    collection: PassageCollection,
    embedder: Embedder,
    *,
    reuse: EmbeddingShards | None = None,
    rank: int = 0,
    num_ranks: int = 1,
) -> None:
    """Writes the shards of one rank that are not there yet, with a bar of progress.

    Args:
        folder: After ``start_encoding``.
        plan: Of this collection and embedder.
        collection: What to encode.
        embedder: Of passages.
        reuse: As of the plan.
        rank: Which of the processes that do this at once.
        num_ranks: How many there are.

    Raises:
        ArtifactError: An embedding is not finite, or does not fit the dtype; with the passage's id.
        DataError: A passage's id has a line break.
        OSError: The disk is full, or fails.
    """
    shards = range(rank, plan.num_shards, num_ranks)
    total = sum(len(plan.rows(shard)) for shard in shards)
    known = KnownPassages(reuse) if reuse is not None else None
    with tqdm(total=total, unit=" passages", desc="Encoding", disable=None, position=rank) as progress:
        for shard in shards:
            if not _is_finished(folder, shard):
                _encode_shard(folder, plan, shard, collection, embedder, known, progress)
            else:
                progress.update(len(plan.rows(shard)))


def finish_encoding(folder: str | os.PathLike[str], plan: Plan) -> None:
    """Writes the manifest, once all ranks are done: with it, the embeddings count as whole.

    Raises:
        ArtifactError: A shard is missing.
    """
    files: dict[str, Any] = {}
    for shard in range(plan.num_shards):
        if not _is_finished(folder, shard):
            raise ArtifactError(f"{shard_path(folder, shard, '')}: not encoded; expected all {plan.num_shards} shards")
        files |= json.loads(shard_path(folder, shard, ".json").read_text(encoding="utf-8"))
        path = shard_path(folder, shard, ".json")
        files[path.name] = {"bytes": path.stat().st_size, "sha256": sha256(path)}
    write_json(Path(folder, "manifest.json"), {"plan": plan.key, "files": files})


def quantize(embeddings: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(N, D) float32 to int8 and the (N,) float32 scales that give it back, within half of a scale."""
    scales = np.maximum(np.abs(embeddings).max(axis=1), np.finfo(np.float32).tiny * 127) / np.float32(127)
    return np.rint(embeddings / scales[:, None]).astype(np.int8), scales.astype(np.float32)


def _refuse_duplicates(collection: PassageCollection) -> None:
    rows: dict[str, int] = {}
    for row, passage in enumerate(collection):
        if (first := rows.setdefault(passage.passage_id, row)) != row:
            raise DataError(
                f"{collection.path}: {passage.passage_id} is the id of passages {first} and {row}, counted from 0; "
                "expected each passage once"
            )


def _encode_shard(
    folder: str | os.PathLike[str],
    plan: Plan,
    shard: int,
    collection: PassageCollection,
    embedder: Embedder,
    known: KnownPassages | None,
    progress: tqdm,
) -> None:
    rows, note = plan.rows(shard), shard_path(folder, shard, ".progress")
    parts = {suffix: shard_path(folder, shard, f"{suffix}.part") for suffix in (".npy", ".scales.npy")}
    parts = {suffix: path for suffix, path in parts.items() if suffix in suffixes(plan.dtype)}
    arrays = _opened(parts, (len(rows), plan.embedding_dim), plan.dtype, note)
    done = json.loads(note.read_text())["rows"] if note.is_file() else 0
    progress.update(done)
    for first, old_rows, tokens in _tokenized(collection, embedder, known, rows, done, plan.block_rows):
        embeddings = _embedded(embedder, known, old_rows, tokens)
        _check(embeddings, plan.dtype, lambda place, first=first: collection[rows[first + place]].passage_id)
        block = slice(first, first + len(embeddings))
        if plan.dtype == "int8":
            arrays[".npy"][block], arrays[".scales.npy"][block] = quantize(embeddings.numpy())
        else:
            arrays[".npy"][block] = embeddings.numpy()
        for values in arrays.values():
            values.flush()
            assert isinstance(values.base, mmap.mmap)
            values.base.madvise(mmap.MADV_DONTNEED)  # what is on disk need not be in memory
        write_json(note, {"rows": block.stop})
        progress.update(len(embeddings))
    del arrays
    _finish_shard(folder, plan, shard, collection, parts)
    note.unlink(missing_ok=True)


def _opened(parts: dict[str, Path], shape: tuple[int, int], dtype: str, note: Path) -> dict[str, np.memmap]:
    """The arrays of a shard: those begun, or new ones with all the space that they will take."""
    if not (note.is_file() and all(path.is_file() for path in parts.values())):
        note.unlink(missing_ok=True)
        for path in parts.values():
            path.unlink(missing_ok=True)
    arrays = {}
    for suffix, path in parts.items():
        kind, size = ("float32", shape[:1]) if "scales" in suffix else (dtype, shape)
        if path.is_file():
            arrays[suffix] = np.lib.format.open_memmap(path, mode="r+")
        else:
            arrays[suffix] = _new_array(path, kind, size)
    return arrays


def _new_array(path: Path, dtype: str, shape: tuple[int, ...]) -> np.memmap:
    """A file that has all its space from the start: a full disk would kill a process that writes to a map of it.

    Raises:
        OSError: The disk is full; the file is removed.
    """
    try:
        array = np.lib.format.open_memmap(path, mode="w+", dtype=dtype, shape=shape)
        with open(path, "r+b") as file:
            os.posix_fallocate(file.fileno(), 0, os.fstat(file.fileno()).st_size)
    except OSError as error:
        path.unlink(missing_ok=True)
        needed = np.dtype(dtype).itemsize * int(np.prod(shape))
        raise OSError(error.errno, f"{os.strerror(error.errno or 0)}; {needed} bytes are needed", str(path)) from None
    return array


def _tokenized(
    collection: PassageCollection,
    embedder: Embedder,
    known: KnownPassages | None,
    rows: range,
    start: int,
    block_rows: int,
) -> Iterator[tuple[int, np.ndarray, TokenBatch | None]]:
    """Of each block its first place, the (N,) rows of what is known of it (-1: nothing), and the tokens of the others.

    The next block is made meanwhile.
    """

    def block(first: int) -> tuple[np.ndarray, TokenBatch | None]:
        of_block = rows[first : first + block_rows]
        passages = collection[of_block.start : of_block.stop]
        old_rows = known.rows(passages) if known is not None else np.full(len(passages), -1)
        new = [passage for passage, row in zip(passages, old_rows, strict=True) if row < 0]
        return old_rows, embedder.tokenize(new) if new else None

    with ThreadPoolExecutor(1) as executor:
        places = list(range(start, len(rows), block_rows))
        pending = executor.submit(block, places[0]) if places else None
        for number, place in enumerate(places):
            assert pending is not None
            made = pending.result()
            if number + 1 < len(places):
                pending = executor.submit(block, places[number + 1])
            yield place, *made


def _embedded(
    embedder: Embedder, known: KnownPassages | None, old_rows: np.ndarray, tokens: TokenBatch | None
) -> Tensor:
    """(N, D) float32."""
    new = embedder.embed(tokens) if tokens is not None else None
    if known is None or (old_rows < 0).all():
        assert new is not None
        return new
    is_old = torch.from_numpy(old_rows >= 0)
    embeddings = torch.empty(len(old_rows), known.shards.plan.embedding_dim)
    embeddings[is_old] = torch.from_numpy(known.shards.rows(old_rows[old_rows >= 0]))
    if new is not None:
        embeddings[~is_old] = new
    return embeddings


def _check(embeddings: Tensor, dtype: str, passage_id: Any) -> None:
    largest = {"float16": 65504.0}.get(dtype, float("inf"))
    bad = ~(embeddings.abs() <= largest).all(dim=1) | ~embeddings.isfinite().all(dim=1)
    if bad.any():
        place = int(bad.nonzero()[0])
        raise ArtifactError(
            f"passage {passage_id(place)}: its embedding is NaN, infinite or too large for {dtype}; "
            "expected finite numbers: is the model whole?"
        )


def _finish_shard(
    folder: str | os.PathLike[str], plan: Plan, shard: int, collection: PassageCollection, parts: dict[str, Path]
) -> None:
    """Ids and keys, then the hashes, then the final names: with the last one the shard is there."""
    rows, facts, keys = plan.rows(shard), {}, array("q")
    with atomic_write(shard_path(folder, shard, ".ids")) as temporary, open(temporary, "wb") as file:
        for first in range(rows.start, rows.stop, plan.block_rows):
            for passage in collection[first : min(first + plan.block_rows, rows.stop)]:
                if "\n" in passage.passage_id:
                    raise DataError(f"{collection.path}: id {passage.passage_id!r} has a line break; expected none")
                file.write(f"{passage.passage_id}\n".encode())
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


def _is_finished(folder: str | os.PathLike[str], shard: int) -> bool:
    """Whether all is there; names that a killed run did not come to are given now."""
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


def _changes(before: dict[str, Any], after: dict[str, Any]) -> Iterator[str]:
    """What is not the same, by name."""
    for name in {**before, **after}:
        old, new = before.get(name), after.get(name)
        if isinstance(old, dict) and isinstance(new, dict):
            yield from (f"{name} {change}" for change in _changes(old, new))
        elif old != new and name != "path":
            yield f"{name}: {old} -> {new}"
