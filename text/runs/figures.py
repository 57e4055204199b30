"""Reader of ``figures.json``, the metrics that ``dpr-text evaluate`` writes, for reports and loops."""

from __future__ import annotations

import os
import re
from typing import Any, NamedTuple

from text.artifacts import check_type, read_sealed
from text.errors import ArtifactError
from text.evaluation.run_source import FusionRecord, SearchRecord

_NAME = re.compile(r"[a-z]+@[1-9]\d{0,8}|map")


class Metric(NamedTuple):
    """Mean of a metric over questions, with its confidence interval."""

    mean: float
    low: float
    """Lower end of the 95 % confidence interval."""
    high: float
    """Upper end of the interval."""
    other: float | None = None
    """Mean of the other run in a comparison."""
    p: float | None = None
    """p-value of the difference between the two runs."""


class Part(NamedTuple):
    """Metrics of a subset of the questions."""

    questions: int
    figures: dict[str, Metric]


class InputFile(NamedTuple):
    """Path and hash of an input file of the evaluation."""

    path: str
    sha256: str


class Figures(NamedTuple):
    """Content of ``figures.json``."""

    runs: list[str]
    """Name of the run and, in a comparison, of the other run."""
    questions: int
    missing: int
    skipped: int
    figures: dict[str, Metric]
    notes: list[str]
    inputs: dict[str, InputFile]
    options: dict[str, Any]
    seen: Part | None = None
    unseen: Part | None = None
    searches: dict[str, list[SearchRecord]] | None = None
    """Searches that produced each run, by flag: run, fuse_with, other_run. Runs without a record are missing. Files of
    earlier versions lack this field."""

    def name_runs(self) -> list[str]:
        """Return the name of each run, with a note about fused runs and unknown models."""
        name, *others = self.runs
        known = [str(search) for search in self.list_searches()]
        flags = [flag for flag in ("run", "fuse_with") if flag in self.inputs]
        models = known + ["model unknown" for flag in flags if flag not in (self.searches or {})]
        if len(models) > 1:
            return [f"{name} (fused: {' + '.join(models)})", *others]
        return [name if known else f"{name} (model unknown)", *others]

    def list_searches(self) -> list[SearchRecord]:
        """Return the known searches of the run and of the run that was fused with it."""
        return [search for name in ("run", "fuse_with") for search in (self.searches or {}).get(name, [])]

    def list_judgments(self) -> dict[str, str]:
        """Return the SHA-256 of the files with relevance judgments, by flag."""
        return {name: each.sha256 for name, each in self.inputs.items() if name in ("qrels", "positives", "questions")}

    def list_collections(self) -> set[str]:
        """Return the SHA-256 of the searched collections that are known."""
        return {search.collection_sha256 for search in self.list_searches() if not search.by_windows}

    @property
    def fusion(self) -> FusionRecord:
        """Method and weights of the fusion, for a run that was fused.

        Raises:
            ArtifactError: The run was not fused.
        """
        return check_type(self.options.get("fusion"), FusionRecord, "figures.json, options.fusion")

    def tabulate(self) -> dict[str, dict[str, float]]:
        """Return the values of each metric by name. Missing values are left out."""
        return {
            name: {key: value for key, value in metric._asdict().items() if value is not None}
            for name, metric in self.figures.items()
        }


def read_figures(path: str | os.PathLike[str]) -> Figures:
    """Return the content of ``figures.json``.

    Raises:
        FileNotFoundError: The file does not exist.
        ArtifactError: The file is damaged, was changed, or is of another kind.
    """
    figures = read_sealed(path, Figures)
    if wrong := [name for name in figures.figures if not _NAME.fullmatch(name)]:
        raise ArtifactError(f"{os.fspath(path)}: figures.{wrong[0]} is not a metric. It must be map or NAME@k.")
    return figures
