"""Reader of the files of a training run. It changes nothing.

Missing files count as empty, so that unfinished and interrupted runs can be read too.
"""

from __future__ import annotations

import csv
import math
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from text.artifacts import check_type, read_facts, read_json_lines, read_yaml
from text.artifacts.json_files import read_bytes
from text.errors import ArtifactError, UsageError
from text.runs.contents import EVALUATION, read_ledger
from text.runs.evaluations import check_comparable, check_evaluation
from text.runs.figures import Figures, read_figures
from text.runs.lengths import Lengths, read_lengths
from text.runs.manifest import Manifest, check_run_file, read_manifest
from text.runs.negatives import NEGATIVES, MinedFile, read_negatives

T = TypeVar("T")
_MAX_STEP = 1 << 53


class ShownPassage(NamedTuple):
    """Passage in ``worst_questions.jsonl``."""

    passage_id: str | None
    title: str
    text: str
    score: float


class WorstQuestion(NamedTuple):
    """Line of ``worst_questions.jsonl``: a validation question whose positive ranks low."""

    step: int
    path: str
    line: int
    question: str
    answers: list[str]
    num_above: int
    """Number of passages ranked above the positive."""
    positive: ShownPassage
    above: list[ShownPassage]
    """Best-ranked passages above the positive."""


class Series(NamedTuple):
    """Values of one metric, with the steps at which it was logged."""

    steps: list[int]
    values: list[float]
    """Values, one for each step. NaN and infinity are possible."""

    @property
    def non_finite_steps(self) -> list[int]:
        """Steps with a NaN or infinite value."""
        return [step for step, value in zip(self.steps, self.values, strict=True) if not math.isfinite(value)]


class RunHistory(NamedTuple):
    """Content of a run's folder. A missing file is empty, or None where an empty file has another meaning."""

    name: str
    settings: dict[str, Any]
    rows: list[dict[str, float]]
    """Rows of ``metrics.csv`` and ``speed.csv``: values by column, without empty cells."""
    lengths: list[Lengths]
    worst_questions: list[WorstQuestion] | None
    """None before the first validation."""
    manifest: Manifest | None
    """None until the run has ended."""
    mined_files: list[MinedFile]
    """Content of ``negatives.json``: training rows that were mined or scored."""
    evaluation: Figures | None
    """Content of ``evaluation/figures.json``. None without an evaluation of this run."""

    @property
    def has_validation(self) -> bool:
        """Return whether the run has validation data. A run without validation monitors no metric."""
        return self.settings.get("monitor", "") is not None

    def get_series(self, column: str) -> Series:
        """Return the series of one column. The series is empty if no row has the column."""
        pairs = [(int(row["step"]), row[column]) for row in self.rows if column in row]
        return Series([step for step, _ in pairs], [value for _, value in pairs])


def read_runs(folders: Sequence[str | os.PathLike[str]]) -> list[RunHistory]:
    """Read runs from their folders. Each run gets the name of its folder, or its path if two names are equal.

    Raises:
        UsageError: A folder does not hold a run.
        ArtifactError: A file of a run is damaged, an evaluation is of another model than its run, or two evaluations
            used different data.
    """
    names = [Path(folder).resolve().name for folder in folders]
    if len(set(names)) < len(names):
        names = [os.fspath(folder) for folder in folders]
    runs = [_read_run(Path(folder), name) for folder, name in zip(folders, names, strict=True)]
    check_comparable(
        {os.fspath(folder): run.evaluation for folder, run in zip(folders, runs, strict=True) if run.evaluation}
    )
    return runs


def _read_run(folder: Path, name: str) -> RunHistory:
    if not (folder / "config.yaml").is_file():
        raise UsageError(f"{folder}: config.yaml is missing. Pass the folder of a training run.")
    return RunHistory(
        name=name,
        settings=_read(folder, "config.yaml", _read_settings, {}),
        rows=_read(folder, "metrics.csv", _read_csv, []) + _read(folder, "speed.csv", _read_csv, []),
        lengths=_read(folder, "lengths.json", read_lengths, []),
        worst_questions=_read(folder, "worst_questions.jsonl", _read_worst_questions, None),
        manifest=read_manifest(folder),
        mined_files=_read(folder, NEGATIVES, read_negatives, []),
        evaluation=_read_evaluation(folder),
    )


def _read_evaluation(folder: Path) -> Figures | None:
    figures = None if _is_earlier_evaluation(folder) else _read(folder, EVALUATION, read_figures, None)
    if figures is not None:
        check_evaluation(folder, figures)
    return figures


def _read(folder: Path, name: str, reader: Callable[[Path], T], default: T) -> T:
    """Return the content of a file, or ``default`` if the file does not exist yet."""
    check_run_file(folder, name)
    if not os.path.lexists(folder / name):
        return default
    try:
        return reader(folder / name)
    except ArtifactError as error:
        raise ArtifactError(f"{error} Restore or remove the file.") from None


def _is_earlier_evaluation(folder: Path) -> bool:
    """Return whether the evaluation in a run's folder existed before the run and so belongs to another model."""
    ledger, path = read_ledger(folder), folder / EVALUATION
    if ledger is None or ledger.earlier_evaluation is None or not path.is_file():
        return False
    return read_facts(path).sha256 == ledger.earlier_evaluation


class _ShownSettings(NamedTuple):
    """Settings that a report uses in computations."""

    max_epochs: int | None = None
    gradient_clip_val: float | None = None
    monitor: str | None = ""


def _read_settings(path: Path) -> dict[str, Any]:
    settings = read_yaml(path, dict[str, Any])
    check_type({name: settings[name] for name in _ShownSettings._fields if name in settings}, _ShownSettings, path)
    return settings


def _read_worst_questions(path: Path) -> list[WorstQuestion]:
    return read_json_lines(path, WorstQuestion)


def _read_csv(path: Path) -> list[dict[str, float]]:
    """Return the rows of a CSV file that a run may still append to. An incomplete last line is left out."""
    try:
        content = read_bytes(path).decode("utf-8")
        lines = list(csv.reader(content[: content.rfind("\n") + 1].splitlines(), strict=True))
    except (UnicodeDecodeError, csv.Error) as error:
        raise ArtifactError(f"{path}: {error}. The file is damaged or of another kind.") from None
    return [_read_row(lines[0], line, f"{path}:{number}") for number, line in enumerate(lines[1:], start=2)]


def _read_row(header: list[str], cells: list[str], place: str) -> dict[str, float]:
    """Return the non-empty cells of a line by column. NaN and infinity are accepted."""
    try:
        row = {name: float(value) for name, value in zip(header, cells, strict=True) if value}
    except ValueError as error:
        raise ArtifactError(f"{place}: {error}. The file is damaged.") from None
    if not 0 <= row.get("step", math.nan) < _MAX_STEP or not 0 <= row.get("epoch", 0) < _MAX_STEP:
        raise ArtifactError(f"{place}: step or epoch is missing or out of range. The file is damaged.")
    return row
