"""Models that search or reuse the embeddings of a passage encoder, by their question encoders."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from text.bundle import BiEncoderBundle
from text.errors import ArtifactError
from text.models import BiEncoder, roberta_tiny
from text.retrieval import Embedder, EmbeddingShards, Retriever, encode_collection
from text.retrieval.question_collection import write_question_collection
from text.transforms import train_tokenizer

QUESTIONS = ["who ate the oak", "what is the elm"]


def save_model(folder: Path, question_seed: int, passage_seed: int = 0, passages_from: Path | None = None) -> Path:
    """Save a model with two separate encoders."""
    encoders = []
    for seed in (question_seed, passage_seed):
        torch.manual_seed(seed)
        encoders.append(roberta_tiny(vocab_size=300, pooling="mean"))
    tokenizer = train_tokenizer(["a beetle ate the oak"], vocab_size=300)
    limits: Any = {"question_max_length": 16, "passage_max_length": 32}
    bundle = BiEncoderBundle(model=BiEncoder(*encoders), tokenizer=tokenizer, **limits)
    bundle.save(folder, passages_from=passages_from)
    return folder


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with a model, its embeddings of passages and of questions."""
    folder = tmp_path_factory.mktemp("made")
    model = save_model(folder / "model", 1)
    lines = [json.dumps({"_id": str(i), "text": text}) for i, text in enumerate(["a beetle", "a tall tree"])]
    (folder / "corpus.jsonl").write_text("".join(line + "\n" for line in lines))
    encode_collection(model, folder / "corpus.jsonl", folder / "passages")
    (folder / "questions.txt.jsonl").write_text("".join(json.dumps({"question": each}) + "\n" for each in QUESTIONS))
    questions = write_question_collection([folder / "questions.txt.jsonl"], folder / "questions")
    encode_collection(Embedder.from_pretrained(model, "question"), questions, folder / "questions")
    return folder


def take_passage_encoder(made: Path, folder: Path) -> Path:
    return Path(shutil.copytree(made / "model/passage_encoder", folder))


def mix_encoders(made: Path, folder: Path) -> Path:
    """Return a model with the question encoder and the list of files of another model."""
    other = save_model(folder / "other", 2, 3)
    mixed = Path(shutil.copytree(made / "model", folder / "mixed"))
    for name in ("config.json", "question_encoder/model.safetensors"):
        shutil.copy(other / name, mixed / name)
    return mixed


def mix_unlisted_encoders(made: Path, folder: Path) -> Path:
    """Return a model whose settings list no files, so that nothing tells that its encoders belong together."""
    mixed = mix_encoders(made, folder)
    settings = json.loads((mixed / "config.json").read_text())
    (mixed / "config.json").write_text(json.dumps(settings | {"files": None}))
    return mixed


def save_tied_encoder(made: Path, folder: Path) -> Path:
    """Return a model with the passage encoder alone, for both sides."""
    loaded = BiEncoderBundle.load(made / "model")
    encoder = loaded.model.passage_encoder
    limits: Any = {"question_max_length": 32, "passage_max_length": 32}
    BiEncoderBundle(model=BiEncoder(encoder, encoder), tokenizer=loaded.tokenizer, **limits).save(folder)
    return folder


@pytest.mark.parametrize("make", [take_passage_encoder, mix_encoders, mix_unlisted_encoders, save_tied_encoder])
def test_a_question_encoder_that_was_not_saved_with_the_passage_encoder_is_refused(
    made: Path, tmp_path: Path, make: Callable[[Path, Path], Path]
) -> None:
    model = make(made, tmp_path / "made")
    with pytest.raises(ArtifactError, match=r"passages: encoded by another model .*question_encoder/"):
        Retriever.from_pretrained(model, made / "passages")


def test_a_question_encoder_that_was_saved_with_the_passage_encoder_searches(made: Path, tmp_path: Path) -> None:
    later = save_model(tmp_path / "later", 2, passages_from=made / "model")
    found = Retriever.from_pretrained(later, made / "passages").search(QUESTIONS)
    again = encode_collection(later, made / "corpus.jsonl", tmp_path / "again")
    assert found == Retriever(again, Embedder.from_pretrained(later, "question")).search(QUESTIONS)
    assert found != Retriever.from_pretrained(made / "model", made / "passages").search(QUESTIONS)
    # The first model searches what the later one encoded, because the passage encoder is the same.
    Retriever.from_pretrained(made / "model", tmp_path / "again")


def test_a_later_question_encoder_reuses_embeddings(made: Path, tmp_path: Path) -> None:
    later = save_model(tmp_path / "later", 2, passages_from=made / "model")
    with (made / "corpus.jsonl").open() as lines:
        (tmp_path / "corpus.jsonl").write_text(lines.read() + '{"_id": "9", "text": "a wasp"}\n')
    shards = encode_collection(later, tmp_path / "corpus.jsonl", tmp_path / "new", reuse=made / "passages")
    whole = encode_collection(later, tmp_path / "corpus.jsonl", tmp_path / "whole")
    rows = [each.read_rows(torch.arange(3).numpy()) for each in (shards, whole)]
    torch.testing.assert_close(*map(torch.from_numpy, rows), rtol=1e-3, atol=1e-4)  # float16 on disk
    other = save_model(tmp_path / "other", 1, 3)
    with pytest.raises(ArtifactError, match="cannot be reused"):
        encode_collection(other, tmp_path / "corpus.jsonl", tmp_path / "more", reuse=made / "passages")


def test_embeddings_of_questions_are_neither_searched_nor_reused_as_passages(made: Path, tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="questions: holds embeddings of questions"):
        Retriever.from_pretrained(made / "model", made / "questions")
    texts = made / "questions/questions.jsonl"
    embedder = Embedder.from_pretrained(made / "model", "passage", max_length=16)
    with pytest.raises(ArtifactError, match="side: question -> passage"):
        encode_collection(embedder, texts, tmp_path / "new", reuse=EmbeddingShards(made / "questions"))
