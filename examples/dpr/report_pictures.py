"""The pictures of a report: SVG that stands in a page, which lends it colours and type.

Each picture is drawn in colours that stand for names; the names are CSS variables of the page, so that one picture
serves on a light screen, on a dark one, and on paper. The same data gives the same bytes.
"""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Mapping, Sequence
from html import escape
from typing import Any, NamedTuple

import numpy as np
from matplotlib import rc_context
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator, NullLocator

from examples.dpr.lengths import Lengths, bins

NUM_COLOURS = 6
MOST_POINTS = 500
"""Of a curve; of a longer one, each point is the mean of several values."""

_INK, _FAINT, _LIMIT = "#010101", "#020202", "#030303"
_VARIABLES = {_INK: "var(--ink)", _FAINT: "var(--line)", _LIMIT: "var(--limit)"} | {
    f"#0a000{number}": f"var(--run-{number})" for number in range(NUM_COLOURS)
}
_STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "font.size": 8.5,
    "text.color": _INK,
    "axes.labelcolor": _INK,
    "axes.edgecolor": _FAINT,
    "axes.linewidth": 0.8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.spines.left": False,
    "axes.axisbelow": True,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "grid.color": _FAINT,
    "grid.linewidth": 0.6,
    "xtick.color": _FAINT,
    "xtick.labelcolor": _INK,
    "xtick.major.size": 2.5,
    "xtick.major.width": 0.6,
    "ytick.labelcolor": _INK,
    "ytick.major.size": 0,
    "lines.linewidth": 1.4,
    "lines.solid_capstyle": "round",
    "lines.solid_joinstyle": "round",
}


class Curve(NamedTuple):
    """Values over steps, in the colour of a run."""

    run: int
    steps: Sequence[int]
    values: Sequence[float]
    is_faint: bool = False
    """Thin and pale, behind the others."""
    is_dashed: bool = False


def draw_curves(
    key: str,
    words: str,
    curves: Sequence[Curve],
    *,
    last_step: int,
    limits: Sequence[tuple[int, float]] = (),
    between: tuple[float | None, float | None] = (None, None),
) -> str:
    """Curves over the steps of training.

    Args:
        key: Names the picture in its page.
        words: What it shows, for those who do not see it.
        curves: What is not finite leaves a gap.
        last_step: Where the axis ends, the same in all pictures.
        limits: Dashed lines across: colour of a run, and height.
        between: Ends of the axis of values; None fits the values.
    """

    def draw(axes: Any) -> None:
        for curve in sorted(curves, key=lambda curve: not curve.is_faint):
            steps, values = _thinned(np.array(curve.steps), np.array(curve.values))
            _plot(axes, curve, steps, values, marker="o" if len(steps) <= 40 and not curve.is_faint else "")
        for run, height in limits:
            axes.axhline(height, color=colour(run), linewidth=0.9, linestyle=(0, (4, 3)))
        pad = max(1, last_step) * 0.02
        axes.set_xlim(-pad, last_step + pad)
        axes.set_ylim(*between)
        if between == (0, None):
            axes.set_ylim(0, 1.05 * axes.get_ylim()[1])
        axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))

    return _picture(key, words, draw)


def draw_lengths(key: str, words: str, lengths: Mapping[int, Lengths]) -> str:
    """Histograms of the lengths of texts of one kind, by run, each as a share of its texts; with the limits."""

    def draw(axes: Any) -> None:
        edges = bins(max(int(of_run.tokens.max()) for of_run in lengths.values()))
        for run, (_, tokens, limit) in lengths.items():
            shares = np.histogram(tokens, edges)[0] / len(tokens)
            axes.stairs(shares, edges, fill=True, color=colour(run), alpha=0.6 / len(lengths), linewidth=0)
            axes.stairs(shares, edges, color=colour(run), linewidth=1)
            shared = len({of_run.limit for of_run in lengths.values()}) == 1
            axes.axvline(limit, color=_LIMIT if shared else colour(run), linewidth=1, linestyle=(0, (4, 3)))
        axes.set_xlim(0, None)
        axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))

    return _picture(key, words, draw)


