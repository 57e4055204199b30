"""Plots of HTML reports as SVG elements.

matplotlib draws with placeholder colors. CSS variables of the page replace them, so that one plot suits light and dark
themes and paper. The legend is HTML outside the plot, so that long names can wrap. Equal data gives equal bytes.
"""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Mapping, Sequence
from html import escape
from typing import Any, NamedTuple

import numpy as np

from text.errors import explain_missing
from text.runs.lengths import Lengths, get_length_bins
from text.templates import mark_safe

with explain_missing("report"):
    from matplotlib import rc_context
    from matplotlib.figure import Figure
    from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator, NullLocator

NUM_COLORS = 6
MAX_POINTS = 500
"""Maximum number of points of a curve. In a longer curve, each point is the mean of several values."""

_INK, _FAINT, _LIMIT = "#010101", "#020202", "#030303"
_VARIABLES = {_INK: "var(--ink)", _FAINT: "var(--line)", _LIMIT: "var(--error)"} | {
    f"#0a000{number}": f"var(--run-{number})" for number in range(NUM_COLORS)
}
_STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "font.size": 8.5,
    "text.color": _INK,
    "axes.labelcolor": _INK,
    "axes.labelpad": 2.5,
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

Metrics = Mapping[str, Mapping[str, float]]
"""Values by metric: ``mean``, ``low`` and ``high`` of a run and, in a comparison, ``other``: the other run's mean."""


class LegendEntry(NamedTuple):
    """Entry of the legend for one line of a plot."""

    run: int
    """Number of the run, which determines the color."""
    name: str
    is_dashed: bool = False


class Curve(NamedTuple):
    """Curve of values over steps, in the color of a run."""

    run: int
    steps: Sequence[float] | np.ndarray
    values: Sequence[float] | np.ndarray
    is_faint: bool = False
    """True for a thin, pale curve behind the other curves."""
    is_dashed: bool = False


def draw_curves(
    picture_id: str,
    description: str,
    curves: Sequence[Curve],
    *,
    y_label: str,
    last_step: int,
    limits: Sequence[tuple[int | None, float]] = (),
    y_range: tuple[float | None, float | None] = (None, None),
) -> str:
    """Draw curves over the steps of training.

    Args:
        picture_id: Prefix of the element ids in the plot, unique in the page.
        description: Text alternative for screen readers.
        curves: Curves to draw. NaN and infinite values leave a gap.
        y_label: Label of the vertical axis.
        last_step: End of the horizontal axis, equal in all plots.
        limits: Dashed horizontal lines: number of the run, or None for all runs, and height.
        y_range: Ends of the vertical axis. None fits the end to the values.
    """

    def draw(axes: Any) -> None:
        for curve in sorted(curves, key=lambda curve: not curve.is_faint):
            steps, values = _reduce_points(np.array(curve.steps), np.array(curve.values))
            has_markers = len(steps) <= 40 and not curve.is_faint
            _plot(axes, curve._replace(steps=steps, values=values), has_markers=has_markers)
        for run, height in limits:
            axes.axhline(
                height, color=_LIMIT if run is None else _get_run_color(run), linewidth=0.9, linestyle=(0, (4, 3))
            )
        padding = max(1, last_step) * 0.02
        axes.set_xlim(-padding, last_step + padding)
        axes.set_ylim(*y_range)
        if y_range == (0, None):
            axes.set_ylim(0, 1.05 * axes.get_ylim()[1])
        axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))

    return _render(picture_id, description, draw, ("step", y_label))


def draw_length_histograms(picture_id: str, description: str, lengths: Mapping[int, Lengths]) -> str:
    """Draw a histogram of token counts for each run, as shares of its texts, with a dashed line at the limit."""

    def draw(axes: Any) -> None:
        edges = get_length_bins(max(int(each.tokens.max()) for each in lengths.values()))
        is_shared = len({each.limit for each in lengths.values()}) == 1
        for run, (_, tokens, limit) in lengths.items():
            shares = np.histogram(tokens, edges)[0] / len(tokens)
            axes.stairs(shares, edges, fill=True, color=_get_run_color(run), alpha=0.6 / len(lengths), linewidth=0)
            axes.stairs(shares, edges, color=_get_run_color(run), linewidth=1)
            axes.axvline(limit, color=_LIMIT if is_shared else _get_run_color(run), linewidth=1, linestyle=(0, (4, 3)))
        axes.set_xlim(0, 1.02 * axes.get_xlim()[1])
        axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))

    return _render(picture_id, description, draw, ("tokens", "share of texts"))


def draw_cutoffs(picture_id: str, description: str, tables: Mapping[int, Metrics], measure: str) -> str:
    """Draw a measure over its cut-off k for each run, with confidence intervals. The compared run is dashed."""

    def draw(axes: Any) -> None:
        ticks = set()
        for run, table in tables.items():
            cutoffs = sort_by_cutoff(table, measure)
            ks, rows = [k for k, _ in cutoffs], [row for _, row in cutoffs]
            ticks.update(ks)
            low, high = [row["low"] for row in rows], [row["high"] for row in rows]
            axes.fill_between(ks, low, high, color=_get_run_color(run), alpha=0.15, lw=0)
            _plot(axes, Curve(run, ks, [row["mean"] for row in rows]), has_markers=True)
            if all("other" in row for row in rows):
                other = Curve(run, ks, [row["other"] for row in rows], is_dashed=True)
                _plot(axes, other, has_markers=True)
        axes.set_xscale("log")
        axes.set_ylim(0, 1.02)
        axes.xaxis.set_major_locator(FixedLocator(sorted(ticks)))
        axes.xaxis.set_minor_locator(NullLocator())

    return _render(picture_id, description, draw, ("k", f"{measure}@k"))


