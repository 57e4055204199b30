"""Checkpoints are complete or unchanged whenever writing is killed or fails, and damage is detected."""

from __future__ import annotations

import errno
import functools
import hashlib
import os
import re
import resource
import shutil
import socket
import subprocess
import tarfile
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import pytest
import torch

from text.artifacts import remove_leftovers
from text.errors import ArtifactError
from text.training import (
    AtomicCheckpointIO,
    check_hash,
    estimate_checkpoint_size,
    find_valid_checkpoint,
    read_checkpoint,
)


def build_content(size: int, step: int) -> dict[str, Any]:
    """Return the parts that every checkpoint has."""
    empty = {"epoch": 0, "loops": {}, "callbacks": {}, "optimizer_states": [{}], "lr_schedulers": [{}]}
    weights = {"weights": torch.arange(float(size))}
    return {**empty, "global_step": step, "pytorch-lightning_version": "2.6.6", "state_dict": weights}


OLD = build_content(3000, 1)
NEW = build_content(6000, 2)


def save(content: dict[str, Any], path: Path) -> bytes:
    AtomicCheckpointIO().save_checkpoint(content, path)
    return path.read_bytes()


def expect_rejection(path: Path) -> str:
    """Check that loading a checkpoint fails, and return the error message."""
    with pytest.raises(ArtifactError) as caught:
        AtomicCheckpointIO().load_checkpoint(path)
    [line] = str(caught.value).splitlines()
    assert line.startswith(f"{path}: ")
    return line


def test_a_saved_checkpoint_loads_unchanged(tmp_path: Path) -> None:
    save(NEW, tmp_path / "last.ckpt")
    for loaded in (
        AtomicCheckpointIO().load_checkpoint(tmp_path / "last.ckpt"),
        torch.load(tmp_path / "last.ckpt", weights_only=True),  # torch.load ignores the hash
    ):
        assert torch.equal(loaded["state_dict"]["weights"], NEW["state_dict"]["weights"])
    assert [path.name for path in tmp_path.iterdir()] == ["last.ckpt"]


def test_truncated_files_and_flipped_bits_are_rejected(tmp_path: Path) -> None:
    path = tmp_path / "last.ckpt"
    whole, random = save(NEW, path), Random(0)
    for size in [0, 1, 71, 72, len(whole) - 1, *random.sample(range(len(whole)), 200)]:
        path.write_bytes(whole[:size])
        expect_rejection(path)
    for place in [0, len(whole) - 1, *random.sample(range(len(whole)), 1000)]:
        flipped = bytearray(whole)
        flipped[place] ^= 1 << random.randrange(8)
        path.write_bytes(flipped)
        line = expect_rejection(path)
        # If the flipped bit is in the mark before the hash, the message has no hashes.
        assert len(re.findall(r"\b[0-9a-f]{64}\b", line)) == 2 or place >= len(whole) - 71, line
    path.write_bytes(whole + b"\n")
    expect_rejection(path)


def test_files_that_are_not_checkpoints_are_rejected(tmp_path: Path) -> None:
    path = tmp_path / "last.ckpt"
    torch.save(NEW, path)
    assert "SHA-256" in expect_rejection(path)
    save({**NEW, "code": Path}, path)  # a valid hash, but a value that is neither a tensor nor plain
    assert "weights_only" not in expect_rejection(path)
    save({**NEW, "memory": bytearray(3)}, path)  # PyTorch would load it
    expect_rejection(path)
    save({**NEW, "state_dict": {"weights": torch.eye(3).to_sparse()}}, path)
    expect_rejection(path)
    with pytest.raises(FileNotFoundError, match=r"none\.ckpt"):
        AtomicCheckpointIO().load_checkpoint(tmp_path / "none.ckpt")


def sign(path: Path, content: bytes) -> None:
    """Write a file with content and a valid hash."""
    path.write_bytes(content + b"sha256:" + hashlib.sha256(content).hexdigest().encode())


