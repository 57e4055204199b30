"""``dpr-text mine``: mining from runs and from a model, reproducible results, and refused inputs."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from test.helpers import save_model, snapshot, texts, write_collection
from text.commands.cli import run_command
from text.commands.encode import EncodeFlags, encode
from text.commands.mine import MineFlags, mine
from text.datasets import DPRDataPipe
from text.errors import InterruptedRun
from text.evaluation import read_run, write_run
from text.retrieval import MiningSummary

Fail = Callable[..., tuple[int, str]]
NUM_PASSAGES = 30


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with rows, their passages, and a run of their questions."""
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


def mine_flags(folder: Path, output: Path, *more: str) -> list[str]:
    return [f"--rows={folder}/rows.jsonl", f"--collection={folder}/corpus.jsonl", f"--output={output}", *more]


def read(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines() if line]


def test_mined_rows_can_be_trained_on(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flags = mine_flags(data, tmp_path / "hard.jsonl", f"--runs=[{data}/a.trec]", "--num=[3]")
    assert run_command(mine, MineFlags, flags) == 0
    contents, found = dict(zip((f"p{n}" for n in range(30)), texts(30), strict=True)), read_run(data / "a.trec")
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


def test_rows_without_answers_are_reported(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = read(data / "rows.jsonl")
    answers = [row.pop("answers") for row in rows]
    rows[1]["answer"] = answers[1][0]
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    flags = mine_flags(data, tmp_path / "hard.jsonl", f"--runs=[{data}/a.trec]", "--overwrite")
    flags[0] = f"--rows={tmp_path}/rows.jsonl"
    for more, is_reported in (([], True), (["--answers=false"], False)):
        assert run_command(mine, MineFlags, [*flags, *more]) == 0
        assert (f"{len(rows) - 1} rows have no answers" in capsys.readouterr().out) is is_reported
        summary = json.loads((tmp_path / "hard.jsonl.summary.json").read_text())
        assert summary["rows_without_answers"] == len(rows) - 1


def test_unusable_rows_are_counted(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], fail: Fail) -> None:
    rows = read(data / "rows.jsonl")
    for row in rows[:3]:
        row["positive_ctxs"] = []
    rows[4]["entity_ids"] = [1, 2]
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    flags = mine_flags(data, tmp_path / "hard.jsonl", f"--runs=[{data}/a.trec]")
    flags[0] = f"--rows={tmp_path}/rows.jsonl"
    assert run_command(mine, MineFlags, flags) == 0
    assert "5 rows, 0 with fewer than 1 negatives, 3 left out (no positive" in capsys.readouterr().out
    [count] = json.loads((tmp_path / "hard.jsonl.summary.json").read_text())["rows_left_out"].values()
    assert count == 3
    assert [row.get("entity_ids") for row in read(tmp_path / "hard.jsonl")] == [None, [1, 2], None, None, None]
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows[:3])))
    flags[2] = f"--output={tmp_path}/none.jsonl"
    code, line = fail(mine, MineFlags, *flags)
    assert code == 3 and f"{tmp_path}/rows.jsonl: " in line and "3 left out (no positive" in line
    assert not (tmp_path / "none.jsonl").exists()


def test_rows_that_were_repaired_are_mined(data: Path, tmp_path: Path) -> None:
    rows = read(data / "rows.jsonl")
    rows[2]["note"], rows[3]["score"] = "\ud83d", float("nan")
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    flags = mine_flags(data, tmp_path / "hard.jsonl", f"--runs=[{data}/a.trec]")
    flags[0] = f"--rows={tmp_path}/rows.jsonl"
    assert run_command(mine, MineFlags, flags) == 0
    mined = read(tmp_path / "hard.jsonl")
    assert (mined[2]["note"], mined[3]["score"]) == ("\ufffd", None)


def test_rows_with_the_same_title_stand_together_in_their_order(data: Path, tmp_path: Path) -> None:
    rows = read(data / "rows.jsonl")[:5]
    for row, title in zip(rows, "babac", strict=True):
        # Leave the id out, because the passage with this id has another title in the collection.
        row["positive_ctxs"][0] = {"title": title, "text": row["positive_ctxs"][0]["text"]}
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    flags = mine_flags(data, tmp_path / "hard.jsonl", f"--runs=[{data}/a.trec]")
    flags[0] = f"--rows={tmp_path}/rows.jsonl"
    assert run_command(mine, MineFlags, [*flags, "--sort_by_title"]) == 0
    assert [row["qid"] for row in read(tmp_path / "hard.jsonl")] == ["q1", "q3", "q0", "q2", "q4"]


