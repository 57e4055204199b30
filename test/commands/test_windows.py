"""``dpr-text windows``: windows of passages and rows, mining by the best window, and search by document."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from text.commands.cli import run_command
from text.commands.mine import MineFlags, mine
from text.commands.search import SearchFlags, search
from text.commands.windows import WindowsFlags, windows
from text.datasets import PassageCollection
from text.evaluation import read_run

Fail = Callable[..., tuple[int, str]]
TEXTS = {
    "s#1": "an oak was old and tall and stood in a field where the king slept",
    "s#2": "a toad sang of the river until the mole had come home again to sleep",
    "s#3": "snow fell",
}


@pytest.fixture
def cut(tmp_path: Path) -> Path:
    """Return a folder with two questions and three passages, cut into windows of four words with stride two."""
    records = [{"_id": name, "title": "willows", "text": text} for name, text in TEXTS.items()]
    (tmp_path / "c.jsonl").write_text("\n".join(map(json.dumps, records)))
    rows = [
        {"qid": "q1", "question": "where did the king sleep", "answers": ["under the oak"], "positive_ids": ["s#1"]},
        {"qid": "q2", "question": "who sang of the river", "answers": ["toad"], "positive_ids": ["s#2", "s#3"]},
    ]
    text = "\n".join(json.dumps({**row, "hard_negative_ids": ["s#3"], "difficulty": 3}) for row in rows)
    (tmp_path / "rows.jsonl").write_text(text)
    flags = [f"--collection={tmp_path}/c.jsonl", f"--rows={tmp_path}/rows.jsonl", "--words=4", "--stride=2"]
    assert run_command(windows, WindowsFlags, [*flags, f"--output_dir={tmp_path}/w"]) == 0
    return tmp_path


def read(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_windows_and_rows_of_windows(cut: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flags = [f"--collection={cut}/c.jsonl", f"--rows={cut}/rows.jsonl", "--words=4", "--stride=2", "--overwrite"]
    assert run_command(windows, WindowsFlags, [*flags, f"--output_dir={cut}/w"]) == 0
    passages = list(PassageCollection(str(cut / "w/passages.jsonl")))
    out = capsys.readouterr().out.splitlines()
    assert out[0] == f"{cut}/w/passages.jsonl: {len(passages)} windows from 3 passages"
    assert out[1] == f"{cut}/w/rows.jsonl: 2 rows"
    assert [each.passage_id for each in passages[:2]] == ["s#1#0", "s#1#1"] and passages[-1].text == "snow fell"
    for name, text in TEXTS.items():
        found = [each.text.split() for each in passages if each.passage_id.startswith(f"{name}#")]
        assert [word for each in found for word in each[:2]] + found[-1][2:] == text.split()
    first, second = read(cut / "w/rows.jsonl")
    assert [each["passage_id"] for each in first["positive_ctxs"]] == [f"s#1#{n}" for n in range(7)]
    assert [each["passage_id"] for each in second["positive_ctxs"]] == [*(f"s#2#{n}" for n in range(7)), "s#3#0"]
    assert first["difficulty"] == 3 and first["hard_negative_ctxs"] == [] and "positive_ids" not in first


def test_rows_are_mined_and_documents_found_by_their_best_window(cut: Path) -> None:
    asked = ["--bm25", f"--collection={cut}/w/passages.jsonl", f"--questions={cut}/w/rows.jsonl"]
    assert run_command(search, SearchFlags, [*asked, "--with_positives", f"--run={cut}/bm25.trec"]) == 0
    flags = [f"--rows={cut}/w/rows.jsonl", f"--collection={cut}/w/passages.jsonl", f"--runs=[{cut}/bm25.trec]"]
    mining = [*flags, "--best_positive_first", f"--output={cut}/hard.jsonl"]
    assert run_command(mine, MineFlags, mining) == 0
    first, second = read(cut / "hard.jsonl")
    scores = read_run(cut / "bm25.trec")
    for row in (first, second):
        found = [scores[row["qid"]].get(each["passage_id"], -1.0) for each in row["positive_ctxs"]]
        assert found == sorted(found, reverse=True)
    assert "king" in first["positive_ctxs"][0]["text"] and "river" in second["positive_ctxs"][0]["text"]
    assert sorted(each["passage_id"] for each in first["positive_ctxs"]) == [f"s#1#{n}" for n in range(7)]
    assert not {each["passage_id"].rpartition("#")[0] for each in first["hard_negative_ctxs"]} & {"s#1"}
    documents = [*asked, "--max_passage_hits=2", f"--run={cut}/documents.trec"]
    assert run_command(search, SearchFlags, documents) == 0
    scores_of_windows = scores["q1"]
    found = read_run(cut / "documents.trec")["q1"]
    assert len(found) <= 2
    for name, score in found.items():
        assert score == max(s for window, s in scores_of_windows.items() if window.rpartition("#")[0] == name)


def test_flags_that_are_refused(tmp_path: Path, fail: Fail) -> None:
    code, line = fail(windows, WindowsFlags, "--words=4")
    assert code == 2 and "collection" in line and "output_dir" in line
    (tmp_path / "c.jsonl").write_text('{"_id": "p", "text": "oak"}\n')
    flags = [f"--collection={tmp_path}/c.jsonl", f"--output_dir={tmp_path}"]
    for stride, limit in ((0, "1"), (65, "64")):
        code, line = fail(windows, WindowsFlags, *flags, f"--stride={stride}")
        assert code == 2 and f"stride is {stride}" in line and limit in line
    (tmp_path / "none.tsv").write_text("id\ttext\ttitle\n")
    code, line = fail(windows, WindowsFlags, f"--collection={tmp_path}/none.tsv", flags[1])
    assert code == 3 and f"{tmp_path}/none.tsv: " in line
    assert sorted(path.name for path in tmp_path.iterdir()) == ["c.jsonl", "none.tsv"]


def test_no_input_is_replaced(cut: Path, fail: Fail) -> None:
    os.link(cut / "c.jsonl", cut / "passages.jsonl")
    before = (cut / "c.jsonl").read_bytes()
    flags = [f"--collection={cut}/c.jsonl", f"--output_dir={cut}", "--overwrite"]
    code, line = fail(windows, WindowsFlags, *flags)
    assert code == 2 and f"{cut}/passages.jsonl" in line and (cut / "c.jsonl").read_bytes() == before


def test_both_files_appear_together(cut: Path, fail: Fail) -> None:
    """A command that fails or is killed between its two files writes neither, so it can be repeated."""
    (cut / "rows.jsonl").write_text('{"question": "q", "positive_ids": ["nowhere"]}\n')
    flags = [f"--collection={cut}/c.jsonl", f"--rows={cut}/rows.jsonl", f"--output_dir={cut}/new"]
    code, _ = fail(windows, WindowsFlags, *flags)
    assert code == 3 and not list(cut.glob("new/*"))
    before = {path: path.read_bytes() for path in (cut / "w").iterdir()}
    code, line = fail(windows, WindowsFlags, *flags[:2], f"--output_dir={cut}/w")
    assert code == 2 and f"{cut}/w/passages.jsonl" in line
    assert {path: path.read_bytes() for path in (cut / "w").iterdir()} == before