def draw_recall(key: str, words: str, tables: Mapping[int, Mapping[str, Mapping[str, float]]], measure: str) -> str:
    """A measure over k by run, with its interval; dashed, what it is compared with."""

    def draw(axes: Any) -> None:
        ticks = set()
        for run, table in tables.items():
            rows = at_each_k(table, measure)
            ks = [k for k, _ in rows]
            ticks.update(ks)
            axes.fill_between(
                ks, [r["low"] for _, r in rows], [r["high"] for _, r in rows], color=colour(run), alpha=0.15, lw=0
            )
            _plot(axes, Curve(run, ks, []), ks, [row["mean"] for _, row in rows], marker="o")
            if all("other" in row for _, row in rows):
                _plot(axes, Curve(run, ks, [], is_dashed=True), ks, [row["other"] for _, row in rows], marker="o")
        axes.set_xscale("log")
        axes.set_ylim(0, 1.02)
        axes.xaxis.set_major_locator(FixedLocator(sorted(ticks)))
        axes.xaxis.set_minor_locator(NullLocator())

    return _picture(key, words, draw)


def at_each_k(table: Mapping[str, Mapping[str, float]], measure: str) -> list[tuple[int, Mapping[str, float]]]:
    """The rows of ``recall@1``, ``recall@5`` and so on, by k."""
    return sorted((int(name.partition("@")[2]), row) for name, row in table.items() if name.startswith(f"{measure}@"))


def colour(run: int) -> str:
    """What stands for the colour of a run; with more runs than colours, they come again."""
    return f"#0a000{run % NUM_COLOURS}"


def _plot(axes: Any, curve: Curve, x: Any, y: Any, *, marker: str) -> None:
    axes.plot(
        x,
        y,
        color=colour(curve.run),
        alpha=0.55 if curve.is_faint else 1,
        linewidth=1.1 if curve.is_faint else 1.4,
        linestyle=(0, (4, 2)) if curve.is_dashed else "-",
        marker=marker,
        markersize=2.6,
    )


def _thinned(steps: np.ndarray, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Means of as many values each as make ``MOST_POINTS`` of all; one that is not finite makes a gap of its own."""
    size = -(-len(values) // MOST_POINTS) or 1
    parts = [slice(start, start + size) for start in range(0, len(values), size)]
    values = np.where(np.isfinite(values), values, np.nan)
    return np.array([steps[part].mean() for part in parts]), np.array([values[part].mean() for part in parts])


def _picture(key: str, words: str, draw: Callable[[Any], None]) -> str:
    with rc_context({**_STYLE, "svg.hashsalt": key}):
        figure = Figure(figsize=(4.0, 2.2))
        axes = figure.add_axes((0.115, 0.115, 0.87, 0.84))  # the same in all: they stand in line
        draw(axes)
        axes.yaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 2.5, 5, 10]))
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_major_formatter(FuncFormatter(_short))
        written = io.StringIO()
        metadata = dict.fromkeys(("Date", "Creator", "Format", "Type"))
        figure.savefig(written, format="svg", transparent=True, metadata=metadata)
    return _inline(written.getvalue(), key, words)


def _short(value: float, _: Any = None) -> str:
    if 0 < abs(value) < 0.001:
        return f"{value:.1e}".replace(".0e", "e").replace("e-0", "e-")
    return f"{value:.4g}" if abs(value) < 10_000 else f"{value / 1000:.4g}k"


def _inline(svg: str, key: str, words: str) -> str:
    """An SVG file as an element of a page, whose ids are its own, and whose size, colours and type are the page's."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r'\b(id="|href="#)|url\(#', lambda found: f"{found.group()}{key}-", svg)
    svg = re.sub(r'<svg [^>]*?viewBox="([^"]*)"[^>]*>', _opening(words), svg, count=1, flags=re.DOTALL)
    svg = re.sub(r"<defs>\s*<style.*?</style>\s*</defs>", "", svg, flags=re.DOTALL)  # it would hold for the whole page
    svg = re.sub(r"font: ([\d.]+px) [^;\"]*", r"font-size: \1", svg)
    svg = re.sub(r"font-family: [^;\"]*;?", "", svg)
    svg = re.sub(r"\n\s*", "\n", svg)
    for stands_for, variable in _VARIABLES.items():
        svg = svg.replace(stands_for, variable)
    return svg.strip()


def _opening(words: str) -> Callable[[re.Match[str]], str]:
    label = escape(words)
    return lambda found: (
        '<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" '
        f'viewBox="{found.group(1)}" role="img" aria-label="{label}">'
    )
