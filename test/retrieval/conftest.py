"""Fixtures and helpers: a collection, a saved model, embeddings with given numbers, and forked processes."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from test.helpers import save_model, texts, write_collection
from text.datasets import PassageCollection
from text.retrieval import Embedder, EmbeddingShards, encode_collection
from text.retrieval.embedder import EmbeddedBatch

NUM_PASSAGES = 23


@pytest.fixture
def collection(tmp_path: Path) -> PassageCollection:
    return write_collection(tmp_path / "corpus.jsonl", [f"p{n}" for n in range(NUM_PASSAGES)], texts(NUM_PASSAGES))


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_model(tmp_path_factory.mktemp("model"), seed=0)


class FixedEmbedder(Embedder):
    """An embedder with given embeddings. The text of a passage is the row of its embedding. Odd rows are truncated."""

    def __init__(self, embeddings: np.ndarray) -> None:
        self.embeddings = torch.from_numpy(embeddings)
        self.encoder: Any = SimpleNamespace(embedding_dim=embeddings.shape[1])
        self.model_hashes, self.settings, self.similarity = {"weights": "given"}, {"similarity": "dot"}, "dot"
        self.max_tokens = 1 << 17

    def choose_max_tokens(self) -> int:
        return 0

    def tokenize(self, texts: Any) -> Any:
        rows = torch.tensor([int(passage.text) for passage in texts])
        return SimpleNamespace(input_ids=rows, truncated=rows % 2 == 1)

    def embed_in_batches(self, tokens: Any, start: int = 0, **options: Any) -> Iterator[EmbeddedBatch]:
        for place in range(start, len(tokens.input_ids)):
            yield EmbeddedBatch([place], self.embeddings[tokens.input_ids[place : place + 1]].float())


def write_shards(
    folder: Path, embeddings: np.ndarray, ids: Sequence[str] | None = None, **options: Any
) -> EmbeddingShards:
    """Encode a collection so that its passages have the given embeddings."""
    folder.mkdir(parents=True, exist_ok=True)
    ids = ids or [f"p{row}" for row in range(len(embeddings))]
    passages = write_collection(folder / "corpus.jsonl", ids, [str(row) for row in range(len(embeddings))])
    options = {"dtype": "float32", "shard_rows": 8, "block_rows": 4} | options
    return encode_collection(FixedEmbedder(embeddings), passages, folder / "embeddings", **options)


def run_forked(work: Callable[[], None], seconds: float | None = None) -> int:
    """Run the work in a forked process, and return its exit code: 4 for an OSError, negative for a signal.

    With ``seconds``, the process is killed after this time.
    """
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            torch.set_num_threads(1)
            work()
            code = 0
        except OSError:
            code = 4
        finally:
            os._exit(code)
    if seconds is not None:
        time.sleep(seconds)
        os.kill(pid, signal.SIGKILL)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
