"""``dpr-text loop --seeds``: one training per seed, mean and spread in the table, and the seed that goes on."""

from __future__ import annotations

import json
import statistics
from pathlib import Path
from typing import Any

import pytest

from test.commands.test_loop import (
    NOTHING_EXPECTED,
    complete,
    format_figures,
    loop_flags,
    name_stages,
    rehearse,
    run_whole_and_killed,
    train_for,
)
from test.reports.helpers import PageElements
from text.commands.cli import parse_flags, run_command
from text.commands.loop import LoopFlags, loop
from text.errors import UsageError

VALUES = {1: (0.5, 0.3), 2: (0.7, 0.2), 3: (0.6, 0.4)}
"""Metric of the validation and test questions, by seed."""


def test_each_seed_trains_encodes_and_evaluates_and_only_one_mines() -> None:
    rounds = [{}, {"sources": {"dense": 1}}]
    one = loop_flags(rounds=rounds, bm25=False)
    commands = [stage.command for stage in rehearse(one)]
    trained = ["train", "encode", "search", "evaluate", "search", "evaluate"]
    assert commands == [*trained, "search", "mine", *trained]
    stages = rehearse(loop_flags(rounds=rounds, bm25=False, seeds=[1, 2, 3]))
    assert [stage.command for stage in stages] == [*trained * 3, "search", "mine", *trained * 3]
    seeds = [stage.settings["seed"] for stage in stages if stage.command == "train"]
    assert seeds == [1, 2, 3, 1, 2, 3]
    # The default seed of train gives the stages of a loop without seeds.
    assert name_stages(loop_flags(rounds=rounds, bm25=False, seeds=[12345])) == name_stages(one)


@pytest.mark.parametrize(
    ("changes", "names"),
    [
        ({"seeds": [1, 2, 1]}, ["--seeds", "1, 2, 1"]),
        ({"seeds": [1], "train": {"seed": 3}}, ["--train.seed", "--seeds"]),
        ({"seeds": [1], "rounds": [{}, {"train": {"seed": 3}}]}, ["round 2, train.seed", "--seeds"]),
    ],
)
def test_seeds_that_contradict_each_other_are_refused(changes: dict[str, Any], names: list[str]) -> None:
    with pytest.raises(UsageError) as error:
        loop_flags(**changes)
    assert all(name in str(error.value) for name in names)


def complete_with_values(flags: LoopFlags) -> None:
    """Complete all stages of a loop with one round, and give each seed its own metrics."""
    done: list[Path] = []
    while True:
        stages = rehearse(flags)
        left = next((stage for stage in stages if stage.folder not in done), None)
        if left is None:
            return
        content = left.folder.name
        if left.command == "evaluate":
            seed, split = divmod([each.folder for each in stages if each.command == "evaluate"].index(left.folder), 2)
            content = format_figures(VALUES[seed + 1][split])
        complete(left, content)
        done.append(left.folder)


def test_the_table_shows_mean_and_spread_and_the_best_seed_goes_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--config=tiny", "--rounds=[{}]", "--measures=[mrr@10]", "--bm25=false", "--seeds=[1,2,3]"]
    arguments += [NOTHING_EXPECTED, f"--output_dir={tmp_path}"]
    flags = parse_flags(LoopFlags, arguments)
    complete_with_values(flags)
    assert run_command(loop, LoopFlags, arguments) == 0
    trained = {
        stage.settings["seed"]: f"{stage.folder.name}/model" for stage in rehearse(flags) if stage.command == "train"
    }
    # By hand: valid 0.5, 0.7, 0.6 and test 0.3, 0.2, 0.4 have means 0.6 and 0.3, and standard deviation 0.1.
    assert json.loads((tmp_path / "table.json").read_text()) == {
        "round 1": {"valid": {"mrr@10": pytest.approx(0.6)}, "test": {"mrr@10": pytest.approx(0.3)}}
    }
    content = json.loads((tmp_path / "seeds.json").read_text())["round 1"]
    assert content["chosen"] == 2
    assert content["standard_deviation"] == {
        "valid": {"mrr@10": pytest.approx(0.1)},
        "test": {"mrr@10": pytest.approx(statistics.stdev([0.3, 0.2, 0.4]))},
    }
    assert {seed: each["model"] for seed, each in content["seeds"].items()} == {
        str(seed): model for seed, model in trained.items()
    }
    assert json.loads((tmp_path / "models.json").read_text()) == {"round 1": trained[2]}
    lines = (tmp_path / "table.md").read_text().splitlines()
    assert lines[2] == "| round 1 | 0.6000 ± 0.1000 | 0.3000 ± 0.1000 |"
    assert lines[8:11] == [
        "| round 1 | 1 | 0.5000 | 0.3000 |  |",
        "| round 1 | 2 | 0.7000 | 0.2000 | chosen |",
        "| round 1 | 3 | 0.6000 | 0.4000 |  |",
    ]
    assert "standard deviation over the seeds" in PageElements((tmp_path / "table.html").read_text()).text
    assert "0.6000 ± 0.1000" in capsys.readouterr().out


def test_a_table_without_seeds_removes_the_seeds_of_an_earlier_table(tmp_path: Path) -> None:
    arguments = ["--config=tiny", "--rounds=[{}]", "--measures=[mrr@10]", "--bm25=false", NOTHING_EXPECTED]
    arguments.append(f"--output_dir={tmp_path}")
    for seeds, is_there in ((["--seeds=1"], True), ([], False)):
        complete_with_values(parse_flags(LoopFlags, [*arguments, *seeds]))
        assert run_command(loop, LoopFlags, [*arguments, *seeds]) == 0
        assert (tmp_path / "seeds.json").exists() is is_there
        # One seed has no spread.
        assert "| round 1 | 0.5000 | 0.3000 |\n" in (tmp_path / "table.md").read_text()


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_loop_with_seeds_that_is_killed_gives_the_same_table(tmp_path: Path) -> None:
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    flags = [*train_for(1), "--rounds=[{}]", "--seeds=[1, 2]", "--bm25=false"]
    run_whole_and_killed(whole, killed, *flags, num_kills=3)
    for name in ("table.json", "table.md", "seeds.json"):
        assert (whole / name).read_bytes() == (killed / name).read_bytes()
