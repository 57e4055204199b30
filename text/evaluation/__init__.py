"""Retrieval metrics: ranks of positives, TREC runs against qrels, and answers in passages."""

from text.evaluation.answers import find_answer_spans, has_answer, top_k_accuracy
from text.evaluation.fusion import (
    ChosenFusion,
    FusionCandidate,
    choose_fusion_weight,
    fuse_rankings,
    fuse_runs,
)
from text.evaluation.metrics import (
    bootstrap_interval,
    bootstrap_macro_interval,
    evaluate_run,
    max_passage,
    mean_metrics,
    paired_randomization,
    remove_self_matches,
)
from text.evaluation.ranks import ahead_of_positive, average_rank, mean_reciprocal_rank, positive_ranks, recall
from text.evaluation.trec import Qrels, Run, format_run, rank_passages, read_qrels, read_run, write_run

__all__ = [
    "ChosenFusion",
    "FusionCandidate",
    "Qrels",
    "Run",
    "ahead_of_positive",
    "average_rank",
    "bootstrap_interval",
    "bootstrap_macro_interval",
    "choose_fusion_weight",
    "evaluate_run",
    "find_answer_spans",
    "format_run",
    "fuse_rankings",
    "fuse_runs",
    "has_answer",
    "max_passage",
    "mean_metrics",
    "mean_reciprocal_rank",
    "paired_randomization",
    "positive_ranks",
    "rank_passages",
    "read_qrels",
    "read_run",
    "recall",
    "remove_self_matches",
    "top_k_accuracy",
    "write_run",
]
