"""The report of an evaluation: a picture of recall or accuracy over k, and one HTML page with picture and table."""

from __future__ import annotations

import base64
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from text.artifacts import atomic_write, write_text
from text.reports.pictures import Metrics, sort_by_cutoff
from text.templates import render_template


def write_evaluation_report(
    folder: str | os.PathLike[str], *, summary: str, table: Metrics, names: Sequence[str], measure: str
) -> None:
    """Write ``accuracy.png``, and ``evaluation.html``, which needs no other file.

    Args:
        folder: Both files go there.
        summary: A sentence above the picture, such as the number of questions.
        table: The metrics of the run, and of the run that it is compared with.
        names: Name of the run, and of the run that it is compared with.
        measure: "recall" or "accuracy": the measure in the picture.
    """
    picture = Path(folder, "accuracy.png")
    _draw_cutoffs(picture, table, names, measure)
    is_comparison = len(names) > 1
    page = render_template(
        "evaluation.html",
        title=names[0],
        summary=summary,
        description=", ".join(
            f"{name} {row['mean']:.3f}" for name, row in table.items() if name.startswith(("recall@", "accuracy@"))
        ),
        picture=base64.b64encode(picture.read_bytes()).decode(),
        heads=["measure", names[0], "95 % interval", *([names[1], "p"] if is_comparison else [])],
        rows=[
            [name, f"{row['mean']:.4f}", f"{row['low']:.4f} to {row['high']:.4f}"]
            + ([f"{row['other']:.4f}", f"{row['p']:.4f}"] if is_comparison else [])
            for name, row in table.items()
        ],
    )
    write_text(Path(folder, "evaluation.html"), page)


def _draw_cutoffs(path: Path, table: Metrics, names: Sequence[str], measure: str) -> None:
    """Draw a measure over k as PNG, a line for each run, and the interval of the first."""
    cutoffs = sort_by_cutoff(table, measure)
    ks, rows = [k for k, _ in cutoffs], [row for _, row in cutoffs]
    figure = Figure(figsize=(6, 4), layout="constrained")
    axes: Any = figure.subplots()
    for column, name in zip(("mean", "other"), names, strict=False):
        axes.plot(ks, [row[column] for row in rows], marker="o", label=name)
    axes.fill_between(ks, [row["low"] for row in rows], [row["high"] for row in rows], alpha=0.2)
    axes.set(xscale="log", xlabel="k", ylabel=f"{measure}@k", ylim=(0, 1))
    axes.set_xticks(ks, [str(k) for k in ks], minor=False)
    axes.minorticks_off()
    axes.grid(alpha=0.3)
    axes.legend()
    with atomic_write(path) as temporary:
        figure.savefig(temporary, format="png", dpi=150)
