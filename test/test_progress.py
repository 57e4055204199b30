"""Progress of loops: lines in a log file, a bar on a terminal, and nothing for short loops."""

from __future__ import annotations

import io

from text.progress import ProgressBar, ProgressLines, show_progress, track


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_progress_lines_by_hand() -> None:
    progress = ProgressLines("Encoding", 10_000, "passages", io.StringIO())
    progress.skip(4000)
    progress.update(1000)
    # 1,000 passages in 20 seconds are 50 a second, and 5,000 are left. The 4,000 skipped ones do not count.
    assert progress.describe(20) == "Encoding: 5,000 of 10,000 passages (50%), 50.0 passages/s, 01:40 left"
    content = ProgressLines("Reading a.jsonl", 4_000_000, "B", io.StringIO())
    content.update(1_000_000)
    assert content.describe(10) == "Reading a.jsonl: 1.00MB of 4.00MB (25%), 100kB/s, 00:30 left"


def test_lines_follow_the_interval_and_a_short_loop_prints_none() -> None:
    often, seldom = io.StringIO(), io.StringIO()
    for stream, seconds in ((often, 0), (seldom, 1e9)):
        with show_progress("Searching", 3, "passages", seconds=seconds, stream=stream) as progress:
            for _ in range(3):
                progress.update()
    lines = often.getvalue().splitlines()
    assert [line.split(" passages")[0] for line in lines] == [f"Searching: {done} of 3" for done in (1, 2, 3)]
    assert seldom.getvalue() == ""


def test_loops_without_completed_items_or_without_items_are_described() -> None:
    assert ProgressLines("Mining", 5, "rows", io.StringIO()).describe(0).endswith("? left")
    assert "0 of 0 rows" in ProgressLines("Mining", 0, "rows", io.StringIO()).describe(1)


def test_a_terminal_gets_a_bar() -> None:
    with show_progress("Encoding", 3, "passages", stream=Terminal()) as progress:
        assert isinstance(progress, ProgressBar)
        progress.skip(2)
        progress.update()
        assert (progress.n, progress.initial) == (3, 2)


def test_track_yields_all_items() -> None:
    assert list(track(range(5), "Cutting", "passages")) == [0, 1, 2, 3, 4]
