"""A signal at any moment: all ranks save once and stop alike, and the run that goes on is the undisturbed one."""

from __future__ import annotations

import os
import signal
import socket
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from pytorch_lightning import Callback
from pytorch_lightning.utilities import rank_zero_only
from torch import multiprocessing

from test.training.conftest import Run
from text.errors import InterruptedRun
from text.training import AtomicCheckpointIO, SaveOnSignal, build_checkpoint_callbacks
from text.training.interrupt import SIGNALS
from text.training.lightning_internals import validate_by_steps

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*LeafSpec.*:FutureWarning"),
    pytest.mark.filterwarnings("ignore:.*LeafSpec.*:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:Checkpoint directory .* exists and is not empty:UserWarning"),
]
FILES = ("best.ckpt", "last.ckpt")
STATE = ("state_dict", "optimizer_states", "lr_schedulers", "global_step", "DPRDataModule")


class SignalAt(Callback):
    """Sends this process a signal when a hook is called for the nth time; counts saves."""

    def __init__(self, hook: str, n: int, signum: int = signal.SIGTERM) -> None:
        self.calls, self.saves = 0, 0

        def called(*_: Any) -> None:
            self.calls += 1
            if self.calls == n:
                os.kill(os.getpid(), signum)

        setattr(self, hook, called)


class RecordingIO(AtomicCheckpointIO):
    def __init__(self) -> None:
        self.saved: list[str] = []

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        self.saved.append(Path(path).name)
        super().save_checkpoint(checkpoint, path, storage_options)


def build_run(rows: Path, folder: Path, *callbacks: Callback, **options: Any) -> Run:
    monitor = "valid_loss" if options.get("validate", True) else None
    callbacks = (SaveOnSignal(folder / "last.ckpt"), *build_checkpoint_callbacks(folder, monitor), *callbacks)
    return Run(rows, folder, callbacks=list(callbacks), enable_checkpointing=True, **options)


def resume_run(rows: Path, folder: Path, *callbacks: Callback, **options: Any) -> Run:
    checkpoint = folder / "last.ckpt"
    steps = AtomicCheckpointIO().load_checkpoint(checkpoint)["global_step"]
    return build_run(rows, folder, *callbacks, seed=99, keep_steps=steps, **options).fit(checkpoint)


def are_equal(a: Any, b: Any) -> bool:
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(are_equal(a[name], b[name]) for name in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(are_equal, a, b))
    return torch.are_equal(a, b) if isinstance(a, torch.Tensor) else a == b


def assert_same_run(one: Path, other: Path, files: Sequence[str] = FILES, *, table: bool = True) -> None:
    for file in files:
        states = [AtomicCheckpointIO().load_checkpoint(folder / file) for folder in (one, other)]
        for name in STATE:
            assert are_equal(states[0][name], states[1][name]), f"{file}: {name}"
        assert are_equal(states[0]["callbacks"]["RandomState"], states[1]["callbacks"]["RandomState"]), file
    if table:
        assert (one / "metrics.csv").read_text() == (other / "metrics.csv").read_text()


@pytest.fixture
def whole(rows: Path, tmp_path: Path) -> Path:
    build_run(rows, tmp_path / "whole").fit()
    return tmp_path / "whole"


# 3 steps and 3 batches of validation an epoch.
@pytest.mark.parametrize(
    ("hook", "n", "signum", "step"),
    [
        ("on_train_batch_start", 2, signal.SIGTERM, 2),
        ("on_after_backward", 5, signal.SIGINT, 5),
        ("on_after_backward", 5, signal.SIGHUP, 5),
        ("on_train_batch_end", 1, signal.SIGUSR1, 2),  # sent after ours was called
        ("on_train_batch_start", 6, signal.SIGTERM, 6),  # the last of an epoch
        ("on_validation_batch_start", 4, signal.SIGTERM, 3),  # the first of the sanity check's are 1 and 2
        ("on_validation_batch_start", 8, signal.SIGINT, 6),
        ("on_validation_end", 3, signal.SIGTERM, 7),  # after the sanity check's: before the save of an epoch
        ("on_save_checkpoint", 2, signal.SIGTERM, 4),  # of last.ckpt
        ("on_save_checkpoint", 3, signal.SIGUSR1, 7),
        ("on_train_batch_start", 9, signal.SIGTERM, 9),  # the last of all
    ],
)
def test_run_stopped_by_a_signal_and_resumed_is_the_undisturbed_one(
    rows: Path, whole: Path, tmp_path: Path, hook: str, n: int, signum: int, step: int
) -> None:
    folder = tmp_path / "stopped"
    handlers = {signum: signal.getsignal(signum) for signum in SIGNALS}
    recording = RecordingIO()
    name = signal.Signals(signum).name
    with pytest.raises(InterruptedRun, match=rf"\b{name}\b.* step {step}\b.*last\.ckpt"):
        build_run(rows, folder, SignalAt(hook, n, signum), plugins=[recording]).fit()
    assert {signum: signal.getsignal(signum) for signum in handlers} == handlers
    assert len(recording.saved) % 2 == 1 and recording.saved[-1] == "last.ckpt"  # pairs at the ends of epochs, and one
    resumed = resume_run(rows, folder)
    assert resumed.trainer.global_step == 9
    assert_same_run(whole, folder)


