"""One process, several ranks, and chunks of any size: the same gradients, and the same parameters after them."""

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
from text.training import BiEncoderTask, Objective, objective, task
from text.training import distributed as ours
from text.transforms import BiEncoderCollator, Tokenize, train_tokenizer

BATCHES = (9, 8, 3)  # of three ranks, and of four, some have a question more; of the last batch, one of four has none
NUM_STEPS = 20
FAULTS = ("detached gather", "wrong offset", "missing number of ranks", "known positives of this rank only")


class Case(NamedTuple):
    """What a run of some steps depends on."""

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
    """Batches of questions, some of which share a positive, or have another's hard negative as their positive."""

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
    """This rank's shares."""
    tokenizer = train_tokenizer([], 261)
    collate = BiEncoderCollator(Tokenize(tokenizer, 40), Tokenize(tokenizer, 48))
    rank, num_ranks = ours.get_rank(), ours.get_world_size()
    return [
        collate(batch[len(batch) * rank // num_ranks : len(batch) * (rank + 1) // num_ranks])
        for batch in examples(case.num_hard_negatives)
    ]


class Loss(torch.nn.Module):
    """What Lightning wraps for several ranks: a task whose forward is the training step."""

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
        with torch.no_grad():  # apart, so that gradients are not what is left of differences of like numbers
            for name, parameter in model.named_parameters():
                parameter.mul_(3 if "norm" not in name else 1)
        self.task = BiEncoderTask(model, Objective(temperature=case.temperature), chunk_tokens=case.chunk_tokens)

    def forward(self, batch: BiEncoderBatch) -> Tensor:
        losses = self.task.objective(batch, *self.task._embed(batch))
        return ours.scale_for_backward(losses, self.task._average_over_ranks(losses)[1])


def train(case: Case) -> dict[str, Tensor]:
    """The gradient of the last step and the parameters after it, flat."""
    model = Loss(case)
    parameters = list(model.parameters())
    wrapped = DistributedDataParallel(model) if ours.get_world_size() > 1 else model
    # AdamW makes steps of the rounding of gradients that are zero, those of key biases: small ones at such a rate.
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


def plant(fault: str, patch: pytest.MonkeyPatch) -> None:
    """Makes this process wrong."""
    if fault == "detached gather":
        detached = staticmethod(lambda ctx, gradient: (gradient[ctx.ranks.start :][: ctx.num_rows], None))
        patch.setattr(ours._Gather, "backward", detached)
    elif fault == "wrong offset":
        right = ours.AllRanks.__init__

        def wrong(self: ours.AllRanks, num_rows: int, device: torch.device) -> None:
            right(self, num_rows, device)
            self.start = 0

        patch.setattr(ours.AllRanks, "__init__", wrong)
    elif fault == "missing number of ranks":
        for module in (ours, task):
            patch.setattr(module, "scale_for_backward", lambda losses, num_questions: losses.sum() / num_questions)
    elif fault == "known positives of this rank only":
        right_pairs = objective.known_positive_pairs

        def own(known_positives: Tensor, passage_keys: Tensor) -> Tensor:
            size = len(passage_keys) // ours.get_world_size()
            start = size * ours.get_rank()
            pairs = right_pairs(known_positives, passage_keys)
            return pairs[(pairs[:, 1] >= start) & (pairs[:, 1] < start + size)]

        patch.setattr(objective, "known_positive_pairs", own)


def on_rank(rank: int, num_ranks: int, cases: list[Case], folder: str, faults: Sequence[str]) -> None:
    torch.set_num_threads(1)
    results = []
    with process_group(rank, num_ranks, folder):
        for fault in faults:
            with pytest.MonkeyPatch.context() as patch:
                plant(fault, patch)
                results += [train(case) for case in cases]
    if rank == 0:
        torch.save(results, f"{folder}/results.pt")


def on_ranks(
    num_ranks: int, cases: list[Case], folder: Path, faults: Sequence[str] = ("none",)
) -> list[dict[str, Tensor]]:
    """Of each fault, the results of all cases."""
    arguments = (num_ranks, cases, str(folder), faults)
    multiprocessing.spawn(on_rank, arguments, nprocs=num_ranks)  # pyright: ignore[reportPrivateImportUsage]
    return torch.load(folder / "results.pt", weights_only=True)


def error(found: Tensor, expected: Tensor) -> float:
    return float((found - expected).norm() / expected.norm())


@functools.cache
def alone(case: Case) -> dict[str, Tensor]:
    """By one process, without chunks."""
    return train(case)


def check(found: list[dict[str, Tensor]], cases: list[Case]) -> None:
    for case, result in zip(cases, found, strict=True):
        expected = alone(case._replace(chunk_tokens=None))
        errors = {name: error(result[name], expected[name]) for name in expected}
        if case.dtype == torch.float64:
            assert max(errors.values()) < 1e-12, (case, errors)
        elif case.num_steps == 1:
            assert errors["gradient"] < 1e-6, (case, errors)
        else:  # rounding adds up, and AdamW divides by small numbers: no bound, but these are the figures
            print(f"{case.optimizer}, float32, {case.num_steps} steps: {errors}")


@pytest.mark.slow
def test_chunks_equal_the_whole_on_one_process() -> None:
    cases = [case for case in STEPS + RUNS[::6] if case.chunk_tokens is not None]
    check([train(case) for case in cases], cases)


def test_a_chunk_may_be_one_text() -> None:
    cases = [Case(1, 1, 1.0, None, torch.float64, "SGD", 1)]
    check([train(case) for case in cases], cases)


@pytest.mark.slow
@pytest.mark.parametrize("num_ranks", [2])
def test_a_step_of_ranks_equals_that_of_one_process(num_ranks: int, tmp_path: Path) -> None:
    check(on_ranks(num_ranks, STEPS, tmp_path), STEPS)


@pytest.mark.slow
@pytest.mark.parametrize("num_ranks", [2, 4])
def test_many_steps_of_ranks_equal_those_of_one_process(num_ranks: int, tmp_path: Path) -> None:
    cases = STEPS + RUNS + FLOAT32_RUNS
    check(on_ranks(num_ranks, cases, tmp_path), cases)


@pytest.mark.slow
def test_planted_faults_are_seen(tmp_path: Path) -> None:
    case = Case(1, None, 1.0, None, torch.float64, "SGD", 1)
    right, *found = on_ranks(2, [case], tmp_path, ["none", *FAULTS])
    assert error(right["gradient"], alone(case)["gradient"]) < 1e-12
    for fault, result in zip(FAULTS, found, strict=True):
        assert error(result["gradient"], alone(case)["gradient"]) > 1e-3, fault


@pytest.mark.parametrize("chunk_tokens", [None, 100])
def test_a_shared_passage_has_the_gradient_of_its_copies(chunk_tokens: int | None) -> None:
    case = Case(7, chunk_tokens, 0.05, None, torch.float64, "SGD", 1)
    shared = batches(case)[0]
    texts, index = shared.passages, shared.text_index
    copies = shared._replace(
        passages=TokenBatch(*(field[index] for field in texts)), text_index=torch.arange(len(index))
    )
    assert len(texts.input_ids) < len(index) / 3
    gradients = []
    for batch in (shared, copies):
        model = Loss(case)
        model(batch).backward()
        gradients.append({name: parameter.grad for name, parameter in model.named_parameters()})
    torch.testing.assert_close(*gradients)
