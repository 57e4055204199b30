"""The task: weight decay, learning rate schedules, evaluation, gradient norms, and errors that stop a run."""

from __future__ import annotations

import csv
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from pytorch_lightning import Callback
from torch import nn

from test.training.conftest import Run
from text.datasets import DPRDataPipe
from text.errors import NonFiniteLossError
from text.models import BiEncoder, roberta_tiny
from text.records import BiEncoderBatch, Example
from text.training import BiEncoderTask
from text.training.task_base import compute_gradient_norm, compute_lr_factor
from text.transforms import BiEncoderCollator, Tokenize, train_tokenizer

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*LeafSpec.*:FutureWarning"),
    pytest.mark.filterwarnings("ignore:.*LeafSpec.*:DeprecationWarning"),
]


def test_schedules_by_hand() -> None:
    def list_factors(schedule: str) -> list[float]:
        return [round(compute_lr_factor(schedule, step, 2, 6), 6) for step in range(8)]

    assert list_factors("linear") == [0, 0.5, 1, 0.75, 0.5, 0.25, 0, 0]
    assert list_factors("cosine") == [0, 0.5, 1, 0.853553, 0.5, 0.146447, 0, 0]
    assert list_factors("constant") == [0, 0.5, 1, 1, 1, 1, 1, 1]
    assert compute_lr_factor("linear", 0, 0, 4) == 1


def test_biases_and_layer_norms_have_no_weight_decay() -> None:
    encoder = roberta_tiny(vocab_size=20, projection_dim=8)
    task = BiEncoderTask(BiEncoder(encoder, encoder), weight_decay=0.1)
    decayed, exempt = task._build_parameter_groups()
    assert (decayed["weight_decay"], exempt["weight_decay"]) == (0.1, 0.0)
    assert {p.ndim for p in decayed["params"]} == {2}
    assert {p.ndim for p in exempt["params"]} == {1}
    assert len(decayed["params"]) + len(exempt["params"]) == len(list(encoder.parameters()))
    assert not any(isinstance(m, nn.LayerNorm) and m.weight in set(decayed["params"]) for m in encoder.modules())


@pytest.mark.filterwarnings("ignore:Found .* module.* in eval mode:UserWarning")  # a frozen encoder is in eval mode
def test_a_frozen_encoder_keeps_its_weights(rows: Path, tmp_path: Path) -> None:
    run = Run(rows, tmp_path, max_epochs=1)
    passage_encoder = roberta_tiny(vocab_size=300, pooling="mean")
    run.task.model = BiEncoder(run.task.model.question_encoder, passage_encoder, freeze_passage=True)
    before = run.copy_weights()
    after = run.fit().copy_weights()
    moved = {name.split(".")[1] for name, weights in before.items() if not torch.equal(after[name], weights)}
    assert moved == {"question_encoder"}


