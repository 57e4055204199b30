"""``dpr-text select``: printed counts and refused files."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from text.commands.cli import run_command
from text.commands.select import SelectFlags, select
from text.datasets import selection

Fail = Callable[..., tuple[int, str]]


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    """Return a file with three usable rows and one row without hard negatives."""
    context = [{"title": "t", "text": "x"}]
    pools = {"positive_ctxs": context, "negative_ctxs": context, "hard_negative_ctxs": context}
    rows = [{"question": f"q{n}", "answers": [], **pools} for n in range(4)]
    rows[1]["hard_negative_ctxs"] = []
    (tmp_path / "raw.json").write_text(json.dumps(rows))
    return tmp_path / "raw.json"


def test_the_first_usable_rows_are_kept_and_counted(
    raw: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out.jsonl"
    flags = [f"--raw_path={raw}", f"--out_path={out}"]
    assert run_command(select, SelectFlags, [*flags, "--num_items=1", "--skip_items=1"]) == 0
    [line] = capsys.readouterr().out.splitlines()
    assert line.startswith(f"{out}: kept 1 rows; skipped 1; dropped: 1 ")
    assert [json.loads(row)["question"] for row in out.read_text().splitlines()] == ["q2"]
    assert run_command(select, SelectFlags, [*flags, "--overwrite"]) == 0
    assert f"{raw}: only 3 of the 10 " in capsys.readouterr().out
    assert len(out.read_text().splitlines()) == 3


def test_rows_without_negative_ctxs_are_kept_on_request(
    raw: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = json.loads(raw.read_text())
    rows[2]["negative_ctxs"], rows[3]["positive_ctxs"] = [], [{"text": [7]}]
    raw.write_text(json.dumps(rows))
    flags = [f"--raw_path={raw}", f"--out_path={tmp_path / 'out.jsonl'}", "--overwrite"]
    assert run_command(select, SelectFlags, flags) == 0
    dropped = "dropped: 1 no hard_negative_ctxs, 1 no negative_ctxs, 1 positive_ctxs.text: a list"
    assert f"kept 1 rows; skipped 0; {dropped}" in capsys.readouterr().out
    assert run_command(select, SelectFlags, [*flags, "--keep_without_negatives"]) == 0
    assert "kept 2 rows" in capsys.readouterr().out


def test_files_and_numbers_that_are_refused(raw: Path, tmp_path: Path, fail: Fail) -> None:
    out = tmp_path / "out.jsonl"
    code, line = fail(select, SelectFlags)
    assert code == 2 and "raw_path" in line and "out_path" in line
    code, line = fail(select, SelectFlags, f"--raw_path={raw}", f"--out_path={out}", "--num_items=0")
    assert code == 2 and "num_items is 0" in line
    code, line = fail(select, SelectFlags, f"--raw_path={tmp_path}/none", f"--out_path={out}")
    assert code == 2 and f"{tmp_path}/none" in line
    code, line = fail(select, SelectFlags, f"--raw_path={raw}", f"--out_path={out}.gz")
    assert code == 2 and f"{out}.gz" in line and not out.with_suffix(".jsonl.gz").exists()
    before = raw.read_bytes()
    code, line = fail(select, SelectFlags, f"--raw_path={raw}", f"--out_path={raw}", "--overwrite")
    assert code == 2 and str(raw) in line and raw.read_bytes() == before
    out.write_text("earlier")
    code, line = fail(select, SelectFlags, f"--raw_path={raw}", f"--out_path={out}")
    assert code == 2 and str(out) in line and out.read_text() == "earlier"


def test_a_file_that_another_selection_wrote_in_the_meantime_is_kept(
    raw: Path, tmp_path: Path, fail: Fail, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out.jsonl"
    read_elements = selection.read_elements

    def write_and_read(*arguments):
        out.write_text("of another process")  # The file appears while this selection runs.
        return read_elements(*arguments)

    monkeypatch.setattr(selection, "read_elements", write_and_read)
    code, line = fail(select, SelectFlags, f"--raw_path={raw}", f"--out_path={out}")
    assert code == 2 and str(out) in line and out.read_text() == "of another process"
    assert {path.name for path in tmp_path.iterdir()} == {"raw.json", "out.jsonl"}


def test_control_codes_of_data_do_not_reach_the_terminal(
    raw: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    row = '{"\\u001b[2J": 1, "\\u001b[2J": 2, "question": "q"}'
    raw.write_text(raw.read_text()[:-1] + f", {row}]")
    assert run_command(select, SelectFlags, [f"--raw_path={raw}", f"--out_path={tmp_path}/out.jsonl"]) == 0
    out = capsys.readouterr().out
    assert "\\x1b[2J" in out and "\x1b" not in out
