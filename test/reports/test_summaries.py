"""Words that describe a training run in its report."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from test.reports.helpers import write_sample_run
from text.reports.summaries import describe_best_validation
from text.runs.history import read_runs

EARLIER = "0,0,,,,9.0,0.9,0.5,1.5,3,0.25"
"""A validation at step 0. It is better than those of the sample run, of which the best is 0.5 at step 3."""


@pytest.mark.parametrize(
    ("rows", "validate_first", "best"),
    [
        ([], True, "mrr@10 0.5 at step 3"),
        ([EARLIER], True, "mrr@10 0.5 at step 3"),
        ([EARLIER], False, "mrr@10 0.9 at step 0"),  # after the first step
        ([EARLIER, EARLIER.replace("0.9", "0.8")], True, "mrr@10 0.8 at step 0"),
        ([EARLIER, EARLIER.replace("0.9", "0.8")], False, "mrr@10 0.8 at step 0"),  # a run that was resumed
        ([EARLIER.replace("0.9", "nan")], True, "mrr@10 0.5 at step 3"),
    ],
)
def test_the_validation_before_the_first_step_is_never_the_best(
    tmp_path: Path, rows: list[str], validate_first: bool, best: str
) -> None:
    folder = write_sample_run(tmp_path / "run")
    settings = yaml.safe_load((folder / "config.yaml").read_text())
    (folder / "config.yaml").write_text(yaml.safe_dump({**settings, "validate_first": validate_first}))
    head, *others = (folder / "metrics.csv").read_text().splitlines()
    (folder / "metrics.csv").write_text("\n".join([head, *rows, *others]) + "\n")
    [run] = read_runs([folder])
    assert describe_best_validation(run) == best