def test_the_run_of_a_model_gives_the_same_rows_as_the_model(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], fail: Fail
) -> None:
    save_model(tmp_path / "model", seed=0)
    model = [f"--model={tmp_path}/model", f"--embeddings={tmp_path}/e"]
    encoding = [model[0], f"--collection={data}/corpus.jsonl", f"--output_dir={tmp_path}/e"]
    assert run_command(encode, EncodeFlags, encoding) == 0
    first = mine_flags(data, tmp_path / "first.jsonl", *model, "--num=[2]", "--last_rank=9", "--relative_margin=0")
    assert run_command(mine, MineFlags, first) == 0
    assert f"{tmp_path}/first.jsonl.trec: 8 questions, up to " in capsys.readouterr().out
    run = read_run(tmp_path / "first.jsonl.trec")
    assert all(f"p{n}" in run[f"q{n}"] for n in range(8))
    (tmp_path / "other.jsonl").write_text('{"_id": "other", "text": "oak"}\n')
    other = [first[0], f"--collection={tmp_path}/other.jsonl", f"--output={tmp_path}/o.jsonl", *first[3:]]
    code, line = fail(mine, MineFlags, *other)
    assert code == 5 and f"{tmp_path}/e: " in line and f"{tmp_path}/other.jsonl" in line
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "model").symlink_to(tmp_path / "model")
    other[3] = f"--model={tmp_path}/run"  # the folder of a run instead of its model
    code, line = fail(mine, MineFlags, *first[:2], *other[2:])
    assert code == 2 and f"{tmp_path}/run: " in line and f"{tmp_path}/run/model" in line
    assert not (tmp_path / "o.jsonl.trec").exists()
    runs = f"--runs=[{tmp_path}/first.jsonl.trec]"
    again = mine_flags(data, tmp_path / "again.jsonl", runs, "--num=[2]", "--last_rank=9", "--relative_margin=0")
    assert run_command(mine, MineFlags, again) == 0
    for ending in ("", ".rejected.jsonl", ".summary.json"):
        ours, theirs = (Path(f"{tmp_path}/{name}.jsonl{ending}").read_bytes() for name in ("first", "again"))
        assert ours == theirs
    several = mine_flags(data, tmp_path / "both.jsonl", f"--runs=[{data}/a.trec]", *model, "--num=[1,2]")
    assert run_command(mine, MineFlags, several) == 0
    sources = [[each["source"] for each in row["hard_negative_ctxs"]] for row in read(tmp_path / "both.jsonl")]
    assert sources == [["both.jsonl", "a", "a"]] * 8


