"""The report of a run: what it shows, what it does where something is missing, and that it trusts no text."""

from __future__ import annotations

import csv
import hashlib
import json
import re
import shutil
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
import yaml

from examples.dpr import main as driver
from examples.dpr import report
from examples.dpr.cli import run
from examples.dpr.report_page import page
from examples.dpr.report_pictures import MOST_POINTS, Curve, draw_curves
from examples.dpr.run_files import read_runs
from text.artifacts import write_json

SMALL = ("--eval_hard_negatives=2", "--eval_other_negatives=0", "--passage_max_length=40", "--max_epochs=2")
EVIL = "<script>alert(1)</script><img src=x onerror=alert(1)>\"'&"

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*LeafSpec.*"),
    pytest.mark.filterwarnings("ignore:Checkpoint directory .* exists and is not empty:UserWarning"),
]


class Elements(HTMLParser):
    """What a browser would make of a page: elements by name, ids, what refers to them, and the text."""

    def __init__(self, content: str) -> None:
        super().__init__()
        self.names: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.text = ""
        self.feed(content)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.names.append(tag)
        self.attributes += attrs

    def handle_data(self, data: str) -> None:
        self.text += data

    def all(self, attribute: str) -> list[str]:
        return [value or "" for name, value in self.attributes if name == attribute]


def made_run(folder: Path, *, question: str = "who felled the oak", title: str = "Oak", scale: float = 1.0) -> Path:
    """A run of six steps with all that a report reads, written by hand."""
    folder.mkdir(parents=True)
    settings = {"max_epochs": 3, "gradient_clip_val": 2.0, "monitor": "valid_mrr@10", "tied": False, "resume": None}
    (folder / "config.yaml").write_text(yaml.safe_dump({**settings, "learning_rate": scale}))
    columns = ["epoch", "step", "train_loss_step", "gradient_norm", "learning_rate", "valid_loss", "valid_mrr@10"]
    columns += ["valid_passage_cosine", "valid_passage_norm", "valid_average_rank", "valid_recall@1"]
    rows = [f"{step // 2},{step},{scale / (step + 1)},{step + 1},0.001,,,,,," for step in range(6)]
    rows += [f"{epoch},{2 * epoch + 1},,,,{scale},{0.2 + 0.3 * (epoch == 1)},0.5,1.5,3,0.25" for epoch in range(3)]
    (folder / "metrics.csv").write_text("\n".join([",".join(columns), *rows]) + "\n")
    (folder / "speed.csv").write_text(
        "examples/s,padding,epoch,step\n" + "".join(f"{9 + step},0.1,0,{step}\n" for step in range(6))
    )
    counts = {"limit": 8, "texts_by_tokens": {"5": 2, "7": 1, "9": 1}}
    (folder / "lengths.json").write_text(json.dumps({"questions": counts, "passages": {**counts, "limit": 20}}))
    passage = {"passage_id": "1", "title": title, "text": f"The text of {title}.", "score": 0.25}
    worst = {"step": 6, "path": "valid.jsonl", "line": 3, "question": question, "answers": ["Tom"], "num_above": 1234}
    (folder / "worst_questions.jsonl").write_text(
        json.dumps({**worst, "positive": passage, "above": [{**passage, "title": f"not {title}"}]}) + "\n"
    )
    data = {
        "files": [{"path": f"data/{title}.jsonl"}],
        "questions": 4321,
        "rows_skipped_because": {"blank question": 7},
        "found": {},
    }
    manifest = {"versions": {"torch": "2.9"}, "data": {"train": data}, "test": {"test_mrr@10": 0.625}, "sha256": {}}
    (folder / "manifest.json").write_text(json.dumps(manifest))
    return folder


@pytest.fixture
def made(tmp_path: Path) -> Path:
    return made_run(tmp_path / "made")


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "trained"
    assert run(driver.main, driver.DPRConfig, [f"--output_dir={folder}", *SMALL]) == 0
    return folder


def test_a_run_ends_with_its_report(trained: Path) -> None:
    shown = (trained / "report.html").read_text(encoding="utf-8")
    for part in ("Loss", "Gradient norm", "Examples per second", "Padding", "MRR@10", "Cosine", "Questions"):
        assert part in shown
    assert "Not logged" not in shown and "No validation yet" not in shown and "Not tested" not in shown
    manifest = json.loads((trained / "manifest.json").read_text())
    assert manifest["sha256"]["report.html"] == hashlib.sha256(shown.encode()).hexdigest()
    with open(trained / "worst_questions.jsonl", encoding="utf-8") as file:
        worst = [json.loads(line) for line in file]
    assert worst and all(row["num_above"] > 0 and row["above"] for row in worst)
    text = " ".join(Elements(shown).text.split())
    for row in worst:
        for told in (row["question"], row["positive"]["text"], row["above"][0]["title"]):
            assert " ".join(told.split()) in text
    assert f"{manifest['test']['test_mrr@10']:.4f}" in shown


