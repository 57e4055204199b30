"""``dpr-text evaluate``: score a run against relevance judgments, positives, or answers in passages (as DPR does).

With --suite, a model is evaluated on a whole folder of BEIR sets.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Literal

from text.artifacts import check_files, describe_file
from text.commands.cli import MAX_SEED, list_given_flags, number_field, pick_arguments
from text.commands.fusing import describe_fusion, plan_fusion
from text.commands.model_paths import model_path_field
from text.commands.suites import evaluate_suite
from text.errors import UsageError

_OUTPUTS = ("figures.json", "questions.jsonl", "evaluation.html", "results.json")


@dataclass(frozen=True, kw_only=True)
class EvaluateFlags:
    """Score a run against --qrels, --positives, or --questions with --collection.

    With --suite and --model, all BEIR folders below a folder are encoded, searched and scored. Each step runs in its
    own folder in --output_dir, and a complete step is reused.

    Examples::

        dpr-text evaluate --run=nq.trec --questions=test.qa.csv --collection=psgs_w100.tsv
        dpr-text evaluate --run=nq.trec --other_run=bm25.trec --qrels=test.tsv --k=10,100
        dpr-text evaluate --suite=beir --model=runs/nq/model --output_dir=runs/nq-beir
    """

    run: str | None = None
    """TREC run (dpr-text search). Passages with equal scores rank by id, in descending order."""
    suite: str | None = None
    """Folder with BEIR folders at any depth, or a single BEIR folder. Requires --model and --output_dir."""
    model: str | None = model_path_field(None)
    """Model to evaluate on --suite."""
    split: str = "test"
    """Split of each set of --suite: the name of a file in qrels/."""
    encoder_precision: Literal["float32", "bfloat16", "float16", "int8"] | None = None
    """Precision of the encoders with --suite, as in dpr-text encode."""
    qrels: str | None = None
    """Relevance judgments (qrels) in the TREC or BEIR format."""
    positives: str | None = None
    """Rows in the DPR format. The positives of all rows with the same question are its relevant passages, matched by
    id."""
    questions: str | None = None
    """Questions with answers. A passage is relevant if it contains an answer. Requires --collection."""
    collection: str | None = None
    """Passage file that was searched."""
    k: list[int] = field(default_factory=lambda: [1, 5, 10, 20, 100], metadata={"least": 1})
    """Cut-offs of the metrics."""
    other_run: str | None = None
    """Run of the same questions to compare with, by a paired randomization test."""
    fuse_with: str | None = None
    """Run to fuse with --run before scoring."""
    fusion: Literal["ranks", "scores"] | None = None
    """Fuse by reciprocal rank fusion (ranks), or by scores that are normalized to 0..1 for each question (scores). The
    default is ranks. Used with --fuse_with."""
    fusion_weight: float | None = number_field(None, least=0, most=1)
    """Weight of --run in the fusion, from 0 to 1. --fuse_with has 1 minus this weight. The default is 0.5."""
    choose_weight: str | None = field(default=None, metadata={"bare": "ndcg@10"})
    """Metric such as ndcg@10, mrr@10 or recall@100: try all weights in steps of 0.05, print the results, use the best.
    Without --fusion, both methods are tried. Use it on development questions, with --qrels or --positives."""
    fused_run: str | None = None
    """Output file for the fused run. Requires --fuse_with."""
    seen: str | None = None
    """Training rows. Questions with a relevant passage that is also a training positive (by id) are scored separately
    as well. Requires --qrels, --positives, or --questions in the DPR format."""
    drop_self_matches: bool = False
    """Ignore passages that have the id of their question, before ranking and fusion. Use it if questions come from the
    collection, as in BEIR's ArguAna and Quora."""
    skip_missing: bool = False
    """Skip questions that are missing from the run. By default, their metrics are 0."""
    output_dir: str | None = None
    """Output folder for figures.json, questions.jsonl, evaluation.html and, with answers, results.json. The default is
    RUN.evaluation, where RUN is the path of the run without .trec. --suite writes suite.md, suite.html, suite.json, and
    results/ in the format of mteb."""
    overwrite: bool = False
    """Replace the files of an earlier evaluation, including --fused_run."""
    seed: int = number_field(0, least=0, most=MAX_SEED)
    """Random seed of the bootstrap and of the randomization test."""

    def __post_init__(self) -> None:
        if (self.run is None) == (self.suite is None):
            raise UsageError("--run, --suite: give exactly one of them.")
        needed = "--run" if self.suite is not None else "--suite"
        run_flags = ["qrels", "positives", "questions", "collection", "other_run", "fuse_with", "fused_run", "seen"]
        run_flags += ["fusion", "fusion_weight", "choose_weight", "skip_missing", "overwrite"]
        suite_flags = ["model", "split", "encoder_precision"]
        if given := list_given_flags(self, run_flags if needed == "--run" else suite_flags):
            raise UsageError(f"--{given[0]} is only for {needed}. Leave it out.")
        if self.suite is not None and (self.model is None or self.output_dir is None):
            raise UsageError("--suite needs --model and --output_dir.")
        given = list_given_flags(self, ["fused_run", "fusion", "fusion_weight", "choose_weight"])
        if given and self.fuse_with is None:
            raise UsageError(f"--{given[0]} needs --fuse_with.")
        if self.choose_weight is not None:
            self._check_choice(self.choose_weight)
        outputs = [os.path.realpath(Path(self.folder, name)) for name in _OUTPUTS]
        if self.fused_run is not None and os.path.realpath(self.fused_run) in outputs:
            raise UsageError(f"--fused_run is {self.fused_run}, which the evaluation writes too. Give another file.")

    def _check_choice(self, metric: str) -> None:
        """Check the flags that choose the weight of the fusion."""
        from text.evaluation.fusion import check_metric

        if self.fusion_weight is not None:
            raise UsageError("--choose_weight, --fusion_weight: give at most one of them.")
        if self.questions is not None:
            raise UsageError("--choose_weight needs --qrels or --positives. It does not match answers.")
        try:
            check_metric(metric)
        except ValueError as fault:
            raise UsageError(f"--choose_weight: {fault}") from None

    @property
    def folder(self) -> str:
        """Output folder of the evaluation."""
        name = re.sub(r"(\.trec)?(\.gz|\.zst)?$", "", self.run or "")
        return self.output_dir if self.output_dir is not None else f"{name}.evaluation"

    @property
    def inputs(self) -> dict[str, str]:
        """Paths of the input files by flag name."""
        names = ("run", "fuse_with", "other_run", "qrels", "positives", "questions", "collection", "seen")
        return {name: path for name in names if (path := getattr(self, name)) is not None}


