"""Parts of ``benchmarks/gpu.py``: sizes, saved model, distinct texts, and the description of a measured side."""

from __future__ import annotations

import json
import random
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import torch

from text.bundle import BiEncoderBundle
from text.models import BiEncoder, RobertaConfig, RobertaEncoder
from text.transforms import Tokenizer, train_tokenizer

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
WORDS = ["".join(random.Random(n).choices("etaoinshrdlu", k=random.Random(-n).randint(2, 9))) for n in range(1, 3001)]


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """Sizes of model and data."""

    is_small: bool = False
    encoder: RobertaConfig = field(default_factory=lambda: RobertaConfig(vocab_size=50265))
    """Sizes of the encoder. The defaults of ``RobertaConfig`` are those of RoBERTa-base."""
    num_questions: int = 128
    num_tokens: int = 256
    nq_tokens: int = 130
    """Mean tokens of a passage of Natural Questions."""
    chunk_tokens: int = 1 << 14
    max_length: int = 256
    num_steps: int = 10
    num_passages: int = 1 << 15
    """Passages to encode to disk."""
    num_peer_passages: int = 1 << 13
    """Passages to encode in the other measurements."""
    peer_batches: tuple[int, ...] = (64, 256, 1024)


class Side(NamedTuple):
    """One way to train or to encode."""

    name: str
    build: Callable[[], Callable[[], Any]]
    """Function that loads the model and returns the call to measure."""
    num_passages: int
    """Passages of one call."""
    operations: float = 0
    """Floating-point operations of one call for real tokens, without embeddings, pooling and optimizer."""
    seconds: float = 20
    """Time that the measurement may take, at most about."""
    num_calls: int = 100
    """Maximum number of calls."""
    is_self_timed: bool = False
    """True if the call returns its seconds."""


@dataclass(frozen=True)
class Workload:
    """Saved model and texts of all sides."""

    sizes: Sizes
    folder: Path
    tokenizer: Tokenizer
    passages: list[str]

    @property
    def encoder_folder(self) -> Path:
        """Folder of the encoder and its tokenizer, which all libraries read."""
        return self.folder / "model" / "question_encoder"


@contextmanager
def build_workload(sizes: Sizes) -> Iterator[Workload]:
    """Save a model with random weights and a collection to a temporary folder."""
    torch.manual_seed(0)
    tokenizer = train_tokenizer([" ".join(WORDS)] * 2, vocab_size=min(8000, sizes.encoder.vocab_size))
    encoder = RobertaEncoder(sizes.encoder)
    passages = write_texts(sizes.num_passages, sizes.nq_tokens, seed=0)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        bundle = BiEncoderBundle(
            model=BiEncoder(encoder, encoder),
            tokenizer=tokenizer,
            question_max_length=sizes.max_length,
            passage_max_length=sizes.max_length,
        )
        bundle.save(folder / "model")
        rows = ({"_id": str(n), "title": "", "text": text} for n, text in enumerate(passages))
        (folder / "corpus.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        yield Workload(sizes, folder, tokenizer, passages)


def write_texts(num: int, mean: float, *, seed: int, is_ragged: bool = True) -> list[str]:
    """Return distinct texts with about this many tokens. Ragged lengths have a standard deviation of a fifth."""
    source = random.Random(seed)
    lengths = (max(4, round(source.gauss(mean, mean / 5))) if is_ragged else round(1.3 * mean) for _ in range(num))
    return [" ".join(source.choices(WORDS, k=length)) for length in lengths]


def count_operations(encoder: RobertaConfig, lengths: Sequence[int], *, is_training: bool) -> float:
    """Return the operations of linear layers and attention. A backward pass counts as two forward passes."""
    hidden, inner, num_layers = encoder.hidden_size, encoder.intermediate_size, encoder.num_hidden_layers
    weights = 4 * hidden * hidden + 2 * hidden * inner
    forward = sum(num_layers * (2 * weights * length + 4 * length * length * hidden) for length in lengths)
    return forward * (3 if is_training else 1)
