"""A run that stops anywhere and resumes is the run that would have been: weights bit for bit."""

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


# 3 steps an epoch: 1 and 4 are inside one, 3 and 6 at the end of one, 8 is the last but one.
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


def test_progress_of_an_epoch_that_is_gone_on_with(rows: Path, tmp_path: Path, capsys) -> None:
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


def test_a_data_module_that_is_used_again_starts_anew(rows: Path, tmp_path: Path) -> None:
    with pytest.raises(Interrupt):
        Run(rows, tmp_path / "a", callbacks=[SaveAndStop(1, tmp_path / "stopped.ckpt")]).fit()
    resumed = Run(rows, tmp_path / "b").fit(tmp_path / "stopped.ckpt")
    again = Run(rows, tmp_path / "c")
    again.data = resumed.data
    again.fit()
    assert again.trainer.global_step == 9  # 3 steps an epoch


def test_a_torn_last_row_of_metrics_csv_is_logged_again(rows: Path, tmp_path: Path) -> None:
    with pytest.raises(Interrupt):
        Run(rows, tmp_path, callbacks=[SaveAndStop(4, tmp_path / "stopped.ckpt")]).fit()
    table = tmp_path / "metrics.csv"
    whole = table.read_bytes()
    table.write_bytes(whole[: whole.rstrip().rindex(b"\n") + 4])
    Run(rows, tmp_path, keep_steps=4).fit(tmp_path / "stopped.ckpt")
    with open(table, newline="") as file:
        assert all(row["step"] for row in csv.DictReader(file))


def test_random_state_that_is_saved_before_it_was_put_back_is_what_was_restored() -> None:
    """As where a validation that was due saves a checkpoint before the first step."""
    torch.manual_seed(1)
    saved = RandomState().state_dict()
    torch.manual_seed(2)
    resumed = RandomState()
    resumed.load_state_dict(saved)
    assert torch.equal(resumed.state_dict()["cpu"], saved["cpu"])


def test_random_state_of_more_gpus_than_are_here(monkeypatch: pytest.MonkeyPatch) -> None:
    of_one, nothing, put_back = RandomState().state_dict()["cpu"], cast(Any, None), {}
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "set_rng_state", lambda state, device: put_back.update({device: state}))
    resumed = RandomState()
    resumed.load_state_dict({"cpu": of_one, "cuda": [of_one, of_one]})
    resumed.on_train_batch_start(nothing, nothing, nothing, 0)
    assert list(put_back) == [0] and torch.equal(put_back[0], of_one[0])


@pytest.mark.filterwarnings("ignore:Checkpoint directory .* exists and is not empty:UserWarning")
def test_metrics_csv_goes_on_from_the_last_checkpoint(rows: Path, tmp_path: Path) -> None:
    def last(name: str) -> ModelCheckpoint:
        return ModelCheckpoint(tmp_path / name, monitor="valid_loss", save_last=True, enable_version_counter=False)

    Run(rows, tmp_path / "whole", callbacks=[last("whole")], enable_checkpointing=True).fit()
    folder = tmp_path / "resumed"
    with pytest.raises(Interrupt):  # inside the second epoch; the last checkpoint is from after the first
        stop = SaveAndStop(5, tmp_path / "not_used.ckpt")
        Run(rows, folder, callbacks=[last("resumed"), stop], enable_checkpointing=True).fit()
    Run(rows, folder, callbacks=[last("resumed")], enable_checkpointing=True, keep_steps=3).fit(folder / "last.ckpt")
    assert (folder / "metrics.csv").read_text() == (tmp_path / "whole" / "metrics.csv").read_text()


