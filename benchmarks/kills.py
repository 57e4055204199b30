"""Kill training runs at random moments, resume them, and compare their files with an undisturbed run.

    PYTHONPATH=. python -m benchmarks.kills

Each run is killed up to three times by SIGKILL: at a random time or, in every third run, while it writes a checkpoint.
Then it continues until the end, with --resume, or from the start if there is no checkpoint. The script compares both
checkpoints (weights, states of the optimizer, the schedule, the data and the random generators), the exported model,
the test metrics and the rows of every step, including repeated steps. The runs are forked from a process that has
imported PyTorch. The library has no special code for this. The script writes benchmarks/results/kills-DATE.md.
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

from benchmarks.report import describe_hardware, describe_versions, make_parser, write_result
from text.artifacts import hash_file
from text.commands.cli import run_command
from text.commands.train import train
from text.commands.train_flags import TrainFlags
from text.training import AtomicCheckpointIO, BiEncoderTask, checkpoints, find_valid_checkpoint

TINY_SET = Path(__file__).parents[1] / "examples/dpr/data/nq3_tiny/data/retriever"
FLAGS = (
    f"--data_path={TINY_SET}",
    "--max_epochs=4",
    "--batch_size=3",
    "--eval_hard_negatives=2",
    "--eval_other_negatives=0",
)
MAX_KILLS = 3
"""Maximum number of kills per run."""
STATE = ("state_dict", "optimizer_states", "lr_schedulers", "global_step", "DPRDataModule")
OTHER_DISK = "/dev/shm"
MOMENTS = ("write", "flush of the file", "rename", "flush of the folder")
"""Steps of the writing of a checkpoint at which a run can be killed."""


def main() -> None:
    """Run the benchmark. Exit with 1 if a run differs."""
    parser = make_parser(__doc__)
    parser.add_argument("--runs", type=int, default=60, help="Number of runs to kill (default: %(default)s).")
    parser.add_argument("--seed", type=int, default=0, help="Seed of the moments (default: %(default)s).")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as root:
        whole = Path(root, "whole")
        started = time.perf_counter()
        assert attempt(whole) == 0, read_log(whole)
        seconds = time.perf_counter() - started
        expected, counts, num_identical = collect_outputs(whole), Counter[str](), 0
        for number in range(arguments.runs):
            folder = Path(root, str(number))
            counts += run_with_kills(folder, Random(arguments.seed * 1000 + number), seconds, in_save=number % 3 == 0)
            found = collect_outputs(folder)
            num_identical += found == expected
            different = [name for name in expected if found.get(name) != expected[name]]
            print(f"{number}: {', '.join(different) or 'identical'}", flush=True)
            shutil.rmtree(folder)
    print(f"{num_identical} of {arguments.runs} identical")
    write_result("kills", format_page(arguments, num_identical, counts))
    sys.exit(num_identical != arguments.runs)


def run_with_kills(folder: Path, random: Random, seconds: float, *, in_save: bool) -> Counter[str]:
    """Kill a run several times and then complete it. Return the number of kills by moment.

    Args:
        folder: Output folder of the run.
        random: Random generator for the moments.
        seconds: Duration of an undisturbed run.
        in_save: Kill the run while it writes a checkpoint. Otherwise kill it at a random time.
    """
    counts = Counter[str]()
    flags = [f"--num_workers={random.choice((0, 0, 0, 2))}"]
    variables = {"TMPDIR": OTHER_DISK} if random.random() < 0.5 and os.path.isdir(OTHER_DISK) else {}
    for _ in range(MAX_KILLS):
        moment = random.choice(MOMENTS) if in_save else "clock"
        kill = random.randint(1, 4) if in_save else random.uniform(0, seconds)
        code = attempt(folder, *flags, moment=moment, kill=kill, variables=variables)
        assert code in (0, -signal.SIGKILL), read_log(folder)
        if code == 0:
            break
        counts[moment] += 1
        counts["with TMPDIR on another disk"] += bool(variables)
        counts["with data workers"] += flags[0][-1] != "0"
    else:
        assert attempt(folder, *flags, variables=variables) == 0, read_log(folder)
    return counts


def attempt(
    folder: Path, *flags: str, moment: str = "", kill: float = 0, variables: dict[str, str] | None = None
) -> int:
    """Start or resume a run. Return its exit code, which is negative for a signal.

    Args:
        folder: Output folder of the run.
        flags: Flags in addition to FLAGS.
        moment: One of MOMENTS, "clock", or empty for no kill.
        kill: Number of the checkpoint to kill at, from 1. For "clock" the time in seconds.
        variables: Environment variables.
    """
    is_resumed = True
    try:
        find_valid_checkpoint(folder / "checkpoints")
    except FileNotFoundError:
        is_resumed = False
    argv = [*FLAGS, *flags, f"--output_dir={folder}", "--resume" if is_resumed else "--overwrite"]

    def work() -> int:
        os.environ.update(variables or {})
        tempfile.tempdir = None  # Read TMPDIR again.
        record_rows(folder.with_suffix(".rows"))
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
    """Fork this process, do the work there in one thread, and return the process id. Its output goes to a file."""
    sys.stdout.flush()
    if pid := os.fork():
        return pid
    code = 1
    try:
        torch.set_num_threads(1)  # A fork has no worker threads, so PyTorch would wait for them forever.
        tqdm.set_lock(threading.RLock())  # Forks share the default lock, and a killed process would never release it.
        descriptor = os.open(output, os.O_CREAT | os.O_WRONLY | os.O_APPEND)
        os.dup2(descriptor, 1)
        os.dup2(descriptor, 2)
        sys.stdout, sys.stderr = (os.fdopen(number, "w", buffering=1, closefd=False) for number in (1, 2))
        code = work()
    finally:
        os._exit(code)


def kill_in_save(moment: str, number: int) -> None:
    """Make this process kill itself while it writes its nth checkpoint."""
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


def record_rows(path: Path) -> None:
    """Make this process append a hash of the rows of each training step to a file."""
    step = BiEncoderTask.training_step

    def record_step(self: BiEncoderTask, batch: Any, batch_index: int) -> Any:
        content = repr((batch.questions.input_ids.tolist(), batch.passages.input_ids.tolist()))
        with open(path, "a") as file:
            file.write(f"{self.global_step} {hashlib.sha256(content.encode()).hexdigest()}\n")
        return step(self, batch, batch_index)

    BiEncoderTask.training_step = record_step


def collect_outputs(folder: Path) -> dict[str, Any]:
    """Return everything that must be equal to the undisturbed run, by name."""
    outputs: dict[str, Any] = {}
    for path in sorted(folder.glob("checkpoints/*.ckpt")):  # A run without validation has no best.ckpt.
        state, name = AtomicCheckpointIO().load_checkpoint(path), path.stem
        kept = {part: state[part] for part in STATE} | {"random": state["callbacks"]["RandomState"]}
        outputs |= {f"{name}: {part}": compute_digest(value) for part, value in kept.items()}
    for file in sorted(Path(folder, "model").rglob("*.safetensors")):
        outputs[file.relative_to(folder).as_posix()] = hash_file(file)
    outputs["test"] = json.loads((folder / "manifest.json").read_text())["test"]
    outputs["rows"] = sorted(set(folder.with_suffix(".rows").read_text().splitlines()))
    outputs["temporary files"] = sorted(path.name for path in folder.rglob(".dpr-text-*"))
    return outputs


def compute_digest(value: Any) -> str:
    """Return the SHA-256 of nested tensors and plain values, bit for bit."""
    if isinstance(value, dict):
        return compute_digest([[name, compute_digest(part)] for name, part in sorted(value.items(), key=repr)])
    if isinstance(value, list | tuple):
        return hashlib.sha256("".join(map(compute_digest, value)).encode()).hexdigest()
    content = value.numpy().tobytes() if isinstance(value, torch.Tensor) else repr(value).encode()
    return hashlib.sha256(content).hexdigest()


def read_log(folder: Path) -> str:
    """Return the end of the output of a run."""
    return folder.with_suffix(".log").read_text()[-2000:]


def format_page(arguments: argparse.Namespace, num_identical: int, counts: Counter[str]) -> str:
    """Return the page of results."""
    kills = sum(counts[moment] for moment in (*MOMENTS, "clock"))
    rows = "\n".join(f"| {moment} | {counts[moment]} |" for moment in (*MOMENTS, "clock"))
    return f"""# Runs killed and resumed

**{num_identical} of {arguments.runs} identical** to the undisturbed run, bit for bit: weights, optimizer, schedule,
data position and random state in both checkpoints, the exported model, test metrics and the rows of every step. No
temporary files.

{kills} kills by SIGKILL, at most {MAX_KILLS} per run;
{counts["with TMPDIR on another disk"]} with TMPDIR on another file
system, {counts["with data workers"]} with two data workers.

| moment | kills |
|---|---|
{rows}

- The tiny set, {" ".join(FLAGS[1:])}: 16 steps with dropout and a checkpoint after each epoch.
- `PYTHONPATH=. python -m benchmarks.kills --runs={arguments.runs} --seed={arguments.seed}`
- {describe_hardware()}
- {describe_versions("torch", "pytorch-lightning")}
"""


if __name__ == "__main__":
    main()
