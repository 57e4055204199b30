"""Atomic writes: files are complete or absent, follow the umask, and leave no temporary files."""

from __future__ import annotations

import fcntl
import json
import os
import resource
import signal
import socket
import stat
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest

from text.artifacts import (
    atomic_write,
    remove_leftovers,
    wait_for_lock,
    write_json,
    write_lines,
    write_text,
    write_together,
)
from text.commands.cli import get_exit_code
from text.errors import UsageError


def test_atomic_write_puts_the_file_in_place(tmp_path: Path):
    path = tmp_path / "a.bin"
    with atomic_write(path) as temporary:
        temporary.write_bytes(b"new")
        assert temporary.parent == path.parent, "rename is atomic within one folder only"
        assert not path.exists(), "the final name appeared before the content was complete"
    assert path.read_bytes() == b"new"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
@pytest.mark.parametrize("old", [None, b"old"])
def test_atomic_write_that_fails_changes_nothing(tmp_path: Path, error, old):
    path = tmp_path / "a.bin"
    if old is not None:
        path.write_bytes(old)
    with pytest.raises(error), atomic_write(path) as temporary:
        temporary.write_bytes(b"half of the ne")
        raise error
    assert [file.read_bytes() for file in tmp_path.iterdir()] == ([] if old is None else [old])


def test_atomic_write_to_a_folder_leaves_no_temporary_file(tmp_path: Path):
    (tmp_path / "taken").mkdir()
    with pytest.raises(OSError), atomic_write(tmp_path / "taken") as temporary:
        temporary.write_bytes(b"new")
    assert [path.name for path in tmp_path.iterdir()] == ["taken"]


def test_atomic_write_replaces_a_longer_file(tmp_path: Path):
    path = tmp_path / "a.txt"
    write_text(path, "a long first version\n")
    write_text(path, "short\n")
    assert path.read_bytes() == b"short\n"


def test_atomic_write_creates_the_folder(tmp_path: Path):
    write_text(tmp_path / "x" / "y" / "a.txt", "in")
    assert (tmp_path / "x" / "y" / "a.txt").read_text() == "in"


def test_atomic_write_accepts_a_bare_file_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    write_text("a.txt", "here")
    assert (tmp_path / "a.txt").read_text() == "here"


@pytest.mark.parametrize(("umask", "mode"), [(0o022, 0o644), (0o027, 0o640), (0o077, 0o600)])
def test_permissions_follow_the_umask(tmp_path: Path, umask, mode):
    before = os.umask(umask)
    try:
        write_text(tmp_path / "a.txt", "")
    finally:
        left = os.umask(before)
    assert stat.S_IMODE((tmp_path / "a.txt").stat().st_mode) == mode
    assert left == umask, "the umask of the process changed"


@pytest.mark.parametrize("content", ["", "ünï\u2028cödé 🦆\n", "no newline at the end", "\r\n kept"])
def test_write_text_survives_a_round_trip(tmp_path: Path, content):
    write_text(tmp_path / "a.txt", content)
    assert (tmp_path / "a.txt").read_bytes() == content.encode()


def test_write_text_keeps_the_old_file_if_encoding_fails(tmp_path: Path):
    write_text(tmp_path / "a.txt", "old")
    with pytest.raises(UnicodeEncodeError):
        write_text(tmp_path / "a.txt", "\ud800")
    assert [(file.name, file.read_text()) for file in tmp_path.iterdir()] == [("a.txt", "old")]


def test_write_lines_counts_lines_and_keeps_the_old_file_on_failure(tmp_path: Path):
    path = tmp_path / "a.txt"
    assert write_lines(path, (f"{word}\n" for word in ("ünï", "two"))) == 2
    assert path.read_bytes() == "ünï\ntwo\n".encode()
    with pytest.raises(ZeroDivisionError):
        write_lines(path, (f"{1 // number}\n" for number in (1, 0)))
    assert [(file.name, file.read_text(encoding="utf-8")) for file in tmp_path.iterdir()] == [("a.txt", "ünï\ntwo\n")]


