"""mine.py: from runs and from a model, twice the same, and what it refuses."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from examples.dpr import encode, mine
from examples.dpr.cli import run
from test.retrieval.conftest import save_model, texts, write_collection
from text.datasets import DPRDataPipe
from text.evaluation import read_run, write_run

NUM_PASSAGES = 30


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Rows, the passages that they are about, and a run of their questions."""
    folder = tmp_path_factory.mktemp("mine")
    write_collection(folder / "corpus.jsonl", [f"p{n}" for n in range(NUM_PASSAGES)], texts(NUM_PASSAGES))
    rows = [
        {
            "qid": f"q{n}",
            "question": f"how tall is {n}",
            "answers": ["yew"],
            "positive_ctxs": [{"passage_id": f"p{n}", "title": f"title p{n}", "text": texts(NUM_PASSAGES)[n]}],
            "hard_negative_ctxs": [],
            "difficulty": n,
        }
        for n in range(8)
    ]
    (folder / "rows.jsonl").write_text("\n".join(json.dumps(row) for row in rows) + "\n\n")
    found = {f"q{n}": {f"p{m}": float(NUM_PASSAGES - (m - n) % 9 - m / 100) for m in range(25)} for n in range(8)}
    write_run(folder / "a.trec", found)
    return folder


def flags(folder: Path, output: Path, *more: str) -> list[str]:
    return [f"--rows={folder}/rows.jsonl", f"--collection={folder}/corpus.jsonl", f"--output={output}", *more]


def read(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines() if line]


def test_rows_for_training_again(made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    asked = flags(made, tmp_path / "hard.jsonl", f"--runs=[{made}/a.trec]", "--num=[3]")
    assert run(mine.main, mine.MineConfig, asked) == 0
    contents, found = dict(zip((f"p{n}" for n in range(30)), texts(30), strict=True)), read_run(made / "a.trec")
    rows, rejected = read(tmp_path / "hard.jsonl"), read(tmp_path / "hard.jsonl.rejected.jsonl")
    for number, row in enumerate(rows):
        scores = found[f"q{number}"]
        order = sorted(scores, key=lambda name: scores[name], reverse=True)
        assert row["difficulty"] == number and [p["passage_id"] for p in row["positive_ctxs"]] == [f"p{number}"]
        for negative in row["hard_negative_ctxs"]:
            name = negative["passage_id"]
            assert name != f"p{number}" and "yew" not in contents[name] and negative["text"] == contents[name]
            assert negative["source"] == "a" and negative["score"] == scores[name]
            assert order[negative["rank"] - 1] == name
        last = max(negative["rank"] for negative in row["hard_negative_ctxs"])
        skipped = {each["passage_id"] for each in rejected if each["question_id"] == f"q{number}"}
        assert skipped | {negative["passage_id"] for negative in row["hard_negative_ctxs"]} == set(order[:last])
    summary = json.loads((tmp_path / "hard.jsonl.summary.json").read_text())
    assert summary["rows"] == 8 and summary["negatives"] == {"a": 24} and summary["rows_with_too_few"] == 0
    assert sum(summary["rejected"].values()) == len(rejected) and summary["rejected"]["a positive"] == 8
    out = capsys.readouterr().out
    assert "8 rows, 0 with fewer than 3 negatives" in out and out.count("\nnegative  ") == 10
    assert DPRDataPipe(str(tmp_path / "hard.jsonl"), 8, train=True, num_hard_negatives=3).num_rows == 8


def test_b3_rows_that_are_left_out_are_told(made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = read(made / "rows.jsonl")
    for row in rows[:3]:
        row["positive_ctxs"] = []
    rows[4]["entity_ids"] = [1, 2]
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    asked = flags(made, tmp_path / "hard.jsonl", f"--runs=[{made}/a.trec]")
    asked[0] = f"--rows={tmp_path}/rows.jsonl"
    assert run(mine.main, mine.MineConfig, asked) == 0
    assert "5 rows, 0 with fewer than 1 negatives, 3 left out (no positive" in capsys.readouterr().out
    [count] = json.loads((tmp_path / "hard.jsonl.summary.json").read_text())["rows_left_out"].values()
    assert count == 3
    assert [row.get("entity_ids") for row in read(tmp_path / "hard.jsonl")] == [None, [1, 2], None, None, None]
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows[:3])))
    asked[2] = f"--output={tmp_path}/none.jsonl"
    assert run(mine.main, mine.MineConfig, asked) == 3
    assert "rows.jsonl: no row is left, 3 left out (no positive" in capsys.readouterr().err
    assert not (tmp_path / "none.jsonl").exists()


def test_rows_of_one_title_stand_together_in_their_order(made: Path, tmp_path: Path) -> None:
    rows = read(made / "rows.jsonl")[:5]
    for row, title in zip(rows, "babac", strict=True):
        row["positive_ctxs"][0]["title"] = title
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    asked = [f"--rows={tmp_path}/rows.jsonl", *flags(made, tmp_path / "hard.jsonl", f"--runs=[{made}/a.trec]")[1:]]
    assert run(mine.main, mine.MineConfig, [*asked, "--sort_by_title"]) == 0
    assert [row["qid"] for row in read(tmp_path / "hard.jsonl")] == ["q1", "q3", "q0", "q2", "q4"]


