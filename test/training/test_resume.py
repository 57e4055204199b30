"""A run that stops anywhere and resumes is the run that would have been: weights bit for bit."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from pytorch_lightning.callbacks import ModelCheckpoint

from test.training.conftest import Interrupt, Run, SaveAndStop
from text.errors import ArtifactError

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
    for name, weights in whole.weights().items():
        torch.testing.assert_close(resumed.weights()[name], weights, rtol=0, atol=0)


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


def test_checkpoint_of_another_order_is_refused(rows: Path, tmp_path: Path) -> None:
    checkpoint = tmp_path / "stopped.ckpt"
    with pytest.raises(Interrupt):
        Run(rows, tmp_path, callbacks=[SaveAndStop(1, checkpoint)]).fit()
    other = Run(rows, tmp_path / "other")
    other.data.train.seed = 4
    with pytest.raises(ArtifactError, match="checkpoint: seed is 3, this run has 4"):
        other.fit(checkpoint)
