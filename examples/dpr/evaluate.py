"""Scores a run: by judgements of passages (qrels), or by the answers that passages hold, as DPR does.

    python examples/dpr/evaluate.py --run=run.trec --qrels=qrels/test.tsv
    python examples/dpr/evaluate.py --run=run.trec --positives=test.jsonl
    python examples/dpr/evaluate.py --run=run.trec --questions=nq-test.qa.csv --collection=psgs_w100.tsv

Of equal scores the larger passage id ranks first. Each figure has the number of questions that it is the mean of.
"""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tqdm import tqdm

from examples.dpr.cli import UsageError, run
from examples.dpr.evaluation_page import draw, write_page
from examples.dpr.paths import check_files
from text.artifacts import write_json, write_text
from text.datasets import PassageCollection, Question, read_questions
from text.errors import DataError
from text.evaluation import (
    Run,
    bootstrap_interval,
    evaluate_run,
    fuse_runs,
    has_answer,
    mean_metrics,
    paired_randomization,
    rank_passages,
    read_qrels,
    read_run,
    top_k_accuracy,
    without_self_matches,
)

CUT_OFFS = (1, 5, 10, 20, 100)
_WRITTEN = ("figures.json", "questions.jsonl", "accuracy.png", "evaluation.html", "results.json")


@dataclass(frozen=True, kw_only=True)
class EvaluateConfig:
    """Scores a run: by judgements of passages (qrels), or by the answers that passages hold, as DPR does."""

    run: str = "runs/dpr/run.trec"
    """TREC run, such as search.py writes."""
    qrels: str | None = None
    """Judgements: TREC's or BEIR's form."""
    positives: str | None = None
    """Rows in the DPR format, whose positives, by id, are the judgements."""
    questions: str | None = None
    """Questions with answers; with --collection."""
    collection: str | None = None
    """The passages that were searched."""
    k: list[int] = field(default_factory=lambda: [*CUT_OFFS])
    """Cut-offs."""
    other_run: str | None = None
    """Another run of the same questions, to compare with: p-values by paired randomisation."""
    fuse_with: str | None = None
    """A run to fuse this one with first, by reciprocal ranks."""
    drop_self_matches: bool = False
    """Leave out passages that have the id of their question."""
    skip_missing: bool = False
    """Leave questions out that the run does not have; otherwise they count as not found."""
    output_dir: str = "runs/dpr/evaluation"
    """Where figures.json, questions.jsonl, accuracy.png, evaluation.html and, with answers, results.json go."""
    seed: int = 0
    """Of bootstrap and randomisation."""

    def __post_init__(self) -> None:
        if sum(path is not None for path in (self.qrels, self.positives, self.questions)) != 1 or (
            (self.questions is None) != (self.collection is None)
        ):
            raise UsageError("expected one of --qrels, --positives, and --questions with --collection")
        if not self.k or min(self.k) < 1:
            raise UsageError(f"--k is {self.k}; expected numbers from 1 on")


def main(config: EvaluateConfig) -> None:
    """Prints a table, and writes it with the figures of each question, as files and as a page."""
    folder, judgements = Path(config.output_dir), (config.qrels, config.positives, config.questions)
    inputs = [config.run, *judgements, config.collection, config.other_run, config.fuse_with]
    check_files(inputs, [folder / name for name in _WRITTEN], overwrite=True)
    found = _read(config, config.run, config.fuse_with)
    (folder / "results.json").unlink(missing_ok=True)  # an earlier one, of answers
    questions = read_questions(config.questions) if config.questions is not None else []
    of_run = figures(config, config.run, found, questions, save_results=True)
    of_other = None
    if config.other_run is not None:
        of_other = figures(config, config.other_run, _read(config, config.other_run), questions)
    if of_other is not None and of_run.keys() != of_other.keys():
        raise DataError(f"{config.other_run}: questions other than those of {config.run}; expected the same")
    table = summary(config, of_run, of_other)
    missing = sum(question not in found for question in of_run)
    counted = f"{len(of_run)} questions ({missing} of them not in the run, counted as 0); 95 % intervals by bootstrap"
    if count := sum(not question.answers for question in questions):
        counted += f"; {count} questions without answers left out"
    names = [config.run, *([config.other_run] if config.other_run is not None else [])]
    counts = {"questions": len(of_run), "missing": missing}
    write_json(folder / "figures.json", {"runs": names, **counts, "figures": table})
    lines = [json.dumps({"question_id": name, **values}, ensure_ascii=False) for name, values in of_run.items()]
    write_text(folder / "questions.jsonl", "\n".join(lines) + "\n")
    draw(folder / "accuracy.png", "recall" if config.questions is None else "accuracy", table, names)
    write_page(folder / "evaluation.html", folder / "accuracy.png", counted, table, names)
    print(counted)
    for name, row in table.items():
        p = f"  other {row['other']:.4f}, p = {row['p']:.4f}" if "p" in row else ""
        print(f"{name:>14}  {row['mean']:.4f}  ({row['low']:.4f} to {row['high']:.4f}){p}")


