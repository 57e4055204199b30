"""Complete runs: when they validate, which checkpoints they save, and how they resume."""

from __future__ import annotations

import csv
import pickle
import signal
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from pytorch_lightning import Callback

from test.training.conftest import Run
from test.training.test_interrupt import LimitedSavesIO, SignalAt, are_equal, assert_same_run
from text.datasets import DPRDataPipe
from text.errors import ArtifactError, InterruptedRun, UsageError
from text.training import AtomicCheckpointIO, TensorFloat32, build_trainer, fit_and_test
from text.training.trainer import choose_tf32

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*LeafSpec.*:FutureWarning"),
    pytest.mark.filterwarnings("ignore:.*LeafSpec.*:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:Checkpoint directory .* exists and is not empty:UserWarning"),
]


class FinalWeights(Callback):
    """Callback that keeps the weights at the end of training."""

    def on_train_end(self, trainer: Any, pl_module: torch.nn.Module) -> None:
        self.weights = {name: value.clone() for name, value in pl_module.state_dict().items()}


class Outcome:
    """Results of a run: its files, its parts and its metrics."""

    def __init__(self, folder: Path, run: Run, metrics: Mapping[str, float]) -> None:
        self.folder, self.run, self.metrics = folder, run, metrics
        with open(folder / "metrics.csv", newline="") as file:
            self.rows = list(csv.DictReader(file))

    @property
    def validated_steps(self) -> list[int]:
        """Number of optimizer steps before each validation."""
        return [int(row["step"]) + 1 for row in self.rows if row.get("valid_loss")]

    def load_checkpoint(self, name: str) -> dict[str, Any]:
        return AtomicCheckpointIO().load_checkpoint(self.folder / "checkpoints" / f"{name}.ckpt")


@pytest.mark.parametrize(
    ("tf32", "gpus", "precision", "capability", "expected"),
    [
        (None, 1, "32-true", (9, 0), True),
        (True, 1, "32-true", (8, 0), True),
        (False, 1, "32-true", (9, 0), False),
        (None, 1, "32-true", (7, 5), False),
        (None, 1, "bf16-mixed", (9, 0), False),
        (None, 0, "32-true", None, False),
        (False, 0, "32-true", None, False),
    ],
)
def test_a_gpu_that_has_tf32_uses_it_for_float32(
    monkeypatch: pytest.MonkeyPatch, tf32: Any, gpus: int, precision: str, capability: Any, expected: bool
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: capability)
    assert choose_tf32(tf32, gpus=gpus, precision=precision) is expected


@pytest.mark.parametrize(
    ("gpus", "precision", "capability"),
    [(0, "32-true", None), (1, "32-true", (7, 5)), (1, "16-mixed", (9, 0))],
)
def test_tf32_without_an_effect_is_refused(
    monkeypatch: pytest.MonkeyPatch, gpus: int, precision: str, capability: Any
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: capability)
    with pytest.raises(UsageError, match="--tf32"):
        choose_tf32(True, gpus=gpus, precision=precision)


class MatmulPrecision(Callback):
    """Callback that keeps the precision of matrix products during training."""

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        self.precision = torch.get_float32_matmul_precision()


def test_tf32_holds_during_training_only(rows: Path, tmp_path: Path) -> None:
    seen = MatmulPrecision()
    Run(rows, tmp_path, callbacks=[TensorFloat32(), seen], max_epochs=1).fit()
    assert (seen.precision, torch.get_float32_matmul_precision()) == ("high", "highest")


class FailingStep(Callback):
    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        raise RuntimeError("a step failed")


def test_tf32_ends_with_a_run_that_fails(rows: Path, tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="a step failed"):
        Run(rows, tmp_path, callbacks=[TensorFloat32(), FailingStep()], max_epochs=1).fit()
    assert torch.get_float32_matmul_precision() == "highest"


def train(rows: Path, folder: Path, *callbacks: Callback, resume: Path | None = None, **options: Any) -> Outcome:
    """Train three epochs of three batches. A resumed run starts from scratch, with other initial weights."""
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
        (2, 1, [2, 4, 6, 8, 9]),  # the last step is not a multiple of the interval
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
    assert outcome.load_checkpoint("last")["global_step"] == validated[-1]
    assert are_equal(outcome.load_checkpoint("last")["state_dict"], final.weights)
    losses = {int(row["step"]) + 1: float(row["valid_loss"]) for row in outcome.rows if row.get("valid_loss")}
    assert outcome.load_checkpoint("best")["global_step"] == min(losses, key=lambda step: losses[step])
    assert outcome.metrics["test_loss"] == pytest.approx(
        min(losses.values()), rel=1e-5
    )  # test and validation rows are the same


