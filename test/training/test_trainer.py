"""Runs from start to end: when they validate, what they keep, and what a resumed run does."""

from __future__ import annotations

import csv
import signal
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from pytorch_lightning import Callback

from test.training.conftest import Run
from test.training.test_interrupt import LimitedSavesIO, SignalAt, assert_same_run, are_equal
from text.datasets import DPRDataPipe
from text.errors import ArtifactError, InterruptedRun
from text.training import AtomicCheckpointIO, build_trainer, fit_and_test

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*LeafSpec.*:FutureWarning"),
    pytest.mark.filterwarnings("ignore:.*LeafSpec.*:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:Checkpoint directory .* exists and is not empty:UserWarning"),
]


class FinalWeights(Callback):
    """Keeps the weights that training ended with."""

    def on_train_end(self, trainer: Any, pl_module: torch.nn.Module) -> None:
        self.weights = {name: value.clone() for name, value in pl_module.state_dict().items()}


class Outcome:
    """What a run has left, and how it was made."""

    def __init__(self, folder: Path, run: Run, metrics: Mapping[str, float]) -> None:
        self.folder, self.run, self.metrics = folder, run, metrics
        with open(folder / "metrics.csv", newline="") as file:
            self.rows = list(csv.DictReader(file))

    @property
    def validated_steps(self) -> list[int]:
        """Optimizer steps before each validation."""
        return [int(row["step"]) + 1 for row in self.rows if row.get("valid_loss")]

    def checkpoint(self, name: str) -> dict[str, Any]:
        return AtomicCheckpointIO().load_checkpoint(self.folder / "checkpoints" / f"{name}.ckpt")


def train(rows: Path, folder: Path, *callbacks: Callback, resume: Path | None = None, **options: Any) -> Outcome:
    """Train three epochs of three batches. A resumed run builds everything anew, with other first weights."""
    run = Run(rows, folder / "parts", seed=99 if resume else 0)
    run.task.learning_rate = options.pop("learning_rate", 1e-3)
    checkpoint = None if resume is None else str(resume / "checkpoints/last.ckpt")
    plugins = options.pop("plugins", [])
    options = {"max_epochs": 3, "log_every_n_steps": 1, "monitor": "valid_loss", **options}
    run.trainer = build_trainer(folder, num_batches=3, checkpoint=checkpoint, **options)
    run.trainer.callbacks.extend(callbacks)  # pyright: ignore[reportAttributeAccessIssue]
    for plugin in plugins:
        run.trainer.strategy.checkpoint_io = plugin
    return Outcome(folder, run, fit_and_test(run.trainer, run.task, run.data, checkpoint=checkpoint))


@pytest.mark.parametrize(
    ("every", "accumulate", "validated"),
    [
        (3, 1, [3, 6, 9]),
        (2, 1, [2, 4, 6, 8, 9]),  # the last step is no multiple of the interval
        (20, 1, [9]),  # the run is shorter than the interval
        (2, 2, [2, 4, 6]),  # three batches are two steps, the second of one batch
        (4, 2, [4, 6]),
        (5, 3, [3]),
    ],
)
def test_every_run_validates_and_saves_its_last_step(
    rows: Path, tmp_path: Path, every: int, accumulate: int, validated: list[int]
) -> None:
    final = FinalWeights()
    options: dict[str, Any] = {"validate_every_n_steps": every, "accumulate_batches": accumulate}
    outcome = train(rows, tmp_path, final, **options)
    assert outcome.validated_steps == validated
    assert outcome.checkpoint("last")["global_step"] == validated[-1]
    assert are_equal(outcome.checkpoint("last")["state_dict"], final.weights)
    losses = {int(row["step"]) + 1: float(row["valid_loss"]) for row in outcome.rows if row.get("valid_loss")}
    assert outcome.checkpoint("best")["global_step"] == min(losses, key=lambda step: losses[step])
    assert outcome.metrics["test_loss"] == pytest.approx(min(losses.values()), rel=1e-5)  # the test has the same rows


def test_short_epochs_are_logged_too(tmp_path: Path) -> None:
    for accumulate, steps_between_rows in ((1, 3), (2, 2), (9, 1)):
        trainer = build_trainer(tmp_path, max_epochs=1, num_batches=3, accumulate_batches=accumulate)
        assert trainer.log_every_n_steps == steps_between_rows  # pyright: ignore[reportAttributeAccessIssue]


