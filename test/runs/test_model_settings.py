"""Default settings of a run from each kind of start model, and their override by flags."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from test.helpers import save_model
from test.retrieval.conftest import write_shards
from text.bundle import BiEncoderBundle, load_side
from text.commands.model_paths import RANDOM_ENCODERS
from text.models import SIZES, BiEncoder, roberta_tiny
from text.runs.model_settings import ModelSettings, choose_model_settings
from text.transforms import save_tokenizer, train_tokenizer

DPR = ModelSettings(titles="pair", similarity="dot", temperature=1.0, tied=False, default_max_lengths=(64, 256))


def save_encoder(folder: Path, similarity: str | None = None, **options: Any) -> str:
    """Save an encoder with its tokenizer in the format of sentence-transformers, and return its folder."""
    tokenizer = train_tokenizer(["who ate the oak"], vocab_size=300)
    encoder = roberta_tiny(vocab_size=tokenizer.get_vocab_size(), **options)
    encoder.save_pretrained(folder, similarity=similarity)
    save_tokenizer(tokenizer, folder)
    return str(folder)


def find_changes(settings: ModelSettings) -> dict[str, Any]:
    """Return the settings that differ from DPR's settings."""
    return {name: value for name, value in vars(settings).items() if value != getattr(DPR, name)}


def test_the_encoder_sizes_of_flags_and_models_are_equal() -> None:
    assert tuple(SIZES) == RANDOM_ENCODERS


def test_random_weights_plain_encoders_and_checkpoints_have_the_settings_of_dpr(tmp_path: Path) -> None:
    folder = Path(save_encoder(tmp_path / "plain"))
    (folder / "modules.json").unlink()
    (tmp_path / "dpr.cp").touch()
    for encoder in ("tiny", str(folder), str(tmp_path / "dpr.cp")):
        assert choose_model_settings(encoder) == DPR


@pytest.mark.parametrize(
    ("similarity", "normalize", "expected", "temperature"),
    [
        (None, False, "cosine", 0.05),  # the default of sentence-transformers
        (None, True, "cosine", 0.05),
        ("cosine", True, "cosine", 0.05),
        ("dot", True, "dot", 0.05),
        ("dot", False, "dot", 1.0),
    ],
)
def test_settings_of_a_sentence_transformers_model(
    tmp_path: Path, similarity: str | None, normalize: bool, expected: str, temperature: float
) -> None:
    folder = save_encoder(tmp_path, similarity, normalize=normalize)
    settings = choose_model_settings(folder)
    assert (settings.titles, settings.tied) == ("join", True)
    assert (settings.similarity, settings.temperature) == (expected, temperature)
    assert min(settings.default_max_lengths) > 512  # the limit of the encoder counts


def test_a_saved_model_provides_its_training_settings(tmp_path: Path) -> None:
    folder = save_model(tmp_path / "model", 0, similarity="cosine", temperature=0.02, titles="join")
    expected = {"titles": "join", "similarity": "cosine", "temperature": 0.02, "default_max_lengths": (16, 32)}
    assert find_changes(choose_model_settings(str(folder))) == expected
    assert find_changes(choose_model_settings(str(folder / "passage_encoder"))) == expected
    encoder = roberta_tiny(vocab_size=300)
    bundle = BiEncoderBundle.load(folder)
    limits: dict[str, Any] = {"question_max_length": 9, "passage_max_length": 10}
    BiEncoderBundle(model=BiEncoder(encoder, encoder), tokenizer=bundle.tokenizer, **limits).save(tmp_path / "tied")
    assert find_changes(choose_model_settings(str(tmp_path / "tied"))) == {"tied": True, "default_max_lengths": (9, 10)}


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        ({"similarity": "cosine"}, {"similarity": "cosine", "temperature": 0.05}),
        ({"normalize": True}, {"temperature": 0.05}),
        ({"normalize": True, "temperature": 2.0}, {"temperature": 2.0}),
        ({"normalize": False}, {}),
        ({"titles": "join"}, {"titles": "join"}),
        ({"tied": True}, {"tied": True}),
    ],
)
def test_flags_override_the_settings_of_random_weights(flags: dict[str, Any], expected: dict[str, Any]) -> None:
    assert find_changes(choose_model_settings("tiny", **flags)) == expected


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        ({"temperature": 1.0}, {"temperature": 1.0}),
        ({"titles": "pair"}, {"titles": "pair"}),
        ({"tied": False}, {"tied": False}),
        ({"freeze_passage": True}, {"tied": False}),
        ({"similarity": "dot"}, {"similarity": "dot", "temperature": 0.05}),  # embeddings still have length 1
        ({"similarity": "dot", "normalize": False}, {"similarity": "dot", "temperature": 1.0}),
    ],
)
def test_flags_override_the_settings_of_a_sentence_transformers_model(
    tmp_path: Path, flags: dict[str, Any], expected: dict[str, Any]
) -> None:
    folder = save_encoder(tmp_path, normalize=True)
    own = vars(choose_model_settings(folder))
    assert vars(choose_model_settings(folder, **flags)) == own | expected


def test_a_changed_similarity_resets_the_temperature(tmp_path: Path) -> None:
    folder = str(save_model(tmp_path, 0, temperature=3.0))
    assert choose_model_settings(folder).temperature == 3.0
    assert choose_model_settings(folder, similarity="cosine").temperature == 0.05


def test_titles_are_joined_for_a_sentence_transformers_model_in_retrieval_too(tmp_path: Path) -> None:
    folder = save_encoder(tmp_path / "theirs", "dot")
    assert load_side(folder, "passage").titles == "join"
    ours = save_model(tmp_path / "ours", 0)
    for saved in (ours, ours / "passage_encoder"):
        assert load_side(saved, "passage").titles == "pair"
    Path(folder, "modules.json").unlink()
    assert load_side(folder, "passage").titles == "pair"


def test_the_settings_of_a_bundle_are_saved_and_described(tmp_path: Path) -> None:
    bundle = BiEncoderBundle.load(save_model(tmp_path, 0, similarity="cosine", temperature=0.02))
    assert bundle.settings == {
        "question_max_length": 16,
        "passage_max_length": 32,
        "titles": "pair",
        "similarity": "cosine",
        "temperature": 0.02,
        "tied": False,
        "question_prompt": "",
        "passage_prompt": "",
    }
    saved = json.loads((tmp_path / "config.json").read_text())
    assert all(bundle.settings[name] == saved[name] for name in saved.keys() & bundle.settings.keys())
    for part in ("cosine similarity", "temperature 0.02", "two encoders", "pairs", "16", "32"):
        assert part in bundle.describe()


@pytest.mark.parametrize(("normalize", "expected"), [(True, "dot"), (False, "cosine")])
def test_frozen_embeddings_decide_the_similarity_only_where_both_similarities_agree(
    tmp_path: Path, normalize: bool, expected: str
) -> None:
    folder = save_encoder(tmp_path, normalize=normalize)
    embeddings = write_shards(tmp_path / "passages", np.eye(2, 16, dtype=np.float32)).folder  # for dot product
    settings = choose_model_settings(folder, freeze_passage=True, frozen_passages=str(embeddings))
    assert (settings.similarity, settings.temperature) == (expected, 0.05)
