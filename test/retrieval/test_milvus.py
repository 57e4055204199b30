"""Milvus Lite finds the same passages as exact search."""

from __future__ import annotations

import threading
from pathlib import Path

import numpy as np
import pytest
import torch

from test.helpers import assert_one_line
from test.retrieval.conftest import write_shards
from text.errors import ArtifactError
from text.retrieval import search_exact

milvus = pytest.importorskip("text.retrieval.milvus", reason="pymilvus is not installed")


def test_equals_the_exact_search(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    shards = write_shards(tmp_path, random.normal(size=(1500, 24)).astype(np.float32), shard_rows=512, block_rows=256)
    questions = torch.from_numpy(random.normal(size=(20, 24)).astype(np.float32))
    expected = search_exact(shards, questions, 10)
    index = milvus.MilvusIndex(shards, tmp_path / "milvus.db")
    for found, exact in zip(index.search(questions, 10), expected, strict=True):
        assert found.passage_ids == exact.passage_ids
        assert found.scores == pytest.approx(exact.scores, rel=1e-5)
    assert len(index.search(questions[:1], 2000)[0].passage_ids) == 1500
    with pytest.raises(ValueError, match=r"k is 20000, .* 16384"):
        index.search(questions, 20000)
    index.close()

    again = milvus.MilvusIndex(shards, tmp_path / "milvus.db")  # The embeddings are already uploaded.
    assert again.search(questions, 10)[0].passage_ids == expected[0].passage_ids
    again.client.delete(again.name, ids=["p3"])  # Simulate an interrupted upload.
    again.close()
    whole = milvus.MilvusIndex(shards, tmp_path / "milvus.db")
    assert len(whole.search(questions[:1], 2000)[0].passage_ids) == 1500
    whole.close()

    others = write_shards(tmp_path / "other", np.ones((3, 2), dtype=np.float32))
    beside = milvus.MilvusIndex(others, tmp_path / "milvus.db")
    assert beside.search(torch.ones(1, 2), 2)[0].scores == [2.0, 2.0]
    beside.close()


def test_an_unreachable_server_raises(tmp_path: Path) -> None:
    shards = write_shards(tmp_path, np.ones((3, 2), dtype=np.float32))
    with pytest.raises(ConnectionError, match=r"^http://localhost:1: "):
        milvus.MilvusIndex(shards, "http://localhost:1")


def test_a_damaged_file_raises(tmp_path: Path) -> None:
    shards = write_shards(tmp_path, np.ones((3, 2), dtype=np.float32))
    milvus.MilvusIndex(shards, tmp_path / "m.db").close()
    [schema] = (tmp_path / "m.db").rglob("schema.json")
    schema.write_bytes(schema.read_bytes()[:-40])
    with pytest.raises(ArtifactError) as error:
        milvus.MilvusIndex(shards, tmp_path / "m.db")
    assert_one_line(error.value, tmp_path / "m.db")


def list_milvus_threads() -> set[threading.Thread]:
    return {thread for thread in threading.enumerate() if "_serve" in thread.name or "milvus" in thread.name}


def test_the_server_of_a_file_stops_with_the_last_index_that_uses_it(tmp_path: Path) -> None:
    shards, questions = write_shards(tmp_path, np.eye(3, dtype=np.float32)), torch.eye(3)
    before = list_milvus_threads()
    first, second = (milvus.MilvusIndex(shards, tmp_path / "m.db") for _ in range(2))
    servers = list_milvus_threads() - before
    first.close()
    first.close()  # A second call does nothing.
    assert second.search(questions, 1)[2].passage_ids == ["p2"]
    second.close()
    for server in servers:
        server.join(timeout=60)  # The server stops a moment after the call.
    assert servers and not any(server.is_alive() for server in servers)
    again = milvus.MilvusIndex(shards, tmp_path / "m.db")
    assert again.search(questions, 1)[0].passage_ids == ["p0"]
    again.close()


def test_invalid_arguments_raise(tmp_path: Path) -> None:
    shards = write_shards(tmp_path, np.ones((3, 2), dtype=np.float32))
    for uri in ("nowhere", "ftp://here", "", str(tmp_path / "no" / "folder" / "m.db")):
        with pytest.raises(ValueError, match=rf'^milvus is "{uri}": '):
            milvus.MilvusIndex(shards, uri)
    with pytest.raises(ValueError, match=r'^index_type is "FOO"'):
        milvus.MilvusIndex(shards, tmp_path / "m.db", index_type="FOO")
    long_ids = write_shards(tmp_path / "long", np.ones((1, 2), dtype=np.float32), ids=["ü" * 300])
    with pytest.raises(ValueError, match=rf"^{long_ids.folder}: .*512 bytes"):
        milvus.MilvusIndex(long_ids, tmp_path / "m.db")


def test_each_index_setting_has_its_own_collection(tmp_path: Path) -> None:
    shards = write_shards(tmp_path, np.ones((3, 2), dtype=np.float32))
    names = set()
    for params in (None, {"M": 8}, {"M": 16}):
        index = milvus.MilvusIndex(shards, tmp_path / "m.db", index_type="HNSW", index_params=params)
        names.add(index.name)
        index.close()
    assert len(names) == 3
