"""The report of a training loop: a Markdown table of the metrics of each round, and a picture."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from text.artifacts import check_writable, write_together
from text.runs.stages import has_stages

_FILES = ("table.json", "table.md", "rounds.png")
_BM25 = "BM25"
RoundMetrics = Mapping[str, Mapping[str, Mapping[str, float]]]
"""Metrics by round, split and measure. The round "BM25" is the baseline of all rounds."""


def check_loop_report(folder: str | os.PathLike[str]) -> None:
    """Check that the report of a loop can be written, and replaces nothing but the report of an earlier loop.

    Raises:
        FileExistsError: A file exists, and the folder has no complete stage of a loop.
        UsageError, OSError: As ``check_writable``.
    """
    for path in (Path(folder, name) for name in _FILES):
        check_writable(path, overwrite=True)
        if path.exists() and not has_stages(folder):
            raise FileExistsError(
                f"{path} exists, and no stage of a loop is beside it. Move it, or take another folder."
            )


def write_loop_report(folder: str | os.PathLike[str], table: RoundMetrics, measures: Sequence[str]) -> None:
    """Write ``table.json``, ``table.md`` and ``rounds.png`` together. The first measure is drawn."""
    with write_together([Path(folder, name) for name in _FILES]) as [numbers, markdown, picture]:
        numbers.write_text(json.dumps(table, indent=2, allow_nan=False) + "\n", encoding="utf-8")
        markdown.write_text(format_markdown_table(table, measures), encoding="utf-8")
        draw_rounds(picture, table, measures[0])


def format_markdown_table(table: RoundMetrics, measures: Sequence[str]) -> str:
    """Return a Markdown table with a row for each round and a column for each split and measure."""
    splits = list(next(iter(table.values())))
    lines = [
        f"| | {' | '.join(f'{split} {measure}' for split in splits for measure in measures)} |",
        "|---" * (1 + len(splits) * len(measures)) + "|",
    ]
    for name, metrics in table.items():
        values = (metrics[split][measure] for split in splits for measure in measures)
        lines.append(f"| {name} | {' | '.join(f'{value:.4f}' for value in values)} |")
    return "\n".join(lines) + "\n"


def draw_rounds(path: str | os.PathLike[str], table: RoundMetrics, measure: str) -> None:
    """Draw a measure over the rounds as PNG, a line for each split. Dashed lines show BM25."""
    rounds = [name for name in table if name != _BM25]
    figure = Figure(figsize=(6, 4), layout="constrained")
    axes: Any = figure.subplots()
    for split in next(iter(table.values())):
        [line] = axes.plot(rounds, [table[name][split][measure] for name in rounds], marker="o", label=split)
        if _BM25 in table:
            axes.axhline(table[_BM25][split][measure], color=line.get_color(), linestyle="--", label=f"{split}, BM25")
    axes.set(ylabel=measure, ylim=(0, 1))
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(path, format="png", dpi=150)
