"""``dpr-text update``: printed counts and refused files."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from text.commands.cli import run_command
from text.commands.update import UpdateFlags, update
from text.datasets import collection_update
from text.records import Passage

Fail = Callable[..., tuple[int, str]]


@pytest.fixture
def old(tmp_path: Path) -> Path:
    """Return a folder with a collection, changes, and ids to remove."""
    rows = [{"_id": f"p{n}", "text": f"oak {n}"} for n in range(4)]
    (tmp_path / "old.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "changes.jsonl").write_text('{"_id": "p3", "text": "yew"}\n{"_id": "q", "text": "bay"}\n')
    (tmp_path / "ids.txt").write_text("p1\n\n")
    return tmp_path


def test_passages_are_added_replaced_and_removed(old: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flags = [f"--collection={old}/old.jsonl", f"--upsert={old}/changes.jsonl", f"--delete={old}/ids.txt"]
    assert run_command(update, UpdateFlags, [*flags, f"--output={old}/new.jsonl"]) == 0
    assert capsys.readouterr().out == f"{old}/new.jsonl: 1 added, 1 replaced, 1 deleted, 2 unchanged\n"
    rows = [json.loads(line) for line in (old / "new.jsonl").read_text().splitlines()]
    assert [(row["_id"], row["text"]) for row in rows] == [
        ("p0", "oak 0"),
        ("p2", "oak 2"),
        ("p3", "yew"),
        ("q", "bay"),
    ]


def test_ids_that_are_not_text_are_refused(old: Path, fail: Fail) -> None:
    (old / "ids.txt").write_bytes(b"caf\xe9\n")
    flags = [f"--collection={old}/old.jsonl", f"--delete={old}/ids.txt", f"--output={old}/new.jsonl"]
    code, line = fail(update, UpdateFlags, *flags)
    assert code == 3 and f"{old}/ids.txt:1: " in line


def test_flags_that_are_refused(old: Path, fail: Fail) -> None:
    code, line = fail(update, UpdateFlags)
    assert code == 2 and "collection" in line and "output" in line
    code, line = fail(update, UpdateFlags, f"--collection={old}/old.jsonl", f"--output={old}/new.jsonl")
    assert code == 2 and "--upsert" in line and "--delete" in line


def test_no_input_and_no_earlier_result_is_replaced(old: Path, fail: Fail) -> None:
    (old / "earlier.jsonl").write_text("{}")
    before = {path: path.read_bytes() for path in old.iterdir()}
    flags = [f"--collection={old}/old.jsonl", f"--delete={old}/ids.txt"]
    for name in ("ids.txt", "old.jsonl"):
        code, line = fail(update, UpdateFlags, *flags, f"--output={old}/{name}", "--overwrite")
        assert code == 2 and f"{old}/{name}" in line
    code, line = fail(update, UpdateFlags, *flags, f"--output={old}/earlier.jsonl")
    assert code == 2 and f"{old}/earlier.jsonl" in line
    assert {path: path.read_bytes() for path in old.iterdir()} == before


def test_a_file_that_another_update_wrote_in_the_meantime_is_kept(
    old: Path, fail: Fail, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = collection_update.format_beir_line

    def write_line(passage: Passage) -> str:
        (old / "new.jsonl").write_text("of another process")
        return write(passage)

    monkeypatch.setattr(collection_update, "format_beir_line", write_line)
    flags = [f"--collection={old}/old.jsonl", f"--delete={old}/ids.txt", f"--output={old}/new.jsonl"]
    code, line = fail(update, UpdateFlags, *flags)
    assert code == 2 and f"{old}/new.jsonl" in line and (old / "new.jsonl").read_text() == "of another process"
