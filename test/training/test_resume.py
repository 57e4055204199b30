"""A run that is stopped anywhere and resumed gives the same weights, bit for bit, as an uninterrupted run."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from pytorch_lightning import Callback
from pytorch_lightning.callbacks import ModelCheckpoint

from test.training.conftest import Interrupt, Run, SaveAndStop
from text.datasets import DPRDataPipe
from text.errors import ArtifactError
from text.training import ProgressBar, RandomState, Throughput

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*LeafSpec.*:FutureWarning"),
    pytest.mark.filterwarnings("ignore:.*LeafSpec.*:DeprecationWarning"),
]


# An epoch has 3 steps: 1 and 4 are inside an epoch, 3 and 6 end one, and 8 is the second to last step.
@pytest.mark.parametrize("step", [1, 3, 4, 6, 8])
def test_resumed_equals_uninterrupted(rows: Path, tmp_path: Path, step: int) -> None:
    whole = Run(rows, tmp_path / "whole").fit()
    folder, checkpoint = tmp_path / "resumed", tmp_path / "stopped.ckpt"
    with pytest.raises(Interrupt):
        Run(rows, folder, callbacks=[SaveAndStop(step, checkpoint)]).fit()
    resumed = Run(rows, folder, seed=99, keep_steps=step).fit(checkpoint)
    assert resumed.trainer.global_step == whole.trainer.global_step == 9
    for name, weights in whole.copy_weights().items():
        torch.testing.assert_close(resumed.copy_weights()[name], weights, rtol=0, atol=0)


@pytest.mark.parametrize("step", [3, pytest.param(4, marks=pytest.mark.slow)])
def test_resumed_equals_uninterrupted_without_validation_and_test(rows: Path, tmp_path: Path, step: int) -> None:
    whole = Run(rows, tmp_path / "whole", validate=False).fit()
    with pytest.raises(Interrupt):
        Run(rows, tmp_path, validate=False, callbacks=[SaveAndStop(step, tmp_path / "stopped.ckpt")]).fit()
    resumed = Run(rows, tmp_path, seed=99, validate=False, keep_steps=step).fit(tmp_path / "stopped.ckpt")
    assert resumed.trainer.global_step == whole.trainer.global_step == 9
    for name, weights in whole.copy_weights().items():
        torch.testing.assert_close(resumed.copy_weights()[name], weights, rtol=0, atol=0)
    with pytest.raises(ArtifactError, match="valid"):
        Run(rows, tmp_path / "other").fit(tmp_path / "stopped.ckpt")


def test_the_progress_bar_of_a_resumed_epoch_shows_its_number_and_total(rows: Path, tmp_path: Path, capsys) -> None:
    def fit(callback: Callback, checkpoint: Path | None = None) -> None:
        Run(rows, tmp_path, callbacks=[ProgressBar(), callback], enable_progress_bar=True).fit(checkpoint)

    with pytest.raises(Interrupt):
        fit(SaveAndStop(4, tmp_path / "stopped.ckpt"))
    capsys.readouterr()
    with pytest.raises(Interrupt):
        fit(SaveAndStop(5, tmp_path / "again.ckpt"), tmp_path / "stopped.ckpt")
    shown = capsys.readouterr()
    assert "Epoch 1:  67%" in shown.out + shown.err
    assert "2/3" in shown.out + shown.err


def test_a_data_module_that_is_used_again_starts_at_the_first_row(rows: Path, tmp_path: Path) -> None:
    with pytest.raises(Interrupt):
        Run(rows, tmp_path / "a", callbacks=[SaveAndStop(1, tmp_path / "stopped.ckpt")]).fit()
    resumed = Run(rows, tmp_path / "b").fit(tmp_path / "stopped.ckpt")
    again = Run(rows, tmp_path / "c")
    again.data = resumed.data
    again.fit()
    assert again.trainer.global_step == 9  # 3 steps per epoch


def test_an_incomplete_last_row_of_metrics_csv_is_logged_again(rows: Path, tmp_path: Path) -> None:
    with pytest.raises(Interrupt):
        Run(rows, tmp_path, callbacks=[SaveAndStop(4, tmp_path / "stopped.ckpt")]).fit()
    table = tmp_path / "metrics.csv"
    whole = table.read_bytes()
    table.write_bytes(whole[: whole.rstrip().rindex(b"\n") + 4])
    Run(rows, tmp_path, keep_steps=4).fit(tmp_path / "stopped.ckpt")
    with open(table, newline="") as file:
        assert all(row["step"] for row in csv.DictReader(file))


def test_a_loaded_random_state_is_saved_again_before_the_first_step() -> None:
    """A resumed run may validate, and save a checkpoint, before its first step."""
    torch.manual_seed(1)
    saved = RandomState().state_dict()
    torch.manual_seed(2)
    resumed = RandomState()
    resumed.load_state_dict(saved)
    assert torch.equal(resumed.state_dict()["cpu"], saved["cpu"])


def test_random_states_of_more_gpus_than_this_machine_has_are_ignored(monkeypatch: pytest.MonkeyPatch) -> None:
    states, nothing, restored = RandomState().state_dict()["cpu"], cast(Any, None), {}
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "set_rng_state", lambda state, device: restored.update({device: state}))
    resumed = RandomState()
    resumed.load_state_dict({"cpu": states, "cuda": [states, states]})
    resumed.on_train_batch_start(nothing, nothing, nothing, 0)
    assert list(restored) == [0] and torch.equal(restored[0], states[0])


@pytest.mark.filterwarnings("ignore:Checkpoint directory .* exists and is not empty:UserWarning")
def test_metrics_csv_continues_from_the_last_checkpoint(rows: Path, tmp_path: Path) -> None:
    def build_callback(name: str) -> ModelCheckpoint:
        return ModelCheckpoint(tmp_path / name, monitor="valid_loss", save_last=True, enable_version_counter=False)

    Run(rows, tmp_path / "whole", callbacks=[build_callback("whole")], enable_checkpointing=True).fit()
    folder = tmp_path / "resumed"
    with pytest.raises(Interrupt):  # inside the second epoch; the last checkpoint is that of the first epoch
        stop = SaveAndStop(5, tmp_path / "not_used.ckpt")
        Run(rows, folder, callbacks=[build_callback("resumed"), stop], enable_checkpointing=True).fit()
    Run(rows, folder, callbacks=[build_callback("resumed")], enable_checkpointing=True, keep_steps=3).fit(
        folder / "last.ckpt"
    )
    assert (folder / "metrics.csv").read_text() == (tmp_path / "whole" / "metrics.csv").read_text()


def test_speed_csv_continues_from_the_last_checkpoint(rows: Path, tmp_path: Path) -> None:
    """Rows before the checkpoint keep their speed, and the padding equals that of an uninterrupted run."""

    def read_speed(folder: Path) -> list[dict[str, str]]:
        with open(folder / "speed.csv", newline="") as file:
            return list(csv.DictReader(file))

    Run(rows, tmp_path / "whole", callbacks=[Throughput()]).fit()
    folder, checkpoint = tmp_path / "resumed", tmp_path / "stopped.ckpt"
    with pytest.raises(Interrupt):
        Run(rows, folder, callbacks=[Throughput(), SaveAndStop(5, checkpoint)]).fit()
    before = read_speed(folder)
    Run(rows, folder, callbacks=[Throughput()], keep_steps=4).fit(checkpoint)
    whole, resumed = read_speed(tmp_path / "whole"), read_speed(folder)
    assert [row["step"] for row in whole] == [str(step) for step in range(9)]
    assert resumed[:4] == before[:4]
    # The run keeps the rows of steps 0 to 3 (keep_steps) and resumes at step 5, so step 4 has no row.
    assert [row["step"] for row in resumed] == ["0", "1", "2", "3", "5", "6", "7", "8"]
    padding = {row["step"]: row["padding"] for row in whole}
    assert all(padding[row["step"]] == row["padding"] and 0 < float(row["padding"]) < 1 for row in resumed)
    assert all(float(row["examples/s"]) > 0 for row in (*whole, *resumed))
    assert "examples/s" not in (folder / "metrics.csv").read_text()


def test_a_checkpoint_with_another_seed_is_rejected(rows: Path, tmp_path: Path) -> None:
    checkpoint = tmp_path / "stopped.ckpt"
    with pytest.raises(Interrupt):
        Run(rows, tmp_path, callbacks=[SaveAndStop(1, checkpoint)]).fit()
    other = Run(rows, tmp_path / "other")
    other.data.train.order.seed = 4
    with pytest.raises(ArtifactError, match=r"\bseed\b.*\b3\b.*\b4\b"):
        other.fit(checkpoint)


def test_a_checkpoint_of_other_data_is_rejected(rows: Path, tmp_path: Path) -> None:
    checkpoint = tmp_path / "stopped.ckpt"
    with pytest.raises(Interrupt):
        Run(rows, tmp_path, callbacks=[SaveAndStop(1, checkpoint)]).fit()
    rows.write_text(rows.read_text().replace("green", "white"))  # the file keeps its size
    with pytest.raises(ArtifactError, match=r"data .*\b\w{16}\b.*\b\w{16}\b"):
        Run(rows, tmp_path / "other").fit(checkpoint)


def test_the_state_of_the_data_is_small_and_independent_of_workers(rows: Path, tmp_path: Path) -> None:
    states = []
    for num_workers in (0, 2):
        checkpoint = tmp_path / f"{num_workers}.ckpt"
        with pytest.raises(Interrupt):
            Run(rows, tmp_path, num_workers=num_workers, callbacks=[SaveAndStop(5, checkpoint)]).fit()
        states.append(torch.load(checkpoint, weights_only=True)["DPRDataModule"])
    assert states[0] == states[1]
    assert {name: states[0][name] for name in ("seed", "epoch", "row")} == {"seed": 3, "epoch": 1, "row": 8}
    assert len(json.dumps(states[0])) < 200


@pytest.mark.parametrize("num_workers", [pytest.param(0, marks=pytest.mark.slow), 2])
def test_resuming_with_other_workers_and_a_token_cache_changes_nothing(
    rows: Path, tmp_path: Path, num_workers: int
) -> None:
    whole = Run(rows, tmp_path / "whole").fit()
    checkpoint = tmp_path / "stopped.ckpt"
    with pytest.raises(Interrupt):
        Run(rows, tmp_path / "resumed", num_workers=2 - num_workers, callbacks=[SaveAndStop(4, checkpoint)]).fit()
    resumed = Run(rows, tmp_path / "resumed", num_workers=num_workers, keep_steps=4)
    collate: Any = resumed.data.collate
    resumed.data.train.cache_tokens(collate.passage_transform)
    resumed.fit(checkpoint)
    for name, weights in whole.copy_weights().items():
        torch.testing.assert_close(resumed.copy_weights()[name], weights, rtol=0, atol=0)


@pytest.mark.parametrize("one_set_per_batch", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_a_resumed_mix_of_data_sets_equals_an_uninterrupted_one(
    rows: Path, tmp_path: Path, one_set_per_batch: bool
) -> None:
    other = tmp_path / "other.jsonl"
    other.write_text("".join(rows.read_text().splitlines(keepends=True)[:5]))

    def run(folder: str, **options: Any) -> Run:
        made = Run(rows, tmp_path / folder, **options)
        made.data.train = DPRDataPipe(
            [rows, other], 4, train=True, seed=3, rates=[0.5, 1.2], one_set_per_batch=one_set_per_batch
        )
        made.task.set_names = made.data.train.names
        return made

    whole = run("whole").fit()
    metrics = whole.trainer.callback_metrics
    assert (metrics["train_questions/rows"], metrics["train_questions/other"]) == (6, 6)
    mixed = (metrics["train_loss/rows"] + metrics["train_loss/other"]) / 2
    torch.testing.assert_close(mixed, metrics["train_loss_epoch"])
    for step in (1, 4, 5):
        checkpoint = tmp_path / f"{step}.ckpt"
        with pytest.raises(Interrupt):
            run(f"resumed{step}", callbacks=[SaveAndStop(step, checkpoint)]).fit()
        resumed = run(f"resumed{step}", seed=9, keep_steps=step).fit(checkpoint)
        for name, weights in whole.copy_weights().items():
            torch.testing.assert_close(resumed.copy_weights()[name], weights, rtol=0, atol=0)
