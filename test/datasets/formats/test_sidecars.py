"""Sidecars: found again, made anew for other data or if damaged, whole or not there, as private as their data."""

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


def shout(target: Path) -> None:
    target.write_text("made")


def refuse(_: Path) -> None:
    raise AssertionError("made a second time")


def note_of(path: Path) -> Path:
    return Path(f"{path}.facts.json")


def kept(data: Path) -> list[str]:
    """Names of what is kept beside the data, without notes."""
    return sorted(path.name for path in (data.parent / ".dpr-text").iterdir() if path.suffix != ".json")


def test_made_once_beside_the_data(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = load_or_make_sidecar(data, "index", shout)
    assert path.parent == data.parent / ".dpr-text"
    assert path.name.startswith("rows.jsonl.") and path.name.endswith(f".{compute_data_key(data)}.index")
    assert path.read_text() == "made"
    assert load_or_make_sidecar(data, "index", refuse) == path
    assert load_or_make_sidecar(data.parent / ".." / "data" / data.name, "index", refuse) == path
    assert load_or_make_sidecar(data, "other", shout) != path
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
    """Give the note of a sidecar the place of that of another one, with the data: all hashes are right."""
    other = next(each for each in path.parent.iterdir() if each.name.endswith(".other"))
    shutil.copy(other, path.with_name(path.name.removesuffix(".facts.json")))
    shutil.copy(note_of(other), path)


@pytest.mark.parametrize("is_note", [False, True])
@pytest.mark.parametrize("damage", [cut, change, empty, Path.unlink, swap_note])
def test_damaged_sidecar_is_made_anew_and_told(
    data: Path, is_note: bool, damage: Callable[[Path], None], capsys: pytest.CaptureFixture[str]
) -> None:
    path = load_or_make_sidecar(data, "index", shout)
    load_or_make_sidecar(data, "other", lambda target: target.write_text("xade"))
    status = path.stat()
    damage(note_of(path) if is_note or damage is swap_note else path)
    if path.exists():
        os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert load_or_make_sidecar(data, "index", shout).read_text() == "made"
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith(f"{data}: ") and str(path) in line
    assert load_or_make_sidecar(data, "index", refuse) == path


@pytest.mark.parametrize(
    "content", [b"[]", b"{}", b"null", b'{"name": 1, "facts": {}}', b"\xff", b"[" * 100_000, b'{"name": NaN}']
)
def test_note_that_is_no_note_is_a_reason_to_make_it_anew(data: Path, content: bytes) -> None:
    path = load_or_make_sidecar(data, "index", shout)
    note_of(path).write_bytes(content)
    path.write_text("other")
    assert load_or_make_sidecar(data, "index", shout).read_text() == "made"


def test_content_that_does_not_fit_is_made_anew(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def load(path: Path) -> str:
        if path.read_text() != "made":
            raise ArtifactError(f"{path}: does not fit.")
        return path.read_text()

    load_or_make_sidecar(data, "index", lambda target: target.write_text("of something else"))
    assert load_or_make_sidecar(data, "index", shout, load) == "made"
    assert len(capsys.readouterr().err.splitlines()) == 1


@pytest.mark.parametrize("is_note", [False, True])
@pytest.mark.parametrize("make", [Path.mkdir, os.mkfifo])
def test_folder_or_pipe_in_its_place_sends_it_to_the_cache(
    data: Path, tmp_path: Path, is_note: bool, make: Callable[[Path], None]
) -> None:
    path = load_or_make_sidecar(data, "index", shout)
    place = note_of(path) if is_note else path
    place.unlink()
    make(place)
    found = load_or_make_sidecar(data, "index", shout)
    assert found.is_relative_to(tmp_path / "cache") and found.read_text() == "made"


def test_link_in_its_place_is_not_followed(data: Path, tmp_path: Path) -> None:
    path = load_or_make_sidecar(data, "index", shout)
    (tmp_path / "mine").write_text("keep me")
    path.unlink()
    path.symlink_to(tmp_path / "mine")
    assert load_or_make_sidecar(data, "index", shout) == path and not path.is_symlink()
    assert (tmp_path / "mine").read_text() == "keep me"


def test_data_that_changes_meanwhile_is_refused(data: Path) -> None:
    with pytest.raises(DataError, match=r"rows\.jsonl: "):
        load_or_make_sidecar(data, "index", lambda target: (shout(target), data.write_bytes(b"new")))
    assert kept(data) == []


# Modes


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@pytest.mark.parametrize("allowed", [0o600, 0o640, 0o644])
def test_as_private_as_the_data(data: Path, allowed: int) -> None:
    data.chmod(allowed)
    path = load_or_make_sidecar(data, "index", shout)
    assert [mode(each) & 0o077 & ~allowed for each in (path, note_of(path))] == [0, 0]
    path.chmod(0o666)
    assert load_or_make_sidecar(data, "index", refuse) == path
    assert mode(path) & 0o077 & ~allowed == 0
    path.chmod(0o666)
    cut(path)
    load_or_make_sidecar(data, "index", shout)  # What it takes the place of was open to all.
    assert mode(path) & 0o077 & ~allowed == 0


def test_sidecars_of_earlier_versions_are_removed_or_closed(data: Path) -> None:
    folder = data.parent / ".dpr-text"
    folder.mkdir()
    same_kind, other_kind = (folder / f"rows.jsonl.{compute_data_key(data)}.{kind}" for kind in ("index", "tokens"))
    of_other_data = folder / f"rows.jsonl.gz.{compute_data_key(data)}.index"
    for each in (same_kind, other_kind, of_other_data):
        each.write_text("text of rows")
        each.chmod(0o644)
    data.chmod(0o600)
    load_or_make_sidecar(data, "index", shout)
    assert not same_kind.exists()
    assert (mode(other_kind), mode(of_other_data)) == (0o600, 0o644)


@pytest.mark.skipif(os.getuid() != 0, reason="only root gives files away")
def test_group_of_a_sidecar_reads_it_only_if_all_may(data: Path) -> None:
    os.chown(data, -1, 12345)
    data.chmod(0o640)
    path = load_or_make_sidecar(data, "index", shout)
    assert path.stat().st_gid == 12345 or mode(path) & 0o070 == 0


@pytest.mark.parametrize("place", [0, 65_535, 300_000 - 65_536, 299_999])
def test_key_sees_head_and_tail(data: Path, place: int) -> None:
    status, key = data.stat(), compute_data_key(data)
    content = bytearray(data.read_bytes())
    content[place] = ord("b")
    data.write_bytes(content)
    os.utime(data, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert compute_data_key(data) != key


def test_key_sees_size_and_time(data: Path) -> None:
    keys = [compute_data_key(data)]
    os.utime(data, ns=(5, 5))
    keys.append(compute_data_key(data))
    with data.open("ab") as file:
        file.write(b"a")
    os.utime(data, ns=(5, 5))
    keys.append(compute_data_key(data))
    assert len(set(keys)) == 3


def test_sidecar_of_changed_data_is_made_anew_and_the_old_one_removed(data: Path) -> None:
    old, other_kind = load_or_make_sidecar(data, "index", shout), load_or_make_sidecar(data, "tokens", shout)
    data.write_bytes(b"new")
    new = load_or_make_sidecar(data, "index", shout)
    assert (new != old, old.exists(), new.exists(), other_kind.exists()) == (True, False, True, True)


def test_what_was_made_of_an_old_sidecar_goes_with_it(data: Path) -> None:
    converted = load_or_make_sidecar(data, "rows", shout)
    of_it = load_or_make_sidecar(converted, "tokens", shout)
    data.write_bytes(b"new")
    load_or_make_sidecar(data, "rows", shout)
    assert not converted.exists() and not of_it.exists()


def test_leftovers_of_killed_processes_are_removed(data: Path) -> None:
    folder = data.parent / ".dpr-text"
    folder.mkdir()
    of_a_living_one, old = folder / f".dpr-text-{'a' * 16}", folder / f".dpr-text-{'b' * 16}"
    for path in (of_a_living_one, old):
        path.write_bytes(b"half")
    with of_a_living_one.open("rb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        load_or_make_sidecar(data, "index", shout)
        assert of_a_living_one.exists() and not old.exists()


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
def test_killed_before_each_rename(data: Path, num_renames: int) -> None:
    process = subprocess.run([sys.executable, "-c", KILLED, str(data), str(num_renames)], check=False)
    assert process.returncode == -signal.SIGKILL
    path = load_or_make_sidecar(data, "index", shout)
    assert path.read_text() == "made"
    names = {each.name for each in path.parent.iterdir()} - {path.name, note_of(path).name}
    assert all(name.startswith(".dpr-text-") for name in names)  # Another process removes these.


def test_sidecars_of_other_files_stay(data: Path) -> None:
    other = data.with_name("rows.jsonl.gz")
    other.write_bytes(b"b")
    kept = load_or_make_sidecar(other, "index", shout)
    load_or_make_sidecar(data, "index", shout)
    data.write_bytes(b"new")
    load_or_make_sidecar(data, "index", shout)
    assert kept.exists()


def test_failure_leaves_nothing(data: Path) -> None:
    def fail(target: Path) -> None:
        target.write_text("half")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with pytest.raises(OSError, match=r"4 bytes .*rows\.jsonl") as caught:
        load_or_make_sidecar(data, "index", fail)
    assert caught.value.errno == errno.ENOSPC
    assert list((data.parent / ".dpr-text").iterdir()) == []


@pytest.fixture
def locked(data: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Data in a folder that cannot be written; who is root may write anywhere, so the answer is set."""
    access = os.access
    folders = {data.parent}
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path) not in folders and access(path, mode))
    return data


def test_in_the_cache_folder_where_that_of_the_data_cannot_be_written(locked: Path, tmp_path: Path) -> None:
    path = load_or_make_sidecar(locked, "index", shout)
    assert path.is_relative_to(tmp_path / "cache" / "dpr-text")
    assert load_or_make_sidecar(locked, "index", refuse) == path
    assert [mode(each) for each in (path.parent, path.parent.parent)] == [0o700, 0o700]
    path.parent.chmod(0o755)
    load_or_make_sidecar(locked, "other", shout)
    assert mode(path.parent) == 0o700


def test_data_is_named_if_no_folder_can_be_written(
    locked: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(locked))  # a file
    with pytest.raises(PermissionError, match=r"rows\.jsonl: "):
        load_or_make_sidecar(locked, "index", shout)


def test_long_and_odd_names(tmp_path: Path) -> None:
    for name in ("x" * 255, "é" * 120, os.fsdecode(b"\xff\xfe"), "[a-z]*?", "a\nb"):
        path = tmp_path / name
        path.write_bytes(b"1")
        first = load_or_make_sidecar(path, "index", shout)
        path.write_bytes(b"22")
        assert load_or_make_sidecar(path, "index", shout) != first
        assert not first.exists()
        load_or_make_sidecar(path, "index", refuse)


def test_long_names_that_begin_alike_keep_their_own(data: Path) -> None:
    first, second = (data.with_name("x" * 200 + end) for end in ("train.jsonl", "valid.jsonl"))
    for path in (first, second):
        path.write_bytes(path.name.encode())
    of_first = load_or_make_sidecar(first, "index", shout)
    second.write_bytes(b"new")
    of_second = load_or_make_sidecar(second, "index", shout)
    assert of_first != of_second and load_or_make_sidecar(first, "index", refuse) == of_first


def _make(data: Path, number: int) -> None:
    def write(target: Path) -> None:
        target.write_bytes(bytes([65]) * 1_000_000)

    assert load_or_make_sidecar(data, "index", write).read_bytes() == bytes([65]) * 1_000_000


def test_several_processes_make_it_at_once(data: Path) -> None:
    processes = [multiprocessing.get_context("fork").Process(target=_make, args=(data, i)) for i in range(4)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0] * 4
    [name] = kept(data)
    path = data.parent / ".dpr-text" / name
    assert path.stat().st_size == 1_000_000
    assert json.loads(note_of(path).read_text())["name"] == name
    assert stat.S_IMODE(path.stat().st_mode) & 0o444


def test_without_a_home_beside_the_data_alone(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(os.path, "expanduser", lambda path: path)  # as for a user that the system does not know
    assert load_or_make_sidecar(data, "index", shout).parent == data.parent / ".dpr-text"