def test_speed_csv_goes_on_beside_it(rows: Path, tmp_path: Path) -> None:
    """The clock's figures are what they were; the others are those of a run without an interruption."""

    def speed(folder: Path) -> list[dict[str, str]]:
        with open(folder / "speed.csv", newline="") as file:
            return list(csv.DictReader(file))

    Run(rows, tmp_path / "whole", callbacks=[Throughput()]).fit()
    folder, checkpoint = tmp_path / "resumed", tmp_path / "stopped.ckpt"
    with pytest.raises(Interrupt):
        Run(rows, folder, callbacks=[Throughput(), SaveAndStop(5, checkpoint)]).fit()
    before = speed(folder)
    Run(rows, folder, callbacks=[Throughput()], keep_steps=4).fit(checkpoint)
    whole, resumed = speed(tmp_path / "whole"), speed(folder)
    assert [row["step"] for row in whole] == [str(step) for step in range(9)]
    assert resumed[:4] == before[:4]
    # Only steps after the checkpoint are trained again: the row of step 4 was dropped with them.
    assert [row["step"] for row in resumed] == ["0", "1", "2", "3", "5", "6", "7", "8"]
    padding = {row["step"]: row["padding"] for row in whole}
    assert all(padding[row["step"]] == row["padding"] and 0 < float(row["padding"]) < 1 for row in resumed)
    assert all(float(row["examples/s"]) > 0 for row in (*whole, *resumed))
    assert "examples/s" not in (folder / "metrics.csv").read_text()


def test_checkpoint_of_another_order_is_refused(rows: Path, tmp_path: Path) -> None:
    checkpoint = tmp_path / "stopped.ckpt"
    with pytest.raises(Interrupt):
        Run(rows, tmp_path, callbacks=[SaveAndStop(1, checkpoint)]).fit()
    other = Run(rows, tmp_path / "other")
    other.data.train.order.seed = 4
    with pytest.raises(ArtifactError, match=r"\bseed\b.*\b3\b.*\b4\b"):
        other.fit(checkpoint)


def test_checkpoint_of_other_data_is_refused(rows: Path, tmp_path: Path) -> None:
    checkpoint = tmp_path / "stopped.ckpt"
    with pytest.raises(Interrupt):
        Run(rows, tmp_path, callbacks=[SaveAndStop(1, checkpoint)]).fit()
    rows.write_text(rows.read_text().replace("green", "white"))  # as many bytes
    with pytest.raises(ArtifactError, match=r"data .*\b\w{16}\b.*\b\w{16}\b"):
        Run(rows, tmp_path / "other").fit(checkpoint)


def test_state_of_the_loader_is_small_and_knows_no_workers(rows: Path, tmp_path: Path) -> None:
    states = []
    for num_workers in (0, 2):
        checkpoint = tmp_path / f"{num_workers}.ckpt"
        with pytest.raises(Interrupt):
            Run(rows, tmp_path, num_workers=num_workers, callbacks=[SaveAndStop(5, checkpoint)]).fit()
        states.append(torch.load(checkpoint, weights_only=True)["DPRDataModule"])
    assert states[0] == states[1]
    assert {name: states[0][name] for name in ("seed", "epoch", "row")} == {"seed": 3, "epoch": 1, "row": 8}
    assert len(json.dumps(states[0])) < 200


@pytest.mark.parametrize("num_workers", [0, 2])
def test_resumed_with_other_workers_and_a_token_cache(rows: Path, tmp_path: Path, num_workers: int) -> None:
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
def test_resumed_in_a_mix_of_sets(rows: Path, tmp_path: Path, one_set_per_batch: bool) -> None:
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
    figures = whole.trainer.callback_metrics
    assert (figures["train_questions/rows"], figures["train_questions/other"]) == (6, 6)
    mixed = (figures["train_loss/rows"] + figures["train_loss/other"]) / 2
    torch.testing.assert_close(mixed, figures["train_loss_epoch"])
    for step in (1, 4, 5):
        checkpoint = tmp_path / f"{step}.ckpt"
        with pytest.raises(Interrupt):
            run(f"resumed{step}", callbacks=[SaveAndStop(step, checkpoint)]).fit()
        resumed = run(f"resumed{step}", seed=9, keep_steps=step).fit(checkpoint)
        for name, weights in whole.copy_weights().items():
            torch.testing.assert_close(resumed.copy_weights()[name], weights, rtol=0, atol=0)
