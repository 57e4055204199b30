"""Gradients and updated parameters are equal for one process, several ranks, and chunks of any size."""

from __future__ import annotations

import functools
import itertools
import string
from collections.abc import Sequence
from pathlib import Path
from random import Random
from typing import NamedTuple

import pytest
import torch
from torch import Tensor, multiprocessing
from torch.nn.parallel import DistributedDataParallel

from test.ranks import process_group
from text.models import BiEncoder, RobertaConfig, RobertaEncoder
from text.records import BiEncoderBatch, Example, Passage, TokenBatch
from text.training import BiEncoderTask, Objective, objective, task_base
from text.training import distributed as ours
from text.training.batch_sums import BatchSums
from text.transforms import BiEncoderCollator, Tokenize, train_tokenizer

BATCHES = (9, 8, 3)  # with 3 or 4 ranks, shares differ in size; with 4 ranks, one has no question of the last batch
NUM_STEPS = 20
FAULTS = ("detached gather", "wrong offset", "missing number of ranks", "known positives of this rank only")


class Case(NamedTuple):
    """Settings of a short run."""

    num_hard_negatives: int
    chunk_tokens: int | None
    temperature: float
    clip: float | None
    dtype: torch.dtype
    optimizer: str
    num_steps: int


HARD_NEGATIVES, CHUNKS = (0, 1, 7), (None, 30, 100, 400)
STEPS = [
    Case(*settings, "SGD", 1)
    for settings in itertools.product(HARD_NEGATIVES, CHUNKS, (1.0, 0.05), (None, 0.1), (torch.float32, torch.float64))
]
RUNS = [
    Case(*settings, 0.05, 0.1, torch.float64, optimizer, NUM_STEPS)
    for settings in itertools.product(HARD_NEGATIVES, CHUNKS)
    for optimizer in ("SGD", "AdamW")
]
FLOAT32_RUNS = [Case(1, None, 0.05, 0.1, torch.float32, optimizer, NUM_STEPS) for optimizer in ("SGD", "AdamW")]


