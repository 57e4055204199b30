"""After a signal at any moment all ranks save once and stop, and the resumed run equals an uninterrupted one."""

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
    """Callback that sends this process a signal at the nth call of a hook."""

    def __init__(self, hook: str, n: int, signum: int = signal.SIGTERM) -> None:
        self.calls = 0

        def count_call(*_: Any) -> None:
            self.calls += 1
            if self.calls == n:
                os.kill(os.getpid(), signum)

        setattr(self, hook, count_call)


class RecordingIO(AtomicCheckpointIO):
    """Plugin that records the names of saved checkpoints."""

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
    return torch.equal(a, b) if isinstance(a, torch.Tensor) else a == b


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


# An epoch has 3 steps and 3 validation batches.
@pytest.mark.parametrize(
    ("hook", "n", "signum", "step"),
    [
        ("on_train_batch_start", 2, signal.SIGTERM, 2),
        ("on_after_backward", 5, signal.SIGINT, 5),
        pytest.param("on_after_backward", 5, signal.SIGHUP, 5, marks=pytest.mark.slow),
        ("on_train_batch_end", 1, signal.SIGUSR1, 2),  # sent after SaveOnSignal was called
        ("on_train_batch_start", 6, signal.SIGTERM, 6),  # the last batch of an epoch
        ("on_validation_batch_start", 4, signal.SIGTERM, 3),  # calls 1 and 2 are in the sanity check
        pytest.param("on_validation_batch_start", 8, signal.SIGINT, 6, marks=pytest.mark.slow),
        ("on_validation_end", 3, signal.SIGTERM, 7),  # call 1 is in the sanity check; the epoch is saved afterwards
        ("on_save_checkpoint", 2, signal.SIGTERM, 4),  # while last.ckpt is saved
        pytest.param("on_save_checkpoint", 3, signal.SIGUSR1, 7, marks=pytest.mark.slow),
        pytest.param("on_train_batch_start", 9, signal.SIGTERM, 9, marks=pytest.mark.slow),  # the last batch of the run
    ],
)
def test_a_run_stopped_by_a_signal_and_resumed_equals_an_uninterrupted_one(
    rows: Path, whole: Path, tmp_path: Path, hook: str, n: int, signum: int, step: int
) -> None:
    folder = tmp_path / "stopped"
    handlers = {signum: signal.getsignal(signum) for signum in SIGNALS}
    recording = RecordingIO()
    name = signal.Signals(signum).name
    with pytest.raises(InterruptedRun, match=rf"\b{name}\b.* step {step}\b.*last\.ckpt"):
        build_run(rows, folder, SignalAt(hook, n, signum), plugins=[recording]).fit()
    assert {signum: signal.getsignal(signum) for signum in handlers} == handlers
    # Each epoch saves two checkpoints, and the signal saves one.
    assert len(recording.saved) % 2 == 1 and recording.saved[-1] == "last.ckpt"
    resumed = resume_run(rows, folder)
    assert resumed.trainer.global_step == 9
    assert_same_run(whole, folder)


@pytest.mark.parametrize("hook", ["on_train_batch_start", "on_validation_batch_start"])
@pytest.mark.parametrize("n", [n if n in (2, 5) else pytest.param(n, marks=pytest.mark.slow) for n in range(1, 10)])
def test_a_resumed_run_with_validations_inside_epochs_equals_an_uninterrupted_one(
    rows: Path, tmp_path: Path, hook: str, n: int
) -> None:
    every = {"val_check_interval": 2, "check_val_every_n_epoch": None}  # after steps 2, 4, 6 and 8
    whole = build_run(rows, tmp_path / "whole", **every).fit()
    folder = tmp_path / "stopped"
    with pytest.raises(InterruptedRun, match=r"last\.ckpt"):
        build_run(rows, folder, SignalAt(hook, n if "train" in hook else 2 + n), **every).fit()
    resumed = resume_run(rows, folder, **every)
    assert are_equal(resumed.copy_weights(), whole.copy_weights())
    assert_same_run(tmp_path / "whole", folder, ["best.ckpt"])  # last.ckpt may differ: the signal saves it too


