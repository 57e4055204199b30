"""Tests of sidecars: reuse, rebuilding after changes or damage, atomic writes, and file permissions."""

from __future__ import annotations

import errno
import fcntl
import json
import multiprocessing
import os
import shutil
import signal
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from text.datasets.formats.sidecars import compute_data_key, load_or_make_sidecar
from text.errors import ArtifactError, DataError


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    folder = tmp_path / "data"
    folder.mkdir()
    path = folder / "rows.jsonl"
    path.write_bytes(b"a" * 300_000)
    return path


def write_made(target: Path) -> None:
    target.write_text("made")


def fail_if_called(_: Path) -> None:
    raise AssertionError("made a second time")


def get_note_path(path: Path) -> Path:
    return Path(f"{path}.facts.json")


def list_sidecars(data: Path) -> list[str]:
    """Return the names of the sidecars beside the data, without notes."""
    return sorted(path.name for path in (data.parent / ".dpr-text").iterdir() if path.suffix != ".json")


def test_sidecar_is_made_once_beside_the_data(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = load_or_make_sidecar(data, "index", write_made)
    assert path.parent == data.parent / ".dpr-text"
    assert path.name.startswith("rows.jsonl.") and path.name.endswith(f".{compute_data_key(data)}.index")
    assert path.read_text() == "made"
    assert load_or_make_sidecar(data, "index", fail_if_called) == path
    assert load_or_make_sidecar(data.parent / ".." / "data" / data.name, "index", fail_if_called) == path
    assert load_or_make_sidecar(data, "other", write_made) != path
    assert capsys.readouterr().err == ""


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def change(path: Path) -> None:
    path.write_bytes(path.read_bytes().replace(b"a", b"b", 1))


def empty(path: Path) -> None:
    path.write_bytes(b"")


def make_pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def swap_note(path: Path) -> None:
    """Replace a sidecar and its note by another sidecar and its note. All hashes remain right."""
    other = next(each for each in path.parent.iterdir() if each.name.endswith(".other"))
    shutil.copy(other, path.with_name(path.name.removesuffix(".facts.json")))
    shutil.copy(get_note_path(other), path)


@pytest.mark.parametrize("is_note", [False, True])
@pytest.mark.parametrize("damage", [cut, change, empty, Path.unlink, swap_note])
def test_damaged_sidecar_is_rebuilt_with_a_message(
    data: Path, is_note: bool, damage: Callable[[Path], None], capsys: pytest.CaptureFixture[str]
) -> None:
    path = load_or_make_sidecar(data, "index", write_made)
    load_or_make_sidecar(data, "other", lambda target: target.write_text("xade"))
    status = path.stat()
    damage(get_note_path(path) if is_note or damage is swap_note else path)
    if path.exists():
        os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert load_or_make_sidecar(data, "index", write_made).read_text() == "made"
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith(f"{data}: ") and str(path) in line
    assert load_or_make_sidecar(data, "index", fail_if_called) == path


@pytest.mark.parametrize(
    "content", [b"[]", b"{}", b"null", b'{"name": 1, "facts": {}}', b"\xff", b"[" * 100_000, b'{"name": NaN}']
)
def test_sidecar_with_an_invalid_note_is_rebuilt(data: Path, content: bytes) -> None:
    path = load_or_make_sidecar(data, "index", write_made)
    get_note_path(path).write_bytes(content)
    path.write_text("other")
    assert load_or_make_sidecar(data, "index", write_made).read_text() == "made"


def test_sidecar_that_its_loader_rejects_is_rebuilt(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def load(path: Path) -> str:
        if path.read_text() != "made":
            raise ArtifactError(f"{path}: does not fit.")
        return path.read_text()

    load_or_make_sidecar(data, "index", lambda target: target.write_text("of something else"))
    assert load_or_make_sidecar(data, "index", write_made, load) == "made"
    assert len(capsys.readouterr().err.splitlines()) == 1


@pytest.mark.parametrize("is_note", [False, True])
@pytest.mark.parametrize("make", [Path.mkdir, os.mkfifo])
def test_folder_or_pipe_at_the_path_moves_the_sidecar_to_the_cache(
    data: Path, tmp_path: Path, is_note: bool, make: Callable[[Path], None]
) -> None:
    path = load_or_make_sidecar(data, "index", write_made)
    place = get_note_path(path) if is_note else path
    place.unlink()
    make(place)
    found = load_or_make_sidecar(data, "index", write_made)
    assert found.is_relative_to(tmp_path / "cache") and found.read_text() == "made"


def test_link_at_the_path_is_not_followed(data: Path, tmp_path: Path) -> None:
    path = load_or_make_sidecar(data, "index", write_made)
    (tmp_path / "mine").write_text("keep me")
    path.unlink()
    path.symlink_to(tmp_path / "mine")
    assert load_or_make_sidecar(data, "index", write_made) == path and not path.is_symlink()
    assert (tmp_path / "mine").read_text() == "keep me"


def test_data_that_changes_during_the_build_is_refused(data: Path) -> None:
    with pytest.raises(DataError, match=r"rows\.jsonl: "):
        load_or_make_sidecar(data, "index", lambda target: (write_made(target), data.write_bytes(b"new")))
    assert list_sidecars(data) == []


# Modes


def get_mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@pytest.mark.parametrize("allowed", [0o600, 0o640, 0o644])
def test_sidecar_is_as_private_as_the_data(data: Path, allowed: int) -> None:
    data.chmod(allowed)
    path = load_or_make_sidecar(data, "index", write_made)
    assert [get_mode(each) & 0o077 & ~allowed for each in (path, get_note_path(path))] == [0, 0]
    path.chmod(0o666)
    assert load_or_make_sidecar(data, "index", fail_if_called) == path
    assert get_mode(path) & 0o077 & ~allowed == 0
    path.chmod(0o666)
    cut(path)
    load_or_make_sidecar(data, "index", write_made)  # The file that it replaces was readable by all.
    assert get_mode(path) & 0o077 & ~allowed == 0


def test_sidecars_of_earlier_versions_are_removed_or_made_private(data: Path) -> None:
    folder = data.parent / ".dpr-text"
    folder.mkdir()
    same_kind, other_kind = (folder / f"rows.jsonl.{compute_data_key(data)}.{kind}" for kind in ("index", "tokens"))
    other_data = folder / f"rows.jsonl.gz.{compute_data_key(data)}.index"
    for each in (same_kind, other_kind, other_data):
        each.write_text("text of rows")
        each.chmod(0o644)
    data.chmod(0o600)
    load_or_make_sidecar(data, "index", write_made)
    assert not same_kind.exists()
    assert (get_mode(other_kind), get_mode(other_data)) == (0o600, 0o644)


@pytest.mark.skipif(os.getuid() != 0, reason="only root gives files away")
def test_group_can_read_a_sidecar_only_if_it_can_read_the_data(data: Path) -> None:
    os.chown(data, -1, 12345)
    data.chmod(0o640)
    path = load_or_make_sidecar(data, "index", write_made)
    assert path.stat().st_gid == 12345 or get_mode(path) & 0o070 == 0


@pytest.mark.parametrize("place", [0, 65_535, 300_000 - 65_536, 299_999])
def test_key_depends_on_head_and_tail(data: Path, place: int) -> None:
    status, key = data.stat(), compute_data_key(data)
    content = bytearray(data.read_bytes())
    content[place] = ord("b")
    data.write_bytes(content)
    os.utime(data, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert compute_data_key(data) != key


def test_key_depends_on_size_and_time(data: Path) -> None:
    keys = [compute_data_key(data)]
    os.utime(data, ns=(5, 5))
    keys.append(compute_data_key(data))
    with data.open("ab") as file:
        file.write(b"a")
    os.utime(data, ns=(5, 5))
    keys.append(compute_data_key(data))
    assert len(set(keys)) == 3


def test_sidecar_of_changed_data_is_rebuilt_and_the_old_one_removed(data: Path) -> None:
    old, other_kind = load_or_make_sidecar(data, "index", write_made), load_or_make_sidecar(data, "tokens", write_made)
    data.write_bytes(b"new")
    new = load_or_make_sidecar(data, "index", write_made)
    assert (new != old, old.exists(), new.exists(), other_kind.exists()) == (True, False, True, True)


def test_sidecar_of_an_outdated_sidecar_is_removed(data: Path) -> None:
    converted = load_or_make_sidecar(data, "rows", write_made)
    derived = load_or_make_sidecar(converted, "tokens", write_made)
    data.write_bytes(b"new")
    load_or_make_sidecar(data, "rows", write_made)
    assert not converted.exists() and not derived.exists()


def test_leftovers_of_killed_processes_are_removed(data: Path) -> None:
    folder = data.parent / ".dpr-text"
    folder.mkdir()
    locked_leftover, old = folder / f".dpr-text-{'a' * 16}", folder / f".dpr-text-{'b' * 16}"
    for path in (locked_leftover, old):
        path.write_bytes(b"half")
    with locked_leftover.open("rb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        load_or_make_sidecar(data, "index", write_made)
        assert locked_leftover.exists() and not old.exists()


KILLED = """
import os, signal, sys
from text.datasets.formats import sidecars
rename, calls = os.replace, iter(range(9))
def replace(*paths):
    if next(calls) == int(sys.argv[2]):
        os.kill(os.getpid(), signal.SIGKILL)
    rename(*paths)
os.replace = replace
sidecars.Path.replace = lambda path, target: replace(path, target)
sidecars.load_or_make_sidecar(sys.argv[1], "index", lambda path: path.write_text("made"))
"""


@pytest.mark.parametrize("num_renames", [0, 1])
def test_process_killed_before_a_rename_leaves_no_invalid_sidecar(data: Path, num_renames: int) -> None:
    process = subprocess.run([sys.executable, "-c", KILLED, str(data), str(num_renames)], check=False)
    assert process.returncode == -signal.SIGKILL
    path = load_or_make_sidecar(data, "index", write_made)
    assert path.read_text() == "made"
    names = {each.name for each in path.parent.iterdir()} - {path.name, get_note_path(path).name}
    assert all(name.startswith(".dpr-text-") for name in names)  # The next process removes these files.


def test_sidecars_of_other_files_are_kept(data: Path) -> None:
    other = data.with_name("rows.jsonl.gz")
    other.write_bytes(b"b")
    kept = load_or_make_sidecar(other, "index", write_made)
    load_or_make_sidecar(data, "index", write_made)
    data.write_bytes(b"new")
    load_or_make_sidecar(data, "index", write_made)
    assert kept.exists()


def test_failure_leaves_no_files(data: Path) -> None:
    def fail(target: Path) -> None:
        target.write_text("half")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with pytest.raises(OSError, match=r"4 bytes .*rows\.jsonl") as caught:
        load_or_make_sidecar(data, "index", fail)
    assert caught.value.errno == errno.ENOSPC
    assert list((data.parent / ".dpr-text").iterdir()) == []


@pytest.fixture
def locked_data(data: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return data in a folder that is not writable. os.access is patched, because root may write anywhere."""
    access = os.access
    folders = {data.parent}
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path) not in folders and access(path, mode))
    return data


def test_cache_folder_is_used_if_the_data_folder_is_not_writable(locked_data: Path, tmp_path: Path) -> None:
    path = load_or_make_sidecar(locked_data, "index", write_made)
    assert path.is_relative_to(tmp_path / "cache" / "dpr-text")
    assert load_or_make_sidecar(locked_data, "index", fail_if_called) == path
    assert [get_mode(each) for each in (path.parent, path.parent.parent)] == [0o700, 0o700]
    path.parent.chmod(0o755)
    load_or_make_sidecar(locked_data, "other", write_made)
    assert get_mode(path.parent) == 0o700


def test_error_names_the_data_if_no_folder_is_writable(
    locked_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(locked_data))  # This path is a file.
    with pytest.raises(PermissionError, match=r"rows\.jsonl: "):
        load_or_make_sidecar(locked_data, "index", write_made)


def test_sidecars_of_files_with_long_and_odd_names(tmp_path: Path) -> None:
    for name in ("x" * 255, "é" * 120, os.fsdecode(b"\xff\xfe"), "[a-z]*?", "a\nb"):
        path = tmp_path / name
        path.write_bytes(b"1")
        first = load_or_make_sidecar(path, "index", write_made)
        path.write_bytes(b"22")
        assert load_or_make_sidecar(path, "index", write_made) != first
        assert not first.exists()
        load_or_make_sidecar(path, "index", fail_if_called)


def test_files_with_the_same_long_prefix_have_different_sidecars(data: Path) -> None:
    first, second = (data.with_name("x" * 200 + end) for end in ("train.jsonl", "valid.jsonl"))
    for path in (first, second):
        path.write_bytes(path.name.encode())
    first_index = load_or_make_sidecar(first, "index", write_made)
    second.write_bytes(b"new")
    second_index = load_or_make_sidecar(second, "index", write_made)
    assert first_index != second_index and load_or_make_sidecar(first, "index", fail_if_called) == first_index


def make_in_process(data: Path, number: int) -> None:
    def write(target: Path) -> None:
        target.write_bytes(bytes([65]) * 1_000_000)

    assert load_or_make_sidecar(data, "index", write).read_bytes() == bytes([65]) * 1_000_000


def test_several_processes_make_a_sidecar_at_once(data: Path) -> None:
    processes = [multiprocessing.get_context("fork").Process(target=make_in_process, args=(data, i)) for i in range(4)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0] * 4
    [name] = list_sidecars(data)
    path = data.parent / ".dpr-text" / name
    assert path.stat().st_size == 1_000_000
    assert json.loads(get_note_path(path).read_text())["name"] == name
    assert stat.S_IMODE(path.stat().st_mode) & 0o444


def test_without_a_home_folder_the_data_folder_is_used(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(os.path, "expanduser", lambda path: path)  # as for a user without an account
    assert load_or_make_sidecar(data, "index", write_made).parent == data.parent / ".dpr-text"
