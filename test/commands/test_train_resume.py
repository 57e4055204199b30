"""``dpr-text train --resume`` with changed files and flags, and validation by steps."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from test.commands.training import SMALL, TINY_SET, fail_train, read_metrics, run_train
from text.training import AtomicCheckpointIO, find_valid_checkpoint

Capture = pytest.CaptureFixture[str]

# Lightning warns about usage that does not matter for these tests.
pytestmark = [
    pytest.mark.filterwarnings("ignore:.*LeafSpec.*"),
    pytest.mark.filterwarnings("ignore:Checkpoint directory .* exists and is not empty:UserWarning"),
]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a run of one epoch."""
    folder = tmp_path_factory.mktemp("runs") / "run"
    assert run_train("--max_epochs=1", f"--output_dir={folder}", *SMALL) == 0
    return folder


@pytest.fixture
def run(finished: Path, tmp_path: Path) -> Path:
    """Return a copy of the run that a test may continue."""
    return Path(shutil.copytree(finished, tmp_path / "run"))


def refuse(capsys: Capture, code: int, run: Path, *flags: str, resume: Path | str = "auto") -> str:
    """Resume a run with refused flags, check that its folder does not change, and return the error."""
    before = snapshot(run)
    found, line = fail_train(capsys, f"--output_dir={run}", *SMALL, f"--resume={resume}", "--max_epochs=2", *flags)
    assert found == code, line
    assert snapshot(run) == before
    return line


def snapshot(run: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in sorted(run.rglob("*")) if path.is_file()}


def test_other_validation_data_is_refused(run: Path, tmp_path: Path, capsys: Capture) -> None:
    rows = (TINY_SET / "valid.jsonl").read_text(encoding="utf-8").splitlines(keepends=True)
    (tmp_path / "other.jsonl").write_text("".join(rows[1:]), encoding="utf-8")
    checkpoint, _ = find_valid_checkpoint(run / "checkpoints")
    saved = AtomicCheckpointIO().load_checkpoint(checkpoint)["DPRDataModule"]["valid"]
    line = refuse(capsys, 5, run, f"--valid_file={tmp_path}/other.jsonl")
    assert f"{checkpoint}: " in line and f"{tmp_path}/other.jsonl" in line and saved in line


def test_the_same_validation_data_elsewhere_and_other_test_data_are_accepted(run: Path, tmp_path: Path) -> None:
    shutil.copy(TINY_SET / "valid.jsonl", tmp_path / "copy.jsonl")
    files = [f"--valid_file={tmp_path}/copy.jsonl", f"--test_file={TINY_SET}/valid.jsonl"]
    assert run_train(f"--output_dir={run}", *SMALL, "--resume", "--max_epochs=2", *files) == 0
    assert [row["epoch"] for row in read_metrics(run) if row["valid_loss"]] == ["0", "1"]


@pytest.mark.parametrize(
    ("flag", "parts"),
    [
        ("--monitor=valid_loss", ["monitor: valid_mrr@10 -> valid_loss"]),
        ("--accumulate_batches=2", ["accumulate_batches: 1 -> 2"]),
        ("--warmup_steps=1", ["warmup_steps: 0 -> 1"]),
        ("--schedule=cosine", ["schedule: linear -> cosine"]),
        ("--validate_every_n_steps=1", ["validate_every_n_steps: None -> 1"]),
        ("--eval_hard_negatives=1", ["eval_hard_negatives: 2 -> 1"]),
    ],
)
def test_a_change_of_a_setting_that_affects_the_weights_is_refused(
    run: Path, capsys: Capture, flag: str, parts: list[str]
) -> None:
    others = [each for each in SMALL if not each.startswith(flag.split("=")[0])]
    code, line = fail_train(capsys, f"--output_dir={run}", *others, "--resume", "--max_epochs=2", flag)
    assert code == 5 and all(part in line for part in (f"{run}/checkpoints/last.ckpt: ", *parts))


def test_fast_dev_run_cannot_resume(run: Path, capsys: Capture) -> None:
    line = refuse(capsys, 2, run, "--fast_dev_run")
    assert "--fast_dev_run" in line and "--resume" in line


