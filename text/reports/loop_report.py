"""Report of a training loop: the metrics of each round as JSON, as Markdown, and as an HTML page with a plot."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from text.artifacts import write_together
from text.reports.pictures import NUM_COLORS, LegendEntry, draw_rounds
from text.runs.acceptance import LEVEL, Comparison
from text.runs.loop_results import LoopResults
from text.runs.rounds import BM25, FUSED, RERANKED, RoundMetrics
from text.runs.seeds import SeedResults
from text.runs.stages import check_report, has_stages
from text.templates import render_template

_FILES = ("table.json", "table.md", "models.json", "rounds.json", "table.html")
_SEEDS = "seeds.json"
_SEEDS_NOTE = (
    "Rounds with seeds: mean ± standard deviation over the seeds. The chosen seed has the best {measure} on the "
    "validation questions, and its model is the model of the round."
)

_ROUNDS_NOTE = (
    "Each round is compared with the last accepted model by {measure} on the validation questions (paired "
    f"randomization test). A round that is worse with p < {LEVEL} is rejected, and the last accepted model is kept."
)
_ROUNDS_HEADS = ["against", "difference", "p", "result"]


def check_loop_report(folder: str | os.PathLike[str]) -> None:
    """Check that the report of a loop can be written and replaces only the report of an earlier loop.

    Raises:
        FileExistsError, UsageError, OSError: See ``check_report``.
    """
    check_report(folder, _FILES, "loop")


def write_loop_report(
    folder: str | os.PathLike[str], results: LoopResults, measures: Sequence[str], notes: Sequence[str] = ()
) -> None:
    """Write ``table``, as JSON, Markdown and HTML, ``models.json`` and ``rounds.json`` together.

    With seeds, ``seeds.json`` is written too. Otherwise, ``seeds.json`` of an earlier table is removed.

    Args:
        folder: Folder of the loop.
        results: Results of the loop.
        measures: Measures in the table. The first one is plotted.
        notes: Notes for readers of the table.
    """
    results = results.shorten_paths(folder)
    models = _format_table(["", "model"], list(results.models.items()))
    parts = [format_markdown_table(results, measures), models, *(f"{note}\n" for note in notes)]
    page = render_loop_report(Path(folder).resolve().name, results, measures, notes)
    rounds = {name: _list_comparison(each, measures[0]) for name, each in results.comparisons.items()}
    contents = [
        _format_json(results.table),
        "\n".join(parts),
        _format_json(results.models),
        _format_json(rounds),
        page,
    ]
    files: dict[str, str] = dict(zip(_FILES, contents, strict=True))
    if results.seeds:
        files[_SEEDS] = _format_json({name: _list_seeds(each) for name, each in results.seeds.items()})
    with write_together([Path(folder, name) for name in files]) as temporaries:
        for path, content in zip(temporaries, files.values(), strict=True):
            path.write_text(content, encoding="utf-8")
    if not results.seeds and has_stages(folder):
        Path(folder, _SEEDS).unlink(missing_ok=True)


def format_markdown_table(results: LoopResults, measures: Sequence[str]) -> str:
    """Return a Markdown table with a row for each round and a column for each split and measure.

    With seeds, a second table has a row for each round and seed. With comparisons, another table shows which rounds
    were accepted.
    """
    heads, rows = _list_cells(results, measures)
    tables = [_format_table(["", *heads], rows)]
    if results.seeds:
        seeds = _format_table(*_list_seed_cells(results.seeds, measures))
        tables += [f"{_SEEDS_NOTE.format(measure=measures[0])}\n", seeds]
    if results.comparisons:
        accepted = _format_table(["", *_ROUNDS_HEADS], _list_comparison_cells(results.comparisons))
        tables += [f"{_describe_rounds(results, measures[0])}\n", accepted]
    return "\n".join(tables)


def _describe_rounds(results: LoopResults, measure: str) -> str:
    """Return how rounds are accepted, and which one was accepted last."""
    final = f"The last accepted round is {results.final}." if results.final else "No round was accepted."
    return f"{_ROUNDS_NOTE.format(measure=measure)} {final}"


def _format_table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    return "\n".join([*lines, *(f"| {' | '.join(row)} |" for row in rows)]).replace("|  |", "| |", 1) + "\n"


def render_loop_report(name: str, results: LoopResults, measures: Sequence[str], notes: Sequence[str] = ()) -> str:
    """Return the self-contained HTML page of a loop.

    Args:
        name: Name of the loop's folder.
        results: Results of the loop.
        measures: Measures in the table. The first one is plotted.
        notes: Notes for readers of the table.
    """
    heads, rows = _list_cells(results, measures)
    seed_heads, seed_rows = _list_seed_cells(results.seeds, measures)
    picture, legend = _draw_table(results.table, measures[0])
    return render_template(
        "loop.html",
        title=f"Rounds of {name}",
        num_colors=NUM_COLORS,
        figure_title=measures[0],
        picture=picture,
        legend_entries=legend,
        table={"heads": ["round", *heads], "rows": rows},
        seeds={"heads": ["round", *seed_heads[1:]], "rows": seed_rows},
        seeds_note=_SEEDS_NOTE.format(measure=measures[0]),
        rounds={"heads": ["round", *_ROUNDS_HEADS], "rows": _list_comparison_cells(results.comparisons)},
        rounds_note=_describe_rounds(results, measures[0]),
        models={"heads": ["round", "model"], "rows": results.models.items()},
        notes=notes,
    )


def _list_cells(results: LoopResults, measures: Sequence[str]) -> tuple[list[str], list[list[str]]]:
    """Return the column heads, one for each split and measure, and the rows, one for each round."""
    seeds, columns = results.seeds, [(split, name) for split in next(iter(results.table.values())) for name in measures]
    rows = []
    for name, each in results.table.items():
        spread = seeds[name].spread if name in seeds and len(seeds[name].results) > 1 else None
        more = ["" if spread is None else f" ± {spread[split][measure]:.4f}" for split, measure in columns]
        values = [f"{each[split][measure]:.4f}" for split, measure in columns]
        rows.append([name, *(value + end for value, end in zip(values, more, strict=True))])
    return [f"{split} {measure}" for split, measure in columns], rows


def _list_seed_cells(seeds: Mapping[str, SeedResults], measures: Sequence[str]) -> tuple[list[str], list[list[str]]]:
    """Return the column heads, and a row for each round and seed."""
    rows, heads = [], list[str]()
    for name, each in seeds.items():
        for result in each.results:
            values = {
                f"{split} {measure}": f"{metrics[measure]:.4f}"
                for split, metrics in result.metrics.items()
                for measure in measures
            }
            heads = list(values)
            mark = "chosen" if result.seed == each.chosen else ""
            rows.append([name, str(result.seed), *values.values(), mark])
    return ["", "seed", *heads, "goes on"], rows


def _list_comparison_cells(comparisons: Mapping[str, Comparison]) -> list[list[str]]:
    """Return a row for each round: what it was compared with, the difference, its p-value and the result."""
    return [
        [name, each.other, f"{each.difference:+.4f}", f"{each.p:.3g}", "accepted" if each.is_accepted else "rejected"]
        for name, each in comparisons.items()
    ]


def _list_comparison(comparison: Comparison, measure: str) -> dict[str, Any]:
    """Return the content of ``rounds.json`` for one round."""
    return {"measure": measure, **comparison._asdict(), "accepted": comparison.is_accepted}


def _list_seeds(results: SeedResults) -> dict[str, Any]:
    """Return the content of ``seeds.json`` for one round."""
    seeds = {str(each.seed): {"model": each.model, "metrics": each.metrics} for each in results.results}
    return {"chosen": results.chosen, "standard_deviation": results.spread, "seeds": seeds}


def _format_json(content: Any) -> str:
    return json.dumps(content, indent=2, allow_nan=False) + "\n"


def _draw_table(table: RoundMetrics, measure: str) -> tuple[str, list[LegendEntry]]:
    """Return the plot of a measure over the rounds and its legend, with BM25 as a dashed line for each split."""
    rounds = [name for name in table if name != BM25 and not name.endswith((FUSED, RERANKED))]
    lines, legend, words = [], [], []
    for number, split in enumerate(next(iter(table.values()))):
        values = [table[name][split][measure] for name in rounds]
        baseline = table[BM25][split][measure] if BM25 in table else None
        lines.append((values, baseline))
        legend += [LegendEntry(number, split)]
        legend += [LegendEntry(number, f"{split}, {BM25}", is_dashed=True)] if baseline is not None else []
        words.append(f"{split}: {', '.join(f'{table[name][split][measure]:.4f} {name}' for name in table)}")
    return draw_rounds("rounds", f"{measure} of each round. {'; '.join(words)}", rounds, lines, measure), legend
