"""What an evaluation looks like: a curve over k, and a page that holds it with the table."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from text.artifacts import atomic_write, write_text

_STYLE = """
:root { color-scheme: light dark; }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 48rem; margin: 2rem auto; padding: 0 1rem; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
th, td { padding: .3rem .6rem; text-align: right; border-bottom: 1px solid #8886; }
th:first-child, td:first-child { text-align: left; }
img { max-width: 100%; background: white; }
"""


def draw(path: Path, measure: str, table: Mapping[str, Mapping[str, float]], names: Sequence[str]) -> None:
    """Recall or accuracy over k as PNG, with the interval of the first run; the second is what it is compared with."""
    rows = sorted((int(name.partition("@")[2]), row) for name, row in table.items() if name.startswith(f"{measure}@"))
    ks = [k for k, _ in rows]
    figure = Figure(figsize=(6, 4), layout="constrained")
    axes: Any = figure.subplots()
    for column, name in zip(("mean", "other"), names, strict=False):
        axes.plot(ks, [row[column] for _, row in rows], marker="o", label=name)
    axes.fill_between(ks, [row["low"] for _, row in rows], [row["high"] for _, row in rows], alpha=0.2)
    axes.set(xscale="log", xlabel="k", ylabel=f"{measure}@k", ylim=(0, 1))
    axes.set_xticks(ks, [str(k) for k in ks], minor=False)
    axes.minorticks_off()
    axes.grid(alpha=0.3)
    axes.legend()
    with atomic_write(path) as temporary:
        figure.savefig(temporary, format="png", dpi=150)


def write_page(
    path: Path, picture: Path, summary: str, table: Mapping[str, Mapping[str, float]], names: Sequence[str]
) -> None:
    """One HTML file that needs no other; whatever names and texts hold is shown as text."""
    heads = ["measure", names[0], "95 % interval", *([names[1], "p"] if len(names) > 1 else [])]
    rows = [
        [measure, f"{row['mean']:.4f}", f"{row['low']:.4f} to {row['high']:.4f}"]
        + ([f"{row['other']:.4f}", f"{row['p']:.4f}"] if len(names) > 1 else [])
        for measure, row in table.items()
    ]
    encoded = base64.b64encode(picture.read_bytes()).decode()
    page = f"""<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{escape(names[0])}</title>
<style>{_STYLE}</style>
<h1>{escape(names[0])}</h1>
<p>{escape(summary)}</p>
<img alt="{escape(_in_words(table))}" src="data:image/png;base64,{encoded}">
<table>
<thead>{_row(heads, "th")}</thead>
<tbody>
{chr(10).join(_row(row, "td") for row in rows)}
</tbody>
</table>
</html>
"""
    write_text(path, page)


def _in_words(table: Mapping[str, Mapping[str, float]]) -> str:
    """The picture in words."""
    return ", ".join(f"{name} {row['mean']:.3f}" for name, row in table.items() if name.startswith(("recall", "accur")))


def _row(cells: Sequence[str], tag: str) -> str:
    return f"<tr>{''.join(f'<{tag}>{escape(cell)}</{tag}>' for cell in cells)}</tr>"