def test_a_validation_interval_may_be_longer_than_the_run(tmp_path: Path) -> None:
    flags = ["--max_epochs=2", "--accumulate_batches=3", "--validate_every_n_steps=9", f"--output_dir={tmp_path}"]
    assert run_train(*flags, *SMALL) == 0
    steps = [
        AtomicCheckpointIO().load_checkpoint(tmp_path / f"checkpoints/{name}.ckpt")["global_step"]
        for name in ("best", "last")
    ]
    assert steps == [2, 2]  # the two batches of an epoch make one step
    assert (tmp_path / "model").is_dir() and (tmp_path / "report.html").is_file()


@pytest.mark.parametrize("key", ["loops", "callbacks", "DPRDataModule", "optimizer_states"])
def test_an_incomplete_checkpoint_is_refused(run: Path, capsys: Capture, key: str) -> None:
    checkpoint = run / "checkpoints" / "last.ckpt"
    content = AtomicCheckpointIO().load_checkpoint(checkpoint)
    del content[key]
    AtomicCheckpointIO().save_checkpoint(content, checkpoint)
    line = refuse(capsys, 5, run)
    assert f"{checkpoint}: " in line and key in line


def shorten_position(content: dict[str, Any]) -> None:
    content["loops"]["fit_loop"]["epoch_loop.batch_progress"]["current"]["processed"] -= 1


def drop_weights(content: dict[str, Any]) -> None:
    content["state_dict"].popitem()


def change_moment(content: dict[str, Any]) -> None:
    content["optimizer_states"][0]["state"][0]["exp_avg"] = torch.zeros(3)


@pytest.mark.parametrize(
    ("damage", "key"), [(shorten_position, "loops"), (drop_weights, "state_dict"), (change_moment, "exp_avg")]
)
def test_invalid_checkpoint_content_is_refused_before_anything_is_removed(
    run: Path, tmp_path: Path, capsys: Capture, damage: Callable[[dict[str, Any]], None], key: str
) -> None:
    other = Path(shutil.copytree(run, tmp_path / "other"))
    checkpoint = run / "checkpoints" / "last.ckpt"
    content = AtomicCheckpointIO().load_checkpoint(checkpoint)
    damage(content)
    AtomicCheckpointIO().save_checkpoint(content, checkpoint)
    for line in (refuse(capsys, 5, run), refuse(capsys, 5, other, "--overwrite", resume=checkpoint)):
        assert f"{checkpoint}: " in line and key in line


def test_a_run_without_its_best_checkpoint_is_refused_before_anything_is_removed(
    run: Path, tmp_path: Path, capsys: Capture
) -> None:
    other = Path(shutil.copytree(run, tmp_path / "other"))
    best, last = (run / "checkpoints" / f"{name}.ckpt" for name in ("best", "last"))
    best.unlink()
    assert f"{best}: " in refuse(capsys, 5, run)
    # A best checkpoint with another seed belongs to another run.
    content = AtomicCheckpointIO().load_checkpoint(last)
    content["DPRDataModule"]["seed"] += 1
    AtomicCheckpointIO().save_checkpoint(content, best)
    assert f"{best}: " in refuse(capsys, 5, run, resume=last)
    best.unlink()
    # The best checkpoint in the other folder belongs to the run that would be removed.
    assert "best.ckpt: " in refuse(capsys, 5, other, "--overwrite", resume=last)


def test_a_moved_checkpoint_of_another_encoder_is_refused(run: Path, tmp_path: Path, capsys: Capture) -> None:
    moved = tmp_path / "moved" / "checkpoints" / "last.ckpt"
    moved.parent.mkdir(parents=True)
    shutil.copy(run / "checkpoints" / "last.ckpt", moved)
    tokenizer = f"--tokenizer={run}/tokenizer.json"
    for flag, key in (("--encoder=small", "state_dict"), ("--tied", "param_groups")):
        folder = tmp_path / "new"
        flags = (f"--output_dir={folder}", f"--resume={moved}", tokenizer, "--overwrite", *SMALL)
        code = run_train(*flags, "--max_epochs=2", flag)
        line = capsys.readouterr().err.splitlines()[-1]
        assert code == 5 and f"{moved}: " in line and key in line, line