# Each batch of the run once: in an epoch, at the end of one with and without a validation, and at the end of the run.
@pytest.mark.parametrize("hook", ["on_train_batch_start", "on_validation_batch_start"])
@pytest.mark.parametrize("n", [n if n in (2, 3, 9) else pytest.param(n, marks=pytest.mark.slow) for n in range(1, 10)])
@pytest.mark.parametrize("accumulate", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_run_validated_by_steps_that_is_stopped_and_resumed_leaves_the_same_table(
    rows: Path, tmp_path: Path, hook: str, n: int, accumulate: int
) -> None:
    options: dict[str, Any] = {"validate_every_n_steps": 2, "accumulate_batches": accumulate}
    whole = train(rows, tmp_path / "whole", **options)
    folder = tmp_path / "stopped"
    with pytest.raises(InterruptedRun, match=r"last\.ckpt"):
        train(rows, folder, SignalAt(hook, n if "train" in hook else 2 + n), **options)
    resumed = train(rows, folder, resume=folder, **options)
    assert (folder / "metrics.csv").read_text() == (tmp_path / "whole" / "metrics.csv").read_text()
    assert_same_run(tmp_path / "whole/checkpoints", folder / "checkpoints", table=False)
    assert resumed.metrics == whole.metrics


@pytest.mark.parametrize("n", [1, 2, 3, 5, 9])
def test_epoch_that_is_resumed_has_the_figures_of_the_whole_epoch(rows: Path, tmp_path: Path, n: int) -> None:
    whole = train(rows, tmp_path / "whole")
    losses = [(float(row["train_loss_step"]), 3 if step % 3 == 2 else 4) for step, row in enumerate(steps(whole))]
    means = [sum(loss * size for loss, size in losses[start : start + 3]) / 11 for start in (0, 3, 6)]
    assert epoch_losses(whole) == pytest.approx(means, rel=1e-6)
    folder = tmp_path / "stopped"
    with pytest.raises(InterruptedRun):
        train(rows, folder, SignalAt("on_train_batch_start", n))
    assert epoch_losses(train(rows, folder, resume=folder)) == epoch_losses(whole)
    assert (folder / "metrics.csv").read_text() == (tmp_path / "whole" / "metrics.csv").read_text()


def steps(outcome: Outcome) -> list[dict[str, str]]:
    return [row for row in outcome.rows if row["train_loss_step"]]


def epoch_losses(outcome: Outcome) -> list[float]:
    return [float(row["train_loss_epoch"]) for row in outcome.rows if row["train_loss_epoch"]]


@pytest.mark.parametrize("every", [None, 2])
def test_more_epochs_follow_the_longer_schedule(
    rows: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], every: int | None
) -> None:
    short = train(rows, tmp_path, max_epochs=2, validate_every_n_steps=every)
    assert short.checkpoint("last")["lr_schedulers"][0]["_last_lr"] == [0, 0]
    capsys.readouterr()
    longer = train(rows, tmp_path, resume=tmp_path, max_epochs=4, validate_every_n_steps=every)
    assert longer.run.trainer.global_step == 12
    # Two steps of warm-up to 1e-3, and from there to 0 at step 6, or at step 12.
    expected = [0, 0.5, *(1 - place / 4 for place in range(4)), *(1 - place / 10 for place in range(4, 10))]
    assert [float(row["learning_rate"]) for row in steps(longer)] == pytest.approx([1e-3 * rate for rate in expected])
    printed = capsys.readouterr().out
    assert "nothing was trained" not in printed
    [note] = [line for line in printed.splitlines() if "schedule" in line]
    assert "12" in note and "6" in note and "0.0006" in note
    uninterrupted = [row["epoch"] for row in steps(longer)]
    assert uninterrupted == [str(epoch) for epoch in range(4) for _ in range(3)]


@pytest.mark.parametrize("every", [None, 2])
def test_run_that_early_stopping_ended_stays_ended(
    rows: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], every: int | None
) -> None:
    # Without a rate no figure changes: the first validation is the best, and the next two are not better.
    options: dict[str, Any] = {"learning_rate": 1e-30, "max_epochs": 9, "validate_every_n_steps": every}
    last = 3 * (every or 3)
    ended = train(rows, tmp_path, early_stopping=2, **options)
    assert ended.validated_steps[-1] == ended.checkpoint("last")["global_step"] == last
    assert f"early stopping: valid_loss did not improve on {ended.metrics['test_loss']:.4f}" in capsys.readouterr().out
    before = (tmp_path / "checkpoints/last.ckpt").read_bytes()
    again = train(rows, tmp_path, resume=tmp_path, early_stopping=2, **options)
    assert again.metrics == ended.metrics and (tmp_path / "checkpoints/last.ckpt").read_bytes() == before
    printed = capsys.readouterr().out
    assert "early stopping: valid_loss" in printed and f"step {last}, so nothing was trained" in printed
    assert "schedule" not in printed
    patient = train(rows, tmp_path, resume=tmp_path, early_stopping=3, **options)
    assert patient.checkpoint("last")["global_step"] == last + (every or 3)  # one more validation
    endless = train(rows, tmp_path, resume=tmp_path, **{**options, "max_epochs": 10})
    assert endless.checkpoint("last")["global_step"] == 30


class Forget(Callback):
    """Sets all weights to 0, so that all passages look alike."""

    @torch.no_grad()
    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        for weights in pl_module.parameters():
            weights.zero_()


