"""Runs and results record their model, collection and questions; search, evaluate, mine and report check them."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from test.commands.conftest import NUM_PASSAGES
from test.helpers import save_model, snapshot, texts, write_collection, write_jsonl
from test.reports.helpers import add_files_to_manifest, write_sample_run
from text.artifacts import write_json
from text.artifacts.sealed import seal
from text.commands.cli import run_command
from text.commands.evaluate import EvaluateFlags, evaluate
from text.commands.mine import MineFlags, mine
from text.commands.report import ReportFlags, report
from text.commands.search import SearchFlags, search
from text.evaluation import read_run
from text.evaluation.run_source import read_run_source, write_sourced_run
from text.runs.contents import write_ledger
from text.runs.figures import read_figures

Fail = Callable[..., tuple[int, str]]


@pytest.fixture
def runs(files: Path, tmp_path: Path) -> Path:
    """Return a new folder with a run of the model and a run of BM25."""
    for name in ("run.trec", "run.trec.json"):
        shutil.copy(files / name, tmp_path)
    search_words(files, tmp_path / "bm25.trec", files / "questions.csv")
    return tmp_path


def search_words(files: Path, run: Path, questions: Path, collection: Path | None = None) -> None:
    flags = ["--bm25", f"--collection={collection or files / 'corpus.jsonl'}", f"--questions={questions}"]
    assert run_command(search, SearchFlags, [*flags, f"--run={run}"]) == 0


def write_run_folder(folder: Path, model: Path) -> Path:
    """Write the files of a training run that reports and evaluations read."""
    write_sample_run(folder)
    shutil.copytree(model, folder / "model")
    add_files_to_manifest(folder)
    write_ledger(folder, {})
    return folder


def test_a_search_records_model_collection_and_questions(files: Path, runs: Path) -> None:
    dense, words = (read_run_source(runs / name) for name in ("run.trec", "bm25.trec"))
    assert dense is not None and words is not None
    [found], [by_words] = dense.searches, words.searches
    assert (found.engine, found.model) == ("exact", f"{files}/model") and found.model_files
    assert (by_words.engine, by_words.model, by_words.model_files) == ("BM25", "", {})
    assert found.collection == by_words.collection == f"{files}/corpus.jsonl"
    assert found.collection_sha256 == by_words.collection_sha256
    assert dense.questions == words.questions and list(dense.questions) == list("01234")


def test_results_are_written_next_to_their_run(
    files: Path, runs: Path, capsys: pytest.CaptureFixture[str], fail: Fail
) -> None:
    for name, model in (("run", f"{files}/model (exact)"), ("bm25", "BM25")):
        assert run_command(evaluate, EvaluateFlags, [f"--run={runs}/{name}.trec", f"--qrels={files}/qrels.tsv"]) == 0
        lines = capsys.readouterr().out.splitlines()
        assert lines[-1] == f"evaluation: {runs}/{name}.evaluation/evaluation.html"
        assert f"{runs}/{name}.trec: {model} on corpus.jsonl" in lines
        [search] = read_figures(runs / f"{name}.evaluation" / "figures.json").list_searches()
        assert search.collection == "corpus.jsonl"  # without its folder, because other people may read the page
        assert str(search) in (runs / f"{name}.evaluation" / "evaluation.html").read_text()
    code, line = fail(evaluate, EvaluateFlags, f"--run={runs}/run.trec", f"--qrels={files}/qrels.tsv")
    assert code == 2 and f"{runs}/run.evaluation/" in line and "--overwrite" in line
    shutil.copy(runs / "run.trec", runs / "run")  # this name has the same default folder
    before = snapshot(runs / "run.evaluation")
    for more in ([], ["--overwrite"]):
        code, line = fail(evaluate, EvaluateFlags, f"--run={runs}/run", f"--qrels={files}/qrels.tsv", *more)
        assert code == 2 and f"{runs}/run.trec" in line and "--output_dir" in line
    assert snapshot(runs / "run.evaluation") == before


@pytest.mark.parametrize(
    ("run", "folder"),
    [("a/b.trec", "a/b"), ("b.trec.gz", "b"), ("b.run", "b.run"), ("trec", "trec"), ("b.trec.trec", "b.trec")],
)
def test_the_default_folder_is_named_after_the_run(run: str, folder: str) -> None:
    assert EvaluateFlags(run=run).folder == f"{folder}.evaluation"


def test_a_run_of_another_program_has_an_unknown_model(
    files: Path, runs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (runs / "run.trec.json").unlink()
    folder = write_run_folder(runs / "trained", files / "model")
    flags = [f"--run={runs}/run.trec", f"--qrels={files}/qrels.tsv", f"--output_dir={folder}/evaluation"]
    assert run_command(evaluate, EvaluateFlags, flags) == 0
    assert f"{runs}/run.trec: model unknown" in capsys.readouterr().out
    assert run_command(report, ReportFlags, [str(folder)]) == 0
    assert "model unknown" in (folder / "report.html").read_text()


def test_runs_of_other_questions_or_passages_are_not_compared(files: Path, runs: Path, fail: Fail) -> None:
    names = [text.split()[0] for text in texts(5)]
    (runs / "dev.csv").write_text("".join(f"who ate the fig {n}\t['{name}']\n" for n, name in enumerate(names)))
    search_words(files, runs / "dev.trec", runs / "dev.csv")
    write_collection(runs / "few.jsonl", [f"p{n}" for n in range(NUM_PASSAGES - 1)], texts(NUM_PASSAGES - 1))
    search_words(files, runs / "few.trec", files / "questions.csv", runs / "few.jsonl")
    flags = [f"--run={runs}/run.trec", f"--qrels={files}/qrels.tsv"]
    for other in ("dev", "few"):
        for flag in ("other_run", "fuse_with"):
            code, line = fail(evaluate, EvaluateFlags, *flags, f"--{flag}={runs}/{other}.trec")
            assert code == 5 and f"{runs}/{other}.trec: " in line and f"{runs}/run.trec" in line
    by_answers = [f"--questions={runs}/dev.csv", f"--collection={files}/corpus.jsonl"]
    code, line = fail(evaluate, EvaluateFlags, flags[0], *by_answers)
    assert code == 5 and f"{runs}/run.trec: " in line and f"{runs}/dev.csv" in line
    by_answers = [f"--questions={files}/questions.csv", f"--collection={runs}/few.jsonl"]
    code, line = fail(evaluate, EvaluateFlags, flags[0], *by_answers)
    assert code == 5 and f"{runs}/run.trec: " in line and f"{runs}/few.jsonl" in line
    assert not (runs / "run.evaluation").exists()


def test_mining_refuses_runs_of_other_rows_or_passages(files: Path, runs: Path, fail: Fail) -> None:
    rows = [{"question": f"who ate the fig {n}", "answers": ["x"], "positive_ids": [f"p{n}"]} for n in range(5)]
    write_jsonl(runs / "rows.jsonl", rows)
    flags = [f"--rows={runs}/rows.jsonl", f"--output={runs}/hard.jsonl"]
    code, line = fail(mine, MineFlags, *flags, f"--collection={files}/corpus.jsonl", f"--runs=[{runs}/bm25.trec]")
    assert code == 5 and f"{runs}/bm25.trec: " in line and f"{runs}/rows.jsonl" in line
    search_words(files, runs / "rows.trec", runs / "rows.jsonl")
    write_collection(runs / "more.jsonl", [f"p{n}" for n in range(NUM_PASSAGES + 1)], texts(NUM_PASSAGES + 1))
    code, line = fail(mine, MineFlags, *flags, f"--collection={runs}/more.jsonl", f"--runs=[{runs}/rows.trec]")
    assert code == 5 and f"{runs}/rows.trec: " in line and f"{runs}/more.jsonl" in line
    assert not (runs / "hard.jsonl").exists()


def test_a_fused_run_records_both_searches(files: Path, runs: Path) -> None:
    flags = [f"--qrels={files}/qrels.tsv", f"--output_dir={runs}/e", f"--fused_run={runs}/fused.trec", "--overwrite"]
    flags += [f"--run={runs}/run.trec", f"--fuse_with={runs}/bm25.trec"]
    assert run_command(evaluate, EvaluateFlags, flags) == 0
    source = read_run_source(runs / "fused.trec")
    assert source is not None and [search.engine for search in source.searches] == ["exact", "BM25"]
    (runs / "bm25.trec.json").unlink()
    assert run_command(evaluate, EvaluateFlags, flags) == 0
    assert read_run_source(runs / "fused.trec") is None


@pytest.mark.parametrize("has_ended", [True, False])
def test_only_the_model_of_a_training_run_is_evaluated_in_its_folder(
    files: Path, runs: Path, fail: Fail, has_ended: bool
) -> None:
    folder = write_run_folder(runs / "trained", files / "model")
    other = write_run_folder(runs / "other", save_model(runs / "other_model", seed=1))
    for each in () if has_ended else (folder, other):
        (each / "manifest.json").unlink()
    flags = [f"--qrels={files}/qrels.tsv", "--overwrite", f"--output_dir={folder}/evaluation"]
    assert run_command(evaluate, EvaluateFlags, [f"--run={runs}/run.trec", *flags]) == 0
    fused = [f"--run={runs}/bm25.trec", f"--fuse_with={runs}/run.trec", f"--other_run={runs}/bm25.trec"]
    assert run_command(evaluate, EvaluateFlags, [*fused, *flags]) == 0
    assert run_command(report, ReportFlags, [str(folder), f"--output={runs}/page.html"]) == 0
    assert f"(fused: BM25 on corpus.jsonl + {files}/model (exact) on " in (runs / "page.html").read_text()
    own = read_run_source(runs / "run.trec")
    assert own is not None
    dense = own.searches[0]._replace(model="a/model", model_files={"config.json": "0" * 64})
    write_sourced_run(runs / "dense.trec", read_run(runs / "run.trec"), [dense], own.questions)
    for run, fuse_with in (("dense", "run"), ("run", "dense")):
        fused = [f"--run={runs}/{run}.trec", f"--fuse_with={runs}/{fuse_with}.trec"]
        code, line = fail(evaluate, EvaluateFlags, *fused, *flags)
        assert code == 5 and f"{runs}/dense.trec: made by a/model" in line and str(folder) in line
    code, line = fail(evaluate, EvaluateFlags, f"--run={runs}/bm25.trec", *flags)
    assert code == 5 and "BM25" in line and str(folder) in line and "--output_dir" in line
    flags[2] = f"--output_dir={other}/inner/results"
    code, line = fail(evaluate, EvaluateFlags, f"--run={runs}/run.trec", *flags)
    assert code == 5 and f"{files}/model" in line and str(other) in line
    assert not (other / "inner").exists()


def test_a_report_refuses_an_evaluation_of_another_model_or_other_data(files: Path, runs: Path, fail: Fail) -> None:
    ours = write_run_folder(runs / "ours", files / "model")
    flags = [f"--run={runs}/run.trec", f"--output_dir={ours}/evaluation"]
    assert run_command(evaluate, EvaluateFlags, [*flags, f"--qrels={files}/qrels.tsv"]) == 0
    assert run_command(report, ReportFlags, [str(ours)]) == 0
    theirs = write_run_folder(runs / "theirs", save_model(runs / "other_model", seed=1))
    shutil.copytree(ours / "evaluation", theirs / "evaluation")
    code, line = fail(report, ReportFlags, str(theirs))
    assert code == 5 and f"{theirs}/evaluation/figures.json: " in line and f"{files}/model" in line

    again = write_run_folder(runs / "again", files / "model")
    shutil.copytree(ours / "evaluation", again / "evaluation")
    both = [str(ours), str(again), f"--output={runs}/both.html"]
    assert run_command(report, ReportFlags, both) == 0
    (runs / "qrels.tsv").write_text("0\t0\tp1\t1\n1\t0\tp1\t1\n")
    flags = [flags[0], f"--output_dir={again}/evaluation", f"--qrels={runs}/qrels.tsv", "--overwrite"]
    assert run_command(evaluate, EvaluateFlags, flags) == 0
    code, line = fail(report, ReportFlags, *both)
    assert code == 5 and f"{again}/evaluation/figures.json: other judgments" in line
    change_collection(again / "evaluation" / "figures.json", ours / "evaluation" / "figures.json")
    code, line = fail(report, ReportFlags, *both)
    assert code == 5 and f"{again}/evaluation/figures.json: other passages" in line


def change_collection(path: Path, source: Path) -> None:
    """Write the figures of an evaluation as if the search had used another collection."""
    content: dict[str, Any] = json.loads(source.read_text())
    content["searches"]["run"][0]["collection_sha256"] = "0" * 64
    write_json(path, seal(content))
