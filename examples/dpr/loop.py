"""Trains, encodes, searches, scores, mines hard negatives, and trains again: every round as one command.

    python examples/dpr/loop.py --config=examples/dpr/recipes/tiny.yaml

Each stage is a command of its own, in a folder that is named after all that decides its result: flags, and the content
of its inputs. What is there already is not done again, so that the same command goes on where it was interrupted, and
another threshold of mining repeats mining and what follows from it. At the end: table.md, table.json, rounds.png.
"""

from __future__ import annotations

import json
import os
import re
import sys
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, NamedTuple

from examples.dpr.build import check_encoder
from examples.dpr.cli import UsageError, run, signals_as_errors
from examples.dpr.evaluate import CUT_OFFS
from examples.dpr.mine import MineConfig
from examples.dpr.output import lock_output
from examples.dpr.paths import check_readable
from examples.dpr.rounds_page import draw_rounds, markdown
from examples.dpr.search import SearchConfig
from examples.dpr.stages import File, do, external, stage_of
from text.artifacts import write_json, write_text
from text.errors import ArtifactError

Flags = dict[str, Any]
Table = dict[str, dict[str, dict[str, float]]]
"""Figures by round, split and measure."""
_ANSWERS, _POSITIVES = ["accuracy@1", "accuracy@20", "accuracy@100"], ["ndcg@10", "recall@100", "mrr@10"]
"""Measures by answers, and by positives, where none are asked for."""
_NUM_WINDOWS = 1000
"""Found for each question, where documents are as good as their best ones; more, if more documents are measured."""


@dataclass(frozen=True, kw_only=True)
class Round:
    """One training, and the mining before it."""

    train: Flags = field(default_factory=dict)
    """Flags of main.py, beside those of all rounds."""
    mine: Flags = field(default_factory=dict)
    """Flags of mine.py, beside those of all rounds."""
    sources: dict[str, int] = field(default_factory=dict)
    """Hard negatives to mine from each of ``dense``, the model of the round before, and ``bm25``; without any, rows
    are taken as they are."""
    go_on: bool = False
    """Start from the model of the round before instead of ``encoder``."""


@dataclass(frozen=True, kw_only=True)
class LoopConfig:
    """Trains, encodes, searches, scores, mines hard negatives, and trains again, as often as there are rounds."""

    data_path: str = "."
    """Folder of the files below."""
    train_file: str = "train.jsonl"
    """Rows in the DPR format, whose positives have passage ids; plain or compressed."""
    dev_file: str = "valid.jsonl"
    """Rows to choose by: what training validates on, and the table's first half."""
    test_file: str = "test.jsonl"
    """Rows of the table's second half."""
    collection: str = "psgs_w100.tsv"
    """Passages."""
    dev_questions: str | None = None
    """Questions with answers: scores then count passages that hold one. Without, those that are the rows' positives."""
    test_questions: str | None = None
    """Likewise."""
    encoder: str = "tiny"
    """As main.py has it. A folder is also scored as it is."""
    score_start: bool = True
    """Score it so; needed by a first round that mines with it."""
    rounds: list[Flags] = field(default_factory=lambda: [{}])
    """Trainings, in order, each with any of ``train``, ``sources``, ``mine`` and ``go_on``."""
    windows: Flags = field(default_factory=dict)
    """Flags of windows.py. With any, windows are trained on, encoded and mined, and a passage of the collection is as
    good as its best one among 1,000 found; BM25, in the table, has whole passages."""
    train: Flags = field(default_factory=dict)
    """Flags of main.py in all rounds."""
    encode: Flags = field(default_factory=dict)
    """Flags of encode.py in all rounds."""
    search: Flags = field(default_factory=dict)
    """Flags of search.py in all rounds; with BM25, k alone. It is raised to what is measured, and to what mining looks
    at (last_rank)."""
    mine: Flags = field(default_factory=dict)
    """Flags of mine.py in all rounds."""
    start: Flags = field(default_factory=dict)
    """Flags of encode.py for the encoder as it is, such as titles: join."""
    measures: list[str] = field(default_factory=list)
    """What the table shows, the first of them in the picture, too; by default nDCG@10, recall@100 and MRR@10, or, by
    answers, accuracy@1, @20 and @100."""
    expected: dict[str, dict[str, dict[str, float]]] = field(default_factory=dict)
    """By round, split and measure: figures that others should see again."""
    tolerance: float = 0.01
    """How far they may be off."""
    output_dir: str = "runs/loop"
    """Folder of all stages; loops may share it."""

    def __post_init__(self) -> None:
        for number, each in enumerate(self.rounds, start=1):
            if unknown := each.keys() - {field.name for field in fields(Round)}:
                raise UsageError(f"round {number} has {', '.join(sorted(unknown))}; expected fields of a round")
            if wrong := [name for name in ("train", "mine", "sources") if not isinstance(each.get(name, {}), dict)]:
                raise UsageError(f"round {number}: {wrong[0]} is {each[wrong[0]]}; expected names with values")
        for number, each in enumerate(self.trainings, start=1):
            if unknown := each.sources.keys() - {"dense", "bm25"}:
                raise UsageError(f"round {number} mines from {', '.join(sorted(unknown))}; expected dense and bm25")
            is_scored = self.is_pretrained and self.score_start
            if number == 1 and (each.go_on or ("dense" in each.sources and not is_scored)):
                raise UsageError(
                    "round 1 goes on with, or mines by, the round before; expected a pretrained, scored --encoder"
                )
        if (self.dev_questions is None) != (self.test_questions is None):
            raise UsageError("expected --dev_questions together with --test_questions")
        names = r"(ndcg|mrr|recall|precision)@[1-9]\d*|map" if self.dev_questions is None else r"accuracy@[1-9]\d*"
        if wrong := [name for name in self.measured if not re.fullmatch(names, name)]:
            raise UsageError(f"--measures has {wrong[0]}; expected those of evaluate.py: {names}")
        self._check_expected()

    def _check_expected(self) -> None:
        rounds = [
            "BM25",
            *(["start"] if self.score_start else []),
            *(f"round {number + 1}" for number in range(len(self.rounds))),
        ]
        for name, of_round in self.expected.items():
            for split, figures in of_round.items():
                if name not in rounds or split not in ("dev", "test") or not figures.keys() <= set(self.measured):
                    found = f"{name}, {split}: {', '.join(figures)}"
                    known = f"{', '.join(rounds)}, each with dev or test, and {', '.join(self.measured)}"
                    raise UsageError(f"--expected has {found}; expected {known}")

    @property
    def trainings(self) -> list[Round]:
        return [Round(**each) for each in self.rounds]

    @property
    def is_pretrained(self) -> bool:
        return Path(self.encoder).exists()

    @property
    def measured(self) -> list[str]:
        return self.measures or (_POSITIVES if self.dev_questions is None else _ANSWERS)

    @property
    def searched(self) -> int:
        """Passages that are found for each question, at least."""
        return number_in(self.search, "k", SearchConfig.k)

    @property
    def cut_offs(self) -> list[int]:
        """Those of evaluate.py, and of what is measured."""
        return sorted({*CUT_OFFS} | {int(name.partition("@")[2]) for name in self.measured if "@" in name})


