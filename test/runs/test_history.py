"""Reading runs: names, series, and files that are damaged."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from test.reports.helpers import write_sample_run
from text.artifacts import write_json
from text.errors import ArtifactError, UsageError
from text.runs.history import Series, read_runs


@pytest.fixture
def sample_run(tmp_path: Path) -> Path:
    return write_sample_run(tmp_path / "made")


def test_runs_with_one_name_are_named_by_their_paths(sample_run: Path, tmp_path: Path) -> None:
    again = write_sample_run(tmp_path / "again" / "made")
    assert [run.name for run in read_runs([sample_run, again])] == [str(sample_run), str(again)]
    assert [run.name for run in read_runs([sample_run])] == ["made"]


def test_series_has_the_steps_that_logged_the_metric(sample_run: Path) -> None:
    [run] = read_runs([sample_run])
    assert run.get_series("valid_mrr@10") == Series([1, 3, 5], [0.2, 0.5, 0.2])
    assert run.get_series("padding").values == [0.1] * 6  # from speed.csv
    assert run.get_series("no_such_column") == Series([], [])
    assert Series([1, 2, 3], [float("nan"), 0.0, float("-inf")]).non_finite_steps == [1, 3]


@pytest.mark.parametrize(
    ("change", "error", "name"),
    [
        (lambda folder: shutil.rmtree(folder), UsageError, "made"),
        (lambda folder: (folder / "manifest.json").write_text("{"), ArtifactError, "manifest.json"),
        (lambda folder: (folder / "metrics.csv").write_text("step,a\n1,x\n"), ArtifactError, "metrics.csv"),
        (lambda folder: write_json(folder / "evaluation/figures.json", {}), ArtifactError, "evaluation/figures.json"),
        (lambda folder: (folder / "config.yaml").write_text("[1"), ArtifactError, "config.yaml"),
        (lambda folder: (folder / "lengths.json").write_text("[]"), ArtifactError, "lengths.json"),
    ],
)
def test_file_that_cannot_be_read_is_named_in_one_line(
    sample_run: Path, change: Callable[[Path], Any], error: type[Exception], name: str
) -> None:
    change(sample_run)
    with pytest.raises(error) as raised:
        read_runs([sample_run])
    path = sample_run if error is UsageError else sample_run / name
    assert str(raised.value).startswith(f"{path}: ")
    assert len(str(raised.value).splitlines()) == 1
