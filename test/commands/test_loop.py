"""``dpr-text loop``: repeated stages after a change, refused settings, and the table after interruptions."""

from __future__ import annotations

import gzip
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any

import pytest
import torch
import yaml

from test.helpers import write_jsonl
from test.reports.helpers import build_figures
from text.commands import load_command
from text.commands.cli import RECIPES, get_flag_sections, parse_flags, run_command
from text.commands.flag_fields import get_flag_types
from text.commands.flag_kinds import is_switch
from text.commands.loop import LoopFlags, build_loop, loop, open_inputs
from text.errors import DataError, UsageError
from text.runs.inputs import check_inputs
from text.runs.stages import Stage, is_complete, write_done
from text.runs.tracked import TrackedFile

ROOT = Path(__file__).parents[2]
TINY = ROOT / "examples/dpr/data/nq3_tiny/data/retriever"
NOTHING_EXPECTED = "--expected={BM25: null, round 1: null, round 2: null}"
NAMES = sorted(path.stem for path in RECIPES.glob("*.yaml"))


def loop_flags(**changes: object) -> LoopFlags:
    rounds = [{}, {"sources": {"dense": 1, "bm25": 1}, "mine": {"margin": 0.1}}, {"sources": {"dense": 2}}]
    flags = LoopFlags(data_path=str(TINY), collection="passages.tsv", rounds=rounds, output_dir="loop")
    return replace(flags, **changes)  # pyright: ignore[reportArgumentType]


def rehearse(flags: LoopFlags) -> list[Stage]:
    """Return the stages of a loop."""
    rehearsal = build_loop(flags, open_inputs(flags), is_rehearsal=True)
    rehearsal.run_rounds()
    return rehearsal.steps.stages


def name_stages(flags: LoopFlags) -> list[str]:
    """Return the names of the folders of a loop's stages."""
    return [stage.folder.name for stage in rehearse(flags)]


def test_a_change_repeats_the_stages_that_depend_on_it() -> None:
    before = name_stages(loop_flags())
    assert name_stages(loop_flags()) == before and len(before) == 4 + 6 + 9 + 8
    rounds = [{}, {"sources": {"dense": 1, "bm25": 1}, "mine": {"margin": 0.2}}, {"sources": {"dense": 2}}]
    after = name_stages(loop_flags(rounds=rounds))
    mined = next(place for place, name in enumerate(before) if name.startswith("mine"))
    assert after[:mined] == before[:mined] and not set(after[mined:]) & set(before)
    assert name_stages(loop_flags(mine={"margin": 0.1}, rounds=[{}, *rounds[1:]]))[mined] == after[mined]
    repeated = [name for name in name_stages(loop_flags(test_file="valid.jsonl")) if name not in before]
    assert {name.split("-")[0] for name in repeated} == {"train", "encode", "search", "evaluate", "mine"}


def test_a_flag_that_is_not_given_counts_as_its_default() -> None:
    assert name_stages(loop_flags(search={"k": 100}))[:10] == name_stages(loop_flags())[:10]
    assert name_stages(loop_flags(train={"seed": 1}))[4] != name_stages(loop_flags())[4]


def test_windows_are_trained_on_and_mined_but_bm25_ranks_whole_passages() -> None:
    rounds = [{"sources": {"bm25": 1}, "mine": {"best_positive_first": True}}]
    before, after = (
        name_stages(loop_flags(rounds=rounds, windows=windows)) for windows in ({}, {"words": 8, "stride": 4})
    )
    assert after[0].startswith("windows") and after[1:5] == before[:4]  # BM25, evaluated
    assert [name.split("-")[0] for name in after[5:]] == [name.split("-")[0] for name in before[4:]]
    assert not set(after[5:]) & set(before)
    assert name_stages(loop_flags(rounds=rounds, windows={"words": 8, "stride": 8}))[1:5] == before[:4]


def find_depths(flags: LoopFlags) -> list[str]:
    """Return the name of the run and ``k`` of each search."""
    searches = [stage for stage in rehearse(flags) if stage.command == "search"]
    depths = [next(each for each in stage.arguments if each.startswith("--k=")) for stage in searches]
    return [f"{stage.result.path.name} {k[4:]}" for stage, k in zip(searches, depths, strict=True)]


