"""Content of a run report: text, tables and plots of each section. The layout is in ``run_report.html``.

Each function takes the runs and returns plain values for the template. For an empty section the template shows a note
with the reason.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from text.datasets import find_same_data
from text.reports import pictures
from text.reports.pictures import Curve, LegendEntry, sort_by_cutoff
from text.reports.summaries import (
    ABSENT,
    describe_best_validation,
    describe_cutoffs,
    describe_last_loss,
    describe_lengths,
    describe_non_finite,
    describe_progress,
    describe_series,
    format_metric,
    format_setting,
)
from text.runs.history import RunHistory, ShownPassage

_MAX_CHARACTERS = 900
"""Maximum characters shown of a positive and of the first passage ranked above it."""
_MAX_CHARACTERS_LATER = 160
"""Maximum characters shown of the second and later passages ranked above the positive."""


_TRAINING = "Training"
"""Heading of the panels that every run has. All other panels show validation metrics."""


class Panel(NamedTuple):
    """Metrics that share one plot."""

    title: str
    note: str
    columns: tuple[str, ...]
    """Columns of the run's CSV files. The first of two columns is drawn pale."""
    y_range: tuple[float | None, float | None] = (None, None)
    limit: str | None = None
    """Name of a setting to draw as a dashed line."""


class Figure(NamedTuple):
    """A plot with its caption."""

    title: str
    note: str
    picture: str
    warning: str = ""
    details: tuple[str, ...] = ()
    """Sentences below the plot."""


class PanelSection(NamedTuple):
    """Plots under one heading."""

    heading: str
    figures: list[Figure]
    not_logged: list[str]
    """Titles of the panels without values."""


class Table(NamedTuple):
    """Table with a name in the first column and a column for each run."""

    heads: list[str]
    rows: list[list[str]]


PANELS = {
    _TRAINING: (
        Panel("Loss", "in nats; pale: training, solid: validation", ("train_loss_step", "valid_loss")),
        Panel("Learning rate", "", ("learning_rate",), (0, None)),
        Panel("Gradient norm", "before clipping", ("gradient_norm",), (0, None), "gradient_clip_val"),
        Panel("Examples per second", "questions; validation time excluded", ("examples/s",), (0, None)),
        Panel("Padding", "share of padding tokens in the batches", ("padding",), (0, None)),
    ),
    "Validation": (
        Panel("MRR@10", "higher is better", ("valid_mrr@10",), (0, 1.02)),
        Panel("Average rank", "counted from 0; lower is better", ("valid_average_rank",), (0, None)),
        *(Panel(f"Recall@{k}", "", (f"valid_recall@{k}",), (0, 1.02)) for k in (1, 5, 20, 100)),
    ),
    "Embedding collapse": (
        Panel(
            "Cosine of random passages", "near 1: all embeddings are similar", ("valid_passage_cosine",), (None, 1.02)
        ),
        Panel("Norm of passages", "mean norm of the embeddings", ("valid_passage_norm",), (0, None)),
    ),
}


def list_overview(runs: Sequence[RunHistory]) -> list[list[str]]:
    """Return a row for each run: name, progress, training loss, best validation and test MRR@10."""
    return [
        [
            run.name,
            describe_progress(run),
            describe_last_loss(run),
            describe_best_validation(run),
            format_metric(_find_test(run).get("test_mrr@10")),
        ]
        for run in runs
    ]


def draw_panels(runs: Sequence[RunHistory]) -> list[PanelSection]:
    """Draw all panels of ``PANELS`` that have values. Validation panels are skipped if no run has validation data."""
    sections = []
    for heading, panels in PANELS.items():
        if heading != _TRAINING and not any(run.has_validation for run in runs):
            continue
        figures = {panel.title: _draw_panel(heading, panel, runs) for panel in panels}
        drawn = [figure for figure in figures.values() if figure is not None]
        sections.append(PanelSection(heading, drawn, [title for title, figure in figures.items() if figure is None]))
    return sections


