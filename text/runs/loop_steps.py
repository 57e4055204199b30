"""Steps of a loop: windows, mining, training, encoding, search and evaluation. Each step runs as a stage.

``text/runs/loop.py`` decides which steps a loop has, and which model the next round uses.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import text
from text.artifacts import hash_json
from text.runs.acceptance import QuestionValues, read_question_values
from text.runs.figures import read_figures
from text.runs.loop_inputs import LoopInputs
from text.runs.rounds import Round, filters_by_teacher, find_cut_offs, learns_from_teacher
from text.runs.seeds import SplitMetrics
from text.runs.stages import Arguments, ResolveSettings, Stage, plan_stage, resolve_arguments, run_stage
from text.runs.tracked import TrackedFile

_NUM_WINDOWS = 1000
"""Minimum number of windows to retrieve per question when documents are ranked by their best window."""
SECTIONS = ("windows", "train", "reranker", "encode", "search", "mine", "score")
"""Sections of a recipe with flags of commands."""


class Encoded(NamedTuple):
    """A model and its embeddings of the collection."""

    model: TrackedFile
    embeddings: TrackedFile
    fusion: Mapping[str, Any] = {}
    """Flags of search with which the model and BM25 are fused, chosen on the validation questions."""


class Evaluated(NamedTuple):
    """Metrics of a model or of BM25."""

    metrics: SplitMetrics
    values: QuestionValues
    """First measure of each validation question."""
    runs: Mapping[str, TrackedFile]
    """Run of each split."""


class LoopSteps:
    """Steps of a loop, and the stages that they ran.

    Args:
        inputs: The input files.
        arguments: Flags of windows, train, encode, search, mine and score for all rounds, by command, and flags of
            train for the reranker. With flags of windows, documents are ranked by their best window. BM25 in the table
            still ranks whole passages.
        measures: Metrics in the table.
        output_dir: Folder of all stages.
        resolve_settings: Function that returns the values of all flags of a command.
        num_gpus: Number of GPUs for training and encoding, unless ``arguments`` or a round name it.
        is_rehearsal: Run no stage.

    Raises:
        UsageError: A command does not accept its flags.
    """

    def __init__(
        self,
        inputs: LoopInputs,
        *,
        arguments: Mapping[str, Arguments],
        measures: Sequence[str],
        output_dir: str | os.PathLike[str],
        resolve_settings: ResolveSettings,
        num_gpus: int = 0,
        is_rehearsal: bool = False,
    ) -> None:
        self.inputs, self.measures, self.is_rehearsal = inputs, measures, is_rehearsal
        self.train_rows, self.collection = inputs.train_rows, inputs.collection
        self.arguments = {name: arguments.get(name, {}) for name in SECTIONS}
        search = self.arguments["search"]
        self.bm25_arguments = {name: value for name, value in search.items() if name.startswith("bm25_")}
        self.arguments["search"] = {name: search[name] for name in search if name not in self.bm25_arguments}
        self.output_dir, self.resolve_settings, self.num_gpus = output_dir, resolve_settings, num_gpus
        self.stages: list[Stage] = []
        """All stages in order, complete ones too."""
        names = {"model": "model", "embeddings": "embeddings", "questions": "questions", "run": "run"}
        self.k: int = self._resolve("search", {**self.arguments["search"], **names})["k"]
        default = self._resolve("evaluate", {"run": "run", "positives": "rows", "output_dir": "folder"})["k"]
        self.cut_offs = sorted({*default, *find_cut_offs(measures)})

    def cut_windows(self) -> None:
        """Split the passages of the collection and of the training rows into windows, if windows have flags."""
        if not self.arguments["windows"]:
            return
        arguments = {**self.arguments["windows"], "collection": self.collection, "rows": self.train_rows}
        folder = self._run_stage("windows", "windows", arguments)
        self.train_rows, self.collection = folder.get_part("rows.jsonl"), folder.get_part("passages.jsonl")

    def mine(
        self, name: str, settings: Round, model: Encoded | None, teacher: TrackedFile | None = None
    ) -> TrackedFile:
        """Mine the hard negatives of a round, and return the training rows. They hold the scores of the teacher."""
        arguments = {
            **self.arguments["mine"],
            **settings.mine,
            "round": name,
            "teacher": teacher,
            "rows": self.train_rows,
            "collection": self.collection,
            "num": list(settings.sources.values()),
        }
        names = {"runs": list(settings.sources), "output": "rows.jsonl"}
        last_rank = self._resolve("mine", {**arguments, **names})["last_rank"]
        extra = {"with_positives": True, "k": max(self.k, last_rank)}
        runs = [self._search_source(name, source, model, extra) for source in settings.sources]
        return self._run_stage(name, "mine", {**arguments, "runs": runs}, "rows.jsonl")

    def train(
        self, name: str, settings: Round, rows: TrackedFile, encoder: TrackedFile | str, extra: Arguments
    ) -> TrackedFile:
        """Train and return the model of a round."""
        arguments = {**self.arguments["train"], **settings.train, **extra, "encoder": encoder}
        return self._train(name, arguments, rows)

    def train_reranker(self, name: str, rows: TrackedFile, encoder: TrackedFile | str) -> TrackedFile:
        """Train a reranker on the rows of a round, and return it. The section may name another encoder."""
        arguments = {"encoder": encoder, **self.arguments["reranker"], "task": "rerank"}
        if isinstance(path := arguments["encoder"], str) and os.path.exists(path):
            arguments["encoder"] = TrackedFile.read(path)
        return self._train(name, arguments, rows)

    def learns_from_teacher(self, settings: Round) -> bool:
        """Return whether a round trains with the scores of a teacher."""
        return learns_from_teacher({**self.arguments["train"], **settings.train})

    def mines_with_teacher(self, settings: Round) -> bool:
        """Return whether a round mines negatives, and needs the scores of a teacher for it or for training."""
        mine = {**self.arguments["mine"], **settings.mine}
        return bool(settings.sources) and (self.learns_from_teacher(settings) or filters_by_teacher(mine))

    def _train(self, name: str, arguments: Arguments, rows: TrackedFile) -> TrackedFile:
        files = {
            "train_files": [rows],
            "valid_file": self.inputs.rows["valid"],
            "test_file": self.inputs.rows.get("test"),
            "collection": self.inputs.collection,
        }
        return self._run_stage(name, "train", {**arguments, **files}).get_part("model")

    def score(self, name: str, rows: TrackedFile, teacher: TrackedFile) -> TrackedFile:
        """Write the scores of the teacher into rows, and return the rows."""
        arguments = {**self.arguments["score"], "rows": rows, "teacher": teacher, "collection": self.collection}
        return self._run_stage(name, "score", {**arguments, "overwrite_scores": True}, "rows.jsonl")

    def encode(self, name: str, model: TrackedFile, extra: Arguments) -> Encoded:
        """Encode the collection with a model."""
        arguments = {**self.arguments["encode"], **extra, "model": model, "collection": self.collection}
        return Encoded(model, self._run_stage(name, "encode", arguments))

    def search(
        self, name: str, questions: TrackedFile, model: Encoded | None, collection: TrackedFile, extra: Arguments
    ) -> TrackedFile:
        """Search with a model in its embeddings, or with BM25 in a collection, and return the run."""
        if model is None:
            arguments, run = self._get_bm25_flags(collection), "bm25.trec"
        else:
            found = {"model": model.model, "embeddings": model.embeddings}
            arguments, run = {**self.arguments["search"], **found}, "dense.trec"
        return self._run_stage(name, "search", {**arguments, **extra, "questions": questions}, run)

    def _get_bm25_flags(self, collection: TrackedFile) -> Arguments:
        """Return the flags of search for BM25. All searches of a collection share an index on disk."""
        key = hash_json([text.__version__, collection.key, self.bm25_arguments])[:16]
        index = Path(self.output_dir, f"bm25-{key}")
        return {**self.bm25_arguments, "bm25": True, "collection": collection, "bm25_index": index}

    def _search_source(self, name: str, source: str, model: Encoded | None, extra: Arguments) -> TrackedFile:
        """Search for the training questions, and return the run."""
        if source != "hybrid" or model is None:
            return self.search(name, self.train_rows, model if source == "dense" else None, self.collection, extra)
        found = {"model": model.model, "embeddings": model.embeddings, **self._get_bm25_flags(self.collection)}
        arguments = {**self.arguments["search"], **found, **model.fusion, **extra}
        return self._run_stage(name, "search", {**arguments, "questions": self.train_rows}, "hybrid.trec")

    def evaluate(self, name: str, model: Encoded | None, reranking: Arguments | None = None) -> Evaluated:
        """Evaluate a model or BM25. ``reranking`` are flags of search for the model's passages."""
        extra, runs, folders = {"k": max(self.k, self.cut_offs[-1])}, dict[str, TrackedFile](), {}
        if model is not None and self.arguments["windows"]:
            extra = {"k": max(_NUM_WINDOWS, extra["k"]), "max_passage_hits": self.cut_offs[-1]}
        for split, judged in self.inputs.judged.items():
            searched = {**extra, **judged.search_flags, **(reranking or {})}
            runs[split] = self.search(name, judged.questions, model, self.inputs.collection, searched)
            folders[split] = self._evaluate_run(name, split, {"run": runs[split]})
        return self._read_evaluated(folders, runs)

    def rerank(self, name: str, model: Encoded, teacher: TrackedFile, rerank_k: int) -> Evaluated:
        """Evaluate a model whose first passages are reranked by the teacher."""
        return self.evaluate(name, model, {"rerank": teacher, "rerank_k": rerank_k, "collection": self.collection})

    def fuse(self, name: str, dense: Evaluated, bm25: Evaluated) -> tuple[Evaluated, Mapping[str, Any]]:
        """Evaluate the fusion of a model and BM25, and return the flags of the fusion too.

        The validation questions choose the method and the weight by the first measure. If passages are judged by
        answers, both have the same weight.
        """
        chosen: Mapping[str, Any] = {}
        choice = {} if self.inputs.is_judged_by_answers else {"choose_weight": self.measures[0]}
        folders = {}
        for split in self.inputs.judged:  # The validation questions come first.
            fused = {"run": dense.runs[split], "fuse_with": bm25.runs[split]}
            folders[split] = self._evaluate_run(name, split, fused | (choice if split == "valid" else chosen))
            if split == "valid" and not self.is_rehearsal:
                fusion = read_figures(folders[split].get_part("figures.json").path).fusion
                chosen = {"fusion": fusion.method, "fusion_weight": fusion.weights[0]}
        return self._read_evaluated(folders, {}), chosen

    def _evaluate_run(self, name: str, split: str, arguments: Arguments) -> TrackedFile:
        judgments = self.inputs.judged[split].judgments
        return self._run_stage(name, "evaluate", {**judgments, **arguments, "k": self.cut_offs})

    def _read_evaluated(self, folders: Mapping[str, TrackedFile], runs: Mapping[str, TrackedFile]) -> Evaluated:
        """Return the metrics in the folders of evaluate, by split. They are empty in a rehearsal."""
        if self.is_rehearsal:
            return Evaluated({}, {}, runs)
        files = {split: folder.get_part("figures.json").path for split, folder in folders.items()}
        figures = {split: read_figures(path).figures for split, path in files.items()}
        metrics = {split: {name: each[name].mean for name in self.measures} for split, each in figures.items()}
        questions = folders["valid"].get_part("questions.jsonl").path
        return Evaluated(metrics, read_question_values(questions, self.measures[0]), runs)

    def _resolve(self, command: str, arguments: Arguments) -> Mapping[str, Any]:
        return resolve_arguments(self.resolve_settings, command, arguments)

    def _run_stage(self, name: str, command: str, arguments: Arguments, result: str = "") -> TrackedFile:
        stage = plan_stage(command, arguments, self.output_dir, result, resolve_settings=self.resolve_settings)
        self.stages.append(stage)
        return stage.result if self.is_rehearsal else run_stage(stage, f"{name}, {command}", self.num_gpus)
