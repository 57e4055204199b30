"""Read what a training run has written to its folder so far. Nothing is changed.

A file that is missing counts as empty, so that a run that still trains or was interrupted can be read too.
"""

from __future__ import annotations

import csv
import json
import math
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import yaml

from text.errors import ArtifactError, UsageError
from text.runs.lengths import Lengths, read_lengths

T = TypeVar("T")


class Series(NamedTuple):
    """Values of one metric over the steps that logged it."""

    steps: list[int]
    values: list[float]
    """May hold NaN and infinite values."""

    @property
    def non_finite_steps(self) -> list[int]:
        """Steps whose value is NaN or infinite."""
        return [step for step, value in zip(self.steps, self.values, strict=True) if not math.isfinite(value)]


class RunHistory(NamedTuple):
    """Content of a run's folder. Missing files are empty; None marks a file whose empty content has a meaning."""

    name: str
    settings: dict[str, Any]
    rows: list[dict[str, float]]
    """Rows of ``metrics.csv`` and ``speed.csv`` by column. Empty cells are left out."""
    lengths: list[Lengths]
    worst_questions: list[dict[str, Any]] | None
    """None before the first validation."""
    manifest: dict[str, Any]
    """Empty until the run has ended."""
    evaluation: dict[str, Any] | None
    """Content of ``evaluation/figures.json``, which ``dpr-text evaluate --output_dir=RUN/evaluation`` writes."""

    def get_series(self, column: str) -> Series:
        """Return one column over the steps. It is empty if no row has the column."""
        pairs = [(int(row["step"]), row[column]) for row in self.rows if column in row]
        return Series([step for step, _ in pairs], [value for _, value in pairs])


def read_runs(folders: Sequence[str | os.PathLike[str]]) -> list[RunHistory]:
    """Read runs. A run is named after its folder, or by its path if two folders have the same name.

    Raises:
        UsageError: A folder holds no run.
        ArtifactError: A file of a run is damaged.
    """
    names = [Path(folder).resolve().name for folder in folders]
    if len(set(names)) < len(names):
        names = [os.fspath(folder) for folder in folders]
    return [_read_run(Path(folder), name) for folder, name in zip(folders, names, strict=True)]


def _read_run(folder: Path, name: str) -> RunHistory:
    if not (folder / "config.yaml").is_file():
        raise UsageError(f"{folder}: no config.yaml. Give the folder of a training run.")
    return RunHistory(
        name=name,
        settings=_read(folder / "config.yaml", _read_yaml, {}),
        rows=_read(folder / "metrics.csv", _read_csv, []) + _read(folder / "speed.csv", _read_csv, []),
        lengths=_read(folder / "lengths.json", read_lengths, []),
        worst_questions=_read(folder / "worst_questions.jsonl", _read_json_lines, None),
        manifest=_read(folder / "manifest.json", _read_json, {}),
        evaluation=_read(folder / "evaluation" / "figures.json", _read_evaluation, None),
    )


def _read(path: Path, reader: Callable[[Path], T], default: T) -> T:
    """Return the content of a file, or ``default`` if the file is missing."""
    if not path.exists():
        return default
    try:
        return reader(path)
    except (ValueError, KeyError, TypeError, AttributeError, yaml.YAMLError) as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ArtifactError(
            f"{path}: damaged ({reason}). Restore the file as the run wrote it, or remove it."
        ) from None


def _read_csv(path: Path) -> list[dict[str, float]]:
    """Return the rows of a file that may still grow. A last line without its end is left out."""
    content = path.read_text(encoding="utf-8")
    lines = content[: content.rfind("\n") + 1].splitlines()
    return [{name: float(value) for name, value in row.items() if value} for row in csv.DictReader(lines)]


def _read_yaml(path: Path) -> dict[str, Any]:
    return dict(yaml.safe_load(path.read_text(encoding="utf-8")))


def _read_json(path: Path) -> dict[str, Any]:
    return dict(json.loads(path.read_text(encoding="utf-8")))


def _read_evaluation(path: Path) -> dict[str, Any]:
    content = _read_json(path)
    return {"runs": content.get("runs", []), "questions": content["questions"], "figures": content["figures"]}


def _read_json_lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