def test_of_a_model_then_of_its_run(made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save_model(tmp_path / "model", seed=0)
    by = [f"--model={tmp_path}/model", f"--embeddings={tmp_path}/e"]
    encoding = [by[0], f"--collection={made}/corpus.jsonl", f"--output_dir={tmp_path}/e"]
    assert run(encode.main, encode.EncodeConfig, encoding) == 0
    first = flags(made, tmp_path / "first.jsonl", *by, "--num=[2]", "--last_rank=9", "--relative_margin=0")
    assert run(mine.main, mine.MineConfig, first) == 0
    assert {"q7", "q0"} < set(read_run(tmp_path / "first.jsonl.trec"))
    assert all(f"p{n}" in read_run(tmp_path / "first.jsonl.trec")[f"q{n}"] for n in range(8))
    (tmp_path / "other.jsonl").write_text('{"_id": "p0", "text": "oak"}\n')
    other = [first[0], f"--collection={tmp_path}/other.jsonl", f"--output={tmp_path}/o.jsonl", *first[3:]]
    assert run(mine.main, mine.MineConfig, other) == 5
    other[3] = f"--model={tmp_path}"  # as of a run
    assert run(mine.main, mine.MineConfig, [*first[:2], *other[2:]]) == 2
    assert f"{tmp_path}: the folder of a run; expected {tmp_path}/model" in capsys.readouterr().err
    runs = f"--runs=[{tmp_path}/first.jsonl.trec]"
    again = flags(made, tmp_path / "again.jsonl", runs, "--num=[2]", "--last_rank=9", "--relative_margin=0")
    assert run(mine.main, mine.MineConfig, again) == 0
    for ending in ("", ".rejected.jsonl", ".summary.json"):
        ours, theirs = (Path(f"{tmp_path}/{name}.jsonl{ending}").read_bytes() for name in ("first", "again"))
        assert ours == theirs
    several = flags(made, tmp_path / "both.jsonl", f"--runs=[{made}/a.trec]", *by, "--num=[1,2]")
    assert run(mine.main, mine.MineConfig, several) == 0
    sources = [[each["source"] for each in row["hard_negative_ctxs"]] for row in read(tmp_path / "both.jsonl")]
    assert sources == [["both.jsonl", "a", "a"]] * 8


def test_what_is_refused(made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def fails(*more: str) -> tuple[int, str]:
        capsys.readouterr()
        code = run(mine.main, mine.MineConfig, flags(made, tmp_path / "o.jsonl", *more))
        assert not (tmp_path / "o.jsonl").exists()
        return code, capsys.readouterr().err.splitlines()[-1]

    runs = f"--runs=[{made}/a.trec]"
    assert fails() == (2, fails()[1]) and "expected --runs, or --model with --embeddings" in fails()[1]
    code, line = fails(runs, "--num=[1,2]")
    assert code == 2 and "--num is [1, 2]; expected a number for each source" in line
    code, line = fails(runs, "--first_rank=0")
    assert code == 2 and "ranks are 0 to 100; expected 1 or more" in line
    code, line = fails(f"--runs=[{tmp_path}/not.trec]")
    assert code == 2 and "not.trec: no such file" in line
    write_run(tmp_path / "other.trec", {"x": {"p0": 1.0}})
    code, line = fails(f"--runs=[{tmp_path}/other.trec]")
    assert code == 3 and "none of the questions of" in line
    write_run(tmp_path / "strange.trec", {"q0": {"p99": 1.0}})
    code, line = fails(f"--runs=[{tmp_path}/strange.trec]")
    assert code == 3 and "corpus.jsonl: no passage p99; expected those of" in line
    by = ["--model=m", "--embeddings=e", "--num=[1,1]"]
    code, line = fails(*by, f"--runs=[{tmp_path}/o.jsonl.trec]")
    assert code == 2 and "expected a different name for each" in line


def test_f6_f7_nothing_is_replaced(made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name, more, message in (
        ("rows.jsonl", ["--overwrite"], "rows.jsonl is read, too; expected an output of its own"),
        ("a.trec", ["--overwrite"], "a.trec is read, too"),
        ("o.jsonl", [], "o.jsonl exists; expected a new file, or --overwrite"),
    ):
        (made / "o.jsonl").write_text("of an earlier one")
        before = (made / name).read_bytes()
        assert run(mine.main, mine.MineConfig, flags(made, made / name, f"--runs=[{made}/a.trec]", *more)) == 2
        assert message in capsys.readouterr().err and (made / name).read_bytes() == before
    assert run(mine.main, mine.MineConfig, flags(made, made / "o.jsonl", f"--runs=[{made}/a.trec]", "--overwrite")) == 0
    asked = flags(made, made / "p.jsonl", f"--runs=[{made}/a.trec]", "--overwrite")
    for ending in (".rejected.jsonl", ".summary.json"):
        taken = made / f"p.jsonl{ending}"
        taken.write_bytes(before := (made / "rows.jsonl").read_bytes())
        assert run(mine.main, mine.MineConfig, [f"--rows={taken}", *asked[1:]]) == 2
        assert f"{taken} is read, too" in capsys.readouterr().err and taken.read_bytes() == before
