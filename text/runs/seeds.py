"""Results of a round that is trained with several seeds: their mean, their spread, and the seed that goes on."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from text.errors import UsageError

SplitMetrics = dict[str, dict[str, float]]
"""Metrics by split and measure."""


class SeedResult(NamedTuple):
    """Result of a round with one seed."""

    seed: int
    model: str
    """Folder of the model."""
    metrics: SplitMetrics


class SeedResults(NamedTuple):
    """Results of a round with all seeds."""

    results: list[SeedResult]
    chosen: int
    """Seed whose model goes on: it mines for the next round, and is the model of the round."""

    @property
    def spread(self) -> SplitMetrics:
        """Standard deviation of each metric over the seeds."""
        return measure_spread([each.metrics for each in self.results])


def check_seeds(seeds: Sequence[int], sections: Mapping[str, Mapping[str, object]]) -> None:
    """Check that no seed occurs twice, and that no section of a recipe sets the seed as well.

    Args:
        seeds: Seeds of the loop.
        sections: Flags of train by their place in the recipe.

    Raises:
        UsageError: A seed occurs twice, or a section has a seed.
    """
    if len(set(seeds)) < len(seeds):
        raise UsageError(f"--seeds is {list(seeds)}. Give each seed once.")
    if seeds and (place := next((name for name, flags in sections.items() if "seed" in flags), None)):
        raise UsageError(f"{place}.seed is set by --seeds. Remove one of them.")


def choose_best(metrics: Sequence[SplitMetrics], measure: str) -> int:
    """Return the place of the highest measure on the validation questions. The first one wins a tie.

    >>> choose_best([{"valid": {"mrr@10": value}} for value in (0.5, 0.7, 0.7)], "mrr@10")
    1
    """
    return max(range(len(metrics)), key=lambda place: metrics[place]["valid"][measure])


def average_metrics(metrics: Sequence[SplitMetrics]) -> SplitMetrics:
    """Return the mean of each metric over the seeds."""
    return _combine(metrics, lambda values: values[0] if len(values) == 1 else statistics.fmean(values))


def measure_spread(metrics: Sequence[SplitMetrics]) -> SplitMetrics:
    """Return the sample standard deviation of each metric over the seeds (divisor n - 1). It is 0 for one seed.

    >>> spread = measure_spread([{"test": {"mrr@10": value}} for value in (0.5, 0.6, 0.7)])
    >>> round(spread["test"]["mrr@10"], 6)
    0.1
    """
    return _combine(metrics, lambda values: statistics.stdev(values) if len(values) > 1 else 0.0)


def _combine(metrics: Sequence[SplitMetrics], function: Callable[[list[float]], float]) -> SplitMetrics:
    return {
        split: {measure: function([each[split][measure] for each in metrics]) for measure in by_measure}
        for split, by_measure in metrics[0].items()
    }
