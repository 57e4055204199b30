"""Report of a training loop: the metrics of each round as JSON, as Markdown, and as an HTML page with a plot."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from text.artifacts import check_writable, write_together
from text.reports.pictures import NUM_COLORS, LegendEntry, draw_rounds
from text.runs.rounds import BM25, RoundMetrics
from text.runs.stages import has_stages
from text.templates import render_template

_FILES = ("table.json", "table.md", "models.json", "table.html")


def check_loop_report(folder: str | os.PathLike[str]) -> None:
    """Check that the report of a loop can be written and replaces only the report of an earlier loop.

    Raises:
        FileExistsError: A report file exists, but the folder has no complete stage of a loop.
        UsageError, OSError: A file cannot be written, see ``check_writable``.
    """
    for path in (Path(folder, name) for name in _FILES):
        check_writable(path, overwrite=True)
        if path.exists() and not has_stages(folder):
            raise FileExistsError(
                f"{path} already exists, but its folder has no stage of a loop. Move it, or choose another folder."
            )


def write_loop_report(
    folder: str | os.PathLike[str],
    table: RoundMetrics,
    measures: Sequence[str],
    models: Mapping[str, str | os.PathLike[str]],
    notes: Sequence[str] = (),
) -> None:
    """Write ``table.json``, ``table.md``, ``models.json`` and ``table.html`` together.

    Args:
        folder: Folder of the loop.
        table: Metrics by round, split and measure.
        measures: Measures in the table. The first one is plotted.
        models: Folder of each round's model.
        notes: Notes for readers of the table.
    """
    places = {name: _shorten_path(path, folder) for name, path in models.items()}
    with write_together([Path(folder, name) for name in _FILES]) as [numbers, markdown, model_paths, page]:
        numbers.write_text(json.dumps(table, indent=2, allow_nan=False) + "\n", encoding="utf-8")
        parts = [format_markdown_table(table, measures), _format_models(places), *(f"{note}\n" for note in notes)]
        markdown.write_text("\n".join(parts), encoding="utf-8")
        model_paths.write_text(json.dumps(places, indent=2) + "\n", encoding="utf-8")
        page.write_text(
            render_loop_report(Path(folder).resolve().name, table, measures, places, notes), encoding="utf-8"
        )


def format_markdown_table(table: RoundMetrics, measures: Sequence[str]) -> str:
    """Return a Markdown table with a row for each round and a column for each split and measure."""
    heads, rows = _list_cells(table, measures)
    lines = [f"| | {' | '.join(heads)} |", "|---" * (1 + len(heads)) + "|"]
    return "\n".join([*lines, *(f"| {' | '.join(row)} |" for row in rows)]) + "\n"


def _format_models(places: Mapping[str, str]) -> str:
    """Return a Markdown table with the model of each round."""
    return "\n".join(["| | model |", "|---|---|", *(f"| {name} | {place} |" for name, place in places.items())]) + "\n"


def _shorten_path(path: str | os.PathLike[str], folder: str | os.PathLike[str]) -> str:
    """Return a path inside a folder relative to the folder, so that it stays valid when the folder is moved."""
    return Path(path).relative_to(folder).as_posix() if Path(path).is_relative_to(folder) else os.fspath(path)


def render_loop_report(
    name: str, table: RoundMetrics, measures: Sequence[str], models: Mapping[str, str], notes: Sequence[str] = ()
) -> str:
    """Return the self-contained HTML page of a loop.

    Args:
        name: Name of the loop's folder.
        table: Metrics by round, split and measure.
        measures: Measures in the table. The first one is plotted.
        models: Folder of each round's model.
        notes: Notes for readers of the table.
    """
    heads, rows = _list_cells(table, measures)
    picture, legend = _draw_table(table, measures[0])
    return render_template(
        "loop.html",
        title=f"Rounds of {name}",
        num_colors=NUM_COLORS,
        figure_title=measures[0],
        picture=picture,
        legend_entries=legend,
        table={"heads": ["round", *heads], "rows": rows},
        models={"heads": ["round", "model"], "rows": models.items()},
        notes=notes,
    )


def _list_cells(table: RoundMetrics, measures: Sequence[str]) -> tuple[list[str], list[list[str]]]:
    """Return the column heads, one for each split and measure, and the rows, one for each round."""
    columns = [(split, measure) for split in next(iter(table.values())) for measure in measures]
    rows = [[name, *(f"{each[split][measure]:.4f}" for split, measure in columns)] for name, each in table.items()]
    return [f"{split} {measure}" for split, measure in columns], rows


def _draw_table(table: RoundMetrics, measure: str) -> tuple[str, list[LegendEntry]]:
    """Return the plot of a measure over the rounds and its legend, with BM25 as a dashed line for each split."""
    rounds = [name for name in table if name != BM25]
    lines, legend, words = [], [], []
    for number, split in enumerate(next(iter(table.values()))):
        values = [table[name][split][measure] for name in rounds]
        baseline = table[BM25][split][measure] if BM25 in table else None
        lines.append((values, baseline))
        legend += [LegendEntry(number, split)]
        legend += [LegendEntry(number, f"{split}, {BM25}", is_dashed=True)] if baseline is not None else []
        words.append(f"{split}: {', '.join(f'{table[name][split][measure]:.4f} {name}' for name in table)}")
    return draw_rounds("rounds", f"{measure} of each round. {'; '.join(words)}", rounds, lines, measure), legend
