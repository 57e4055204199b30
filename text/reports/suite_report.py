"""Report of a suite: the metrics of each set as JSON, Markdown and HTML, and one result file of mteb for each set."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from text.artifacts import seal, write_together
from text.evaluation import bootstrap_macro_interval
from text.reports.pictures import Metrics
from text.runs.stages import check_report
from text.runs.suites import MAIN_MEASURES, SetResult, name_result
from text.templates import render_template

_FILES = ("suite.json", "suite.md", "suite.html")
_HEADS = ("set", "passages", "without text", "questions", *MAIN_MEASURES)


def check_suite_report(folder: str | os.PathLike[str]) -> None:
    """Check that the report of a suite can be written and replaces only the report of an earlier suite.

    Raises:
        FileExistsError, UsageError, OSError: See ``check_report``.
    """
    check_report(folder, _FILES, "suite")


def average_sets(results: Sequence[SetResult], *, seed: int = 0) -> dict[str, dict[str, float]]:
    """Return the mean of each metric over the sets, with a 95 % bootstrap confidence interval. Each set counts once.

    Args:
        results: Results of the sets.
        seed: Seed of the bootstrap.
    """
    table = {}
    for name in results[0].figures:
        values = [[metrics[name] for metrics in each.questions.values()] for each in results]
        low, high = bootstrap_macro_interval(values, num_samples=1000, seed=seed)
        mean = math.fsum(each.figures[name]["mean"] for each in results) / len(results)
        table[name] = {"mean": mean, "low": low, "high": high}
    return table


def format_suite_table(results: Sequence[SetResult], mean: Metrics) -> str:
    """Return a Markdown table with a row for each set and one for the mean over the sets."""
    lines = [f"| {' | '.join(_HEADS)} |", "|---" * len(_HEADS) + "|"]
    rows = [[cell.replace("|", "\\|") for cell in row] for row in _list_rows(results, mean)]
    return "\n".join([*lines, *(f"| {' | '.join(row)} |" for row in rows)]) + "\n"


def write_suite_report(
    folder: str | os.PathLike[str],
    results: Sequence[SetResult],
    mean: Metrics,
    *,
    model: str,
    revision: str,
    split: str,
    settings: Mapping[str, Any],
) -> list[Path]:
    """Write suite.json, suite.md and suite.html, and a file for mteb for each set. All files appear together.

    Args:
        folder: Folder of the suite's stages.
        results: Results of the sets.
        mean: Mean over the sets, from ``average_sets``.
        model: Folder of the model, as the user gave it.
        revision: Hash of the model's files.
        split: Name of the evaluated split.
        settings: Settings of the evaluation.

    Returns:
        Paths of the files for mteb: ``results/MODEL/REVISION/SET.json``, as in mteb's own cache.
    """
    path = Path(model).resolve()
    parent = Path(folder, "results", f"{path.parent.name}__{path.name}", revision[:16])
    mteb = [parent / f"{name_result(each.name)}.json" for each in results]
    summary = [f"model: {model}", f"{len(results)} sets, split {split}; 95 % bootstrap confidence intervals"]
    content = {
        "model": model,
        "revision": revision,
        "split": split,
        "sets": {each.name: _summarize(each) for each in results},
        "mean": mean,
        "options": dict(settings),
    }
    with write_together([*(Path(folder, name) for name in _FILES), *mteb]) as [numbers, table, page, *tasks]:
        numbers.write_text(_format_json(seal(content)), encoding="utf-8")
        table.write_text("\n".join([*summary, "", format_suite_table(results, mean)]), encoding="utf-8")
        page.write_text(render_suite_report(folder, results, mean, summary), encoding="utf-8")
        for task, each in zip(tasks, results, strict=True):
            task.write_text(_format_json(format_task_result(each, split)), encoding="utf-8")
    return mteb


def render_suite_report(
    folder: str | os.PathLike[str], results: Sequence[SetResult], mean: Metrics, summary: Sequence[str]
) -> str:
    """Return the self-contained HTML page of a suite.

    Args:
        folder: Folder of the page. The pages of the sets are named relative to it.
        results: Results of the sets.
        mean: Mean over the sets.
        summary: Lines above the table.
    """
    pages = [(each.name, os.path.relpath(each.page, folder)) for each in results]
    return render_template(
        "suite.html",
        title=f"Suite {Path(folder).resolve().name}",
        summary=summary,
        table={"heads": _HEADS, "rows": list(_list_rows(results, mean))},
        pages={"heads": ["set", "page with all metrics"], "rows": pages},
    )


def format_task_result(result: SetResult, split: str) -> dict[str, Any]:
    """Return the result of a set in the form of mteb's ``TaskResult``.

    The hash of the judgments stands for the revision of the data set. ``mteb_version`` is null, because mteb did not
    compute the metrics.
    """
    depth = max(int(name.partition("@")[2]) for name in result.figures if "@" in name)
    names = {name: f"map_at_{depth}" if name == "map" else name.replace("@", "_at_") for name in result.figures}
    scores = {names[name]: round(row["mean"], 6) for name, row in result.figures.items()}
    main = {"main_score": scores[names[MAIN_MEASURES[0]]], "hf_subset": "default", "languages": ["und-Zyyy"]}
    return {
        "dataset_revision": result.qrels_sha256,
        "task_name": result.name,
        "mteb_version": None,
        "scores": {split: [scores | main]},
        "evaluation_time": result.seconds,
        "kg_co2_emissions": None,
    }


def _list_rows(results: Sequence[SetResult], mean: Metrics) -> Iterator[list[str]]:
    for each in results:
        counts = (each.num_passages, each.num_without_text, len(each.questions))
        yield [each.name, *(f"{count:,}" for count in counts), *_format_metrics(each.figures)]
    yield ["mean", "", "", "", *_format_metrics(mean)]


def _format_metrics(figures: Metrics) -> list[str]:
    rows = (figures[name] for name in MAIN_MEASURES)
    return [f"{row['mean']:.4f} ({row['low']:.4f} to {row['high']:.4f})" for row in rows]


def _summarize(result: SetResult) -> dict[str, Any]:
    return {
        "passages": result.num_passages,
        "without_text": result.num_without_text,
        "questions": len(result.questions),
        "figures": result.figures,
    }


def _format_json(content: Any) -> str:
    return json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
