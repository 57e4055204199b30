"""Encodes a collection of passages: embeddings on disk, for search.py.

    python examples/dpr/encode.py --model=runs/dpr/model --collection=psgs_w100.tsv --output_dir=runs/dpr/embeddings

The same command goes on where it was interrupted. torchrun starts several processes, which write the same bytes.
"""

from __future__ import annotations

import os
import shutil
import sys
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from torch import distributed

from examples.dpr.cli import UsageError, check_at_least, run, signals_as_errors
from examples.dpr.output import lock_output
from examples.dpr.paths import check_readable
from text.datasets import PassageCollection
from text.retrieval import (
    Embedder,
    EmbeddingShards,
    encode_shards,
    finish_encoding,
    mean_cosine,
    plan_encoding,
    start_encoding,
)


@dataclass(frozen=True, kw_only=True)
class EncodeConfig:
    """Encodes a collection of passages: embeddings on disk, for search.py."""

    model: str = "runs/dpr/model"
    """Folder of a run's model, or of an encoder of Hugging Face or sentence-transformers."""
    collection: str | None = None
    """psgs_w100.tsv, or JSON lines such as BEIR's corpus.jsonl; plain, or compressed by gzip or zstd."""
    output_dir: str = "runs/dpr/embeddings"
    """Where embeddings go: two bytes a number by default, 32 GB for 21 million passages of 768."""
    overwrite: bool = False
    """Remove embeddings of another model or collection."""
    dtype: Literal["float32", "float16", "int8"] = "float16"
    """Of the numbers on disk; int8 has a scale for each passage."""
    precision: Literal["float32", "bfloat16", "int8"] = "float32"
    """Of the encoder; int8 is for a CPU."""
    passage_max_length: int | None = None
    """Tokens of a title and text together, special ones included; by default as the model was trained."""
    titles: Literal["pair", "join"] | None = None
    """Title and text as a pair (DPR), or joined by a space, as is usual with sentence-transformers; by default as the
    model was trained, or as a pair."""
    device: str | None = None
    """Such as cpu or cuda; by default a GPU of the machine, if it has one."""
    shard_rows: int = 1 << 18
    """Passages of a file."""
    block_rows: int = 1 << 11
    """Passages encoded, and written, together; as many are done again after a crash."""
    reuse: str | None = None
    """Embeddings of an earlier state of the collection (update.py): only what has changed since is encoded."""

    def __post_init__(self) -> None:
        if self.collection is None:
            raise UsageError("--collection is missing; expected a file of passages")
        check_at_least(self, 1, "passage_max_length", "shard_rows", "block_rows")
        if self.reuse is not None and os.path.realpath(self.reuse) == os.path.realpath(self.output_dir):
            raise UsageError("--reuse is --output_dir; expected a folder of its own for the new embeddings")


def main(config: EncodeConfig) -> None:
    """Encodes what is not yet encoded."""
    rank, num_ranks = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
    if num_ranks > 1:
        distributed.init_process_group("gloo")
    with signals_as_errors(), lock_output(config.output_dir) if rank == 0 else nullcontext():
        _encode(config, rank, num_ranks)
    if num_ranks > 1:
        distributed.destroy_process_group()


def _encode(config: EncodeConfig, rank: int, num_ranks: int) -> None:
    assert config.collection is not None
    check_readable(config.collection)
    collection = PassageCollection(config.collection)
    embedder = Embedder.from_pretrained(
        config.model,
        "passage",
        max_length=config.passage_max_length,
        titles=config.titles,
        precision=config.precision,
        device=config.device or _device(),
    )
    reuse = EmbeddingShards(config.reuse) if config.reuse is not None else None
    sizes = {"shard_rows": config.shard_rows, "block_rows": config.block_rows}
    plan = plan_encoding(collection, embedder, dtype=config.dtype, **sizes, reuse=reuse)
    if rank == 0:
        if config.overwrite:
            _clear(config.output_dir)
        start_encoding(config.output_dir, plan)
    _wait(num_ranks)
    encode_shards(config.output_dir, plan, collection, embedder, reuse=reuse, rank=rank, num_ranks=num_ranks)
    _wait(num_ranks)
    if rank == 0:
        finish_encoding(config.output_dir, plan)
        likeness = mean_cosine(EmbeddingShards(config.output_dir, check_hashes=False))
        print(f"{config.output_dir}: {plan.num_rows} passages, {plan.embedding_dim} {plan.dtype} numbers each")
        print(f"mean cosine of two passages: {likeness:.3f}")
        if likeness > 0.99 and plan.num_rows > 1:
            print("warning: all passages look alike to this model; expected a mean cosine far below 1", file=sys.stderr)


def _clear(folder: str) -> None:
    """Removes embeddings, and nothing else."""
    plan = Path(folder, "plan.json")
    if not plan.is_file():
        return
    for path in Path(folder).iterdir():
        if path.name == "manifest.json" or path.name.startswith(("shard-", "index-", "milvus")):
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    plan.unlink()  # last: what is left, if this is interrupted, is still known as embeddings


def _device() -> str:
    return f"cuda:{os.environ.get('LOCAL_RANK', 0)}" if torch.cuda.is_available() else "cpu"


def _wait(num_ranks: int) -> None:
    if num_ranks > 1:
        distributed.barrier()


if __name__ == "__main__":
    sys.exit(run(main, EncodeConfig))
