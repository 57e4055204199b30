"""Saved rerankers: there and back, hashes, and folders of other models."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from test.helpers import assert_one_line, save_model
from text.bundle import BiEncoderBundle
from text.commands.running import get_exit_code
from text.errors import ArtifactError, UnsupportedModelError
from text.models import RobertaCrossEncoder, roberta_tiny
from text.records import Passage
from text.reranker import Reranker
from text.transforms import train_tokenizer

QUESTIONS = ["who ate the oak", "an elm", "who"]
PASSAGES = [Passage("1", "Oak", "a beetle"), Passage("2", "", "nobody"), Passage("3", "", "the oak " * 40)]


def build_reranker(seed: int = 0, **settings: Any) -> Reranker:
    torch.manual_seed(seed)
    tokenizer = train_tokenizer([*QUESTIONS, *(each.text for each in PASSAGES)], vocab_size=300)
    encoder = roberta_tiny(vocab_size=300, max_position_embeddings=66)
    model = RobertaCrossEncoder.from_encoder(encoder, dropout=0.1)
    options: dict[str, Any] = {"max_length": 48} | settings
    return Reranker(model=model, tokenizer=tokenizer, **options)


def test_a_saved_reranker_loads_with_the_same_scores_and_settings(tmp_path: Path) -> None:
    reranker = build_reranker()
    reranker.save(tmp_path)
    loaded = Reranker.load(tmp_path)
    assert np.array_equal(loaded.score(QUESTIONS, PASSAGES), reranker.score(QUESTIONS, PASSAGES))
    assert loaded.settings == {"pair_max_length": 48, "titles": "join"}
    assert set(loaded.hashes) == {"config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"}
    loaded.save(tmp_path / "again")
    for name in (*loaded.hashes, "reranker.json"):
        assert (tmp_path / "again" / name).read_bytes() == (tmp_path / name).read_bytes()


def test_the_identity_changes_with_weights_and_settings(tmp_path: Path) -> None:
    names = {}
    for name, reranker in {
        "one": build_reranker(),
        "same": build_reranker(),
        "seed": build_reranker(1),
        "limit": build_reranker(max_length=40),
    }.items():
        reranker.save(tmp_path / name)
        names[name] = Reranker.load(tmp_path / name).identity
    assert names["one"] == names["same"] and len(set(names.values())) == 3


def test_scores_follow_the_order_of_pairs() -> None:
    reranker = build_reranker()
    scores = reranker.score(QUESTIONS, PASSAGES)
    assert len(set(scores.tolist())) == 3
    np.testing.assert_allclose(reranker.score(QUESTIONS[::-1], PASSAGES[::-1]), scores[::-1], atol=1e-6)
    with pytest.raises(ValueError, match="3 questions and 2 passages"):
        reranker.score(QUESTIONS, PASSAGES[:2])
    with pytest.raises(TypeError):
        reranker.score("who", PASSAGES[:1])


@pytest.mark.parametrize("settings", [{"max_length": 4}, {"max_length": 65}, {"titles": "pair"}])
def test_settings_that_do_not_fit_are_refused(settings: dict) -> None:
    with pytest.raises(ValueError):
        build_reranker(**settings)


def test_bi_encoders_and_rerankers_are_not_confused(tmp_path: Path) -> None:
    build_reranker().save(tmp_path / "reranker")
    save_model(tmp_path / "bi-encoder", seed=0)
    for load, folder in ((BiEncoderBundle.load, "reranker"), (Reranker.load, "bi-encoder")):
        with pytest.raises(UnsupportedModelError) as caught:
            load(tmp_path / folder)
        assert_one_line(caught.value, tmp_path / folder)
        assert get_exit_code(caught.value) == 2
    with pytest.raises(FileExistsError):
        build_reranker().save(tmp_path / "bi-encoder")


def test_the_folder_of_a_run_names_its_model(tmp_path: Path) -> None:
    build_reranker().save(tmp_path / "run/model")
    with pytest.raises(FileNotFoundError) as caught:
        Reranker.load(tmp_path / "run")
    assert_one_line(caught.value, tmp_path / "run", str(tmp_path / "run/model"))
    with pytest.raises(FileNotFoundError):
        Reranker.load(tmp_path / "missing")


def test_damaged_changed_and_added_files_are_refused(tmp_path: Path) -> None:
    build_reranker().save(tmp_path)
    original = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    changes = {
        "model.safetensors": original["model.safetensors"][:-1] + b"\1",
        "tokenizer.json": original["tokenizer.json"] + b" ",
        "reranker.json": json.dumps({"saved": False}).encode(),
        "special_tokens_map.json": b"{}",
    }
    for name, content in changes.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(ArtifactError) as caught:
            Reranker.load(tmp_path)
        assert_one_line(caught.value, tmp_path / name)
        (tmp_path / name).unlink()
        if name in original:
            (tmp_path / name).write_bytes(original[name])
    Reranker.load(tmp_path)


def test_an_interrupted_save_does_not_load(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as context:
        context.setattr("text.reranker.save_tokenizer", None)
        with pytest.raises(TypeError):
            build_reranker().save(tmp_path)
    with pytest.raises(ArtifactError) as caught:
        Reranker.load(tmp_path)
    assert_one_line(caught.value, tmp_path / "reranker.json", "interrupted")
