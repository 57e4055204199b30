"""Score a run by relevance judgments (qrels), by the positives of rows, or by the answers in passages, as DPR does."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from text.artifacts import check_files, write_json, write_lines

_OUTPUTS = ("figures.json", "questions.jsonl", "accuracy.png", "evaluation.html", "results.json")


@dataclass(frozen=True, kw_only=True)
class EvaluateFlags:
    """Score a run by one of --qrels, --positives, and --questions with --collection."""

    run: str
    """TREC run (dpr-text search). Passages with equal scores rank by their ids, the larger one first."""
    qrels: str | None = None
    """Relevance judgments in the form of TREC or BEIR."""
    positives: str | None = None
    """Rows in the DPR format. Their positives, by id, are the relevant passages."""
    questions: str | None = None
    """Questions with answers. A passage is relevant if it contains an answer. Needs --collection."""
    collection: str | None = None
    """File of the passages that were searched."""
    k: list[int] = field(default_factory=lambda: [1, 5, 10, 20, 100])
    """Cut-offs of the metrics."""
    other_run: str | None = None
    """Another run of the same questions to compare with, by a paired randomization test."""
    fuse_with: str | None = None
    """A run that is fused with --run by reciprocal ranks before it is scored."""
    drop_self_matches: bool = False
    """Ignore passages whose id is the id of their question."""
    skip_missing: bool = False
    """Skip questions that the run does not have. Otherwise their metrics are 0."""
    output_dir: str
    """Folder for figures.json, questions.jsonl, accuracy.png, evaluation.html and, with answers, results.json. Earlier
    ones are replaced."""
    seed: int = 0
    """Seed of the bootstrap and of the randomization test."""


def evaluate(flags: EvaluateFlags) -> None:
    """Print a table of the metrics. Write it as a file and as a page, with the metrics of each question."""
    from text.reports.evaluation_report import write_evaluation_report
    from text.retrieval import score_run, summarize_scores

    folder, judgments = Path(flags.output_dir), (flags.qrels, flags.positives, flags.questions)
    inputs = [flags.run, *judgments, flags.collection, flags.other_run, flags.fuse_with]
    check_files(inputs, [folder / name for name in _OUTPUTS], overwrite=True)
    score = partial(
        score_run,
        qrels=flags.qrels,
        positives=flags.positives,
        questions=flags.questions,
        collection=flags.collection,
        k=flags.k,
        drop_self_matches=flags.drop_self_matches,
        skip_missing=flags.skip_missing,
    )
    scored = score(flags.run, fuse_with=flags.fuse_with, keep_results=True)
    other = score(flags.other_run) if flags.other_run is not None else None
    table = summarize_scores(scored, other, seed=flags.seed)
    if scored.results:
        write_json(folder / "results.json", scored.results)
    else:
        (folder / "results.json").unlink(missing_ok=True)  # It would belong to an earlier run.
    names = [scored.path] if other is None else [scored.path, other.path]
    counts = {"questions": len(scored.metrics), "missing": scored.num_missing}
    write_json(folder / "figures.json", {"runs": names, **counts, "figures": table})
    lines = ({"question_id": question_id, **metrics} for question_id, metrics in scored.metrics.items())
    write_lines(folder / "questions.jsonl", (json.dumps(line, ensure_ascii=False) + "\n" for line in lines))
    summary = (
        f"{len(scored.metrics)} questions ({scored.num_missing} of them not in the run, counted as 0); "
        "95 % intervals by bootstrap"
    )
    if scored.num_without_answers:
        summary += f"; {scored.num_without_answers} questions without answers left out"
    measure = "recall" if flags.questions is None else "accuracy"
    write_evaluation_report(folder, summary=summary, table=table, names=names, measure=measure)
    print(summary)
    for name, row in table.items():
        comparison = f"  other {row['other']:.4f}, p = {row['p']:.4f}" if "p" in row else ""
        print(f"{name:>14}  {row['mean']:.4f}  ({row['low']:.4f} to {row['high']:.4f}){comparison}")