def test_epochs_shorter_than_the_log_interval_are_logged(tmp_path: Path) -> None:
    for accumulate, steps_between_rows in ((1, 3), (2, 2), (9, 1)):
        trainer = build_trainer(tmp_path, max_epochs=1, num_batches=3, accumulate_batches=accumulate)
        assert trainer.log_every_n_steps == steps_between_rows  # pyright: ignore[reportAttributeAccessIssue]


# Stop at each batch: inside an epoch, at its end with and without a validation, and at the end of the run.
@pytest.mark.parametrize("hook", ["on_train_batch_start", "on_validation_batch_start"])
@pytest.mark.parametrize("n", [n if n == 3 else pytest.param(n, marks=pytest.mark.slow) for n in range(1, 10)])
@pytest.mark.parametrize("accumulate", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_a_resumed_run_that_validates_by_steps_writes_the_same_metrics(
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


@pytest.mark.parametrize("n", [n if n in (1, 5) else pytest.param(n, marks=pytest.mark.slow) for n in (1, 2, 3, 5, 9)])
def test_a_resumed_epoch_has_the_metrics_of_the_whole_epoch(rows: Path, tmp_path: Path, n: int) -> None:
    whole = train(rows, tmp_path / "whole")
    losses = [
        (float(row["train_loss_step"]), 3 if step % 3 == 2 else 4) for step, row in enumerate(list_step_rows(whole))
    ]
    means = [sum(loss * size for loss, size in losses[start : start + 3]) / 11 for start in (0, 3, 6)]
    assert list_epoch_losses(whole) == pytest.approx(means, rel=1e-6)
    folder = tmp_path / "stopped"
    with pytest.raises(InterruptedRun):
        train(rows, folder, SignalAt("on_train_batch_start", n))
    assert list_epoch_losses(train(rows, folder, resume=folder)) == list_epoch_losses(whole)
    assert (folder / "metrics.csv").read_text() == (tmp_path / "whole" / "metrics.csv").read_text()


def list_step_rows(outcome: Outcome) -> list[dict[str, str]]:
    return [row for row in outcome.rows if row["train_loss_step"]]


def list_epoch_losses(outcome: Outcome) -> list[float]:
    return [float(row["train_loss_epoch"]) for row in outcome.rows if row["train_loss_epoch"]]


@pytest.mark.parametrize("every", [None, 2])
def test_more_epochs_follow_the_longer_schedule(
    rows: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], every: int | None
) -> None:
    short = train(rows, tmp_path, max_epochs=2, validate_every_n_steps=every)
    assert short.load_checkpoint("last")["lr_schedulers"][0]["_last_lr"] == [0, 0]
    capsys.readouterr()
    longer = train(rows, tmp_path, resume=tmp_path, max_epochs=4, validate_every_n_steps=every)
    assert longer.run.trainer.global_step == 12
    # Two warmup steps to 1e-3, and a linear decay to 0 at step 6, or at step 12 after the resume.
    expected = [0, 0.5, *(1 - place / 4 for place in range(4)), *(1 - place / 10 for place in range(4, 10))]
    assert [float(row["learning_rate"]) for row in list_step_rows(longer)] == pytest.approx(
        [1e-3 * rate for rate in expected]
    )
    printed = capsys.readouterr().out
    assert "nothing was trained" not in printed
    [note] = [line for line in printed.splitlines() if "schedule" in line]
    assert "12" in note and "6" in note and "0.0006" in note
    uninterrupted = [row["epoch"] for row in list_step_rows(longer)]
    assert uninterrupted == [str(epoch) for epoch in range(4) for _ in range(3)]


@pytest.mark.parametrize("every", [pytest.param(None, marks=pytest.mark.slow), 2])
def test_a_run_that_stopped_early_trains_no_further(
    rows: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], every: int | None
) -> None:
    # Without a learning rate no metric changes, so the first validation is the best.
    options: dict[str, Any] = {"learning_rate": 1e-30, "max_epochs": 9, "validate_every_n_steps": every}
    last = 3 * (every or 3)
    ended = train(rows, tmp_path, early_stopping=2, **options)
    assert ended.validated_steps[-1] == ended.load_checkpoint("last")["global_step"] == last
    assert f"early stopping: valid_loss did not improve on {ended.metrics['test_loss']:.4f}" in capsys.readouterr().out
    before = (tmp_path / "checkpoints/last.ckpt").read_bytes()
    again = train(rows, tmp_path, resume=tmp_path, early_stopping=2, **options)
    assert again.metrics == ended.metrics and (tmp_path / "checkpoints/last.ckpt").read_bytes() == before
    printed = capsys.readouterr().out
    assert "early stopping: valid_loss" in printed and f"step {last}, so nothing was trained" in printed
    assert "schedule" not in printed
    patient = train(rows, tmp_path, resume=tmp_path, early_stopping=3, **options)
    assert patient.load_checkpoint("last")["global_step"] == last + (every or 3)  # one more validation
    endless = train(rows, tmp_path, resume=tmp_path, **{**options, "max_epochs": 10})
    assert endless.load_checkpoint("last")["global_step"] == 30


