"""Sidecars: found again, made anew for other data, whole or not there."""

from __future__ import annotations

import multiprocessing
import os
import stat
from pathlib import Path

import pytest

from text.datasets.formats.sidecars import data_key, find_sidecar, sidecar


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


def test_made_once_beside_the_data(data: Path) -> None:
    assert find_sidecar(data, "index") is None
    path = sidecar(data, "index", shout)
    assert path.parent == data.parent / ".dpr-text"
    assert (path.name, path.read_text()) == (f"rows.jsonl.{data_key(data)}.index", "made")
    assert sidecar(data, "index", refuse) == find_sidecar(data, "index") == path
    assert sidecar(data.parent / ".." / "data" / data.name, "index", refuse) == path
    assert sidecar(data, "other", shout) != path


@pytest.mark.parametrize("place", [0, 65_535, 300_000 - 65_536, 299_999])
def test_key_sees_head_and_tail(data: Path, place: int) -> None:
    status, key = data.stat(), data_key(data)
    content = bytearray(data.read_bytes())
    content[place] = ord("b")
    data.write_bytes(content)
    os.utime(data, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert data_key(data) != key


def test_key_sees_size_and_time(data: Path) -> None:
    keys = [data_key(data)]
    os.utime(data, ns=(5, 5))
    keys.append(data_key(data))
    with data.open("ab") as file:
        file.write(b"a")
    os.utime(data, ns=(5, 5))
    keys.append(data_key(data))
    assert len(set(keys)) == 3


def test_sidecar_of_changed_data_is_made_anew_and_the_old_one_removed(data: Path) -> None:
    old, other_kind = sidecar(data, "index", shout), sidecar(data, "tokens", shout)
    data.write_bytes(b"new")
    new = sidecar(data, "index", shout)
    assert (new != old, old.exists(), new.exists(), other_kind.exists()) == (True, False, True, True)


def test_what_was_made_of_an_old_sidecar_goes_with_it(data: Path) -> None:
    converted = sidecar(data, "rows", shout)
    of_it = sidecar(converted, "tokens", shout)
    data.write_bytes(b"new")
    sidecar(data, "rows", shout)
    assert not converted.exists() and not of_it.exists()


def test_leftovers_of_killed_processes_are_removed(data: Path) -> None:
    folder = data.parent / ".dpr-text"
    folder.mkdir()
    of_a_living_one, old = folder / ".dpr-text-a", folder / ".dpr-text-b"
    for path in (of_a_living_one, old):
        path.write_bytes(b"half")
    os.utime(old, (0, 0))
    sidecar(data, "index", shout)
    assert of_a_living_one.exists() and not old.exists()


def test_sidecars_of_other_files_stay(data: Path) -> None:
    other = data.with_name("rows.jsonl.gz")
    other.write_bytes(b"b")
    kept = sidecar(other, "index", shout)
    sidecar(data, "index", shout)
    data.write_bytes(b"new")
    sidecar(data, "index", shout)
    assert kept.exists()


def test_failure_leaves_nothing(data: Path) -> None:
    def fail(target: Path) -> None:
        target.write_text("half")
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        sidecar(data, "index", fail)
    assert find_sidecar(data, "index") is None
    assert list((data.parent / ".dpr-text").iterdir()) == []


@pytest.fixture
def locked(data: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Data in a folder that cannot be written; who is root may write anywhere, so the answer is set."""
    access = os.access
    folders = {data.parent}
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path) not in folders and access(path, mode))
    return data


def test_in_the_cache_folder_where_that_of_the_data_cannot_be_written(locked: Path, tmp_path: Path) -> None:
    path = sidecar(locked, "index", shout)
    assert path.is_relative_to(tmp_path / "cache" / "dpr-text")
    assert sidecar(locked, "index", refuse) == path


def test_data_is_named_if_no_folder_can_be_written(
    locked: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(locked))  # a file
    with pytest.raises(PermissionError, match=r"rows\.jsonl: "):
        sidecar(locked, "index", shout)


def test_long_and_odd_names(tmp_path: Path) -> None:
    for name in ("x" * 255, "é" * 120, os.fsdecode(b"\xff\xfe"), "[a-z]*?", "a\nb"):
        path = tmp_path / name
        path.write_bytes(b"1")
        first = sidecar(path, "index", shout)
        path.write_bytes(b"22")
        assert sidecar(path, "index", shout) != first
        assert not first.exists()


def _make(data: Path, number: int) -> None:
    def write(target: Path) -> None:
        target.write_bytes(bytes([65]) * 1_000_000)

    assert sidecar(data, "index", write).read_bytes() == bytes([65]) * 1_000_000


def test_several_processes_make_it_at_once(data: Path) -> None:
    processes = [multiprocessing.get_context("fork").Process(target=_make, args=(data, i)) for i in range(4)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0] * 4
    [path] = (data.parent / ".dpr-text").iterdir()
    assert path.stat().st_size == 1_000_000
    assert stat.S_IMODE(path.stat().st_mode) & 0o444


def test_without_a_home_beside_the_data_alone(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(os.path, "expanduser", lambda path: path)  # as for a user that the system does not know
    assert sidecar(data, "index", shout).parent == data.parent / ".dpr-text"
