"""The flags of ``dpr-text loop``."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from text.commands import load_command
from text.commands.cli import (
    MAX_SEED,
    check_partial_flags,
    get_flag_fields,
    get_flag_sections,
    list_given_flags,
    number_field,
)
from text.commands.model_paths import RANDOM_ENCODERS, model_path_field
from text.errors import UsageError
from text.runs.rounds import (
    FUSED,
    RERANKED,
    Round,
    check_expected,
    check_not_set_by_loop,
    choose_measures,
    filters_by_teacher,
    learns_from_teacher,
    name_rounds,
    parse_rounds,
)
from text.runs.seeds import check_seeds

_FILE_FLAGS = ("train_file", "valid_file", "test_file", "valid_questions", "test_questions")
_BEIR_FLAGS = ("train_split", "valid_split", "test_split", "valid_share")


@dataclass(frozen=True, kw_only=True)
class LoopFlags:
    """Train, encode, search, evaluate and mine in several rounds.

    --config reads a recipe: a YAML file, or the name of a recipe in the package, such as tiny. Other flags override
    single settings of the recipe: --train.gpus=1 changes one flag of a section, --train='{gpus: 1, seed: 2}' changes
    several, and null removes one. A list such as rounds is replaced as a whole.

    With a BEIR folder as --data_path, no other file is needed. Its judgments become training, validation and test rows.

    Each stage runs one dpr-text command in its own folder. The folder name is a hash of the flags and of the input
    files, so a complete stage is reused. Training and encoding use all GPUs of the machine, unless their sections give
    gpus. At the end, the loop writes table.md, table.json and table.html, models.json with the model folder of each
    round, and rounds.json with the significance tests. docs/guide/mining.md explains each section of a recipe.

    Examples::

        dpr-text loop --config=tiny --output_dir=runs/tiny
        dpr-text loop --config=nq-bert-base --data_path=downloads --encoder=bert-base-uncased --train.gpus=1
        dpr-text loop --config=tiny --output_dir=runs/other --train='{batch_size: 4, temperature: 0.5}'
        dpr-text loop --data_path=beir/fiqa --encoder=all-MiniLM-L6-v2 --train.batch_size=64 --output_dir=runs/fiqa
    """

    data_path: str = "."
    """Folder of the input files below or, without --collection, a BEIR folder. {recipes} stands for the package's
    folder of recipes."""
    train_file: str = "train.jsonl"
    """Training rows in the DPR format, whose positives need passage ids. The file may be compressed."""
    valid_file: str = "valid.jsonl"
    """Validation rows, which choose the best checkpoint and are scored in the table."""
    test_file: str | None = "test.jsonl"
    """Test rows, which are scored in the table. null is allowed if test_questions is given; training then computes no
    test metrics."""
    collection: str | None = None
    """Passage file. Required unless data_path is a BEIR folder."""
    train_split: str = "train"
    """Judgments of a BEIR folder to train on: the name of a file in qrels/. Use dev if a set has no train."""
    valid_split: str | None = None
    """Judgments of a BEIR folder for validation. The default is dev, valid or validation, unless it is trained on."""
    test_split: str = "test"
    """Judgments of a BEIR folder for the test."""
    valid_share: float | None = number_field(None, above=0, below=1)
    """Share of the training questions of a BEIR folder to hold out for validation. By default, 0.1 is held out if there
    are no judgments for validation."""
    valid_questions: str | None = None
    """Validation questions with answers: a passage is then relevant if it contains an answer. By default, the positives
    of the rows are relevant."""
    test_questions: str | None = None
    """Test questions with answers, to be given together with valid_questions."""
    encoder: str = model_path_field("tiny", names=RANDOM_ENCODERS)
    """Encoder to start from, as in dpr-text train."""
    score_start: bool = True
    """Also evaluate a pretrained encoder before the first training. Required if round 1 mines with it. Ignored for
    random weights, such as tiny."""
    bm25: bool = True
    """Also evaluate BM25. Its index is in output_dir, in a folder that all searches share. With false, rounds cannot
    mine from BM25."""
    hybrid: bool = False
    """Also evaluate each model fused with BM25. The first measure on the validation questions chooses the method and
    the weight of the fusion; with valid_questions, both have weight 0.5. Rounds can then mine from hybrid."""
    rounds: list[dict[str, Any]] | None = None
    """Training runs in order. Each round may have train and mine (flags of this round), sources (number of hard
    negatives from dense, bm25 and hybrid) and go_on (start from the last accepted model). The default is one round.
    It trains with the negatives of the rows or, for a BEIR folder, with one hard negative from BM25."""
    seeds: list[int] = field(default_factory=list, metadata={"least": 0, "most": MAX_SEED})
    """Train each round once with each of these seeds. The table then shows the mean and the standard deviation over the
    seeds. The next round uses the model with the best first measure on the validation questions."""
    windows: dict[str, Any] = field(default_factory=dict, metadata={"command": "windows"})
    """Flags of dpr-text windows. If given, the loop trains, encodes and mines windows. It scores each passage by its
    best window among the top 1,000, but BM25 in the table ranks whole passages."""
    train: dict[str, Any] = field(default_factory=dict, metadata={"command": "train"})
    """Flags of dpr-text train for all rounds."""
    encode: dict[str, Any] = field(default_factory=dict, metadata={"command": "encode"})
    """Flags of dpr-text encode for all rounds."""
    search: dict[str, Any] = field(default_factory=dict, metadata={"command": "search"})
    """Flags of dpr-text search for all rounds; BM25 uses only k, bm25_k1 and bm25_b. The loop raises k to the largest
    cut-off of the measures and to last_rank of mine."""
    mine: dict[str, Any] = field(default_factory=dict, metadata={"command": "mine"})
    """Flags of dpr-text mine for all rounds."""
    teacher: str | None = model_path_field(None)
    """Reranker or bi-encoder whose scores the rounds learn from. Give at least one flag that uses it: rerank_k,
    train.distillation, train.guide_margin, mine.teacher_margin or mine.teacher_relative_margin."""
    reranker: dict[str, Any] = field(default_factory=dict, metadata={"command": "train"})
    """Flags of dpr-text train --task=rerank, such as max_epochs: 1. If given, a reranker is trained on the rows of the
    first round, and is the teacher from then on. It starts from the encoder of the loop, or from reranker.encoder."""
    rerank_k: int | None = number_field(None, least=1)
    """Also evaluate each model with this many passages per question reranked by the teacher."""
    score: dict[str, Any] = field(default_factory=dict, metadata={"command": "score"})
    """Flags of dpr-text score, which writes the scores of the teacher into the rows of a round."""
    start: dict[str, Any] = field(default_factory=dict, metadata={"command": "encode"})
    """Flags of dpr-text encode for the encoder before the first training, such as titles: join."""
    measures: list[str] = field(default_factory=list)
    """Metrics of the table; the first one is plotted. The default is ndcg@10, recall@100 and mrr@10, or accuracy@1,
    accuracy@20 and accuracy@100 for questions with answers."""
    expected: dict[str, dict[str, dict[str, float]]] = field(default_factory=dict)
    """Expected metrics by round, split and measure; a difference above tolerance is an error. null removes the metrics
    of a recipe whose settings you change: --expected='{round 2: null}', or --expected=null for all."""
    tolerance: float = number_field(0.01, least=0)
    """Maximum difference from an expected metric."""
    require_improvement: bool = False
    """End with exit code 7 if the last accepted round is not better than the start encoder on the validation questions,
    by the first measure. Needs a start encoder that is evaluated (--score_start)."""
    output_dir: str
    """Output folder of all stages. Several loops may share it."""

    def __post_init__(self) -> None:
        unused = _FILE_FLAGS if self.is_beir else _BEIR_FLAGS
        if given := list_given_flags(self, unused):
            needed = "--collection" if self.is_beir else "a BEIR folder as --data_path, without --collection"
            raise UsageError(f"--{given[0]} needs {needed}.")
        if self.valid_split is not None and self.valid_share is not None:
            raise UsageError("--valid_split, --valid_share: give only one of them.")
        if self.is_beir and self.train_split in (self.valid_split, self.test_split):
            name = "valid_split" if self.train_split == self.valid_split else "test_split"
            raise UsageError(
                f"--train_split and --{name} are both {self.train_split}. The loop would measure questions that it "
                "trains on. Choose two splits."
            )
        if (self.valid_questions is None) != (self.test_questions is None):
            raise UsageError("--valid_questions, --test_questions: give both of them or neither.")
        if self.test_file is None and self.test_questions is None:
            raise UsageError("--test_file is null. Give a file, or --valid_questions and --test_questions.")
        for name, command in get_flag_sections(LoopFlags).items():
            _check_arguments(command, getattr(self, name), f"--{name}")
            given = [flag for flag in getattr(self, name) if (name, flag) != ("reranker", "encoder")]
            check_not_set_by_loop(command, given, f"--{name}", get_flag_fields(LoopFlags))
        if self.windows and "max_passage_hits" in self.search:
            raise UsageError("--search.max_passage_hits is set by the loop when --windows is given. Leave it out.")
        for position, each in enumerate(self.parsed_rounds, start=1):
            for command, arguments in (("train", each.train), ("mine", each.mine)):
                _check_arguments(command, arguments, f"round {position}")
                check_not_set_by_loop(command, arguments, f"round {position}, {command}", get_flag_fields(LoopFlags))
        if self.hybrid and not self.bm25:
            raise UsageError("--hybrid needs --bm25.")
        self._check_teacher()
        ends = ["", *[FUSED] * self.hybrid, *[RERANKED] * (self.rerank_k is not None)]
        known = {"has_start": self.score_start, "has_bm25": self.bm25}
        names = name_rounds(len(self.parsed_rounds), **known, ends=ends)
        check_expected(self.expected, names, self.table_measures)
        sections = {f"round {place}, train": each.train for place, each in enumerate(self.parsed_rounds, start=1)}
        if self.seeds and not sections:
            raise UsageError("--seeds needs a round, but --rounds is empty.")
        check_seeds(self.seeds, {"--train": self.train, **sections})

    def _check_teacher(self) -> None:
        """Check that there is a teacher if one is needed, and that a teacher has a use."""
        train = [{**self.train, **each.train} for each in self.parsed_rounds]
        mine = [{**self.mine, **each.mine} for each in self.parsed_rounds if each.sources]
        filters = any(map(filters_by_teacher, mine))
        if self.teacher is None and not self.reranker:
            if filters or self.rerank_k is not None or self.score:
                raise UsageError(
                    "--rerank_k, --score, --mine.teacher_margin: these flags need --teacher or --reranker."
                )
            return
        if self.teacher is not None and self.reranker:
            raise UsageError("--teacher, --reranker: give at most one of them.")
        if any("score_key" in each for each in train):
            raise UsageError("--train.score_key is set by the loop when there is a teacher. Leave it out.")
        if not (filters or self.rerank_k is not None or any(map(learns_from_teacher, train))):
            raise UsageError(
                "--teacher, --reranker: no round uses the teacher. Set --train.distillation, --train.guide_margin, "
                "--mine.teacher_margin or --rerank_k."
            )

    @property
    def is_beir(self) -> bool:
        """True if data_path is to be read as a BEIR folder."""
        return self.collection is None

    @property
    def parsed_rounds(self) -> list[Round]:
        """Parsed rounds, with defaults filled in."""
        is_random = self.encoder in RANDOM_ENCODERS and not os.path.exists(self.encoder)
        is_start_encoded = self.score_start and not is_random  # A model name is looked up later.
        default: list[dict[str, Any]] = [{"sources": {"bm25": 1}}] if self.is_beir and self.bm25 else [{}]
        rounds = default if self.rounds is None else self.rounds
        known = {"has_bm25": self.bm25, "has_hybrid": self.hybrid}
        return parse_rounds(rounds, is_start_encoded=is_start_encoded, **known)

    @property
    def table_measures(self) -> list[str]:
        """Metrics of the table. The defaults apply if ``measures`` is empty."""
        return choose_measures(self.measures, by_answers=self.valid_questions is not None)


def _check_arguments(command: str, arguments: Mapping[str, Any], place: str) -> None:
    """Check the types and ranges of some flags of a command. ``plan_stage`` checks their combination.

    Args:
        command: Name of the command.
        arguments: Flags of the command, as given in a recipe.
        place: Position in the recipe, for error messages.

    Raises:
        UsageError: A flag is unknown, or its value is wrong.
    """
    check_partial_flags(load_command(command)[1], arguments, f"{place}, flags of {command}")
