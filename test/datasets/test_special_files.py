"""Tests of special files: every reader refuses devices, pipes and decompression bombs at once."""

from __future__ import annotations

import gzip
import json
import os
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import zstandard

from test.helpers import parse_place, record, write_jsonl
from text.commands.cli import get_exit_code, run_command
from text.commands.update import UpdateFlags, update
from text.datasets import DPRDataPipe, PassageCollection, read_ids, read_positive_ids, read_questions, select_rows
from text.errors import DataError, UsageError
from text.evaluation import read_qrels, read_run

READERS: dict[str, Callable[[Path], Any]] = {
    "rows": lambda path: DPRDataPipe(path, 2),
    "collection": PassageCollection,
    "questions": read_questions,
    "positive_ids": read_positive_ids,
    "qrels": read_qrels,
    "run": read_run,
    "ids": read_ids,
    "raw": lambda path: select_rows(path, Path(f"{path}.out"), 2),
}


def make_socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as each:
        each.bind(str(path))


MAKERS: dict[str, Callable[[Path], Any]] = {
    "pipe": os.mkfifo,
    "device": lambda path: path.symlink_to("/dev/zero"),
    "folder": Path.mkdir,
    "socket": make_socket,
    "link to itself": lambda path: path.symlink_to(path),
}


@pytest.mark.timeout(60)
@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("kind", MAKERS)
def test_special_file_is_refused_without_opening_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, reader: str, kind: str
) -> None:
    monkeypatch.chdir(tmp_path)  # Socket paths must be short.
    MAKERS[kind](Path("x"))
    with pytest.raises(UsageError) as caught:
        READERS[reader](Path("x"))
    assert str(caught.value).startswith("x") and get_exit_code(caught.value) == 2


@pytest.mark.timeout(60)
@pytest.mark.parametrize("flag", ["collection", "upsert", "delete"])
def test_command_refuses_a_pipe(tmp_path: Path, flag: str, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "c.jsonl").write_text('{"_id": "p", "text": "oak"}\n')
    (tmp_path / "ids.txt").write_text("p\n")
    paths = {"collection": "c.jsonl", "upsert": "c.jsonl", "delete": "ids.txt"} | {flag: "pipe"}
    os.mkfifo(tmp_path / "pipe")
    flags = [f"--{name}={tmp_path / name_of_file}" for name, name_of_file in paths.items()]
    assert run_command(update, UpdateFlags, [*flags, f"--output={tmp_path}/new.jsonl"]) == 2
    assert f"{tmp_path}/pipe" in capsys.readouterr().err
    assert not (tmp_path / "new.jsonl").exists()


@pytest.fixture(scope="module")
def bombs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write compressed files: two with 80 MB of blank lines, and one with a row of 18 MB before damaged data."""
    folder = tmp_path_factory.mktemp("bombs")
    blank = (b" " * 1023 + b"\n") * (80 << 10)
    (folder / "bomb.jsonl.gz").write_bytes(gzip.compress(blank))
    (folder / "bomb.jsonl.zst").write_bytes(zstandard.compress(blank))
    long = b'{"question": "' + os.urandom(9 << 20).hex().encode() + b'"}\n'
    (folder / "long.jsonl.gz").write_bytes(gzip.compress(FIRST + long, 1) + b"damaged")
    return folder


FIRST = json.dumps(record("q")).encode() + b"\n"


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("suffix", [".gz", ".zst"])
def test_decompression_bomb_is_refused(tmp_path: Path, bombs: Path, reader: str, suffix: str) -> None:
    path = tmp_path / f"bomb.jsonl{suffix}"
    path.symlink_to(bombs / path.name)
    with pytest.raises(DataError) as caught:
        READERS[reader](path)
    assert str(caught.value).startswith(f"{path}:1")
    assert [each.name for each in tmp_path.rglob("*") if each.is_file()] == [path.name]  # No other file is left.


@pytest.mark.parametrize("reader", ["rows", "collection", "raw", "ids"])
def test_row_above_16_mib_ends_decompression(tmp_path: Path, bombs: Path, reader: str) -> None:
    path = tmp_path / "long.jsonl.gz"
    path.symlink_to(bombs / path.name)
    with pytest.raises(DataError) as caught:
        READERS[reader](path)
    # The damaged data behind the row is never read.
    assert parse_place(caught.value, path) == (2, len(FIRST), "row")


@pytest.mark.parametrize("blanks", [10 << 20, 20 << 20])
def test_select_and_training_have_the_same_limit_of_white_space(tmp_path: Path, blanks: int) -> None:
    rows = [json.dumps(record(f"q{n}")).encode() for n in range(2)]
    path = tmp_path / "rows.json"
    path.write_bytes(b"[" + (b"," + b" " * blanks).join(rows) + b"]")
    found = []
    for reader in ("rows", "raw"):
        try:
            READERS[reader](path)
            found.append("")
        except DataError as error:
            found.append(str(error))
    assert found[0] == found[1]
    assert not found[0] if blanks < 1 << 24 else parse_place(found[0], path).line == 1


def test_skippable_zstd_frames_are_read(tmp_path: Path) -> None:
    plain = write_jsonl(tmp_path / "plain.jsonl", [record("q0"), record("q1")]).read_bytes()
    skipped = b"\x50\x2a\x4d\x18\x04\x00\x00\x00size"  # pzstd starts each frame with this.
    table = b"\x5e\x2a\x4d\x18\x02\x00\x00\x00ab"  # Seekable files end with such a table.
    path = tmp_path / "rows.jsonl.zst"
    path.write_bytes(skipped + zstandard.compress(plain[:100]) + skipped + zstandard.compress(plain[100:]) + table)
    assert [example.question for batch in DPRDataPipe(path, 2) for example in batch] == ["q0", "q1"]
    path.rename(tmp_path / "rows.jsonl")
    with pytest.raises(DataError):
        DPRDataPipe(tmp_path / "rows.jsonl", 2)


@pytest.mark.timeout(60)
@pytest.mark.parametrize("reader", ["rows", "collection", "raw", "ids"])
def test_sparse_file_of_a_terabyte_is_refused_after_16_mib(tmp_path: Path, reader: str) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_bytes(FIRST + b'{"question": "q')
    os.truncate(path, 1 << 40)
    with pytest.raises(DataError) as caught:
        READERS[reader](path)
    assert parse_place(caught.value, path) == (2, len(FIRST), "row")