def test_other_archive_formats_are_rejected_before_they_are_read(tmp_path: Path) -> None:
    path, other = tmp_path / "last.ckpt", tmp_path / "other"
    torch.save(NEW, other, _use_new_zipfile_serialization=False)
    sign(path, other.read_bytes())
    expect_rejection(path)
    with tarfile.open(other, "w") as archive:
        archive.add(__file__, "data.pkl")
    sign(path, other.read_bytes())
    expect_rejection(path)
    torch.save(NEW, other)
    with zipfile.ZipFile(other) as whole, zipfile.ZipFile(tmp_path / "packed", "w", zipfile.ZIP_DEFLATED) as packed:
        for name in whole.namelist():
            packed.writestr(name, whole.read(name))
        packed.writestr("archive/data/zeros", bytes(1 << 26))
    sign(path, (tmp_path / "packed").read_bytes())
    assert "compressed" in expect_rejection(path)
    sign(path, b"x" + other.read_bytes())  # a byte in front of the archive
    expect_rejection(path)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("global_step", -1),
        ("global_step", "1"),
        ("epoch", None),
        ("state_dict", [1]),
        ("loops", None),
        ("callbacks", {"RandomState": 1}),
        ("optimizer_states", {}),
        ("lr_schedulers", []),
        ("pytorch-lightning_version", "0.1"),
        ("pytorch-lightning_version", 2),
        ("more", {(1, 2): 3}),
    ],
)
def test_a_missing_part_or_wrong_type_is_rejected_with_its_key(tmp_path: Path, key: str, value: Any) -> None:
    path = tmp_path / "last.ckpt"
    save({**NEW, key: value}, path)
    assert key in expect_rejection(path)
    with pytest.raises(ArtifactError, match=key):
        read_checkpoint(path)
    if key in NEW:
        save({name: each for name, each in NEW.items() if name != key}, path)
        assert key in expect_rejection(path)


def test_deep_nesting_and_self_references_are_rejected(tmp_path: Path) -> None:
    path, inner = tmp_path / "last.ckpt", []
    inner.append(inner)
    for value in (inner, functools.reduce(lambda value, _: [value, value], range(60), [])):
        save({**NEW, "more": value}, path)
        expect_rejection(path)


def test_find_valid_checkpoint_prefers_the_last_one(tmp_path: Path) -> None:
    last, best = tmp_path / "last.ckpt", tmp_path / "best.ckpt"
    with pytest.raises(FileNotFoundError, match=r"last\.ckpt.*best\.ckpt"):
        find_valid_checkpoint(tmp_path)
    save(NEW, last)
    save(OLD, best)
    assert find_valid_checkpoint(tmp_path) == (last, [])
    last.write_bytes(b"")
    path, [fault] = find_valid_checkpoint(tmp_path)
    assert path == best and str(last) in fault
    best.write_bytes(best.read_bytes()[:-1])
    with pytest.raises(ArtifactError, match=r"last\.ckpt: .*best\.ckpt: "):
        find_valid_checkpoint(tmp_path)
    last.unlink()
    save(OLD, best)
    assert find_valid_checkpoint(tmp_path) == (best, [])


def test_estimate_checkpoint_size_by_hand() -> None:
    model = torch.nn.Linear(3, 2)  # 8 weights of 4 bytes, with two AdamW moments each
    assert estimate_checkpoint_size(model) == 96
    model.bias.requires_grad_(False)
    assert estimate_checkpoint_size(model) == 80


# Disk errors and kills, injected by strace into a process that is forked from this one.

needs_strace = pytest.mark.skipif(shutil.which("strace") is None, reason="strace is not installed")
SYSCALLS = ("openat", "write", "fsync", "/chmod", "/^rename")


def run_forked(work: Callable[[], object], strace: list[str] | None = None) -> tuple[int, str]:
    """Run ``work`` in a forked process. Return its exit code (4: OSError, negative: signal) and its error message."""
    ours, theirs = socket.socketpair()  # its system calls are not those of a file
    pid = os.fork()
    if pid == 0:
        theirs.recv(1)
        code, message = 0, ""
        try:
            work()
        except OSError as error:
            code, message = 4, f"{error.filename}: {error.strerror}"
        except BaseException as error:
            code, message = 1, repr(error)
        finally:
            theirs.send(message.encode() or b"-")
            os._exit(code)
    tracer = None
    if strace is not None:
        tracer = subprocess.Popen(["strace", "-qq", "-p", str(pid), *strace], stderr=subprocess.DEVNULL)
        while "TracerPid:\t0" in Path(f"/proc/{pid}/status").read_text():
            time.sleep(0.002)
    theirs.close()
    ours.send(b" ")
    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    if tracer is not None:
        tracer.wait()
    with ours:
        return status, ours.recv(10_000).decode().removeprefix("-")


