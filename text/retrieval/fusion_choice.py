"""Choose the fusion of two run files on judged questions."""

from __future__ import annotations

import os

from text.evaluation import ChosenFusion, choose_fusion_weight, read_qrels, read_run, remove_self_matches
from text.evaluation.fusion import FUSION_METHODS, FusionMethod
from text.evaluation.trec import check_common_questions
from text.retrieval.scoring import list_relevant, read_positives

StrPath = str | os.PathLike[str]


def choose_run_fusion(
    path: StrPath,
    fuse_with: StrPath,
    *,
    qrels: StrPath | None = None,
    positives: StrPath | None = None,
    metric: str = "ndcg@10",
    method: FusionMethod | None = None,
    drop_self_matches: bool = False,
    skip_missing: bool = False,
) -> ChosenFusion:
    """Return the method and the weight that fuse two run files best (``choose_fusion_weight``).

    Args:
        path: File of the run that the weight belongs to.
        fuse_with: File of the other run.
        qrels: File of relevance judgments.
        positives: File of training rows, whose positives are the relevant passages. Give this file or ``qrels``.
        metric: See ``choose_fusion_weight``.
        method: Method to use. None compares all methods.
        drop_self_matches: Remove passages whose id equals the question id, before the fusion.
        skip_missing: Skip questions that are in neither run. Otherwise they count as 0.

    Raises:
        DataError: A file is malformed, the files have no question in common, or no judgment is positive.
        ValueError: Not exactly one kind of judgments is given, or the metric is unknown.
        OSError: A file cannot be read.
    """
    if (qrels is None) == (positives is None):
        raise ValueError("qrels, positives: give exactly one of them.")
    judgments = qrels if qrels is not None else str(positives)
    judged = read_qrels(judgments) if qrels is not None else read_positives(judgments)
    relevant = list_relevant(judgments, judged)
    runs = [read_run(each) for each in (path, fuse_with)]
    for name, run in zip((path, fuse_with), runs, strict=True):
        check_common_questions(name, run, judgments, [each for each, passages in relevant.items() if passages])
    if drop_self_matches:
        runs = [remove_self_matches(run) for run in runs]
    if skip_missing:
        judged = {name: each for name, each in judged.items() if any(name in run for run in runs)}
    return choose_fusion_weight(runs, judged, metric, methods=FUSION_METHODS if method is None else [method])