@pytest.mark.parametrize("hook", ["on_train_batch_start", "on_validation_batch_start"])
@pytest.mark.parametrize("n", [n if n in (2, 5) else pytest.param(n, marks=pytest.mark.slow) for n in range(1, 10)])
def test_run_with_validations_within_epochs_stopped_and_resumed_is_the_undisturbed_one(
    rows: Path, tmp_path: Path, hook: str, n: int
) -> None:
    every = {"val_check_interval": 2, "check_val_every_n_epoch": None}  # after steps 2, 4, 6 and 8
    whole = build_run(rows, tmp_path / "whole", **every).fit()
    folder = tmp_path / "stopped"
    with pytest.raises(InterruptedRun, match=r"last\.ckpt"):
        build_run(rows, folder, SignalAt(hook, n if "train" in hook else 2 + n), **every).fit()
    resumed = resume_run(rows, folder, **every)
    assert are_equal(resumed.copy_weights(), whole.copy_weights())
    assert_same_run(tmp_path / "whole", folder, ["best.ckpt"])  # the last is of the last validation, or of the signal


@pytest.mark.parametrize(
    ("hook", "n", "step"),
    [
        ("on_train_batch_start", 3, 3),  # the last of an epoch
        pytest.param("on_train_batch_start", 2, 2, marks=pytest.mark.slow),
        pytest.param("on_save_checkpoint", 1, 4, marks=pytest.mark.slow),
        pytest.param("on_train_batch_start", 9, 9, marks=pytest.mark.slow),
    ],
)
def test_run_without_validation_stopped_and_resumed_is_the_undisturbed_one(
    rows: Path, tmp_path: Path, hook: str, n: int, step: int
) -> None:
    whole = build_run(rows, tmp_path / "whole", validate=False).fit()
    folder = tmp_path / "stopped"
    with pytest.raises(InterruptedRun, match=rf" step {step}\b.*last\.ckpt"):
        build_run(rows, folder, SignalAt(hook, n), validate=False).fit()
    resumed = resume_run(rows, folder, validate=False)
    assert resumed.trainer.global_step == 9 and are_equal(resumed.copy_weights(), whole.copy_weights())
    assert_same_run(tmp_path / "whole", folder, ["last.ckpt"])
    assert sorted(path.name for path in folder.glob("*.ckpt")) == ["last.ckpt"]


def test_two_signals_of_a_job_that_is_stopped_are_one(rows: Path, tmp_path: Path) -> None:
    """As from a terminal, and from a parent process that passes it on."""

    class SendTwoSignals(Callback):
        def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
            os.kill(os.getpid(), signal.SIGINT)
            os.kill(os.getpid(), signal.SIGUSR1)

    with pytest.raises(InterruptedRun, match=r"\bSIGINT\b.* step 1\b"):
        build_run(rows, tmp_path, SendTwoSignals()).fit()


@pytest.mark.parametrize("n", [1, 4])
def test_run_stopped_between_two_accumulated_batches_is_the_undisturbed_one(rows: Path, tmp_path: Path, n: int) -> None:
    """3 batches an epoch are 2 steps: after the first and the fourth batch, gradients wait for another one."""
    whole = build_run(rows, tmp_path / "whole", accumulate_grad_batches=2).fit()
    folder = tmp_path / "stopped"
    with pytest.raises(InterruptedRun, match=r"last\.ckpt"):
        build_run(rows, folder, SignalAt("on_train_batch_start", n), accumulate_grad_batches=2).fit()
    resumed = resume_run(rows, folder, accumulate_grad_batches=2)
    assert resumed.trainer.global_step == whole.trainer.global_step == 6
    assert are_equal(resumed.copy_weights(), whole.copy_weights())