@pytest.mark.parametrize(
    ("hook", "n", "step"),
    [
        ("on_train_batch_start", 3, 3),  # the last batch of an epoch
        pytest.param("on_train_batch_start", 2, 2, marks=pytest.mark.slow),
        pytest.param("on_save_checkpoint", 1, 4, marks=pytest.mark.slow),
        pytest.param("on_train_batch_start", 9, 9, marks=pytest.mark.slow),
    ],
)
def test_a_resumed_run_without_validation_equals_an_uninterrupted_one(
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


def test_two_different_signals_at_once_count_as_one(rows: Path, tmp_path: Path) -> None:
    """One signal may come from a terminal, and the other from a parent process."""

    class SendTwoSignals(Callback):
        def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
            os.kill(os.getpid(), signal.SIGINT)
            os.kill(os.getpid(), signal.SIGUSR1)

    with pytest.raises(InterruptedRun, match=r"\bSIGINT\b.* step 1\b"):
        build_run(rows, tmp_path, SendTwoSignals()).fit()


@pytest.mark.parametrize("n", [1, 4])
def test_a_run_resumed_between_accumulated_batches_equals_an_uninterrupted_one(
    rows: Path, tmp_path: Path, n: int
) -> None:
    """Stop after the first or the fourth batch, with accumulated gradients. An epoch of 3 batches has 2 steps."""
    whole = build_run(rows, tmp_path / "whole", accumulate_grad_batches=2).fit()
    folder = tmp_path / "stopped"
    with pytest.raises(InterruptedRun, match=r"last\.ckpt"):
        build_run(rows, folder, SignalAt("on_train_batch_start", n), accumulate_grad_batches=2).fit()
    resumed = resume_run(rows, folder, accumulate_grad_batches=2)
    assert resumed.trainer.global_step == whole.trainer.global_step == 6
    assert are_equal(resumed.copy_weights(), whole.copy_weights())


def test_the_checkpoint_of_a_validation_keeps_accumulated_gradients(rows: Path, tmp_path: Path) -> None:
    """Validate after 4 batches, when the gradient of the second epoch's first batch is accumulated."""
    options = {"accumulate_grad_batches": 2, "val_check_interval": 4, "check_val_every_n_epoch": None}
    whole = build_run(rows, tmp_path / "whole", **options).fit()
    folder = tmp_path / "stopped"
    with pytest.raises(InterruptedRun):  # the checkpoint of the signal is dropped
        build_run(rows, folder, SignalAt("on_train_batch_start", 5), plugins=[LimitedSavesIO(2)], **options).fit()
    assert "accumulated_gradients" in AtomicCheckpointIO().load_checkpoint(folder / "last.ckpt")
    assert are_equal(resume_run(rows, folder, **options).copy_weights(), whole.copy_weights())


def test_a_run_stopped_several_times_in_one_epoch_equals_an_uninterrupted_one(
    rows: Path, whole: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "stopped"
    with pytest.raises(InterruptedRun, match=r" step 4\b"):
        build_run(rows, folder, SignalAt("on_train_batch_start", 4)).fit()
    with pytest.raises(InterruptedRun, match=r" step 5\b"):
        resume_run(rows, folder, SignalAt("on_train_batch_start", 1))
    with pytest.raises(InterruptedRun, match=r" step 6\b"):  # the last step of the epoch, before its validation
        resume_run(rows, folder, SignalAt("on_train_batch_start", 1))
    with pytest.raises(InterruptedRun, match=r" step 6\b"):
        resume_run(rows, folder, SignalAt("on_validation_batch_start", 2))
    resume_run(rows, folder)
    assert_same_run(whole, folder)


def test_three_stops_with_validation_by_steps_change_nothing(rows: Path, tmp_path: Path) -> None:
    """Stop at the end of the first epoch. An epoch has 3 steps, and every second step is validated."""

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


def test_an_ignored_signal_stays_ignored(rows: Path, tmp_path: Path) -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        run = build_run(rows, tmp_path, SignalAt("on_train_batch_start", 2, signal.SIGHUP)).fit()
        assert run.trainer.global_step == 9 and signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


@pytest.mark.parametrize("epochs", [1, 2])
def test_a_run_resumed_from_the_end_of_an_epoch_equals_an_uninterrupted_one(
    rows: Path, whole: Path, tmp_path: Path, epochs: int
) -> None:
    folder = tmp_path / "stopped"
    stop = SignalAt("on_train_batch_start", 3 * epochs + 1)
    with pytest.raises(InterruptedRun):  # the checkpoint of the signal is dropped, that of the epoch is kept
        build_run(rows, folder, stop, plugins=[LimitedSavesIO(2 * epochs)]).fit()
    assert AtomicCheckpointIO().load_checkpoint(folder / "last.ckpt")["global_step"] == 3 * epochs
    resume_run(rows, folder)
    assert_same_run(whole, folder)


class LimitedSavesIO(AtomicCheckpointIO):
    """Plugin that saves the first ``num_saved`` checkpoints and drops all later ones."""

    def __init__(self, num_saved: int) -> None:
        self.num_left = num_saved

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        self.num_left -= 1
        if self.num_left >= 0:
            super().save_checkpoint(checkpoint, path, storage_options)


def test_resuming_a_complete_run_changes_nothing(rows: Path, whole: Path) -> None:
    before = {file: (whole / file).read_bytes() for file in FILES}
    resumed = resume_run(rows, whole)
    assert resumed.trainer.global_step == 9
    assert {file: (whole / file).read_bytes() for file in FILES} == before


@pytest.mark.parametrize("hook", ["on_sanity_check_start", "on_test_batch_start"])
def test_a_signal_outside_of_training_saves_nothing(rows: Path, tmp_path: Path, hook: str) -> None:
    recording = RecordingIO()
    run = build_run(rows, tmp_path / "run", SignalAt(hook, 1), plugins=[recording])
    with pytest.raises(InterruptedRun, match="SIGTERM"):
        if hook == "on_test_batch_start":
            run.trainer.test(run.task, run.data, verbose=False)
        else:
            run.fit()
    assert recording.saved == []


def test_last_checkpoint_is_of_the_last_epoch_even_if_another_is_best(rows: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    run = build_run(rows, folder)
    run.trainer.checkpoint_callbacks[0].mode = "max"  # pyright: ignore[reportAttributeAccessIssue]
    run.fit()
    found = [AtomicCheckpointIO().load_checkpoint(folder / file)["global_step"] for file in FILES]
    assert found[0] < found[1] == 9


class WaitForever(Callback):
    """Callback that hangs in a step, so that another process can send signals."""

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
def test_a_second_signal_ends_the_process_at_once(rows: Path, tmp_path: Path, signum: int) -> None:
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
    process.kill()  # in case it still runs
    assert code == -signum


def run_on_rank(rank: int, rows: Path, folder: Path, port: int, hook: str, n: int) -> None:
    """Start or resume a run. Rank 1 receives a signal at the nth call of the hook, or none if n is 0."""
    ranks = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}
    torchrun = {"RANK": str(rank), "LOCAL_RANK": str(rank), "GROUP_RANK": "0", "TORCHELASTIC_RUN_ID": "test"}
    os.environ.update(ranks | torchrun)
    # Lightning reads the rank when it is imported. Under torchrun the environment is set before that.
    rank_zero_only.rank = rank  # pyright: ignore[reportFunctionMemberAccess]
    torch.set_num_threads(1)
    callbacks = [SignalAt(hook, n)] if rank == 1 else []
    begin = (
        resume_run if (folder / "last.ckpt").exists() else lambda *args, **options: build_run(*args, **options).fit()
    )
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
        ("on_validation_batch_start", 5, 3),  # calls 1 and 2 are in the sanity check
    ],
)
def test_ranks_stop_at_the_same_step_and_resume(rows: Path, tmp_path: Path, hook: str, n: int, step: int) -> None:
    whole, folder = tmp_path / "whole", tmp_path / "stopped"
    run_on_two_ranks(rows, whole, hook, 0)
    folder.mkdir()
    run_on_two_ranks(rows, folder, hook, n)
    messages = [(folder / f"rank{rank}.txt").read_text() for rank in (0, 1)]
    assert all(f"step {step};" in message for message in messages)
    assert "SIGTERM" not in messages[0] and "SIGTERM" in messages[1]  # only rank 1 received the signal
    assert AtomicCheckpointIO().load_checkpoint(folder / "last.ckpt")["global_step"] == step
    run_on_two_ranks(rows, folder, hook, 0)
    assert_same_run(whole, folder)