def test_early_stopping_that_a_resumed_run_begins_with_knows_the_best_figure(rows: Path, tmp_path: Path) -> None:
    trained = train(rows, tmp_path, max_epochs=1)
    [best] = [float(row["valid_loss"]) for row in trained.rows if row["valid_loss"]]
    ended = train(rows, tmp_path, Forget(), resume=tmp_path, max_epochs=5, early_stopping=1)  # one that is worse
    assert ended.validated_steps == [3, 6]
    assert ended.metrics["test_loss"] == pytest.approx(best, rel=1e-5)


@pytest.mark.parametrize("every", [None, 2])
def test_resuming_a_run_that_has_all_its_epochs_says_so(
    rows: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], every: int | None
) -> None:
    whole = train(rows, tmp_path, validate_every_n_steps=every)
    assert "nothing was trained" not in capsys.readouterr().out
    before = {path.name: path.read_bytes() for path in (tmp_path / "checkpoints").iterdir()}
    again = train(rows, tmp_path, resume=tmp_path, validate_every_n_steps=every)
    assert again.rows == whole.rows
    assert "step 9, so nothing was trained" in capsys.readouterr().out
    assert again.metrics == whole.metrics
    assert {path.name: path.read_bytes() for path in (tmp_path / "checkpoints").iterdir()} == before


def test_resumed_in_another_folder_has_both_checkpoints_also_of_a_run_that_was_moved(
    rows: Path, tmp_path: Path
) -> None:
    whole = train(rows, tmp_path / "first")
    (tmp_path / "first").rename(tmp_path / "moved")
    elsewhere = train(rows, tmp_path / "elsewhere", resume=tmp_path / "moved")
    assert elsewhere.metrics == whole.metrics
    for name in ("best.ckpt", "last.ckpt"):
        found = [(tmp_path / folder / "checkpoints" / name).read_bytes() for folder in ("moved", "elsewhere")]
        assert found[0] == found[1]


def test_best_checkpoint_that_is_missing_or_damaged_is_told_before_training(rows: Path, tmp_path: Path) -> None:
    train(rows, tmp_path)
    best = tmp_path / "checkpoints/best.ckpt"
    content = best.read_bytes()
    for change in (best.unlink, lambda: best.write_bytes(content[:-1])):
        change()
        first = SignalAt("on_train_batch_start", 1)
        with pytest.raises(ArtifactError, match=rf"^{best}: "):
            train(rows, tmp_path, first, resume=tmp_path, max_epochs=4)
        assert first.calls == 0


def test_checkpoint_of_another_monitor_or_validation_file_is_refused(rows: Path, tmp_path: Path) -> None:
    train(rows, tmp_path)
    last = tmp_path / "checkpoints/last.ckpt"
    with pytest.raises(ArtifactError, match=rf"^{last}: .*valid_loss.*valid_mrr@10"):
        train(rows, tmp_path, resume=tmp_path, monitor="valid_mrr@10", max_epochs=4)
    other = Run(rows, tmp_path / "other")
    (tmp_path / "other.jsonl").write_text("".join(rows.read_text().splitlines(keepends=True)[:5]))
    other.data.valid = DPRDataPipe(tmp_path / "other.jsonl", 4)
    fingerprints = (DPRDataPipe(rows, 4).fingerprint, other.data.valid.fingerprint)
    with pytest.raises(ArtifactError, match=rf"^{last}: .*other\.jsonl.*{fingerprints[0]}.*{fingerprints[1]}"):
        other.fit(last)


def test_killed_after_each_checkpoint_the_run_goes_on_by_steps(rows: Path, tmp_path: Path) -> None:
    """Validations after steps 2, 4, 6 and so on save two checkpoints each: step 6 is the last of an epoch."""
    whole = train(rows, tmp_path / "whole", validate_every_n_steps=2)
    folder = tmp_path / "stopped"
    for step in (2, 4, 6, 8):
        stop = SignalAt("on_train_batch_start", step + 1, signal.SIGTERM)
        with pytest.raises(InterruptedRun):  # the checkpoint of the signal is lost
            train(rows, folder, stop, validate_every_n_steps=2, plugins=[LimitedSavesIO(num_saves(whole, step))])
        assert AtomicCheckpointIO().load_checkpoint(folder / "checkpoints/last.ckpt")["global_step"] == step
        resumed = train(rows, folder, resume=folder, validate_every_n_steps=2)
        assert resumed.metrics == whole.metrics
        assert (folder / "metrics.csv").read_text() == (tmp_path / "whole" / "metrics.csv").read_text()


def num_saves(whole: Outcome, step: int) -> int:
    """Return how many checkpoints a run has saved after the validation of a step."""
    saves, best = 0, float("inf")
    for row in (row for row in whole.rows if row.get("valid_loss") and int(row["step"]) < step):
        saves += 1 + (float(row["valid_loss"]) < best)
        best = min(best, float(row["valid_loss"]))
    return saves
