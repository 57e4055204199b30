"""HTML reports in Chromium, on a wide screen and on a phone, with a light and a dark theme."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from test.browser import NARROW, WIDE, open_browser, set_window
from test.reports.helpers import build_figures, write_sample_run
from text.artifacts import write_json
from text.reports.evaluation_report import Section, write_evaluation_report
from text.reports.loop_report import render_loop_report
from text.reports.run_report import write_run_report
from text.runs.loop_results import LoopResults

LONG = "a_long_name_" * 8
ROW = {"mean": 0.5, "low": 0.4, "high": 0.6, "other": 0.3, "p": 0.01}

# Return elements that extend beyond the window, except in scrollable tables.
TOO_WIDE = """
return [...document.querySelectorAll('body *')].filter(
    each => !each.parentElement.closest('.scroll') && each.getBoundingClientRect().right > innerWidth + 0.5
).map(each => each.outerHTML.slice(0, 200));
"""
# Return labels of a plot that extend beyond its edge or overlap each other.
CUT_OR_OVERLAPPING = """
return [...document.querySelectorAll('svg')].flatMap(picture => {
    const edge = picture.getBoundingClientRect(), texts = [...picture.querySelectorAll('text')];
    const boxes = texts.map(each => each.getBoundingClientRect());
    const isCut = box => box.left < edge.left || box.right > edge.right
        || box.bottom > edge.bottom || box.top < edge.top;
    const isMet = (box, other) => box !== other && box.left < other.right && other.left < box.right
        && box.top < other.bottom && other.top < box.bottom;
    return texts.filter((_, i) => isCut(boxes[i]) || boxes.some(other => isMet(boxes[i], other)));
}).map(each => each.textContent);
"""
# Return for each table: whether it is wider than the window, whether it scrolls, and its shadow.
TABLES = """
return [...document.querySelectorAll('table')].map(each => {
    const box = each.closest('.scroll'), style = getComputedStyle(box);
    return [each.scrollWidth > innerWidth, box.scrollWidth > box.clientWidth,
            style.backgroundImage.split('linear-gradient').length - 1, style.overflowX];
});
"""
# Return color marks that are not next to the first line of their name.
DETACHED_MARKS = """
return [...document.querySelectorAll('.key, .chip')].filter(each => {
    const range = document.createRange();
    range.selectNode(each.nextSibling);
    const name = range.getClientRects()[0], mark = each.getBoundingClientRect();
    return mark.top < name.top || mark.bottom > name.bottom || mark.right > name.left;
}).map(each => each.parentElement.outerHTML.slice(0, 200));
"""


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Write reports of two runs, an evaluation and a loop with long names, and return their pages."""
    folder = tmp_path_factory.mktemp("pages")
    runs = [write_sample_run(folder / f"{LONG}{number}") for number in range(2)]
    table = {f"recall@{k}": ROW for k in (1, 20)}
    write_json(runs[0] / "evaluation" / "figures.json", build_figures(table, runs=[f"{LONG}.trec", "bm25.trec"]))
    names = [f"runs/{LONG}.trec", "bm25.trec"]
    write_evaluation_report(
        folder / "evaluation.html",
        summary=["9 questions"],
        sections=[Section("", 9, table)],
        names=names,
        measure="recall",
        inputs={"run": {"path": names[0], "sha256": "0" * 64}},
    )
    rounds = {
        name: {split: {"mrr@10": 0.5, "recall@20": 0.75} for split in ("valid", "test")} for name in ("BM25", "r")
    }
    loop = render_loop_report(LONG, LoopResults(rounds, {"r": f"{LONG}/model"}), ["mrr@10", "recall@20"])
    (folder / "loop.html").write_text(loop, encoding="utf-8")
    write_run_report(runs, folder / "runs.html")
    return [folder / name for name in ("runs.html", "evaluation.html", "loop.html")]


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    yield from open_browser(tmp_path_factory.mktemp("profile"))


def test_no_element_is_wider_than_the_screen(browser: Any, pages: list[Path]) -> None:
    for page in pages:
        for width in (WIDE, NARROW):
            set_window(browser, width, "light")
            browser.get(page.as_uri())
            assert browser.execute_script("return document.documentElement.scrollWidth") <= width, page.name
            assert browser.execute_script(TOO_WIDE) == [], page.name
            assert browser.execute_script(CUT_OR_OVERLAPPING) == [], page.name
            assert browser.execute_script(DETACHED_MARKS) == [], page.name


def test_a_wide_table_scrolls_and_has_a_shadow(browser: Any, pages: list[Path]) -> None:
    set_window(browser, NARROW, "light")
    for page in pages:
        browser.get(page.as_uri())
        tables = browser.execute_script(TABLES)
        assert any(is_wide for is_wide, *_ in tables), page.name
        for is_wide, is_scrolled, num_gradients, overflow in tables:
            assert (is_scrolled or not is_wide) and (num_gradients, overflow) == (4, "auto"), page.name


def test_lines_and_legend_have_the_colors_of_the_theme(browser: Any, pages: list[Path]) -> None:
    seen = []
    for scheme in ("light", "dark"):
        set_window(browser, WIDE, scheme)
        browser.get(pages[2].as_uri())
        key = "return getComputedStyle(document.querySelector('.key')).borderTopColor"
        line = "return getComputedStyle(document.querySelector(`svg [style*='none; stroke: var(--run-0)']`)).stroke"
        paper = "return getComputedStyle(document.body).backgroundColor"
        seen.append([browser.execute_script(script) for script in (key, line, paper)])
    for key_color, line_color, _ in seen:
        assert key_color == line_color
    assert all(light != dark for light, dark in zip(*seen, strict=True))
