"""Embeddings with one damaged file give an error of the library or the correct result."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch

from test.drills.mutations import make_generators, mutate_bytes, mutate_json
from test.helpers import save_model, texts, write_collection
from text.commands.cli import get_exit_code
from text.datasets import PassageCollection
from text.retrieval import (
    Embedder,
    EmbeddingShards,
    Hits,
    encode_collection,
    encode_shards,
    open_index,
    plan_encoding,
    search_exact,
    start_encoding,
)

pytestmark = pytest.mark.slow

NUM_PASSAGES, COUNT = 60, 1000
OPTIONS: dict[str, Any] = {
    "dtype": "int8",
    "shard_rows": 16,
    "block_rows": 4,
}  # Four shards; the last shard has 12 rows.
QUESTIONS = torch.from_numpy(np.random.default_rng(0).normal(size=(3, 128)).astype(np.float32))


class DrillFiles(NamedTuple):
    collection: PassageCollection
    embedder: Embedder
    finished: Path
    begun: Path
    """Embeddings whose encoding was killed in the last shard."""
    found: list[Hits]


class Killed(Exception):
    pass


class StoppingEmbedder(Embedder):
    """Embedder that stops after a number of pieces."""

    left = 0

    def _embed_rows(self, tokens: Any, rows: list[int], length: int) -> torch.Tensor:
        self.left -= 1
        if self.left == 0:
            raise Killed
        return super()._embed_rows(tokens, rows, length)


@pytest.fixture(scope="module", autouse=True)
def speed_up() -> Iterator[None]:
    """Use one thread, which is faster for a small model, and skip fsync, because no drill cuts the power."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda descriptor: None)
        yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def drill_files(tmp_path_factory: pytest.TempPathFactory) -> DrillFiles:
    folder = tmp_path_factory.mktemp("embeddings")
    model = save_model(folder / "model", seed=0)
    ids = [f"p{n}" for n in range(NUM_PASSAGES)]
    collection = write_collection(folder / "corpus.jsonl", ids, texts(NUM_PASSAGES))
    embedder = Embedder.from_pretrained(model, "passage")
    shards = encode_collection(embedder, collection, folder / "finished", **OPTIONS)
    stops = StoppingEmbedder.from_pretrained(model, "passage")
    assert isinstance(stops, StoppingEmbedder)
    plan, stops.left = plan_encoding(collection, stops, **OPTIONS), 24
    start_encoding(folder / "begun", plan)
    with pytest.raises(Killed):
        encode_shards(folder / "begun", plan, collection, stops, save_seconds=0)
    note = json.loads((folder / "begun" / "shard-00003.progress").read_text())
    assert any(note["blocks"]) and note["begun"]["rows"]
    return DrillFiles(collection, embedder, folder / "finished", folder / "begun", search_exact(shards, QUESTIONS, 10))


