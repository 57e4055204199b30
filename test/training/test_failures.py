"""A failed step ends the run with one line that names the rows, the shapes or the worker."""

from __future__ import annotations

import functools
import os
import re
import resource
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from pytorch_lightning import Callback
from pytorch_lightning.plugins.precision import MixedPrecision
from torch import distributed, multiprocessing

from test.ranks import process_group
from test.training.conftest import Interrupt, Run, SaveAndStop
from text.errors import NonFiniteLossError
from text.training import AtomicCheckpointIO, ProgressBar, StepFailures, build_checkpoint_callbacks
from text.training.failures import MAX_SKIPPED_STEPS

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*LeafSpec.*:FutureWarning"),
    pytest.mark.filterwarnings("ignore:.*LeafSpec.*:DeprecationWarning"),
]
SHAPES = r"with questions \(\d+, \d+\), passages \(\d+, \d+\)"


class ActAt(Callback):
    """Callback that calls a function before a step, counted from 1."""

    def __init__(self, step: int, act: Any) -> None:
        self.step, self.act = step, act

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        if trainer.global_step + 1 == self.step:
            self.act(pl_module)


def fill_weights_with_nan(task: torch.nn.Module) -> None:
    with torch.no_grad():
        next(task.parameters()).fill_(torch.nan)


def test_a_non_finite_loss_names_its_rows_and_keeps_the_last_checkpoint(rows: Path, tmp_path: Path) -> None:
    folder = tmp_path / "checkpoints"
    keep = build_checkpoint_callbacks(folder, "valid_loss", "min")
    run = Run(rows, tmp_path / "run", callbacks=[ActAt(5, fill_weights_with_nan), *keep], enable_checkpointing=True)
    with pytest.raises(NonFiniteLossError) as failed:
        run.fit()
    # The failed batch is the second one of the second epoch.
    lines = ",".join(str(line) for _, line in run.data.train.find_lines(1, 1))
    assert str(failed.value).startswith("step 4, training batch 1: ")
    assert f"{rows}:{lines}" in str(failed.value)
    for file in ("best.ckpt", "last.ckpt"):
        saved = AtomicCheckpointIO().load_checkpoint(folder / file)
        assert saved["global_step"] == 3
        assert all(weights.isfinite().all() for weights in saved["state_dict"].values())


def test_find_lines_returns_the_lines_of_a_batch(rows: Path, tmp_path: Path) -> None:
    pipe = Run(rows, tmp_path).data.train
    subjects = [record.split('"')[3].split()[-1] for record in rows.read_text().splitlines()]
    for epoch in (0, 1):
        pipe.set_epoch(epoch)
        for number, examples in enumerate(pipe):
            found = [subjects[line - 1] for path, line in pipe.find_lines(epoch, number) if path == str(rows)]
            assert found == [example.question.split()[-1] for example in examples]


class Overflow(Callback):
    """Callback that makes the gradients of the first steps infinite."""

    def __init__(self, num_steps: int) -> None:
        self.left = num_steps

    def on_after_backward(self, trainer: Any, pl_module: torch.nn.Module) -> None:
        if self.left > 0:
            self.left -= 1
            next(p for p in pl_module.parameters() if p.grad is not None).grad.fill_(torch.inf)  # pyright: ignore


def run_in_float16(rows: Path, folder: Path, *callbacks: Callback) -> Run:
    scaler = torch.amp.GradScaler("cpu")  # pyright: ignore[reportPrivateImportUsage]
    options = {"plugins": [AtomicCheckpointIO(), MixedPrecision("16-mixed", "cpu", scaler)], "max_epochs": 9}
    return Run(rows, folder, callbacks=[StepFailures(), *callbacks], **options)


needs_float16 = [
    pytest.mark.skipif(torch.__version__ < "2.4", reason="GradScaler supports the CPU from 2.4 on"),
    # The first step may be skipped.
    pytest.mark.filterwarnings("ignore:Detected call of `lr_scheduler.step:UserWarning"),
]


@pytest.mark.parametrize(
    "num_bad",
    [
        pytest.param(3, marks=needs_float16),
        pytest.param(MAX_SKIPPED_STEPS, marks=[*needs_float16, pytest.mark.slow]),
    ],
)
def test_steps_with_overflowing_float16_gradients_are_skipped(rows: Path, tmp_path: Path, num_bad: int) -> None:
    run = run_in_float16(rows, tmp_path, Overflow(num_bad))
    if num_bad < MAX_SKIPPED_STEPS:
        run.fit()
        assert run.trainer.logged_metrics["skipped_steps"] == num_bad
        assert all(weights.isfinite().all() for weights in run.copy_weights().values())
    else:
        with pytest.raises(NonFiniteLossError, match=rf"\b{MAX_SKIPPED_STEPS} steps\b"):
            run.fit()
        assert all(weights.isfinite().all() for weights in run.copy_weights().values())


@pytest.mark.parametrize("num_batches", [pytest.param(3, marks=needs_float16)])
def test_the_loss_scale_is_read_once_a_batch(rows: Path, tmp_path: Path, num_batches: int) -> None:
    run, reads = run_in_float16(rows, tmp_path), []
    scaler: Any = run.trainer.precision_plugin.scaler  # pyright: ignore[reportAttributeAccessIssue]
    read = scaler.get_scale
    scaler.get_scale = lambda: reads.append(1) or read()
    run.trainer.fit_loop.max_epochs = 1
    run.fit()
    assert len(reads) == 1 + num_batches  # once at the start


