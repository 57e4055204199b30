"""The report of a training loop."""

from __future__ import annotations

from pathlib import Path

from text.reports.loop_report import draw_rounds, format_markdown_table

TABLE = {
    "BM25": {"valid": {"mrr@10": 0.5, "recall@20": 0.75}, "test": {"mrr@10": 0.25, "recall@20": 0.5}},
    "round 1": {"valid": {"mrr@10": 0.625, "recall@20": 1.0}, "test": {"mrr@10": 0.5, "recall@20": 0.75}},
}


def test_table_has_a_row_for_each_round() -> None:
    assert format_markdown_table(TABLE, ["mrr@10", "recall@20"]).splitlines() == [
        "| | valid mrr@10 | valid recall@20 | test mrr@10 | test recall@20 |",
        "|---|---|---|---|---|",
        "| BM25 | 0.5000 | 0.7500 | 0.2500 | 0.5000 |",
        "| round 1 | 0.6250 | 1.0000 | 0.5000 | 0.7500 |",
    ]


def test_rounds_are_drawn_with_and_without_a_baseline(tmp_path: Path) -> None:
    draw_rounds(tmp_path / "with.png", TABLE, "mrr@10")
    draw_rounds(tmp_path / "without.png", {"round 1": TABLE["round 1"]}, "mrr@10")
    pictures = [(tmp_path / name).read_bytes() for name in ("with.png", "without.png")]
    assert all(picture.startswith(b"\x89PNG") for picture in pictures)
    assert pictures[0] != pictures[1]