def test_enough_passages_are_found_for_every_measure_and_for_mining() -> None:
    rounds = [{}, {"sources": {"dense": 1, "bm25": 1}, "mine": {"last_rank": 300}}]
    scored = [f"{run}.trec 100" for run in ("bm25", "bm25", "dense", "dense")]
    mined = ["dense.trec 300", "bm25.trec 300"]
    assert find_depths(loop_flags(rounds=rounds)) == [*scored, *mined, *scored[2:]]
    deep = [each.replace("100", "400") for each in scored]
    assert find_depths(loop_flags(rounds=rounds, measures=["recall@400"])) == [*deep, *mined, *deep[2:]]
    searched = [each.replace("300", "400") for each in mined]
    assert find_depths(loop_flags(rounds=rounds, search={"k": 400})) == [*deep, *searched, *deep[2:]]
    with pytest.raises(UsageError, match=r"search.*k"):
        rehearse(loop_flags(search={"k": "many"}))


def test_content_of_a_file_that_a_flag_names_decides(tmp_path: Path) -> None:
    for name, content in (("a", "1"), ("b", "1"), ("c", "2")):
        (tmp_path / name).write_text(content)
    a, b, c = (name_stages(loop_flags(train={"tokenizer": str(tmp_path / name)})) for name in "abc")
    assert a == b and len(set(a) & set(c)) == 5  # five stages of BM25: four for the table, one for mining


def test_the_content_of_the_inputs_decides_and_not_their_path(tmp_path: Path) -> None:
    shutil.copytree(TINY, tmp_path / "a")
    assert name_stages(loop_flags(data_path=str(tmp_path / "a"))) == name_stages(loop_flags())


@pytest.mark.parametrize(
    ("changes", "names"),
    [
        ({"rounds": [{"sources": {"web": 1}}]}, ["round 1", "web"]),
        ({"rounds": [{"sources": {"dense": 1}}]}, ["round 1", "dense", "--encoder"]),
        ({"rounds": [{"sources": {"dense": 1}}], "encoder": str(TINY), "score_start": False}, ["round 1", "dense"]),
        ({"rounds": [{"go_on": True}], "encoder": str(TINY)}, ["round 1", "go_on"]),
        ({"rounds": [{}, {"mine": {"margin": 0.1}}]}, ["round 2", "mine", "sources"]),
        ({"rounds": [{"trains": {}}]}, ["round 1", "trains"]),
        ({"valid_questions": "q"}, ["--valid_questions", "--test_questions"]),
        ({"rounds": [{"train": 3}]}, ["round 1", "train"]),
        ({"measures": ["ndcg@0"]}, ["--measures", "ndcg@0"]),
        ({"measures": ["accuracy@1"]}, ["--measures", "accuracy@1"]),
        ({"valid_questions": "q", "test_questions": "q", "measures": ["map"]}, ["--measures", "map"]),
        ({"expected": {"round 4": {"valid": {"mrr@10": 1}}}}, ["--expected", "round 4"]),
        ({"expected": {"start": {"valid": {"mrr@10": 1}}}, "score_start": False}, ["--expected", "start"]),
        ({"expected": {"round 1": {"test": {"mrr@7": 1}}}}, ["--expected", "mrr@7"]),
        ({"expected": {"round 1": {"dev": {"mrr@10": 1}}}}, ["--expected", "dev"]),
    ],
)
def test_settings_that_do_not_fit_together_are_refused(changes: dict, names: list[str]) -> None:
    with pytest.raises(UsageError) as error:
        loop_flags(**changes)
    assert all(name in str(error.value) for name in names)


def find_given_flags() -> dict[str, set[str]]:
    """Return by command the flags that a loop sets itself, including those that continue a stage."""
    given: dict[str, set[str]] = {"train": {"resume", "data_path"}}
    rounds = [{}, {"sources": {"dense": 1, "bm25": 1}, "go_on": True}]
    taught = {"teacher": str(TINY), "rerank_k": 5, "train": {"distillation": 0.5}, "hybrid": True}
    for stage in rehearse(loop_flags(rounds=rounds, windows={"words": 8}, **taught)):
        names = {each.partition("=")[0].removeprefix("--") for each in stage.arguments}
        given.setdefault(stage.command, set()).update(names, {"overwrite"})
    return given