def number_in(flags: Flags, name: str, otherwise: int) -> int:
    """A flag's number, the default where it is not given.

    Raises:
        UsageError: It is none.
    """
    number = flags.get(name, otherwise)
    if type(number) is not int:
        raise UsageError(f"{name} is {number}; expected a whole number")
    return number


def main(config: LoopConfig) -> None:
    """Does what is not yet done; writes the table."""
    with signals_as_errors(), lock_output(config.output_dir):
        rehearsal = Loop(config, is_rehearsal=True)
        rehearsal.table()
        print(f"{len(set(rehearsal.stages))} stages in {config.output_dir}", flush=True)
        table = Loop(config).table()
        folder = Path(config.output_dir)
        write_json(folder / "table.json", table)
        write_text(folder / "table.md", markdown(table, config.measured))
        draw_rounds(folder / "rounds.png", table, config.measured[0])
    print(markdown(table, config.measured))
    check_expected(config, table)


def check_expected(config: LoopConfig, table: Table) -> None:
    """Compares with what the recipe says.

    Raises:
        ArtifactError: A figure is another one.
    """
    expected = [
        (name, split, measure, figure)
        for name, of_round in config.expected.items()
        for split, figures in of_round.items()
        for measure, figure in figures.items()
    ]
    for name, split, measure, figure in expected:
        found = table.get(name, {}).get(split, {}).get(measure)
        if found is None or abs(found - figure) > config.tolerance:
            raise ArtifactError(
                f"{name}, {split} {measure}: {found}; expected {figure}, at most {config.tolerance} off"
            )
    if expected:
        print(f"all {len(expected)} figures are as expected, at most {config.tolerance} off")


class Encoded(NamedTuple):
    """A model, and what it makes of the collection."""

    model: File
    embeddings: File


