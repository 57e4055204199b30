"""Report of an evaluation: tables, plot and legend, and escaped texts."""

from __future__ import annotations

from pathlib import Path

from test.reports.helpers import HOSTILE, PageElements, check_picture
from text.reports.evaluation_report import Section, format_table, write_evaluation_report

TABLE = {
    "recall@1": {"mean": 0.25, "low": 0.1, "high": 0.5, "other": 0.5, "p": 0.125},
    "recall@10": {"mean": 0.75, "low": 0.5, "high": 1.0, "other": 0.5, "p": 0.25},
    "recall": {"mean": 0.75, "low": 0.5, "high": 1.0, "other": 0.5, "p": 0.25},
}


def write_page(path: Path, *, names: list[str], is_comparison: bool, summary: str = "9 questions") -> str:
    kept = ("mean", "low", "high", "other", "p") if is_comparison else ("mean", "low", "high")
    table = {name: {key: row[key] for key in kept} for name, row in TABLE.items()}
    write_evaluation_report(
        path,
        summary=[summary, "note: another line"],
        sections=[Section("", 9, table), Section("seen", 0, {}), Section("unseen", 9, table)],
        names=names,
        measure="recall",
        inputs={"run": {"path": HOSTILE, "sha256": "0" * 64}},
    )
    return path.read_text(encoding="utf-8")


def test_a_page_has_a_plot_and_tables_and_escapes_names(tmp_path: Path) -> None:
    summary = 'a "summary" & more'
    page = write_page(tmp_path / "page.html", names=[HOSTILE + "$x^{$"], is_comparison=False, summary=summary)
    elements = PageElements(page)
    assert not {"script", "img"} & set(elements.names)
    assert "default-src 'none'; style-src 'unsafe-inline'" in elements.values("content")
    assert HOSTILE in elements.text and summary in elements.text and "0" * 64 in page
    assert page.count("<tr><td>recall@1</td><td>0.2500</td><td>0.1000 to 0.5000</td></tr>") == 2
    assert "<h2>seen: 0 questions</h2>" in page and "<h2>unseen: 9 questions</h2>" in page
    assert elements.values("aria-label") == ["recall at k: 0.250 at 1, 0.750 at 10"]


def test_a_page_compares_two_runs(tmp_path: Path) -> None:
    page = write_page(tmp_path / "page.html", names=["x", "y"], is_comparison=True)
    assert "<th>x</th><th>95 % interval</th><th>y</th><th>p</th>" in page
    assert "<td>0.1000 to 0.5000</td><td>0.5000</td><td>0.1250</td>" in page
    assert write_page(tmp_path / "again.html", names=["x", "y"], is_comparison=True) == page


def test_title_legend_and_plot_show_the_runs(tmp_path: Path) -> None:
    for names in (["_runs/x.trec"], ["runs/x.trec", "runs/$y$.trec"]):
        page = write_page(tmp_path / "page.html", names=names, is_comparison=len(names) > 1)
        title = f"Evaluation of {' and '.join(names)}"
        assert f"<title>{title}</title>" in page and f"<h1>{title}</h1>" in page
        expected = [(name, 0, place > 0) for place, name in enumerate(names)]
        check_picture(page, axes=("k", "recall@k"), lines=expected)


def test_printed_table_by_hand() -> None:
    sections = [Section("", 9, {"map": TABLE["recall@1"]}), Section("seen", 0, {})]
    assert list(format_table(sections)) == [
        "           map  0.2500  (0.1000 to 0.5000)  other 0.5000, p = 0.1250",
        "seen: 0 questions",
    ]
