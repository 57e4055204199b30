"""Batches of an encoding: their size on a GPU, and the threads that tokenize, embed and write."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from test.retrieval.conftest import FixedEmbedder, write_shards
from test.retrieval.test_encoding import read_files
from text.datasets import PassageCollection
from text.retrieval import Embedder, encode_collection, encode_shards, plan_encoding, start_encoding
from text.retrieval.embedder import EmbeddedBatch
from text.retrieval.part_files import PartFile
from text.retrieval.plan import EncodedFile, EncoderSettings, Plan, read_plan, write_plan
from text.retrieval.shard_writer import ShardWriter

OPTIONS: dict[str, Any] = {"shard_rows": 16, "block_rows": 8, "dtype": "float32"}  # Three blocks in two shards.


class SmallGPU:
    """A GPU that has memory for a limited number of tokens. It records the tokens of each batch."""

    def __init__(self, embedder: Embedder, monkeypatch: pytest.MonkeyPatch, limit: int) -> None:
        self.limit, self.num_batches, self.sizes = limit, 1000, list[int]()
        self.forward = embedder.encoder.forward
        monkeypatch.setattr(Embedder, "_is_on_cpu", False)
        monkeypatch.setattr(embedder.encoder, "forward", self)

    def __call__(self, input_ids: torch.Tensor, *others: Any, **options: Any) -> torch.Tensor:
        if input_ids.numel() > self.limit or len(self.sizes) >= self.num_batches:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory")
        self.sizes.append(input_ids.numel())
        return self.forward(input_ids, *others, **options)


def load(model: Path) -> Embedder:
    embedder = Embedder.from_pretrained(model, "passage")
    embedder.max_tokens = 1 << 11
    return embedder


def test_batches_shrink_when_gpu_memory_is_full(
    collection: PassageCollection, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    embedder = load(model)
    expected, _ = embedder.embed_list(list(collection))
    gpu = SmallGPU(embedder, monkeypatch, limit=64)
    assert torch.allclose(embedder.embed_list(list(collection))[0], expected, atol=1e-6)
    assert embedder.max_tokens == 64 >= max(gpu.sizes)
    gpu.limit = 0
    with pytest.raises(torch.cuda.OutOfMemoryError):  # Not even one text fits.
        embedder.embed_list(list(collection))


def test_no_texts_give_no_embeddings(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    embedder = load(model)
    SmallGPU(embedder, monkeypatch, limit=0)
    assert embedder([]).shape == (0, embedder.encoder.embedding_dim)


def test_batches_on_a_gpu_are_limited_by_tokens_alone(
    collection: PassageCollection, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    embedder = load(model)
    gpu = SmallGPU(embedder, monkeypatch, limit=1 << 30)
    embedder.embed_list(list(collection))
    assert len(gpu.sizes) == 1


def test_the_size_of_batches_is_chosen_before_the_first_block(
    collection: PassageCollection, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    embedder = load(model)
    gpu = SmallGPU(embedder, monkeypatch, limit=70)
    assert plan_encoding(collection, embedder, **OPTIONS).max_tokens == 64
    assert gpu.sizes == [64]  # Two texts of 32 tokens, the maximum length.
    shards = encode_collection(embedder, collection, tmp_path / "e", **OPTIONS)
    assert shards.plan.max_tokens == 64 and embedder.max_tokens == 1 << 11
    gpu.limit = 31
    with pytest.raises(MemoryError, match=r"^cpu has too little free memory .* 32 tokens"):
        encode_collection(embedder, collection, tmp_path / "other", **OPTIONS)
    assert not (tmp_path / "other").exists()


def test_an_encoding_that_runs_out_of_memory_continues_with_the_same_batches(
    collection: PassageCollection, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    embedder = load(model)
    gpu = SmallGPU(embedder, monkeypatch, limit=70)
    encode_collection(embedder, collection, tmp_path / "one", **OPTIONS)
    expected, gpu.sizes = gpu.sizes[1:], []
    gpu.num_batches = 4
    with pytest.raises(MemoryError, match=r"^cpu ran out of memory .* 64 tokens.* to continue"):
        encode_collection(embedder, collection, tmp_path / "e", **OPTIONS)
    first = gpu.sizes[1:]
    gpu.limit, gpu.num_batches, gpu.sizes = 1 << 30, 1000, []
    assert encode_collection(embedder, collection, tmp_path / "e", **OPTIONS).plan.max_tokens == 64
    assert gpu.sizes[0] == 1 << 11  # The new plan asks for more, but the encoding keeps its number.
    assert max(gpu.sizes[1:]) <= 64 and first == expected[: len(first)]
    assert read_files(tmp_path / "e") == read_files(tmp_path / "one")


def test_plans_of_earlier_versions_keep_their_keys(tmp_path: Path) -> None:
    collection = EncodedFile("c.jsonl", "00", 20)
    plan = Plan({"a": "b"}, EncoderSettings("dot", 32), collection, 20, 4, "float16", shard_rows=10, block_rows=5)
    assert plan.key == "83e8107406e633d621b1c4a71c49c871fc46a6318ba06a974a1ce4337c800b6b"
    write_plan(tmp_path, plan)
    assert "max_tokens" not in (tmp_path / "plan.json").read_text() and read_plan(tmp_path) == plan
    on_gpu = plan._replace(max_tokens=64)
    write_plan(tmp_path, on_gpu)
    assert read_plan(tmp_path) == on_gpu and on_gpu.key != plan.key


# ---- threads


class LateCopy:
    """The event of a copy that ends when somebody waits for it. Until then the embeddings are NaN."""

    def __init__(self, target: torch.Tensor, embeddings: torch.Tensor) -> None:
        self.target, self.embeddings = target, embeddings

    def synchronize(self) -> None:
        self.target.copy_(self.embeddings)


class LateEmbedder(FixedEmbedder):
    """An embedder like one on a GPU, whose results arrive later. It records the first row of each block."""

    def __init__(self, embeddings: np.ndarray) -> None:
        super().__init__(embeddings)
        self.blocks = list[int]()

    def embed_in_batches(self, tokens: Any, start: int = 0, **options: Any) -> Iterator[EmbeddedBatch]:
        self.blocks.append(int(tokens.input_ids[0]))
        for rows, embeddings, _ in super().embed_in_batches(tokens, start):
            target = torch.full_like(embeddings, torch.nan)
            yield EmbeddedBatch(rows, target, LateCopy(target, embeddings))  # pyright: ignore[reportArgumentType]


@pytest.fixture
def count_threads() -> Callable[[], int]:
    """Return a function that counts the threads that were started in this test."""
    others = set(threading.enumerate())
    return lambda: len(set(threading.enumerate()) - others)


ROWS = np.random.default_rng(0).normal(size=(40, 5)).astype(np.float32)


def start(folder: Path, embedder: Embedder) -> tuple[Plan, PassageCollection]:
    """Write a collection, and start to encode it in one shard of ten blocks."""
    write_shards(folder, ROWS)
    passages = PassageCollection(folder / "corpus.jsonl")
    plan = plan_encoding(passages, embedder, dtype="float32", shard_rows=40, block_rows=4)
    return start_encoding(folder / "e", plan), passages


def test_embeddings_are_read_after_their_copy(tmp_path: Path, count_threads: Callable[[], int]) -> None:
    embedder = LateEmbedder(ROWS)
    plan, passages = start(tmp_path, embedder)
    encode_shards(tmp_path / "e", plan, passages, embedder)
    numbers = np.load(tmp_path / "e" / "shard-00000.npy")
    assert np.array_equal(numbers, ROWS)
    assert np.array_equal(embedder.embed(embedder.tokenize(list(passages))).numpy(), ROWS)
    assert count_threads() == 0


def test_later_blocks_are_embedded_while_earlier_ones_are_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    embedder, write_piece, are_ahead = LateEmbedder(ROWS), ShardWriter._write_piece, threading.Event()
    plan, passages = start(tmp_path, embedder)
    embed = LateEmbedder.embed_in_batches

    def embed_and_tell(self: LateEmbedder, *arguments: Any, **options: Any) -> Iterator[EmbeddedBatch]:
        if len(self.blocks) == 1:  # This is the second block.
            are_ahead.set()
        return embed(self, *arguments, **options)

    def write_late(*arguments: Any) -> None:
        assert are_ahead.wait(timeout=60)
        write_piece(*arguments)

    monkeypatch.setattr(LateEmbedder, "embed_in_batches", embed_and_tell)
    monkeypatch.setattr(ShardWriter, "_write_piece", write_late)
    encode_shards(tmp_path / "e", plan, passages, embedder)
    assert embedder.blocks == list(range(0, 40, 4))


def fail_to_write(*arguments: Any) -> None:
    raise OSError(28, "No space left on device")


def fail_to_tokenize(*arguments: Any) -> None:
    raise ValueError("a lone surrogate")


@pytest.mark.parametrize(
    ("owner", "name", "function", "error"),
    [(PartFile, "write", fail_to_write, OSError), (LateEmbedder, "tokenize", fail_to_tokenize, ValueError)],
)
def test_no_thread_is_left_after_an_error(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    count_threads: Callable[[], int],
    owner: type,
    name: str,
    function: Any,
    error: type[Exception],
) -> None:
    embedder = LateEmbedder(ROWS)
    plan, passages = start(tmp_path, embedder)
    monkeypatch.setattr(owner, name, function)
    with pytest.raises(error) as raised:
        encode_shards(tmp_path / "e", plan, passages, embedder)
    assert count_threads() == 0 and raised.value is not None
