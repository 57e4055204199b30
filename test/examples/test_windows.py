"""windows.py: a collection and rows of windows, mined by their best one, and documents found by theirs."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from examples.dpr import mine, search
from examples.dpr.cli import run
from examples.dpr.windows import WindowsConfig, main
from text.datasets import PassageCollection
from text.evaluation import read_run

TEXTS = {
    "s#1": "an oak was old and tall and stood in a field where the king slept",
    "s#2": "a toad sang of the river until the mole had come home again to sleep",
    "s#3": "snow fell",
}


@pytest.fixture
def made(tmp_path: Path) -> Path:
    """Two questions on three passages, cut into windows of four words, two apart."""
    records = [{"_id": name, "title": "willows", "text": text} for name, text in TEXTS.items()]
    (tmp_path / "c.jsonl").write_text("\n".join(map(json.dumps, records)))
    rows = [
        {"qid": "q1", "question": "where did the king sleep", "answers": ["under the oak"], "positive_ids": ["s#1"]},
        {"qid": "q2", "question": "who sang of the river", "answers": ["toad"], "positive_ids": ["s#2", "s#3"]},
    ]
    text = "\n".join(json.dumps({**row, "hard_negative_ids": ["s#3"], "difficulty": 3}) for row in rows)
    (tmp_path / "rows.jsonl").write_text(text)
    flags = [f"--collection={tmp_path}/c.jsonl", f"--rows={tmp_path}/rows.jsonl", "--words=4", "--stride=2"]
    assert run(main, WindowsConfig, [*flags, f"--output_dir={tmp_path}/w"]) == 0
    return tmp_path


def read(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_windows_and_rows_of_them(made: Path) -> None:
    passages = list(PassageCollection(str(made / "w/passages.jsonl")))
    assert [each.passage_id for each in passages[:2]] == ["s#1#0", "s#1#1"] and passages[-1].text == "snow fell"
    for name, text in TEXTS.items():
        of_passage = [each.text.split() for each in passages if each.passage_id.startswith(f"{name}#")]
        assert [word for each in of_passage for word in each[:2]] + of_passage[-1][2:] == text.split()
    first, second = read(made / "w/rows.jsonl")
    assert [each["passage_id"] for each in first["positive_ctxs"]] == [f"s#1#{n}" for n in range(7)]
    assert [each["passage_id"] for each in second["positive_ctxs"]] == [*(f"s#2#{n}" for n in range(7)), "s#3#0"]
    assert first["difficulty"] == 3 and first["hard_negative_ctxs"] == [] and "positive_ids" not in first


def test_mined_by_the_best_window_and_found_by_it(made: Path) -> None:
    asked = ["--bm25", f"--collection={made}/w/passages.jsonl", f"--questions={made}/w/rows.jsonl"]
    assert run(search.main, search.SearchConfig, [*asked, "--with_positives", f"--run={made}/bm25.trec"]) == 0
    flags = [f"--rows={made}/w/rows.jsonl", f"--collection={made}/w/passages.jsonl", f"--runs=[{made}/bm25.trec]"]
    mining = [*flags, "--best_positive_first", f"--output={made}/hard.jsonl"]
    assert run(mine.main, mine.MineConfig, mining) == 0
    first, second = read(made / "hard.jsonl")
    scores = read_run(made / "bm25.trec")
    for row in (first, second):
        of_row = [scores[row["qid"]].get(each["passage_id"], -1.0) for each in row["positive_ctxs"]]
        assert of_row == sorted(of_row, reverse=True)
    assert "king" in first["positive_ctxs"][0]["text"] and "river" in second["positive_ctxs"][0]["text"]
    assert sorted(each["passage_id"] for each in first["positive_ctxs"]) == [f"s#1#{n}" for n in range(7)]
    assert not {each["passage_id"].rpartition("#")[0] for each in first["hard_negative_ctxs"]} & {"s#1"}
    assert run(search.main, search.SearchConfig, [*asked, "--max_passage_hits=2", f"--run={made}/documents.trec"]) == 0
    windows = read_run(made / "bm25.trec")["q1"]
    documents = read_run(made / "documents.trec")["q1"]
    assert len(documents) <= 2
    for name, score in documents.items():
        assert score == max(of for window, of in windows.items() if window.rpartition("#")[0] == name)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--words=4"], "expected --collection"),
        (["--collection=c", "--stride=65"], "--stride is 65; expected 1 to 64, which --words is"),
    ],
)
def test_flags_that_cannot_be_meant(flags: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(main, WindowsConfig, flags) == 2
    assert message in capsys.readouterr().err


def test_more_documents_than_windows(capsys: pytest.CaptureFixture[str]) -> None:
    flags = ["--bm25", "--collection=c", "--questions=q", "--k=5", "--max_passage_hits=6"]
    assert run(search.main, search.SearchConfig, flags) == 2
    assert "--max_passage_hits is 6; expected 1 to 5, which --k is" in capsys.readouterr().err
