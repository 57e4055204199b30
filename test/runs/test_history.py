"""Reading runs: names, series and damaged files."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from test.reports.helpers import add_files_to_manifest, build_figures, write_sample_run
from text.artifacts import seal
from text.errors import ArtifactError, UsageError
from text.runs.contents import write_ledger
from text.runs.history import Series, read_runs


@pytest.fixture
def sample_run(tmp_path: Path) -> Path:
    return write_sample_run(tmp_path / "made")


def test_runs_with_equal_names_are_named_by_their_paths(sample_run: Path, tmp_path: Path) -> None:
    again = write_sample_run(tmp_path / "again" / "made")
    assert [run.name for run in read_runs([sample_run, again])] == [str(sample_run), str(again)]
    assert [run.name for run in read_runs([sample_run])] == ["made"]


def test_a_series_has_the_steps_that_logged_the_metric(sample_run: Path) -> None:
    [run] = read_runs([sample_run])
    assert run.get_series("valid_mrr@10") == Series([1, 3, 5], [0.2, 0.5, 0.2])
    assert run.get_series("padding").values == [0.1] * 6  # from speed.csv
    assert run.get_series("no_such_column") == Series([], [])
    assert Series([1, 2, 3], [float("nan"), 0.0, float("-inf")]).non_finite_steps == [1, 3]


@pytest.mark.parametrize(
    ("name", "content", "key"),
    [
        ("manifest.json", "{", "JSON"),
        ("manifest.json", "[]", "an object"),
        ("manifest.json", '{"versions": {}, "data": {}, "test": {"mrr": "high"}, "files": {}}', "test.mrr"),
        ("metrics.csv", "step,a\n1,x\n", ":2"),
        ("metrics.csv", "step,a\n1,2,3\n", ":2"),
        ("metrics.csv", "step,a\nnan,2\n", ":2"),
        ("metrics.csv", "a,b\n1,2\n", ":2"),
        ("speed.csv", "step,padding\n-1,2\n", ":2"),
        ("evaluation/figures.json", "{}", "runs"),
        ("config.yaml", "[1", ""),
        ("config.yaml", "[]", "an object"),
        ("config.yaml", "gradient_clip_val: [2]\n", "gradient_clip_val"),
        ("config.yaml", "max_epochs: many\n", "max_epochs"),
        ("lengths.json", "[]", "an object"),
        ("lengths.json", '{"questions": {"limit": 1, "texts_by_tokens": {"1": 1}}}', "passages"),
        ("worst_questions.jsonl", "{}\n", "step"),
        ("worst_questions.jsonl", "\n", ":1"),
    ],
)
def test_the_error_names_a_damaged_file_and_its_key(sample_run: Path, name: str, content: str, key: str) -> None:
    (sample_run / name).parent.mkdir(exist_ok=True)
    (sample_run / name).write_text(content)
    with pytest.raises(ArtifactError) as raised:
        read_runs([sample_run])
    message = str(raised.value)
    assert message.startswith(f"{sample_run / name}:") and key in message and len(message.splitlines()) == 1


@pytest.mark.parametrize(
    "counts", ['{"x": 1}', '{"1": 0}', '{"1": -1}', "{}", '{"1": 10000000000}', '{"9999999999": 1}']
)
def test_invalid_counts_of_lengths_are_refused(sample_run: Path, counts: str) -> None:
    good = '{"limit": 1, "texts_by_tokens": {"1": 1}}'
    bad = f'{{"limit": 1, "texts_by_tokens": {counts}}}'
    (sample_run / "lengths.json").write_text(f'{{"questions": {good}, "passages": {bad}}}')
    with pytest.raises(ArtifactError, match=f"{sample_run}/lengths.json: passages"):
        read_runs([sample_run])


@pytest.mark.parametrize("name", ["config.yaml", "metrics.csv", "speed.csv", "lengths.json", "worst_questions.jsonl"])
def test_a_changed_or_missing_file_of_a_finished_run_is_refused(sample_run: Path, name: str) -> None:
    add_files_to_manifest(sample_run)
    read_runs([sample_run])
    content = (sample_run / name).read_bytes()
    (sample_run / name).write_bytes(content.replace(b"0", b"1"))
    with pytest.raises(ArtifactError, match=f"{sample_run}/{name}: "):
        read_runs([sample_run])
    (sample_run / name).unlink()
    with pytest.raises((ArtifactError, UsageError), match=str(sample_run)):
        read_runs([sample_run])


def test_an_evaluation_of_an_earlier_run_in_the_folder_is_ignored(sample_run: Path) -> None:
    path = sample_run / "evaluation" / "figures.json"
    path.parent.mkdir()
    figures = build_figures({"map": {"mean": 0.5, "low": 0.25, "high": 0.75}}, runs=["run.trec"])
    path.write_text(json.dumps(figures))
    write_ledger(sample_run, {})
    assert read_runs([sample_run])[0].evaluation is None
    path.write_text(json.dumps(seal(figures | {"questions": 8})))
    evaluation = read_runs([sample_run])[0].evaluation
    assert evaluation is not None and evaluation.questions == 8


@pytest.mark.parametrize("name", ["manifest.json", "run.json", "evaluation/figures.json"])
def test_a_value_edited_by_hand_is_refused(sample_run: Path, name: str) -> None:
    (sample_run / "evaluation").mkdir()
    figures = build_figures({"map": {"mean": 0.5, "low": 0.25, "high": 0.75}}, runs=["run.trec"])
    (sample_run / "evaluation" / "figures.json").write_text(json.dumps(figures | {"questions": 8, "sha256": ""}))
    write_ledger(sample_run, {})  # run.json marks the evaluation as one of an earlier run.
    (sample_run / "evaluation" / "figures.json").write_text(json.dumps(figures))
    read_runs([sample_run])
    edits = {
        "manifest.json": {"test": {"test_mrr@10": 0.925}},
        "run.json": {"earlier_evaluation": None},
        "evaluation/figures.json": {"figures": {"map": {"mean": 0.95, "low": 0.9, "high": 1.0}}},
    }
    content = json.loads((sample_run / name).read_text())
    edited = content | edits[name]
    for changed in (edited, {key: value for key, value in edited.items() if key != "sha256"}, edited | {"sha256": 1}):
        (sample_run / name).write_text(json.dumps(changed))
        with pytest.raises(ArtifactError, match=f"^{sample_run}/{name}: sha256 "):
            read_runs([sample_run])
    (sample_run / name).write_text(json.dumps(seal(edited)))
    read_runs([sample_run])


def test_the_error_names_a_folder_without_a_run(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=f"^{tmp_path}: "):
        read_runs([tmp_path])
