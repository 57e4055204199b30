"""Report of a training loop."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from test.reports.helpers import HOSTILE, PageElements, check_picture
from text.reports.loop_report import format_markdown_table, render_loop_report, write_loop_report
from text.runs.loop_results import LoopResults

MEASURES = ["mrr@10", "recall@20"]
TABLE = {
    "BM25": {"valid": {"mrr@10": 0.5, "recall@20": 0.75}, "test": {"mrr@10": 0.25, "recall@20": 0.5}},
    "round 1": {"valid": {"mrr@10": 0.625, "recall@20": 1.0}, "test": {"mrr@10": 0.5, "recall@20": 0.75}},
}


def test_the_table_has_a_row_for_each_round() -> None:
    assert format_markdown_table(LoopResults(TABLE, {}), MEASURES).splitlines() == [
        "| | valid mrr@10 | valid recall@20 | test mrr@10 | test recall@20 |",
        "|---|---|---|---|---|",
        "| BM25 | 0.5000 | 0.7500 | 0.2500 | 0.5000 |",
        "| round 1 | 0.6250 | 1.0000 | 0.5000 | 0.7500 |",
    ]


@pytest.mark.parametrize("has_bm25", [True, False])
def test_the_legend_has_an_entry_for_each_line_of_the_plot(has_bm25: bool) -> None:
    table = {name: metrics for name, metrics in TABLE.items() if has_bm25 or name != "BM25"}
    page = render_loop_report("squad", LoopResults(table, {}), MEASURES)
    lines = [("valid", 0, False), ("valid, BM25", 0, True), ("test", 1, False), ("test, BM25", 1, True)]
    check_picture(page, axes=("round", "mrr@10"), lines=lines if has_bm25 else lines[::2])
    [description] = PageElements(page).values("aria-label")
    assert ("test: 0.2500 BM25, 0.5000 round 1" in description) is has_bm25
    assert "test: " in description and "0.5000 round 1" in description


def test_a_page_has_title_table_models_and_notes() -> None:
    page = render_loop_report(
        HOSTILE, LoopResults(TABLE, {"round 1": f"{HOSTILE}/model"}), MEASURES, [f"a note {HOSTILE}"]
    )
    elements = PageElements(page)
    assert page.count("<title>Rounds of &lt;script") == page.count("<h1>Rounds of &lt;script") == 1
    assert "<tr><td>round 1</td><td>0.6250</td><td>1.0000</td><td>0.5000</td><td>0.7500</td></tr>" in page
    assert f"{HOSTILE}/model" in elements.text and f"a note {HOSTILE}" in elements.text
    assert not {"script", "img", "link"} & set(elements.names)


def test_files_of_a_loop_appear_together(tmp_path: Path) -> None:
    folder = tmp_path / "squad"
    results = LoopResults(TABLE, {"round 1": str(folder / "train-1" / "model")})
    write_loop_report(folder, results, MEASURES)
    names = ["models.json", "rounds.json", "table.html", "table.json", "table.md"]
    assert sorted(path.name for path in folder.iterdir()) == names
    assert "<h1>Rounds of squad</h1>" in (folder / "table.html").read_text(encoding="utf-8")
    assert json.loads((folder / "models.json").read_text()) == {"round 1": "train-1/model"}
    before = (folder / "table.html").read_bytes()
    write_loop_report(folder, results, MEASURES)
    assert (folder / "table.html").read_bytes() == before
