"""Short plain-text summaries of training runs, curves and lengths."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import numpy as np

from text.reports.pictures import Metrics, sort_by_cutoff
from text.runs.history import RunHistory
from text.runs.lengths import Lengths

ABSENT = "–"
_LOWER_IS_BETTER = ("valid_loss", "valid_average_rank")


def describe_progress(run: RunHistory) -> str:
    """Return the trained steps and epochs of a run, and a note if the run has not finished."""
    trained = [row for row in run.rows if "train_loss_step" in row]
    if not trained:
        return "no step logged yet"
    progress = f"{int(trained[-1]['step']) + 1:,} steps, epoch {int(trained[-1]['epoch']) + 1}"
    max_epochs = run.settings.get("max_epochs")
    return progress + (f" of {max_epochs}" if max_epochs else "") + ("" if run.manifest else "; not finished")


def describe_last_loss(run: RunHistory) -> str:
    """Return the last training loss, or a dash."""
    values = run.get_series("train_loss_step").values
    return f"{values[-1]:.4g}" if values else ABSENT


def describe_best_validation(run: RunHistory) -> str:
    """Return the best value of the monitored metric and its step.

    Among equal values the first one counts, because its checkpoint is kept. The validation before the first step
    (``--validate_first``) is ignored, because it has no checkpoint.
    """
    if not run.has_validation:
        return ABSENT
    monitor = str(run.settings.get("monitor", "valid_mrr@10"))
    steps, values = run.get_series(monitor)
    is_before = bool(steps) and steps[0] == 0 and (run.settings.get("validate_first") is True or steps[1:2] == [0])
    pairs = [pair for pair in zip(steps[is_before:], values[is_before:], strict=True) if math.isfinite(pair[1])]
    if not pairs:
        return ABSENT
    sign = -1 if monitor in _LOWER_IS_BETTER else 1
    step, value = max(pairs, key=lambda pair: sign * pair[1])
    return f"{monitor.removeprefix('valid_')} {value:.4g} at step {step}"


def describe_other_data(runs: Sequence[RunHistory]) -> Iterator[str]:
    """Yield a note if the validation data differ between runs, and a note if the test data differ."""
    for split, name in (("valid", "validation"), ("test", "test")):
        known = [(run.name, data) for run in runs if (data := _identify_data(run, split))]
        others = [run for run, data in known[1:] if any(known[0][1].get(key, data[key]) != data[key] for key in data)]
        if others:
            first = known[0][0]
            yield (
                f"{', '.join(others)}: other {name} questions or passages than {first}. The {name} metrics are not "
                f"comparable with the metrics of {first}."
            )


def _identify_data(run: RunHistory, split: str) -> dict[str, object]:
    """Return values that identify the data of a split. Before a run has finished, only the pool size is known."""
    known: dict[str, object] = {}
    if run.manifest is not None and split in run.manifest.data:
        data = run.manifest.data[split]
        share = run.settings.get("valid_share") if split == "valid" else None
        known["questions"] = (sorted(file.sha256 for file in data.files), data.questions, share)
    if pools := run.get_series(f"{split}_pool_passages").values:
        known["pool"] = pools[-1]
    return known


def describe_series(columns: Sequence[str], runs: Sequence[RunHistory]) -> str:
    """Return a description of the first and last value of each column of each run."""
    parts = []
    for run in runs:
        for column in columns:
            steps, values = run.get_series(column)
            if steps:
                first, last = (f"{values[end]:.4g} at step {steps[end]}" for end in (0, -1))
                parts.append(f"{column} of {run.name} from {first} to {last}")
    return "; ".join(parts)


def describe_non_finite(columns: Sequence[str], runs: Sequence[RunHistory]) -> str:
    """Return the number of NaN and infinite values and the first such step. Empty if all values are finite."""
    parts = []
    for run in runs:
        for column in columns:
            steps = run.get_series(column).non_finite_steps
            if steps:
                name = run.name if len(runs) > 1 else column
                parts.append(f"{name}: {len(steps)} NaN or infinite, first at step {steps[0]}")
    return "; ".join(parts)


def describe_cutoffs(table: Metrics, measure: str) -> str:
    """Return a description of a measure at each cut-off."""
    return ", ".join(
        f"{row['mean']:.3f} at {k}" + (f" (other run {row['other']:.3f})" if "other" in row else "")
        for k, row in sort_by_cutoff(table, measure)
    )


def describe_lengths(lengths: Lengths) -> str:
    """Return the number of texts, their median and maximum length, and the truncated share."""
    kind, tokens, limit = lengths
    median, longest = np.percentile(tokens, [50, 100]).astype(int)
    return (
        f"{len(tokens):,} {kind}, median {median} tokens, longest {longest}; "
        f"{(tokens > limit).mean():.2%} are longer than the limit of {limit}"
    )


def format_metric(value: float | None) -> str:
    """Return a metric with four decimals, or a dash for None."""
    return ABSENT if value is None else f"{value:.4f}"


def format_setting(value: object) -> str:
    """Return a setting in the form of a flag value, or a dash for None."""
    if value is None:
        return ABSENT
    return str(value).lower() if isinstance(value, bool) else str(value)