def figures(
    config: EvaluateConfig, path: str, found: Run, questions: list[Question], *, save_results: bool = False
) -> dict[str, dict[str, float]]:
    """Of the run of this path: by question, by name of a measure; of questions without answers none."""
    if config.questions is None:
        judged = _judgements(config)
        if not judged.keys() & found.keys():
            asked = config.qrels or config.positives
            raise DataError(f"{path}: none of the questions of {asked}; expected a run of these")
        return evaluate_run(judged, found, cut_offs=config.k, skip_missing=config.skip_missing)
    assert config.collection is not None
    collection = PassageCollection(config.collection)
    questions = [question for question in questions if question.answers]
    if not questions:
        raise DataError(f"{config.questions}: no question has an answer; expected answers to look for")
    if config.skip_missing:
        questions = [question for question in questions if question.question_id in found]
    if not any(question.question_id in found for question in questions):
        raise DataError(f"{path}: none of the questions of {config.questions}; expected a run of these")
    asked = tqdm(questions, desc="Evaluating", unit=" questions", disable=None, delay=2)
    results = [result(question, found.get(question.question_id, {}), collection) for question in asked]
    if save_results:
        write_json(Path(config.output_dir, "results.json"), results)
    hits = [[context["has_answer"] for context in each["ctxs"]] for each in results]
    return {
        question.question_id: {f"accuracy@{k}": top_k_accuracy([of_question], k) for k in config.k}
        for question, of_question in zip(questions, hits, strict=True)
    }


def result(question: Question, scores: dict[str, float], collection: PassageCollection) -> dict[str, Any]:
    """What was found for a question, in the form of DPR's result files.

    Raises:
        DataError: The collection does not have a passage.
    """
    contexts = []
    for passage_id in rank_passages(scores):
        try:
            passage = collection.find(passage_id)
        except KeyError:
            raise DataError(f"{collection.path}: no passage {passage_id}; expected the passages of the run") from None
        hit = has_answer(question.answers, passage.text, regular_expressions=question.regular_expressions)
        score = str(scores[passage_id])
        contexts.append(
            {"id": passage_id, "title": passage.title, "text": passage.text, "score": score, "has_answer": hit}
        )
    return {"question": question.text, "answers": question.answers, "ctxs": contexts}


def summary(
    config: EvaluateConfig, of_run: dict[str, dict[str, float]], of_other: dict[str, dict[str, float]] | None
) -> dict[str, dict[str, float]]:
    """By name of a measure: the mean over questions and where it lies, and how likely the other run's is chance."""
    table = {}
    for name, value in mean_metrics(of_run).items():
        values = [of_question[name] for of_question in of_run.values()]
        low, high = bootstrap_interval(values, num_samples=1000, seed=config.seed)
        table[name] = {"mean": value, "low": low, "high": high}
        if of_other is not None:
            others = [of_other[question][name] for question in of_run]
            p = paired_randomization(values, others, seed=config.seed)
            table[name] |= {"other": mean_metrics(of_other)[name], "p": p}
    return table


def _judgements(config: EvaluateConfig) -> dict[str, dict[str, int]]:
    if config.qrels is not None:
        return read_qrels(config.qrels)
    assert config.positives is not None
    positives = {question.question_id: question.positive_ids for question in read_questions(config.positives)}
    if not any(positives.values()):
        raise DataError(f"{config.positives}: no positives with ids; expected rows whose positives have passage_id")
    return {question: dict.fromkeys(ids, 1) for question, ids in positives.items()}


def _read(config: EvaluateConfig, path: str, fuse_with: str | None = None) -> Run:
    found = read_run(path)
    if fuse_with is not None:
        other = read_run(fuse_with)
        if not found.keys() & other.keys():
            raise DataError(f"{fuse_with}: none of the questions of {path}; expected a run of these")
        found = fuse_runs([found, other])
    return without_self_matches(found) if config.drop_self_matches else found


if __name__ == "__main__":
    sys.exit(run(main, EvaluateConfig))
