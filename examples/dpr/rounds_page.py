"""What a loop comes to: a table and a picture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from text.artifacts import atomic_write

Table = Mapping[str, Mapping[str, Mapping[str, float]]]
"""Figures by round, split and measure."""


def markdown(table: Table, measures: Sequence[str]) -> str:
    """A row for each round, a column for each split and measure."""
    splits = list(next(iter(table.values())))
    lines = [
        f"| | {' | '.join(f'{split} {measure}' for split in splits for measure in measures)} |",
        "|---" * (1 + len(splits) * len(measures)) + "|",
    ]
    for name, of_round in table.items():
        figures = (of_round[split][measure] for split in splits for measure in measures)
        lines.append(f"| {name} | {' | '.join(f'{figure:.4f}' for figure in figures)} |")
    return "\n".join(lines) + "\n"


def draw_rounds(path: Path, table: Table, measure: str) -> None:
    """A measure over the rounds as PNG, a line for each split; dashed, what words alone find."""
    rounds = [name for name in table if name != "BM25"]
    figure = Figure(figsize=(6, 4), layout="constrained")
    axes: Any = figure.subplots()
    for split in next(iter(table.values())):
        [line] = axes.plot(rounds, [table[name][split][measure] for name in rounds], marker="o", label=split)
        if "BM25" in table:
            axes.axhline(table["BM25"][split][measure], color=line.get_color(), linestyle="--", label=f"{split}, BM25")
    axes.set(ylabel=measure, ylim=(0, 1))
    axes.grid(alpha=0.3)
    axes.legend()
    with atomic_write(path) as temporary:
        figure.savefig(temporary, format="png", dpi=150)
