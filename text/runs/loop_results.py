"""Results of a training loop, from which its report is made."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from text.errors import NoImprovementError
from text.runs.acceptance import Comparison
from text.runs.rounds import RoundMetrics
from text.runs.seeds import SeedResults


class LoopResults(NamedTuple):
    """Metrics and models of all rounds."""

    table: RoundMetrics
    """Metrics by row of the table (BM25, the start encoder, and the rounds), split and measure."""
    models: Mapping[str, str]
    """Folder of each round's model."""
    seeds: Mapping[str, SeedResults] = {}
    """Results of the seeds of each round."""
    comparisons: Mapping[str, Comparison] = {}
    """Each round compared with the last accepted model. A round before which no model was evaluated is missing."""
    final: str = ""
    """Last accepted round. Empty if no round was accepted."""
    improvement: Comparison | None = None
    """Last accepted round compared with the start encoder. None without such a round or start encoder."""

    def shorten_paths(self, folder: str | os.PathLike[str]) -> LoopResults:
        """Return the results with paths relative to the folder of the loop, so that it can be moved."""
        models = {name: _shorten_path(path, folder) for name, path in self.models.items()}
        seeds = {name: _shorten_models(each, folder) for name, each in self.seeds.items()}
        return self._replace(models=models, seeds=seeds)

    def check_improvement(self, measure: str) -> str:
        """Check that training has improved the start encoder, and return a sentence that says by how much.

        Args:
            measure: Metric by which the rounds were compared.

        Raises:
            NoImprovementError: No round was accepted, or the last accepted round has no higher mean of the metric than
                the start encoder.
        """
        if self.improvement is None:
            raise NoImprovementError(f"Training did not improve the encoder: no round was accepted by valid {measure}.")
        change = f"{self.improvement.difference:+.4f}, p = {self.improvement.p:.3g}"
        found = f"{self.final} against {self.improvement.other}: valid {measure} {change}"
        if self.improvement.difference <= 0:
            raise NoImprovementError(f"Training did not improve the encoder. {found}.")
        return found


def _shorten_path(path: str, folder: str | os.PathLike[str]) -> str:
    return Path(path).relative_to(folder).as_posix() if Path(path).is_relative_to(folder) else path


def _shorten_models(results: SeedResults, folder: str | os.PathLike[str]) -> SeedResults:
    return results._replace(
        results=[each._replace(model=_shorten_path(each.model, folder)) for each in results.results]
    )