@needs_strace
@pytest.mark.parametrize("syscall", SYSCALLS)
def test_a_kill_at_any_system_call_leaves_the_old_or_the_new_file(tmp_path: Path, syscall: str) -> None:
    path = tmp_path / "last.ckpt"
    new, old = save(NEW, path), save(OLD, path)
    number, content = 0, b""
    for number in range(1, 100):
        inject = ["-e", f"inject={syscall}:signal=SIGKILL:when={number}"]
        status, _ = run_forked(lambda: AtomicCheckpointIO().save_checkpoint(NEW, path), inject)
        content = path.read_bytes()
        assert content in (old, new), (syscall, number)
        check_hash(path)
        left = remove_leftovers(tmp_path)
        assert left <= 1 and [file.name for file in tmp_path.iterdir()] == ["last.ckpt"]
        if status == 0:
            break
        assert status == -9
        assert save(OLD, path) == old
    assert number > 1 and content == new


@needs_strace
@pytest.mark.parametrize(
    ("syscall", "error"),
    [("write", "ENOSPC"), ("write", "EIO"), ("fsync", "EIO"), ("/^rename", "EIO"), ("openat", "EMFILE")],
)
def test_an_error_in_any_system_call_leaves_a_complete_file(tmp_path: Path, syscall: str, error: str) -> None:
    path = tmp_path / "last.ckpt"
    new, old = save(NEW, path), save(OLD, path)
    number = 0
    for number in range(1, 100):
        inject = ["-e", f"inject={syscall}:error={error}:when={number}"]
        status, message = run_forked(lambda: AtomicCheckpointIO().save_checkpoint(NEW, path), inject)
        assert [file.name for file in tmp_path.iterdir()] == ["last.ckpt"], "leftover files"
        if status == 0:
            break
        assert status == 4, message
        assert re.match(rf"{path}: .*\b{len(new)} bytes\b.*\b\d+\b", message), message
        if syscall in ("write", "/^rename"):
            assert path.read_bytes() == old
        check_hash(path)
    assert number > 1 and path.read_bytes() == new


@needs_strace
def test_file_is_flushed_before_the_rename_and_the_folder_after(tmp_path: Path) -> None:
    # A power failure cannot be tested, so check the order of the calls: flush the file, rename it, flush the folder.
    log = tmp_path / "log"
    folder = tmp_path / "checkpoints"
    folder.mkdir()
    trace = ["-y", "-s0", "-o", str(log), "-e", "trace=write,fsync,/^rename"]
    assert run_forked(lambda: AtomicCheckpointIO().save_checkpoint(NEW, folder / "last.ckpt"), trace) == (0, "")
    calls = [
        line.split("(")[0] + " " + "".join(re.findall(r"<([^>]*)>", line)) for line in log.read_text().splitlines()
    ]
    rename = next(place for place, call in enumerate(calls) if call.startswith("rename"))
    [temporary] = re.findall(r'rename\w*\(.*?"([^"]*/\.dpr-text-[^"]*)"', log.read_text())
    assert calls[rename - 1] == f"fsync {temporary}"
    assert calls[rename + 1] == f"fsync {folder}"
    assert f"write {temporary}" in calls[:rename] and f"write {temporary}" not in calls[rename:]


def test_a_file_above_the_size_limit_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "last.ckpt"
    old = save(OLD, path)

    def fail() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, 10_000))
        AtomicCheckpointIO().save_checkpoint(NEW, path)

    status, message = run_forked(fail)
    assert status == 4 and message.startswith(f"{path}: {os.strerror(errno.EFBIG)}")
    assert path.read_bytes() == old
    assert [file.name for file in tmp_path.iterdir()] == ["last.ckpt"]