def evaluate(flags: EvaluateFlags) -> None:
    """Print a table of the metrics, and write the metrics as files and as an HTML page."""
    if flags.suite is not None:
        evaluate_suite(**pick_arguments(evaluate_suite, flags))
    else:
        _evaluate_run(flags, str(flags.run))


def _evaluate_run(flags: EvaluateFlags, run: str) -> None:
    from text.evaluation.run_source import get_source_path, name_collections
    from text.reports.evaluation_report import Section, format_table, write_evaluation
    from text.retrieval import describe_scores, score_run, split_seen, summarize_scores
    from text.runs.evaluations import check_results_folder, describe_model, read_evaluation_sources

    inputs = flags.inputs
    outputs = [Path(flags.folder, name) for name in _OUTPUTS]
    outputs += [Path(flags.fused_run), get_source_path(flags.fused_run)] if flags.fused_run else []
    check_results_folder(flags.folder, named_after=run if flags.output_dir is None else None)
    check_files(inputs.values(), outputs, overwrite=flags.overwrite)
    described = {name: describe_file(path) for name, path in inputs.items()}
    sources = read_evaluation_sources(described, flags.folder)
    options = {name: getattr(flags, name) for name in ("k", "drop_self_matches", "skip_missing")}
    judgments = {name: getattr(flags, name) for name in ("qrels", "positives", "questions", "collection")}
    score = partial(score_run, **judgments, **options)
    fusion = plan_fusion(**pick_arguments(plan_fusion, flags))
    scored = score(run, fuse_with=flags.fuse_with, fusion=fusion.record, keep_results=True)
    other = score(flags.other_run) if flags.other_run is not None else None
    groups = {"": (scored, other)} | (split_seen(scored, flags.seen, other) if flags.seen is not None else {})
    sections = [
        Section(name, len(run.metrics), summarize_scores(run, more, seed=flags.seed) if run.metrics else {})
        for name, (run, more) in groups.items()
    ]
    names = [each.path for each in (scored, other) if each is not None]
    notes: list[str] = list(dict.fromkeys([*fusion.notes, *scored.notes, *(other.notes if other else [])]))
    summary = describe_scores(scored, by_answers=flags.questions is not None)
    figures = {
        "runs": names,
        "questions": len(scored.metrics),
        "missing": scored.num_missing,
        "skipped": scored.num_skipped,
        "figures": sections[0].table,
        **{each.name: {"questions": each.num_questions, "figures": each.table} for each in sections[1:]},
        "notes": notes,
        "inputs": described,
        "options": {**options, "seed": flags.seed} | ({"fusion": fusion.record} if fusion.record else {}),
        "searches": {name: name_collections(source.searches) for name, source in sources.items() if source is not None},
    }
    measure = "recall" if flags.questions is None else "accuracy"
    models = [describe_model(inputs[name], source) for name, source in sources.items()]
    models += describe_fusion(run, fusion.record)
    report = {"summary": [summary, *models, *notes], "sections": sections, "names": names, "measure": measure}
    write_evaluation(
        flags.folder,
        figures=figures,
        questions=scored.metrics,
        results=scored.results,
        report={**report, "inputs": described},
        fused_run=flags.fused_run,
        fused=[sources[name] for name in ("run", "fuse_with") if name in sources],
        fusion=fusion.record,
        run=scored.run,
        overwrite=flags.overwrite,
    )
    print("\n".join([*fusion.table, summary, *models, *notes, *format_table(sections)]))
    print(f"evaluation: {Path(flags.folder, 'evaluation.html')}")