class Loop:
    """The stages of all rounds. A method does its stage, unless that is done, and gives the file that it makes.

    In a rehearsal none is done: it finds flags that a driver does not take before hours of work, and leaves ``stages``.
    """

    def __init__(self, config: LoopConfig, *, is_rehearsal: bool = False) -> None:
        check_encoder(config.encoder)
        if "start" in config.expected and not config.is_pretrained:
            raise UsageError(f"--expected has start, --encoder is {config.encoder}; expected a folder of weights")
        self.config, self.is_rehearsal = config, is_rehearsal
        self.stages: list[str] = []
        self.train_rows, dev, test, self.documents = (
            self._input(name) for name in (config.train_file, config.dev_file, config.test_file, config.collection)
        )
        self.rows = {"dev": dev, "test": test}
        questions = {"dev": config.dev_questions, "test": config.test_questions}
        self.questions = {split: self._input(path) for split, path in questions.items() if path is not None}
        self.collection = self.documents

    def table(self) -> Table:
        """Figures of words alone, of the encoder as it is, and of each round."""
        if self.config.windows:
            self.cut()
        table = {"BM25": self.figures("BM25", None)}
        model = None
        if self.config.is_pretrained and self.config.score_start:
            encoder = external(self.config.encoder)
            model = self.encode("start", encoder, self.config.start)
            table["start"] = self.figures("start", model)
        for number, each in enumerate(self.config.trainings, start=1):
            name = f"round {number}"
            rows = self.mine(name, each, model) if each.sources else self.train_rows
            model = self.encode(name, self.train(name, each, rows, model), {})
            table[name] = self.figures(name, model)
        return table

    def cut(self) -> None:
        """Windows, instead of the passages and in the rows."""
        flags = {**self.config.windows, "collection": self.documents, "rows": self.train_rows}
        folder = self._do("windows", "windows", flags)
        self.train_rows, self.collection = folder.part("rows.jsonl"), folder.part("passages.jsonl")

    def mine(self, name: str, of: Round, model: Encoded | None) -> File:
        """Rows with the hard negatives of a round."""
        models = {"dense": model, "bm25": None}
        last_rank = number_in({**self.config.mine, **of.mine}, "last_rank", MineConfig.last_rank)
        more = {"with_positives": True, "k": max(self.config.searched, last_rank)}
        runs = [self.search(name, self.train_rows, models[source], self.collection, more) for source in of.sources]
        flags = {**self.config.mine, **of.mine, "runs": runs, "num": list(of.sources.values())}
        return self._do(name, "mine", {**flags, "rows": self.train_rows, "collection": self.collection}, "rows.jsonl")

    def train(self, name: str, of: Round, rows: File, previous: Encoded | None) -> File:
        """The model of a round."""
        config = self.config
        encoder = external(config.encoder) if config.is_pretrained else config.encoder
        if of.go_on and previous is not None:
            encoder = previous.model
        files = {"train_files": [rows], "valid_file": self.rows["dev"], "test_file": self.rows["test"]}
        return self._do(name, "main", {**config.train, **of.train, "encoder": encoder, **files}).part("model")

    def encode(self, name: str, model: File, more: Flags) -> Encoded:
        """The collection."""
        flags = {**self.config.encode, **more, "model": model, "collection": self.collection}
        return Encoded(model, self._do(name, "encode", flags))

    def search(self, name: str, questions: File, model: Encoded | None, collection: File, more: Flags) -> File:
        """A run by a model, of what it encoded; or by words, of a collection."""
        if model is None:
            flags = {"bm25": True, "collection": collection}
        else:
            flags = {**self.config.search, "model": model.model, "embeddings": model.embeddings}
        run = "bm25.trec" if model is None else "dense.trec"
        return self._do(name, "search", {**flags, **more, "questions": questions}, run)

    def figures(self, name: str, model: Encoded | None) -> dict[str, dict[str, float]]:
        """By split and measure."""
        found, more = {}, {"k": max(self.config.searched, self.config.cut_offs[-1])}
        if model is not None and self.config.windows:
            more = {"k": max(_NUM_WINDOWS, more["k"]), "max_passage_hits": self.config.cut_offs[-1]}
        for split, rows in self.rows.items():
            if split in self.questions:
                judged = {"questions": self.questions[split], "collection": self.documents}
            else:
                judged = {"positives": rows}
            run = self.search(name, self.questions.get(split, rows), model, self.documents, more)
            folder = self._do(name, "evaluate", {**judged, "run": run, "k": self.config.cut_offs})
            if self.is_rehearsal:
                continue
            figures = json.loads((folder.path / "figures.json").read_text(encoding="utf-8"))["figures"]
            found[split] = {measure: figures[measure]["mean"] for measure in self.config.measured}
        return found

    def _input(self, name: str) -> File:
        path = os.path.join(self.config.data_path, name)
        check_readable(path)
        return external(path)

    def _do(self, name: str, driver: str, flags: Flags, makes: str = "") -> File:
        stage = stage_of(driver, flags, self.config.output_dir, makes)
        self.stages.append(stage.folder.name)
        if not self.is_rehearsal:
            do(stage, f"{name}, {driver}")
        return stage.result


if __name__ == "__main__":
    sys.exit(run(main, LoopConfig))
