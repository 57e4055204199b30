"""Evaluation of one model on a suite: all BEIR folders below a folder.

Each set takes three stages (``text.runs.stages``): encode, search and evaluate. An interrupted suite therefore
continues where it stopped, and a set that was added later is the only one that is computed.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from text.artifacts import read_json_lines
from text.datasets import PassageCollection
from text.datasets.formats.compressed_files import COMPRESSIONS
from text.datasets.forms.folders import JudgedFolder, find_judged_folder
from text.errors import DataError, UsageError
from text.retrieval.score_summary import MetricTable
from text.runs.figures import read_figures
from text.runs.stages import ResolveSettings, Stage, plan_stage, read_seconds, run_stage
from text.runs.tracked import TrackedFile

MAIN_MEASURES = ("ndcg@10", "recall@100", "mrr@10")
"""Measures in the table of a suite. The first one is the main score."""
_PARTS = {f"{name}.jsonl{ending}" for name in ("corpus", "queries") for ending in COMPRESSIONS}


class BeirSet(NamedTuple):
    """Files of one set."""

    name: str
    """Path of the folder, relative to the suite."""
    collection: str
    questions: str
    qrels: str
    """Judgments of the evaluated split."""


class SetResult(NamedTuple):
    """Result of one set."""

    name: str
    num_passages: int
    num_without_text: int
    """Number of passages without text. They are searched too, by their title alone."""
    figures: MetricTable
    questions: dict[str, dict[str, float]]
    """Metrics of each question."""
    qrels_sha256: str
    seconds: float
    """Run time of the stages."""
    page: Path
    """HTML page of the set."""


def name_result(name: str) -> str:
    """Return the name of a set's result file for mteb, without .json.

    >>> name_result("xquad/en")
    'xquad__en'
    """
    return name.replace("/", "__")


def find_sets(suite: str | os.PathLike[str], split: str = "test") -> list[BeirSet]:
    """Return the sets of a suite in the order of their names.

    Args:
        suite: A folder that contains BEIR folders at any depth, or a single BEIR folder.
        split: Name of the judgments in ``qrels/``.

    Raises:
        DataError: A BEIR folder is incomplete, or has no such split. The message lists all of them.
        UsageError: There is no BEIR folder.
    """
    sets, problems = [], []
    for folder, files in _walk(Path(suite)):
        name = folder.relative_to(suite).as_posix() if folder != Path(suite) else folder.resolve().name
        if files is None:
            problems.append(f"{folder} is incomplete: it needs corpus.jsonl, queries.jsonl and qrels/*.tsv")
        elif split not in files.qrels:
            problems.append(f"{folder} has no qrels/{split}.tsv; it has judgments for {', '.join(files.qrels)}")
        else:
            sets.append(BeirSet(name, files.collection, files.questions[split], files.qrels[split]))
    names = [name_result(each.name) for each in sets]
    if same := [each.name for each in sets if names.count(name_result(each.name)) > 1]:
        problems.append(f"{', '.join(same)} have the same result file, {name_result(same[0])}.json")
    if problems:
        raise DataError(f"{'; '.join(problems)}. Use another --split, or move these folders out of the suite.")
    if not sets:
        raise UsageError(
            f"{os.fspath(suite)}: no folder has corpus.jsonl and queries.jsonl. Give a folder of BEIR sets."
        )
    return sets


class Suite:
    """All stages of a suite.

    Args:
        sets: The sets.
        model: Folder of the model.
        cut_offs: Cut-offs of the metrics.
        arguments: Flags of encode, search and evaluate, by command.
        output_dir: Folder of all stages.
        resolve_settings: Function that returns the values of all flags of a command.
        num_gpus: Number of GPUs for encoding.
    """

    def __init__(
        self,
        sets: Sequence[BeirSet],
        model: str | os.PathLike[str],
        *,
        cut_offs: Sequence[int],
        arguments: Mapping[str, Mapping[str, Any]],
        output_dir: str | os.PathLike[str],
        resolve_settings: ResolveSettings,
        num_gpus: int = 0,
    ) -> None:
        self.sets, self.model, self.cut_offs = sets, TrackedFile.read(model), list(cut_offs)
        self.arguments, self.output_dir = arguments, output_dir
        self.resolve_settings, self.num_gpus = resolve_settings, num_gpus

    def plan(self) -> list[Stage]:
        """Return the stages without running any.

        Raises:
            UsageError: A command does not accept its flags.
        """
        return [stage for each in self.sets for stage in self._evaluate(each, is_rehearsal=True)]

    def evaluate(self) -> Iterator[SetResult]:
        """Run the stages that are not complete, and yield the result of each set.

        Raises:
            ArtifactError, SystemExit, InterruptedRun: A stage failed, see ``run_stage``.
        """
        for each in self.sets:
            stages = self._evaluate(each)
            collection, folder = PassageCollection(each.collection), stages[-1].folder
            rows = read_json_lines(folder / "questions.jsonl", dict[str, Any])
            yield SetResult(
                each.name,
                len(collection),
                collection.counts["passages without text"],
                read_figures(folder / "figures.json").tabulate(),
                {row.pop("question_id"): row for row in rows},
                TrackedFile.read(each.qrels).key,
                round(sum(read_seconds(stage) for stage in stages), 1),
                folder / "evaluation.html",
            )

    def _evaluate(self, files: BeirSet, *, is_rehearsal: bool = False) -> list[Stage]:
        """Return the three stages of a set, which are complete unless this is a rehearsal."""
        stages: list[Stage] = []

        def run(command: str, result: str, **arguments: Any) -> TrackedFile:
            given = {**self.arguments.get(command, {}), **arguments}
            stage = plan_stage(command, given, self.output_dir, result, resolve_settings=self.resolve_settings)
            stages.append(stage)
            return stage.result if is_rehearsal else run_stage(stage, f"{files.name}, {command}", self.num_gpus)

        collection, questions, qrels = (TrackedFile.read(path) for path in files[1:])
        found = {"model": self.model, "embeddings": run("encode", "", model=self.model, collection=collection)}
        # A self match that is dropped must not take the place of another passage.
        k = max(self.cut_offs) + bool(self.arguments.get("evaluate", {}).get("drop_self_matches"))
        ranked = run("search", "dense.trec", **found, questions=questions, qrels=qrels, k=k)
        run("evaluate", "", run=ranked, qrels=qrels, k=self.cut_offs)
        return stages


def _walk(folder: Path) -> Iterator[tuple[Path, JudgedFolder | None]]:
    """Yield the BEIR folders in and below a folder, each with its files, or None if files are missing.

    Links are followed, but not back to a parent folder.
    """
    for root, folders, names in os.walk(folder, followlinks=True):
        path = Path(root)
        if any(name in _PARTS for name in names):
            found = find_judged_folder(path)
            yield path, found if found is not None and found.form == "beir" else None
        parents = {path.resolve(), *path.resolve().parents}
        folders[:] = sorted(name for name in folders if name[0] != "." and (path / name).resolve() not in parents)
