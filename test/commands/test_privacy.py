"""Results are readable only by users who can read all input files."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from text.artifacts import write_text
from text.commands import main
from text.commands.privacy import keep_private


def read_mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@pytest.mark.parametrize("umask", [0o022, 0o077, 0o002])
@pytest.mark.parametrize("source", [0o600, 0o400, 0o640, 0o604, 0o644])
def test_new_files_and_folders_are_as_private_as_the_source(tmp_path: Path, umask: int, source: int) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "rows.jsonl").write_text("x")
    (tmp_path / "data" / "rows.jsonl").chmod(source)
    expected = {0o040: 0o070, 0o004: 0o007}
    hidden = umask | sum(bits for readable, bits in expected.items() if not source & readable)
    before = os.umask(umask)
    try:
        for number, flags in enumerate(
            [{"data_path": str(tmp_path / "data")}, {"x": [str(tmp_path / "data" / "rows.jsonl")]}]
        ):
            with keep_private({"k": 3, "model": "tiny", **flags}):
                write_text(tmp_path / f"{number}" / "out.txt", "x")
            assert read_mode(tmp_path / f"{number}" / "out.txt") == 0o666 & ~hidden
            assert read_mode(tmp_path / f"{number}") == 0o777 & ~hidden
        assert os.umask(umask) == umask, "the process has another umask now"
    finally:
        os.umask(before)


def test_a_private_source_is_named_and_public_ones_are_not(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("public", "private", ".hidden"):
        (tmp_path / name).write_text("x")
    (tmp_path / "public").chmod(0o644)
    (tmp_path / ".hidden").chmod(0o600)
    with keep_private({"x": str(tmp_path / "public")}):
        pass
    assert capsys.readouterr().err == ""
    (tmp_path / "private").chmod(0o600)
    with keep_private({"x": str(tmp_path)}):
        pass
    assert str(tmp_path / "private") in capsys.readouterr().err


def test_a_command_writes_private_results_of_private_rows(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = tmp_path / "rows.jsonl"
    rows.write_text('{"question": "who", "answers": [], "positive_ctxs": [{"text": "he", "passage_id": "1"}], ')
    with open(rows, "a") as file:
        file.write('"negative_ctxs": [{"text": "it"}], "hard_negative_ctxs": [{"text": "she"}]}\n')
    array = tmp_path / "array.json"
    array.write_text(f"[{rows.read_text()}]")
    array.chmod(0o600)
    assert main(["select", f"--raw_path={array}", f"--out_path={tmp_path / 'out.jsonl'}"]) == 0
    assert read_mode(tmp_path / "out.jsonl") == 0o600
    assert str(array) in capsys.readouterr().err
