"""``dpr-text score``: scores of a model and of BM25, and refused flags. Mining with the same teacher."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from test.helpers import save_model, texts, write_collection
from text.commands.cli import run_command
from text.commands.mine import MineFlags, mine
from text.commands.score import ScoreFlags, score
from text.datasets import DPRDataPipe, PassageCollection
from text.evaluation import write_run
from text.evaluation.negative_audit import read_audit
from text.evaluation.score_source import read_score_source
from text.retrieval.bm25 import BM25
from text.retrieval.teachers import load_teacher

Fail = Callable[..., tuple[int, str]]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with compact rows, their passages, a run of their questions, and a teacher."""
    folder = tmp_path_factory.mktemp("score")
    write_collection(folder / "corpus.jsonl", [f"p{n}" for n in range(20)], texts(20))
    rows = [
        {"qid": f"q{n}", "question": texts(20)[n][:9], "positive_ids": [f"p{n}"], "hard_negative_ids": [f"p{n + 9}"]}
        for n in range(6)
    ]
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    write_run(folder / "a.trec", {f"q{n}": {f"p{m}": float((m + n) % 7 + m / 99) for m in range(20)} for n in range(6)})
    save_model(folder / "teacher", seed=0)
    return folder


def read(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_scores_of_a_model_and_of_bm25(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    collection = PassageCollection(f"{data}/corpus.jsonl")
    flags = [f"--rows={data}/rows.jsonl", f"--collection={collection.path}"]
    assert run_command(score, ScoreFlags, [*flags, f"--teacher={data}/teacher", f"--output={tmp_path}/a"]) == 0
    out = capsys.readouterr().out
    assert f"{tmp_path}/a: 6 rows, 12 passages\n" in out and f"teacher_score: bi-encoder {data}/teacher" in out
    flags = [f"--rows={tmp_path}/a", f"--collection={collection.path}", "--bm25", "--score_key=bm25_score"]
    assert run_command(score, ScoreFlags, [*flags, f"--output={tmp_path}/b"]) == 0
    teacher, bm25 = load_teacher(data / "teacher"), BM25(collection)
    for row in read(tmp_path / "b"):
        ids = [*row["positive_ids"], *row["hard_negative_ids"]]
        questions, passages = [row["question"]] * 2, [collection.find(each) for each in ids]
        for key, expected in (
            ("teacher_score", teacher.score(questions, passages)),
            ("bm25_score", bm25.score_pairs(questions, ids)),
        ):
            assert row[key]["positive_ids"] + row[key]["hard_negative_ids"] == pytest.approx(list(expected), abs=1e-5)
    source = read_score_source(tmp_path / "b")
    assert source is not None and [each.kind for each in source.teachers.values()] == ["bi-encoder", "BM25"]


def test_flags_that_are_refused(data: Path, tmp_path: Path, fail: Fail) -> None:
    flags = [f"--rows={data}/rows.jsonl", f"--output={tmp_path}/out"]
    teacher, collection = f"--teacher={data}/teacher", f"--collection={data}/corpus.jsonl"
    for more, named in (
        ([], "--teacher, --bm25"),
        ([teacher, "--bm25", collection], "--teacher, --bm25"),
        (["--bm25"], "--collection"),
        (["--bm25", collection, "--device=cpu"], "--device"),
        ([teacher, "--score_key=text"], "--score_key"),
        ([f"--teacher={tmp_path}/none"], f"{tmp_path}/none"),
    ):
        code, line = fail(score, ScoreFlags, *flags, *more)
        assert code == 2 and named in line
    code, line = fail(score, ScoreFlags, *flags, teacher)
    assert code == 3 and f"{data}/rows.jsonl:1 " in line and "collection" in line
    code, line = fail(score, ScoreFlags, flags[0], f"--output={data}/rows.jsonl", teacher, "--overwrite")
    assert code == 2 and "is also an input" in line
    assert not list(tmp_path.iterdir())


def test_mined_rows_have_the_scores_of_the_teacher(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], fail: Fail
) -> None:
    flags = [f"--rows={data}/rows.jsonl", f"--collection={data}/corpus.jsonl", f"--runs=[{data}/a.trec]", "--num=[2]"]
    flags += [f"--teacher={data}/teacher", f"--output={tmp_path}/out", "--round=first"]
    assert run_command(mine, MineFlags, [*flags, "--teacher_margin=0"]) == 0
    out = capsys.readouterr().out
    assert (
        "probable false negatives" in out
        and "hard negatives: 0 of 12 = 0.0% (0.0% to 24.2%)  the teacher scores it" in out
    )
    teacher = load_teacher(data / "teacher")
    for row in read(tmp_path / "out"):
        [positive] = row["positive_ctxs"]
        for each in (positive, *row["hard_negative_ctxs"]):
            passage = PassageCollection(f"{data}/corpus.jsonl").find(each["passage_id"])
            assert each["teacher_score"] == pytest.approx(teacher.score([row["question"]], [passage])[0], abs=1e-5)
            assert each["teacher_score"] <= positive["teacher_score"]
        assert {each["round"] for each in row["hard_negative_ctxs"]} <= {"first"}
    assert DPRDataPipe(f"{tmp_path}/out", 2, train=True, score_key="teacher_score").num_rows == 6
    audit = read_audit(tmp_path / "out")
    assert audit is not None and audit.round == "first" and audit.teachers["teacher_score"].is_same(teacher.record)
    without = [flag for flag in flags if not flag.startswith("--teacher")]
    for more in ("--teacher_margin=0", "--teacher_relative_margin=0.05", "--score_key=s"):
        code, line = fail(mine, MineFlags, *without, more, "--overwrite")
        assert code == 2 and "need --teacher" in line