def draw_evaluations(runs: Sequence[RunHistory]) -> tuple[list[Figure], list[LegendEntry]]:
    """Draw recall and accuracy over k for all evaluated runs, and return the plots and their legend."""
    evaluations = {number: run.evaluation for number, run in enumerate(runs) if run.evaluation is not None}
    tables = {number: each.tabulate() for number, each in evaluations.items()}
    figures = []
    for measure in ("recall", "accuracy"):
        found = {number: table for number, table in tables.items() if sort_by_cutoff(table, measure)}
        if found:
            words = "; ".join(f"{runs[n].name}: {describe_cutoffs(table, measure)}" for n, table in found.items())
            picture = pictures.draw_cutoffs(
                _build_picture_id("recall", measure), f"{measure} at k: {words}", found, measure
            )
            figures.append(Figure(f"{measure.capitalize()}@k", "band: 95 % confidence interval", picture))
    legend = [
        LegendEntry(number, f"{runs[number].name}, {each.questions:,} questions: {name}", is_dashed=place > 0)
        for number, each in evaluations.items()
        for place, name in enumerate(each.name_runs())
    ]
    return figures, legend


def draw_lengths(runs: Sequence[RunHistory]) -> list[Figure]:
    """Draw histograms of the token counts of questions and passages."""
    figures = []
    for place, kind in enumerate(("questions", "passages")):
        lengths = {number: run.lengths[place] for number, run in enumerate(runs) if run.lengths}
        if lengths:
            named = [f"{runs[n].name}: {describe_lengths(each)}" for n, each in lengths.items()]
            details = named if len(runs) > 1 else [describe_lengths(lengths[0])]
            description = f"Lengths of {kind}: {'; '.join(named)}"
            picture = pictures.draw_length_histograms(_build_picture_id("lengths", kind), description, lengths)
            note = "share of texts by number of tokens; dashed: limit"
            figures.append(Figure(kind.capitalize(), note, picture, details=tuple(details)))
    return figures


def list_worst_questions(run: RunHistory) -> list[dict[str, Any]] | None:
    """Return the validation questions with the most passages above their positive, or None before a validation."""
    if run.worst_questions is None:
        return None
    return [
        {
            "step": row.step,
            "num_above": row.num_above,
            "question": row.question,
            "answers": "; ".join(row.answers),
            "positive": _shorten(row.positive, _MAX_CHARACTERS),
            "above": [
                _shorten(passage, _MAX_CHARACTERS_LATER if place else _MAX_CHARACTERS)
                for place, passage in enumerate(row.above)
            ],
        }
        for row in run.worst_questions
    ]


def list_test_metrics(runs: Sequence[RunHistory]) -> Table:
    """Return a table of the test metrics, with a row for each metric."""
    tests = [_find_test(run) for run in runs]
    rows = [
        [name.removeprefix("test_"), *(format_metric(test.get(name)) for test in tests)] for name in _merge_names(tests)
    ]
    return Table(["metric", *_list_heads(runs)], rows)


def list_data(runs: Sequence[RunHistory]) -> list[dict[str, Any]]:
    """Return the files and counts of each split of each run."""
    return [
        {
            "run": number,
            "split": split,
            "files": [file.path for file in data.files],
            "questions": data.questions,
            "skipped": data.rows_skipped_because,
            "found": data.found,
        }
        for number, run in enumerate(runs)
        if run.manifest is not None
        for split, data in run.manifest.data.items()
    ]


def list_data_notes(runs: Sequence[RunHistory]) -> list[str]:
    """Return notes about splits with the same data and about missing validation data."""
    notes = []
    for run in runs:
        name = f"{run.name}: " if len(runs) > 1 else ""
        if run.manifest is not None:
            hashes = {split: [file.sha256 for file in data.files] for split, data in run.manifest.data.items()}
            if run.settings.get("valid_share") is not None:
                hashes["valid"] = []  # It has the training files but other questions.
            notes += [f"{name}{sentence}" for sentence in find_same_data(hashes)]
        if not run.has_validation:
            notes.append(f"{name}there was no validation data, so the model is from the last training step.")
    return notes


