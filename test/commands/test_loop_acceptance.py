"""``dpr-text loop``: a round that is worse is rejected, and training that improves nothing is an error on request.

The stages only write files here, so that each model has the metric that a test gives it.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from test.commands.test_loop import NOTHING_EXPECTED, complete, format_figures
from text.commands.cli import run_command
from text.commands.loop import LoopFlags, loop
from text.models import roberta_tiny
from text.runs.stages import Stage
from text.runs.tracked import TrackedFile
from text.transforms import save_tokenizer, train_tokenizer

RATES = "{train: {learning_rate: 0.1}}, {train: {learning_rate: 0.2}}"


class FakeStages:
    """Runner of stages that only writes their files.

    Args:
        values: Metric of each model on the validation questions, in the order of the evaluations.
    """

    def __init__(self, values: list[float]) -> None:
        self.values, self.stages = iter(values), list[Stage]()

    def __call__(self, stage: Stage, title: str, num_gpus: int) -> TrackedFile:
        """Write the files of a stage. Fused runs have the method scores and the weight 0.7."""
        self.stages.append(stage)
        if stage.command != "evaluate":
            return complete(stage, stage.folder.name)
        is_valid = any("valid.jsonl" in argument for argument in stage.arguments)
        fusion = {"method": "scores", "weights": [0.7, 0.3], "depth": None}
        options = {"fusion": fusion} if stage.settings["fuse_with"] else {}
        return complete(stage, format_figures(next(self.values) if is_valid else 0.5, **options))

    def find_models(self, command: str) -> list[str]:
        """Return the models that the stages of a command read."""
        arguments = [argument for stage in self.stages if stage.command == command for argument in stage.arguments]
        return [each.partition("=")[2] for each in arguments if each.startswith(("--model=", "--encoder="))]


def run_loop(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, values: list[float], *arguments: str
) -> tuple[int, FakeStages]:
    """Run a loop with a pretrained encoder, and return its exit code and its stages."""
    roberta_tiny(vocab_size=300, pooling="mean").save_pretrained(tmp_path / "encoder")
    save_tokenizer(train_tokenizer(["who ate the oak"], vocab_size=300), tmp_path / "encoder")
    monkeypatch.setattr("text.runs.loop_steps.run_stage", stages := FakeStages(values))
    fixed = ["--config=tiny", "--measures=[mrr@10]", "--bm25=false", f"--output_dir={tmp_path / 'loop'}"]
    fixed += [NOTHING_EXPECTED, *([] if "--encoder=tiny" in arguments else [f"--encoder={tmp_path / 'encoder'}"])]
    return run_command(loop, LoopFlags, [*fixed, *arguments]), stages


def test_a_worse_round_is_rejected_and_the_table_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    rounds = f"--rounds=[{{}}, {RATES}]"
    assert run_loop(monkeypatch, tmp_path, [0.5, 0.6, 0.4, 0.7], rounds)[0] == 0
    assert json.loads((tmp_path / "loop" / "rounds.json").read_text()) == {
        name: {"measure": "mrr@10", "other": other, "difference": pytest.approx(change), "p": p, "accepted": accepted}
        for name, other, change, p, accepted in (
            ("round 1", "start", 0.1, pytest.approx(1e-4, rel=0.1), True),
            ("round 2", "round 1", -0.2, pytest.approx(1e-4, rel=0.1), False),
            ("round 3", "round 1", 0.1, pytest.approx(1e-4, rel=0.1), True),
        )
    }
    assert "| round 2 | round 1 | -0.2000 | 0.0001 | rejected |" in (tmp_path / "loop" / "table.md").read_text()
    assert "<td>rejected</td>" in (tmp_path / "loop" / "table.html").read_text()
    for name in ("table.md", "table.html"):
        assert "The last accepted round is round 3." in (tmp_path / "loop" / name).read_text()
    printed = capsys.readouterr().out
    assert "== round 2 against round 1" in printed and "last accepted round is round 3" in printed
    shown = [line.partition(":")[0] for line in printed.splitlines() if line.startswith("model of ")]
    assert shown == ["model of start", "model of round 1", "model of round 2 (rejected)", "model of round 3"]


def test_the_table_says_that_no_round_was_accepted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert run_loop(monkeypatch, tmp_path, [0.5, 0.4], "--rounds=[{}]")[0] == 0
    assert "No round was accepted." in (tmp_path / "loop" / "table.md").read_text()


def test_after_a_rejected_round_the_last_accepted_model_mines_and_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rounds = "--rounds=[{}, {train: {learning_rate: 0.1}}, {sources: {dense: 1}, go_on: true}]"
    code, stages = run_loop(monkeypatch, tmp_path, [0.5, 0.6, 0.4, 0.7], rounds)
    trained = [stage.folder for stage in stages.stages if stage.command == "train"]
    assert code == 0 and len(trained) == 3
    start = str(tmp_path / "encoder")
    assert stages.find_models("train") == [start, start, str(trained[0] / "model")]
    mining = next(place for place, stage in enumerate(stages.stages) if stage.command == "mine")
    assert f"--model={trained[0] / 'model'}" in stages.stages[mining - 1].arguments


@pytest.mark.parametrize(("values", "code"), [([0.5, 0.6], 0), ([0.5, 0.5], 7), ([0.5, 0.4], 7)])
def test_training_that_improves_nothing_has_its_own_exit_code(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, values: list[float], code: int
) -> None:
    assert run_loop(monkeypatch, tmp_path, values, "--rounds=[{}]", "--require_improvement")[0] == code
    assert (tmp_path / "loop" / "table.md").exists()


def test_improvement_over_no_encoder_cannot_be_required(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for flag in ("--encoder=tiny", "--score_start=false"):
        code, stages = run_loop(monkeypatch, tmp_path, [], "--rounds=[{}]", "--require_improvement", flag)
        assert code == 2 and not stages.stages
        assert "--require_improvement" in capsys.readouterr().err