def test_what_is_drawn_is_in_the_tables(trained: Path) -> None:
    def columns(name: str) -> set[str]:
        with open(trained / name, newline="") as file:
            return {column for row in csv.DictReader(file) for column, value in row.items() if value}

    assert columns("metrics.csv") >= {"gradient_norm", "train_loss_step", "learning_rate", "valid_passage_cosine"}
    assert not columns("metrics.csv") & {"examples/s", "padding"}
    assert columns("speed.csv") == {"examples/s", "padding", "epoch", "step"}


def test_the_same_run_gives_the_same_bytes(trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    copy = Path(shutil.copytree(trained, tmp_path / "trained"))
    before, manifest = (copy / "report.html").read_bytes(), (copy / "manifest.json").read_bytes()
    (copy / "report.html").unlink()
    assert run(report.main, report.ReportConfig, [str(copy)]) == 0
    assert capsys.readouterr().out == f"report: {copy / 'report.html'}\n"
    assert (copy / "report.html").read_bytes() == before
    assert (copy / "manifest.json").read_bytes() == manifest


def test_another_page_in_the_place_of_the_report_is_in_the_manifest(made: Path, tmp_path: Path) -> None:
    other = made_run(tmp_path / "other", scale=2.0)
    assert run(report.main, report.ReportConfig, [str(made), str(other)]) == 0
    digest = json.loads((made / "manifest.json").read_text())["sha256"]["report.html"]
    assert digest == hashlib.sha256((made / "report.html").read_bytes()).hexdigest()
    assert not (other / "report.html").exists()
    before = (made / "manifest.json").read_bytes()
    assert run(report.main, report.ReportConfig, [str(made), f"--output={tmp_path / 'elsewhere' / 'report.html'}"]) == 0
    assert (tmp_path / "elsewhere" / "report.html").exists()
    assert (made / "manifest.json").read_bytes() == before


def test_the_page_needs_no_other_and_runs_nothing(trained: Path, made: Path) -> None:
    elements = Elements(page(read_runs([str(trained), str(made)])))
    assert "default-src 'none'; style-src 'unsafe-inline'" in elements.all("content")
    assert not {"script", "img", "link", "iframe", "object"} & set(elements.names)
    assert not elements.all("src") and not any(name.startswith("on") for name, _ in elements.attributes)
    assert all(target.startswith("#") for target in (*elements.all("href"), *elements.all("xlink:href")))


def test_ids_are_the_only_ones_and_every_picture_is_told_in_words(trained: Path, made: Path) -> None:
    shown = page(read_runs([str(trained), str(made)]))
    elements = Elements(shown)
    ids = elements.all("id")
    assert len(ids) == len(set(ids)) > 100
    assert set(re.findall(r"url\(#([^)]+)\)", shown)) <= set(ids)
    assert {target[1:] for target in elements.all("xlink:href")} <= set(ids)
    assert elements.names.count("svg") == elements.all("role").count("img") == len(elements.all("aria-label"))
    assert all(len(words) > 20 for words in elements.all("aria-label"))


def test_g7_texts_are_shown_and_not_run(tmp_path: Path) -> None:
    run_folder = made_run(tmp_path / EVIL.replace("/", ":"), question=EVIL, title=EVIL)
    settings = yaml.safe_load((run_folder / "config.yaml").read_text())
    (run_folder / "config.yaml").write_text(yaml.safe_dump({**settings, EVIL: EVIL}))
    (run_folder / "evaluation").mkdir()
    row = {"mean": 0.5, "low": 0.4, "high": 0.6, "other": 0.3}
    figures = {"runs": [EVIL, EVIL], "questions": 9, "missing": 0, "figures": {"recall@1": row, "recall@5": row}}
    (run_folder / "evaluation" / "figures.json").write_text(json.dumps(figures))
    for folders in ([run_folder], [run_folder, made_run(tmp_path / "plain")]):
        shown = page(read_runs([*map(str, folders)]))
        elements = Elements(shown)
        assert not {"script", "img"} & set(elements.names)
        assert not elements.all("onerror")
        assert EVIL in elements.text
        assert "<script" not in shown and "<img" not in shown


def test_two_runs_are_told_apart(made: Path, tmp_path: Path) -> None:
    other = made_run(tmp_path / "other", scale=2.0)
    shown = page(read_runs([str(made), str(other)]))
    assert "var(--run-0)" in shown and "var(--run-1)" in shown
    text = Elements(shown).text
    assert "Worst validation questions: made" in text and "Worst validation questions: other" in text
    assert re.search(r"train_loss_step of other from 2 at step 0 to 0.3333 at step 5", shown)
    assert re.search(r"<td>learning_rate</td><td>1.0</td><td>2.0</td>", shown)  # what differs is a table


def test_runs_of_one_name_are_called_by_their_paths(made: Path, tmp_path: Path) -> None:
    folders = [str(made), str(made_run(tmp_path / "again" / "made"))]
    assert [found.name for found in read_runs(folders)] == folders


def test_figures_of_a_run_in_a_few_words(made: Path) -> None:
    text = Elements(page(read_runs([str(made)]))).text
    for words in (
        "6 steps, epoch 3 of 3",
        "mrr@10 0.5 at step 3",
        "0.6250",
        "4,321",
        "7 blank question",
        "1,234",
        "after 6 steps",
        "clipped to 2",
        "4 questions, median 6 tokens, longest 9; 25.00% are longer than the limit of 8",
    ):
        assert words in text, words


def remove(*names: str) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        for name in names:
            (folder / name).unlink()

    return change


def no_validation(folder: Path) -> None:
    (folder / "worst_questions.jsonl").unlink()
    lines = (folder / "metrics.csv").read_text().splitlines(keepends=True)
    (folder / "metrics.csv").write_text("".join(lines[:7]))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (remove("manifest.json"), ["; not ended", "Not tested", "Told when the run has come to its end"]),
        (no_validation, ["No validation yet", "Not logged: MRR@10, Average rank, Recall@1, Recall@5"]),
        (remove("speed.csv"), ["Not logged: Examples per second, Padding."]),
        (remove("lengths.json"), ["Not measured."]),
        (remove("metrics.csv", "speed.csv"), ["no step logged yet", "Not logged: Loss, Learning rate"]),
        (lambda folder: (folder / "worst_questions.jsonl").write_text(""), ["None: every question's own passage"]),
        (
            remove("manifest.json", "metrics.csv", "speed.csv", "lengths.json", "worst_questions.jsonl"),
            ["no step logged yet", "gradient_clip_val"],
        ),
    ],
)
def test_what_is_missing_is_left_out_and_said(made: Path, change: Callable[[Path], Any], said: list[str]) -> None:
    change(made)
    text = Elements(page(read_runs([str(made)]))).text
    for words in (*said, "Not evaluated"):
        assert words in text