class ZeroWeights(Callback):
    """Callback that sets all weights to 0, so that all passages get the same embedding."""

    @torch.no_grad()
    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        for weights in pl_module.parameters():
            weights.zero_()


def test_early_stopping_that_starts_in_a_resumed_run_knows_the_best_metric(rows: Path, tmp_path: Path) -> None:
    trained = train(rows, tmp_path, max_epochs=1)
    [best] = [float(row["valid_loss"]) for row in trained.rows if row["valid_loss"]]
    ended = train(
        rows, tmp_path, ZeroWeights(), resume=tmp_path, max_epochs=5, early_stopping=1
    )  # the next one is worse
    assert ended.validated_steps == [3, 6]
    assert ended.metrics["test_loss"] == pytest.approx(best, rel=1e-5)


@pytest.mark.parametrize("every", [None, 2])
def test_resuming_a_complete_run_prints_a_note(
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


def test_resuming_a_moved_run_in_another_folder_copies_both_checkpoints(rows: Path, tmp_path: Path) -> None:
    whole = train(rows, tmp_path / "first")
    (tmp_path / "first").rename(tmp_path / "moved")
    elsewhere = train(rows, tmp_path / "elsewhere", resume=tmp_path / "moved")
    assert elsewhere.metrics == whole.metrics
    for name in ("best.ckpt", "last.ckpt"):
        found = [(tmp_path / folder / "checkpoints" / name).read_bytes() for folder in ("moved", "elsewhere")]
        assert found[0] == found[1]


def test_a_missing_or_damaged_best_checkpoint_is_reported_before_training(rows: Path, tmp_path: Path) -> None:
    train(rows, tmp_path)
    best = tmp_path / "checkpoints/best.ckpt"
    content = best.read_bytes()
    for change in (best.unlink, lambda: best.write_bytes(content[:-1])):
        change()
        first = SignalAt("on_train_batch_start", 1)
        with pytest.raises(ArtifactError, match=rf"^{best}: "):
            train(rows, tmp_path, first, resume=tmp_path, max_epochs=4)
        assert first.calls == 0


def test_a_checkpoint_with_another_monitor_or_validation_file_is_rejected(rows: Path, tmp_path: Path) -> None:
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


@pytest.mark.slow
def test_a_run_killed_after_any_checkpoint_resumes_with_the_same_results(rows: Path, tmp_path: Path) -> None:
    """Validate after steps 2, 4, 6 and 8, and save up to two checkpoints each. Step 6 is the last of an epoch."""
    whole = train(rows, tmp_path / "whole", validate_every_n_steps=2)
    folder = tmp_path / "stopped"
    for step in (2, 4, 6, 8):
        stop = SignalAt("on_train_batch_start", step + 1, signal.SIGTERM)
        with pytest.raises(InterruptedRun):  # the checkpoint of the signal is dropped
            train(rows, folder, stop, validate_every_n_steps=2, plugins=[LimitedSavesIO(count_saves(whole, step))])
        assert AtomicCheckpointIO().load_checkpoint(folder / "checkpoints/last.ckpt")["global_step"] == step
        resumed = train(rows, folder, resume=folder, validate_every_n_steps=2)
        assert resumed.metrics == whole.metrics
        assert (folder / "metrics.csv").read_text() == (tmp_path / "whole" / "metrics.csv").read_text()


def count_saves(whole: Outcome, step: int) -> int:
    """Return the number of checkpoints that a run has saved after the validation of a step."""
    saves, best = 0, float("inf")
    for row in (row for row in whole.rows if row.get("valid_loss") and int(row["step"]) < step):
        saves += 1 + (float(row["valid_loss"]) < best)
        best = min(best, float(row["valid_loss"]))
    return saves


def test_checkpoints_of_a_gpu_load_on_a_machine_without_one(
    rows: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    load, places = torch.load, []

    def load_and_record(*arguments: Any, map_location: Any = None, **options: Any) -> Any:
        places.append(map_location)
        return load(*arguments, map_location=map_location, **options)

    monkeypatch.setattr(torch, "load", load_and_record)
    monkeypatch.setattr(torch.serialization, "location_tag", lambda storage: "cuda:0")
    train(rows, tmp_path / "run", max_epochs=1)  # tests best.ckpt at the end
    if not torch.cuda.is_available():
        with pytest.raises((RuntimeError, pickle.UnpicklingError), match="CUDA"):
            load(tmp_path / "run/checkpoints/last.ckpt", weights_only=True)
    resumed = train(rows, tmp_path / "run", resume=tmp_path / "run", max_epochs=2)
    assert resumed.load_checkpoint("last")["global_step"] == 6
    assert set(places) == {"cpu"}
