"""Settings of ``dpr-text evaluate --fuse_with``: given by flags, or chosen on the judgments."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Literal, NamedTuple

if TYPE_CHECKING:
    from text.evaluation import ChosenFusion
    from text.evaluation.run_source import FusionRecord


class PlannedFusion(NamedTuple):
    """Settings of a fusion, and lines about them to print."""

    record: FusionRecord | None
    """None if there is only one run."""
    table: list[str]
    """Compared weights with the metric, if the weight was chosen."""
    notes: list[str]
    """Remarks for the results."""


def plan_fusion(
    *,
    run: str,
    fuse_with: str | None,
    qrels: str | None,
    positives: str | None,
    fusion: Literal["ranks", "scores"] | None,
    fusion_weight: float | None,
    choose_weight: str | None,
    drop_self_matches: bool,
    skip_missing: bool,
) -> PlannedFusion:
    """Return the settings of the fusion. With ``choose_weight``, they are chosen on the judged questions.

    Args:
        run: The run.
        fuse_with: The second run, or None.
        qrels: See ``score_run``.
        positives: See ``score_run``.
        fusion: Method. None means "ranks", or that the method is chosen as well.
        fusion_weight: Weight of ``run``. None means 0.5.
        choose_weight: Metric by which the weight is chosen, or None.
        drop_self_matches: See ``score_run``.
        skip_missing: See ``score_run``.
    """
    from text.evaluation.fusion import split_weight
    from text.evaluation.run_source import FusionRecord
    from text.retrieval.fusion_choice import choose_run_fusion

    if fuse_with is None:
        return PlannedFusion(None, [], [])
    if choose_weight is None:
        weight = 0.5 if fusion_weight is None else fusion_weight
        return PlannedFusion(FusionRecord(fusion or "ranks", split_weight(weight)), [], [])
    chosen = choose_run_fusion(
        run,
        fuse_with,
        qrels=qrels,
        positives=positives,
        metric=choose_weight,
        method=fusion,
        drop_self_matches=drop_self_matches,
        skip_missing=skip_missing,
    )
    note = (
        f"note: the fusion ({chosen.method}, weight {chosen.weight:.2f}) was chosen on these questions, so its metrics "
        "are optimistic. Use it for other questions"
    )
    return PlannedFusion(
        FusionRecord(chosen.method, split_weight(chosen.weight)), list(format_candidates(chosen)), [note]
    )


def describe_fusion(run: str, record: FusionRecord | None) -> list[str]:
    """Return a line with the settings of a fusion, or no line if there is none."""
    return [] if record is None else [f"fusion: {record.method}, weight {record.weights[0]:.2f} for {run}"]


def format_candidates(chosen: ChosenFusion) -> Iterator[str]:
    """Yield the lines of a table with the metric for each weight and method."""
    methods = list(dict.fromkeys(each.method for each in chosen.candidates))
    values = {(each.weight, each.method): each.value for each in chosen.candidates}
    yield f"{'weight':>14}" + "".join(f"{f'{chosen.metric} ({method})':>22}" for method in methods)
    for weight in dict.fromkeys(each.weight for each in chosen.candidates):
        shown = (f"{values[weight, method]:.4f}{_mark(chosen, weight, method)}" for method in methods)
        yield f"{weight:>14.2f}" + "".join(f"{value:>22}" for value in shown)


def _mark(chosen: ChosenFusion, weight: float, method: str) -> str:
    return " *" if (weight, method) == (chosen.weight, chosen.method) else "  "
