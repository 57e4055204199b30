"""The files of a FAISS index: size and hash are checked at the start, and changes are noticed during use."""

from __future__ import annotations

import json
import os
import resource
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from test.helpers import assert_one_line
from test.retrieval.conftest import run_forked, write_shards
from text.errors import ArtifactError
from text.retrieval import EmbeddingShards, open_index, search_exact

pytest.importorskip("faiss")

ROWS = np.random.default_rng(0).normal(size=(300, 16)).astype(np.float32)
QUESTIONS = torch.from_numpy(ROWS[:5])


@pytest.fixture
def shards(tmp_path: Path) -> EmbeddingShards:
    """Write embeddings and build an index."""
    shards = write_shards(tmp_path, ROWS, shard_rows=128, block_rows=64)
    assert open_index(shards, index="IVF4,Flat", index_parameters="nprobe=4") is not None
    return shards


def get_index_folder(shards: EmbeddingShards) -> Path:
    return shards.folder / "index-IVF4-Flat"


def test_an_index_has_exactly_two_files(shards: EmbeddingShards) -> None:
    assert sorted(os.listdir(get_index_folder(shards))) == ["index.faiss", "index.json"]
    assert not [name for name in os.listdir(shards.folder) if name.startswith(".")]
    note = json.loads((get_index_folder(shards) / "index.json").read_text())
    assert note["file"]["bytes"] == (get_index_folder(shards) / "index.faiss").stat().st_size
    assert (note["factory"], note["plan"]) == ("IVF4,Flat", shards.plan.key)


def change_note(**changes: Any) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        path = folder / "index.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | changes))

    return damage


def flip_bit(folder: Path) -> None:
    content = bytearray((folder / "index.faiss").read_bytes())
    content[-20] ^= 1
    (folder / "index.faiss").write_bytes(content)


@pytest.mark.parametrize(
    ("damage", "name"),
    [
        (lambda folder: os.truncate(folder / "index.faiss", 100), "/index.faiss"),
        (lambda folder: os.truncate(folder / "index.faiss", 0), "/index.faiss"),
        (lambda folder: (folder / "index.faiss").unlink(), "/index.faiss"),
        (flip_bit, "/index.faiss"),
        (lambda folder: (folder / "index.json").write_text("{}"), "/index.json"),
        (lambda folder: (folder / "index.json").write_text('{"factory'), "/index.json"),
        (change_note(file=None), "/index.json"),
        (change_note(plan="of another"), ""),
        (change_note(factory="HNSW8"), "/index.json"),
    ],
)
def test_a_damaged_index_raises(shards: EmbeddingShards, damage: Callable[[Path], object], name: str) -> None:
    damage(get_index_folder(shards))
    with pytest.raises(ArtifactError) as error:
        open_index(shards, index="IVF4,Flat")
    assert_one_line(error.value, f"{get_index_folder(shards)}{name}")


def test_a_file_that_faiss_cannot_read_raises_with_its_path(shards: EmbeddingShards) -> None:
    from text.artifacts import read_facts

    path = get_index_folder(shards) / "index.faiss"
    path.write_bytes(b"x" * 1000)
    change_note(file=read_facts(path)._asdict())(path.parent)
    with pytest.raises(ArtifactError) as error:
        open_index(shards, index="IVF4,Flat")
    assert_one_line(error.value, path)


def test_an_index_file_that_changes_during_use_raises(shards: EmbeddingShards) -> None:
    index = open_index(shards, index="IVF4,Flat", index_parameters="nprobe=4")
    assert index is not None and index.search(QUESTIONS, 3) == search_exact(shards, QUESTIONS, 3)
    os.truncate(get_index_folder(shards) / "index.faiss", 1)
    with pytest.raises(ArtifactError) as error:
        index.search(QUESTIONS, 3)
    assert_one_line(error.value, get_index_folder(shards) / "index.faiss")


def test_no_thread_reads_the_index_after_a_search(tmp_path: Path) -> None:
    shards = write_shards(tmp_path, np.tile(ROWS, (10, 1)), shard_rows=1024, block_rows=1024)
    assert open_index(shards, index="IVF64,Flat") is not None
    [path] = shards.folder.glob("index-*/index.faiss")
    content = path.read_bytes()

    def search_then_cut() -> None:
        index = open_index(shards, index="IVF64,Flat", index_parameters="nprobe=64")
        assert index is not None
        index.search(QUESTIONS, 3)
        os.truncate(path, 1)
        del index  # FAISS waits for its threads here.

    for _ in range(10):  # With prefetch threads, about half of the processes die of a bus error.
        assert run_forked(search_then_cut) == 0
        path.write_bytes(content)


def test_a_full_disk_leaves_no_index(shards: EmbeddingShards) -> None:
    def build_without_space() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (4000, 4000))
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        try:
            open_index(shards, index="SQ8")
        except OSError as error:
            assert error.filename == str(shards.folder / "index-SQ8" / "index.faiss")
            raise

    assert run_forked(build_without_space) == 4
    assert not (shards.folder / "index-SQ8").exists()
