"""Exact search on a device: blocks that stay there, rounding errors, and settings that allow lower precision."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from test.helpers import assert_one_line
from test.retrieval.conftest import write_shards
from test.retrieval.test_search import search_by_loops
from test.retrieval.test_shards import overwrite
from text.errors import ArtifactError
from text.models.full_float32 import full_float32
from text.retrieval import EmbeddingShards, ExactSearch, MemoryEmbeddings, Retriever, device_blocks, search_exact
from text.retrieval.device_blocks import DeviceBlocks, MemoryBudget
from text.retrieval.exact import _bound_errors

CPU = torch.device("cpu")
DTYPES = ["float32", "float16", "int8"]
EMBEDDINGS = np.random.default_rng(0).normal(size=(37, 6)).astype(np.float32)
QUESTIONS = torch.from_numpy(np.random.default_rng(1).normal(size=(11, 6)).astype(np.float32))


def count_bytes(shards: EmbeddingShards) -> int:
    return sum(array.nbytes for array in (*shards.arrays, *shards.scales) if array is not None)


class CountedReads(MemoryEmbeddings):
    """Embeddings in memory that record the first row of each block that is read."""

    def iter_stored_blocks(self, num_rows: int, start: int = 0) -> Iterator[Any]:
        for block in super().iter_stored_blocks(num_rows, start):
            self.read.append(block.first)
            yield block

    read: list[int]


# ---- blocks that stay on the device


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("share", [0.0, 0.4, 1.0])
def test_kept_and_sent_blocks_give_the_same_result(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dtype: str, share: float
) -> None:
    shards = write_shards(tmp_path, EMBEDDINGS, dtype=dtype, shard_rows=16)
    rows, ids = shards.read_rows(np.arange(37)), list(shards.iter_passage_ids())
    expected = search_by_loops(rows, ids, QUESTIONS.numpy(), 5)
    monkeypatch.setattr("text.retrieval.exact._QUESTIONS", 4)
    for block in (3, 16, 64):
        monkeypatch.setattr("text.retrieval.exact.BLOCK", block)
        search = ExactSearch(shards, "cpu", MemoryBudget(int(share * count_bytes(shards)), questions=0))
        assert [search.search(QUESTIONS, 5) for _ in range(3)] == [expected] * 3


def test_kept_blocks_are_read_once() -> None:
    embeddings = CountedReads([str(row) for row in range(10)], torch.ones(10, 3))
    blocks = DeviceBlocks(embeddings, CPU, 4, MemoryBudget(2 * 4 * 3 * 4, 0))  # 2 blocks of 4 rows of 3 float32
    for expected in ([0, 4, 8], [8], [8]):
        embeddings.read = []
        assert [(first, len(block)) for first, block in blocks] == [(0, 4), (4, 4), (8, 2)]
        assert embeddings.read == expected


def test_only_a_prefix_of_the_collection_is_kept() -> None:
    # The last block would fit into the memory that the second block leaves free.
    embeddings = CountedReads([str(row) for row in range(10)], torch.ones(10, 3))
    blocks = DeviceBlocks(embeddings, CPU, 4, MemoryBudget(7 * 3 * 4, 0))
    embeddings.read = []
    for _ in range(2):
        list(blocks)
    assert embeddings.read == [0, 4, 8, 4, 8]


def test_a_block_is_kept_only_if_memory_stays_free(monkeypatch: pytest.MonkeyPatch) -> None:
    embeddings = MemoryEmbeddings([str(n) for n in range(8)], torch.randn(8, 3))
    free = iter([500, 100, 99])
    monkeypatch.setattr(device_blocks, "_get_free_bytes", lambda device: next(free))
    blocks = DeviceBlocks(embeddings, CPU, 2, MemoryBudget(1 << 20, 0, spare=100))
    assert [first for first, _ in blocks] == [0, 2, 4, 6]
    assert [block.first for block in blocks._kept] == [0, 2]


def test_an_interrupted_pass_keeps_its_blocks() -> None:
    embeddings = CountedReads([str(row) for row in range(10)], torch.ones(10, 3))
    blocks, embeddings.read = DeviceBlocks(embeddings, CPU, 4, MemoryBudget(1 << 20, 0)), []
    next(iter(blocks))
    assert [first for first, _ in blocks] == [0, 4, 8] and embeddings.read == [0, 4, 8]


def test_each_block_is_read_once_for_all_questions(monkeypatch: pytest.MonkeyPatch) -> None:
    embeddings = CountedReads([str(row) for row in range(37)], torch.from_numpy(EMBEDDINGS))
    monkeypatch.setattr("text.retrieval.exact._QUESTIONS", 2)
    monkeypatch.setattr("text.retrieval.exact.BLOCK", 20)
    embeddings.read = []
    search_exact(embeddings, QUESTIONS, 3)
    assert embeddings.read == [0, 20]


@pytest.mark.parametrize("change", [overwrite, lambda path: path.write_bytes(b"")])
@pytest.mark.parametrize("file", ["shard-00001.npy", "shard-00001.ids"])
def test_files_that_change_raise_although_their_blocks_are_kept(
    tmp_path: Path, change: Callable[[Path], object], file: str
) -> None:
    shards = write_shards(tmp_path, EMBEDDINGS, dtype="float16", shard_rows=16)
    search = ExactSearch(shards, "cpu", MemoryBudget(1 << 20, 1 << 20))
    search.search(QUESTIONS, 2)
    change(shards.folder / file)
    with pytest.raises(ArtifactError) as error:
        search.search(QUESTIONS, 2)
    assert_one_line(error.value, shards.folder / file)


def test_a_retriever_keeps_blocks_between_searches(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    retriever = Retriever.from_texts(model, [f"oak number {row}" for row in range(10)])
    embeddings = CountedReads(
        [str(row) for row in range(10)], torch.from_numpy(retriever.shards.read_rows(np.arange(10)))
    )
    expected, retriever = retriever.search(["oak"]), Retriever(embeddings, retriever.embedder)
    monkeypatch.setattr("text.retrieval.exact.measure_memory", lambda device: MemoryBudget(1 << 20, 1 << 20))
    embeddings.read = []
    assert [retriever.search(["oak"]) for _ in range(3)] == [expected] * 3
    assert embeddings.read == [0]


def test_threads_share_kept_blocks() -> None:
    embeddings = MemoryEmbeddings([str(row) for row in range(37)], torch.from_numpy(EMBEDDINGS))
    search = ExactSearch(embeddings, "cpu", MemoryBudget(1 << 20, 1 << 20))
    expected, found = search_exact(embeddings, QUESTIONS, 5), []
    threads = [threading.Thread(target=lambda: found.append(search.search(QUESTIONS, 5))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [expected] * 4


def test_copies_are_at_most_two_blocks_ahead(monkeypatch: pytest.MonkeyPatch) -> None:
    # Streams of a GPU are replaced by an object that counts the blocks whose work has not been waited for.
    embeddings = CountedReads([str(row) for row in range(10)], torch.from_numpy(EMBEDDINGS[:10]))
    waited, yielded = [], []

    def record_event() -> SimpleNamespace:
        number = len(yielded)
        return SimpleNamespace(synchronize=lambda: waited.append(number))

    stream: Any = SimpleNamespace(wait_stream=lambda other: None, record_event=record_event)
    monkeypatch.setattr("torch.cuda.current_stream", lambda device: stream)
    monkeypatch.setattr("torch.cuda.stream", lambda stream: nullcontext())
    monkeypatch.setattr(torch.Tensor, "record_stream", lambda tensor, stream: None)
    blocks, embeddings.read = DeviceBlocks(embeddings, CPU, 2, MemoryBudget(0, 0)), []
    blocks._copies = stream
    for first, block in blocks:
        assert np.array_equal(block.numpy(), EMBEDDINGS[first : first + len(block)])
        yielded.append(first)
        assert len(embeddings.read) - len(waited) <= 2
    assert yielded == [0, 2, 4, 6, 8] and waited == [1, 2, 3, 4]


# ---- rounding errors


@pytest.mark.parametrize("width", [1, 64, 768, 4096])
@pytest.mark.parametrize("kind", ["normal", "lognormal", "constant"])
def test_rounding_errors_stay_within_the_bound(width: int, kind: str) -> None:
    random = np.random.default_rng(0)
    numbers = {
        "normal": random.normal(size=(24, width)),
        "lognormal": random.lognormal(sigma=3, size=(24, width)),
        "constant": np.ones(width) * random.uniform(0.5, 2, (24, 1)),  # All additions round in the same direction.
    }[kind]
    questions = passages = torch.from_numpy(numbers.astype(np.float32))
    exact = questions.double() @ passages.double().T
    bound = torch.stack([_bound_errors(questions, float(passage.norm())) for passage in passages], dim=1)
    in_order = torch.from_numpy(np.cumsum((questions[:, None] * passages).numpy(), axis=2)[:, :, -1])
    for product in (questions @ passages.T, in_order):
        assert (product - exact).abs().sub(bound).max() <= 0


@pytest.mark.parametrize("k", [1, 7, 25])
@pytest.mark.parametrize("difference", [1e-8, 1e-7, 1e-6, 1e-5])
def test_any_rounding_within_the_bound_gives_the_same_result(
    monkeypatch: pytest.MonkeyPatch, k: int, difference: float
) -> None:
    # Passages differ by less than the rounding errors, so candidates are nearly random.
    random = np.random.default_rng(0)
    passages = (random.normal(size=8) + difference * random.normal(size=(60, 8))).astype(np.float32)
    questions = random.normal(size=(8, 8)).astype(np.float32)
    largest_norm = float(np.linalg.norm(passages.astype(np.float64), axis=1).max())

    def multiply_badly(questions: Tensor, passages: Tensor) -> Tensor:
        exact = questions.double() @ passages.double().T
        errors = 7 * 2**-24 * largest_norm * questions.double().norm(dim=1, keepdim=True)
        return (exact + errors * torch.from_numpy(random.uniform(-1, 1, exact.shape))).float()

    ids = [str(number) for number in random.permutation(60)]
    monkeypatch.setattr("text.retrieval.candidates._import_faiss", lambda: None)
    monkeypatch.setattr("text.retrieval.candidates.multiply", multiply_badly)
    monkeypatch.setattr("text.retrieval.exact.multiply", multiply_badly)
    monkeypatch.setattr("text.retrieval.exact.BLOCK", 25)
    found = search_exact(MemoryEmbeddings(ids, torch.from_numpy(passages)), torch.from_numpy(questions), k)
    assert found == search_by_loops(passages, ids, questions, k)


# ---- settings that allow lower precision


@pytest.fixture(params=["high", "medium"])
def lower_precision(request: pytest.FixtureRequest) -> Iterator[str]:
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision(request.param)
    yield request.param
    torch.set_float32_matmul_precision(before)


@pytest.mark.filterwarnings("error")
def test_full_float32_restores_the_settings(lower_precision: str) -> None:
    with full_float32("cpu"), full_float32("cpu"):
        inside = get_precisions()
    assert inside in (["ieee", "ieee"], ["highest"])
    assert torch.get_float32_matmul_precision() == lower_precision
    assert torch.backends.cuda.matmul.allow_tf32


def get_precisions() -> list[str]:
    libraries: list[Any] = [torch.backends.cuda.matmul, getattr(torch.backends.mkldnn, "matmul", None)]
    if hasattr(libraries[1], "fp32_precision"):
        return [library.fp32_precision for library in libraries]
    return [torch.get_float32_matmul_precision()]


def test_search_is_exact_if_the_process_allows_lower_precision(lower_precision: str) -> None:
    # On a CPU with AVX-512, "medium" computes products in bfloat16. Passages differ by less than its errors.
    random = np.random.default_rng(0)
    passages = (random.normal(size=64) + 1e-3 * random.normal(size=(3000, 64))).astype(np.float32)
    questions, ids = random.normal(size=(40, 64)).astype(np.float32), [str(row) for row in range(3000)]
    with torch.autocast("cpu", torch.bfloat16):
        found = search_exact(MemoryEmbeddings(ids, torch.from_numpy(passages)), torch.from_numpy(questions), 10)
    scores = questions.astype(np.float64) @ passages.astype(np.float64).T
    best = np.argsort(-scores, axis=1)[:, :10]
    assert [hits.passage_ids for hits in found] == [[str(row) for row in rows] for rows in best]
