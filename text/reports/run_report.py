"""Report of training runs: one HTML page with curves, lengths, worst questions, test metrics and settings.

The page is self-contained and has no scripts. Texts from data are escaped. Equal runs give equal bytes.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from text.artifacts import check_writable, write_text
from text.reports import mined_section, run_sections
from text.reports.pictures import NUM_COLORS, LegendEntry
from text.reports.summaries import describe_other_data
from text.runs.contents import GENERATOR, REPORT, is_run_report
from text.runs.history import RunHistory, read_runs
from text.runs.manifest import update_manifest
from text.templates import render_template


def write_run_report(folders: Sequence[str | os.PathLike[str]], output: str | os.PathLike[str] | None = None) -> Path:
    """Write the report of one run, or of several runs in shared plots.

    If the page replaces ``report.html`` of a run, the hash in the run's manifest is updated. No other file is replaced.

    Args:
        folders: Folders of the runs.
        output: Path of the page. The default is ``report.html`` in the first folder.

    Returns:
        The path of the page.

    Raises:
        UsageError: A folder does not hold a run, or the page is inside a run's folder and is not its ``report.html``.
        FileExistsError: ``output`` exists and is not a run report.
        ArtifactError: A file of a run is damaged.
        OSError: The page cannot be written.
    """
    path = Path(folders[0], REPORT) if output is None else Path(output)
    is_own = any(path.resolve() == Path(folder, REPORT).resolve() for folder in folders)
    check_writable(path, () if is_own else [each for each in folders if os.path.isdir(each)], overwrite=True)
    if path.exists() and not is_run_report(path):
        raise FileExistsError(
            f"{path} already exists, and dpr-text report did not write it. Choose another file, or remove it."
        )
    write_text(path, render_run_report(read_runs(folders)))
    if is_own:
        update_manifest(path.parent, path.name)
    return path


def render_run_report(runs: Sequence[RunHistory]) -> str:
    """Return the HTML of a run report."""
    evaluation_figures, evaluation_legend = run_sections.draw_evaluations(runs)
    different_settings, shared_settings = run_sections.list_settings(runs)
    return render_template(
        "run_report.html",
        title=", ".join(run.name for run in runs),
        generator=GENERATOR,
        is_comparison=len(runs) > 1,
        num_colors=NUM_COLORS,
        run_legend=[LegendEntry(number, run.name) for number, run in enumerate(runs)],
        overview=run_sections.list_overview(runs),
        other_data=list(describe_other_data(runs)),
        panel_sections=run_sections.draw_panels(runs),
        evaluation_figures=evaluation_figures,
        evaluation_legend=evaluation_legend,
        length_figures=run_sections.draw_lengths(runs),
        worst_questions=[(run.name, run_sections.list_worst_questions(run)) for run in runs if run.has_validation],
        mined_files=mined_section.list_mined_files(runs),
        test=run_sections.list_test_metrics(runs),
        has_no_test=run_sections.has_no_test(runs),
        data=run_sections.list_data(runs),
        data_notes=run_sections.list_data_notes(runs),
        different_settings=different_settings,
        shared_settings=shared_settings,
        versions=run_sections.list_versions(runs),
    )