def test_write_json_survives_a_round_trip(tmp_path: Path):
    content = {"ключ": [1, 0.1, None, True], "nested": {"": "é"}}
    write_json(tmp_path / "a.json", content)
    written = (tmp_path / "a.json").read_text(encoding="utf-8")
    assert json.loads(written) == content
    assert "ключ" in written and written.endswith("}\n"), "the file is not human-readable"


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_write_json_refuses_nan_and_infinity(tmp_path: Path, value):
    write_json(tmp_path / "a.json", {"loss": 1.0})
    with pytest.raises(ValueError, match=r"nan|inf|JSON"):
        write_json(tmp_path / "a.json", {"loss": value})
    assert json.loads((tmp_path / "a.json").read_text()) == {"loss": 1.0}


def run_forked(work: Callable[[], int]) -> int:
    """Run a function in a forked process and return its result as the exit code."""
    pid = os.fork()
    if pid == 0:
        os._exit(work())
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def test_temporary_files_of_dead_processes_are_removed_and_of_live_ones_kept(tmp_path: Path):
    def die_while_writing() -> int:
        with atomic_write(tmp_path / "a.bin"):
            os._exit(7)

    assert run_forked(die_while_writing) == 7
    assert len(list(tmp_path.iterdir())) == 1
    with atomic_write(tmp_path / "b.bin") as temporary:
        assert list(tmp_path.iterdir()) == [temporary], "the first writer in the folder did not clean up"
        assert run_forked(die_while_writing) == 7
        temporary.write_bytes(b"half")
        assert run_forked(lambda: remove_leftovers(tmp_path)) == 1
        assert remove_leftovers(tmp_path) == 0
        assert list(tmp_path.iterdir()) == [temporary]
        temporary.write_bytes(b"whole")
    assert (tmp_path / "b.bin").read_bytes() == b"whole"
    assert remove_leftovers(tmp_path) == 0


def test_files_of_users_are_not_removed(tmp_path: Path):
    for name in (".dpr-text-notes.md", ".dpr-text-0123456789abcdef0", ".dpr-text-0123456789ABCDEF"):
        (tmp_path / name).write_text("notes")
    (tmp_path / ".dpr-text-0123456789abcdef").write_text("half")
    assert remove_leftovers(tmp_path) == 1
    assert len(list(tmp_path.iterdir())) == 3


def test_a_lock_is_exclusive_and_released_when_its_process_dies(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    def die_with_the_lock() -> int:
        with wait_for_lock(tmp_path / "lock", "waits"):
            os._exit(7)

    assert run_forked(die_with_the_lock) == 7
    for _ in range(2):
        with wait_for_lock(tmp_path / "lock", "waits"), open(tmp_path / "lock") as file, pytest.raises(BlockingIOError):
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    assert capsys.readouterr().err == ""


def test_a_process_prints_a_line_before_it_waits_for_a_lock(tmp_path: Path):
    code = "import sys; from text.artifacts import wait_for_lock\nwith wait_for_lock(sys.argv[1], 'waits'): pass"
    command = [sys.executable, "-c", code, str(tmp_path / "lock")]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    with wait_for_lock(tmp_path / "lock", "is not printed"):
        process = subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True)
        assert process.stderr is not None and process.stderr.readline() == "waits\n"
        assert process.poll() is None
    assert process.communicate() == (None, "") and process.returncode == 0


@pytest.mark.parametrize("umask", [0o022, 0o077])
@pytest.mark.parametrize("mode", [0o600, 0o640, 0o666])
def test_a_replaced_file_keeps_its_mode(tmp_path: Path, umask, mode):
    path = tmp_path / "a.txt"
    path.write_text("old")
    path.chmod(mode)
    before = os.umask(umask)
    try:
        with atomic_write(path) as temporary:
            temporary.write_text("new")
            assert stat.S_IMODE(temporary.stat().st_mode) == 0o600, "others could briefly read a private file"
    finally:
        os.umask(before)
    assert (path.read_text(), stat.S_IMODE(path.stat().st_mode)) == ("new", mode)


@pytest.mark.parametrize(("source_mode", "expected"), [(0o600, 0o600), (0o640, 0o640), (0o400, 0o600), (0o666, 0o644)])
def test_a_file_made_from_a_private_file_is_private(tmp_path: Path, source_mode, expected):
    source = tmp_path / "source"
    source.touch()
    source.chmod(source_mode)
    with atomic_write(tmp_path / "a.txt", private_as=source) as temporary:
        assert stat.S_IMODE(temporary.stat().st_mode) == expected, "others could briefly read a private file"
    assert stat.S_IMODE((tmp_path / "a.txt").stat().st_mode) == expected


