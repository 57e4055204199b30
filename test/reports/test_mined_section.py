"""The section "Hard negatives" of a run report, from the files that mining leaves beside the rows."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from test.reports.helpers import HOSTILE, PageElements, write_sample_run
from text.artifacts import read_facts
from text.evaluation.negative_audit import ANSWERS, CANDIDATES, NEGATIVES, EvidenceCounts, get_audit_path, write_audit
from text.evaluation.score_source import TeacherRecord, get_scores_path, write_score_source
from text.reports.run_report import render_run_report
from text.runs.history import read_runs
from text.runs.negatives import read_negatives, write_negatives


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    """Write rows with an audit and the name of their teacher."""
    path = tmp_path / "hard.jsonl"
    path.write_text("{}\n")
    teachers = {"teacher_score": TeacherRecord("reranker", "runs/teacher", "a", {"precision": "float32"})}
    counts = EvidenceCounts()
    counts.add(ANSWERS, CANDIDATES, [True] * 5 + [False] * 5)
    counts.add(ANSWERS, NEGATIVES, [False] * 10)
    evidence, sources = counts.estimate(), {"dense": 1200, HOSTILE: 1}
    write_audit(
        get_audit_path(path),
        read_facts(path),
        round_name="second",
        sources=sources,
        teachers=teachers,
        evidence=evidence,
    )
    write_score_source(get_scores_path(path), read_facts(path), teachers)
    return path


def test_the_report_shows_sources_teacher_and_evidence(rows: Path, tmp_path: Path) -> None:
    run = write_sample_run(tmp_path / "run")
    write_negatives(run, [rows])
    page = render_run_report(read_runs([run]))
    elements = PageElements(page)
    assert "Hard negatives" in elements.text and "hard.jsonl, second" in elements.text
    assert f"1,200 from dense, 1 from {HOSTILE}" in elements.text and "<script" not in page
    assert "Scores in teacher_score: reranker runs/teacher." in elements.text
    assert "50.0 % (23.7 to 76.3) of 10" in elements.text and "0.0 % (0.0 to 27.8) of 10" in elements.text
    assert "the teacher scores it above the positive" not in elements.text  # This evidence was not checked.


def test_a_run_without_mined_rows_has_no_section(tmp_path: Path, rows: Path) -> None:
    run = write_sample_run(tmp_path / "run")
    (tmp_path / "plain.jsonl").write_text("{}\n")
    write_negatives(run, [tmp_path / "plain.jsonl"])
    assert not (run / "negatives.json").exists()
    assert "Hard negatives" not in PageElements(render_run_report(read_runs([run]))).text


def test_rows_that_were_only_scored_show_their_teacher(tmp_path: Path, rows: Path) -> None:
    get_audit_path(rows).unlink()
    run = write_sample_run(tmp_path / "run")
    write_negatives(run, [rows])
    assert read_negatives(run / "negatives.json")[0].audit is None
    assert "reranker runs/teacher" in PageElements(render_run_report(read_runs([run]))).text


def test_rows_that_changed_are_named(rows: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows.write_text("{}\n{}\n")
    write_negatives(tmp_path, [rows])
    assert f"note: the report shows no audit of {rows}" in capsys.readouterr().err
    assert not (tmp_path / "negatives.json").exists()
    json.loads(get_audit_path(rows).read_text())
