"""``dpr-text encode``: encode a collection to embeddings on disk. Repeat the command to continue after a stop."""

from __future__ import annotations

import os
import sys
from contextlib import nullcontext
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path
from typing import Literal

from text.artifacts import check_files
from text.commands.cli import get_flag_values, number_field
from text.commands.model_paths import model_path_field
from text.commands.ranks import run_ranks
from text.errors import UsageError
from text.runs.stages import format_arguments

_RANK_TIMEOUT = timedelta(days=365)
"""Time that a process waits for the others at the end. Some devices are slow, and some processes have more shards."""


@dataclass(frozen=True, kw_only=True)
class EncodeFlags:
    """Encode a collection of passages to embeddings on disk.

    Examples::

        dpr-text encode --model=runs/nq/model --collection=psgs_w100.tsv --output_dir=runs/nq-passages
        dpr-text encode --model=runs/nq/model --questions train.jsonl dev.jsonl --output_dir=runs/nq-questions
    """

    model: str = model_path_field()
    """Folder of a saved model, or of a Hugging Face or sentence-transformers encoder."""
    collection: str | None = None
    """Passage file: psgs_w100.tsv, or JSON lines such as BEIR's corpus.jsonl. It may be compressed with gzip or
    zstd. Required without --questions."""
    questions: list[str] | None = None
    """Files of questions or of training rows to encode with the question encoder, in place of a collection. A smaller
    model learns from these embeddings (train --teacher_questions)."""
    output_dir: str
    """Output folder for the embeddings. 21 million passages with 768 dimensions take 32 GB as float16."""
    overwrite: bool = False
    """Replace embeddings of another model or collection in the folder."""
    dtype: Literal["float32", "float16", "int8"] = "float16"
    """Data type of the embeddings on disk. int8 is half as large as float16 and stores one scale per passage."""
    encoder_precision: Literal["float32", "bfloat16", "float16", "int8"] | None = None
    """Precision of the encoder. The default is that of the embeddings to continue or to --reuse, else float32 on a CPU,
    bfloat16 on a GPU, and float16 on a GPU older than Ampere. int8 needs a CPU, and float16 needs a GPU."""
    passage_max_length: int | None = number_field(None, least=1)
    """Maximum length of title and text in tokens, including special tokens. The default is the model's limit."""
    titles: Literal["pair", "join"] | None = None
    """Encode title and text as a pair (DPR), or join them with a space. The default is the setting of the
    model's training. Without such a setting, it is join for sentence-transformers and pair otherwise."""
    device: str | None = None
    """Device of the encoder, such as cpu or cuda. By default, a GPU is used if there is one."""
    gpus: int | None = number_field(None, least=0)
    """Number of GPUs, with one process each; 0 encodes on the CPU. Each shard file is the work of one process. The
    default is one GPU if there is one; with --device=cpu, this is the number of CPU processes."""
    shard_rows: int = number_field(1 << 18, least=1)
    """Passages per shard file, a multiple of block_rows. Lower it if file systems limit the size of files."""
    block_rows: int = number_field(1 << 11, least=1)
    """Passages to sort by length and encode together. Raise it if texts vary much in length; an encoding that has begun
    keeps its number."""
    reuse: str | None = None
    """Folder with embeddings of an earlier version of the collection (dpr-text update). Only changed passages are
    encoded."""

    def __post_init__(self) -> None:
        if (self.collection is None) == (self.questions is None):
            raise UsageError("--collection, --questions: give one of them.")
        if self.questions is not None:
            for name in ("passage_max_length", "titles", "reuse"):
                if getattr(self, name) is not None:
                    raise UsageError(f"--{name} is for passages. Leave it out with --questions.")
            if (self.gpus or 0) > 1 or int(os.environ.get("WORLD_SIZE", 1)) > 1:
                raise UsageError("--questions are encoded by one process. Use --gpus=1.")


def encode(flags: EncodeFlags) -> None:
    """Encode the passages that are not encoded yet, with one process per GPU."""
    from torch import distributed

    from text.datasets import PassageCollection
    from text.retrieval import check_encoding_folder
    from text.retrieval.devices import check_gpus
    from text.retrieval.encoding import check_collection
    from text.runs.folder_lock import lock_folder

    check_gpus(flags.gpus, flags.device)
    # The plan is written first. If it already exists, encoding continues from it.
    inputs = [flags.collection, *(flags.questions or ()), flags.model, flags.reuse]
    check_files(inputs, [Path(flags.output_dir, "plan.json")], overwrite=True)
    rank, num_ranks = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
    if flags.gpus is not None and flags.gpus > 1 and flags.collection is not None:
        if num_ranks > 1:
            raise UsageError("--gpus cannot be used under torchrun, which already starts the processes. Leave it out.")
        check_encoding_folder(flags.output_dir)
        collection = PassageCollection(flags.collection)
        check_collection(collection)  # One process reports errors before several start.
        num_shards = -(-len(collection) // flags.shard_rows)
        if (num_processes := min(flags.gpus, num_shards)) > 1:
            run_ranks(["encode", *format_arguments(get_flag_values(replace(flags, gpus=None)))], num_processes)
            return
    if num_ranks > 1:
        distributed.init_process_group("gloo", timeout=_RANK_TIMEOUT)
    if rank == 0:
        check_encoding_folder(flags.output_dir)  # The lock creates a file in the folder, so check first.
    with lock_folder(flags.output_dir) if rank == 0 else nullcontext():
        _encode(flags, is_printing=rank == 0)
    if num_ranks > 1:
        distributed.destroy_process_group()


def _encode(flags: EncodeFlags, *, is_printing: bool) -> None:
    from text.retrieval import Embedder, encode_collection, mean_cosine
    from text.retrieval.counts import describe_truncated, log_unusual_passages
    from text.retrieval.devices import describe_precision, get_default_device
    from text.retrieval.encoding_folder import find_precision
    from text.retrieval.question_collection import open_texts

    embedder = Embedder.from_pretrained(
        flags.model,
        "passage" if flags.questions is None else "question",
        max_length=flags.passage_max_length,
        titles=flags.titles,
        precision=flags.encoder_precision or find_precision(flags.output_dir, flags.reuse, overwrite=flags.overwrite),
        device="cpu" if flags.gpus == 0 else flags.device or get_default_device(),
    )
    if is_printing and flags.encoder_precision is None:
        for line in describe_precision(embedder.settings["precision"], str(embedder.device)):
            print(line)
    collection = open_texts(flags.collection, flags.questions, flags.output_dir, overwrite=flags.overwrite)
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
    print(f"{flags.output_dir}: {plan.num_rows} {plan.side}s, {plan.embedding_dim} dimensions, {plan.dtype}")
    for line in describe_truncated(shards.count_truncated(), plan.num_rows, f"{plan.side}s", plan.settings.max_length):
        print(line)
    log_unusual_passages(collection, print)
    print(f"mean cosine similarity of two {plan.side}s: {cosine:.3f}")
    if cosine > 0.99 and plan.num_rows > 1:
        print(
            f"warning: all {plan.side}s have almost the same embedding; the model may have collapsed", file=sys.stderr
        )
