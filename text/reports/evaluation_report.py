"""The report of an evaluation: a picture of recall or accuracy over k, and one HTML page with picture and table."""

from __future__ import annotations

import base64
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from matplotlib.figure import Figure

from text.artifacts import atomic_write, write_text
from text.reports.pictures import Metrics, sort_by_cutoff
from text.templates import render_template


class Section(NamedTuple):
    """The metrics of all questions, or of some of them."""

    name: str
    """Empty for all questions, or the name of a part, such as "seen"."""
    num_questions: int
    table: Metrics
    """Empty if there is no question."""

    @property
    def heading(self) -> str:
        """The part and its number of questions."""
        return f"{self.name}: {self.num_questions} questions"


def format_table(sections: Sequence[Section]) -> Iterator[str]:
    """Yield the lines of a table to print. Each part of the questions has a heading."""
    for section in sections:
        if section.name:
            yield section.heading
        for name, row in section.table.items():
            comparison = f"  other {row['other']:.4f}, p = {row['p']:.4f}" if "p" in row else ""
            yield f"{name:>14}  {row['mean']:.4f}  ({row['low']:.4f} to {row['high']:.4f}){comparison}"


def write_evaluation_report(
    folder: str | os.PathLike[str],
    *,
    summary: Sequence[str],
    sections: Sequence[Section],
    names: Sequence[str],
    measure: str,
    inputs: Mapping[str, Mapping[str, str]],
) -> None:
    """Write ``accuracy.png``, and ``evaluation.html``, which needs no other file.

    Args:
        folder: Both files go there.
        summary: Lines above the picture, such as the number of questions.
        sections: The metrics of all questions, which are drawn too, and those of parts.
        names: Name of the run, and of the run that it is compared with.
        measure: "recall" or "accuracy": the measure in the picture.
        inputs: "path" and "sha256" of the files that were read, by flag.
    """
    picture, table = Path(folder, "accuracy.png"), sections[0].table
    _draw_cutoffs(picture, table, names, measure)
    page = render_template(
        "evaluation.html",
        title=names[0],
        summary=summary,
        description=", ".join(
            f"{name} {row['mean']:.3f}" for name, row in table.items() if name.startswith(("recall@", "accuracy@"))
        ),
        picture=base64.b64encode(picture.read_bytes()).decode(),
        heads=["measure", names[0], "95 % interval", *([names[1], "p"] if len(names) > 1 else [])],
        sections=[(each.heading if each.name else "", _format_rows(each.table)) for each in sections],
        inputs=[(name, file["path"], file["sha256"]) for name, file in inputs.items()],
    )
    write_text(Path(folder, "evaluation.html"), page)


def _format_rows(table: Metrics) -> list[list[str]]:
    return [
        [name, f"{row['mean']:.4f}", f"{row['low']:.4f} to {row['high']:.4f}"]
        + ([f"{row['other']:.4f}", f"{row['p']:.4f}"] if "p" in row else [])
        for name, row in table.items()
    ]


def _draw_cutoffs(path: Path, table: Metrics, names: Sequence[str], measure: str) -> None:
    """Draw a measure over k as PNG, a line for each run, and the interval of the first."""
    cutoffs = sort_by_cutoff(table, measure)
    ks, rows = [k for k, _ in cutoffs], [row for _, row in cutoffs]
    figure = Figure(figsize=(6, 4), layout="constrained")
    axes: Any = figure.subplots()
    for column, name in zip(("mean", "other"), names, strict=False):
        axes.plot(ks, [row[column] for row in rows], marker="o", label=_shorten(name))
    axes.fill_between(ks, [row["low"] for row in rows], [row["high"] for row in rows], alpha=0.2)
    axes.set(xscale="log", xlabel="k", ylabel=f"{measure}@k", ylim=(0, 1))
    axes.set_xticks(ks, [str(k) for k in ks], minor=False)
    axes.minorticks_off()
    axes.grid(alpha=0.3)
    axes.legend(fontsize="small")
    with atomic_write(path) as temporary:
        figure.savefig(temporary, format="png", dpi=150)


def _shorten(name: str) -> str:
    """Return the name of a run in lines that fit into the picture: of a long path, the end."""
    return "\n+ ".join(path if len(path) <= 60 else f"…{path[-59:]}" for path in name.split(" + "))
