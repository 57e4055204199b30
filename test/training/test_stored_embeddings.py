"""Training with stored embeddings and teacher scores: ranks and chunks give the gradients of one process."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, multiprocessing
from torch.nn.parallel import DistributedDataParallel

from test.ranks import process_group
from test.training.test_gradients import Case, Loss, examples, relative_error
from text.records import BiEncoderBatch, Example, hash_text
from text.training import Objective
from text.training import distributed as ours
from text.transforms import BiEncoderCollator, StoredEmbeddings, Tokenize, train_tokenizer

WIDTH = 16
KINDS: dict[str, dict[str, Any]] = {
    "targets": {"embedding_distillation": 0.5},
    "targets alone": {"embedding_distillation": 1.0},
    "frozen passages": {"embedding_distillation": 0.25},
    "margin_mse": {"distillation": 0.5, "distillation_loss": "margin_mse"},
}


def look_up(keys: np.ndarray) -> np.ndarray:
    """Return the (N, D) stored embeddings of N keys."""
    return np.cos((keys % 1000)[:, None] * np.arange(1.0, WIDTH + 1)).astype(np.float32)


def look_up_questions(questions: Sequence[str]) -> np.ndarray:
    return look_up(np.array([hash_text(question) for question in questions], dtype=np.int64))


def choose_stored(kind: str) -> StoredEmbeddings:
    return {
        "frozen passages": StoredEmbeddings(question_targets=look_up_questions, passage_embeddings=look_up),
        "margin_mse": StoredEmbeddings(),
    }.get(kind, StoredEmbeddings(question_targets=look_up_questions, passage_targets=look_up))


def add_scores(example: Example) -> Example:
    pools = {
        name: [each._replace(score=float(int(each.passage_id) % 5)) for each in getattr(example, name)]
        for name in ("positives", "hard_negatives")
    }
    return example._replace(**pools)


def collate_shares(kind: str) -> list[BiEncoderBatch]:
    """Return this rank's share of each batch."""
    tokenizer = train_tokenizer([], 261)
    collate = BiEncoderCollator(Tokenize(tokenizer, 40), Tokenize(tokenizer, 48), stored=choose_stored(kind))
    rank, num_ranks = ours.get_rank(), ours.get_world_size()
    batches = [[add_scores(each) for each in batch] for batch in examples(3)]
    shares = [collate(each[len(each) * rank // num_ranks : len(each) * (rank + 1) // num_ranks]) for each in batches]
    # Lightning converts a batch to the precision of the model.
    doubles = [None if each.passage_embeddings is None else each.passage_embeddings.double() for each in shares]
    return [share._replace(passage_embeddings=each) for share, each in zip(shares, doubles, strict=True)]


def compute_gradients(kind: str, chunk_tokens: int | None = None) -> list[Tensor]:
    """Return the flattened gradients of the batches. The last one has no question on some of 4 ranks."""
    model = Loss(Case(3, chunk_tokens, 1.0, None, torch.float64, "SGD", 1))
    model.task.objective = Objective(**KINDS[kind])
    if kind == "frozen passages":
        model.task.model.passage_encoder.requires_grad_(False)
    wrapped = DistributedDataParallel(model) if ours.get_world_size() > 1 else model
    found = []
    for batch in collate_shares(kind):
        model.zero_grad()
        wrapped(batch).backward()
        gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in model.parameters()]
        found.append(torch.cat([gradient.flatten() for gradient in gradients]))
    return found


def compute_on_rank(rank: int, num_ranks: int, folder: str) -> None:
    torch.set_num_threads(1)
    with process_group(rank, num_ranks, folder):
        found = {kind: compute_gradients(kind) for kind in KINDS}
    if rank == 0:
        torch.save(found, f"{folder}/results.pt")


def check_equal(found: list[Tensor], expected: list[Tensor]) -> None:
    for gradient, right in zip(found, expected, strict=True):
        assert right.norm() > 0 and relative_error(gradient, right) < 1e-10


@pytest.mark.slow
@pytest.mark.parametrize("num_ranks", [2, 4])
def test_ranks_give_the_gradients_of_one_process(num_ranks: int, tmp_path: Path) -> None:
    arguments = (num_ranks, str(tmp_path))
    multiprocessing.spawn(compute_on_rank, arguments, nprocs=num_ranks)  # pyright: ignore[reportPrivateImportUsage]
    found = torch.load(tmp_path / "results.pt", weights_only=True)
    for kind in KINDS:
        check_equal(found[kind], compute_gradients(kind))


@pytest.mark.parametrize("kind", KINDS)
def test_chunks_give_the_gradients_of_the_whole_batch(kind: str) -> None:
    check_equal(compute_gradients(kind, chunk_tokens=60), compute_gradients(kind))


def test_frozen_passages_are_not_encoded() -> None:
    model = Loss(Case(3, None, 1.0, None, torch.float64, "SGD", 1))
    model.task.model.passage_encoder = torch.nn.Identity()  # It would fail if it were called.
    batch = collate_shares("frozen passages")[0]
    questions, passages = model.task._embed(batch)
    assert passages is batch.passage_embeddings and len(passages) == len(batch.owner) and questions.requires_grad


def test_the_collator_looks_up_each_passage_and_kept_question() -> None:
    tokenizer = train_tokenizer([], 261)
    collate = BiEncoderCollator(Tokenize(tokenizer, 40), Tokenize(tokenizer, 48), stored=choose_stored("targets"))
    first, second = examples(1)[0][:2]
    batch = collate([first, second._replace(question=""), second])  # The blank question is left out.
    expected = look_up_questions([first.question, second.question])
    assert batch.question_targets is not None and np.array_equal(batch.question_targets.numpy(), expected)
    keys = [p.keys[0] for each in (first, second) for p in (each.positives[0], each.hard_negatives[0]) if p.text]
    assert batch.passage_targets is not None and np.array_equal(batch.passage_targets.numpy(), look_up(np.array(keys)))
    assert batch.passage_embeddings is None
    empty = collate([])
    assert empty.question_targets is not None and empty.question_targets.shape == (0, WIDTH)