def has_no_test(runs: Sequence[RunHistory]) -> bool:
    """Return whether all runs have finished without test data."""
    return all(run.manifest is not None and "test" not in run.manifest.data for run in runs)


def list_settings(runs: Sequence[RunHistory]) -> tuple[Table, list[tuple[str, str]]]:
    """Return a table of the settings that differ between runs, and the settings that are equal in all runs."""
    names = _merge_names([run.settings for run in runs])
    different = [name for name in names if len({repr(run.settings.get(name)) for run in runs}) > 1]
    rows = [[name, *(format_setting(run.settings.get(name)) for run in runs)] for name in different]
    shared = [(name, format_setting(runs[0].settings.get(name))) for name in names if name not in different]
    return Table(["setting", *_list_heads(runs)], rows), shared


def list_versions(runs: Sequence[RunHistory]) -> Table:
    """Return a table of package versions, with a row for each package."""
    versions = [run.manifest.versions if run.manifest is not None else {} for run in runs]
    rows = [[name, *(str(each.get(name) or ABSENT) for each in versions)] for name in _merge_names(versions)]
    return Table(["package", *_list_heads(runs)], rows)


def _draw_panel(heading: str, panel: Panel, runs: Sequence[RunHistory]) -> Figure | None:
    curves = list(_list_curves(panel, runs))
    if not curves:
        return None
    limits: list[tuple[int | None, float]] = [
        (number, float(run.settings[panel.limit]))
        for number, run in enumerate(runs)
        if panel.limit is not None and run.settings.get(panel.limit)
    ]
    if len({height for _, height in limits}) == 1:
        limits = [(None, limits[0][1])]
    picture = pictures.draw_curves(
        _build_picture_id(heading, panel.title),
        f"{panel.title}: {describe_series(panel.columns, runs)}",
        curves,
        y_label=panel.title,
        last_step=max((int(row["step"]) for run in runs for row in run.rows), default=0),
        limits=limits,
        y_range=panel.y_range,
    )
    clipped = ", ".join(f"{height:g}" for _, height in limits)
    note = f"{panel.note}; dashed: clipped to {clipped}" if limits else panel.note
    return Figure(panel.title, note, picture, describe_non_finite(panel.columns, runs))


def _list_curves(panel: Panel, runs: Sequence[RunHistory]) -> Iterator[Curve]:
    for number, run in enumerate(runs):
        for column in panel.columns:
            steps, values = run.get_series(column)
            if any(map(math.isfinite, values)):
                yield Curve(number, steps, values, is_faint=len(panel.columns) > 1 and column == panel.columns[0])


def _find_test(run: RunHistory) -> Mapping[str, float]:
    """Return the test metrics of a run. They are empty until the run has finished."""
    return run.manifest.test if run.manifest is not None else {}


def _shorten(passage: ShownPassage, max_characters: int) -> dict[str, Any]:
    text = passage.text
    shown = text if len(text) <= max_characters else text[:max_characters].rstrip() + " …"
    return {"title": passage.title, "score": passage.score, "text": shown}


def _list_heads(runs: Sequence[RunHistory]) -> list[str]:
    return [run.name for run in runs] if len(runs) > 1 else ["value"]


def _merge_names(mappings: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the distinct keys of all mappings, in order of first occurrence."""
    return list(dict.fromkeys(name for mapping in mappings for name in mapping))


def _build_picture_id(*words: str) -> str:
    """Join words into the value of an ``id`` attribute."""
    return "-".join("".join(c if c.isalnum() else "-" for c in word.lower()) for word in words)
