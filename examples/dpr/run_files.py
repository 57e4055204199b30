"""What a run left in its folder, as far as it came: read for a report, nothing of it changed."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import yaml

from examples.dpr.cli import UsageError
from examples.dpr.lengths import Lengths, read_lengths
from text.errors import ArtifactError

T = TypeVar("T")


class Series(NamedTuple):
    """A figure over the steps that have it."""

    steps: list[int]
    values: list[float]
    """May be NaN or infinite."""

    @property
    def not_finite(self) -> list[int]:
        """The steps whose value is not."""
        return [step for step, value in zip(self.steps, self.values, strict=True) if not math.isfinite(value)]


class Run(NamedTuple):
    """What was found; what a run does not have is empty, or None where empty would say something else."""

    name: str
    settings: dict[str, Any]
    rows: list[dict[str, float]]
    """Of ``metrics.csv`` and ``speed.csv``, by column; without the columns that a row leaves empty."""
    lengths: list[Lengths]
    worst: list[dict[str, Any]] | None
    manifest: dict[str, Any]
    """Of a run that came to its end."""
    evaluation: dict[str, Any] | None
    """``evaluation/figures.json``, where evaluate.py leaves it if it is told to."""

    def series(self, column: str) -> Series:
        """One column over the steps; empty if there is none."""
        pairs = [(int(row["step"]), row[column]) for row in self.rows if column in row]
        return Series([step for step, _ in pairs], [value for _, value in pairs])


def read_runs(folders: Sequence[str]) -> list[Run]:
    """Runs by the names of their folders; where two are called the same, by their paths.

    Raises:
        UsageError: A folder holds no run.
        ArtifactError: A file of a run is damaged.
    """
    names = [Path(folder).resolve().name for folder in folders]
    if len(set(names)) < len(names):
        names = list(folders)
    return [_read_run(Path(folder), name) for folder, name in zip(folders, names, strict=True)]


def _read_run(folder: Path, name: str) -> Run:
    if not (folder / "config.yaml").is_file():
        raise UsageError(f"{folder}: no config.yaml; expected the folder of a run")
    return Run(
        name=name,
        settings=_read(folder / "config.yaml", _yaml, {}),
        rows=_read(folder / "metrics.csv", _table, []) + _read(folder / "speed.csv", _table, []),
        lengths=_read(folder / "lengths.json", read_lengths, []),
        worst=_read(folder / "worst_questions.jsonl", _json_lines, None),
        manifest=_read(folder / "manifest.json", _json, {}),
        evaluation=_read(folder / "evaluation" / "figures.json", _evaluation, None),
    )


def _read(path: Path, reader: Callable[[Path], T], otherwise: T) -> T:
    """What a file holds; something else where it is not there."""
    if not path.exists():
        return otherwise
    try:
        return reader(path)
    except (ValueError, KeyError, TypeError, AttributeError, yaml.YAMLError) as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ArtifactError(f"{path}: damaged ({reason}); expected it as the run wrote it") from None


def _table(path: Path) -> list[dict[str, float]]:
    """A line that is not written to its end is left out."""
    content = path.read_text(encoding="utf-8")
    lines = content[: content.rfind("\n") + 1].splitlines()
    return [{name: float(value) for name, value in row.items() if value} for row in csv.DictReader(lines)]


def _yaml(path: Path) -> dict[str, Any]:
    return dict(yaml.safe_load(path.read_text(encoding="utf-8")))


def _json(path: Path) -> dict[str, Any]:
    return dict(json.loads(path.read_text(encoding="utf-8")))


def _evaluation(path: Path) -> dict[str, Any]:
    found = _json(path)
    return {"runs": found.get("runs", []), "questions": found["questions"], "figures": found["figures"]}


def _json_lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
