"""loop.py: which stages a change repeats, what it refuses before work, and the same table after any interruption."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from random import Random

import pytest
import yaml

from examples.dpr.cli import UsageError, parse, run
from examples.dpr.loop import Loop, LoopConfig, check_expected, main
from examples.dpr.rounds_page import draw_rounds, markdown
from examples.dpr.stages import external
from text.errors import ArtifactError

ROOT = Path(__file__).parents[2]
RECIPES = ROOT / "examples/dpr/recipes"
TINY = ROOT / "examples/dpr/data/nq3_tiny/data/retriever"


def config(**changes: object) -> LoopConfig:
    rounds = [{}, {"sources": {"dense": 1, "bm25": 1}, "mine": {"margin": 0.1}}, {"sources": {"dense": 2}}]
    return replace(LoopConfig(data_path=str(TINY), collection="passages.tsv", rounds=rounds), **changes)  # pyright: ignore


def stages(of: LoopConfig) -> list[str]:
    rehearsal = Loop(of, is_rehearsal=True)
    rehearsal.table()
    return rehearsal.stages


def test_a_change_repeats_what_depends_on_it() -> None:
    before = stages(config())
    assert stages(config()) == before and len(before) == 4 + 6 + 9 + 8
    rounds = [{}, {"sources": {"dense": 1, "bm25": 1}, "mine": {"margin": 0.2}}, {"sources": {"dense": 2}}]
    after = stages(config(rounds=rounds))
    mined = next(place for place, name in enumerate(before) if name.startswith("mine"))
    assert after[:mined] == before[:mined] and not set(after[mined:]) & set(before)
    assert stages(config(mine={"margin": 0.1}, rounds=[{}, *rounds[1:]]))[mined] == after[mined]
    of_test = [name for name in stages(config(test_file="valid.jsonl")) if name not in before]
    assert {name.split("-")[0] for name in of_test} == {"main", "encode", "search", "evaluate", "mine"}


def test_a_flag_that_is_not_given_counts_as_its_default() -> None:
    assert stages(config(search={"k": 100}))[:10] == stages(config())[:10]
    assert stages(config(train={"seed": 1}))[4] != stages(config())[4]


def test_windows_are_trained_on_and_mined_but_words_alone_find_whole_passages() -> None:
    rounds = [{"sources": {"bm25": 1}, "mine": {"best_positive_first": True}}]
    before, after = (stages(config(rounds=rounds, windows=windows)) for windows in ({}, {"words": 8, "stride": 4}))
    assert after[0].startswith("windows") and after[1:5] == before[:4]  # BM25, scored
    assert [name.split("-")[0] for name in after[5:]] == [name.split("-")[0] for name in before[4:]]
    assert not set(after[5:]) & set(before)
    assert stages(config(rounds=rounds, windows={"words": 8, "stride": 8}))[1:5] == before[:4]


def test_passages_are_found_for_all_that_is_measured_and_mined() -> None:
    def depths(of: LoopConfig) -> list[str]:
        found = []
        rehearsal = Loop(of, is_rehearsal=True)
        rehearsal._do = lambda name, driver, flags, makes="": (  # pyright: ignore[reportAttributeAccessIssue]
            found.append(f"{makes} {flags['k']}") if driver == "search" else None,
            external(str(TINY)),
        )[1]
        rehearsal.table()
        return found

    rounds = [{}, {"sources": {"dense": 1, "bm25": 1}, "mine": {"last_rank": 300}}]
    scored = [f"{run}.trec 100" for run in ("bm25", "bm25", "dense", "dense")]
    mined = ["dense.trec 300", "bm25.trec 300"]
    assert depths(config(rounds=rounds)) == [*scored, *mined, *scored[2:]]
    deep = [each.replace("100", "400") for each in scored]
    assert depths(config(rounds=rounds, measures=["recall@400"])) == [*deep, *mined, *deep[2:]]
    searched = [each.replace("300", "400") for each in mined]
    assert depths(config(rounds=rounds, search={"k": 400})) == [*deep, *searched, *deep[2:]]
    with pytest.raises(UsageError, match="k is many; expected a whole number"):
        stages(config(search={"k": "many"}))


def test_content_of_a_file_that_a_flag_names_decides(tmp_path: Path) -> None:
    for name, content in (("a", "1"), ("b", "1"), ("c", "2")):
        (tmp_path / name).write_text(content)
    a, b, c = (stages(config(train={"tokenizer": str(tmp_path / name)})) for name in "abc")
    assert a == b and len(set(a) & set(c)) == 5  # of words alone: four of the table, one to mine


def test_content_decides_not_the_place(tmp_path: Path) -> None:
    folders = []
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        for path in TINY.iterdir():
            if path.suffix in (".jsonl", ".tsv"):
                (tmp_path / name / path.name).write_bytes(path.read_bytes())
        folders.append(stages(config(data_path=str(tmp_path / name))))
    assert folders[0] == folders[1] == stages(config())
    (tmp_path / "c").mkdir()
    assert external(str(tmp_path / "c")).content != external(str(tmp_path / "b")).content


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rounds": [{"sources": {"web": 1}}]}, "round 1 mines from web; expected dense and bm25"),
        ({"rounds": [{"sources": {"dense": 1}}]}, "round 1 goes on with, or mines by, the round before"),
        (
            {"rounds": [{"sources": {"dense": 1}}], "encoder": str(TINY), "score_start": False},
            "a pretrained, scored --encoder",
        ),
        ({"rounds": [{"trains": {}}]}, "round 1 has trains; expected fields of a round"),
        ({"dev_questions": "q"}, "expected --dev_questions together with --test_questions"),
        ({"rounds": [{"train": 3}]}, "round 1: train is 3; expected names with values"),
        ({"measures": ["ndcg@0"]}, "--measures has ndcg@0; expected those of evaluate.py"),
        ({"measures": ["accuracy@1"]}, "--measures has accuracy@1; expected those of evaluate.py"),
        ({"dev_questions": "q", "test_questions": "q", "measures": ["map"]}, "--measures has map"),
        (
            {"expected": {"round 4": {"dev": {"mrr@10": 1}}}},
            "--expected has round 4, dev: mrr@10; expected BM25, start",
        ),
        ({"expected": {"start": {"dev": {"mrr@10": 1}}}, "score_start": False}, "--expected has start, dev: mrr@10"),
        ({"expected": {"round 1": {"test": {"mrr@7": 1}}}}, "--expected has round 1, test: mrr@7; expected"),
    ],
)
def test_rounds_that_cannot_be_meant(changes: dict, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        config(**changes)


def test_measures_by_default_and_their_cut_offs() -> None:
    assert config().measured == ["ndcg@10", "recall@100", "mrr@10"]
    assert config(dev_questions="q", test_questions="q").measured == ["accuracy@1", "accuracy@20", "accuracy@100"]
    assert config(measures=["mrr@3", "map"]).cut_offs == [1, 3, 5, 10, 20, 100]
    assert stages(config(measures=["mrr@10"])) == stages(config()) != stages(config(measures=["mrr@3"]))


def test_an_encoder_that_is_not_there() -> None:
    with pytest.raises(UsageError, match="--encoder is nowhere; expected a folder or file, or one of tiny, mini"):
        stages(config(encoder="nowhere"))


def test_a_wrong_flag_of_the_last_round_is_found_first(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    rounds = [{}, {"train": {"learning_rte": 1}}]
    folders = {"data_path": str(TINY), "output_dir": str(tmp_path / "o")}
    recipe = {**folders, "collection": "passages.tsv", "rounds": rounds}
    (tmp_path / "r.yaml").write_text(yaml.safe_dump(recipe))
    assert run(main, LoopConfig, [f"--config={tmp_path}/r.yaml"]) == 2
    error = capsys.readouterr().err
    assert "flags of main.py: " in error and "did you mean --learning_rate?" in error
    assert not list((tmp_path / "o").glob("*-*"))


@pytest.mark.parametrize("path", sorted(RECIPES.glob("*.yaml")), ids=lambda path: path.stem)
def test_recipes_are_read(path: Path) -> None:
    recipe = parse(LoopConfig, [f"--config={path}"])
    assert recipe.rounds and recipe.expected


def test_table_and_picture(tmp_path: Path) -> None:
    table = {
        "BM25": {"dev": {"mrr@10": 0.5, "recall@20": 0.75}, "test": {"mrr@10": 0.25, "recall@20": 0.5}},
        "round 1": {"dev": {"mrr@10": 0.625, "recall@20": 1.0}, "test": {"mrr@10": 0.5, "recall@20": 0.75}},
    }
    assert markdown(table, ["mrr@10", "recall@20"]).splitlines() == [
        "| | dev mrr@10 | dev recall@20 | test mrr@10 | test recall@20 |",
        "|---|---|---|---|---|",
        "| BM25 | 0.5000 | 0.7500 | 0.2500 | 0.5000 |",
        "| round 1 | 0.6250 | 1.0000 | 0.5000 | 0.7500 |",
    ]
    draw_rounds(tmp_path / "p.png", table, "mrr@10")
    assert (tmp_path / "p.png").read_bytes().startswith(b"\x89PNG")
    check_expected(config(expected={"round 1": {"test": {"mrr@10": 0.505}}}), table)
    with pytest.raises(ArtifactError, match=r"round 1, test mrr@10: 0.5; expected 0.52, at most 0.01 off"):
        check_expected(config(expected={"round 1": {"test": {"mrr@10": 0.52}}}), table)


def started(folder: Path, max_epochs: int = 2) -> subprocess.Popen:
    """The recipe of the tiny set, for other epochs, as a person starts it; in a group of processes of its own."""
    fewer = [f"--train={{max_epochs: {max_epochs}, tied: true, vocab_size: 1000}}", "--expected={}"]
    command = [sys.executable, "examples/dpr/loop.py", "--config=examples/dpr/recipes/tiny.yaml", *fewer]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with open(folder.with_suffix(".log"), "ab") as log:
        return subprocess.Popen(
            [*command, f"--output_dir={folder}"],
            cwd=ROOT,
            stdout=log,
            stderr=log,
            env=environment,
            start_new_session=True,
        )


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("to", [os.kill, os.killpg], ids=["to the loop alone", "to all of its processes"])
def test_a_signal_lets_the_training_save(to: Callable[[int, int], None], tmp_path: Path) -> None:
    process = started(tmp_path / "loop", max_epochs=1_000_000)
    while not list(tmp_path.glob("loop/main-*/metrics.csv")):
        assert process.poll() is None, (tmp_path / "loop.log").read_text()[-2000:]
        time.sleep(0.1)
    to(process.pid, signal.SIGTERM)
    assert process.wait() == 143
    assert list(tmp_path.glob("loop/main-*/checkpoints/last.ckpt"))
    with pytest.raises(ProcessLookupError):  # the training has ended, too
        os.killpg(process.pid, 0)


@pytest.mark.slow
@pytest.mark.timeout(2400)
def test_killed_at_ten_moments_and_gone_on_with(tmp_path: Path) -> None:
    before = time.monotonic()
    assert started(tmp_path / "whole").wait() == 0, (tmp_path / "whole.log").read_text()[-2000:]
    seconds, random = time.monotonic() - before, Random(0)
    for number in range(10):
        process = started(tmp_path / "killed")
        with suppress(subprocess.TimeoutExpired):
            process.wait(timeout=random.uniform(0.05, 0.3) * seconds)
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGTERM if number % 3 == 2 else signal.SIGKILL)
        assert process.wait() != 1, (tmp_path / "killed.log").read_text()[-2000:]
    assert started(tmp_path / "killed").wait() == 0, (tmp_path / "killed.log").read_text()[-2000:]
    for name in ("table.json", "table.md"):
        assert (tmp_path / "whole" / name).read_bytes() == (tmp_path / "killed" / name).read_bytes()
    done = [json.loads(path.read_text()) for path in (tmp_path / "killed").glob("*/done.json")]
    assert len(done) == len(list((tmp_path / "whole").glob("*/done.json")))
    again = started(tmp_path / "whole")
    assert again.wait() == 0 and (tmp_path / "whole.log").read_text().count("is there") == len(done)
