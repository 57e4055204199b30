"""Rounds of training, encoding, search, evaluation and mining. Each step is a stage: a command in its own folder.

A round is accepted unless it is significantly worse on the validation questions than the last accepted model
(``text/runs/acceptance.py``). The next round mines with, and may start from, the last accepted model.

A stage whose folder is complete is not run again. An interrupted loop therefore continues where it stopped, and a loop
with a changed setting repeats only the stages that depend on this setting.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from text.runs.acceptance import (
    Comparison,
    QuestionValues,
    average_questions,
    compare_questions,
    read_question_values,
)
from text.runs.figures import read_figures
from text.runs.loop_inputs import LoopInputs
from text.runs.loop_results import LoopResults
from text.runs.rounds import BM25, START, Round, find_cut_offs
from text.runs.seeds import SeedResult, SeedResults, SplitMetrics, average_metrics, choose_best
from text.runs.stages import Arguments, ResolveSettings, Stage, plan_stage, resolve_arguments, run_stage
from text.runs.tracked import TrackedFile

_NUM_WINDOWS = 1000
"""Minimum number of windows to retrieve per question when documents are ranked by their best window."""


class _Encoded(NamedTuple):
    """A model and its embeddings of the collection."""

    model: TrackedFile
    embeddings: TrackedFile


class _Evaluated(NamedTuple):
    """Metrics of a model or of BM25."""

    metrics: SplitMetrics
    values: QuestionValues
    """First measure of each validation question."""


class Loop:
    """All stages of a training loop.

    A rehearsal runs no stage. It plans all stages in ``stages`` and detects invalid flags before hours of work.

    Args:
        inputs: The input files.
        rounds: The rounds in order.
        encoder: Encoder to start from: the name of a randomly initialized encoder, or a path.
        score_start: Also evaluate the encoder before the first round. Ignored for a randomly initialized encoder.
        score_bm25: Also evaluate BM25.
        arguments: Flags of windows, train, encode, search and mine for all rounds, by command. With flags of windows,
            the collection and the rows are first split into windows, and documents are ranked by their best window.
            BM25 in the table still ranks whole passages.
        start_arguments: Flags of encode for the encoder before the first round.
        measures: Metrics in the table.
        output_dir: Folder of all stages.
        resolve_settings: Function that returns the values of all flags of a command.
        seeds: Seeds of training. Each round is trained once with each of them, and the seed with the best first measure
            on the validation questions goes on. Without seeds, a round is trained once.
        num_gpus: Number of GPUs for training and encoding, unless ``arguments`` or ``rounds`` name it.
        is_rehearsal: Run no stage.

    Raises:
        UsageError: A command does not accept its flags.
    """

    def __init__(
        self,
        inputs: LoopInputs,
        rounds: Sequence[Round],
        *,
        encoder: str = "tiny",
        score_start: bool = True,
        score_bm25: bool = True,
        arguments: Mapping[str, Arguments],
        start_arguments: Arguments,
        measures: Sequence[str],
        output_dir: str | os.PathLike[str],
        resolve_settings: ResolveSettings,
        seeds: Sequence[int] = (),
        num_gpus: int = 0,
        is_rehearsal: bool = False,
    ) -> None:
        self.inputs, self.rounds, self.measures = inputs, rounds, measures
        self.encoder = TrackedFile.read(encoder) if os.path.exists(encoder) else encoder
        self.score_start, self.score_bm25, self.start_arguments = score_start, score_bm25, start_arguments
        self.seeds, self.seed_results = list(seeds), dict[str, SeedResults]()
        self.comparisons = dict[str, Comparison]()
        self.arguments = {name: arguments.get(name, {}) for name in ("windows", "train", "encode", "search", "mine")}
        search = self.arguments["search"]
        self.bm25_arguments = {name: value for name, value in search.items() if name.startswith("bm25_")}
        self.arguments["search"] = {name: search[name] for name in search if name not in self.bm25_arguments}
        self.output_dir, self.resolve_settings, self.is_rehearsal = output_dir, resolve_settings, is_rehearsal
        self.num_gpus = num_gpus
        self.stages: list[Stage] = []
        self.train_rows, self.collection = inputs.train_rows, inputs.collection
        names = {"model": "model", "embeddings": "embeddings", "questions": "questions", "run": "run"}
        self.k: int = self._resolve("search", {**self.arguments["search"], **names})["k"]
        default = self._resolve("evaluate", {"run": "run", "positives": "rows", "output_dir": "folder"})["k"]
        self.cut_offs = sorted({*default, *find_cut_offs(measures)})

    def run_rounds(self) -> LoopResults:
        """Run all stages that are not complete, and return the results of BM25, the start encoder and each round.

        In a rehearsal the table has no metrics.

        Raises:
            ArtifactError, SystemExit, InterruptedRun: A stage failed, see ``run_stage``.
        """
        if self.arguments["windows"]:
            self._cut_windows()
        table = {BM25: self._evaluate(BM25, None).metrics} if self.score_bm25 else {}
        model, start, models = None, None, {}
        if isinstance(self.encoder, TrackedFile) and self.score_start:
            model = self._encode(START, self.encoder, self.start_arguments)
            models[START] = str(self.encoder)
            start = self._evaluate(START, model)
            table[START] = start.metrics
        final, accepted = "", start
        for number, each in enumerate(self.rounds, start=1):
            name = f"round {number}"
            rows = self._mine(name, each, model) if each.sources else self.train_rows
            trained, result = self._run_round(name, each, rows, model)
            table[name], models[name] = result.metrics, str(trained.model)
            if self._accept(name, result, final or START, accepted):
                model, accepted, final = trained, result, name
        improvement = self._compare(accepted, START, start) if final and accepted is not None else None
        return LoopResults(table, models, self.seed_results, self.comparisons, final, improvement)

    def _compare(self, result: _Evaluated, other: str, other_result: _Evaluated | None) -> Comparison | None:
        """Compare two models on the validation questions. Return None in a rehearsal, and without a second model."""
        if other_result is None or self.is_rehearsal:
            return None
        return compare_questions(result.values, other, other_result.values)

    def _accept(self, name: str, result: _Evaluated, other: str, other_result: _Evaluated | None) -> bool:
        """Compare a round with the last accepted model, and return whether the round replaces this model."""
        compared = self._compare(result, other, other_result)
        if compared is None:
            return True
        self.comparisons[name] = compared
        verdict = "accepted" if compared.is_accepted else f"rejected, {other} goes on"
        change = f"valid {self.measures[0]} {compared.difference:+.4f}, p = {compared.p:.3g}"
        print(f"== {name} against {other}: {change}: {verdict}", flush=True)
        return compared.is_accepted

    def _run_round(
        self, name: str, settings: Round, rows: TrackedFile, previous: _Encoded | None
    ) -> tuple[_Encoded, _Evaluated]:
        """Train and evaluate a round with each seed, and return the model that goes on, and the mean metrics."""
        models, results = list[_Encoded](), list[_Evaluated]()
        for seed in self.seeds or [None]:
            title, extra = (name, {}) if seed is None else (f"{name}, seed {seed}", {"seed": seed})
            models.append(self._encode(title, self._train(title, settings, rows, previous, extra), {}))
            results.append(self._evaluate(title, models[-1]))
        metrics = [each.metrics for each in results]
        chosen = 0 if self.is_rehearsal else choose_best(metrics, self.measures[0])
        if self.seeds:
            found = zip(self.seeds, models, metrics, strict=True)
            by_seed = [SeedResult(seed, str(model.model), each) for seed, model, each in found]
            self.seed_results[name] = SeedResults(by_seed, self.seeds[chosen])
        values = average_questions([each.values for each in results])
        return models[chosen], _Evaluated(average_metrics(metrics), values)

    def _cut_windows(self) -> None:
        """Split the passages of the collection and of the training rows into windows."""
        arguments = {**self.arguments["windows"], "collection": self.collection, "rows": self.train_rows}
        folder = self._run_stage("windows", "windows", arguments)
        self.train_rows, self.collection = folder.get_part("rows.jsonl"), folder.get_part("passages.jsonl")

    def _mine(self, name: str, settings: Round, model: _Encoded | None) -> TrackedFile:
        """Mine the hard negatives of a round, and return the training rows."""
        arguments = {
            **self.arguments["mine"],
            **settings.mine,
            "rows": self.train_rows,
            "collection": self.collection,
            "num": list(settings.sources.values()),
        }
        names = {"runs": list(settings.sources), "output": "rows.jsonl"}
        last_rank = self._resolve("mine", {**arguments, **names})["last_rank"]
        extra = {"with_positives": True, "k": max(self.k, last_rank)}
        models = {"dense": model, "bm25": None}
        runs = [
            self._search(name, self.train_rows, models[source], self.collection, extra) for source in settings.sources
        ]
        return self._run_stage(name, "mine", {**arguments, "runs": runs}, "rows.jsonl")

    def _train(
        self, name: str, settings: Round, rows: TrackedFile, previous: _Encoded | None, extra: Arguments
    ) -> TrackedFile:
        """Train and return the model of a round."""
        arguments = {
            **self.arguments["train"],
            **settings.train,
            **extra,
            "encoder": previous.model if settings.go_on and previous is not None else self.encoder,
            "train_files": [rows],
            "valid_file": self.inputs.rows["valid"],
            "test_file": self.inputs.rows.get("test"),
            "collection": self.inputs.collection,
        }
        return self._run_stage(name, "train", arguments).get_part("model")

    def _encode(self, name: str, model: TrackedFile, extra: Arguments) -> _Encoded:
        """Encode the collection with a model."""
        arguments = {**self.arguments["encode"], **extra, "model": model, "collection": self.collection}
        return _Encoded(model, self._run_stage(name, "encode", arguments))

    def _search(
        self, name: str, questions: TrackedFile, model: _Encoded | None, collection: TrackedFile, extra: Arguments
    ) -> TrackedFile:
        """Search with a model in its embeddings, or with BM25 in a collection, and return the run."""
        if model is None:
            arguments, run = {**self.bm25_arguments, "bm25": True, "collection": collection}, "bm25.trec"
        else:
            found = {"model": model.model, "embeddings": model.embeddings}
            arguments, run = {**self.arguments["search"], **found}, "dense.trec"
        return self._run_stage(name, "search", {**arguments, **extra, "questions": questions}, run)

    def _evaluate(self, name: str, model: _Encoded | None) -> _Evaluated:
        """Evaluate a model or BM25."""
        found, values, extra = {}, {}, {"k": max(self.k, self.cut_offs[-1])}
        if model is not None and self.arguments["windows"]:
            extra = {"k": max(_NUM_WINDOWS, extra["k"]), "max_passage_hits": self.cut_offs[-1]}
        for split, judged in self.inputs.judged.items():
            searched = {**extra, **judged.search_flags}
            run = self._search(name, judged.questions, model, self.inputs.collection, searched)
            folder = self._run_stage(name, "evaluate", {**judged.judgments, "run": run, "k": self.cut_offs})
            if not self.is_rehearsal:
                metrics = read_figures(folder.get_part("figures.json").path).figures
                found[split] = {measure: metrics[measure].mean for measure in self.measures}
                if split == "valid":
                    values = read_question_values(folder.get_part("questions.jsonl").path, self.measures[0])
        return _Evaluated(found, values)

    def _resolve(self, command: str, arguments: Arguments) -> Mapping[str, Any]:
        return resolve_arguments(self.resolve_settings, command, arguments)

    def _run_stage(self, name: str, command: str, arguments: Arguments, result: str = "") -> TrackedFile:
        stage = plan_stage(command, arguments, self.output_dir, result, resolve_settings=self.resolve_settings)
        self.stages.append(stage)
        return stage.result if self.is_rehearsal else run_stage(stage, f"{name}, {command}", self.num_gpus)
