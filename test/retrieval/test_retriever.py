"""Retrievers that are loaded from folders, and runs of questions."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from test.helpers import save_model, texts
from text.datasets import PassageCollection, Question
from text.errors import ArtifactError, DataError
from text.records import Passage
from text.retrieval import (
    Embedder,
    Found,
    MemoryEmbeddings,
    Retriever,
    encode_collection,
    load_retriever,
    open_collection,
    open_index,
    search_questions,
)


def test_a_loaded_retriever_finds_what_its_parts_find(
    tmp_path: Path, collection: PassageCollection, model: Path
) -> None:
    shards = encode_collection(model, collection, tmp_path / "e")
    expected = Retriever.from_pretrained(model, tmp_path / "e").search(texts(9)[6:], 3)
    assert load_retriever(model, tmp_path / "e", device="cpu").search(texts(9)[6:], 3) == expected
    assert list(open_collection(shards)) == list(collection)
    pytest.importorskip("faiss")
    for _ in range(2):  # The index is built, then opened.
        retriever = load_retriever(model, tmp_path / "e", index="Flat", check_hashes=False)
        assert retriever.search(texts(9)[6:], 3) == expected and retriever.index is not None
    with pytest.raises(ArtifactError, match=f"^{tmp_path}/e: .*model.safetensors"):
        load_retriever(save_model(tmp_path / "other", seed=1), tmp_path / "e")
    with pytest.raises(ValueError, match=r"^index is Flat and milvus is m.db"):
        open_index(shards, index="Flat", milvus="m.db")


def test_texts_in_memory_are_found_with_the_scores_of_the_files(
    tmp_path: Path, collection: PassageCollection, model: Path
) -> None:
    encode_collection(model, collection, tmp_path / "e", dtype="float32")
    questions, passages = texts(9)[4:], list(collection)
    expected = Retriever.from_pretrained(model, tmp_path / "e").search(questions, 7)
    also = [[passages[0].passage_id]] * len(questions)
    retriever = Retriever.from_texts(model, passages)
    assert retriever.search(questions, 7) == expected  # ids and scores, to the last bit
    assert retriever.search(questions, 2, also=also) == Retriever.from_pretrained(model, tmp_path / "e").search(
        questions, 2, also=also
    )


def test_texts_without_ids_are_known_by_their_place(model: Path) -> None:
    contents = texts(9)[:5]
    found = Retriever.from_texts(model, contents).search(["oak"], 9)[0]
    assert sorted(found.passage_ids) == ["0", "1", "2", "3", "4"]
    own = [Passage(name, "", text) for name, text in zip("abcde", contents, strict=True)]
    named = Retriever.from_texts(model, own).search(["oak"], 9)[0]
    assert named == Found(["abcde"[int(name)] for name in found.passage_ids], found.scores)


@pytest.mark.parametrize(
    ("contents", "part"),
    [
        ([], "no texts"),
        ("oak", "no texts"),
        (["oak", " "], "text 1"),
        ([Passage("a", "", "oak"), Passage("a", "", "elm")], "id a"),
        ([Passage("1", "", "oak"), Passage("", "", "elm")], "id 1"),
    ],
)
def test_texts_that_cannot_be_told_apart_or_are_blank_are_refused(model: Path, contents, part: str) -> None:
    with pytest.raises(ValueError, match=part):
        Retriever.from_texts(model, contents)


def test_embeddings_that_are_not_finite_are_refused_by_id() -> None:
    with pytest.raises(ValueError, match="passage b"):
        MemoryEmbeddings(["a", "b"], torch.tensor([[1.0], [torch.nan]]))


def test_embeddings_of_a_list_are_those_of_its_parts(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    embedder = Embedder.from_pretrained(model, "question")
    whole = embedder.embed_texts(texts(9))
    assert whole.equal(embedder(texts(9))) and embedder.embed_texts([]).shape == (0, whole.shape[1])
    monkeypatch.setattr("text.retrieval.embedder.BLOCK_ROWS", 2)
    torch.testing.assert_close(embedder.embed_texts(texts(9)), whole)
    with pytest.raises(ValueError, match="string"):
        embedder.embed_texts("oak")


def test_a_collection_that_has_changed_is_not_opened(
    tmp_path: Path, collection: PassageCollection, model: Path
) -> None:
    shards = encode_collection(model, collection, tmp_path / "e")
    path = Path(collection.path)
    path.write_bytes(path.read_bytes() + b'{"_id": "new", "text": "oak"}\n')
    with pytest.raises(ArtifactError, match=f"^{path}: "):
        open_collection(shards)
    path.unlink()
    with pytest.raises(ValueError, match=f"^{path}: "):
        open_collection(shards)


def find_by_name(questions: list[str], k: int, also: list[tuple[str, ...]] | None) -> list[Found]:
    """Find windows of two documents, and the passages that are asked for, too."""
    ids = [["a#1", "b#0", "a#0", "c#2"][:k] for _ in questions]
    return [
        Found(of_question + list(more), [float(-place) for place in range(len(of_question) + len(more))])
        for of_question, more in zip(ids, also or [()] * len(ids), strict=True)
    ]


def test_a_run_by_hand() -> None:
    questions = [Question("q1", "who", [], False, ("p",)), Question("q2", "what", [])]
    run = search_questions(find_by_name, questions, 2)
    assert run == {name: {"a#1": 0.0, "b#0": -1.0} for name in ("q1", "q2")}
    run = search_questions(find_by_name, questions, 1, with_positives=True)
    assert run == {"q1": {"a#1": 0.0, "p": -1.0}, "q2": {"a#1": 0.0}}
    run = search_questions(find_by_name, questions, 4, max_passage_hits=2)
    assert run == {name: {"a": 0.0, "b": -1.0} for name in ("q1", "q2")}


def test_rows_without_ids_of_positives_are_refused_before_the_search() -> None:
    def search(*_: object, **__: object) -> list[Found]:
        raise AssertionError

    with pytest.raises(DataError, match=r"^rows.jsonl: "):
        search_questions(search, [Question("q", "who", [])], 1, with_positives=True, source="rows.jsonl")
