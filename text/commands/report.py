"""``dpr-text report``: write an HTML report about training runs."""

from __future__ import annotations

from dataclasses import dataclass, field

from text.errors import UsageError


@dataclass(frozen=True, kw_only=True)
class ReportFlags:
    """Write an HTML report about one training run, or compare several runs in the same plots.

    The report shows curves, text lengths, worst questions, test metrics and settings. ``dpr-text train`` writes it at
    the end of its run. A run that is still training or was interrupted is reported up to its last step. To add a plot
    of recall, run evaluate with --output_dir=RUN/evaluation first.

    Examples::

        dpr-text report runs/nq
        dpr-text report runs/a runs/b --output=both.html
    """

    runs: list[str] = field(metadata={"positional": "RUN"})
    """Run folders of dpr-text train."""
    output: str | None = None
    """Output file, which must end in .html; required for several runs. The default is report.html in the run folder. An
    earlier report is replaced, other files are not."""

    def __post_init__(self) -> None:
        if self.output is not None and not self.output.endswith(".html"):
            raise UsageError(f"--output is {self.output}. Give a name that ends in .html.")
        if self.output is None and len(self.runs) > 1:
            raise UsageError(f"{len(self.runs)} runs need an output file for their report, such as --output=both.html")


def report(flags: ReportFlags) -> None:
    """Write the report and print its path."""
    from text.reports.run_report import write_run_report

    print(f"report: {write_run_report(flags.runs, flags.output)}")
