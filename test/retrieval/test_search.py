"""Exact search compared with plain loops, search with a retriever, and FAISS indexes."""

from __future__ import annotations

import multiprocessing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from test.helpers import law, save_model
from test.retrieval.conftest import write_shards
from text.datasets import PassageCollection
from text.errors import ArtifactError, SettingsWarning
from text.retrieval import (
    Embedder,
    EmbeddingShards,
    Hits,
    Retriever,
    encode_collection,
    open_index,
    search_exact,
)
from text.retrieval.indexes import check_index


@pytest.fixture(params=[False, True], ids=["torch", "faiss"])
def both_backends(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run a test with the matrix products of torch and of FAISS, on any CPU."""
    faiss = pytest.importorskip("faiss") if request.param else None
    monkeypatch.setattr("text.retrieval.candidates._import_faiss", lambda: faiss)


def search_by_loops(embeddings: np.ndarray, ids: list[str], questions: np.ndarray, k: int) -> list[Hits]:
    found = []
    for question in questions.astype(np.float64):
        scores = [float(np.float32(question @ row)) for row in embeddings.astype(np.float64)]
        pairs = sorted(zip(scores, ids, strict=True), reverse=True)[:k]
        found.append(Hits([name for _, name in pairs], [score for score, _ in pairs]))
    return found


@law
@given(st.integers(1, 40), st.integers(1, 45), st.integers(1, 9), st.integers(0, 10**6), st.booleans())
def test_equals_loops(
    tmp_path_factory, both_backends: None, num: int, k: int, block: int, seed: int, ties: bool
) -> None:
    random = np.random.default_rng(seed)
    embeddings = random.integers(-1, 2, (num, 3)) if ties else random.normal(size=(num, 3))
    questions = random.integers(-1, 2, (4, 3)) if ties else random.normal(size=(4, 3))
    embeddings, questions = embeddings.astype(np.float32), questions.astype(np.float32)
    ids = [str(number) for number in random.permutation(num)]
    shards = write_shards(tmp_path_factory.mktemp("e"), embeddings, ids, shard_rows=4 * block, block_rows=block)
    found = search_exact(shards, torch.from_numpy(questions), k)
    assert found == search_by_loops(embeddings, ids, questions, k)


def test_equals_loops_with_column_maxima(tmp_path: Path, both_backends: None) -> None:
    random = np.random.default_rng(0)
    embeddings, questions = random.normal(size=(1605, 4)).astype(np.float32), random.normal(size=(9, 4))
    embeddings[500:600] = embeddings[3]
    shards = write_shards(tmp_path, embeddings, shard_rows=1600, block_rows=800)
    questions = torch.from_numpy(np.concatenate([questions, embeddings[3:4]]).astype(np.float32))
    ids = [f"p{row}" for row in range(1605)]
    assert search_exact(shards, questions, 10) == search_by_loops(embeddings, ids, questions.numpy(), 10)


@pytest.mark.parametrize("block", [3, 17, 1000])
def test_block_and_shard_sizes_do_not_change_the_result(
    tmp_path: Path, both_backends: None, monkeypatch: pytest.MonkeyPatch, block: int
) -> None:
    random = np.random.default_rng(0)
    embeddings = random.normal(size=(300, 24)).astype(np.float32)
    embeddings[40:160] = embeddings[7]  # There are more equal passages than candidates.
    questions = torch.from_numpy(np.concatenate([random.normal(size=(70, 24)), embeddings[7:8]]).astype(np.float32))
    ids = [f"p{row}" for row in range(300)]
    shards = write_shards(tmp_path, embeddings, shard_rows=100, block_rows=50)
    monkeypatch.setattr("text.retrieval.exact.BLOCK", block)
    monkeypatch.setattr("text.retrieval.exact._QUESTIONS", 50)
    found = search_exact(shards, questions, 10)
    assert found == search_by_loops(embeddings, ids, questions.numpy(), 10)
    # The ten highest ids of the 121 equal passages win.
    assert found[-1].passage_ids == sorted(["p7", *ids[40:160]], reverse=True)[:10]


def test_equal_embeddings_rank_by_id(tmp_path: Path, both_backends: None) -> None:
    shards = write_shards(tmp_path, np.ones((50, 2), dtype=np.float32))
    [found] = search_exact(shards, torch.ones(1, 2), 3)
    assert found == Hits(["p9", "p8", "p7"], [2.0, 2.0, 2.0])


def test_k_larger_than_the_collection(tmp_path: Path, both_backends: None) -> None:
    shards = write_shards(tmp_path, np.eye(3, dtype=np.float32))
    [found] = search_exact(shards, torch.tensor([[1.0, 0.5, 2.0]]), 100)
    assert found == Hits(["p2", "p0", "p1"], [2.0, 1.0, 0.5])


def test_invalid_questions_and_k_raise(tmp_path: Path) -> None:
    shards = write_shards(tmp_path, np.eye(3, dtype=np.float32))
    for questions, k, message in (
        (torch.ones(1, 3), 0, "k is 0; expected 1 or more"),
        (torch.ones(0, 3), 1, "there are no questions"),
        (torch.ones(1, 4), 1, "questions have 4 dimensions, but passages have 3"),
        (torch.tensor([[0.0, 0, 0], [1, torch.nan, 1]]), 1, "question 1: the embedding is NaN or infinite"),
    ):
        with pytest.raises(ValueError, match=message):
            search_exact(shards, questions, k)


def test_equals_faiss(tmp_path: Path) -> None:
    faiss = pytest.importorskip("faiss")
    random = np.random.default_rng(1)
    embeddings = random.normal(size=(500, 32)).astype(np.float32)
    questions = random.normal(size=(20, 32)).astype(np.float32)
    index = faiss.IndexFlatIP(32)
    index.add(embeddings)
    _, rows = index.search(questions, 10)
    found = search_exact(
        write_shards(tmp_path, embeddings, shard_rows=64, block_rows=32), torch.from_numpy(questions), 10
    )
    assert [hits.passage_ids for hits in found] == [[f"p{row}" for row in best] for best in rows]


# ---- retriever


def encode(folder: Path, collection: PassageCollection, model: Path) -> Path:
    encode_collection(model, collection, folder, dtype="float32", shard_rows=8, block_rows=4)
    return folder


def test_search_uses_the_question_encoder(tmp_path: Path, collection: PassageCollection, model: Path) -> None:
    retriever = Retriever.from_pretrained(model, encode(tmp_path / "e", collection, model))
    questions = Embedder.from_pretrained(model, "question")(["how tall is the oak"])
    with pytest.warns(SettingsWarning, match="1 of 23 texts"):
        passages = Embedder.from_pretrained(model, "passage")(list(collection))
    expected = (questions @ passages.T)[0].topk(4)
    [found] = retriever.search(["how tall is the oak"], k=4)
    assert found.passage_ids == [f"p{row}" for row in expected.indices.tolist()]
    assert found.scores == pytest.approx(expected.values.tolist(), abs=1e-4)
    with pytest.raises(ValueError, match="question 1 is blank"):
        retriever.search(["oak", " "])


def test_extra_ids_are_appended_with_their_scores(tmp_path: Path, collection: PassageCollection, model: Path) -> None:
    retriever = Retriever.from_pretrained(model, encode(tmp_path / "e", collection, model))
    [everything], [few] = retriever.search(["tall oak"], 23), retriever.search(["tall oak"], 3)
    scores = dict(zip(*everything, strict=True))
    lowest, first = everything.passage_ids[-1], everything.passage_ids[0]
    [found] = retriever.search(["tall oak"], 3, extra_ids=[[lowest, first, "not there", lowest]])
    assert found == Hits([*few.passage_ids, lowest], [*few.scores, scores[lowest]])


def test_embeddings_of_another_model_raise(tmp_path: Path, collection: PassageCollection, model: Path) -> None:
    folder = encode(tmp_path / "e", collection, model)
    with pytest.raises(ArtifactError, match=rf"^{folder}: .*model.safetensors"):
        Retriever.from_pretrained(save_model(tmp_path / "other", seed=1), folder)
    cosine = save_model(tmp_path / "cosine", seed=0, similarity="cosine")
    with pytest.raises(ArtifactError, match=r"config_sentence_transformers.json"):
        Retriever.from_pretrained(cosine, folder)
    embedder = Embedder.from_pretrained(model, "question")
    embedder.similarity = "cosine"
    with pytest.raises(ArtifactError, match=r"for dot similarity, .* cosine"):
        Retriever(EmbeddingShards(folder), embedder)


# ---- FAISS


def make_clusters(num: int = 2000) -> tuple[np.ndarray, torch.Tensor]:
    """Return random embeddings around 40 centers, and questions near some of them."""
    random = np.random.default_rng(2)
    centres = random.normal(size=(40, 16))
    embeddings = (centres[random.integers(40, size=num)] + 0.3 * random.normal(size=(num, 16))).astype(np.float32)
    questions = (embeddings[:30] + 0.1 * random.normal(size=(30, 16))).astype(np.float32)
    return embeddings, torch.from_numpy(questions)


@pytest.mark.parametrize("factory", ["Flat", "HNSW32", "IVF8,Flat", "SQ8", "IVF8,PQ8x4fs"])
def test_faiss_index_finds_passages_with_exact_scores(tmp_path: Path, factory: str) -> None:
    pytest.importorskip("faiss")
    from text.retrieval.faiss_index import FaissIndex

    embeddings, questions = make_clusters()
    shards = write_shards(tmp_path, embeddings, shard_rows=512, block_rows=256)
    built = FaissIndex.build(shards, factory, tmp_path / "index")
    loaded = FaissIndex.load(tmp_path / "index", shards)
    exact = search_exact(shards, questions, 10)
    for index in (built, loaded):
        found = index.search(questions, 10)
        assert found == built.search(questions, 10)
        shared = sum(len(set(a.passage_ids) & set(b.passage_ids)) for a, b in zip(found, exact, strict=True))
        assert shared / (10 * len(questions)) > (0.99 if factory in ("Flat", "SQ8") else 0.6)
        for a, b in zip(found, exact, strict=True):  # The scores equal those of exact search.
            scores = dict(zip(b.passage_ids, b.scores, strict=True))
            assert all(scores.get(name, score) == score for name, score in zip(a.passage_ids, a.scores, strict=True))
            assert a.scores == sorted(a.scores, reverse=True)


def test_an_index_of_other_embeddings_raises(tmp_path: Path) -> None:
    pytest.importorskip("faiss")
    from text.retrieval.faiss_index import FaissIndex

    embeddings, questions = make_clusters(100)
    shards = write_shards(tmp_path / "a", embeddings)
    others = write_shards(tmp_path / "b", embeddings[:50])
    with pytest.raises(ValueError, match=r'^index is "Nonsense"'):
        FaissIndex.build(shards, "Nonsense", tmp_path / "index")
    index = FaissIndex.build(shards, "HNSW8", tmp_path / "index")
    assert len(index.search(questions[:1], 1000)[0].scores) <= 100  # The -1 of FAISS never becomes a passage.
    with pytest.raises(ArtifactError, match=f"^{tmp_path}/index: .* {others.folder}"):
        FaissIndex.load(tmp_path / "index", others)
    with pytest.raises(ArtifactError, match=rf"^{others.folder}: .*\(100, 16\), .*\(50, 16\)"):
        FaissIndex(index.index, others)
    with pytest.raises(FileNotFoundError):
        FaissIndex.load(tmp_path / "nowhere", shards)


@pytest.mark.parametrize(
    "factory",
    ["", "HNSW0", "HNSW1,Flat", "IVF0,Flat", "IVF8_HNSW1,Flat", "PQ4x0", "NSG1", "NSG0", "PQ7", "IVF16", "LSH"],
)
def test_an_invalid_factory_string_raises_before_embeddings_are_read(tmp_path: Path, factory: str) -> None:
    # Some of these factory strings crash or hang FAISS.
    pytest.importorskip("faiss")
    shards = write_shards(tmp_path, np.ones((3, 16), dtype=np.float32))
    (shards.folder / "shard-00000.npy").unlink()
    with pytest.raises(ValueError, match=rf'^index is "{factory}"'):
        check_index(shards.folder, index=factory)


def test_an_index_that_needs_more_embeddings_raises(tmp_path: Path) -> None:
    pytest.importorskip("faiss")
    shards = write_shards(tmp_path, make_clusters(30)[0])
    with pytest.raises(ValueError, match=r'^index is "IVF64,Flat": .* 30 embeddings'):
        open_index(shards, index="IVF64,Flat")
    assert not (shards.folder / "index-IVF64-Flat" / "index.json").exists()


@pytest.mark.parametrize(
    ("factory", "parameters"),
    [
        ("IVF8,Flat", "nprobe=0"),
        ("IVF8,Flat", "nprobe=-1"),
        ("IVF8,Flat", "nprobe=2.5"),
        ("IVF8,Flat", "nprobe=nan"),
        ("IVF8,Flat", "nprobe=1e30"),
        ("IVF8,Flat", "nprobe"),
        ("IVF8,Flat", "nprobe=2,nprobe=4"),
        ("IVF8,Flat", "nprobe=2, quantizer_efSearch=3"),
        ("IVF8,Flat", "efSearch=16"),
        ("IVF8_HNSW8,Flat", "quantizer_efSearch=0"),
        ("HNSW8,Flat", "efSearch=0"),
        ("HNSW8,Flat", "efsearch=16"),
        ("Flat", "nprobe=3"),
        ("SQ8,RFlat", "k_factor_rf=0"),
    ],
)
def test_invalid_parameters_raise(tmp_path: Path, factory: str, parameters: str) -> None:
    pytest.importorskip("faiss")
    shards = write_shards(tmp_path, np.ones((3, 16), dtype=np.float32))
    with pytest.raises(ValueError, match=f'^index_parameters are "{parameters}": ') as error:
        check_index(shards.folder, index=factory, index_parameters=parameters)
    assert "\n" not in str(error.value)


def test_valid_parameters_are_set(tmp_path: Path) -> None:
    pytest.importorskip("faiss")
    embeddings, questions = make_clusters()
    shards = write_shards(tmp_path, embeddings, shard_rows=512, block_rows=256)
    exact = search_exact(shards, questions, 10)
    index = open_index(shards, index="IVF8,Flat", index_parameters="nprobe=8,max_codes=0")
    assert index is not None and index.search(questions, 10) == exact  # all 8 lists are searched
    few = open_index(shards, index="IVF8,Flat", index_parameters="nprobe=1")
    assert few is not None and few.search(questions, 10) != exact


def build_at_once(folder: Path, barrier: Any, results: Any) -> None:
    torch.set_num_threads(1)
    shards = EmbeddingShards(folder)
    barrier.wait()
    index = open_index(shards, index="IVF8,Flat")
    assert index is not None
    results.put([found.passage_ids for found in index.search(make_clusters()[1], 5)])


@pytest.mark.slow
def test_concurrent_processes_build_one_index(tmp_path: Path) -> None:
    pytest.importorskip("faiss")
    shards = write_shards(tmp_path, make_clusters()[0], shard_rows=512, block_rows=256)
    spawn = multiprocessing.get_context("spawn")
    barrier, results = spawn.Barrier(3), spawn.SimpleQueue()
    processes = [spawn.Process(target=build_at_once, args=(shards.folder, barrier, results)) for _ in range(3)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0, 0, 0]
    first, *others = (results.get() for _ in range(3))
    assert others == [first, first]
    assert sorted(path.name for path in (shards.folder / "index-IVF8-Flat").iterdir()) == ["index.faiss", "index.json"]