@pytest.mark.parametrize("step", [pytest.param(2, marks=needs_float16)])
def test_a_non_finite_loss_in_float16_is_not_a_skipped_step(rows: Path, tmp_path: Path, step: int) -> None:
    run = run_in_float16(rows, tmp_path, ActAt(step, fill_weights_with_nan))
    with pytest.raises(NonFiniteLossError, match=f"step {step - 1}, training batch {step - 1}: the loss is nan"):
        run.fit()


@pytest.mark.slow
@pytest.mark.parametrize("stop", [pytest.param(4, marks=needs_float16)])
def test_a_resumed_run_continues_to_count_skipped_steps(rows: Path, tmp_path: Path, stop: int) -> None:
    checkpoint = tmp_path / "stopped.ckpt"
    with pytest.raises(Interrupt):
        run_in_float16(rows, tmp_path, Overflow(3), SaveAndStop(stop, checkpoint)).fit()
    resumed = run_in_float16(rows, tmp_path, Overflow(1)).fit(checkpoint)
    assert resumed.trainer.logged_metrics["skipped_steps"] == 4


def test_out_of_memory_names_step_batch_and_shapes(rows: Path, tmp_path: Path) -> None:
    failures = StepFailures()
    run = Run(rows, tmp_path, callbacks=[failures, ActAt(2, lambda _: torch.empty(1 << 48))])  # a petabyte
    with pytest.raises(MemoryError) as failed, failures.translate_errors():
        run.fit()
    assert re.fullmatch(rf"step 1, training batch 1 {SHAPES}: .*", str(failed.value))


def test_an_error_starts_on_a_new_line_after_the_progress_bar(
    rows: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = Run(rows, tmp_path, callbacks=[ProgressBar(), ActAt(2, fill_weights_with_nan)], enable_progress_bar=True)
    with pytest.raises(NonFiniteLossError):
        run.fit()
    shown = capsys.readouterr()
    assert "Epoch 0" in shown.out + shown.err
    assert all(stream.rstrip(" ").endswith("\n") for stream in shown if "Epoch 0" in stream)


def fill_memory(rows: Path, folder: Path) -> None:
    """Train in a process that gets only 32 MiB more after the first step."""
    before = resource.getrlimit(resource.RLIMIT_AS)

    def limit(task: torch.nn.Module) -> None:
        task.zero_grad()
        size = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (size + (1 << 25), before[1]))

    failures = StepFailures()
    run = Run(rows, folder, callbacks=[failures, ActAt(2, limit)])
    embeddings: Any = run.task.model.question_encoder.embeddings
    embeddings.word.weight.data = torch.zeros(1 << 18, 128)  # its gradient has 128 MiB
    try:
        with failures.translate_errors():
            run.fit()
    except MemoryError as error:
        resource.setrlimit(resource.RLIMIT_AS, before)
        (folder / "error").write_text(str(error))


@pytest.mark.slow
def test_a_process_out_of_memory_names_step_batch_and_shapes(rows: Path, tmp_path: Path) -> None:
    process = multiprocessing.get_context("spawn").Process(target=fill_memory, args=(rows, tmp_path))
    process.start()
    process.join()
    [line] = (tmp_path / "error").read_text().splitlines()
    assert re.fullmatch(rf"step 1, training batch 1 {SHAPES}: .*--batch_size.*", line)


@pytest.mark.parametrize(
    "message",
    [
        "[enforce fail at alloc_cpu.cpp:124] err == 0. DefaultCPUAllocator: can't allocate memory: you tried ...",
        "could not create a primitive",
        "std::bad_alloc",
        "can't start new thread",
    ],
)
def test_all_out_of_memory_messages_are_recognized(message: str) -> None:
    with pytest.raises(MemoryError, match=r"^before the first batch: "), StepFailures().translate_errors():
        raise RuntimeError(message)


def kill_worker_at_yew(collate: Any, examples: Any) -> Any:
    if any("yew" in example.question for example in examples):
        os.kill(os.getpid(), signal.SIGKILL)
    return collate(examples)


def test_a_dead_worker_is_named(rows: Path, tmp_path: Path) -> None:
    failures = StepFailures()
    run = Run(rows, tmp_path, num_workers=2, callbacks=[failures])
    run.data.collate = functools.partial(kill_worker_at_yew, run.data.collate)
    with pytest.raises(ChildProcessError) as failed, failures.translate_errors():
        run.fit()
    assert re.fullmatch(
        r".*: data worker [01] \(process \d+, exit code -9\) .*",
        str(failed.value),
    )
    run = Run(rows, tmp_path, callbacks=[failures, ActAt(1, lambda task: task.missing)])
    with pytest.raises(AttributeError), failures.translate_errors():  # other errors are not translated
        run.fit()


def lose_a_rank(rank: int, folder: Path) -> None:
    with process_group(rank, 2, folder):
        distributed.all_reduce(torch.zeros(1))
        if rank == 1:
            os._exit(0)  # pyright: ignore
        try:
            with StepFailures().translate_errors():
                distributed.all_reduce(torch.zeros(1))
        except ConnectionError as error:
            (folder / "error").write_text(str(error))
            os._exit(0)  # pyright: ignore


@pytest.mark.slow
def test_the_other_ranks_report_a_process_that_has_ended(tmp_path: Path) -> None:
    multiprocessing.spawn(lose_a_rank, (tmp_path,), nprocs=2)  # pyright: ignore[reportPrivateImportUsage]
    [line] = (tmp_path / "error").read_text().splitlines()
    assert line.startswith("before the first batch: ") and "--resume" in line
