"""The driver killed, stopped, started twice, on a full disk, on damaged files: what it says, and what it leaves."""

from __future__ import annotations

import os
import resource
import shutil
import signal
import time
from pathlib import Path
from random import Random

import pytest
import yaml

from benchmarks.kills import FLAGS, MOMENTS, attempt, disturbed, fork, left_by
from examples.dpr.cli import run
from examples.dpr.config import DPRConfig
from examples.dpr.main import main

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*LeafSpec.*"),
    pytest.mark.filterwarnings("ignore:Checkpoint directory .* exists and is not empty:UserWarning"),
]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that nothing disturbed."""
    folder = tmp_path_factory.mktemp("runs") / "whole"
    assert attempt(folder) == 0
    return folder


@pytest.fixture
def copy(whole: Path, tmp_path: Path) -> Path:
    """The same, to be spoiled."""
    shutil.copy(whole.with_suffix(".rows"), tmp_path / "copy.rows")
    return Path(shutil.copytree(whole, tmp_path / "copy"))


@pytest.fixture
def ends(capsys: pytest.CaptureFixture[str]):
    """Runs the driver in this process; gives the last line that it says on stderr."""

    def call(code: int, folder: Path, *arguments: str) -> str:
        capsys.readouterr()
        assert run(main, DPRConfig, [*FLAGS, f"--output_dir={folder}", *arguments]) == code
        return capsys.readouterr().err.splitlines()[-1]

    return call


def started(folder: Path, *arguments: str) -> int:
    """The id of a process that runs the driver; what it prints goes beside its folder."""
    argv = [*FLAGS, f"--output_dir={folder}", *arguments]
    return fork(lambda: run(main, DPRConfig, argv), folder.with_suffix(".log"))


def code_of(pid: int) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def wait_for(path: Path, pid: int) -> None:
    """Until a process has made a file; fails if it ends before."""
    while not path.exists():
        ended = os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        assert ended is None, f"{pid} has ended without {path}"
        time.sleep(0.01)


@pytest.mark.slow
@pytest.mark.parametrize("moment", [MOMENTS[0], "clock"])
def test_d7_d8_d9_killed_and_resumed(whole: Path, tmp_path: Path, moment: str) -> None:
    disturbed(tmp_path / "run", Random(3), 2, in_save=moment != "clock")
    assert left_by(tmp_path / "run") == left_by(whole)


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("number", range(20))
def test_d7_d8_d9_killed_at_random(whole: Path, tmp_path: Path, number: int) -> None:
    disturbed(tmp_path / "run", Random(number), 3, in_save=number % 3 == 0)
    assert left_by(tmp_path / "run") == left_by(whole)


@pytest.mark.parametrize(
    "signum",
    [signal.SIGTERM, *(pytest.param(other, marks=pytest.mark.slow) for other in (signal.SIGINT, signal.SIGUSR1))],
)
def test_d5_d17_stopped_by_a_signal_and_resumed_with_other_workers(whole: Path, tmp_path: Path, signum: int) -> None:
    folder = tmp_path / "run"
    pid = started(folder, "--num_workers=2")
    wait_for(folder / "checkpoints" / "last.ckpt", pid)
    os.kill(pid, signum)
    assert code_of(pid) == 143, folder.with_suffix(".log").read_text()
    last = folder.with_suffix(".log").read_text().splitlines()[-1]
    assert f"stopped by {signal.Signals(signum).name} " in last
    assert attempt(folder) == 0
    shutil.copy(whole.with_suffix(".rows"), folder.with_suffix(".rows"))  # noted in part of this run only
    assert left_by(folder) == left_by(whole)


def test_d23_one_run_per_folder(tmp_path: Path, ends) -> None:
    folder = tmp_path / "run"
    pid = started(folder)
    wait_for(folder / "config.yaml", pid)
    line = ends(4, folder, "--overwrite")
    assert f"{folder}: in use by process {pid} on {os.uname().nodename}; expected a folder of its own" in line
    os.kill(pid, signal.SIGKILL)
    code_of(pid)
    (folder / ".dpr-text-left").write_text("half a file")  # as that run may have
    (folder / "checkpoints").mkdir(exist_ok=True)
    (folder / "checkpoints" / ".dpr-text-left").write_text("half a file")
    (folder / "mine.tmp").write_text("not ours")
    num_left = len(list(folder.rglob(".dpr-text-*")))  # two, and what that run was writing
    assert num_left >= 2
    assert attempt(folder) == 0  # its lock went with it
    log = folder.with_suffix(".log").read_text()
    assert f"{folder}: removed {num_left} temporary files of a run that was killed" in log
    assert not list(folder.rglob(".dpr-text-*")) and (folder / "mine.tmp").exists()


@pytest.mark.slow
def test_d13_a_damaged_checkpoint_and_the_one_before_it(whole: Path, tmp_path: Path, ends) -> None:
    folder = tmp_path / "run"
    assert attempt(folder) == 0
    last, best = folder / "checkpoints" / "last.ckpt", folder / "checkpoints" / "best.ckpt"
    content = bytearray(last.read_bytes())
    content[len(content) // 2] ^= 1
    last.write_bytes(content)
    assert f"{last}: damaged: SHA-256 is " in ends(5, folder, f"--resume={last}")
    assert attempt(folder) == 0
    log = folder.with_suffix(".log").read_text()
    [warning] = [line for line in log.splitlines() if line.startswith("warning: ")]
    assert warning.startswith(f"warning: {last}: damaged: ") and warning.endswith(f"; going on from {best} instead")
    assert left_by(folder) == left_by(whole)
    last.write_bytes(b"")
    best.write_bytes(b"")
    assert f"{last}: cut, or not a checkpoint" in ends(5, folder, "--resume")


def test_d14_d15_what_is_resumed(copy: Path, tmp_path: Path, ends) -> None:
    line = ends(5, copy, "--resume", "--learning_rate=0.1", "--seed=3", "--num_workers=1")
    assert (
        f"{copy}/checkpoints/last.ckpt: saved with other settings (learning_rate: None -> 0.1, seed: 12345 -> 3)"
        in line
    )
    saved = yaml.safe_load((copy / "config.yaml").read_text())
    assert saved["seed"] == 12345, "a run that was refused changed the settings of the one that it found"
    config = tmp_path / "longer.yaml"
    config.write_text(yaml.safe_dump({**saved, "max_epochs": 3, "resume": "auto"}))
    assert run(main, DPRConfig, [f"--config={config}"]) == 5
    assert "resume: " in ends(2, copy, f"--resume={tmp_path / 'nowhere'}")
    (tmp_path / "empty").mkdir()
    assert "has no checkpoint; expected the folder of a run" in ends(2, copy, f"--resume={tmp_path / 'empty'}")


def test_d10_disk_full_at_save(whole: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    size = (whole / "checkpoints" / "last.ckpt").stat().st_size

    def limited() -> int:
        resource.setrlimit(resource.RLIMIT_FSIZE, (size // 2, size // 2))
        return run(main, DPRConfig, [*FLAGS, f"--output_dir={folder}"])

    assert code_of(fork(limited, folder.with_suffix(".log"))) == 4
    last = folder.with_suffix(".log").read_text().splitlines()[-1]
    assert "checkpoints/best.ckpt: file too large; a checkpoint needs " in last
    assert list((folder / "checkpoints").iterdir()) == []


@pytest.mark.slow
def test_d10_too_little_space_is_told_before_training(tmp_path: Path, ends, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10**9, 10**9 - 1000, 1000))  # pyright: ignore
    line = ends(4, tmp_path / "run")
    assert ": 1000 bytes are free; expected " in line
    needed = int(line.split("expected ")[1].split()[0])
    monkeypatch.undo()
    assert attempt(tmp_path / "run") == 0
    assert needed == pytest.approx(2 * (tmp_path / "run" / "checkpoints" / "last.ckpt").stat().st_size, rel=0.05)