def test_nan_and_infinity_leave_gaps_and_are_told(made: Path) -> None:
    lines = (made / "metrics.csv").read_text().splitlines()
    cells = [line.split(",") for line in lines]
    cells[3][3], cells[4][3] = "inf", "nan"  # gradient_norm of steps 2 and 3
    cells[-1][5] = "nan"  # the last valid_loss
    (made / "metrics.csv").write_text("".join(",".join(line) + "\n" for line in cells))
    text = Elements(page(read_runs([str(made)]))).text
    assert "gradient_norm: 2 NaN or infinite, first at step 2" in text
    assert "valid_loss: 1 NaN or infinite, first at step 5" in text


def test_a_line_that_is_not_written_to_its_end_is_left_out(made: Path) -> None:
    whole = page(read_runs([str(made)]))
    with open(made / "metrics.csv", "a") as file:
        file.write("3,7,0.0")
    assert page(read_runs([str(made)])) == whole


def test_recall_beside_another_run(made: Path) -> None:
    (made / "evaluation").mkdir()
    table = {f"recall@{k}": {"mean": 0.4 + k / 200, "low": 0.3, "high": 0.95, "other": 0.25} for k in (1, 10, 100)}
    figures = {"runs": ["run.trec", "bm25.trec"], "questions": 99, "missing": 0, "figures": {**table, "map": {}}}
    (made / "evaluation" / "figures.json").write_text(json.dumps(figures))
    elements = Elements(page(read_runs([str(made)])))
    assert "made, 99 questions; solid: run.trec; dashed: bm25.trec" in elements.text
    assert any("0.405 at 1 (other run 0.250)" in words for words in elements.all("aria-label"))


def test_a_long_curve_is_drawn_by_means() -> None:
    steps = [*range(100 * MOST_POINTS)]
    picture = draw_curves("key", "words", [Curve(0, steps, [float(step % 2) for step in steps])], last_step=len(steps))
    assert len(picture) < 40_000
    assert len({y for y in re.findall(r"^L [\d.]+ ([\d.]+)", picture, flags=re.MULTILINE) if y != "0"}) < 60


@pytest.mark.parametrize(
    ("change", "code", "message"),
    [
        (lambda folder: shutil.rmtree(folder), 2, "made: no config.yaml; expected the folder of a run"),
        (lambda folder: (folder / "manifest.json").write_text("{"), 5, "manifest.json: damaged"),
        (lambda folder: (folder / "metrics.csv").write_text("step,a\n1,x\n"), 5, "metrics.csv: damaged"),
        (
            lambda folder: write_json(folder / "evaluation" / "figures.json", {}),
            5,
            "figures.json: damaged ('questions')",
        ),
        (lambda folder: (folder / "config.yaml").write_text("[1"), 5, "config.yaml: damaged"),
    ],
)
def test_what_cannot_be_read_is_one_line(
    made: Path, capsys: pytest.CaptureFixture[str], change: Callable[[Path], Any], code: int, message: str
) -> None:
    change(made)
    assert run(report.main, report.ReportConfig, [str(made)]) == code
    [line] = capsys.readouterr().err.splitlines()
    assert message in line


def test_f7_a_page_takes_the_place_of_pages_alone(made: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = (made / "metrics.csv").read_bytes()
    assert run(report.main, report.ReportConfig, [str(made), f"--output={made}/metrics.csv"]) == 2
    assert "metrics.csv, which it would replace; expected a name that ends in .html" in capsys.readouterr().err
    assert (made / "metrics.csv").read_bytes() == before
