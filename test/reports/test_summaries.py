"""Text summaries of training runs."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from test.reports.helpers import write_sample_run
from text.reports.run_report import render_run_report
from text.reports.summaries import describe_best_validation, describe_other_data
from text.runs.history import RunHistory, read_runs
from text.runs.manifest import DataFile, SplitData

EARLIER = "0,0,,,,9.0,0.9,0.5,1.5,3,0.25"
"""Row of a validation at step 0 with a better metric than all validations of the sample run."""


@pytest.mark.parametrize(
    ("rows", "validate_first", "best"),
    [
        ([], True, "mrr@10 0.5 at step 3"),
        ([EARLIER], True, "mrr@10 0.5 at step 3"),
        ([EARLIER], False, "mrr@10 0.9 at step 0"),  # after the first step
        ([EARLIER, EARLIER.replace("0.9", "0.8")], True, "mrr@10 0.8 at step 0"),
        ([EARLIER, EARLIER.replace("0.9", "0.8")], False, "mrr@10 0.8 at step 0"),  # a resumed run
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


def test_runs_with_different_validation_or_test_data_are_named(tmp_path: Path) -> None:
    [run] = read_runs([write_sample_run(tmp_path / "run")])
    assert run.manifest is not None

    def change(name: str, sha256: str | None, pool: float, share: float | None = None) -> RunHistory:
        data = SplitData([DataFile("valid.jsonl", 9, sha256 or "")], 3, 0, {}, {}, True)
        manifest = run.manifest._replace(data={"valid": data, "test": data}) if run.manifest and sha256 else None
        rows = [*run.rows, {"epoch": 0, "step": 1, "valid_pool_passages": pool}]
        settings = run.settings | {"valid_share": share}
        return run._replace(name=name, manifest=manifest, rows=rows, settings=settings)

    ours, same = change("ours", "a", 68), change("same", "a", 68)
    assert list(describe_other_data([])) == list(describe_other_data([run, ours, same, change("new", None, 68)])) == []
    [valid, test] = describe_other_data([ours, change("theirs", "b", 68), same, change("parted", "a", 68, 0.2)])
    assert valid.startswith("theirs, parted: other validation ") and "ours" in valid and "same" not in valid
    assert test.startswith("theirs: other test ")
    running = [ours, change("new", None, 30)]
    [valid] = describe_other_data(running)
    assert valid.startswith("new: other validation ") and valid in render_run_report(running)
