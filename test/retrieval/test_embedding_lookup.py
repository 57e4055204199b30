"""Lookup of embeddings on disk by passage id and by question text."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import numpy as np
import pytest

from test.helpers import texts
from test.retrieval.conftest import write_shards
from text.commands.cli import get_exit_code
from text.datasets import PassageCollection
from text.errors import ArtifactError
from text.records import Passage
from text.retrieval import Embedder, encode_collection
from text.retrieval.embedding_lookup import OTHER_TEXT, SAME_TEXT, UNKNOWN, EmbeddingLookup
from text.retrieval.question_collection import write_question_collection


def get_key(passage_id: str) -> int:
    return Passage(passage_id, "", "").keys[0]


def test_passages_are_found_by_id(tmp_path: Path) -> None:
    embeddings = np.arange(40, dtype=np.float32).reshape(20, 2)
    write_shards(tmp_path, embeddings)  # 3 shards
    lookup = EmbeddingLookup(tmp_path / "embeddings", "passage")
    keys = np.array([get_key(name) for name in ("p17", "p0", "p9", "p0")])
    for each in (lookup, copy.deepcopy(lookup)):
        assert np.array_equal(each.read_passages(keys), embeddings[[17, 0, 9, 0]])
        assert each.read_passages(keys[:0]).shape == (0, 2)
    with pytest.raises(ArtifactError, match="1 passages have no embedding"):
        lookup.read_passages(np.array([get_key("p0"), get_key("other")]))


def test_passages_with_another_text_are_told_apart(tmp_path: Path) -> None:
    write_shards(tmp_path, np.ones((3, 2), dtype=np.float32))
    same = PassageCollection(tmp_path / "corpus.jsonl").find("p1")
    passages = [same, same._replace(text="other"), same._replace(passage_id="p7"), same._replace(passage_id="")]
    lookup = EmbeddingLookup(tmp_path / "embeddings", "passage")
    assert lookup.compare_passages(passages).tolist() == [SAME_TEXT, OTHER_TEXT, UNKNOWN, UNKNOWN]


def test_questions_are_found_by_their_exact_text(tmp_path: Path, model: Path) -> None:
    asked = texts(6)
    rows = [{"question": text, "positive_ctxs": []} for text in (*asked, asked[0])]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "qa.csv").write_text(f"{asked[2]}\t['x']\nwhat is an oak\t['x']\n")
    folder = tmp_path / "questions"
    collection = write_question_collection([tmp_path / "rows.jsonl", tmp_path / "qa.csv"], folder)
    assert [passage.text for passage in collection] == [*asked, "what is an oak"]
    embedder = Embedder.from_pretrained(model, "question")
    encode_collection(embedder, collection, folder, dtype="float32")
    lookup = EmbeddingLookup(folder, "question")
    expected = embedder.embed_texts([asked[3], asked[1]]).numpy()
    np.testing.assert_allclose(lookup.read_questions([asked[3], asked[1]]), expected, rtol=1e-5, atol=1e-6)
    assert lookup.has_questions([asked[0], asked[0].upper(), "other"]).tolist() == [True, False, False]


def test_the_other_side_and_other_questions_are_refused(tmp_path: Path, model: Path) -> None:
    folder, file = tmp_path / "questions", tmp_path / "q.jsonl"
    file.write_text('{"_id": "1", "text": "what ate the oak"}\n')
    collection = write_question_collection([file], folder)
    encode_collection(Embedder.from_pretrained(model, "question"), collection, folder)
    with pytest.raises(ArtifactError, match="embeddings of questions, not of passages") as caught:
        EmbeddingLookup(folder, "passage")
    assert get_exit_code(caught.value) == 5
    before = (folder / "questions.jsonl").read_bytes()
    write_question_collection([file], folder)  # the same questions
    file.write_text('{"_id": "1", "text": "what ate the elm"}\n')
    with pytest.raises(ArtifactError, match="other texts"):
        write_question_collection([file], folder)
    assert (folder / "questions.jsonl").read_bytes() == before