def test_a_flag_that_the_loop_gives_itself_is_refused_in_every_section() -> None:
    given = find_given_flags()
    given["windows"] -= {"words"}  # set by this test
    given["train"] -= {"distillation", "score_key"}  # The loop sets the latter only if there is a teacher.
    given["search"] -= {"k"}  # The loop raises it.
    for section, command in get_flag_sections(LoopFlags).items():
        kinds = get_flag_types(load_command(command)[1])
        for name in given[command] - ({"encoder"} if section == "reranker" else set()):
            argv = ["--collection=c", "--output_dir=o", f"--{section}.{name}={'true' if is_switch(kinds[name]) else 1}"]
            with pytest.raises(UsageError, match=rf"^--{section}\.{name} is set by the loop"):
                parse_flags(LoopFlags, argv if section == "windows" else [*argv, "--windows={words: 8}"])
    for command, name, value in (("train", "output_dir", "a"), ("mine", "num", [1])):
        with pytest.raises(UsageError, match=rf"^round 2, {command}\.{name} is set by the loop\. Use --"):
            loop_flags(rounds=[{}, {"sources": {"bm25": 1}, command: {name: value}}])


def test_a_first_round_may_mine_with_a_model_that_is_given_by_name() -> None:
    flags = loop_flags(encoder="all-MiniLM-L6-v2", rounds=[{"sources": {"dense": 1}}])
    assert flags.parsed_rounds[0].sources == {"dense": 1}


def test_all_expected_metrics_that_the_table_lacks_are_reported_at_once() -> None:
    with pytest.raises(UsageError) as error:
        loop_flags(expected={"BM25": {"test": {"mrr@7": 1}}, "round 9": {"valid": {"map": 1}}})
    assert all(part in str(error.value) for part in ("BM25, test, mrr@7; round 9, valid, map", "--expected=null"))


def test_measures_by_default_and_their_cut_offs() -> None:
    flags = loop_flags(measures=["mrr@3", "map"])
    assert build_loop(flags, open_inputs(flags), is_rehearsal=True).steps.cut_offs == [1, 3, 5, 10, 20, 100]
    assert name_stages(loop_flags(measures=["mrr@10"])) == name_stages(loop_flags())
    assert name_stages(loop_flags(measures=["mrr@3"])) != name_stages(loop_flags())


