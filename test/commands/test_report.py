"""``dpr-text report``, and the report at the end of ``dpr-text train``."""

from __future__ import annotations

import csv
import hashlib
import json
import shutil
from pathlib import Path

import pytest

from test.reports.helpers import PageElements, write_sample_run
from text.commands.cli import run_command
from text.commands.report import ReportFlags, report
from text.commands.train import TrainFlags, train

ROOT = Path(__file__).parents[2]
TINY = ROOT / "examples/dpr/data/nq3_tiny/data/retriever"
SMALL = ("--eval_hard_negatives=2", "--eval_other_negatives=0", "--passage_max_length=40", "--max_epochs=2")

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*LeafSpec.*"),
    pytest.mark.filterwarnings("ignore:Checkpoint directory .* exists and is not empty:UserWarning"),
]


@pytest.fixture
def sample_run(tmp_path: Path) -> Path:
    return write_sample_run(tmp_path / "made")


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "trained"
    assert run_command(train, TrainFlags, [f"--data_path={TINY}", f"--output_dir={folder}", *SMALL]) == 0
    return folder


def test_training_ends_with_a_report(trained: Path) -> None:
    page = (trained / "report.html").read_text(encoding="utf-8")
    for part in ("Loss", "Gradient norm", "Examples per second", "Padding", "MRR@10", "Cosine", "Questions"):
        assert part in page
    assert "Not logged" not in page and "No validation yet" not in page and "Not tested" not in page
    manifest = json.loads((trained / "manifest.json").read_text())
    assert manifest["files"]["report.html"]["sha256"] == hashlib.sha256(page.encode()).hexdigest()
    with open(trained / "worst_questions.jsonl", encoding="utf-8") as file:
        worst = [json.loads(line) for line in file]
    assert worst and all(row["num_above"] > 0 and row["above"] for row in worst)
    text = " ".join(PageElements(page).text.split())
    for row in worst:
        for shown in (row["question"], row["positive"]["text"], row["above"][0]["title"]):
            assert " ".join(shown.split()) in text
    assert f"{manifest['test']['test_mrr@10']:.4f}" in page


def test_clock_values_are_not_in_the_metrics_file(trained: Path) -> None:
    def columns(name: str) -> set[str]:
        with open(trained / name, newline="") as file:
            return {column for row in csv.DictReader(file) for column, value in row.items() if value}

    assert columns("metrics.csv") >= {"gradient_norm", "train_loss_step", "learning_rate", "valid_passage_cosine"}
    assert not columns("metrics.csv") & {"examples/s", "padding"}
    assert columns("speed.csv") == {"examples/s", "padding", "epoch", "step"}


def test_command_writes_the_same_bytes_as_training(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    copy = Path(shutil.copytree(trained, tmp_path / "trained"))
    before, manifest = (copy / "report.html").read_bytes(), (copy / "manifest.json").read_bytes()
    (copy / "report.html").unlink()
    assert run_command(report, ReportFlags, [str(copy)]) == 0
    assert capsys.readouterr().out == f"report: {copy / 'report.html'}\n"
    assert (copy / "report.html").read_bytes() == before
    assert (copy / "manifest.json").read_bytes() == manifest


def test_a_report_on_two_runs_is_written_to_the_output(sample_run: Path, trained: Path, tmp_path: Path) -> None:
    output = tmp_path / "pages" / "both.html"
    assert run_command(report, ReportFlags, [str(sample_run), str(trained), f"--output={output}"]) == 0
    elements = PageElements(output.read_text(encoding="utf-8"))
    assert "made, trained" in elements.text
    assert not {"script", "img", "link", "iframe", "object"} & set(elements.names)
    ids = elements.values("id")
    assert len(ids) == len(set(ids)) > 100
    assert not (sample_run / "report.html").exists()


@pytest.mark.parametrize(
    ("name", "content", "code"), [("config.yaml", None, 2), ("manifest.json", "{", 5), ("metrics.csv", "step\nx\n", 5)]
)
def test_an_unreadable_file_is_one_error_line(
    sample_run: Path, capsys: pytest.CaptureFixture[str], name: str, content: str | None, code: int
) -> None:
    if content is None:
        (sample_run / name).unlink()
    else:
        (sample_run / name).write_text(content)
    assert run_command(report, ReportFlags, [str(sample_run)]) == code
    [line] = capsys.readouterr().err.splitlines()
    assert str(sample_run) in line and name in line


def test_output_must_be_named_html(sample_run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = (sample_run / "metrics.csv").read_bytes()
    assert run_command(report, ReportFlags, [str(sample_run), f"--output={sample_run}/metrics.csv"]) == 2
    assert f"--output is {sample_run}/metrics.csv" in capsys.readouterr().err
    assert (sample_run / "metrics.csv").read_bytes() == before


def test_a_report_on_several_runs_needs_an_output_file(
    sample_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = write_sample_run(tmp_path / "other")
    assert run_command(report, ReportFlags, [str(sample_run), str(other)]) == 2
    assert "--output" in capsys.readouterr().err
    assert not (sample_run / "report.html").exists() and not (other / "report.html").exists()


def test_a_run_is_required(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command(report, ReportFlags, []) == 2
    assert "runs" in capsys.readouterr().err
