"""Retrievers from folders and from texts in memory, and runs of questions."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from test.helpers import save_model, texts
from text.datasets import PassageCollection, Question
from text.errors import ArtifactError, DataError, SettingsWarning
from text.records import Passage
from text.retrieval import (
    Embedder,
    Hits,
    MemoryEmbeddings,
    Retriever,
    encode_collection,
    load_retriever,
    open_collection,
    open_index,
    search_questions,
)


def test_load_retriever_equals_from_pretrained(tmp_path: Path, collection: PassageCollection, model: Path) -> None:
    shards = encode_collection(model, collection, tmp_path / "e")
    expected = Retriever.from_pretrained(model, tmp_path / "e").search(texts(9)[6:], 3)
    assert load_retriever(model, tmp_path / "e", device="cpu").search(texts(9)[6:], 3) == expected
    assert list(open_collection(shards)) == list(collection)
    pytest.importorskip("faiss")
    for _ in range(2):  # The first call builds the index, and the second loads it.
        retriever = load_retriever(model, tmp_path / "e", index="Flat", check_hashes=False)
        assert retriever.search(texts(9)[6:], 3) == expected and retriever.index is not None
    with pytest.raises(ArtifactError, match=f"^{tmp_path}/e: .*model.safetensors"):
        load_retriever(save_model(tmp_path / "other", seed=1), tmp_path / "e")
    with pytest.raises(ValueError, match=r"^index is Flat and milvus is m.db"):
        open_index(shards, index="Flat", milvus="m.db")


def test_scores_in_memory_equal_the_scores_on_disk(tmp_path: Path, collection: PassageCollection, model: Path) -> None:
    encode_collection(model, collection, tmp_path / "e", dtype="float32")
    questions, passages = texts(9)[4:], list(collection)
    expected = Retriever.from_pretrained(model, tmp_path / "e").search(questions, 7)
    extra_ids = [[passages[0].passage_id]] * len(questions)
    with pytest.warns(SettingsWarning, match=r"^1 of 23 texts are longer than 32 tokens"):
        retriever = Retriever.from_texts(model, passages)
    assert retriever.search(questions, 7) == expected  # Ids and scores are equal to the last bit.
    assert retriever.search(questions, 2, extra_ids=extra_ids) == Retriever.from_pretrained(
        model, tmp_path / "e"
    ).search(questions, 2, extra_ids=extra_ids)


def test_texts_without_ids_get_their_positions_as_ids(model: Path) -> None:
    contents = texts(9)[:5]
    found = Retriever.from_texts(model, contents).search(["oak"], 9)[0]
    assert sorted(found.passage_ids) == ["0", "1", "2", "3", "4"]
    own = [Passage(name, "", text) for name, text in zip("abcde", contents, strict=True)]
    named = Retriever.from_texts(model, own).search(["oak"], 9)[0]
    assert named == Hits(["abcde"[int(name)] for name in found.passage_ids], found.scores)


def test_texts_can_be_any_ordered_iterable(model: Path) -> None:
    contents = texts(9)[:5]
    expected = Retriever.from_texts(model, contents).search(["oak", "elm"], 3)
    for same in (tuple(contents), np.array(contents), iter(contents)):
        assert Retriever.from_texts(model, same).search(iter(["oak", "elm"]), 3) == expected


SURROGATE = "oak \ud800"


@pytest.mark.parametrize(
    ("contents", "kind", "part"),
    [
        ([], ValueError, "no texts"),
        (["oak", " "], ValueError, "^text 1 "),
        ([Passage("a", "", "oak"), Passage("a", "", "elm")], ValueError, "^texts 0 and 1 have the id a"),
        ([Passage("", "", "oak"), Passage("0", "", "elm")], ValueError, "^text 1 has the id 0, and text 0 has no id"),
        (["elm", SURROGATE], ValueError, r"^text 1: .*ud800"),
        ([Passage("a", SURROGATE, "elm")], ValueError, r"^title of text 0: .*ud800"),
        ("oak", TypeError, "^texts is a str"),
        ({"p1": "oak"}, TypeError, "^texts is a dict"),
        ({"oak"}, TypeError, "^texts is a set"),
        (Passage("a", "", "oak"), TypeError, "^texts is a Passage"),
        (None, TypeError, "^texts is a NoneType"),
        (["oak", {"text": "elm"}], TypeError, "^text 1 is a dict"),
        ([float("nan")], TypeError, "^text 0 is a float"),
        ([Passage("a", None, "oak")], TypeError, "^title of text 0 is a NoneType"),  # pyright: ignore
    ],
)
def test_invalid_texts_raise(contents, kind: type[Exception], part: str) -> None:
    with pytest.raises(kind, match=part):
        Retriever.from_texts("never read", contents)


@pytest.mark.parametrize(
    ("questions", "k", "part"),
    [
        ("oak", 1, "^questions is a str"),
        ([Passage("a", "", "oak")], 1, "^question 0 is a Passage"),
        (["oak", None], 1, "^question 1 is a NoneType"),
        (["oak"], 2.5, "^k is 2.5"),
    ],
)
def test_invalid_questions_and_k_raise(model: Path, questions, k, part: str) -> None:
    retriever = Retriever.from_texts(model, ["oak"])
    with pytest.raises(TypeError, match=part):
        retriever.search(questions, k)


def test_error_of_a_model_name_says_how_to_download_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    command = "hf download sentence-transformers/all-MiniLM-L6-v2 --local-dir all-MiniLM-L6-v2"
    with pytest.raises(FileNotFoundError, match=f"^all-MiniLM-L6-v2: .*{command}"):
        Retriever.from_texts("all-MiniLM-L6-v2", ["oak"])
    with pytest.raises(FileNotFoundError, match=r"^/models/absent: "):
        Retriever.from_texts("/models/absent", ["oak"])


def test_embeddings_that_are_not_finite_raise_with_the_id() -> None:
    with pytest.raises(ValueError, match="passage b"):
        MemoryEmbeddings(["a", "b"], torch.tensor([[1.0], [torch.nan]]))


@pytest.mark.filterwarnings("ignore:1 of 9 texts:text.errors.SettingsWarning")
def test_embeddings_do_not_depend_on_the_block_size(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    embedder = Embedder.from_pretrained(model, "question")
    whole = embedder.embed_texts(texts(9))
    assert whole.equal(embedder(texts(9))) and embedder.embed_texts([]).shape == (0, whole.shape[1])
    monkeypatch.setattr("text.retrieval.embedder.BLOCK_ROWS", 2)
    torch.testing.assert_close(embedder.embed_texts(texts(9)), whole)
    long = " ".join(["oak"] * 20)  # 22 tokens with special tokens; the limit is 16.
    with pytest.warns(SettingsWarning, match="^2 of 4 texts are longer than 16 tokens"):
        embedder.embed_texts([long, "oak", "elm", long])
    with pytest.raises(TypeError, match=r"^texts is a str"):
        embedder.embed_texts("oak")


def test_open_collection_raises_if_the_file_changed(tmp_path: Path, collection: PassageCollection, model: Path) -> None:
    shards = encode_collection(model, collection, tmp_path / "e")
    path = Path(collection.path)
    path.write_bytes(path.read_bytes() + b'{"_id": "new", "text": "oak"}\n')
    with pytest.raises(ArtifactError, match=f"^{path}: "):
        open_collection(shards)
    path.unlink()
    with pytest.raises(ValueError, match=f"^{path}: "):
        open_collection(shards)


def find_by_name(questions: list[str], k: int, extra_ids: list[tuple[str, ...]] | None) -> list[Hits]:
    """Return the same windows for every question, followed by the extra passages."""
    ids = [["a#1", "b#0", "a#0", "c#2"][:k] for _ in questions]
    return [
        Hits(windows + list(more), [float(-place) for place in range(len(windows) + len(more))])
        for windows, more in zip(ids, extra_ids or [()] * len(ids), strict=True)
    ]


def test_a_run_by_hand() -> None:
    questions = [Question("q1", "who", [], False, ("p",)), Question("q2", "what", [])]
    run = search_questions(find_by_name, questions, 2)
    assert run == {name: {"a#1": 0.0, "b#0": -1.0} for name in ("q1", "q2")}
    run = search_questions(find_by_name, questions, 1, with_positives=True)
    assert run == {"q1": {"a#1": 0.0, "p": -1.0}, "q2": {"a#1": 0.0}}
    run = search_questions(find_by_name, questions, 4, max_passage_hits=2)
    assert run == {name: {"a": 0.0, "b": -1.0} for name in ("q1", "q2")}


def test_positives_without_ids_raise_before_the_search() -> None:
    def search(*_: object, **__: object) -> list[Hits]:
        raise AssertionError

    with pytest.raises(DataError, match=r"^rows.jsonl: "):
        search_questions(search, [Question("q", "who", [])], 1, with_positives=True, source="rows.jsonl")
