"""``dpr-text loop --hybrid``: each model is fused with BM25 by a weight that the validation questions choose."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from test.commands.test_loop import NOTHING_EXPECTED, loop_flags, rehearse
from test.commands.test_loop_acceptance import FakeStages
from text.commands.cli import run_command
from text.commands.loop import LoopFlags, loop
from text.errors import UsageError
from text.evaluation import choose_fusion_weight, evaluate_run, fuse_runs, mean_metrics, read_run
from text.evaluation.fusion import split_weight
from text.retrieval.scoring import read_positives

ROUNDS = "--rounds=[{}, {sources: {hybrid: 1, bm25: 1}}]"


def run_loop(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, values: list[float], *arguments: str) -> FakeStages:
    monkeypatch.setattr("text.runs.loop_steps.run_stage", stages := FakeStages(values))
    fixed = ["--config=tiny", "--measures=[mrr@10]", "--hybrid", NOTHING_EXPECTED, f"--output_dir={tmp_path / 'loop'}"]
    assert run_command(loop, LoopFlags, [*fixed, *arguments]) == 0
    return stages


def test_the_fusion_of_the_validation_questions_is_used_for_all_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stages = run_loop(monkeypatch, tmp_path, [0.3, 0.4, 0.5, 0.6, 0.7], ROUNDS).stages
    fused = [stage for stage in stages if stage.settings.get("fuse_with")]
    chosen = ["--fusion=scores", "--fusion_weight=0.7"]
    assert len(fused) == 4
    for stage in fused:
        is_valid = any("valid.jsonl" in argument for argument in stage.arguments)
        assert ("--choose_weight=mrr@10" in stage.arguments) is is_valid
        assert (set(chosen) <= set(stage.arguments)) is not is_valid
    [mined] = [stage for stage in stages if stage.result.path.name == "hybrid.trec"]
    assert {"--bm25=true", "--with_positives=true", *chosen} <= set(mined.arguments)
    table = json.loads((tmp_path / "loop" / "table.json").read_text())
    assert [(name, each["valid"]["mrr@10"]) for name, each in table.items()] == [
        ("BM25", 0.3),
        ("round 1", 0.4),
        ("round 1 + BM25", 0.5),
        ("round 2", 0.6),
        ("round 2 + BM25", 0.7),
    ]
    assert list(json.loads((tmp_path / "loop" / "models.json").read_text())) == ["round 1", "round 2"]


def test_each_seed_has_its_own_fusion(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    arguments = ["--rounds=[{}]", "--seeds=[1,2]"]
    run_loop(monkeypatch, tmp_path, [0.3, 0.4, 0.8, 0.6, 0.7], *arguments)
    seeds = json.loads((tmp_path / "loop" / "seeds.json").read_text())
    assert {name: each["chosen"] for name, each in seeds.items()} == {"round 1": 2, "round 1 + BM25": 2}
    values = [each["metrics"]["valid"]["mrr@10"] for each in seeds["round 1 + BM25"]["seeds"].values()]
    assert values == [0.8, 0.7]


@pytest.mark.parametrize(
    ("changes", "names"),
    [
        ({"hybrid": True, "bm25": False, "rounds": [{}]}, ["--hybrid", "--bm25"]),
        ({"rounds": [{}, {"sources": {"hybrid": 1}}]}, ["round 2", "hybrid", "--hybrid"]),
        ({"hybrid": True, "rounds": [{"sources": {"hybrid": 1}}]}, ["round 1", "hybrid", "--encoder"]),
    ],
)
def test_a_fusion_without_bm25_or_start_encoder_is_refused(changes: dict, names: list[str]) -> None:
    with pytest.raises(UsageError) as error:
        loop_flags(**changes)
    assert all(name in str(error.value) for name in names)


def test_questions_with_answers_are_fused_without_a_choice(tmp_path: Path) -> None:
    lines = ["who ate it?\t['beetle']\n"] * 3
    for split in ("valid", "test"):
        (tmp_path / f"{split}.qa.csv").write_text("".join(lines))
    questions = {f"{split}_questions": str(tmp_path / f"{split}.qa.csv") for split in ("valid", "test")}
    stages = rehearse(loop_flags(hybrid=True, rounds=[{}], **questions))
    fused = [stage for stage in stages if stage.settings.get("fuse_with")]
    assert len(fused) == 2 and not any(stage.settings["choose_weight"] for stage in fused)


@pytest.mark.slow
def test_the_table_has_the_metrics_of_the_fused_runs(tmp_path: Path) -> None:
    arguments = ["--config=tiny", "--rounds=[{}]", "--train={max_epochs: 1}", "--measures=[mrr@10]", "--hybrid"]
    assert run_command(loop, LoopFlags, [*arguments, NOTHING_EXPECTED, f"--output_dir={tmp_path}"]) == 0
    runs, positives = dict[str, list[Path]](), dict[str, Path]()
    for path in tmp_path.glob("evaluate-*/figures.json"):
        inputs = json.loads(path.read_text())["inputs"]
        if "fuse_with" in inputs:
            split = Path(inputs["positives"]["path"]).stem
            runs[split] = [Path(inputs[name]["path"]) for name in ("run", "fuse_with")]
            positives[split] = Path(inputs["positives"]["path"])
    table = json.loads((tmp_path / "table.json").read_text())["round 1 + BM25"]
    relevant = {split: read_positives(path) for split, path in positives.items()}
    chosen = choose_fusion_weight([read_run(path) for path in runs["valid"]], relevant["valid"], "mrr@10")
    for split, paths in runs.items():
        fused = fuse_runs([read_run(path) for path in paths], method=chosen.method, weights=split_weight(chosen.weight))
        expected = mean_metrics(evaluate_run(relevant[split], fused, cut_offs=[10]))["mrr@10"]
        assert table[split]["mrr@10"] == pytest.approx(expected)
