"""Encode a collection of passages to embeddings on disk. The same command continues an interrupted one."""

from __future__ import annotations

import os
import sys
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from text.artifacts import check_files
from text.commands.cli import flag_values, number
from text.commands.model_paths import model_path
from text.commands.ranks import run_ranks
from text.errors import UsageError
from text.runs.stages import spell_arguments


@dataclass(frozen=True, kw_only=True)
class EncodeFlags:
    """Encode a collection of passages to embeddings on disk.

    Examples::

        dpr-text encode --model=runs/nq/model --collection=psgs_w100.tsv --output_dir=runs/nq-passages
    """

    model: str = model_path()
    """Folder of a saved model, or of an encoder of Hugging Face or sentence-transformers."""
    collection: str
    """File of passages: psgs_w100.tsv, or JSON lines such as BEIR's corpus.jsonl. It may be compressed by gzip or
    zstd."""
    output_dir: str
    """Folder for the embeddings. 21 million passages of 768 dimensions take 32 GB with float16."""
    overwrite: bool = False
    """Remove embeddings of another model or collection from the folder."""
    dtype: Literal["float32", "float16", "int8"] = "float16"
    """Type of the numbers on disk. int8 has one scale for each passage."""
    encoder_precision: Literal["float32", "bfloat16", "int8"] = "float32"
    """Precision of the encoder. int8 needs a CPU."""
    passage_max_length: int | None = number(None, least=1)
    """Maximum tokens of a title and text together, special tokens included. By default the model's own limit."""
    titles: Literal["pair", "join"] | None = None
    """pair encodes title and text as a pair (DPR). join puts the title before the text, as is usual with
    sentence-transformers. By default as the model was trained, or pair."""
    device: str | None = None
    """Device of the encoder, such as cpu or cuda. By default a GPU if there is one."""
    gpus: int | None = number(None, least=0)
    """Number of GPUs, each with a process of its own. The files are the same as from one process. 0 encodes on the CPU.
    By default one GPU if there is one. With --device=cpu, it is a number of processes on the CPU."""
    shard_rows: int = number(1 << 18, least=1)
    """Passages in one file. A multiple of block_rows."""
    block_rows: int = number(1 << 11, least=1)
    """Passages that are sorted by length and encoded together. Embeddings that were begun with another number keep that
    number. What is done is on disk every 10 seconds, so that little is lost when the command is stopped."""
    reuse: str | None = None
    """Embeddings of an earlier state of the collection (dpr-text update). Only passages that have changed are
    encoded."""


def encode(flags: EncodeFlags) -> None:
    """Encode the passages that are not encoded yet, in one process for each of several GPUs."""
    from torch import distributed

    from text.datasets import PassageCollection
    from text.retrieval import check_encoding_folder
    from text.retrieval.devices import check_gpus
    from text.retrieval.encoding import check_collection
    from text.runs.folder_lock import lock_folder

    check_gpus(flags.gpus, flags.device)
    # The plan is the first file of the embeddings. An earlier one may be there, to be continued.
    check_files([flags.collection, flags.model, flags.reuse], [Path(flags.output_dir, "plan.json")], overwrite=True)
    rank, num_ranks = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
    if flags.gpus is not None and flags.gpus > 1:
        if num_ranks > 1:
            raise UsageError("torchrun has started several processes already. Leave out --gpus.")
        check_encoding_folder(flags.output_dir)
        check_collection(PassageCollection(flags.collection))  # One process tells its faults.
        run_ranks(["encode", *spell_arguments(flag_values(replace(flags, gpus=None)))], flags.gpus)
        return
    if num_ranks > 1:
        distributed.init_process_group("gloo")
    if rank == 0:
        check_encoding_folder(flags.output_dir)  # Before the lock, which leaves a file in the folder.
    with lock_folder(flags.output_dir) if rank == 0 else nullcontext():
        _encode(flags, is_printing=rank == 0)
    if num_ranks > 1:
        distributed.destroy_process_group()


def _encode(flags: EncodeFlags, *, is_printing: bool) -> None:
    from text.datasets import PassageCollection
    from text.retrieval import Embedder, encode_collection, mean_cosine
    from text.retrieval.counts import describe_cut, tell_counts
    from text.retrieval.devices import default_device

    embedder = Embedder.from_pretrained(
        flags.model,
        "passage",
        max_length=flags.passage_max_length,
        titles=flags.titles,
        precision=flags.encoder_precision,
        device="cpu" if flags.gpus == 0 else flags.device or default_device(),
    )
    collection = PassageCollection(flags.collection)
    shards = encode_collection(
        embedder,
        collection,
        flags.output_dir,
        dtype=flags.dtype,
        shard_rows=flags.shard_rows,
        block_rows=flags.block_rows,
        reuse=flags.reuse,
        overwrite=flags.overwrite,
    )
    if not is_printing:
        return
    plan, cosine = shards.plan, mean_cosine(shards)
    print(f"{flags.output_dir}: {plan.num_rows} passages, {plan.embedding_dim} {plan.dtype} numbers each")
    for line in describe_cut(shards.count_cut(), plan.num_rows, "passages", plan.settings.max_length):
        print(line)
    tell_counts(collection, print)
    print(f"mean cosine of two passages: {cosine:.3f}")
    if cosine > 0.99 and plan.num_rows > 1:
        print("warning: the model gives almost the same embedding to all passages", file=sys.stderr)
