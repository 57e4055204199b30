"""The report of an evaluation: the page holds its picture, and texts are escaped."""

from __future__ import annotations

import base64
from pathlib import Path

from test.reports.helpers import HOSTILE, PageElements
from text.reports.evaluation_report import Section, format_table, write_evaluation_report

TABLE = {
    "recall@1": {"mean": 0.25, "low": 0.1, "high": 0.5, "other": 0.5, "p": 0.125},
    "recall@10": {"mean": 0.75, "low": 0.5, "high": 1.0, "other": 0.5, "p": 0.25},
    "recall": {"mean": 0.75, "low": 0.5, "high": 1.0, "other": 0.5, "p": 0.25},
}


def test_page_holds_picture_and_table_and_escapes_names(tmp_path: Path) -> None:
    summary = 'a "summary" & more'
    table = {name: {key: row[key] for key in ("mean", "low", "high")} for name, row in TABLE.items()}
    write_evaluation_report(
        tmp_path / "evaluation.html",
        tmp_path / "accuracy.png",
        summary=[summary, "note: another line"],
        sections=[Section("", 9, table), Section("seen", 0, {}), Section("unseen", 9, table)],
        names=[HOSTILE + "$x^{$"],
        measure="recall",
        inputs={"run": {"path": HOSTILE, "sha256": "0" * 64}},
    )
    page = (tmp_path / "evaluation.html").read_text(encoding="utf-8")
    elements = PageElements(page)
    assert elements.names.count("img") == 1 and "script" not in elements.names
    assert "default-src 'none'; style-src 'unsafe-inline'; img-src data:" in elements.values("content")
    assert HOSTILE in elements.text and summary in elements.text and "0" * 64 in page
    assert page.count("<tr><td>recall@1</td><td>0.2500</td><td>0.1000 to 0.5000</td></tr>") == 2
    assert "<h2>seen: 0 questions</h2>" in page and "<h2>unseen: 9 questions</h2>" in page
    picture = (tmp_path / "accuracy.png").read_bytes()
    assert picture.startswith(b"\x89PNG")
    assert elements.values("src") == [f"data:image/png;base64,{base64.b64encode(picture).decode()}"]
    assert elements.values("alt") == ["recall@1 0.250, recall@10 0.750"]


def test_page_compares_two_runs(tmp_path: Path) -> None:
    for folder in (tmp_path / "a", tmp_path / "b"):
        folder.mkdir()
        write_evaluation_report(
            folder / "evaluation.html",
            folder / "accuracy.png",
            summary=["9 questions"],
            sections=[Section("", 9, TABLE)],
            names=["x", "y"],
            measure="recall",
            inputs={},
        )
    page = (tmp_path / "a" / "evaluation.html").read_text(encoding="utf-8")
    assert "<th>x</th><th>95 % interval</th><th>y</th><th>p</th>" in page
    assert "<td>0.1000 to 0.5000</td><td>0.5000</td><td>0.1250</td>" in page
    for name in ("accuracy.png", "evaluation.html"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


def test_printed_table_by_hand() -> None:
    sections = [Section("", 9, {"map": TABLE["recall@1"]}), Section("seen", 0, {})]
    assert list(format_table(sections)) == [
        "           map  0.2500  (0.1000 to 0.5000)  other 0.5000, p = 0.1250",
        "seen: 0 questions",
    ]
