"""A BM25 index on disk, compared with the formula by hand and with the index in memory."""

from __future__ import annotations

import json
import math
import shutil
import sys
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from io import StringIO
from pathlib import Path
from threading import Event
from typing import Any

import numpy as np
import pytest

from test.helpers import write_collection
from test.retrieval.test_bm25 import NOUNS
from text.commands.cli import get_exit_code
from text.datasets import PassageCollection
from text.errors import ArtifactError, DataError
from text.retrieval import bm25_building, bm25_folder
from text.retrieval.bm25 import BM25
from text.retrieval.bm25_building import build_bm25
from text.retrieval.bm25_shards import BM25Shards

TITLES = ["", "The Oak", "Elm"]


@pytest.fixture
def collection(tmp_path: Path) -> PassageCollection:
    """Return 50 passages, many of which are equal, so that scores tie. One has no words."""
    random = np.random.default_rng(0)
    texts = [" ".join(random.choice(NOUNS[:6], size=size)) for size in random.integers(1, 5, size=47)]
    texts += ["the oaks of 北京是中国的首都 café", "...", "oak"]
    path = tmp_path / "c.jsonl"
    rows = [{"_id": f"p{n * 7 % 50}", "title": TITLES[n % 3], "text": text} for n, text in enumerate(texts)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return PassageCollection(path)


def list_questions(num: int = 30) -> list[str]:
    random = np.random.default_rng(1)
    drawn = [" ".join(random.choice(NOUNS[:8], size=size)) for size in random.integers(1, 6, size=num)]
    return [*drawn, "oak oak elm", "Oaks", "the", "cypress", "", "中国的首都", "cafe\u0301"]


def build(collection: PassageCollection, folder: Path, **options: Any) -> BM25Shards:
    build_bm25(collection, folder, **options)
    return BM25Shards(folder, collection)


def test_scores_by_hand(tmp_path: Path) -> None:
    # Both passages have 2 words, so length does not matter. "oak" is in one of two passages, twice.
    passages = write_collection(tmp_path / "c.jsonl", ["a", "b"], ["oak oak", "elm fig"])
    [found] = build(passages, tmp_path / "index", k1=1.0, b=0.5, shard_rows=1).search(["oak"])
    assert found.passage_ids == ["a"]
    assert found.scores == pytest.approx([math.log(1 + 1.5 / 1.5) * 2 / (1 + 2)], rel=1e-6)


@pytest.mark.parametrize("shard_rows", [1, 7, 50, 1000])
def test_any_number_of_shards_gives_the_results_of_the_index_in_memory(
    collection: PassageCollection, tmp_path: Path, shard_rows: int
) -> None:
    ours, whole = build(collection, tmp_path / "index", shard_rows=shard_rows), BM25(collection)
    for k in (1, 5, 100):
        for found, expected in zip(ours.search(list_questions(), k), whole.search(list_questions(), k), strict=True):
            assert found.passage_ids == expected.passage_ids
            # NumPy 1 computes a part of the scores in float32.
            limit = 2 if np.__version__ < "2" else 0
            np.testing.assert_array_max_ulp(np.array(found.scores, "f4"), np.array(expected.scores, "f4"), maxulp=limit)


def test_scores_do_not_depend_on_the_shards(collection: PassageCollection, tmp_path: Path) -> None:
    indexes = [build(collection, tmp_path / f"{rows}", k1=1.2, b=0.75, shard_rows=rows) for rows in (3, 50)]
    few, one = (each.search(list_questions(), 4, extra_ids=[["p3", "p8", "other"]] * 37) for each in indexes)
    assert few == one
    assert any(len(each.passage_ids) > 4 for each in few)


def test_extra_ids_and_pairs_equal_the_index_in_memory(collection: PassageCollection, tmp_path: Path) -> None:
    ours, whole = build(collection, tmp_path / "index", shard_rows=8), BM25(collection)
    questions, extra = list_questions(), [["p1", "p30", "other"]] * len(list_questions())
    for found, expected in zip(ours.search(questions, 2, extra), whole.search(questions, 2, extra), strict=True):
        assert found.passage_ids == expected.passage_ids and found.scores == pytest.approx(expected.scores, rel=1e-6)
    asked, ids = ["oak elm", "elm", "oak elm", "the"], ["p1", "p2", "p49", "p3"]
    np.testing.assert_allclose(ours.score_pairs(asked, ids), whole.score_pairs(asked, ids), rtol=1e-6)
    with pytest.raises(KeyError):
        ours.score_pairs(["oak"], ["other"])


def fail_after(num_calls: int, function: Callable[..., None]) -> Callable[..., None]:
    """Return a function that fails after a number of calls, as on a full disk."""
    left = iter(range(num_calls))

    def call(*arguments: object) -> None:
        if next(left, None) is None:
            raise OSError("disk")
        function(*arguments)

    return call


def test_an_interrupted_build_continues_to_the_same_files(
    collection: PassageCollection, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    build(collection, tmp_path / "whole", shard_rows=8)
    folder = tmp_path / "index"
    for stop, num_calls in (("_write_ids", 3), ("_score_shards", 0)):  # in the middle of shard 3, and after all shards
        with monkeypatch.context() as patch:
            patch.setattr(bm25_building, stop, fail_after(num_calls, getattr(bm25_building, stop)))
            with pytest.raises(OSError, match="disk"):
                build_bm25(collection, folder, shard_rows=8)
        with pytest.raises(ArtifactError, match="not finished"):
            BM25Shards(folder, collection)
    build_bm25(collection, folder, shard_rows=1000)  # The index keeps its 8 rows per shard.
    names = sorted(path.name for path in (tmp_path / "whole").iterdir())
    assert names == sorted(path.name for path in folder.iterdir()) and not any("counts" in name for name in names)
    assert all((folder / name).read_bytes() == (tmp_path / "whole" / name).read_bytes() for name in names)


def test_a_second_process_waits_and_uses_the_index(
    collection: PassageCollection,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    expected = build(collection, tmp_path / "other").search(["oak"])
    folder, scored = tmp_path / "index", list[Path]()
    score_shards, waits = bm25_building._score_shards, Event()

    class Notices(StringIO):
        def write(self, text: str) -> int:
            if "waiting" in text:
                waits.set()
            return super().write(text)

    def start_second(path: Path, *arguments: Any) -> None:
        scored.append(path)
        others.append(pool.submit(build_bm25, collection, folder))
        assert waits.wait(60)
        assert not others[-1].done()
        score_shards(path, *arguments)

    others = list[Future[None]]()
    monkeypatch.setattr(bm25_building, "_score_shards", start_second)
    monkeypatch.setattr(sys, "stderr", Notices())
    with ThreadPoolExecutor(1) as pool:
        build_bm25(collection, folder, shard_rows=8)
        assert others.pop().result() is None
    assert scored == [folder]
    assert BM25Shards(folder, collection).search(["oak"]) == expected


def test_a_finished_index_may_be_read_by_many_and_from_a_read_only_folder(
    collection: PassageCollection, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "index"
    build(collection, folder)

    def refuse(*arguments: object, **options: object) -> None:
        raise AssertionError(f"writes {arguments}")

    for module, name in ((bm25_building, "wait_for_lock"), (bm25_folder, "write_json"), (Path, "unlink")):
        monkeypatch.setattr(module, name, refuse)
    build_bm25(collection, folder)


def test_a_finished_index_is_not_built_again(collection: PassageCollection, tmp_path: Path) -> None:
    build(collection, tmp_path / "index", shard_rows=8)
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "index").iterdir()}
    build(collection, tmp_path / "index")
    assert before == {path: path.stat().st_mtime_ns for path in (tmp_path / "index").iterdir()}


def test_an_index_of_other_passages_or_parameters_is_refused(collection: PassageCollection, tmp_path: Path) -> None:
    folder = tmp_path / "index"
    build(collection, folder)
    other = write_collection(tmp_path / "other.jsonl", ["a"], ["oak"])
    cases: list[tuple[PassageCollection, dict[str, Any]]] = [
        (other, {}),
        (collection, {"k1": 2.0}),
        (collection, {"b": 0.1}),
    ]
    for passages, options in cases:
        with pytest.raises(ArtifactError) as caught:
            build_bm25(passages, folder, **options)
        assert str(folder) in str(caught.value) and get_exit_code(caught.value) == 5
    with pytest.raises(ArtifactError, match="another collection"):
        BM25Shards(folder, other)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "model.txt").write_text("mine")
    with pytest.raises(FileExistsError):
        build_bm25(collection, tmp_path / "full")
    assert [path.name for path in (tmp_path / "full").iterdir()] == ["model.txt"]


@pytest.mark.parametrize("suffix", [".scores.npy", ".rows.npy", ".ids"])
def test_a_damaged_file_is_found(collection: PassageCollection, tmp_path: Path, suffix: str) -> None:
    build(collection, tmp_path / "index")
    path = tmp_path / "index" / f"shard-00000{suffix}"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(ArtifactError, match=path.name):
        BM25Shards(tmp_path / "index", collection)
    path.write_bytes(content[:-5])
    with pytest.raises(ArtifactError, match=path.name):
        BM25Shards(tmp_path / "index", collection, check_hashes=False)


def test_a_file_that_shrinks_during_use_is_an_error(collection: PassageCollection, tmp_path: Path) -> None:
    index = build(collection, tmp_path / "index")
    path = tmp_path / "index" / "shard-00000.scores.npy"
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(ArtifactError, match=path.name):
        index.search(["oak"])


def test_a_collection_without_words_and_parameters_out_of_range(tmp_path: Path, collection: PassageCollection) -> None:
    path = tmp_path / "empty.jsonl"
    path.write_text('{"_id": "a", "text": "..."}\n')
    with pytest.raises(DataError, match=f"^{path}: no passages with words"):
        build_bm25(PassageCollection(path), tmp_path / "index")
    assert not any((tmp_path / "index").iterdir())
    wrong: list[dict[str, Any]] = [{"k1": -1.0}, {"b": math.nan}, {"shard_rows": 0}]
    for options in wrong:
        with pytest.raises(ValueError, match=next(iter(options))):
            build_bm25(collection, tmp_path / "other", **options)
    assert not (tmp_path / "other").exists()


def test_the_folder_may_move(collection: PassageCollection, tmp_path: Path) -> None:
    expected = build(collection, tmp_path / "index").search(["oak"])
    shutil.move(tmp_path / "index", tmp_path / "moved")
    assert BM25Shards(tmp_path / "moved", collection).search(["oak"]) == expected
