"""Output files of an evaluation: metrics, and an HTML page with a plot of recall or accuracy over k.

All files appear together after all metrics are computed.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from text.artifacts import seal, write_together
from text.evaluation import format_run
from text.evaluation.run_source import FusionRecord, RunSource, get_source_path, write_source
from text.reports.pictures import NUM_COLORS, LegendEntry, Metrics, draw_cutoffs
from text.reports.summaries import describe_cutoffs
from text.templates import render_template


class Section(NamedTuple):
    """Metrics of all questions or of a subset."""

    name: str
    """Name of the subset, such as "seen". Empty for all questions."""
    num_questions: int
    table: Metrics
    """Metrics. Empty if there are no questions."""

    @property
    def heading(self) -> str:
        """Name of the subset with its number of questions."""
        return f"{self.name}: {self.num_questions} questions"


def format_table(sections: Sequence[Section]) -> Iterator[str]:
    """Yield the lines of a printed table. Each subset of the questions has a heading."""
    for section in sections:
        if section.name:
            yield section.heading
        for name, row in section.table.items():
            comparison = f"  other {row['other']:.4f}, p = {row['p']:.4f}" if "p" in row else ""
            yield f"{name:>14}  {row['mean']:.4f}  ({row['low']:.4f} to {row['high']:.4f}){comparison}"


def write_evaluation(
    folder: str | os.PathLike[str],
    *,
    figures: Mapping[str, Any],
    questions: Mapping[str, Mapping[str, float]],
    results: Sequence[Mapping[str, Any]],
    report: Mapping[str, Any],
    fused_run: str | os.PathLike[str] | None = None,
    fused: Sequence[RunSource | None] = (),
    fusion: FusionRecord | None = None,
    run: Mapping[str, Mapping[str, float]],
    overwrite: bool = False,
) -> None:
    """Write all files of an evaluation. They appear together, and only if all of them could be written.

    Args:
        folder: Folder for figures.json, questions.jsonl, evaluation.html and results.json.
        figures: Content of figures.json, without its hash.
        questions: Metrics by question id.
        results: Content of results.json. If empty, ``overwrite`` removes the file of an earlier evaluation.
        report: Arguments of ``write_evaluation_report``.
        fused_run: File to write ``run`` to, or None.
        fused: Sources of the fused runs. The file with the sources of ``fused_run`` is written only if all are known.
        fusion: Settings of the fusion, for this file.
        run: The evaluated run.
        overwrite: Allow replacing existing files.

    Raises:
        FileExistsError: A file exists, and ``overwrite`` is false.
        OSError: The files cannot be written.
    """
    paths = {name: Path(folder, name) for name in ("figures.json", "questions.jsonl", "evaluation.html")}
    paths |= {"results.json": Path(folder, "results.json")} if results else {}
    known = [source for source in fused if source is not None]
    if fused_run is not None:
        paths["run"] = Path(fused_run)
        paths |= {"source": get_source_path(fused_run)} if len(known) == len(fused) else {}
    with write_together(list(paths.values()), overwrite=overwrite) as temporaries:
        files = dict(zip(paths, temporaries, strict=True))
        _write_lines(files["figures.json"], [_format_json(seal(figures))])
        lines = ({"question_id": question_id, **metrics} for question_id, metrics in questions.items())
        _write_lines(files["questions.jsonl"], (json.dumps(line, ensure_ascii=False) + "\n" for line in lines))
        write_evaluation_report(files["evaluation.html"], **report)
        if results:
            _write_lines(files["results.json"], [_format_json(results)])
        if fused_run is not None:
            _write_lines(files["run"], format_run(run))
        if "source" in files:
            keys = {question_id: key for source in known for question_id, key in source.questions.items()}
            searches = [each for source in known for each in source.searches]
            reranking = next((source.reranking for source in known if source.reranking is not None), None)
            write_source(files["source"], files["run"], searches, keys, fusion, reranking)
    if overwrite and fused_run is not None and "source" not in paths:
        get_source_path(fused_run).unlink(missing_ok=True)
    if overwrite and not results:
        Path(folder, "results.json").unlink(missing_ok=True)  # The file belongs to an earlier evaluation.


def write_evaluation_report(
    page: str | os.PathLike[str],
    *,
    summary: Sequence[str],
    sections: Sequence[Section],
    names: Sequence[str],
    measure: str,
    inputs: Mapping[str, Mapping[str, str]],
) -> None:
    """Write a self-contained HTML page with the metrics and a plot.

    Args:
        page: HTML file to write.
        summary: Lines above the plot, such as the number of questions.
        sections: Metrics of all questions first, then of subsets. Only the first section is plotted.
        names: Name of the run and, in a comparison, of the other run.
        measure: "recall" or "accuracy": the measure to plot.
        inputs: "path" and "sha256" of the input files, by flag.
    """
    table = sections[0].table
    description = f"{measure} at k: {describe_cutoffs(table, measure)}"
    content = render_template(
        "evaluation.html",
        title=f"Evaluation of {' and '.join(names)}",
        summary=summary,
        num_colors=NUM_COLORS,
        figure_title=f"{measure.capitalize()}@k",
        picture=draw_cutoffs(measure, description, {0: table}, measure),
        legend_entries=[LegendEntry(0, name, is_dashed=number > 0) for number, name in enumerate(names)],
        heads=["metric", names[0], "95 % interval", *([names[1], "p"] if len(names) > 1 else [])],
        sections=[(each.heading if each.name else "", _format_rows(each.table)) for each in sections],
        inputs=[(name, file["path"], file["sha256"]) for name, file in inputs.items()],
    )
    _write_lines(page, [content])


def _format_json(content: Any) -> str:
    return json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def _write_lines(path: str | os.PathLike[str], lines: Iterable[str]) -> None:
    """Write lines to a temporary file of ``write_together``."""
    with open(path, "w", encoding="utf-8", newline="") as file:
        file.writelines(lines)


def _format_rows(table: Metrics) -> list[list[str]]:
    return [
        [name, f"{row['mean']:.4f}", f"{row['low']:.4f} to {row['high']:.4f}"]
        + ([f"{row['other']:.4f}", f"{row['p']:.4f}"] if "p" in row else [])
        for name, row in table.items()
    ]
