"""Training on a GPU: precisions, equality with a CPU, resuming, signals, checkpoints on a CPU, waits, and two GPUs."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import pytest
import torch

from test.commands.training import ROOT, SMALL, TINY_SET, read_metrics, run_train
from test.gpu.helpers import measure_product_error, needs_bfloat16, needs_gpu, needs_two_gpus, record_waits
from text.training import BiEncoderTask

pytestmark = [needs_gpu, pytest.mark.filterwarnings("ignore")]  # Warnings of Lightning and of the compiler.
LONG = ("--max_epochs=2000", "--validate_every_n_steps=1000", "--log_every_n_steps=1")
MAX_WAITS = 4
"""Waits of the host for the GPU in a training step that is not logged."""


def train(folder: Path, *flags: str, gpus: int = 1) -> Path:
    assert run_train(f"--gpus={gpus}", f"--output_dir={folder}", *SMALL, *flags) == 0
    return folder


def read_weights(folder: Path) -> torch.Tensor:
    """Return all weights after the last step. The saved model has those of the best validation."""
    content = torch.load(folder / "checkpoints/last.ckpt", map_location="cpu", weights_only=True)
    return torch.cat([weight.flatten() for weight in content["state_dict"].values()])


def measure_difference(first: Path, second: Path) -> float:
    found, expected = read_weights(first), read_weights(second)
    return float((found - expected).norm() / expected.norm())


def build_command(*flags: str, num_ranks: int = 1) -> list[str]:
    launcher = ["torch.distributed.run", f"--nproc_per_node={num_ranks}", "--standalone", "-m"] if num_ranks > 1 else []
    data = [f"--data_path={TINY_SET}", f"--gpus={num_ranks}", *SMALL]
    return [sys.executable, "-m", *launcher, "text", "train", *data, *flags]


def run_process(command: list[str], **environment: str) -> str:
    variables = {**os.environ, "PYTHONPATH": str(ROOT), **environment}
    done = subprocess.run(command, cwd=ROOT, env=variables, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


def stop_after_first_steps(command: list[str], folder: Path) -> int:
    """Send SIGTERM to a run when it has logged a few more steps, and return its exit code."""

    def count_rows() -> int:
        return len(read_metrics(folder)) if (folder / "metrics.csv").is_file() else 0

    num_rows = count_rows()
    with open(folder.with_suffix(".log"), "wb") as log:
        process = subprocess.Popen(
            command, cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)}, stdout=log, stderr=log
        )
        try:
            deadline = time.monotonic() + 200  # It only stops a hang.
            while time.monotonic() < deadline and process.poll() is None:
                if count_rows() > num_rows + 3:
                    break
                time.sleep(0.05)
            process.send_signal(signal.SIGTERM)
            return process.wait(timeout=120)
        finally:
            process.kill()


# One GPU


@pytest.mark.parametrize(
    "flags",
    [
        [],
        pytest.param(["--precision=bf16-mixed"], marks=needs_bfloat16),
        ["--precision=16-mixed"],
        ["--chunk_tokens=64"],
        pytest.param(["--precision=bf16-mixed", "--chunk_tokens=64"], marks=needs_bfloat16),
        ["--precision=16-mixed", "--chunk_tokens=64"],
        ["--activation_checkpointing"],
        ["--tied", "--symmetric", "--normalize", "--similarity=cosine", "--temperature=0.05"],
        ["--accumulate_batches=2", "--num_workers=2"],
        pytest.param(["--precision=bf16-mixed", "--compile", "--chunk_tokens=64"], marks=needs_bfloat16),
    ],
    ids=lambda flags: " ".join(flags) or "defaults",
)
def test_a_training_run_completes(flags: list[str], tmp_path: Path) -> None:
    folder = train(tmp_path / "run", "--max_epochs=2", *flags)
    assert [row["valid_loss"] for row in read_metrics(folder) if row.get("valid_loss")]


@pytest.mark.parametrize("flags", [[], ["--chunk_tokens=64"]], ids=["whole", "chunks"])
def test_the_losses_equal_those_of_a_cpu(flags: list[str], tmp_path: Path) -> None:
    losses = []
    for gpus in (1, 0):
        folder = train(
            tmp_path / str(gpus), "--max_epochs=2", "--dropout=0", "--batch_size=4", "--tf32=false", *flags, gpus=gpus
        )
        losses.append([float(row["valid_loss"]) for row in read_metrics(folder) if row.get("valid_loss")])
    assert len(losses[0]) == 2
    assert losses[0] == pytest.approx(losses[1], rel=1e-2)  # AdamW divides by small numbers


@pytest.mark.parametrize("flags", [[], ["--chunk_tokens=64"]], ids=["whole", "chunks"])
def test_a_resumed_run_ends_as_an_undisturbed_one(flags: list[str], tmp_path: Path) -> None:
    flags = ["--schedule=constant", "--batch_size=2", "--dropout=0.5", *flags]
    whole, again = (train(tmp_path / name, "--max_epochs=3", *flags) for name in ("whole", "again"))
    parts = train(tmp_path / "parts", "--max_epochs=2", *flags)
    train(parts, "--max_epochs=3", "--resume", *flags)
    # Kernels add up gradients in no fixed order, so even two equal runs differ a little. Other dropout masks move the
    # weights by 2 %.
    assert measure_difference(parts, whole) <= 3 * measure_difference(again, whole) + 1e-4


def test_a_run_that_was_stopped_by_a_signal_resumes(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    assert stop_after_first_steps(build_command(*LONG, f"--output_dir={folder}"), folder) == 143
    steps = [int(row["step"]) for row in read_metrics(folder)]
    checkpoint = torch.load(folder / "checkpoints/last.ckpt", map_location="cpu", weights_only=True)
    assert checkpoint["global_step"] >= max(steps) > 0
    assert stop_after_first_steps(build_command(*LONG, f"--output_dir={folder}", "--resume"), folder) == 143
    assert max(int(row["step"]) for row in read_metrics(folder)) > max(steps)


READ_ON_CPU = """
import sys, torch
from text.training import AtomicCheckpointIO, read_checkpoint
assert not torch.cuda.is_available()
for content in (AtomicCheckpointIO().load_checkpoint(sys.argv[1]), read_checkpoint(sys.argv[1])):
    assert {tensor.device.type for tensor in content["state_dict"].values()} == {"cpu"}
