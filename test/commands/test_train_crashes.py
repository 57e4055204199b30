"""``dpr-text train`` after kills, signals, a second start, a full disk and damaged files."""

from __future__ import annotations

import json
import os
import re
import resource
import shutil
import signal
import subprocess
import time
from pathlib import Path
from random import Random

import pytest
import yaml

from benchmarks.kills import FLAGS, MOMENTS, TINY_SET, attempt, collect_outputs, fork, run_with_kills
from text.artifacts import seal, write_json
from text.commands.cli import run_command
from text.commands.train import train
from text.commands.train_flags import TrainFlags

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*LeafSpec.*"),
    pytest.mark.filterwarnings("ignore:Checkpoint directory .* exists and is not empty:UserWarning"),
]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of an uninterrupted run."""
    folder = tmp_path_factory.mktemp("runs") / "whole"
    assert attempt(folder) == 0
    return folder


@pytest.fixture
def copy(whole: Path, tmp_path: Path) -> Path:
    """Return a copy of the uninterrupted run that a test may change."""
    shutil.copy(whole.with_suffix(".rows"), tmp_path / "copy.rows")
    return Path(shutil.copytree(whole, tmp_path / "copy"))


@pytest.fixture
def fail_training(capsys: pytest.CaptureFixture[str]):
    """Return a function that runs a failing training and returns its last line on stderr."""

    def call(code: int, folder: Path, *arguments: str) -> str:
        capsys.readouterr()
        assert run_command(train, TrainFlags, [*FLAGS, f"--output_dir={folder}", *arguments]) == code
        return capsys.readouterr().err.splitlines()[-1]

    return call


def start_training(folder: Path, *arguments: str) -> int:
    """Start a training and return its process id. The output goes to a log file next to its folder."""
    argv = [*FLAGS, f"--output_dir={folder}", *arguments]
    return fork(lambda: run_command(train, TrainFlags, argv), folder.with_suffix(".log"))


def wait_for_exit_code(pid: int) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def wait_for(path: Path, pid: int) -> None:
    """Wait until a process has created a file. Fail if the process ends first."""
    while not path.exists():
        ended = os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        assert ended is None, f"{pid} has ended without {path}"
        time.sleep(0.01)


@pytest.mark.slow
@pytest.mark.parametrize("moment", [MOMENTS[0], "clock"])
def test_a_killed_run_resumes_to_the_same_files(whole: Path, tmp_path: Path, moment: str) -> None:
    run_with_kills(tmp_path / "run", Random(3), 2, in_save=moment != "clock")
    assert collect_outputs(tmp_path / "run") == collect_outputs(whole)


@pytest.mark.slow
@pytest.mark.parametrize("number", range(20))
def test_a_run_killed_at_random_resumes_to_the_same_files(whole: Path, tmp_path: Path, number: int) -> None:
    run_with_kills(tmp_path / "run", Random(number), 3, in_save=number % 3 == 0)
    assert collect_outputs(tmp_path / "run") == collect_outputs(whole)


@pytest.mark.slow
@pytest.mark.parametrize("flags", [(), ("--valid_share=0.3",)], ids=["no validation", "a share of the training data"])
@pytest.mark.parametrize("number", [0, 1])  # killed while it writes a checkpoint, and after some time
def test_a_killed_run_without_validation_data_resumes_to_the_same_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, flags: tuple[str, ...], number: int
) -> None:
    monkeypatch.setattr("benchmarks.kills.FLAGS", (f"--train_files={TINY_SET}/train.jsonl", *FLAGS[1:], *flags))
    assert attempt(tmp_path / "whole") == 0
    run_with_kills(tmp_path / "run", Random(number), 3, in_save=number == 0)
    assert collect_outputs(tmp_path / "run") == collect_outputs(tmp_path / "whole")


@pytest.mark.slow
@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT, signal.SIGUSR1])
def test_a_stopped_run_resumes_with_another_number_of_workers(whole: Path, tmp_path: Path, signum: int) -> None:
    folder = tmp_path / "run"
    pid = start_training(folder, "--num_workers=2")
    wait_for(folder / "checkpoints" / "last.ckpt", pid)
    os.kill(pid, signum)
    assert wait_for_exit_code(pid) == 143, folder.with_suffix(".log").read_text()
    last = folder.with_suffix(".log").read_text().splitlines()[-1]
    assert f"stopped by {signal.Signals(signum).name} " in last
    assert attempt(folder) == 0
    shutil.copy(whole.with_suffix(".rows"), folder.with_suffix(".rows"))  # this run recorded only some of its rows
    assert collect_outputs(folder) == collect_outputs(whole)


def test_a_folder_belongs_to_one_run_at_a_time(tmp_path: Path, fail_training) -> None:
    folder = tmp_path / "run"
    pid = start_training(folder)
    wait_for(folder / "config.yaml", pid)
    line = fail_training(4, folder, "--overwrite")
    assert f"{folder}: " in line and f"process {pid} on {os.uname().nodename}" in line
    os.kill(pid, signal.SIGKILL)
    wait_for_exit_code(pid)
    left = f".dpr-text-{0:016x}"
    (folder / left).write_text("half a file")  # as a killed run may leave it
    (folder / "checkpoints").mkdir(exist_ok=True)
    (folder / "checkpoints" / left).write_text("half a file")
    (folder / "mine.tmp").write_text("not ours")
    num_left = len(list(folder.rglob(".dpr-text-*")))  # two files, and those that the run was writing
    assert num_left >= 2
    assert attempt(folder) == 0  # the lock ended with its process
    log = folder.with_suffix(".log").read_text()
    assert f"{folder}: removed {num_left} " in log
    assert not list(folder.rglob(".dpr-text-*")) and (folder / "mine.tmp").exists()


@pytest.mark.slow
def test_a_damaged_checkpoint_is_refused_or_the_earlier_one_is_used(whole: Path, tmp_path: Path, fail_training) -> None:
    folder = tmp_path / "run"
    assert attempt(folder) == 0
    last, best = folder / "checkpoints" / "last.ckpt", folder / "checkpoints" / "best.ckpt"
    content = bytearray(last.read_bytes())
    content[len(content) // 2] ^= 1
    last.write_bytes(content)
    assert f"{last}: " in fail_training(5, folder, f"--resume={last}")
    assert attempt(folder) == 0
    log = folder.with_suffix(".log").read_text()
    [warning] = [line for line in log.splitlines() if line.startswith("warning: ")]
    assert warning.startswith(f"warning: {last}: damaged: ") and str(best) in warning
    assert collect_outputs(folder) == collect_outputs(whole)
    last.write_bytes(b"")
    best.write_bytes(b"")
    assert f"{last}: " in fail_training(5, folder, "--resume")


@pytest.mark.slow
def test_a_run_that_is_stopped_while_it_writes_its_results_resumes_to_the_same_files(
    whole: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    pid = start_training(folder)
    wait_for(folder / "model" / "config.json", pid)
    os.kill(pid, signal.SIGTERM)
    code = wait_for_exit_code(pid)
    log = folder.with_suffix(".log").read_text()
    assert code in (0, 143), log  # 0 if the signal came after the last file
    if code == 143:
        assert "stopped by SIGTERM" in log.splitlines()[-1] and "Traceback" not in log
        assert attempt(folder) == 0, folder.with_suffix(".log").read_text()
    shutil.copy(whole.with_suffix(".rows"), folder.with_suffix(".rows"))  # this run recorded no rows
    assert collect_outputs(folder) == collect_outputs(whole)


@pytest.mark.parametrize("content", ["[]", "{}", "a: [", "max_epochs: 4\n"])
@pytest.mark.parametrize("has_facts", [True, False])
def test_damaged_settings_are_refused(copy: Path, fail_training, content: str, has_facts: bool) -> None:
    (copy / "config.yaml").write_text(content)
    if not has_facts:
        (copy / "manifest.json").unlink()
        ledger = json.loads((copy / "run.json").read_text())
        write_json(copy / "run.json", seal({**ledger, "files": {}}))
    assert f"{copy}/config.yaml" in fail_training(5, copy, "--resume")


@pytest.mark.parametrize("is_finished", [True, False])
def test_a_resume_with_a_changed_tokenizer_is_refused(copy: Path, fail_training, is_finished: bool) -> None:
    if not is_finished:
        (copy / "manifest.json").unlink()
    content = (copy / "tokenizer.json").read_text()
    (copy / "tokenizer.json").write_text(content.replace('"Ġthe": ', '"Ġteh": '))
    assert (copy / "tokenizer.json").read_text() != content
    assert f"{copy}/tokenizer.json: " in fail_training(5, copy, "--resume")


def test_a_resume_with_other_settings_or_data_is_refused(copy: Path, tmp_path: Path, fail_training) -> None:
    line = fail_training(5, copy, "--resume", "--learning_rate=0.1", "--seed=3", "--num_workers=1")
    for part in (f"{copy}/checkpoints/last.ckpt: ", "learning_rate: None -> 0.1", "seed: 12345 -> 3"):
        assert part in line
    assert "num_workers" not in line
    saved = yaml.safe_load((copy / "config.yaml").read_text())
    assert saved["seed"] == 12345, "a run that was refused changed the settings of the one that it found"
    config = tmp_path / "longer.yaml"
    config.write_text(yaml.safe_dump({**saved, "max_epochs": 3, "resume": "auto"}))
    assert run_command(train, TrainFlags, [f"--config={config}"]) == 5
    assert "resume: " in fail_training(2, copy, f"--resume={tmp_path / 'nowhere'}")
    (tmp_path / "empty").mkdir()
    assert f"--resume: {tmp_path}/empty" in fail_training(2, copy, f"--resume={tmp_path / 'empty'}")


def test_full_disk_while_saving_exits_4_and_names_the_checkpoint(whole: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    size = (whole / "checkpoints" / "last.ckpt").stat().st_size

    def limited() -> int:
        resource.setrlimit(resource.RLIMIT_FSIZE, (size // 2, size // 2))
        return run_command(train, TrainFlags, [*FLAGS, f"--output_dir={folder}"])

    assert wait_for_exit_code(fork(limited, folder.with_suffix(".log"))) == 4
    last = folder.with_suffix(".log").read_text().splitlines()[-1]
    assert f"{folder}/checkpoints/best.ckpt: file too large" in last
    assert not (folder / "checkpoints").exists()


def test_a_resumed_run_that_fails_does_not_look_finished(copy: Path) -> None:
    assert (copy / "manifest.json").is_file()
    flags = [flag for flag in FLAGS if not flag.startswith("--max_epochs")]

    def limited() -> int:
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
        return run_command(train, TrainFlags, [*flags, f"--output_dir={copy}", "--max_epochs=5", "--resume"])

    before = (copy / "checkpoints/last.ckpt").read_bytes()
    assert wait_for_exit_code(fork(limited, copy.with_suffix(".log"))) == 4
    assert not (copy / "manifest.json").exists()
    assert (copy / "checkpoints/last.ckpt").read_bytes() == before


@pytest.mark.skipif(os.geteuid() != 0, reason="only the superuser can mount a file system")
@pytest.mark.slow
@pytest.mark.parametrize(("checkpoints", "code"), [(2.9, 4), (3.4, 0)])
def test_space_for_three_checkpoints_is_required_and_enough(
    whole: Path, tmp_path: Path, checkpoints: float, code: int
) -> None:
    size = (whole / "checkpoints" / "last.ckpt").stat().st_size
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={round(checkpoints * size)}", "tmpfs", str(disk)]
    if subprocess.run(mount, check=False, capture_output=True).returncode != 0:
        pytest.skip("no file system can be mounted here")
    try:
        assert wait_for_exit_code(start_training(disk / "run")) == code, (disk / "run.log").read_text()
        assert (disk / "run").exists() == (code == 0), "too little room is an error before the run begins"
    finally:
        subprocess.run(["umount", str(disk)], check=True)


@pytest.mark.slow
def test_too_little_space_is_an_error_before_training(
    tmp_path: Path, fail_training, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10**9, 10**9 - 1000, 1000))  # pyright: ignore
    line = fail_training(4, tmp_path / "run")
    assert str(tmp_path / "run") in line
    free, needed = (int(number) for number in re.findall(r"\d{4,}", line.replace(str(tmp_path), "")))
    assert free == 1000
    monkeypatch.undo()
    assert attempt(tmp_path / "run") == 0
    assert needed == pytest.approx(3 * (tmp_path / "run" / "checkpoints" / "last.ckpt").stat().st_size, rel=0.05)
