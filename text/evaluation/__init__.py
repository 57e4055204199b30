"""Measures of retrieval: plain ranks, runs against qrels, and answers in passages."""

from text.evaluation.answers import answer_spans, has_answer, top_k_accuracy
from text.evaluation.judgements import (
    bootstrap_interval,
    evaluate_run,
    fuse,
    max_passage,
    mean,
    paired_randomization,
    without_self_matches,
)
from text.evaluation.metrics import ahead_of_positive, average_rank, mean_reciprocal_rank, positive_ranks, recall
from text.evaluation.trec import Qrels, Run, ranked, read_qrels, read_run, write_run

__all__ = [
    "Qrels",
    "Run",
    "ahead_of_positive",
    "answer_spans",
    "average_rank",
    "bootstrap_interval",
    "evaluate_run",
    "fuse",
    "has_answer",
    "max_passage",
    "mean",
    "mean_reciprocal_rank",
    "paired_randomization",
    "positive_ranks",
    "ranked",
    "read_qrels",
    "read_run",
    "recall",
    "top_k_accuracy",
    "without_self_matches",
    "write_run",
]