print(content["global_step"])
"""


def test_a_checkpoint_opens_on_a_machine_without_a_gpu(tmp_path: Path) -> None:
    folder = train(tmp_path / "run", "--max_epochs=1")
    path = folder / "checkpoints/last.ckpt"
    printed = run_process([sys.executable, "-W", "ignore", "-c", READ_ON_CPU, str(path)], CUDA_VISIBLE_DEVICES="")
    assert int(printed) > 0
    question = run_process(
        [sys.executable, "-c", "import sys; from text.bundle import load_side; load_side(sys.argv[1], 'question')",
         str(folder / "model")], CUDA_VISIBLE_DEVICES=""
    )  # fmt: skip
    assert question == ""


def watch_step(monkeypatch: pytest.MonkeyPatch, number: int, watch: Callable[[ExitStack], None]) -> None:
    """Call a function at the start of a training batch. What it enters is left at the start of the next batch."""
    stack, numbers = ExitStack(), iter(range(1000))

    def start_batch(task: BiEncoderTask, batch: object, batch_index: int) -> None:
        current = next(numbers)
        stack.close()
        if current == number:
            watch(stack)

    monkeypatch.setattr(BiEncoderTask, "on_train_batch_start", start_batch)


@pytest.mark.parametrize(
    "flags",
    [
        [],
        ["--chunk_tokens=64"],
        pytest.param(["--precision=bf16-mixed", "--chunk_tokens=64"], marks=needs_bfloat16),
        ["--symmetric", "--tied"],
        ["--precision=16-mixed"],
    ],
    ids=lambda flags: " ".join(flags) or "defaults",
)
def test_the_host_rarely_waits_in_a_training_step(
    flags: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found: list[list[str]] = []
    # Steps are logged, and epochs end, after batches 4 and 9. The step of batch 6 is an ordinary one.
    watch_step(monkeypatch, 6, lambda stack: found.append(stack.enter_context(record_waits())))
    train(tmp_path / "run", "--max_epochs=2", "--batch_size=2", "--log_every_n_steps=5", *flags)
    [waits] = found
    scaler = 1 if "--precision=16-mixed" in flags else 0  # It reads whether a gradient overflowed.
    assert len(waits) <= MAX_WAITS + scaler, waits


@needs_bfloat16  # Such GPUs have TF32 too.
@pytest.mark.parametrize(("flags", "is_exact"), [([], False), (["--tf32=false"], True)], ids=["default", "forbidden"])
def test_tf32_is_allowed_unless_it_is_forbidden(
    flags: list[str], is_exact: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    errors: list[float] = []
    watch_step(monkeypatch, 1, lambda _: errors.append(measure_product_error()))
    train(tmp_path / "run", "--max_epochs=1", "--batch_size=2", *flags)
    assert (errors[0] < 1e-5) == is_exact, errors
    assert measure_product_error() < 1e-5  # The command leaves the setting of this process as it was.


# Two GPUs


@needs_two_gpus
@pytest.mark.parametrize("flags", [[], ["--chunk_tokens=64"], ["--symmetric"]], ids=["whole", "chunks", "symmetric"])
def test_two_gpus_with_uneven_and_empty_shares_equal_one(flags: list[str], tmp_path: Path) -> None:
    # Of 10 rows in batches of 3, the ranks get 2 and 1. Of the last batch one rank gets nothing.
    flags = ["--max_epochs=2", "--dropout=0", "--batch_size=3", *flags]
    for num_ranks in (2, 1):
        run_process(build_command(*flags, f"--output_dir={tmp_path / str(num_ranks)}", num_ranks=num_ranks))
    two, one = ([row for row in read_metrics(tmp_path / name) if row.get("valid_loss")] for name in ("2", "1"))
    assert len(two) == len(one) == 2
    for name in ("valid_loss", "valid_mrr@10"):
        assert [float(row[name]) for row in two] == pytest.approx([float(row[name]) for row in one], rel=1e-2)


@needs_two_gpus
def test_two_gpus_resume(tmp_path: Path) -> None:
    flags = ["--schedule=constant", f"--output_dir={tmp_path / 'run'}"]
    run_process(build_command(*flags, "--max_epochs=1", num_ranks=2))
    run_process(build_command(*flags, "--max_epochs=3", "--resume", num_ranks=2))
    assert len([row for row in read_metrics(tmp_path / "run") if row.get("valid_loss")]) == 3


@needs_two_gpus
def test_a_signal_stops_two_gpus_after_the_same_step(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    command = build_command(*LONG, f"--output_dir={folder}", num_ranks=2)
    assert stop_after_first_steps(command, folder) != 0  # The exit code is that of the launcher.
    steps = [int(row["step"]) for row in read_metrics(folder)]
    content = torch.load(folder / "checkpoints/last.ckpt", map_location="cpu", weights_only=True)
    assert content["global_step"] >= max(steps)
    assert stop_after_first_steps([*command, "--resume"], folder) != 0
    assert max(int(row["step"]) for row in read_metrics(folder)) > max(steps)
