"""Teachers give the scores of their model: similarity of embeddings, and BM25 over a collection."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from test.helpers import save_model, texts
from text.datasets import PassageCollection
from text.errors import ArtifactError, DataError
from text.evaluation.score_source import TeacherRecord
from text.models import RobertaCrossEncoder, roberta_tiny
from text.records import Passage
from text.reranker import Reranker
from text.retrieval import Embedder
from text.retrieval.bm25 import BM25
from text.retrieval.teachers import BM25Teacher, check_finite, load_teacher
from text.transforms import train_tokenizer

QUESTIONS = ["how tall is an oak", "the elm", "how tall is an oak", "yew"]


@pytest.fixture
def pairs() -> tuple[list[str], list[Passage]]:
    passages = [Passage(f"p{n}", f"title p{n}", text) for n, text in enumerate(texts(3))]
    return QUESTIONS, [passages[0], passages[1], passages[2], passages[0]]


def test_a_bi_encoder_scores_by_the_product_of_embeddings(
    model: Path, pairs: tuple[list[str], list[Passage]], monkeypatch: pytest.MonkeyPatch
) -> None:
    questions, passages = pairs
    embedders = [Embedder.from_pretrained(model, side) for side in ("question", "passage")]
    expected = [
        float(embedders[0].embed_texts([question])[0] @ embedders[1].embed_texts([passage])[0])
        for question, passage in zip(questions, passages, strict=True)
    ]
    teacher = load_teacher(model, device="cpu")
    sizes = []
    embed = Embedder.embed_list
    monkeypatch.setattr(Embedder, "embed_list", lambda self, given: sizes.append(len(given)) or embed(self, given))
    scores = teacher.score(questions, passages)
    assert scores.dtype == np.float32 and sizes == [3, 3]  # Each distinct text is embedded once.
    np.testing.assert_allclose(scores, expected, rtol=1e-5)


def test_the_identity_of_a_bi_encoder_changes_with_its_files(model: Path, tmp_path: Path) -> None:
    same, other = save_model(tmp_path / "same", seed=0), save_model(tmp_path / "other", seed=1)
    record = load_teacher(model, device="cpu").record
    assert record.kind == "bi-encoder" and record.model == str(model)
    assert record.is_same(load_teacher(same, device="cpu").record)
    assert not record.is_same(load_teacher(other, device="cpu").record)
    assert not record.is_same(load_teacher(model, device="cpu", precision="bfloat16").record)


def test_a_reranker_scores_pairs(tmp_path: Path, pairs: tuple[list[str], list[Passage]]) -> None:
    tokenizer = train_tokenizer(texts(20), vocab_size=300)
    torch.manual_seed(0)
    model = RobertaCrossEncoder.from_encoder(roberta_tiny(vocab_size=300), dropout=0.1)
    Reranker(model=model, tokenizer=tokenizer, max_length=64).save(tmp_path / "reranker")
    reranker, teacher = Reranker.load(tmp_path / "reranker"), load_teacher(tmp_path / "reranker", device="cpu")
    np.testing.assert_array_equal(teacher.score(*pairs), reranker.score(*pairs))
    settings = {"precision": "float32"}
    assert teacher.record == TeacherRecord("reranker", str(tmp_path / "reranker"), reranker.identity, settings)


def test_bm25_scores_equal_the_scores_of_a_search(collection: PassageCollection) -> None:
    teacher = BM25Teacher(collection)
    passages = [*list(collection)[:4], *list(collection)[:4]]
    questions = ["beetle oak yew", "elm"] * 4
    everything = BM25(collection).search(questions, len(collection))
    expected = [
        dict(zip(hits.passage_ids, hits.scores, strict=True)).get(passage.passage_id, 0.0)
        for hits, passage in zip(everything, passages, strict=True)
    ]
    np.testing.assert_allclose(teacher.score(questions, passages), expected, rtol=1e-6)
    with pytest.raises(DataError, match=f"{collection.path}: no passage p99"):
        teacher.score(["elm"], [Passage("p99", "", "elm")])


def test_a_score_that_is_not_a_number_raises() -> None:
    with pytest.raises(ArtifactError, match=r"^model: "):
        check_finite(np.array([1.0, np.nan]), TeacherRecord("reranker", "model", "", {}))


def test_a_reranker_whose_transformer_is_in_a_subfolder_is_a_reranker(tmp_path: Path) -> None:
    """Sentence-transformers may save the only module of a CrossEncoder in a folder of its own."""
    tokenizer = train_tokenizer(["who ate the oak"], vocab_size=300)
    model = RobertaCrossEncoder.from_encoder(roberta_tiny(vocab_size=300), dropout=0.1)
    Reranker(model=model, tokenizer=tokenizer, max_length=32).save(tmp_path / "inner")
    (tmp_path / "inner/reranker.json").unlink()
    module = {"idx": 0, "name": "0", "path": "inner", "type": "sentence_transformers.models.Transformer"}
    (tmp_path / "modules.json").write_text(json.dumps([module]))
    assert load_teacher(tmp_path, device="cpu").record.kind == "reranker"
