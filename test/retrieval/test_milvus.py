"""Milvus, embedded: the same as the exact search."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from test.retrieval.conftest import write_shards
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
    assert len(index.search(questions[:1], 2000)[0].passage_ids) == 1500  # c9
    with pytest.raises(ValueError, match="k is 20000; expected 16384 or less"):
        index.search(questions, 20000)
    index.close()

    again = milvus.MilvusIndex(shards, tmp_path / "milvus.db")  # is there
    assert again.search(questions, 10)[0].passage_ids == expected[0].passage_ids
    again.client.delete(again.name, ids=["p3"])  # as if its upload had broken off
    again.close()
    whole = milvus.MilvusIndex(shards, tmp_path / "milvus.db")
    assert len(whole.search(questions[:1], 2000)[0].passage_ids) == 1500
    whole.close()

    others = write_shards(tmp_path / "other", np.ones((3, 2), dtype=np.float32))
    beside = milvus.MilvusIndex(others, tmp_path / "milvus.db")
    assert beside.search(torch.ones(1, 2), 2)[0].scores == [2.0, 2.0]
    beside.close()


def test_nobody_there(tmp_path: Path) -> None:
    shards = write_shards(tmp_path, np.ones((3, 2), dtype=np.float32))
    with pytest.raises(ConnectionError, match=r"http://localhost:1: .*; expected Milvus there"):
        milvus.MilvusIndex(shards, "http://localhost:1")