@pytest.mark.parametrize(
    ("changes", "names"),
    [
        ({"encoder": "nowhere"}, ["--encoder", "nowhere"]),
        ({"test_file": "none.jsonl"}, [f"{TINY}/none.jsonl"]),
        ({"expected": {"start": {"valid": {"mrr@10": 1}}}}, ["--expected", "start"]),  # random weights are not scored
        ({"rounds": [{}, {"train": {"learning_rte": 1}}]}, ["train", "learning_rate"]),
        ({"rounds": [{}, {"sources": {"bm25": 1}, "mine": {"margn": 1}}]}, ["mine", "margin"]),
    ],
)
def test_a_mistake_is_found_before_any_stage_runs(
    changes: dict, names: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = {"data_path": str(TINY), "collection": "passages.tsv", "output_dir": str(tmp_path / "o"), **changes}
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    assert run_command(loop, LoopFlags, [f"--config={tmp_path}/recipe.yaml"]) == 2
    error = capsys.readouterr().err
    assert all(name in error for name in names)
    assert not list((tmp_path / "o").glob("*-*"))


def write_data(folder: Path, change: Callable[[str, list[dict[str, Any]]], object]) -> Path:
    """Write the tiny set with changed rows. ``change`` gets the name of each split and its rows."""
    folder.mkdir()
    shutil.copy(TINY / "passages.tsv", folder)
    for split in ("train", "valid", "test"):
        rows = [json.loads(line) for line in (TINY / f"{split}.jsonl").read_text().splitlines()]
        change(split, rows)
        write_jsonl(folder / f"{split}.jsonl", rows)
    return folder


def check_loop(flags: LoopFlags) -> None:
    rehearsal = build_loop(flags, open_inputs(flags), is_rehearsal=True)
    rehearsal.run_rounds()
    check_inputs(rehearsal.steps.stages, flags.output_dir)


def set_field(split: str, row: int, field: str, value: Any) -> Callable[[str, list[dict[str, Any]]], None]:
    def change(name: str, rows: list[dict[str, Any]]) -> None:
        if name == split:
            rows[row][field] = value

    return change


def give_ids(prefix: str) -> Callable[[str, list[dict[str, Any]]], None]:
    def change(_: str, rows: list[dict[str, Any]]) -> None:
        for number, row in enumerate(rows):
            row["question_id"] = f"{prefix}{number}"

    return change


def make_compact(_: str, rows: list[dict[str, Any]]) -> None:
    """Replace passages by their ids."""
    for row in rows:
        row["positive_ids"] = [context["passage_id"] for context in row.pop("positive_ctxs")]
        row["hard_negative_ids"] = [context["passage_id"] for context in row.pop("hard_negative_ctxs")]
        row.pop("negative_ctxs", None)


def repeat_an_id(split: str) -> Callable[[str, list[dict[str, Any]]], None]:
    def change(name: str, rows: list[dict[str, Any]]) -> None:
        give_ids("q")(name, rows)
        if name == split:
            rows[2]["question_id"] = "q0"

    return change


@pytest.mark.parametrize(
    ("change", "rounds", "place"),
    [
        (repeat_an_id("test"), [{}], "test.jsonl:3"),
        (repeat_an_id("valid"), [{}], "valid.jsonl:3"),
        (repeat_an_id("train"), [{}, {"sources": {"bm25": 1}}], "train.jsonl:3"),
        (set_field("train", 1, "question", " "), [{}, {"sources": {"dense": 1}}], "train.jsonl:2"),
        (set_field("test", 1, "question", ""), [{}], "test.jsonl:2"),
        (set_field("valid", 0, "question", ""), [{}], "valid.jsonl:1"),
    ],
)
def test_a_fault_in_a_file_is_found_before_any_stage_runs(
    tmp_path: Path,
    change: Any,
    rounds: list[dict],
    place: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("text.runs.loop_steps.run_stage", lambda *_: pytest.fail("a stage was run"))
    data = write_data(tmp_path / "data", change)
    flags = [f"--data_path={data}", "--collection=passages.tsv", f"--rounds={json.dumps(rounds)}"]
    assert run_command(loop, LoopFlags, [*flags, "--train={max_skipped: 0.5}", f"--output_dir={tmp_path}/o"]) == 3
    assert f"{data}/{place}" in capsys.readouterr().err
    assert not list((tmp_path / "o").glob("*-*"))


@pytest.mark.parametrize("change", [give_ids("a question "), give_ids("a\n"), make_compact])
def test_rows_that_every_stage_takes_pass(tmp_path: Path, change: Any) -> None:
    data = write_data(tmp_path / "data", change)
    check_loop(loop_flags(data_path=str(data), output_dir=str(tmp_path / "o")))


def test_training_gets_the_collection_of_the_loop(tmp_path: Path) -> None:
    data = write_data(tmp_path / "data", make_compact)
    stages = rehearse(loop_flags(data_path=str(data)))
    assert all(f"--collection={data}/passages.tsv" in stage.arguments for stage in stages if stage.command == "train")


@pytest.mark.parametrize(
    ("changes", "names"),
    [
        ({"train": {"tokenizer": "nowhere.json"}}, ["nowhere.json"]),
        ({"rounds": [{}, {"train": {"tokenizer": "nowhere.json"}}]}, ["nowhere.json"]),
    ],
)
def test_a_training_that_cannot_start_is_found_before_any_stage_runs(
    tmp_path: Path, changes: dict, names: list[str]
) -> None:
    with pytest.raises((ValueError, OSError)) as error:
        check_loop(loop_flags(output_dir=str(tmp_path), **changes))
    assert all(name in str(error.value) for name in names)


def test_a_collection_that_cannot_be_encoded_is_found_before_any_stage_runs(tmp_path: Path) -> None:
    data = write_data(tmp_path / "data", lambda *_: None)
    lines = (data / "passages.tsv").read_text().splitlines(keepends=True)
    (data / "passages.tsv").write_text("".join([*lines, lines[1]]))
    with pytest.raises(DataError, match=f"^{data}/passages.tsv: "):
        check_loop(loop_flags(data_path=str(data), output_dir=str(tmp_path / "o")))


def complete(stage: Stage, content: str) -> TrackedFile:
    """Write the files of a complete stage with the given content, and return its result."""
    names = {"train": ["model/config.json"], "evaluate": ["figures.json"], "encode": ["plan.json"]}
    for name in names.get(stage.command, [stage.result.path.name]):
        (stage.folder / name).parent.mkdir(parents=True, exist_ok=True)
        (stage.folder / name).write_text(content)
    if stage.command == "evaluate" and content.startswith("{"):
        mean = json.loads(content)["figures"]["mrr@10"]["mean"]
        write_jsonl(stage.folder / "questions.jsonl", [{"question_id": f"q{n}", "mrr@10": mean} for n in range(20)])
    return write_done(stage, ["dpr-text"], 1.0)


def complete_all(flags: LoopFlags, contents: Mapping[str, str]) -> list[Stage]:
    """Complete all stages of a loop in order, because the folder of a stage depends on earlier results.

    Args:
        flags: Flags of the loop.
        contents: Content of the results by command. By default, the content is the name of the stage's folder.
    """
    done = list[Path]()
    while True:
        stages = rehearse(flags)
        left = [stage for stage in stages if stage.folder not in done]
        if not left:
            return stages
        complete(left[0], contents.get(left[0].command, left[0].folder.name))
        done.append(left[0].folder)


def format_figures(mean: float, **options: Any) -> str:
    """Return the content of ``figures.json`` with this mean of the metric."""
    metric = {"mean": mean, "low": mean, "high": mean}
    return json.dumps(build_figures({"mrr@10": metric}, runs=["run.trec"], options=options))


def test_another_model_changes_the_folders_of_all_later_stages(tmp_path: Path) -> None:
    flags = loop_flags(output_dir=str(tmp_path))
    before = complete_all(flags, {})
    assert all(is_complete(stage) for stage in before)
    [first] = [stage for stage in before if stage.command == "train"][:1]
    complete(first, "another model")
    after = rehearse(flags)
    trained = before.index(first)
    assert [stage.folder for stage in after[: trained + 1]] == [stage.folder for stage in before[: trained + 1]]
    # BM25 does not depend on the model: its runs of both splits come first, and one run is for mining.
    later = {stage.folder for stage in after[trained + 1 :] if "--bm25=true" not in stage.arguments}
    assert len(later) == len([stage for stage in before[trained + 1 :] if "--bm25=true" not in stage.arguments])
    assert not later & {stage.folder for stage in before}
    complete(first, first.folder.name)
    assert [stage.folder for stage in rehearse(flags)] == [stage.folder for stage in before]


def test_a_damaged_result_ends_the_loop_with_its_place(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--config=tiny", NOTHING_EXPECTED, "--measures=[mrr@10]", f"--output_dir={tmp_path}"]
    stages = complete_all(parse_flags(LoopFlags, arguments), {"evaluate": format_figures(0.5)})
    assert run_command(loop, LoopFlags, arguments) == 0
    table = (tmp_path / "table.json").read_bytes()
    [mined] = {stage.result.path for stage in stages if stage.command == "mine"}
    whole = mined.read_text()
    for content in (whole[:5], whole.upper()):  # a change of the size, and a change of the hash only
        mined.write_text(content)
        capsys.readouterr()
        assert run_command(loop, LoopFlags, arguments) == 5
        error = capsys.readouterr().err
        assert f"{mined}: " in error and f"remove {mined.parent}" in error
    assert (tmp_path / "table.json").read_bytes() == table


@pytest.mark.parametrize("name", ["table.json", "table.md", "table.html"])
def test_a_table_file_that_no_loop_wrote_is_not_replaced(
    tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / name).write_text("precious")
    arguments = ["--config=tiny", f"--output_dir={tmp_path}"]
    assert run_command(loop, LoopFlags, arguments) == 2
    assert f"{tmp_path}/{name} already exists" in capsys.readouterr().err
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [(name, "precious")]


def test_inputs_of_complete_stages_are_not_read_again(tmp_path: Path) -> None:
    flags = loop_flags(data_path=str(write_data(tmp_path / "data", repeat_an_id("train"))), output_dir=str(tmp_path))
    rehearsal = build_loop(flags, open_inputs(flags), is_rehearsal=True)
    rehearsal.run_rounds()
    for stage in rehearsal.steps.stages:
        complete(stage, "content")
    check_inputs(rehearsal.steps.stages, tmp_path)


def test_without_bm25_no_stage_searches_with_it() -> None:
    stages = rehearse(loop_flags(bm25=False, rounds=[{}, {"sources": {"dense": 1}}]))
    assert stages and not any("--bm25=true" in stage.arguments for stage in stages)
    assert [stage.command for stage in stages[:2]] == ["train", "encode"]
    for changes, names in (
        ({"rounds": [{}, {"sources": {"dense": 1, "bm25": 1}}]}, ["round 2", "--bm25"]),
        ({"rounds": [{}], "expected": {"BM25": {"test": {"mrr@10": 1.0}}}}, ["--expected", "BM25"]),
    ):
        with pytest.raises(UsageError) as error:
            loop_flags(bm25=False, **changes)
        assert all(name in str(error.value) for name in names)


def test_all_searches_of_a_collection_share_an_index_of_bm25() -> None:
    rounds = [{"sources": {"bm25": 1, "hybrid": 1}}]
    flags: dict[str, Any] = {"encoder": str(TINY), "hybrid": True, "rounds": rounds}
    searches = [
        stage for stage in rehearse(loop_flags(**flags)) if stage.command == "search" and stage.settings["bm25"]
    ]
    assert len(searches) == 4 and len({stage.settings["bm25_index"] for stage in searches}) == 1
    windows = rehearse(loop_flags(**flags, windows={"words": 8}))
    searches = [stage for stage in windows if stage.command == "search" and stage.settings["bm25"]]
    by_collection = {(stage.settings["collection"], stage.settings["bm25_index"]) for stage in searches}
    assert len(by_collection) == len({index for _, index in by_collection}) == 2
    other = rehearse(loop_flags(**flags, search={"bm25_b": 0.7}))
    found = {stage.settings["bm25_index"] for stage in other if stage.command == "search"} - {None}
    assert not found & {index for _, index in by_collection}


def test_the_number_of_gpus_does_not_change_the_folder_names(monkeypatch: pytest.MonkeyPatch) -> None:
    assert name_stages(loop_flags(encode={"gpus": 2, "device": "cpu"})) == name_stages(
        loop_flags(encode={"device": "cpu"})
    )
    assert name_stages(loop_flags(train={"gpus": 1})) == name_stages(loop_flags())
    stages = rehearse(loop_flags(encode={"gpus": 2, "device": "cpu"}))
    assert all("--gpus=2" in stage.arguments for stage in stages if stage.command == "encode")
    with pytest.raises(UsageError, match="--gpus is 99"):
        check_loop(loop_flags(encode={"gpus": 99}))
    names = name_stages(loop_flags())
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    assert build_loop(loop_flags(), open_inputs(loop_flags())).steps.num_gpus == 4
    assert name_stages(loop_flags()) == names


def test_one_file_for_valid_and_test_is_reported(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--config=tiny", "--rounds=[{}]", "--measures=[mrr@10]", f"--output_dir={tmp_path}", NOTHING_EXPECTED]
    for test_file, is_reported in (("valid.jsonl", True), ("test.jsonl", False)):
        flags = parse_flags(LoopFlags, [*arguments, f"--test_file={test_file}"])
        complete_all(flags, {"evaluate": format_figures(0.5)})
        assert run_command(loop, LoopFlags, [*arguments, f"--test_file={test_file}"]) == 0
        for shown in (capsys.readouterr().out, (tmp_path / "table.md").read_text()):
            assert ("valid and test read the same rows" in shown) == is_reported


def test_questions_need_no_test_rows_and_files_may_be_compressed(tmp_path: Path) -> None:
    data = write_data(tmp_path / "data", lambda *_: None)
    for name in ("train.jsonl", "passages.tsv"):
        (data / f"{name}.gz").write_bytes(gzip.compress((data / name).read_bytes()))
        (data / name).unlink()
    (data / "test.jsonl").unlink()
    questions = {f"{split}_questions": "valid.jsonl" for split in ("valid", "test")}
    flags = loop_flags(data_path=str(data), output_dir=str(tmp_path / "o"), test_file=None, **questions)
    check_loop(flags)
    trainings = [stage for stage in rehearse(flags) if stage.command == "train"]
    assert trainings and not any(each.startswith("--test_file") for stage in trainings for each in stage.arguments)
    assert f'--train_files=["{data}/train.jsonl.gz"]' in trainings[0].arguments
    with pytest.raises(UsageError, match="--test_file"):
        loop_flags(test_file=None)


def test_bm25_has_its_own_flags() -> None:
    rounds = [{"sources": {"bm25": 1}}]
    before = rehearse(loop_flags(rounds=rounds))
    after = rehearse(loop_flags(rounds=rounds, search={"bm25_k1": 1.2}))
    searches = [stage for stage in after if stage.command == "search"]
    assert {"--bm25_k1=1.2" in stage.arguments for stage in searches if "--bm25=true" in stage.arguments} == {True}
    assert {"--bm25_k1=1.2" in stage.arguments for stage in searches if "--bm25=true" not in stage.arguments} == {False}
    assert before[0].folder != after[0].folder


@pytest.mark.parametrize("name", NAMES)
def test_commands_take_the_flags_of_a_recipe(name: str, tmp_path: Path) -> None:
    flags = parse_flags(LoopFlags, [f"--config={name}"])
    assert flags.rounds and flags.expected
    if "{recipes}" not in flags.data_path:  # its data set is not part of the package
        inputs = [flags.train_file, flags.valid_file, flags.test_file, flags.collection]
        for each in filter(None, [*inputs, flags.valid_questions, flags.test_questions]):
            (tmp_path / each).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / each).touch()
        flags = replace(flags, data_path=str(tmp_path), encoder=str(tmp_path))
    commands = {stage.command for stage in rehearse(flags)}
    assert {"train", "encode", "search", "evaluate", "mine"} <= commands


def test_collection_and_output_dir_are_required(capsys: pytest.CaptureFixture[str]) -> None:
    for missing, given in (("collection", "--output_dir=o"), ("output_dir", "--collection=c")):
        assert run_command(loop, LoopFlags, [given]) == 2
        assert missing in capsys.readouterr().err


def start_loop(folder: Path, *flags: str) -> subprocess.Popen:
    """Run the recipe of the tiny set by name from another folder, in its own process group.

    The output goes to a log file next to ``folder``.
    """
    command = [sys.executable, "-m", "text", "loop", "--config=tiny", *flags, f"--output_dir={folder.name}"]
    with open(folder.with_suffix(".log"), "ab") as log:
        return subprocess.Popen(
            command,
            cwd=folder.parent,
            stdout=log,
            stderr=log,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            start_new_session=True,
        )


def train_for(max_epochs: int) -> list[str]:
    """Return loop flags for another number of epochs. Expected metrics are removed, because they change."""
    return [f"--train={{max_epochs: {max_epochs}, tied: true, vocab_size: 1000}}", NOTHING_EXPECTED]


def read_log(folder: Path) -> str:
    return folder.with_suffix(".log").read_text()


def run_whole_and_killed(
    whole: Path, killed: Path, *flags: str, num_kills: int, shares: tuple[float, float] = (0.2, 0.5)
) -> None:
    """Run a loop to its end, and the same loop in another folder that is killed at random moments and repeated.

    Args:
        whole: Output folder of the loop that is not killed.
        killed: Output folder of the other loop.
        flags: Flags of both.
        num_kills: Number of kills. Every third is SIGTERM, the others are SIGKILL.
        shares: Earliest and latest moment of a kill after a start, as shares of the time of the whole loop.
    """
    before = time.monotonic()
    assert start_loop(whole, *flags).wait() == 0, read_log(whole)[-2000:]
    seconds, random = time.monotonic() - before, Random(0)
    for number in range(num_kills):
        process = start_loop(killed, *flags)
        with suppress(subprocess.TimeoutExpired):
            process.wait(timeout=random.uniform(*shares) * seconds)
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGTERM if number % 3 == 2 else signal.SIGKILL)
        assert process.wait() != 1, read_log(killed)[-2000:]
    assert start_loop(killed, *flags).wait() == 0, read_log(killed)[-2000:]


@pytest.mark.slow
def test_a_recipe_is_found_by_name_from_any_folder(tmp_path: Path) -> None:
    flags = ["--config=tiny", "--train={wrong: 1}", "--output_dir=loop"]
    process = subprocess.run(
        [sys.executable, "-m", "text", "loop", *flags],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    # The flags of train are checked after the recipe and its data are found.
    assert process.returncode == 2 and "flags of train" in process.stderr and "wrong" in process.stderr


def test_the_table_of_complete_stages(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--config=tiny", "--rounds=[{}]", "--measures=[mrr@10]", f"--output_dir={tmp_path}"]
    flags = parse_flags(LoopFlags, [*arguments, NOTHING_EXPECTED])
    stages = complete_all(flags, {})
    evaluated = [stage for stage in stages if stage.command == "evaluate"]
    for mean, stage in zip((0.5, 0.25, 0.625, 0.75), evaluated, strict=True):
        complete(stage, format_figures(mean))
    for expected, code in ((0.74, 0), (0.78, 5)):  # the tolerance is 0.2 in the recipe and 0.02 in this call
        given = [
            "--tolerance=0.02",
            f"--expected={{BM25: null, round 2: null, round 1: {{test: {{mrr@10: {expected}, recall@20: null}}}}}}",
        ]
        assert run_command(loop, LoopFlags, [*arguments, *given]) == code
    out = capsys.readouterr().out
    assert out.count("already complete") == 2 * len(stages)
    [trained] = [stage for stage in stages if stage.command == "train"]
    assert f"model of round 1: {trained.folder}/model\n" in out and f"table: {tmp_path}/table.md" in out
    assert json.loads((tmp_path / "table.json").read_text()) == {
        "BM25": {"valid": {"mrr@10": 0.5}, "test": {"mrr@10": 0.25}},
        "round 1": {"valid": {"mrr@10": 0.625}, "test": {"mrr@10": 0.75}},
    }
    assert (tmp_path / "table.md").read_text().splitlines()[3:] == [
        "| round 1 | 0.6250 | 0.7500 |",
        "",
        "| | model |",
        "|---|---|",
        f"| round 1 | {trained.folder.name}/model |",
    ]
    assert json.loads((tmp_path / "models.json").read_text()) == {"round 1": f"{trained.folder.name}/model"}
    assert "<h1>Rounds of " in (tmp_path / "table.html").read_text()


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_a_recipe_by_name_gives_its_expected_metrics_in_any_folder(tmp_path: Path) -> None:
    process = start_loop(tmp_path / "loop")
    assert process.wait() == 0, read_log(tmp_path / "loop")[-2000:]
    table = json.loads((tmp_path / "loop" / "table.json").read_text())
    assert list(table) == ["BM25", "round 1", "round 2"]
    assert table["BM25"]["test"] == {"mrr@10": 1.0, "recall@20": 1.0}


@pytest.mark.slow
@pytest.mark.parametrize("send", [os.kill, os.killpg], ids=["to the loop alone", "to all of its processes"])
def test_a_signal_lets_the_training_save(send: Callable[[int, int], None], tmp_path: Path) -> None:
    process = start_loop(tmp_path / "loop", *train_for(1_000_000))
    while not list(tmp_path.glob("loop/train-*/metrics.csv")):
        assert process.poll() is None, read_log(tmp_path / "loop")[-2000:]
        time.sleep(0.1)
    send(process.pid, signal.SIGTERM)
    assert process.wait() == 143
    assert list(tmp_path.glob("loop/train-*/checkpoints/last.ckpt"))
    with pytest.raises(ProcessLookupError):  # the training has ended as well
        os.killpg(process.pid, 0)


@pytest.mark.slow
@pytest.mark.timeout(2400)
def test_a_loop_that_is_killed_ten_times_gives_the_same_table(tmp_path: Path) -> None:
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    run_whole_and_killed(whole, killed, *train_for(2), num_kills=10, shares=(0.05, 0.3))
    for name in ("table.json", "table.md"):
        assert (whole / name).read_bytes() == (killed / name).read_bytes()
    done = [json.loads(path.read_text()) for path in killed.glob("*/done.json")]
    assert len(done) == len(list(whole.glob("*/done.json")))
    again = start_loop(whole, *train_for(2))
    assert again.wait() == 0 and read_log(whole).count("already complete") == len(done)