def examples(num_hard_negatives: int) -> list[list[Example]]:
    """Return batches of questions. Some share a positive; some have a positive that is another's hard negative."""

    def letters(number: int, size: int) -> str:
        return "".join(Random(number).choices(string.ascii_letters, k=size))

    def passage(number: int) -> Passage:
        return Passage(str(number), letters(number, number % 9), letters(100 + number, 3 + 7 * (number % 5)))

    numbers = iter(range(sum(BATCHES)))
    return [
        [
            Example(
                letters(200 + number, 2 + 8 * (number % 4)),
                [],
                [passage(number // 2), passage(number + 5)],
                [passage(number + 7 + i) for i in range(num_hard_negatives)],
                [],
            )
            for number in itertools.islice(numbers, size)
        ]
        for size in BATCHES
    ]


def batches(case: Case) -> list[BiEncoderBatch]:
    """Return this rank's share of each batch."""
    tokenizer = train_tokenizer([], 261)
    collate = BiEncoderCollator(Tokenize(tokenizer, 40), Tokenize(tokenizer, 48))
    rank, num_ranks = ours.get_rank(), ours.get_world_size()
    return [
        collate(batch[len(batch) * rank // num_ranks : len(batch) * (rank + 1) // num_ranks])
        for batch in examples(case.num_hard_negatives)
    ]


class Loss(torch.nn.Module):
    """Module whose forward is the training step, as Lightning wraps it for several ranks."""

    def __init__(self, case: Case) -> None:
        super().__init__()
        torch.manual_seed(0)
        config = RobertaConfig(
            vocab_size=261,
            hidden_size=16,
            num_hidden_layers=1,
            num_attention_heads=2,
            intermediate_size=24,
            max_position_embeddings=50,
            pooling="mean",
            hidden_dropout_prob=0.0,
            attention_probs_dropout_prob=0.0,
        )
        model = BiEncoder(RobertaEncoder(config), RobertaEncoder(config)).to(case.dtype)
        with torch.no_grad():  # larger weights: otherwise embeddings are similar and gradients lose precision
            for name, parameter in model.named_parameters():
                parameter.mul_(3 if "norm" not in name else 1)
        self.task = BiEncoderTask(model, Objective(temperature=case.temperature), chunk_tokens=case.chunk_tokens)

    def forward(self, batch: BiEncoderBatch) -> Tensor:
        losses = self.task.objective(batch, *self.task._embed(batch))
        return ours.scale_for_backward(losses, BatchSums(losses, batch).num_questions)


def train(case: Case) -> dict[str, Tensor]:
    """Return the flattened gradient of the last step, and the parameters after that step."""
    model = Loss(case)
    parameters = list(model.parameters())
    wrapped = DistributedDataParallel(model) if ours.get_world_size() > 1 else model
    # The gradients of key biases are zero up to rounding, which AdamW scales up. A low rate keeps these steps small.
    optimizer = getattr(torch.optim, case.optimizer)(parameters, lr={"SGD": 1e-2, "AdamW": 1e-4}[case.optimizer])
    shares = batches(case)
    for step in range(case.num_steps):
        optimizer.zero_grad()
        wrapped(shares[step % len(shares)]).backward()
        if case.clip is not None:
            torch.nn.utils.clip_grad_norm_(parameters, case.clip)
        optimizer.step()
    gradients = [p.grad if p.grad is not None else torch.zeros_like(p) for p in parameters]
    return {
        "gradient": torch.cat([gradient.flatten() for gradient in gradients]),
        "parameters": torch.cat([p.detach().flatten() for p in parameters]),
    }


def inject_fault(fault: str, patch: pytest.MonkeyPatch) -> None:
    """Inject a fault into this process."""
    if fault == "detached gather":
        detached = staticmethod(lambda ctx, gradient: (gradient[ctx.ranks.start :][: ctx.num_rows], None))
        patch.setattr(ours._Gather, "backward", detached)
    elif fault == "wrong offset":
        right = ours.AllRanks.__init__

        def wrong(self: ours.AllRanks, sizes: Sequence[int]) -> None:
            right(self, sizes)
            self.start = 0

        patch.setattr(ours.AllRanks, "__init__", wrong)
    elif fault == "missing number of ranks":
        for module in (ours, task_base):
            patch.setattr(module, "scale_for_backward", lambda losses, num_questions: losses.sum() / num_questions)
    elif fault == "known positives of this rank only":
        match = objective.match_known_positives

        def match_own(known_positives: Tensor, passage_keys: Tensor) -> Tensor:
            size = len(passage_keys) // ours.get_world_size()
            columns = torch.arange(len(passage_keys))
            return match(known_positives, passage_keys) & (columns // size == ours.get_rank())

        patch.setattr(objective, "match_known_positives", match_own)


def train_on_rank(rank: int, num_ranks: int, cases: list[Case], folder: str, faults: Sequence[str]) -> None:
    torch.set_num_threads(1)
    results = []
    with process_group(rank, num_ranks, folder):
        for fault in faults:
            with pytest.MonkeyPatch.context() as patch:
                inject_fault(fault, patch)
                results += [train(case) for case in cases]
    if rank == 0:
        torch.save(results, f"{folder}/results.pt")


def train_on_ranks(
    num_ranks: int, cases: list[Case], folder: Path, faults: Sequence[str] = ("none",)
) -> list[dict[str, Tensor]]:
    """Return the results of all cases for each fault in turn."""
    arguments = (num_ranks, cases, str(folder), faults)
    multiprocessing.spawn(train_on_rank, arguments, nprocs=num_ranks)  # pyright: ignore[reportPrivateImportUsage]
    return torch.load(folder / "results.pt", weights_only=True)


def relative_error(found: Tensor, expected: Tensor) -> float:
    return float((found - expected).norm() / expected.norm())


@functools.cache
def train_alone(case: Case) -> dict[str, Tensor]:
    """Return the results of one process without chunks."""
    return train(case)


def check_results(found: list[dict[str, Tensor]], cases: list[Case]) -> None:
    for case, result in zip(cases, found, strict=True):
        expected = train_alone(case._replace(chunk_tokens=None))
        errors = {name: relative_error(result[name], expected[name]) for name in expected}
        if case.dtype == torch.float64:
            assert max(errors.values()) < 1e-12, (case, errors)
        elif case.num_steps == 1:
            assert errors["gradient"] < 1e-6, (case, errors)
        else:  # no bound holds, because rounding accumulates and AdamW divides by small numbers, so print the errors
            print(f"{case.optimizer}, float32, {case.num_steps} steps: {errors}")


@pytest.mark.slow
def test_chunks_equal_the_whole_batch_on_one_process() -> None:
    cases = [case for case in STEPS + RUNS[::6] if case.chunk_tokens is not None]
    check_results([train(case) for case in cases], cases)


def test_chunks_of_one_text_equal_the_whole_batch() -> None:
    cases = [Case(1, 1, 1.0, None, torch.float64, "SGD", 1)]
    check_results([train(case) for case in cases], cases)


@pytest.mark.slow
@pytest.mark.parametrize("num_ranks", [2])
def test_one_step_on_ranks_equals_one_process(num_ranks: int, tmp_path: Path) -> None:
    check_results(train_on_ranks(num_ranks, STEPS, tmp_path), STEPS)


@pytest.mark.slow
@pytest.mark.parametrize("num_ranks", [2, 4])
def test_many_steps_on_ranks_equal_one_process(num_ranks: int, tmp_path: Path) -> None:
    cases = STEPS + RUNS + FLOAT32_RUNS
    check_results(train_on_ranks(num_ranks, cases, tmp_path), cases)


@pytest.mark.slow
def test_injected_faults_are_detected(tmp_path: Path) -> None:
    case = Case(1, None, 1.0, None, torch.float64, "SGD", 1)
    right, *found = train_on_ranks(2, [case], tmp_path, ["none", *FAULTS])
    assert relative_error(right["gradient"], train_alone(case)["gradient"]) < 1e-12
    for fault, result in zip(FAULTS, found, strict=True):
        assert relative_error(result["gradient"], train_alone(case)["gradient"]) > 1e-3, fault


@pytest.mark.parametrize("chunk_tokens", [None, 100])
def test_shared_passages_give_the_gradient_of_separate_copies(chunk_tokens: int | None) -> None:
    case = Case(7, chunk_tokens, 0.05, None, torch.float64, "SGD", 1)
    shared = batches(case)[0]
    texts, index = shared.passages, shared.text_index
    fields = [each[index] for each in (texts.input_ids, texts.attention_mask, texts.truncated, texts.empty)]
    copies = shared._replace(
        passages=TokenBatch(*fields, lengths=texts.lengths[index.numpy()]), text_index=torch.arange(len(index))
    )
    assert len(texts.input_ids) < len(index) / 3
    gradients = []
    for batch in (shared, copies):
        model = Loss(case)
        model(batch).backward()
        gradients.append({name: parameter.grad for name, parameter in model.named_parameters()})
    torch.testing.assert_close(*gradients)