def read_files(folder: Path) -> dict[str, bytes]:
    """Return the files of a folder except the plan, whose collection path may differ."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*.*") if path.is_file()} | {
        "plan.json": b""
    }


def copy(source: Path, folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(source, folder)


def mutate_file(path: Path, random: Random) -> str:
    content = path.read_bytes()
    is_json = path.suffix in (".json", ".progress") and random.random() < 0.7
    if is_json:
        changed = json.dumps(mutate_json(json.loads(content), random)).encode("utf-8", "surrogatepass")
    else:
        changed = mutate_bytes(content, random)
    path.write_bytes(changed)
    return f"{path.name}: {content[:300]!r} -> {changed[:300]!r}"


def check_search(drill_files: DrillFiles, folder: Path, what: str) -> None:
    """Check that a search finds the same passages or reports a damaged artifact."""
    try:
        shards = EmbeddingShards(folder)
        found = search_exact(shards, QUESTIONS, 10)
    except Exception as error:
        assert get_exit_code(error) == 5, (what, repr(error))
        assert str(folder) in str(error) and "\n" not in str(error), (what, repr(error))
    else:
        assert found == drill_files.found, what


def check_resume(drill_files: DrillFiles, folder: Path, expected: dict[str, bytes], what: str) -> bool:
    """Check that resumed encoding writes the same bytes or reports damage. Return whether it finished."""
    try:
        encode_collection(drill_files.embedder, drill_files.collection, folder, **OPTIONS)
    except Exception as error:
        assert get_exit_code(error) == 5, (what, repr(error))
        assert str(folder) in str(error) and "\n" not in str(error), (what, repr(error))
        return False
    assert read_files(folder) == expected, what
    return True


def test_mutated_plans_and_manifests(drill_files: DrillFiles, tmp_path: Path) -> None:
    names = ["plan.json", "manifest.json", "shard-00000.json", "shard-00003.json"]
    expected, folder, num_finished = read_files(drill_files.finished), tmp_path / "e", 0
    for number, random in enumerate(make_generators(1, COUNT)):
        copy(drill_files.finished, folder)
        what = f"{number} {mutate_file(folder / random.choice(names), random)}"
        check_search(drill_files, folder, what)
        if random.random() < 0.5:
            (folder / "manifest.json").unlink()
        num_finished += check_resume(drill_files, folder, expected, what)
    assert num_finished > COUNT / 2  # Only a damaged plan is an error.


def test_mutated_shards(drill_files: DrillFiles, tmp_path: Path) -> None:
    expected, folder = read_files(drill_files.finished), tmp_path / "e"
    names = sorted(path.name for path in drill_files.finished.glob("shard-*") if path.suffix != ".json")
    for number, random in enumerate(make_generators(2, COUNT)):
        copy(drill_files.finished, folder)
        name = random.choice(names)
        if random.random() < 0.1:  # Use the file of another shard.
            other = random.choice([each for each in names if each != name])
            shutil.copy(drill_files.finished / other, folder / name)
            what = f"{number} {other} as {name}"
        else:
            what = f"{number} {mutate_file(folder / name, random)}"
        check_search(drill_files, folder, what)
        if random.random() < 0.5:
            (folder / "manifest.json").unlink()
        assert check_resume(drill_files, folder, expected, what), what


def test_mutated_partial_shards_and_progress_files(drill_files: DrillFiles, tmp_path: Path) -> None:
    expected, folder = read_files(drill_files.finished), tmp_path / "e"
    names = sorted(path.name for path in drill_files.begun.glob("*.part")) + ["shard-00003.progress"] * 4
    for number, random in enumerate(make_generators(3, COUNT)):
        copy(drill_files.begun, folder)
        name = random.choice(names)
        if random.random() < 0.1:
            (folder / name).unlink()
            what = f"{number} without {name}"
        else:
            what = f"{number} {mutate_file(folder / name, random)}"
        assert check_resume(drill_files, folder, expected, what), what


def test_mutated_shards_without_a_hash_check(drill_files: DrillFiles, tmp_path: Path) -> None:
    names = sorted(path.name for path in drill_files.finished.glob("shard-*"))
    for number, random in enumerate(make_generators(4, COUNT // 2)):
        copy(drill_files.finished, tmp_path / "e")
        path = tmp_path / "e" / random.choice(names)
        size = path.stat().st_size
        what = f"{number} {mutate_file(path, random)}"
        if path.suffix != ".json":
            os.truncate(path, size)  # A changed size would reveal the damage.
        try:
            shards = EmbeddingShards(path.parent, check_hashes=False)
            search_exact(shards, QUESTIONS, 10)
            assert len(list(shards.iter_passage_ids())) == NUM_PASSAGES
            shards.read_passage_keys()
        except Exception as error:
            assert get_exit_code(error) == 5, (what, repr(error))


def test_mutated_indexes(drill_files: DrillFiles, tmp_path: Path) -> None:
    pytest.importorskip("faiss")
    shards = EmbeddingShards(drill_files.finished)
    index = open_index(shards, index="HNSW4")
    assert index is not None
    expected, inner = index.search(QUESTIONS, 5), drill_files.finished / "index-HNSW4"
    for number, random in enumerate(make_generators(5, COUNT // 2)):
        copy(inner, tmp_path / "before")
        what = f"{number} {mutate_file(inner / random.choice(['index.faiss', 'index.json']), random)}"
        try:
            found = open_index(shards, index="HNSW4")
            assert found is not None and found.search(QUESTIONS, 5) == expected, what
        except Exception as error:
            assert get_exit_code(error) == 5, (what, repr(error))
        copy(tmp_path / "before", inner)
