"""Shows what a run did on one page: curves, lengths, worst questions, figures, settings.

    python examples/dpr/report.py runs/dpr
    python examples/dpr/report.py runs/dpr runs/other --output=both.html

main.py writes the page of a run at its end; of a run that goes on, or was interrupted, it shows how far that came.
Where a run was evaluated into RUN/evaluation, the page has the curve of recall.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from examples.dpr.cli import UsageError, run
from examples.dpr.output import note_change
from examples.dpr.report_page import page
from examples.dpr.run_files import read_runs
from text.artifacts import write_text


@dataclass(frozen=True, kw_only=True)
class ReportConfig:
    """Shows what a run did on one page; several runs over one another."""

    runs: list[str] = field(metadata={"positional": "RUN"})
    """Folders of runs."""
    output: str | None = None
    """Where the page goes, a name that ends in .html; by default report.html in the first run's folder."""

    def __post_init__(self) -> None:
        if self.output is not None and not self.output.endswith(".html"):
            raise UsageError(f"--output is {self.output}, which it would replace; expected a name that ends in .html")


def main(config: ReportConfig) -> None:
    """Writes the page."""
    print(f"report: {write_report(config.runs, config.output)}")


def write_report(runs: Sequence[str], output: str | None = None) -> Path:
    """Writes the page of some runs; if it goes where a run has its own, the run's manifest knows.

    Raises:
        UsageError: A folder holds no run.
        ArtifactError: A file of a run is damaged.
        OSError: The page cannot be written.
    """
    path = Path(runs[0], "report.html") if output is None else Path(output)
    write_text(path, page(read_runs(runs)))
    if any(path.resolve() == Path(folder, "report.html").resolve() for folder in runs):
        note_change(path.parent, path.name)
    return path


if __name__ == "__main__":
    sys.exit(run(main, ReportConfig))
