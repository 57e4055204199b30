"""``dpr-text report``: write a page on training runs."""

from __future__ import annotations

from dataclasses import dataclass, field

from text.errors import UsageError


@dataclass(frozen=True, kw_only=True)
class ReportFlags:
    """Write a page on one training run, or on several runs in the same pictures.

    The page shows curves, text lengths, worst questions, test metrics and settings. ``dpr-text train`` writes the page
    of its run when it ends. A run that still trains or was interrupted is shown as far as it came. The page has a curve
    of recall if the run was evaluated into RUN/evaluation.

    Examples::

        dpr-text report runs/nq
        dpr-text report runs/a runs/b --output=both.html
    """

    runs: list[str] = field(metadata={"positional": "RUN"})
    """Folders of runs."""
    output: str | None = None
    """Page to write, a name that ends in .html. Required for several runs. By default report.html in the folder of the
    run. An earlier report there is replaced, another file is not."""

    def __post_init__(self) -> None:
        if self.output is not None and not self.output.endswith(".html"):
            raise UsageError(f"--output is {self.output}. Give a name that ends in .html.")
        if self.output is None and len(self.runs) > 1:
            raise UsageError(f"{len(self.runs)} runs, and no --output. Give a page for all of them: --output=both.html")


def report(flags: ReportFlags) -> None:
    """Write the page."""
    from text.reports.run_report import write_run_report

    print(f"report: {write_run_report(flags.runs, flags.output)}")
