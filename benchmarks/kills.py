"""Runs killed at random moments and resumed, beside one that nothing disturbed: is all that they leave the same?

    PYTHONPATH=. python -m benchmarks.kills

Each run is killed up to three times by SIGKILL, by a clock or, in each third run, inside the writing of a checkpoint;
after that it goes on with --resume, or from the start where no checkpoint was left, until it ends. What is compared:
weights, state of the optimizer, the schedule, the data and the random numbers in both checkpoints; the model handed
on; test figures; and the rows of every step, those made twice too. Processes are forked from one that has PyTorch
imported; nothing in the library knows of the kills. Writes benchmarks/results/kills-DATE.md.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import os
import shutil
import signal
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import torch
from tqdm import tqdm

from benchmarks.report import hardware, versions, write_result
from text.artifacts import sha256
from text.commands.cli import run_command
from text.commands.train import train
from text.commands.train_flags import TrainFlags
from text.training import AtomicCheckpointIO, BiEncoderTask, checkpoints, newest_valid

TINY_SET = Path(__file__).parents[1] / "examples/dpr/data/nq3_tiny/data/retriever"
FLAGS = (
    f"--data_path={TINY_SET}",
    "--max_epochs=4",
    "--batch_size=3",
    "--eval_hard_negatives=2",
    "--eval_other_negatives=0",
)
MOST_KILLS = 3
STATE = ("state_dict", "optimizer_states", "lr_schedulers", "global_step", "DPRDataModule")
OTHER_DISK = "/dev/shm"
MOMENTS = ("write", "flush of the file", "rename", "flush of the folder")


def bench() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=60)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as root:
        whole = Path(root, "whole")
        started = time.perf_counter()
        assert attempt(whole) == 0, log(whole)
        seconds = time.perf_counter() - started
        expected, counts, same = left_by(whole), Counter[str](), 0
        for number in range(arguments.runs):
            folder = Path(root, str(number))
            counts += disturbed(folder, Random(arguments.seed * 1000 + number), seconds, in_save=number % 3 == 0)
            found = left_by(folder)
            same += found == expected
            differs = [name for name in expected if found.get(name) != expected[name]]
            print(f"{number}: {', '.join(differs) or 'identical'}", flush=True)
            shutil.rmtree(folder)
    print(f"{same} of {arguments.runs} identical")
    write_result("kills", page(arguments, same, counts))
    sys.exit(same != arguments.runs)


def disturbed(folder: Path, random: Random, seconds: float, *, in_save: bool) -> Counter[str]:
    """Kills a run again and again, then lets it end; counts the kills, by moment.

    Args:
        folder: Of the run.
        random: Decides the moments.
        seconds: That an undisturbed run takes.
        in_save: Kill inside the writing of a checkpoint; otherwise by the clock.
    """
    counts = Counter[str]()
    flags = [f"--num_workers={random.choice((0, 0, 0, 2))}"]
    variables = {"TMPDIR": OTHER_DISK} if random.random() < 0.5 and os.path.isdir(OTHER_DISK) else {}
    for _ in range(MOST_KILLS):
        moment = random.choice(MOMENTS) if in_save else "clock"
        kill = random.randint(1, 4) if in_save else random.uniform(0, seconds)
        code = attempt(folder, *flags, moment=moment, kill=kill, variables=variables)
        assert code in (0, -signal.SIGKILL), log(folder)
        if code == 0:
            break
        counts[moment] += 1
        counts["with TMPDIR on another disk"] += bool(variables)
        counts["with data workers"] += flags[0][-1] != "0"
    else:
        assert attempt(folder, *flags, variables=variables) == 0, log(folder)
    return counts


def attempt(
    folder: Path, *flags: str, moment: str = "", kill: float = 0, variables: dict[str, str] | None = None
) -> int:
    """Starts a run, or goes on with what is there; its exit code, negative for a signal.

    Args:
        folder: Of the run.
        flags: Besides FLAGS.
        moment: One of MOMENTS, or "clock", or none.
        kill: The how-manieth checkpoint, from 1 on, or seconds.
        variables: Of the environment.
    """
    is_resumed = True
    try:
        newest_valid(folder / "checkpoints")
    except FileNotFoundError:
        is_resumed = False
    argv = [*FLAGS, *flags, f"--output_dir={folder}", "--resume" if is_resumed else "--overwrite"]

    def work() -> int:
        os.environ.update(variables or {})
        tempfile.tempdir = None  # that of the environment
        note_rows(folder.with_suffix(".rows"))
        if moment in MOMENTS:
            kill_in_save(moment, int(kill))
        return run_command(train, TrainFlags, argv)

    pid = fork(work, folder.with_suffix(".log"))
    if moment == "clock":
        time.sleep(kill)
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def fork(work: Callable[[], int], output: Path) -> int:
    """The id of a process like this one that does the work in one thread; what it prints goes to a file."""
    sys.stdout.flush()
    if pid := os.fork():
        return pid
    code = 1
    try:
        torch.set_num_threads(1)  # the threads of this process are not in that one, which would wait for them
        tqdm.set_lock(threading.RLock())  # its own is shared by forked processes, and kept by one that is killed
        descriptor = os.open(output, os.O_CREAT | os.O_WRONLY | os.O_APPEND)
        os.dup2(descriptor, 1)
        os.dup2(descriptor, 2)
        sys.stdout, sys.stderr = (os.fdopen(number, "w", buffering=1, closefd=False) for number in (1, 2))
        code = work()
    finally:
        os._exit(code)


def kill_in_save(moment: str, number: int) -> None:
    """Makes this process kill itself while it writes its nth checkpoint."""
    writer, replace, fsync = checkpoints._HashingWriter.__init__, os.replace, os.fsync
    begun = renamed = 0

    def end() -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    def begin(self: Any, file: Any) -> None:
        nonlocal begun
        begun += 1
        writer(self, file)
        if moment == "write" and begun == number:
            self.write = lambda content: (file.write(content[: len(content) // 2]), file.flush(), end())

    def flush(descriptor: int) -> None:
        if begun == number and moment == ("flush of the folder" if renamed == number else "flush of the file"):
            end()
        fsync(descriptor)

    def rename(source: Any, target: Any) -> None:
        nonlocal renamed
        if begun == number and moment == "rename":
            end()
        replace(source, target)
        renamed += str(target).endswith(".ckpt")

    checkpoints._HashingWriter.__init__ = begin
    os.fsync, os.replace = flush, rename


def note_rows(path: Path) -> None:
    """Makes this process note what each step of training is made of."""
    step = BiEncoderTask.training_step

    def noted(self: BiEncoderTask, batch: Any, batch_index: int) -> Any:
        content = repr((batch.questions.input_ids.tolist(), batch.passages.input_ids.tolist()))
        with open(path, "a") as file:
            file.write(f"{self.global_step} {hashlib.sha256(content.encode()).hexdigest()}\n")
        return step(self, batch, batch_index)

    BiEncoderTask.training_step = noted


def left_by(folder: Path) -> dict[str, Any]:
    """All that must be the same, by name."""
    left: dict[str, Any] = {}
    for path in sorted(folder.glob("checkpoints/*.ckpt")):  # a run without validation has no best.ckpt
        state, name = AtomicCheckpointIO().load_checkpoint(path), path.stem
        kept = {part: state[part] for part in STATE} | {"random": state["callbacks"]["RandomState"]}
        left |= {f"{name}: {part}": digest(value) for part, value in kept.items()}
    for file in sorted(Path(folder, "model").rglob("*.safetensors")):
        left[file.relative_to(folder).as_posix()] = sha256(file)
    left["test"] = json.loads((folder / "manifest.json").read_text())["test"]
    left["rows"] = sorted(set(folder.with_suffix(".rows").read_text().splitlines()))
    left["litter"] = sorted(path.name for path in folder.rglob(".dpr-text-*"))
    return left


def digest(value: Any) -> str:
    """SHA-256 of nested tensors and plain values, bit for bit."""
    if isinstance(value, dict):
        return digest([[name, digest(part)] for name, part in sorted(value.items(), key=repr)])
    if isinstance(value, list | tuple):
        return hashlib.sha256("".join(map(digest, value)).encode()).hexdigest()
    content = value.numpy().tobytes() if isinstance(value, torch.Tensor) else repr(value).encode()
    return hashlib.sha256(content).hexdigest()


def log(folder: Path) -> str:
    """What the last process of a run printed."""
    return folder.with_suffix(".log").read_text()[-2000:]


def page(arguments: argparse.Namespace, same: int, counts: Counter[str]) -> str:
    kills = sum(counts[moment] for moment in (*MOMENTS, "clock"))
    rows = "\n".join(f"| {moment} | {counts[moment]} |" for moment in (*MOMENTS, "clock"))
    return f"""# Runs killed and resumed

**{same} of {arguments.runs} identical** to the run that nothing disturbed, bit for bit: weights, optimizer, schedule,
position and random state in both checkpoints, the model handed on, test figures, the rows of every step; no litter.

{kills} kills by SIGKILL, at most {MOST_KILLS} a run;
{counts["with TMPDIR on another disk"]} with TMPDIR on another file
system, {counts["with data workers"]} with two data workers.

| killed at | kills |
|---|---|
{rows}

- The tiny set, {" ".join(FLAGS[1:])}: 16 steps with dropout; checkpoints after each epoch.
- `PYTHONPATH=. python -m benchmarks.kills --runs={arguments.runs} --seed={arguments.seed}`
- {hardware()}
- {versions("torch", "pytorch-lightning")}
"""


if __name__ == "__main__":
    bench()