def test_the_target_of_a_symbolic_link_is_replaced(tmp_path: Path):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "a.txt").write_text("old")
    (tmp_path / "link").symlink_to("elsewhere/a.txt")
    (tmp_path / "dangling").symlink_to("elsewhere/b.txt")
    write_text(tmp_path / "link", "new")
    write_text(tmp_path / "dangling", "first")
    assert (tmp_path / "link").is_symlink() and (tmp_path / "dangling").is_symlink()
    assert (tmp_path / "elsewhere" / "a.txt").read_text() == "new"
    assert (tmp_path / "elsewhere" / "b.txt").read_text() == "first"


@pytest.mark.parametrize("name", ["fifo", "null", "socket", "link"])
def test_devices_pipes_and_sockets_are_never_replaced(tmp_path: Path, name):
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "link").symlink_to("fifo")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(tmp_path / "socket"))
    if name == "null":
        with suppress(PermissionError):  # Only root may make a device.
            os.mknod(tmp_path / "null", 0o666 | stat.S_IFCHR, os.makedev(1, 3))
        if not (tmp_path / "null").exists():
            pytest.skip("only root may make a device")
    before = os.stat(tmp_path / name)
    with pytest.raises(UsageError, match=name):
        write_text(tmp_path / name, "new")
    assert os.stat(tmp_path / name) == before


def write_new(path: Path) -> None:
    with atomic_write(path, overwrite=False) as temporary:
        temporary.write_text("mine")


def test_a_file_that_another_process_creates_meanwhile_is_kept(tmp_path: Path):
    path = tmp_path / "a.txt"
    with pytest.raises(FileExistsError) as caught, atomic_write(path, overwrite=False) as temporary:
        temporary.write_text("mine")
        assert run_forked(lambda: write_text(path, "theirs") or 0) == 0
    assert get_exit_code(caught.value) == 2
    assert [(file.name, file.read_text()) for file in tmp_path.iterdir()] == [("a.txt", "theirs")]
    with pytest.raises(FileExistsError):
        write_new(path)


def test_a_new_file_has_one_link_without_overwrite(tmp_path: Path):
    write_new(tmp_path / "a.txt")
    assert [(file.name, file.read_text(), file.stat().st_nlink) for file in tmp_path.iterdir()] == [
        ("a.txt", "mine", 1)
    ]


def test_files_written_together_appear_together_or_not_at_all(tmp_path: Path):
    paths = [tmp_path / "a.txt", tmp_path / "x" / "b.txt"]
    with pytest.raises(KeyError), write_together(paths) as temporaries:
        temporaries[0].write_text("a")
        raise KeyError
    assert not paths[0].exists() and not paths[1].exists()
    with write_together(paths) as temporaries:
        for path, temporary in zip(paths, temporaries, strict=True):
            temporary.write_text(path.name)
        assert not paths[0].exists() and not paths[1].exists()
    assert [path.read_text() for path in paths] == ["a.txt", "b.txt"]
    paths[0].unlink()
    with pytest.raises(FileExistsError), write_together(paths, overwrite=False):
        raise AssertionError("the block ran although its second file exists")
    assert [file.name for file in sorted(tmp_path.rglob("*"))] == ["x", "b.txt"]


def test_the_error_of_a_full_disk_names_the_path(tmp_path: Path):
    def write_too_much() -> int:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
        try:
            write_text(tmp_path / "a.txt", "x" * 5000)
        except OSError as error:
            return (get_exit_code(error) or 1) if error.filename == str(tmp_path / "a.txt") and error.strerror else 1
        return 0

    assert run_forked(write_too_much) == 4
    assert list(tmp_path.iterdir()) == []


def test_a_signal_handler_that_raises_removes_the_temporary_file(tmp_path: Path):
    code = """
import signal, sys, time
from text.artifacts import atomic_write
def stop(number, frame): raise SystemExit(143)
signal.signal(signal.SIGTERM, stop)
with atomic_write(sys.argv[1]) as temporary:
    temporary.write_text("half")
    print("writes", flush=True)
    time.sleep(600)
"""
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    command = [sys.executable, "-c", code, str(tmp_path / "a.txt")]
    process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None and process.stdout.readline() == "writes\n"
    assert len(list(tmp_path.iterdir())) == 1
    process.terminate()
    assert process.wait() == 143
    process.stdout.close()
    assert list(tmp_path.iterdir()) == []