def test_validated_between_two_steps_of_accumulated_batches(rows: Path, tmp_path: Path) -> None:
    """After 4 batches: the gradient of the second epoch's first one is in the checkpoint of the validation."""
    options = {"accumulate_grad_batches": 2, "val_check_interval": 4, "check_val_every_n_epoch": None}
    whole = build_run(rows, tmp_path / "whole", **options).fit()
    folder = tmp_path / "stopped"
    with pytest.raises(InterruptedRun):  # its checkpoint is lost
        build_run(rows, folder, SignalAt("on_train_batch_start", 5), plugins=[LimitedSavesIO(2)], **options).fit()
    assert "accumulated_gradients" in AtomicCheckpointIO().load_checkpoint(folder / "last.ckpt")
    assert are_equal(resume_run(rows, folder, **options).copy_weights(), whole.copy_weights())


def test_run_stopped_again_and_again_in_one_epoch_is_the_undisturbed_one(
    rows: Path, whole: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "stopped"
    with pytest.raises(InterruptedRun, match=r" step 4\b"):
        build_run(rows, folder, SignalAt("on_train_batch_start", 4)).fit()
    with pytest.raises(InterruptedRun, match=r" step 5\b"):
        resume_run(rows, folder, SignalAt("on_train_batch_start", 1))
    with pytest.raises(InterruptedRun, match=r" step 6\b"):  # the epoch's last: its validation is still to come
        resume_run(rows, folder, SignalAt("on_train_batch_start", 1))
    with pytest.raises(InterruptedRun, match=r" step 6\b"):
        resume_run(rows, folder, SignalAt("on_validation_batch_start", 2))
    resume_run(rows, folder)
    assert_same_run(whole, folder)


def test_run_stopped_after_an_epoch_without_a_validation_and_twice_more_is_the_undisturbed_one(
    rows: Path, tmp_path: Path
) -> None:
    """3 steps an epoch, and a validation after every second step: the first stop is at the end of the first epoch."""

    def fit(folder: str, *callbacks: Callback, checkpoint: Path | None = None) -> Run:
        run = build_run(rows, tmp_path / folder, *callbacks, check_val_every_n_epoch=None)
        validate_by_steps(run.trainer, 2)
        return run.fit(checkpoint)

    whole = fit("whole")
    last = tmp_path / "stopped" / "last.ckpt"
    for n, checkpoint in ((3, None), (1, last), (1, last)):
        with pytest.raises(InterruptedRun):
            fit("stopped", SignalAt("on_train_batch_start", n), checkpoint=checkpoint)
    resumed = fit("stopped", checkpoint=last)
    assert resumed.trainer.global_step == 9
    assert are_equal(resumed.copy_weights(), whole.copy_weights())


def test_signal_that_is_ignored_stays_ignored(rows: Path, tmp_path: Path) -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        run = build_run(rows, tmp_path, SignalAt("on_train_batch_start", 2, signal.SIGHUP)).fit()
        assert run.trainer.global_step == 9 and signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


@pytest.mark.parametrize("epochs", [1, 2])
def test_run_resumed_from_the_end_of_an_epoch_is_the_undisturbed_one(
    rows: Path, whole: Path, tmp_path: Path, epochs: int
) -> None:
    folder = tmp_path / "stopped"
    stop = SignalAt("on_train_batch_start", 3 * epochs + 1)
    with pytest.raises(InterruptedRun):  # its checkpoint is lost; that of the end of the epoch is not
        build_run(rows, folder, stop, plugins=[LimitedSavesIO(2 * epochs)]).fit()
    assert AtomicCheckpointIO().load_checkpoint(folder / "last.ckpt")["global_step"] == 3 * epochs
    resume_run(rows, folder)
    assert_same_run(whole, folder)


class LimitedSavesIO(AtomicCheckpointIO):
    """Saves no more than so many checkpoints."""

    def __init__(self, num_saved: int) -> None:
        self.num_left = num_saved

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        self.num_left -= 1
        if self.num_left >= 0:
            super().save_checkpoint(checkpoint, path, storage_options)


def test_resuming_after_the_last_step_changes_nothing(rows: Path, whole: Path) -> None:
    before = {file: (whole / file).read_bytes() for file in FILES}
    resumed = resume_run(rows, whole)
    assert resumed.trainer.global_step == 9
    assert {file: (whole / file).read_bytes() for file in FILES} == before


@pytest.mark.parametrize("hook", ["on_sanity_check_start", "on_test_batch_start"])
def test_outside_of_training_nothing_is_saved(rows: Path, tmp_path: Path, hook: str) -> None:
    recording = RecordingIO()
    run = build_run(rows, tmp_path / "run", SignalAt(hook, 1), plugins=[recording])
    with pytest.raises(InterruptedRun, match="SIGTERM"):
        if hook == "on_test_batch_start":
            run.trainer.test(run.task, run.data, verbose=False)
        else:
            run.fit()
    assert recording.saved == []


def test_last_is_that_of_the_last_epoch_also_where_the_best_is_another(rows: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    run = build_run(rows, folder)
    run.trainer.checkpoint_callbacks[0].mode = "max"  # pyright: ignore[reportAttributeAccessIssue]
    run.fit()
    found = [AtomicCheckpointIO().load_checkpoint(folder / file)["global_step"] for file in FILES]
    assert found[0] < found[1] == 9


class WaitForever(Callback):
    """A step that hangs, for whoever sends signals from outside."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        (self.folder / "in a step").touch()
        while True:
            time.sleep(0.05)


def run_until_killed(rows: Path, folder: Path) -> None:
    build_run(rows, folder, WaitForever(folder)).fit()


@pytest.mark.slow
@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT])
def test_second_signal_ends_at_once(rows: Path, tmp_path: Path, signum: int) -> None:
    process = multiprocessing.get_context("spawn").Process(target=run_until_killed, args=(rows, tmp_path))
    process.start()
    while not (tmp_path / "in a step").exists():
        assert process.is_alive()
        time.sleep(0.05)
    assert process.pid is not None
    os.kill(process.pid, signum)
    process.join(1)
    assert process.is_alive()
    os.kill(process.pid, signum)
    process.join(10)
    code = process.exitcode
    process.kill()  # whatever became of it
    assert code == -signum


def run_on_rank(rank: int, rows: Path, folder: Path, port: int, hook: str, n: int) -> None:
    """Goes on where there is a checkpoint; a signal to rank 1 comes at the nth call, at none if that is 0."""
    ranks = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}
    torchrun = {"RANK": str(rank), "LOCAL_RANK": str(rank), "GROUP_RANK": "0", "TORCHELASTIC_RUN_ID": "test"}
    os.environ.update(ranks | torchrun)
    # Lightning reads it when it is imported, which under torchrun comes after the environment.
    rank_zero_only.rank = rank  # pyright: ignore[reportFunctionMemberAccess]
    torch.set_num_threads(1)
    callbacks = [SignalAt(hook, n)] if rank == 1 else []
    begin = resume_run if (folder / "last.ckpt").exists() else lambda *args, **options: build_run(*args, **options).fit()
    try:
        begin(rows, folder, *callbacks, devices=2, strategy="ddp")
    except InterruptedRun as error:
        (folder / f"rank{rank}.txt").write_text(str(error))


def run_on_two_ranks(rows: Path, folder: Path, hook: str, n: int) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    multiprocessing.spawn(run_on_rank, (rows, folder, port, hook, n), nprocs=2)  # pyright: ignore[reportPrivateImportUsage]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("hook", "n", "step"),
    [
        ("on_train_batch_start", 4, 4),
        ("on_validation_batch_start", 5, 3),  # with the sanity check's two
    ],
)
def test_ranks_stop_at_the_same_step_and_resume(rows: Path, tmp_path: Path, hook: str, n: int, step: int) -> None:
    whole, folder = tmp_path / "whole", tmp_path / "stopped"
    run_on_two_ranks(rows, whole, hook, 0)
    folder.mkdir()
    run_on_two_ranks(rows, folder, hook, n)
    told = [(folder / f"rank{rank}.txt").read_text() for rank in (0, 1)]
    assert all(f"step {step};" in line for line in told)
    assert "SIGTERM" not in told[0] and "SIGTERM" in told[1]  # only rank 1 received the signal
    assert AtomicCheckpointIO().load_checkpoint(folder / "last.ckpt")["global_step"] == step
    run_on_two_ranks(rows, folder, hook, 0)
    assert_same_run(whole, folder)