@pytest.mark.parametrize("num_workers", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_workers_do_not_change_the_weights(rows: Path, tmp_path: Path, num_workers: int) -> None:
    alone = Run(rows, tmp_path / "0", max_epochs=2).fit().copy_weights()
    with_workers = Run(rows, tmp_path / "n", max_epochs=2, num_workers=num_workers).fit().copy_weights()
    for name, weights in alone.items():
        torch.testing.assert_close(with_workers[name], weights, rtol=0, atol=0)


def test_validation_loss_is_the_mean_over_questions(rows: Path, tmp_path: Path) -> None:
    run = Run(rows, tmp_path)
    [metrics] = run.trainer.validate(run.task, run.data, verbose=False)
    task = run.task.eval()
    total = 0.0
    for examples in DPRDataPipe(rows, 4):  # 4, 4 and 3 questions
        batch: Any = run.data.collate(examples)
        with torch.no_grad():
            total += float(task.objective(batch, *task._embed(batch)).sum())
    assert metrics["valid_loss"] == pytest.approx(total / 11, rel=1e-6)


@pytest.mark.parametrize("accumulated", [1, 2])
def test_non_finite_loss_stops_before_the_update(rows: Path, tmp_path: Path, accumulated: int) -> None:
    run = Run(rows, tmp_path, num_sanity_val_steps=0, accumulate_grad_batches=accumulated)
    with torch.no_grad():
        next(run.task.parameters()).fill_(torch.inf)
    before = run.copy_weights()
    with pytest.raises(NonFiniteLossError, match="step 0, training batch 0: "):
        run.fit()
    for name, weights in run.copy_weights().items():
        assert torch.equal(weights, before[name]), name


class GradientNorms(Callback):
    """Callback that records the gradient norm at each optimizer step, after clipping."""

    def __init__(self) -> None:
        self.norms: list[float] = []

    def on_train_start(self, trainer, pl_module) -> None:
        trainer.optimizers[0].register_step_post_hook(lambda *_: self.norms.append(self.norm(pl_module)))

    def norm(self, module: nn.Module) -> float:
        return float(torch.cat([p.grad.flatten() for p in module.parameters() if p.grad is not None]).norm())


def test_gradients_are_clipped_once_per_optimizer_step(rows: Path, tmp_path: Path) -> None:
    # A step has three batches. The norm of their summed gradient is clipped, not that of each batch.
    norms = GradientNorms()
    options = {"accumulate_grad_batches": 3, "max_epochs": 1, "callbacks": [norms]}
    Run(rows, tmp_path / "clipped", gradient_clip_val=0.05, **options).fit()
    Run(rows, tmp_path / "free", gradient_clip_val=None, **options).fit()
    clipped, free = norms.norms
    assert clipped == pytest.approx(0.05, rel=1e-4)
    assert free > 1


def test_a_step_with_fewer_batches_has_the_mean_gradient_of_these_batches(rows: Path, tmp_path: Path) -> None:
    # An epoch has three batches, so its only step has three, whether accumulate_grad_batches is 5 or 3.
    norms = GradientNorms()
    options = {"max_epochs": 1, "gradient_clip_val": None, "callbacks": [norms]}
    for number in (5, 3):
        Run(rows, tmp_path / str(number), accumulate_grad_batches=number, **options).fit()
    with_five, with_three = norms.norms
    assert with_five == pytest.approx(with_three, rel=1e-5)


class PlainNorms(Callback):
    """Callback that computes the gradient norm of each step in plain Python, before clipping."""

    def __init__(self) -> None:
        self.norms: list[float] = []

    def on_before_optimizer_step(self, trainer, pl_module, optimizer) -> None:
        gradients = (p.grad.flatten().tolist() for p in pl_module.parameters() if p.grad is not None)
        self.norms.append(math.sqrt(sum(value * value for gradient in gradients for value in gradient)))


def test_compute_gradient_norm_by_hand() -> None:
    weights = [torch.zeros(2, requires_grad=True), torch.zeros(1, requires_grad=True), torch.zeros(1)]
    weights[0].grad, weights[1].grad = torch.tensor([2.0, 3.0]), torch.tensor([6.0])
    optimizer = torch.optim.SGD([{"params": weights[:1]}, {"params": weights[1:]}])
    assert compute_gradient_norm(optimizer).item() == 7.0


@pytest.mark.parametrize(("accumulated", "every", "steps"), [(1, 1, range(6)), (2, 1, range(4)), (1, 2, [1, 3, 5])])
def test_metrics_csv_has_the_gradient_norm_before_clipping(
    rows: Path, tmp_path: Path, accumulated: int, every: int, steps: Sequence[int]
) -> None:
    plain = PlainNorms()
    options = {"accumulate_grad_batches": accumulated, "log_every_n_steps": every, "callbacks": [plain]}
    Run(rows, tmp_path, gradient_clip_val=0.01, max_epochs=2, **options).fit()
    with open(tmp_path / "metrics.csv", newline="") as file:
        logged = {int(row["step"]): float(row["gradient_norm"]) for row in csv.DictReader(file) if row["gradient_norm"]}
    assert list(logged) == list(steps)
    assert min(logged.values()) > 0.1
    assert list(logged.values()) == pytest.approx([plain.norms[step] for step in steps], rel=1e-5)


def collate_nothing(examples: Sequence[Example]) -> BiEncoderBatch:
    """Return an empty batch, as if no text had tokens."""
    tokenize = Tokenize(train_tokenizer(["oak"], 300), 32)
    return BiEncoderCollator(tokenize, tokenize)([])


def test_batches_without_questions_leave_the_weights_unchanged(rows: Path, tmp_path: Path) -> None:
    run = Run(rows, tmp_path, max_epochs=1)
    run.data.train_collate = collate_nothing
    before = run.copy_weights()
    after = run.fit().copy_weights()
    assert all(torch.equal(after[name], weights) for name, weights in before.items())
    assert run.trainer.global_step == 3
