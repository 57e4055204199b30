"""Input files of a loop: named files of a folder, or a BEIR folder."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from text.artifacts import check_readable, hash_json, read_json_lines, write_together
from text.datasets.forms.beir import prepare_qrels
from text.datasets.forms.folders import JudgedFolder, find_judged_folder
from text.errors import UsageError
from text.evaluation import Qrels, read_qrels
from text.records import hash_question
from text.runs.rounds import SPLITS
from text.runs.tracked import TrackedFile

VALID_SHARE = 0.1
"""Default share of the training questions that is held out if a BEIR folder has no judgments for validation."""
_VALID_NAMES = ("dev", "valid", "validation")


class Judged(NamedTuple):
    """Questions to evaluate, and how their passages are judged."""

    questions: TrackedFile
    """File of the questions to search."""
    judgments: dict[str, TrackedFile]
    """Flags of evaluate with the judgments: positives, qrels, or questions with collection."""

    @property
    def search_flags(self) -> dict[str, TrackedFile]:
        """Flags of search that select the judged questions."""
        return {name: file for name, file in self.judgments.items() if name == "qrels"}

    @property
    def key(self) -> str:
        """Hash of the file that decides which questions are evaluated."""
        return self.judgments.get("qrels", self.questions).key


class LoopInputs(NamedTuple):
    """Input files of a loop."""

    train_rows: TrackedFile
    collection: TrackedFile
    rows: dict[str, TrackedFile]
    """Validation and test rows, by split."""
    judged: dict[str, Judged]
    """Questions to evaluate, by split."""
    notes: tuple[str, ...] = ()
    """Lines about the choice of the files."""

    @property
    def is_judged_by_answers(self) -> bool:
        """True if relevance is judged by answers: a relevant passage contains an answer."""
        return any("questions" in judged.judgments for judged in self.judged.values())

    @classmethod
    def open(
        cls,
        data_path: str | os.PathLike[str],
        *,
        train_file: str,
        valid_file: str,
        test_file: str | None,
        collection: str,
        valid_questions: str | None = None,
        test_questions: str | None = None,
    ) -> LoopInputs:
        """Read and hash the files of a folder.

        Args:
            data_path: The folder.
            train_file: Training rows in the DPR format.
            valid_file: Validation rows.
            test_file: Test rows. None if ``test_questions`` is given instead.
            collection: File of passages.
            valid_questions: Validation questions with answers. Without them, the positives of the rows are relevant.
            test_questions: Test questions with answers.

        Raises:
            ValueError: A file cannot be read.
        """

        def read(name: str) -> TrackedFile:
            path = _find_file(os.path.join(data_path, name))
            check_readable(path)
            return TrackedFile.read(path)

        names = {"valid": (valid_file, valid_questions), "test": (test_file, test_questions)}
        train_rows, passages = read(train_file), read(collection)
        rows = {split: read(name) for split, (name, _) in names.items() if name is not None}
        judged = {}
        for split, (_, questions) in names.items():
            if questions is not None:
                file = read(questions)
                judged[split] = Judged(file, {"questions": file, "collection": passages})
            else:
                judged[split] = Judged(rows[split], {"positives": rows[split]})
        return cls(train_rows, passages, rows, judged)

    @classmethod
    def open_beir(
        cls,
        data_path: str | os.PathLike[str],
        output_dir: str | os.PathLike[str],
        *,
        train_split: str = "train",
        valid_split: str | None = None,
        test_split: str = "test",
        valid_share: float | None = None,
    ) -> LoopInputs:
        """Convert the judgments of a BEIR folder to rows, and read and hash all files.

        Args:
            data_path: The folder.
            output_dir: Folder of the loop. Held-out questions are written to a subfolder.
            train_split: Judgments to train on: the name of a file in ``qrels/``.
            valid_split: Judgments for validation. The default is dev, valid or validation.
            test_split: Judgments for the test.
            valid_share: Share of the training questions to hold out for validation. By default, questions are held out
                only if there are no judgments for validation.

        Raises:
            UsageError: The folder is not in BEIR's layout, or lacks a split.
            DataError, OSError: A file cannot be read.
        """
        folder = find_judged_folder(data_path)
        if folder is None or folder.form != "beir":
            problem = f"--data_path is {os.fspath(data_path)}, which is not a BEIR folder"
            raise UsageError(f"{problem} (corpus.jsonl, queries.jsonl, qrels/*.tsv), and --collection is missing.")
        if valid_split is None and valid_share is None:
            valid_split = next((name for name in _VALID_NAMES if name in folder.qrels and name != train_split), None)
        splits = {"train": train_split, "valid": valid_split, "test": test_split}
        qrels = {stage: _find_qrels(folder, stage, name) for stage, name in splits.items() if name is not None}
        rows = {stage: TrackedFile.read(prepare_qrels(path)) for stage, path in qrels.items()}
        judged = {stage: TrackedFile.read(path) for stage, path in qrels.items()}
        notes = [f"{stage}: {path}" for stage, path in qrels.items()]
        if valid_split is None:
            share = VALID_SHARE if valid_share is None else valid_share
            rows["train"], rows["valid"], judged["valid"] = _hold_out(rows["train"], judged["train"], share, output_dir)
            notes.append(f"valid: {share:.0%} of the training questions, held out in {judged['valid'].path.parent}")
        questions = TrackedFile.read(folder.questions[test_split])
        evaluated = {split: Judged(questions, {"qrels": judged[split]}) for split in SPLITS}
        train_rows = rows.pop("train")
        return cls(train_rows, TrackedFile.read(folder.collection), rows, evaluated, tuple(notes))


def split_questions(questions: Mapping[str, str], share: float) -> set[str]:
    """Return the ids of the questions to hold out. Ids with the same question stay together.

    The choice depends only on the texts of the questions.

    Args:
        questions: Text of each question by id.
        share: Share of the different questions to hold out.

    Raises:
        UsageError: One side would be empty.

    >>> questions = {str(number): f"what is tree {number // 2}" for number in range(8)}
    >>> len(split_questions(questions, 0.5))
    4
    """
    keys = {question_id: hash_question(text) for question_id, text in questions.items()}
    ranked = sorted(set(keys.values()))
    num_held_out = round(share * len(ranked))
    if not 0 < num_held_out < len(ranked):
        raise UsageError(
            f"--valid_share is {share}, which leaves no question for training or validation: there are {len(ranked)} "
            "different training questions. Use another share, or --valid_split."
        )
    held_out = set(ranked[:num_held_out])
    return {question_id for question_id, key in keys.items() if key in held_out}


def _hold_out(
    rows: TrackedFile, qrels: TrackedFile, share: float, output_dir: str | os.PathLike[str]
) -> tuple[TrackedFile, TrackedFile, TrackedFile]:
    """Split training rows, and return the files of the training rows, validation rows and validation judgments."""
    records = list(read_json_lines(rows.path, dict[str, Any]))
    held_out = split_questions({row["question_id"]: row["question"] for row in records}, share)
    parts: dict[bool, list[Any]] = {True: [], False: []}
    for row in records:
        parts[row["question_id"] in held_out].append(row)
    judgments = read_qrels(qrels.path)
    kept = {question_id: judged for question_id, judged in judgments.items() if question_id in held_out}
    folder = Path(output_dir, f"split-{hash_json([rows.key, qrels.key, share])[:16]}")
    paths = [folder / name for name in ("train.jsonl", "valid.jsonl", "valid.tsv")]
    with write_together(paths) as [train, valid, judged]:
        for path, part in ((train, parts[False]), (valid, parts[True])):
            path.write_text("".join(f"{json.dumps(row, ensure_ascii=False)}\n" for row in part), encoding="utf-8")
        judged.write_text("".join(_format_qrels(kept)), encoding="utf-8")
    train_rows, valid_rows, valid_qrels = map(TrackedFile.read, paths)
    return train_rows, valid_rows, valid_qrels


def _format_qrels(qrels: Qrels) -> Iterable[str]:
    """Yield the lines of judgments in BEIR's format."""
    yield "query-id\tcorpus-id\tscore\n"
    for question_id, judged in qrels.items():
        yield from (f"{question_id}\t{passage_id}\t{relevance}\n" for passage_id, relevance in judged.items())


def _find_qrels(folder: JudgedFolder, stage: str, split: str) -> str:
    if split not in folder.qrels:
        found = ", ".join(folder.qrels)
        raise UsageError(f"--{stage}_split is {split}, but the folder has judgments for {found}. Give one of them.")
    return folder.qrels[split]


def _find_file(path: str) -> str:
    """Return a path, or the path of its compressed file if only that file exists."""
    compressed = [f"{path}{ending}" for ending in (".gz", ".zst") if os.path.isfile(f"{path}{ending}")]
    return compressed[0] if len(compressed) == 1 and not os.path.exists(path) else path