def draw_rounds(
    picture_id: str,
    description: str,
    rounds: Sequence[str],
    splits: Sequence[tuple[Sequence[float], float | None]],
    measure: str,
) -> str:
    """Draw a measure over the rounds of a loop: a line for each split, and a dashed line for its baseline.

    Args:
        picture_id: Prefix of the element ids in the plot, unique in the page.
        description: Text alternative for screen readers.
        rounds: Names of the rounds.
        splits: For each split, the values of all rounds, and the value of the baseline or None.
        measure: Name of the measure.
    """

    def draw(axes: Any) -> None:
        for number, (values, baseline) in enumerate(splits):
            _plot(axes, Curve(number, range(len(rounds)), values), has_markers=True)
            if baseline is not None:
                axes.axhline(baseline, color=_get_run_color(number), linewidth=1.4, linestyle=(0, (4, 2)))
        axes.set_xlim(-0.5, max(len(rounds), 1) - 0.5)
        axes.set_ylim(0, 1.02)
        axes.xaxis.set_major_locator(FixedLocator(range(len(rounds))))

    return _render(picture_id, description, draw, ("round", measure), names=rounds)


def sort_by_cutoff(table: Metrics, measure: str) -> list[tuple[int, Mapping[str, float]]]:
    """Return pairs of k and the row of ``MEASURE@k``, sorted by k."""
    return sorted((int(name.partition("@")[2]), row) for name, row in table.items() if name.startswith(f"{measure}@"))


def _get_run_color(run: int) -> str:
    """Return the placeholder color of a run. Colors repeat if there are more runs than colors."""
    return f"#0a000{run % NUM_COLORS}"


def _plot(axes: Any, curve: Curve, *, has_markers: bool) -> None:
    axes.plot(
        curve.steps,
        curve.values,
        color=_get_run_color(curve.run),
        alpha=0.55 if curve.is_faint else 1,
        linewidth=1.1 if curve.is_faint else 1.4,
        linestyle=(0, (4, 2)) if curve.is_dashed else "-",
        marker="o" if has_markers else "",
        markersize=2.6,
    )


def _reduce_points(steps: np.ndarray, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Replace groups of values by their means so that at most ``MAX_POINTS`` remain. Non-finite values give NaN."""
    size = -(-len(values) // MAX_POINTS) or 1
    parts = [slice(start, start + size) for start in range(0, len(values), size)]
    values = np.where(np.isfinite(values), values, np.nan)
    return np.array([steps[part].mean() for part in parts]), np.array([values[part].mean() for part in parts])


def _render(
    picture_id: str,
    description: str,
    draw: Callable[[Any], None],
    labels: tuple[str, str],
    names: Sequence[str] | None = None,
) -> str:
    """Return a plot as an SVG element.

    Args:
        picture_id: Prefix of the element ids in the plot.
        description: Text alternative for screen readers.
        draw: Function that draws into the axes.
        labels: Labels of the horizontal and the vertical axis.
        names: Tick labels for the positions 0, 1, ... of the horizontal axis. None shows numbers.
    """
    with rc_context({**_STYLE, "svg.hashsalt": picture_id}):
        figure = Figure(figsize=(4.0, 2.35))
        axes: Any = figure.add_axes((0.17, 0.175, 0.8, 0.785))  # equal in all plots, so that axes line up
        draw(axes)
        axes.set(xlabel=labels[0], ylabel=labels[1])
        axes.yaxis.set_label_coords(-0.158, 0.5)
        axes.yaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 2.5, 5, 10]))
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_major_formatter(FuncFormatter(_format_tick))
        if names is not None:
            axes.xaxis.set_major_formatter(FuncFormatter(lambda place, _: names[int(place)]))
        written = io.StringIO()
        metadata = dict.fromkeys(("Date", "Creator", "Format", "Type"))
        figure.savefig(written, format="svg", transparent=True, metadata=metadata)
    return mark_safe(_to_inline(written.getvalue(), picture_id, description))


def _format_tick(value: float, _: Any = None) -> str:
    if 0 < abs(value) < 0.001:
        return f"{value:.1e}".replace(".0e", "e").replace("e-0", "e-")
    return f"{value:.4g}" if abs(value) < 10_000 else f"{value / 1000:.4g}k"


def _to_inline(svg: str, picture_id: str, description: str) -> str:
    """Convert an SVG file to an element with unique ids. Size, colors and fonts come from the page."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r'\b(id="|href="#)|url\(#', lambda found: f"{found.group()}{picture_id}-", svg)
    svg = re.sub(r'<svg [^>]*?viewBox="([^"]*)"[^>]*>', _build_opening(description), svg, count=1, flags=re.DOTALL)
    svg = re.sub(
        r"<defs>\s*<style.*?</style>\s*</defs>", "", svg, flags=re.DOTALL
    )  # This style would apply to the whole page.
    svg = re.sub(r"font: ([\d.]+px) [^;\"]*", r"font-size: \1", svg)
    svg = re.sub(r"font-family: [^;\"]*;?", "", svg)
    svg = re.sub(r"\n\s*", "\n", svg)
    for placeholder, variable in _VARIABLES.items():
        svg = svg.replace(placeholder, variable)
    return svg.strip()


def _build_opening(description: str) -> Callable[[re.Match[str]], str]:
    label = escape(description)
    return lambda found: (
        '<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" '
        f'viewBox="{found.group(1)}" role="img" aria-label="{label}">'
    )
