"""Encodings of ``benchmarks/gpu.py``: this library, transformers and sentence-transformers, on the same texts."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch

from benchmarks.gpu_workload import DEVICE, Side, Workload, count_operations
from text.retrieval import Embedder, encode_collection
from text.transforms import Tokenize, load_tokenizer

BLOCK = 2048
"""Texts that are tokenized together."""


def list_encoding_sides(workload: Workload) -> list[Side]:
    """Return the sides of an encoding. All but the encoding to disk encode the first passages only."""
    sizes = workload.sizes
    passages = workload.passages[: sizes.num_peer_passages]
    tokenize = Tokenize(workload.tokenizer, sizes.max_length)
    lengths = [n for start in range(0, len(passages), BLOCK) for n in tokenize(passages[start : start + BLOCK]).lengths]
    operations = count_operations(sizes.encoder, [int(length) for length in lengths], is_training=False)
    work: Any = {"num_passages": len(passages), "operations": operations, "num_calls": 2}
    share = sizes.num_passages / len(passages)
    disk = work | {"num_passages": sizes.num_passages, "operations": share * operations}
    return [
        Side("dpr-text, to disk", partial(build_encoding_to_disk, workload), seconds=40, **disk),
        Side("dpr-text, forward of tokenized texts", partial(build_forward, workload, passages), **work),
        Side("dpr-text, from texts", partial(build_text_encoding, workload, passages), **work),
        *(
            Side(
                f"sentence-transformers, batches of {size}",
                partial(build_sentence_transformers_encoding, workload, passages, size),
                **work,
            )
            for size in sizes.peer_batches
        ),
        Side("transformers, tokenized and sorted", partial(build_transformers_forward, workload, passages), **work),
    ]


def load_embedder(workload: Workload) -> Embedder:
    """Load this library's encoder in bfloat16."""
    return Embedder.from_pretrained(workload.folder / "model", "passage", device=DEVICE, precision="bfloat16")


def build_encoding_to_disk(workload: Workload) -> Callable[[], object]:
    """Return the encoding of the collection to a folder, with its checks and hashes."""
    embedder, paths = load_embedder(workload), (workload.folder / "corpus.jsonl", workload.folder / "embeddings")
    return lambda: encode_collection(embedder, *paths, overwrite=True)


def build_text_encoding(workload: Workload, passages: list[str]) -> Callable[[], object]:
    """Return the encoding of texts in memory."""
    embedder = load_embedder(workload)
    return lambda: embedder.embed_texts(passages)


def build_forward(workload: Workload, passages: list[str]) -> Callable[[], object]:
    """Return the encoding of texts that are already tokenized."""
    embedder = load_embedder(workload)
    blocks = [embedder.tokenize(passages[start : start + BLOCK]) for start in range(0, len(passages), BLOCK)]
    return lambda: [embedder.embed(block) for block in blocks]


def build_sentence_transformers_encoding(workload: Workload, passages: list[str], size: int) -> Callable[[], object]:
    """Return the encoding by sentence-transformers in bfloat16. It sorts texts by length."""
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer(str(workload.encoder_folder), device=DEVICE).bfloat16().eval()
    return lambda: model.encode(passages, batch_size=size, show_progress_bar=False)


def build_transformers_forward(workload: Workload, passages: list[str], size: int = 256) -> Callable[[], object]:
    """Return the encoding by transformers in bfloat16, of texts that are already tokenized and sorted by length."""
    from transformers import AutoModel

    model = AutoModel.from_pretrained(workload.encoder_folder, attn_implementation="sdpa").to(DEVICE).bfloat16().eval()
    tokenize = Tokenize(load_tokenizer(workload.encoder_folder), workload.sizes.max_length)
    ordered = sorted(passages, key=len, reverse=True)
    batches = [tokenize(ordered[start : start + size]) for start in range(0, len(ordered), size)]

    @torch.inference_mode()
    def run() -> None:
        for batch in batches:
            ids, mask = batch.input_ids.to(DEVICE), batch.attention_mask.long().to(DEVICE)
            model(input_ids=ids, attention_mask=mask).last_hidden_state[:, 0].float().cpu()

    return run
