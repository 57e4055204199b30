"""Train, encode, search, evaluate and mine, round after round. The same command continues an interrupted loop.

``dpr-text loop --config=tiny`` runs the recipe ``tiny``, which comes with the package.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from text.commands import load_command
from text.commands.cli import (
    RECIPES,
    check_flags_of,
    flag_fields,
    flag_sections,
    flag_values,
    number,
    parse_flags,
    pick_arguments,
)
from text.commands.model_paths import RANDOM_ENCODERS, model_path
from text.errors import UsageError
from text.runs.loop import Loop, LoopInputs
from text.runs.rounds import (
    Round,
    check_expected,
    check_own_flags,
    choose_measures,
    compare_metrics,
    name_rounds,
    parse_rounds,
)


@dataclass(frozen=True, kw_only=True)
class LoopFlags:
    """Train, encode, search, evaluate and mine, round after round.

    --config reads a recipe: a YAML file, or the name of one that comes with the package, such as tiny.
    Flags change the recipe, and its other settings stay: --train.gpus=1 changes one flag of a section,
    --train='{gpus: 1, seed: 2}' several, and null removes one. A list such as rounds is replaced as a whole.

    Each stage is a command of dpr-text in a folder of its own, which is named after everything that decides its result:
    flags and the content of its inputs. A complete stage is not run again. At the end the loop writes table.md,
    table.json and table.html, and models.json with the folder of each round's model.

    Examples::

        dpr-text loop --config=tiny --output_dir=runs/tiny
        dpr-text loop --config=nq-bert-base --data_path=downloads --encoder=bert-base-uncased --train.gpus=1
        dpr-text loop --config=tiny --output_dir=runs/other --train='{batch_size: 4, temperature: 0.5}'
    """

    data_path: str = "."
    """Folder of the files below. {recipes} stands for the folder of the recipes that come with the package."""
    train_file: str = "train.jsonl"
    """Training rows in the DPR format. Their positives need passage ids. The file may be compressed."""
    valid_file: str = "valid.jsonl"
    """Rows that choose the best checkpoint, and the first half of the table."""
    test_file: str | None = "test.jsonl"
    """Rows of the second half of the table. It may be null if there are test_questions. Training then tests nothing."""
    collection: str
    """File of passages."""
    valid_questions: str | None = None
    """Questions with answers for valid. A passage is then relevant if it contains an answer. Otherwise the positives of
    the rows are relevant."""
    test_questions: str | None = None
    """Questions with answers for test."""
    encoder: str = model_path("tiny", names=RANDOM_ENCODERS)
    """Where training starts, as in dpr-text train. A folder is also evaluated before the first training."""
    score_start: bool = True
    """Evaluate the encoder before the first training. A first round that mines with it needs this."""
    bm25: bool = True
    """Evaluate BM25 too. It holds the whole collection in memory, about 2.45 KB for a passage of 100 words: 51 GB for
    21 million. Without BM25, no round can mine from it."""
    rounds: list[dict[str, Any]] = field(default_factory=lambda: [{}])
    """Training runs in their order. Each has any of train and mine (flags for this round), sources (number of hard
    negatives from each of dense and bm25) and go_on (start from the model of the round before)."""
    windows: dict[str, Any] = field(default_factory=dict, metadata={"command": "windows"})
    """Flags of dpr-text windows. If there are any, the loop trains on windows, encodes and mines them, and scores a
    passage by its best window among 1,000 found. BM25 in the table ranks whole passages."""
    train: dict[str, Any] = field(default_factory=dict, metadata={"command": "train"})
    """Flags of dpr-text train in all rounds."""
    encode: dict[str, Any] = field(default_factory=dict, metadata={"command": "encode"})
    """Flags of dpr-text encode in all rounds."""
    search: dict[str, Any] = field(default_factory=dict, metadata={"command": "search"})
    """Flags of dpr-text search in all rounds. BM25 uses k, bm25_k1 and bm25_b only. The loop raises k to
    the largest cut-off of a measure, and to last_rank of mine."""
    mine: dict[str, Any] = field(default_factory=dict, metadata={"command": "mine"})
    """Flags of dpr-text mine in all rounds."""
    start: dict[str, Any] = field(default_factory=dict, metadata={"command": "encode"})
    """Flags of dpr-text encode for the encoder before the first training, such as titles: join."""
    measures: list[str] = field(default_factory=list)
    """Metrics of the table. The first one is drawn. The default is ndcg@10, recall@100 and mrr@10; or accuracy@1,
    accuracy@20 and accuracy@100 if there are questions with answers."""
    expected: dict[str, dict[str, dict[str, float]]] = field(default_factory=dict)
    """Metrics that the table should have, by round, split and measure. null removes those of a recipe whose settings
    you change: --expected='{round 2: null}'. --expected=null removes all."""
    tolerance: float = number(0.01, least=0)
    """Maximum difference from an expected metric."""
    output_dir: str
    """Folder of all stages. Loops may share it."""

    def __post_init__(self) -> None:
        if (self.valid_questions is None) != (self.test_questions is None):
            raise UsageError("--valid_questions, --test_questions: give both of them or none.")
        if self.test_file is None and self.test_questions is None:
            raise UsageError("--test_file is null. Give a file, or --valid_questions and --test_questions.")
        for name, command in flag_sections(LoopFlags).items():
            _check_arguments(command, getattr(self, name), f"--{name}")
            check_own_flags(command, getattr(self, name), f"--{name}", flag_fields(LoopFlags))
        if self.windows and "max_passage_hits" in self.search:
            raise UsageError("--search.max_passage_hits is set by the loop if there are --windows. Leave it out.")
        for position, each in enumerate(self.parsed_rounds, start=1):
            for command, arguments in (("train", each.train), ("mine", each.mine)):
                _check_arguments(command, arguments, f"round {position}")
                check_own_flags(command, arguments, f"round {position}, {command}", flag_fields(LoopFlags))
        names = name_rounds(len(self.parsed_rounds), has_start=self.score_start, has_bm25=self.bm25)
        check_expected(self.expected, names, self.table_measures)

    @property
    def parsed_rounds(self) -> list[Round]:
        """Rounds with default values."""
        is_random = self.encoder in RANDOM_ENCODERS and not os.path.exists(self.encoder)
        is_start_encoded = self.score_start and not is_random  # A name is looked up, and may be missing, later.
        return parse_rounds(self.rounds, is_start_encoded=is_start_encoded, has_bm25=self.bm25)

    @property
    def table_measures(self) -> list[str]:
        """Metrics of the table, the default ones if none are given."""
        return choose_measures(self.measures, by_answers=self.valid_questions is not None)


def loop(flags: LoopFlags) -> None:
    """Run the stages that have not been run. Write and print the table."""
    from text.datasets import find_same_data
    from text.models import check_encoder_name
    from text.reports.loop_report import check_loop_report, format_markdown_table, write_loop_report
    from text.runs.folder_lock import lock_folder
    from text.runs.inputs import check_inputs

    folder, measures = Path(flags.output_dir), flags.table_measures
    check_encoder_name(flags.encoder)
    with lock_folder(folder):
        check_loop_report(folder)
        inputs = open_inputs(flags)
        build = partial(build_loop, flags, inputs)
        rehearsal = build(is_rehearsal=True)
        check_expected(flags.expected, list(rehearsal.measure_rounds()), measures)
        check_inputs(rehearsal.stages, folder)
        notes = find_same_data({split: [file.key] for split, file in inputs.list_scored().items()})
        tell_bm25(rehearsal, inputs)
        print(f"{len({stage.folder for stage in rehearsal.stages})} stages in {folder}", flush=True)
        runner = build()
        table = runner.measure_rounds()
        models = {name: model.path for name, model in runner.models.items()}
        write_loop_report(folder, table, measures, models, notes)
    print("\n".join([format_markdown_table(table, measures), *notes]))
    for name, path in models.items():
        print(f"model of {name}: {path}")
    print(f"table: {folder / 'table.md'}, with table.html, table.json and models.json beside it")
    if num_metrics := compare_metrics(table, flags.expected, flags.tolerance):
        print(f"all {num_metrics} metrics are as expected, tolerance {flags.tolerance}")


def open_inputs(flags: LoopFlags) -> LoopInputs:
    """Read and hash the input files."""
    arguments = pick_arguments(LoopInputs.open, flags)
    arguments["data_path"] = flags.data_path.replace("{recipes}", str(RECIPES))
    return LoopInputs.open(**arguments)


def tell_bm25(rehearsal: Loop, inputs: LoopInputs) -> None:
    """Print how much memory BM25 will need, if a stage that is not complete searches with it."""
    from text.datasets import PassageCollection
    from text.retrieval.counts import tell_bm25_memory
    from text.runs.stages import is_complete

    searches = [stage for stage in rehearsal.stages if stage.command == "search" and stage.settings["bm25"]]
    if not all(map(is_complete, searches)):
        import text.retrieval.bm25  # noqa: F401  If its packages are missing, no stage runs.

        tell_bm25_memory(len(PassageCollection(inputs.collection.path)), print)


def build_loop(flags: LoopFlags, inputs: LoopInputs, *, is_rehearsal: bool = False) -> Loop:
    """Return the loop. A rehearsal runs no stage."""
    return Loop(
        inputs,
        flags.parsed_rounds,
        encoder=flags.encoder,
        score_start=flags.score_start,
        score_bm25=flags.bm25,
        arguments={name: getattr(flags, name) for name in ("windows", "train", "encode", "search", "mine")},
        start_arguments=flags.start,
        measures=flags.table_measures,
        output_dir=flags.output_dir,
        resolve_settings=resolve_settings,
        is_rehearsal=is_rehearsal,
    )


def _check_arguments(command: str, arguments: Mapping[str, Any], place: str) -> None:
    """Check the types and ranges of some flags of a command. ``plan_stage`` checks that they go together.

    Args:
        command: The command.
        arguments: Flags of the command, as a recipe has them.
        place: Where they stand, for the error.

    Raises:
        UsageError: A flag is unknown, or its value is wrong.
    """
    check_flags_of(load_command(command)[1], arguments, f"{place}, flags of {command}")


def resolve_settings(name: str, arguments: Sequence[str]) -> Mapping[str, Any]:
    """Return the value of every flag of a command."""
    _, flags_class = load_command(name)
    return flag_values(parse_flags(flags_class, arguments))
