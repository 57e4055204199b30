"""Files are whole or absent, readable by whom the umask says, and leave nothing beside them."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from text.artifacts import (
    atomic_write,
    remove_leftovers,
    sha256,
    wait_for_lock,
    write_json,
    write_lines,
    write_text,
)


def test_atomic_write_puts_the_file_in_place(tmp_path: Path):
    path = tmp_path / "a.bin"
    with atomic_write(path) as temporary:
        temporary.write_bytes(b"new")
        assert temporary.parent == path.parent, "rename is atomic within one folder only"
        assert not path.exists(), "the final name appeared before the content was whole"
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


def test_atomic_write_onto_a_folder_leaves_no_litter(tmp_path: Path):
    (tmp_path / "taken").mkdir()
    with pytest.raises(OSError), atomic_write(tmp_path / "taken") as temporary:
        temporary.write_bytes(b"new")
    assert [path.name for path in tmp_path.iterdir()] == ["taken"]


def test_atomic_write_replaces(tmp_path: Path):
    path = tmp_path / "a.txt"
    write_text(path, "a long first version\n")
    write_text(path, "short\n")
    assert path.read_bytes() == b"short\n"


def test_atomic_write_creates_the_folder(tmp_path: Path):
    write_text(tmp_path / "x" / "y" / "a.txt", "in")
    assert (tmp_path / "x" / "y" / "a.txt").read_text() == "in"


def test_atomic_write_takes_a_bare_file_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
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
    assert left == umask, "the process has another umask now"


@pytest.mark.parametrize("content", ["", "ünï\u2028cödé 🦆\n", "no newline at the end", "\r\n kept"])
def test_write_text_there_and_back(tmp_path: Path, content):
    write_text(tmp_path / "a.txt", content)
    assert (tmp_path / "a.txt").read_bytes() == content.encode()


def test_write_text_of_half_a_character_keeps_the_old(tmp_path: Path):
    write_text(tmp_path / "a.txt", "old")
    with pytest.raises(UnicodeEncodeError):
        write_text(tmp_path / "a.txt", "\ud800")
    assert [(file.name, file.read_text()) for file in tmp_path.iterdir()] == [("a.txt", "old")]


def test_write_lines_counts_them_and_keeps_the_old_file_if_one_fails(tmp_path: Path):
    path = tmp_path / "a.txt"
    assert write_lines(path, (f"{word}\n" for word in ("ünï", "two"))) == 2
    assert path.read_bytes() == "ünï\ntwo\n".encode()
    with pytest.raises(ZeroDivisionError):
        write_lines(path, (f"{1 // number}\n" for number in (1, 0)))
    assert [(file.name, file.read_text(encoding="utf-8")) for file in tmp_path.iterdir()] == [("a.txt", "ünï\ntwo\n")]


def test_write_json_there_and_back(tmp_path: Path):
    content = {"ключ": [1, 0.1, None, True], "nested": {"": "é"}}
    write_json(tmp_path / "a.json", content)
    written = (tmp_path / "a.json").read_text(encoding="utf-8")
    assert json.loads(written) == content
    assert "ключ" in written and written.endswith("}\n"), "meant for people to read"


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_write_json_refuses_what_json_has_not(tmp_path: Path, value):
    write_json(tmp_path / "a.json", {"loss": 1.0})
    with pytest.raises(ValueError, match=r"nan|inf|JSON"):
        write_json(tmp_path / "a.json", {"loss": value})
    assert json.loads((tmp_path / "a.json").read_text()) == {"loss": 1.0}


@pytest.mark.parametrize("size", [0, 1, (1 << 20) - 1, 1 << 20, (1 << 20) + 1, 3 << 20])
def test_sha256_equals_hashlib(tmp_path: Path, size):
    content = bytes(range(256)) * (size // 256) + b"x" * (size % 256)
    (tmp_path / "a.bin").write_bytes(content)
    assert sha256(tmp_path / "a.bin") == hashlib.sha256(content).hexdigest()


def test_sha256_by_hand(tmp_path: Path):
    # FIPS 180-2, appendix B.1: the message "abc".
    (tmp_path / "abc").write_bytes(b"abc")
    assert sha256(tmp_path / "abc") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


def in_another_process(work: Callable[[], int]) -> int:
    """Return the number that the work gives in a process that knows nothing of this one's files."""
    pid = os.fork()
    if pid == 0:
        os._exit(work())
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def test_leftovers_of_a_dead_process_are_removed_and_files_of_a_live_one_stay(tmp_path: Path):
    def die_while_writing() -> int:
        with atomic_write(tmp_path / "a.bin"):
            os._exit(7)

    assert in_another_process(die_while_writing) == 7
    assert len(list(tmp_path.iterdir())) == 1
    with atomic_write(tmp_path / "b.bin") as temporary:
        temporary.write_bytes(b"half")
        assert in_another_process(lambda: remove_leftovers(tmp_path)) == 1
        assert remove_leftovers(tmp_path) == 0
        assert list(tmp_path.iterdir()) == [temporary]
        temporary.write_bytes(b"whole")
    assert (tmp_path / "b.bin").read_bytes() == b"whole"
    assert remove_leftovers(tmp_path) == 0


def test_a_lock_is_held_by_one_and_free_after_a_death(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    def die_with_the_lock() -> int:
        with wait_for_lock(tmp_path / "lock", "waits"):
            os._exit(7)

    assert in_another_process(die_with_the_lock) == 7
    for _ in range(2):
        with wait_for_lock(tmp_path / "lock", "waits"), open(tmp_path / "lock") as file, pytest.raises(BlockingIOError):
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    assert capsys.readouterr().err == ""


def test_a_process_says_that_it_waits_for_a_lock(tmp_path: Path):
    code = "import sys; from text.artifacts import wait_for_lock\nwith wait_for_lock(sys.argv[1], 'waits'): pass"
    command = [sys.executable, "-c", code, str(tmp_path / "lock")]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
    with wait_for_lock(tmp_path / "lock", "is not printed"):
        process = subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True)
        assert process.stderr is not None and process.stderr.readline() == "waits\n"
        assert process.poll() is None
    assert process.communicate() == (None, "") and process.returncode == 0
