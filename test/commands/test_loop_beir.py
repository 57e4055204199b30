"""``dpr-text loop --data_path=BEIR``: the files that a BEIR folder gives, held-out questions, and a whole loop."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from test.commands.test_evaluate_suite import in_process, write_set
from test.commands.test_loop import loop_flags, rehearse
from text.artifacts import read_json_lines
from text.commands.cli import run_command
from text.commands.loop import LoopFlags, loop, open_inputs
from text.errors import UsageError
from text.evaluation import read_qrels
from text.runs.loop_inputs import split_questions

__all__ = ["in_process"]


def beir_flags(data_path: Path, output_dir: Path, **changes: Any) -> LoopFlags:
    options = {"data_path": str(data_path), "output_dir": str(output_dir), "collection": None, "rounds": None}
    return loop_flags(**options | changes)


def read_ids(path: Path) -> list[str]:
    return [json.loads(line)["question_id"] for line in path.read_text().splitlines()]


def test_the_files_of_a_folder_are_found_by_their_names(tmp_path: Path) -> None:
    folder = write_set(tmp_path / "set", 0, splits=("train", "dev", "test"))
    inputs = open_inputs(beir_flags(folder, tmp_path / "out"))
    assert inputs.collection.path == folder / "corpus.jsonl"
    assert read_ids(inputs.train_rows.path) == [f"q{n}" for n in range(8)]
    for split, name in (("valid", "dev"), ("test", "test")):
        judged = inputs.judged[split]
        assert judged.questions.path == folder / "queries.jsonl"
        assert judged.judgments["qrels"].path == folder / f"qrels/{name}.tsv"
        assert read_ids(inputs.rows[split].path) == [f"q{n}" for n in range(8)]
    assert not (tmp_path / "out").exists()


def test_questions_are_held_out_if_a_set_has_no_validation(tmp_path: Path) -> None:
    folder = write_set(tmp_path / "set", 0, splits=("dev", "test"))
    inputs = open_inputs(beir_flags(folder, tmp_path / "out", train_split="dev", valid_share=0.25))
    train, valid = read_ids(inputs.train_rows.path), read_ids(inputs.rows["valid"].path)
    assert len(valid) == 2 and sorted([*train, *valid]) == [f"q{n}" for n in range(8)]
    qrels = read_qrels(folder / "qrels/dev.tsv")
    found = read_qrels(inputs.judged["valid"].judgments["qrels"].path)
    assert found == {question_id: qrels[question_id] for question_id in valid}
    again = open_inputs(beir_flags(folder, tmp_path / "out", train_split="dev", valid_share=0.25))
    assert again.train_rows.key == inputs.train_rows.key and again.train_rows.path == inputs.train_rows.path
    # A dev split that is not trained on is used as it is, unless a share is given.
    other = write_set(tmp_path / "other", 0, splits=("train", "dev", "test"))
    assert len(read_ids(open_inputs(beir_flags(other, tmp_path / "out")).rows["valid"].path)) == 8


def test_questions_with_other_line_separators_are_held_out(tmp_path: Path) -> None:
    folder = write_set(tmp_path / "set", 0, splits=("train", "test"))
    questions = [{"_id": f"q{n}", "text": f"how tall\u2028is oak {n}\x85"} for n in range(8)]
    lines = [json.dumps(each, ensure_ascii=False) + "\n" for each in questions]
    (folder / "queries.jsonl").write_text("".join(lines), encoding="utf-8")
    inputs = open_inputs(beir_flags(folder, tmp_path / "out", valid_share=0.25))
    rows = [*read_json_lines(inputs.train_rows.path, dict), *read_json_lines(inputs.rows["valid"].path, dict)]
    assert sorted(row["question"] for row in rows) == [each["text"] for each in questions]


def test_held_out_questions_do_not_depend_on_ids_and_equal_ones_stay_together() -> None:
    questions = {str(number): f"how tall is oak {number // 3}" for number in range(300)}
    held_out = split_questions(questions, 0.2)
    assert len(held_out) == 60 and all(str(3 * (int(each) // 3)) in held_out for each in held_out)
    renamed = split_questions({f"x{name}": text for name, text in reversed(questions.items())}, 0.2)
    assert renamed == {f"x{name}" for name in held_out}
    for share in (0.001, 0.999):
        with pytest.raises(UsageError, match="--valid_share"):
            split_questions(questions, share)


@pytest.mark.parametrize(
    ("changes", "names"),
    [
        ({}, ["--train_split", "train", "dev, test"]),
        ({"train_split": "dev", "test_split": "eval"}, ["--test_split", "eval", "dev, test"]),
        ({"train_split": "dev", "valid_split": "valid"}, ["--valid_split", "valid", "dev, test"]),
    ],
)
def test_a_missing_split_is_refused_with_those_that_exist(
    tmp_path: Path, changes: dict[str, Any], names: list[str]
) -> None:
    folder = write_set(tmp_path / "set", 0, splits=("dev", "test"))
    with pytest.raises(UsageError) as error:
        open_inputs(beir_flags(folder, tmp_path / "out", **changes))
    assert all(name in str(error.value) for name in names)


@pytest.mark.parametrize(
    ("changes", "names"),
    [
        ({"train_file": "a.jsonl"}, ["--train_file", "--collection"]),
        ({"valid_questions": "a", "test_questions": "b"}, ["--valid_questions", "--collection"]),
        ({"collection": "c.tsv", "train_split": "dev"}, ["--train_split", "BEIR"]),
        ({"collection": "c.tsv", "valid_share": 0.5}, ["--valid_share", "BEIR"]),
        ({"valid_split": "dev", "valid_share": 0.5}, ["--valid_split", "--valid_share"]),
        ({"train_split": "test"}, ["--train_split", "--test_split"]),
        ({"train_split": "dev", "valid_split": "dev"}, ["--train_split", "--valid_split"]),
        ({"rounds": [], "seeds": [1]}, ["--seeds", "--rounds"]),
    ],
)
def test_flags_of_the_other_kind_of_data_are_refused(tmp_path: Path, changes: dict[str, Any], names: list[str]) -> None:
    with pytest.raises(UsageError) as error:
        beir_flags(tmp_path, tmp_path, **changes)
    assert all(name in str(error.value) for name in names)


def test_a_loop_without_rounds_mines_from_bm25_and_scores_by_judgments(tmp_path: Path) -> None:
    folder = write_set(tmp_path / "set", 0, splits=("train", "dev", "test"))
    stages = rehearse(beir_flags(folder, tmp_path / "out"))
    scored = ["search", "evaluate"] * 2
    assert [stage.command for stage in stages] == [*scored, "search", "mine", "train", "encode", *scored]
    for stage in stages:
        if stage.command == "evaluate":
            assert stage.settings["qrels"] is not None and stage.settings["positives"] is None
    without = rehearse(beir_flags(folder, tmp_path / "out", bm25=False))
    assert [stage.command for stage in without] == ["train", "encode", *scored]


@pytest.mark.slow
def test_one_command_trains_and_evaluates_on_a_folder(tmp_path: Path, in_process: list[str]) -> None:
    folder = write_set(tmp_path / "set", 0, splits=("dev", "test"))
    flags = [f"--data_path={folder}", "--train_split=dev", f"--output_dir={tmp_path}/out", "--valid_share=0.25"]
    flags += ["--train={max_epochs: 1, vocab_size: 300, batch_size: 3}", "--seeds=1,2"]
    assert run_command(loop, LoopFlags, flags) == 0
    table = json.loads((tmp_path / "out/table.json").read_text())
    assert list(table) == ["BM25", "round 1"] and list(table["BM25"]) == ["valid", "test"]
    assert in_process.count("train") == 2 and in_process.count("mine") == 1
    num_runs = len(in_process)
    assert run_command(loop, LoopFlags, flags) == 0 and len(in_process) == num_runs