def test_the_precision_is_chosen_or_told(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    save_model(tmp_path / "model", seed=0)
    model = [f"--model={tmp_path}/model", f"--embeddings={tmp_path}/e"]
    encoding = [model[0], f"--collection={data}/corpus.jsonl", f"--output_dir={tmp_path}/e"]
    assert run_command(encode, EncodeFlags, encoding) == 0
    told = "precision: bfloat16 on cpu; --encoder_precision=float32 computes in float32\n"
    runs = []
    for default, flags in (("bfloat16", []), ("float32", ["--encoder_precision=bfloat16"])):
        monkeypatch.setattr("text.retrieval.devices.choose_precision", lambda capability, default=default: default)
        capsys.readouterr()
        assert run_command(mine, MineFlags, mine_flags(data, tmp_path / f"{default}.jsonl", *model, *flags)) == 0
        assert (told in capsys.readouterr().out) == (default == "bfloat16")
        runs.append((tmp_path / f"{default}.jsonl.trec").read_bytes())
    assert runs[0] == runs[1]


def test_flags_and_runs_that_are_refused(data: Path, tmp_path: Path, fail: Fail) -> None:
    def refuse(*more: str) -> tuple[int, str]:
        found = fail(mine, MineFlags, *mine_flags(data, tmp_path / "o.jsonl", *more))
        assert not (tmp_path / "o.jsonl").exists()
        return found

    runs = f"--runs=[{data}/a.trec]"
    code, line = fail(mine, MineFlags)
    assert code == 2 and all(name in line for name in ("rows", "collection", "output"))
    for flags in ([], ["--model=m"], [runs, "--embeddings=e"]):
        code, line = refuse(*flags)
        assert code == 2 and all(name in line for name in ("--runs", "--model", "--embeddings"))
    for num in ("[1,2]", "[-1]", "[]"):
        code, line = refuse(runs, f"--num={num}")
        assert code == 2 and "num is [" in line
    code, line = refuse(runs, "--first_rank=0")
    assert code == 2 and "first_rank is 0" in line
    code, line = refuse(f"--runs=[{tmp_path}/not.trec]")
    assert code == 2 and f"{tmp_path}/not.trec: no such file" in line
    write_run(tmp_path / "other.trec", {"x": {"p0": 1.0}})
    code, line = refuse(f"--runs=[{tmp_path}/other.trec]")
    assert code == 3 and f"{tmp_path}/other.trec: " in line and f"{data}/rows.jsonl" in line
    write_run(tmp_path / "strange.trec", {"q0": {"p99": 1.0}})
    code, line = refuse(f"--runs=[{tmp_path}/strange.trec]")
    assert code == 3 and f"{data}/corpus.jsonl: no passage p99" in line
    code, line = refuse(runs, "--encoder_precision=bfloat16")
    assert code == 2 and "--encoder_precision needs --model" in line
    code, line = refuse("--model=m", "--embeddings=e", "--num=[1,1]", f"--runs=[{tmp_path}/o.jsonl.trec]")
    assert code == 2 and f"{tmp_path}/o.jsonl.trec" in line


def test_no_input_and_no_earlier_result_is_replaced(data: Path, fail: Fail) -> None:
    runs, both = f"--runs=[{data}/a.trec]", [f"--model={data}/model", f"--embeddings={data}/embeddings"]
    for name, more in (("rows.jsonl", ["--overwrite"]), ("a.trec", ["--overwrite"]), ("o.jsonl", [])):
        (data / "o.jsonl").write_text("of an earlier one")
        before = (data / name).read_bytes()
        code, line = fail(mine, MineFlags, *mine_flags(data, data / name, runs, *more))
        assert code == 2 and f"{data}/{name}" in line and (data / name).read_bytes() == before
    assert run_command(mine, MineFlags, mine_flags(data, data / "o.jsonl", runs, "--overwrite")) == 0
    flags = mine_flags(data, data / "p.jsonl", runs, "--overwrite")
    for ending in (".rejected.jsonl", ".summary.json"):
        taken = data / f"p.jsonl{ending}"
        taken.write_bytes(before := (data / "rows.jsonl").read_bytes())
        code, line = fail(mine, MineFlags, f"--rows={taken}", *flags[1:])
        assert code == 2 and str(taken) in line and taken.read_bytes() == before
    for folder in ("model", "embeddings"):
        (data / folder).mkdir()
    for folder in ("model", "embeddings"):
        before = snapshot(data)
        code, line = fail(mine, MineFlags, *mine_flags(data, data / folder / "plan.json", *both, "--overwrite"))
        assert code == 2 and f"{data}/{folder}/plan.json" in line and snapshot(data) == before
    (data / "p.jsonl.trec").write_text("of an earlier one")
    flags = [*mine_flags(data, data / "p.jsonl"), *both]
    for path in (data / "p.jsonl.rejected.jsonl", data / "p.jsonl.summary.json"):
        path.unlink()
    code, line = fail(mine, MineFlags, *flags)
    assert code == 2 and f"{data}/p.jsonl.trec" in line


def test_mine_can_be_repeated_after_an_interruption(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_model(tmp_path / "model", seed=0)
    model = [f"--model={tmp_path}/model", f"--embeddings={tmp_path}/e"]
    encoding = [model[0], f"--collection={data}/corpus.jsonl", f"--output_dir={tmp_path}/e"]
    assert run_command(encode, EncodeFlags, encoding) == 0
    flags = mine_flags(data, tmp_path / "o.jsonl", *model, "--last_rank=9")

    def stop(self: MiningSummary, row: object) -> None:
        raise InterruptedRun("stopped")

    with monkeypatch.context() as context:
        context.setattr(MiningSummary, "add", stop)
        assert run_command(mine, MineFlags, flags) == 143
    assert not list(tmp_path.glob("o.jsonl*"))
    assert run_command(mine, MineFlags, flags) == 0
    assert len(list(tmp_path.glob("o.jsonl*"))) == 6
