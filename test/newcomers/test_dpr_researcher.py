"""A researcher has only the files of FAIR's DPR, with the names of its download script."""

from __future__ import annotations

import ast
import csv
import gzip
import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest

from test.newcomers.conftest import Command
from test.pages import TINY

pytestmark = pytest.mark.slow
QUESTIONS = "downloads/data/retriever/qas/nq-test.csv"
PASSAGES = "downloads/data/wikipedia_split/psgs_w100.tsv.gz"


def read_rows(name: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (TINY / f"{name}.jsonl").read_text(encoding="utf-8").splitlines()]


@pytest.fixture
def downloads(tmp_path: Path) -> Path:
    """Write a folder like FAIR's download script does: JSON arrays of rows, questions with answers, and passages."""
    data = tmp_path / "downloads/data"
    (data / "retriever/qas").mkdir(parents=True)
    (data / "wikipedia_split").mkdir()
    for theirs, ours in (("nq-train", "train"), ("nq-dev", "valid")):
        text = json.dumps(read_rows(ours), indent=4)
        (data / f"retriever/{theirs}.json").write_text(text, encoding="utf-8")
    lines = (f"{row['question']}\t{row['answers']!r}\n" for row in read_rows("test"))
    (tmp_path / QUESTIONS).write_text("".join(lines), encoding="utf-8")
    with open(TINY / "passages.tsv", "rb") as file, gzip.open(tmp_path / PASSAGES, "wb") as packed:
        shutil.copyfileobj(file, packed)
    return data.parent


def normalize_words(text: str) -> str:
    """Return the words of a text between spaces, to search for an answer."""
    return f" {' '.join(re.findall(r'[a-z0-9]+', text.lower()))} "


def compute_top_k_accuracy(run: Path, k: int) -> float:
    """Return the fraction of questions with an answer in the first k passages, computed in plain Python."""
    with open(TINY / "passages.tsv", encoding="utf-8", newline="") as file:
        texts = {row["id"]: normalize_words(row["text"]) for row in csv.DictReader(file, delimiter="\t")}
    hits = dict[str, bool]()
    answers = [ast.literal_eval(line.split("\t")[1]) for line in (run.parent / QUESTIONS).read_text().splitlines()]
    for line in run.read_text(encoding="utf-8").splitlines():
        question, _, passage, rank, *_ = line.split()
        has_answer = any(normalize_words(answer) in texts[passage] for answer in answers[int(question)])
        hits[question] = hits.get(question, False) or (int(rank) <= k and has_answer)
    assert len(hits) == len(answers)
    return sum(hits.values()) / len(answers)


def test_from_downloads_to_a_report(dpr_text: Command, downloads: Path, tmp_path: Path) -> None:
    train = ["train", "--data_path=downloads", "--max_epochs=2", "--output_dir=runs/nq"]
    printed = dpr_text(*train)
    assert "nq-train.json" in printed and "nq-dev.json" in printed
    dpr_text("encode", "--model=runs/nq/model", f"--collection={PASSAGES}", "--output_dir=runs/nq-passages")
    question_files = [f"--questions={QUESTIONS}", "--run=nq-test.trec"]
    dpr_text("search", "--model=runs/nq/model", "--embeddings=runs/nq-passages", *question_files)
    dpr_text("evaluate", *reversed(question_files), f"--collection={PASSAGES}", "--output_dir=runs/nq/evaluation")
    dpr_text("report", "runs/nq")

    figures = json.loads((tmp_path / "runs/nq/evaluation/figures.json").read_text(encoding="utf-8"))
    for k in (1, 5, 20):
        expected = compute_top_k_accuracy(tmp_path / "nq-test.trec", k)
        assert figures["figures"][f"accuracy@{k}"]["mean"] == pytest.approx(expected)
    results = json.loads((tmp_path / "runs/nq/evaluation/results.json").read_text(encoding="utf-8"))
    assert [row["question"] for row in results] == [row["question"] for row in read_rows("test")]
    report = (tmp_path / "runs/nq/report.html").read_text(encoding="utf-8")
    assert "accuracy@" in report.lower() or "Accuracy@k" in report
    # Repeating the command gives advice and changes nothing.
    line = dpr_text(*train, exit_code=2)
    assert line.count("\n") == 1 and "--overwrite" in line
