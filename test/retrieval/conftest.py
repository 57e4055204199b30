"""A collection, a small model with random weights, and embeddings that a test chooses."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from text.bundle import BiEncoderBundle
from text.datasets import PassageCollection
from text.models import BiEncoder, roberta_tiny
from text.retrieval import Embedder, EmbeddingShards, encode_collection
from text.transforms import train_tokenizer

WORDS = "oak elm ash yew fir bay fig pear plum beech maple has green brown tall leaves bark and the of".split()
NUM_PASSAGES = 23


def texts(num: int) -> list[str]:
    random = np.random.default_rng(0)
    return [" ".join(random.choice(WORDS, size=1 + number % 9)) for number in range(num)]


def write_collection(path: Path, ids: Sequence[str], contents: Sequence[str]) -> PassageCollection:
    rows = [{"_id": name, "title": f"title {name}", "text": text} for name, text in zip(ids, contents, strict=True)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return PassageCollection(path)


@pytest.fixture
def collection(tmp_path: Path) -> PassageCollection:
    return write_collection(tmp_path / "corpus.jsonl", [f"p{n}" for n in range(NUM_PASSAGES)], texts(NUM_PASSAGES))


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """As a training run leaves it: two encoders."""
    return save_model(tmp_path_factory.mktemp("model"), seed=0)


def save_model(folder: Path, seed: int, **settings: Any) -> Path:
    torch.manual_seed(seed)
    tokenizer = train_tokenizer(texts(50), 300)
    size = tokenizer.get_vocab_size()
    sides = [roberta_tiny(vocab_size=size, pooling="mean", max_position_embeddings=34) for _ in range(2)]
    settings = {"question_max_length": 16, "passage_max_length": 32} | settings
    BiEncoderBundle(model=BiEncoder(*sides), tokenizer=tokenizer, **settings).save(folder)
    return folder


class Given(Embedder):
    """Gives each passage, whose text is the number of its row, the embedding that stands there."""

    def __init__(self, embeddings: np.ndarray) -> None:
        self.embeddings = torch.from_numpy(embeddings)
        self.encoder: Any = SimpleNamespace(embedding_dim=embeddings.shape[1])
        self.model, self.settings, self.similarity = {"weights": "given"}, {"similarity": "dot"}, "dot"

    def tokenize(self, texts: Any) -> Any:
        return [int(passage.text) for passage in texts]

    def embed(self, tokens: Any) -> torch.Tensor:
        return self.embeddings[tokens].float()


def write_shards(
    folder: Path, embeddings: np.ndarray, ids: Sequence[str] | None = None, **options: Any
) -> EmbeddingShards:
    """Shards with these embeddings."""
    folder.mkdir(parents=True, exist_ok=True)
    ids = ids or [f"p{row}" for row in range(len(embeddings))]
    passages = write_collection(folder / "corpus.jsonl", ids, [str(row) for row in range(len(embeddings))])
    options = {"dtype": "float32", "shard_rows": 8, "block_rows": 4} | options
    return encode_collection(Given(embeddings), passages, folder / "embeddings", **options)
