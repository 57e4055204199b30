"""Rounds of a loop: their settings, the measures of the table, and the metrics that a recipe expects."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from text.artifacts import check_type
from text.errors import ArtifactError, UsageError

BM25 = "BM25"
"""Name of the BM25 baseline in the table."""
START = "start"
"""Name of the encoder before the first round in the table."""
FUSED = " + BM25"
"""End of the name of a row in the table: the model of this round, fused with BM25."""
RERANKED = ", reranked"
"""End of the name of a row in the table: the model of this round, with its first passages reranked by the teacher."""
SPLITS = ("valid", "test")
RoundMetrics = dict[str, dict[str, dict[str, float]]]
"""Metrics by round, split and measure."""
SET_BY_LOOP = {
    "windows": ("collection", "rows", "output_dir", "overwrite"),
    "train": (
        "task",
        "data_path",
        "train_files",
        "valid_file",
        "test_file",
        "collection",
        "encoder",
        "output_dir",
        "overwrite",
        "resume",
    ),
    "encode": ("model", "collection", "output_dir", "overwrite"),
    "search": (
        "model",
        "embeddings",
        "bm25",
        "bm25_index",
        "collection",
        "fusion",
        "fusion_weight",
        "rerank",
        "rerank_k",
        "questions",
        "with_positives",
        "run",
        "overwrite",
    ),
    "mine": ("rows", "collection", "output", "runs", "num", "teacher", "score_key", "round", "overwrite"),
    "score": ("rows", "output", "teacher", "bm25", "collection", "score_key", "overwrite_scores", "overwrite"),
}
"""Flags of each command that the loop sets itself. No section or round may set them."""
_LOOP_FLAGS = {"train_files": "train_file", "runs": "rounds", "num": "rounds", "rows": "train_file"}
"""Flag of the loop that determines a flag of a command, where the two names differ."""
_BY_POSITIVES = ["ndcg@10", "recall@100", "mrr@10"]
_BY_ANSWERS = ["accuracy@1", "accuracy@20", "accuracy@100"]


@dataclass(frozen=True, kw_only=True)
class Round:
    """One training run and the mining before it."""

    train: dict[str, Any] = field(default_factory=dict)
    """Flags of train for this round only."""
    mine: dict[str, Any] = field(default_factory=dict)
    """Flags of mine for this round only."""
    sources: dict[str, int] = field(default_factory=dict)
    """Number of hard negatives to mine from each source: ``dense`` (the last accepted model), ``bm25``, and
    ``hybrid`` (both fused). Without sources, the rows keep their own negatives."""
    go_on: bool = False
    """Start from the last accepted model instead of ``encoder``."""


def parse_rounds(
    rounds: Sequence[Mapping[str, Any]], *, is_start_encoded: bool, has_bm25: bool = True, has_hybrid: bool = False
) -> list[Round]:
    """Return the rounds of a recipe.

    Args:
        rounds: Fields of ``Round`` by name, for each round.
        is_start_encoded: Whether the start encoder encodes the collection, so that round 1 can mine with it.
        has_bm25: Whether the loop runs BM25, so that rounds can mine from it.
        has_hybrid: Whether the loop fuses each model with BM25, so that rounds can mine from both.

    Raises:
        UsageError: A round has an unknown field or source, has flags without effect, or needs a model that does not
            exist.
    """
    numbered = enumerate(rounds, start=1)
    parsed = [check_type(dict(each), Round, f"round {number}", error=UsageError) for number, each in numbered]
    for number, each in enumerate(parsed, start=1):
        if unknown := each.sources.keys() - {"dense", "bm25", "hybrid"}:
            wrong = ", ".join(sorted(unknown))
            raise UsageError(f"round {number} mines from {wrong}. The sources are dense, bm25 and hybrid.")
        if "hybrid" in each.sources and not has_hybrid:
            raise UsageError(f"round {number} mines from hybrid. This needs --hybrid.")
        if "bm25" in each.sources and not has_bm25:
            raise UsageError(f"round {number} mines from bm25, but --bm25 is false. Turn it on, or mine from dense.")
        if each.mine and not each.sources:
            raise UsageError(f"round {number} has flags of mine, but no sources. Add sources to mine from.")
    if parsed and parsed[0].go_on:
        raise UsageError("round 1 has go_on, but there is no previous round. Pass the model as --encoder.")
    first = ({"dense", "hybrid"} & parsed[0].sources.keys()) if parsed else set()
    if first and not is_start_encoded:
        raise UsageError(f"round 1 mines from {min(first)}. This needs a pretrained --encoder and --score_start.")
    return parsed


def check_not_set_by_loop(command: str, given: Iterable[str], place: str, known: Collection[str]) -> None:
    """Check that a recipe does not set flags of a command that the loop sets itself.

    Args:
        command: The command.
        given: Names of the flags that the recipe sets for the command.
        place: Section or round with these flags, for error messages.
        known: Flags of the loop.

    Raises:
        UsageError: The recipe sets such a flag. The message names the flag to use instead.
    """
    if name := next((name for name in given if name in SET_BY_LOOP[command]), None):
        instead = _LOOP_FLAGS.get(name, name)
        advice = f"Use --{instead} instead." if instead in known else "Remove it."
        raise UsageError(f"{place}.{name} is set by the loop. {advice}")


def choose_measures(measures: Sequence[str], *, by_answers: bool) -> list[str]:
    """Return the measures of the table, or the default measures if none are given.

    Args:
        measures: Names of metrics.
        by_answers: Whether a passage is relevant if it contains an answer. Otherwise the positives are relevant.

    Raises:
        UsageError: A measure is not available for this kind of relevance.
    """
    names = r"accuracy@[1-9]\d*" if by_answers else r"(ndcg|mrr|recall|precision)@[1-9]\d*|map"
    if wrong := [name for name in measures if not re.fullmatch(names, name)]:
        known = "accuracy@k" if by_answers else "ndcg@k, mrr@k, recall@k, precision@k and map"
        raise UsageError(f"--measures has {wrong[0]}. Use {known}, where k is at least 1.")
    return list(measures) or (_BY_ANSWERS if by_answers else _BY_POSITIVES)


def find_cut_offs(measures: Sequence[str]) -> set[int]:
    """Return the cut-offs k of measures such as recall@k."""
    return {int(name.partition("@")[2]) for name in measures if "@" in name}


def name_rounds(num_rounds: int, *, has_start: bool, has_bm25: bool = True, ends: Sequence[str] = ("",)) -> list[str]:
    """Return the names of the table's rows.

    Args:
        num_rounds: Number of rounds.
        has_start: Whether the start encoder is evaluated.
        has_bm25: Whether BM25 is evaluated.
        ends: Ends of the names of a model's rows, such as ``FUSED``.
    """
    models = [*[START] * has_start, *(f"round {number + 1}" for number in range(num_rounds))]
    return [*[BM25] * has_bm25, *(f"{name}{end}" for name in models for end in ends)]


def learns_from_teacher(train: Mapping[str, Any]) -> bool:
    """Return whether flags of train use the scores of a teacher."""
    return bool(train.get("distillation")) or train.get("guide_margin") is not None


def filters_by_teacher(mine: Mapping[str, Any]) -> bool:
    """Return whether flags of mine reject candidates by the scores of a teacher."""
    return any(mine.get(name) is not None for name in ("teacher_margin", "teacher_relative_margin"))


def check_expected(expected: RoundMetrics, rounds: Sequence[str], measures: Sequence[str]) -> None:
    """Check that the table will have all metrics that a recipe expects.

    Raises:
        UsageError: The table lacks a round, split or measure. The message lists all of them.
    """
    wrong = [
        f"{name}, {split}, {measure}"
        for name, split, measure, _ in _flatten(expected)
        if name not in rounds or split not in SPLITS or measure not in measures
    ]
    if wrong:
        known = f"{', '.join(rounds)} with {' or '.join(SPLITS)} and {', '.join(measures)}"
        raise UsageError(
            f"--expected has {'; '.join(wrong)}. The table has {known}. --expected=null removes all expected "
            f"metrics, --expected='{{{wrong[0].partition(',')[0]}: null}}' removes the metrics of one round."
        )


def compare_metrics(table: RoundMetrics, expected: RoundMetrics, tolerance: float) -> int:
    """Compare a table with the metrics that a recipe expects, and return the number of compared metrics.

    Raises:
        ArtifactError: A metric differs by more than ``tolerance``.
    """
    values = list(_flatten(expected))
    for name, split, measure, value in values:
        found = table[name][split][measure]
        if abs(found - value) > tolerance:
            raise ArtifactError(f"{name}, {split} {measure}: {found} instead of {value}, tolerance {tolerance}.")
    return len(values)


def _flatten(table: RoundMetrics) -> list[tuple[str, str, str, float]]:
    return [
        (name, split, measure, value)
        for name, by_split in table.items()
        for split, metrics in by_split.items()
        for measure, value in metrics.items()
    ]
