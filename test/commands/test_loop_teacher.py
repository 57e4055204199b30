"""``dpr-text loop`` with a teacher: the rows that it scores, and the searches that it reranks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from test.commands.test_loop import NOTHING_EXPECTED, TINY, loop_flags, rehearse
from text.commands.cli import run_command
from text.commands.loop import LoopFlags, loop
from text.errors import UsageError
from text.runs.stages import Stage

MINED = {"sources": {"bm25": 1}}


def list_commands(stages: list[Stage]) -> list[str]:
    """Return the commands of the stages, without search, encode and evaluate."""
    return [stage.command for stage in stages if stage.command not in ("search", "encode", "evaluate")]


def find_stages(stages: list[Stage], command: str) -> list[Stage]:
    return [stage for stage in stages if stage.command == command]


def test_a_given_teacher_scores_rows_that_are_mined_and_rows_that_are_not() -> None:
    flags: dict[str, Any] = {"teacher": str(TINY), "train": {"distillation": 0.5}, "bm25": True}
    stages = rehearse(loop_flags(rounds=[{}, MINED], **flags))
    assert list_commands(stages) == ["score", "train", "mine", "train"]
    [scored], [mined] = find_stages(stages, "score"), find_stages(stages, "mine")
    first, second = find_stages(stages, "train")
    assert f"--teacher={TINY}" in scored.arguments and f"--teacher={TINY}" in mined.arguments
    for stage, rows in ((first, scored.result), (second, mined.result)):
        assert stage.settings["train_files"] == [str(rows)] and stage.settings["score_key"] == "teacher_score"


def test_a_teacher_that_only_filters_negatives_does_not_score_rows_without_them() -> None:
    rounds = [{}, {**MINED, "mine": {"teacher_margin": 0.1}}]
    stages = rehearse(loop_flags(rounds=rounds, teacher=str(TINY)))
    assert list_commands(stages) == ["train", "mine", "train"]
    assert all(stage.settings["score_key"] is None for stage in find_stages(stages, "train"))


def test_a_reranker_is_trained_once_on_the_rows_of_the_first_round() -> None:
    rounds = [{**MINED, "train": {"distillation": 0.5}}, {"sources": {"dense": 1}, "train": {"distillation": 0.5}}]
    stages = rehearse(loop_flags(rounds=rounds, reranker={"max_epochs": 1}))
    assert list_commands(stages) == ["mine", "train", "score", "train", "mine", "train"]
    reranker, first, second = find_stages(stages, "train")
    mined, scored = find_stages(stages, "mine"), find_stages(stages, "score")[0]
    assert (reranker.settings["task"], reranker.settings["max_epochs"]) == ("rerank", 1)
    assert reranker.settings["train_files"] == [str(mined[0].result)] == [scored.settings["rows"]]
    assert first.settings["train_files"] == [str(scored.result)]
    assert second.settings["train_files"] == [str(mined[1].result)]
    model = str(reranker.folder / "model")
    assert (mined[0].settings["teacher"], mined[1].settings["teacher"]) == (None, model)
    assert scored.settings["teacher"] == model


def test_a_reranker_may_start_from_another_encoder(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    settings = {"encoder": str(tmp_path), "max_epochs": 1}
    stages = rehearse(loop_flags(rounds=[{}], reranker=settings, rerank_k=5))
    assert [stage.settings["encoder"] for stage in find_stages(stages, "train")] == [str(tmp_path), "tiny"]
    before = find_stages(stages, "train")[0].folder.name
    (tmp_path / "config.json").write_text("{ }")
    assert find_stages(rehearse(loop_flags(rounds=[{}], reranker=settings, rerank_k=5)), "train")[0].folder != before


def test_reranked_searches_have_their_own_rows(tmp_path: Path) -> None:
    stages = rehearse(loop_flags(rounds=[{}], teacher=str(TINY), rerank_k=7, output_dir=str(tmp_path)))
    reranked = [stage for stage in find_stages(stages, "search") if stage.settings["rerank"]]
    assert [stage.settings["rerank_k"] for stage in reranked] == [7, 7]
    expected = {"round 1, reranked": {"test": {"mrr@10": 0.5}}}
    loop_flags(rounds=[{}], teacher=str(TINY), rerank_k=7, expected=expected)
    with pytest.raises(UsageError, match="round 1, reranked"):
        loop_flags(rounds=[{}], expected=expected)


@pytest.mark.parametrize(
    ("changes", "names"),
    [
        ({"teacher": "t"}, ["--teacher", "--train.distillation", "--rerank_k"]),
        ({"reranker": {"max_epochs": 1}}, ["--reranker", "--train.distillation"]),
        ({"teacher": "t", "reranker": {"max_epochs": 1}}, ["--teacher", "--reranker"]),
        ({"rerank_k": 5}, ["--rerank_k", "--teacher"]),
        ({"mine": {"teacher_margin": 0.1}, "rounds": [MINED]}, ["teacher_margin", "--teacher"]),
        ({"teacher": "t", "train": {"distillation": 0.5, "score_key": "s"}}, ["--train.score_key"]),
        ({"score": {"device": "cpu"}}, ["--score", "--teacher"]),
        ({"reranker": {"task": "retrieve"}}, ["--reranker.task"]),
    ],
)
def test_a_teacher_without_use_and_a_use_without_teacher_are_refused(changes: dict, names: list[str]) -> None:
    with pytest.raises(UsageError) as error:
        loop_flags(**{"rounds": [{}], **changes})
    assert all(name in str(error.value) for name in names)


@pytest.mark.slow
def test_a_reranker_is_trained_teaches_and_reranks(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--config=tiny", "--train={max_epochs: 1, distillation: 0.5}", "--measures=[mrr@10]", "--rerank_k=5"]
    arguments += ["--rounds=[{sources: {bm25: 1}}]", "--reranker={max_epochs: 1, gpus: 0}"]
    assert run_command(loop, LoopFlags, [*arguments, NOTHING_EXPECTED, f"--output_dir={tmp_path}"]) == 0
    assert "| round 1, reranked |" in capsys.readouterr().out
    table = (tmp_path / "table.json").read_bytes()
    assert run_command(loop, LoopFlags, [*arguments, NOTHING_EXPECTED, f"--output_dir={tmp_path}"]) == 0
    assert (tmp_path / "table.json").read_bytes() == table
