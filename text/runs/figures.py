"""``figures.json``, which ``dpr-text evaluate`` writes: metrics, as reports and the table of a loop read them."""

from __future__ import annotations

import os
import re
from typing import Any, NamedTuple

from text.artifacts import read_sealed
from text.errors import ArtifactError
from text.evaluation.run_source import SearchRecord

_NAME = re.compile(r"[a-z]+@[1-9]\d{0,8}|map")


class Metric(NamedTuple):
    """A metric over all questions."""

    mean: float
    low: float
    """Lower end of the 95 % interval."""
    high: float
    other: float | None = None
    """Mean of the run that it is compared with."""
    p: float | None = None


class Part(NamedTuple):
    """Metrics of a part of the questions."""

    questions: int
    figures: dict[str, Metric]


class InputFile(NamedTuple):
    """A file that was read."""

    path: str
    sha256: str


class Figures(NamedTuple):
    """Content of ``figures.json``."""

    runs: list[str]
    """Name of the run, and of the run that it is compared with."""
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
    """What is known of the run, of the run that was fused with it, and of the other run, by flag. A run of which
    nothing is known is missing. An earlier version has written a file without it."""

    def name_runs(self) -> list[str]:
        """Return the name of each run, with a remark if runs were fused or a model is not known."""
        name, *others = self.runs
        known = [str(search) for search in self.list_searches()]
        given = [flag for flag in ("run", "fuse_with") if flag in self.inputs]
        found = known + ["model unknown" for flag in given if flag not in (self.searches or {})]
        if len(found) > 1:
            return [f"{name} (fused: {' + '.join(found)})", *others]
        return [name if known else f"{name} (model unknown)", *others]

    def list_searches(self) -> list[SearchRecord]:
        """Return the searches of the run and of the run that was fused with it, as far as they are known."""
        return [search for name in ("run", "fuse_with") for search in (self.searches or {}).get(name, [])]

    def list_judgments(self) -> dict[str, str]:
        """Return the SHA-256 of the files that say which passages are relevant, by flag."""
        return {name: each.sha256 for name, each in self.inputs.items() if name in ("qrels", "positives", "questions")}

    def list_collections(self) -> set[str]:
        """Return the SHA-256 of the collections that were searched, as far as they are known."""
        return {search.collection_sha256 for search in self.list_searches() if not search.by_windows}

    def tabulate(self) -> dict[str, dict[str, float]]:
        """Return the values of each metric by name, without those that it does not have."""
        return {
            name: {key: value for key, value in metric._asdict().items() if value is not None}
            for name, metric in self.figures.items()
        }


def read_figures(path: str | os.PathLike[str]) -> Figures:
    """Return the content of ``figures.json``.

    Raises:
        FileNotFoundError: There is no such file.
        ArtifactError: It is damaged or was changed, or another kind of file.
    """
    found = read_sealed(path, Figures)
    if wrong := [name for name in found.figures if not _NAME.fullmatch(name)]:
        raise ArtifactError(f"{os.fspath(path)}: figures.{wrong[0]} is not known. It must be map, or a metric with @k.")
    return found
